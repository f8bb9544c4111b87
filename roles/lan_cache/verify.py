"""What "works" means for the lan_cache role."""

from __future__ import annotations

from roles.common.endpoint import Endpoint
from roles.common.engine import reachable
from roles.lan_cache.options import LanCacheOptions
from roles.lan_cache.units import IMAGES, UNIT

UNITS = "lan-cache.service"
"""The unit that serves; the others come and go with it."""


def endpoints(options: LanCacheOptions) -> list[Endpoint]:
    """Return what must answer on this host."""
    if not options.present:
        return []
    url = f"http://{reachable(options.listen)}:{options.port}"
    found = [
        Endpoint(
            name="lan_cache",
            unit=UNIT,
            url=url,
            listens=options.listen,
            health_path="/",
            ready_timeout_seconds=60,
        )
    ]
    if options.models:
        found.append(
            Endpoint(
                name="lan_cache/models",
                unit=UNIT,
                url=url,
                listens=options.listen,
                health_path="/models/",
                ready_timeout_seconds=60,
            )
        )
    if options.images:
        found.append(
            Endpoint(
                name="lan_cache/images",
                unit=IMAGES,
                url=url,
                listens=options.listen,
                health_path="/v2/",
                ready_timeout_seconds=120,
            )
        )
    return found
