"""Options of the bundle role."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from roles.common.options import Options


class BundleOptions(Options):
    """Where deploys/bundle.py collects what a host was made from. ``mirrors/all`` takes other hosts' files from it."""

    directory: Annotated[str, Field(pattern=r"^/[^\s'\"]*[^\s'\"/]$")] = "/srv/bundle"
    """Directory on the host, of its own: the distribution's packages and Python's lie there under their archive's name,
    all else under its public address. Models take their size once more, where the file system cannot share it (cp(1),
    ``--reflink``)."""
