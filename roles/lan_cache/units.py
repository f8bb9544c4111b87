"""Text of the cache's units and of what they read: pure functions of the options."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from roles.common.rendering import templates
from roles.common.systemd import exec_line
from roles.lan_cache.options import LanCacheOptions
from roles.lan_cache.upstreams import RUN, groups, lookups, upstreams

UNIT = "lan-cache.service"
REFRESH = "lan-cache-refresh.service"
TIMER = "lan-cache-refresh.timer"
IMAGES = "lan-cache-images.service"
SYSTEM = "/etc/systemd/system"
CONFIG = "/etc/metal2model/lan_cache/nginx.conf"
REGISTRY_CONFIG = "/etc/metal2model/lan_cache/registry.yml"
REGISTRY_SOCKET = "/run/lan-cache-images/registry.sock"
SCRIPT = "/opt/metal2model/lan_cache/prepare.sh"
USER = "www-data"
"""Every Debian has it, for what serves pages; nginx runs as nothing else, its first process included."""
PREPARE = (Path(__file__).parent / "files" / "prepare.sh").read_text()
TEMPLATES = templates(__file__)
TEMPLATES.filters["regex"] = re.escape


@dataclass(frozen=True)
class Zone:
    """A directory of cached files."""

    name: str
    inactive: str
    """How long what nobody asks for stays, as nginx spells it."""
    max_gib: int | None


def zones(options: LanCacheOptions) -> list[Zone]:
    """Return the directories that nginx keeps files in."""
    stores = {"apt": options.apt, "pypi": options.pypi}
    found = [Zone(name, f"{one.keep_days}d", one.max_gib) for name, one in stores.items() if one]
    # The registry keeps blobs itself; here they are for those who ask while one is coming.
    return [*found, *([Zone("blobs", "1h", None)] if options.images else [])]


def nginx_config(options: LanCacheOptions, models_directory: str) -> str:
    """Return nginx's configuration."""
    found = upstreams(options)
    archives = list(options.apt.upstreams) if options.apt else []
    offers = {"pypi/simple": options.pypi, "v2": options.images, "models": options.models}
    return TEMPLATES.get_template("nginx.conf.j2").render(
        run=RUN,
        store=store(options),
        zones=zones(options),
        min_free_gib=options.min_free_gib,
        groups=groups(found),
        archives=archives,
        pypi=options.pypi,
        images=options.images,
        registry_socket=REGISTRY_SOCKET,
        models=models_directory if options.models else None,
        address=f"[{options.listen}]" if ":" in options.listen else options.listen,
        port=options.port,
        # From itself it is asked by verify.
        allow=["127.0.0.0/8", "::1", *([] if options.everywhere else [options.listen]), *options.allow],
        offers=[f"/{name}/" for name in archives] + [f"/{name}/" for name, on in offers.items() if on],
    )


def registry_config(options: LanCacheOptions) -> str:
    """Return the registry's configuration."""
    assert options.images  # asked for by no one else
    return TEMPLATES.get_template("registry.yml.j2").render(
        directory=options.directory, registry_socket=REGISTRY_SOCKET, upstream=options.images.upstream
    )


def unit(name: str, options: LanCacheOptions, models_directory: str) -> str:
    """Return the text of one of the units."""
    return TEMPLATES.get_template(f"{name}.j2").render(
        directory=options.directory,
        store=store(options),
        script=SCRIPT,
        config=REGISTRY_CONFIG if name == IMAGES else CONFIG,
        user=USER,
        lookups=exec_line(lookups(upstreams(options))),
        models=models_directory if options.models else None,
        # A port of these is for root, or for who has this (capabilities(7)).
        capabilities="CAP_NET_BIND_SERVICE" if name == UNIT and options.port < 1024 else "",
    )


def store(options: LanCacheOptions) -> str:
    """Return the directory that is nginx's own."""
    return f"{options.directory}/packages"


def unit_file(name: str) -> str:
    """Return the path of a unit."""
    return f"{SYSTEM}/{name}"
