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
    asked = [("lan_cache", UNIT, "/", 60)]
    if options.models:
        asked.append(("lan_cache/models", UNIT, "/models/", 60))
    if options.images:
        asked.append(("lan_cache/images", IMAGES, "/v2/", 120))
    return [
        Endpoint(name=name, unit=unit, url=url, listens=options.listen, health_path=path, ready_timeout_seconds=seconds)
        for name, unit, path, seconds in asked
    ]
