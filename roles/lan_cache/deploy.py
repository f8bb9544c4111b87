"""Deploy of the lan_cache role."""

from __future__ import annotations

from pyinfra.api import deploy

from roles.common.operations import TextFile, Unit, file_set, units
from roles.common.systemd import unit_path
from roles.lan_cache.operations import programs
from roles.lan_cache.options import LanCacheOptions
from roles.lan_cache.units import (
    CONFIG,
    IMAGES,
    PREPARE,
    REFRESH,
    REGISTRY_CONFIG,
    SCRIPT,
    TIMER,
    UNIT,
    nginx_config,
    registry_config,
    unit,
)


@deploy("LAN cache")
def deploy_lan_cache(options: LanCacheOptions, models_directory: str, lock_timeout_seconds: int | None = None) -> None:
    """
    Have the cache run for the other hosts.

    + models_directory: where this host's own models are
    + lock_timeout_seconds: how long to wait for another package manager; None for what the host's apt is set to
    """
    images = options.present and options.images is not None
    if options.present:
        services = {"ca-certificates": None, "nginx": "nginx.service"}
        services |= {"docker-registry": "docker-registry.service"} if images else {}
        programs(name="Install the servers", services=services, lock_timeout_seconds=lock_timeout_seconds)
    if gone := [*([] if options.present else [TIMER, UNIT]), *([] if images else [IMAGES])]:
        units(name="Stop what is not wanted", units=[Unit(name, present=False) for name in gone])
    file_set(name="Write the units", files=files(options, models_directory))
    if options.present:
        wanted = [Unit(UNIT, (unit_path(UNIT), CONFIG, SCRIPT)), Unit(TIMER, (unit_path(TIMER),))]
        wanted += [Unit(IMAGES, (unit_path(IMAGES), REGISTRY_CONFIG))] if images else []
        units(name="Run the cache", units=wanted)


def files(options: LanCacheOptions, models_directory: str) -> dict[str, TextFile | None]:
    """Return every file of this role: path on the host -> what shall stand there."""
    images = options.present and options.images is not None
    wanted: dict[str, TextFile | None] = dict.fromkeys((SCRIPT, CONFIG, *map(unit_path, (UNIT, REFRESH, TIMER))))
    wanted |= dict.fromkeys((REGISTRY_CONFIG, unit_path(IMAGES)))
    if options.present:
        wanted |= {SCRIPT: TextFile(PREPARE), CONFIG: TextFile(nginx_config(options, models_directory))}
        wanted |= {unit_path(name): TextFile(unit(name, options, models_directory)) for name in (UNIT, REFRESH, TIMER)}
    if images:
        wanted |= {
            REGISTRY_CONFIG: TextFile(registry_config(options)),
            unit_path(IMAGES): TextFile(unit(IMAGES, options, models_directory)),
        }
    return wanted
