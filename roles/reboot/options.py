"""Options of the reboot role."""

from typing import Annotated

from pydantic import Field

from roles.common.options import Options


class RebootOptions(Options):
    """The one reboot of a run: only when a new kernel or driver needs it."""

    allowed: bool = True
    """False: a host that must be rebooted fails, and says so; reboot it yourself and run again."""

    timeout_seconds: Annotated[int, Field(ge=30, le=7200)] = 900
    """How long to wait for a host to come back, in seconds. Servers with much memory test it for minutes."""
