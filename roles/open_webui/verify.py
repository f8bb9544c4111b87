"""What "works" means for the open_webui role."""

from __future__ import annotations

from roles.common.endpoint import Endpoint
from roles.common.engine import reachable
from roles.open_webui.options import OpenWebuiOptions
from roles.open_webui.units import PASSWORD, UNIT

UNITS = UNIT
"""What the names of this role's units are like."""


def endpoints(options: OpenWebuiOptions) -> list[Endpoint]:
    """Return the page that must answer on this host."""
    if not options.present:
        return []
    return [
        Endpoint(
            name="open_webui",
            unit=UNIT,
            url=f"http://{reachable(options.host)}:{options.port}",
            listens=options.host,
            ready_timeout_seconds=options.ready_timeout_seconds,
            notes=(f"log in: {options.admin_email}, first password in {PASSWORD} on the host",),
        )
    ]
