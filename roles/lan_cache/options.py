"""Options of the lan_cache role."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from roles.common.mirror import presets
from roles.common.options import OptionProblem, Options, Port, did_you_mean, has_login
from roles.common.systemd import hidden_from_units

ARCHIVES = {
    "ubuntu": "ubuntu",
    "ubuntu-ports": "ubuntu_ports",
    "debian": "debian",
    "debian-security": "debian_security",
}
"""Archives that the mirrors of files/mirrors.yaml have -> their key there."""

RESERVED = ("models", "pypi", "v2")
"""First parts of the cache's own addresses."""

_WEB = r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?"
_PLAIN_PATH = r"(/[A-Za-z0-9._~+-]+)+"
_URL = f"{_WEB}({_PLAIN_PATH})?/?"
"""No login, no query, and no sign that means something to nginx."""


def _network(text: str) -> str:
    return str(ip_network(text))


def _address(text: str) -> str:
    return str(ip_address(text))


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
Path = Annotated[str, Field(pattern=f"^{_PLAIN_PATH}$")]
Url = Annotated[str, Field(pattern=f"^{_URL}$")]
Upstreams = Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
ArchiveName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]


class StoreOptions(Options):
    """How much is kept, and how long."""

    max_gib: Annotated[int, Field(ge=1)] = 50
    """Size, in GiB; beyond it, what nobody asked for longest goes first."""

    keep_days: Annotated[int, Field(ge=1)] = 90
    """What nobody asked for in so many days goes."""


class ArchivesOptions(StoreOptions):
    """Archives of Debian packages, for `mirrors/apt` of the other hosts and other options that take a repository."""

    upstreams: Annotated[dict[ArchiveName, Upstreams], Field(min_length=1)]
    """
    Name of an archive -> where it comes from: URLs, or mirrors of files/mirrors.yaml (`tuna`, `ustc`, ...) for
    `ubuntu`, `ubuntu-ports`, `debian` and `debian-security`. Of several, the first that answers. Hosts find it at
    `http://LISTEN:PORT/NAME`; Debian's need `debian` and `debian-security`. Any other name is a repository of its own:
    `{"docker-ce": "https://mirror.example.org/docker-ce"}`.
    """

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name, sources in self.upstreams.items():
            if name in RESERVED:
                raise OptionProblem(f"upstreams/{name}", "the cache has other things under this name; choose another")
            for source in sources:
                _check(source, ARCHIVES.get(name), f"upstreams/{name}")
        return self


class PythonIndexOptions(StoreOptions):
    """The Python package index, for `mirrors/pypi` of the other hosts."""

    upstreams: Upstreams
    """Simple indexes: URLs, or mirrors of files/mirrors.yaml. Of several, the first that answers."""

    files_urls: list[Url] = []
    """
    Where the index's pages lead to, if that is another host than their own: the beginning of their links. The public
    index itself has its files on such a host, and without it here the others would go there themselves; mirrors have
    them beside the pages, and need nothing here.
    """

    index_minutes: Annotated[int, Field(ge=1)] = 10
    """How late a new release may be seen."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for source in self.upstreams:
            _check(source, "pypi", "upstreams")
        return self


class ImagesOptions(Options):
    """Images of containers, for `docker/mirrors` of the other hosts."""

    upstream: Url = "https://registry-1.docker.io"
    """
    Registry that is asked for what is not there. Docker uses mirrors for Docker Hub's images alone. The registry of
    Debian and Ubuntu fetches a new layer twice, for who asks and to keep it; forgets it a week later; and has no limit
    of size: `directory` must have room for a week's images.
    """


class LanCacheOptions(Options):
    """
    A cache for the other hosts of the LAN: each file comes from outside once.

    It speaks HTTP, which anybody in between could change, and hands on what it was given. What arrives is proven where
    it arrives: packages by the archive's signature, Python packages by their hashes, images by their digests, models
    by sha256. (Not so a person's `pip install` without hashes: in a LAN that is not yours, leave `pypi` out.)
    """

    advice: ClassVar[dict[str, str]] = {
        "host": "write listen, an address of this host in the LAN",
        "size": "write max_gib in each of apt and pypi",
        "docker": "write images: {}",
    }

    listen: Address
    """Address of this host in the LAN, by which the others reach it. `0.0.0.0` is every address that it has."""

    port: Port = 8090
    """TCP port, of everything that is cached."""

    allow: list[Network] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
    """Networks whose hosts may ask. The default is what no host in the Internet has."""

    directory: Path = "/srv/lan-cache"
    """Where everything is kept. Give it a disk, or a file system, other than the system's."""

    min_free_gib: Annotated[int, Field(ge=0)] = 5
    """Cached packages give way, whatever `max_gib` says, when less than this is free on the file system."""

    apt: ArchivesOptions | None = None
    pypi: PythonIndexOptions | None = None
    images: ImagesOptions | None = None

    models: bool = False
    """Serve the model files that this host has (`models/directory`), at `/models/PUBLISHER/NAME/FILE`."""

    present: bool = True
    """False: it is stopped and removed. What it kept stays in `directory`; the packages stay installed."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not (self.apt or self.pypi or self.images or self.models):
            raise ValueError("nothing is to be cached; write one or more of apt, pypi, images and models")
        if hidden := hidden_from_units(self.directory):
            raise OptionProblem("directory", f"{hidden} is hidden from services; choose another place")
        return self

    @property
    def everywhere(self) -> bool:
        """Whether it listens on all addresses of the host."""
        return ip_address(self.listen).is_unspecified

    def listeners(self) -> list[tuple[str, int]]:
        """Return the TCP port that this takes on the host, with the path of its option below the role."""
        return [("port", self.port)] if self.present else []


def check_models_directory(path: str) -> None:
    """Refuse a ``models/directory`` that ``models: True`` could not serve."""
    problem = ""
    if hidden := hidden_from_units(path):
        problem = f"{hidden} is hidden from services"
    elif not re.fullmatch(_PLAIN_PATH, path):
        problem = f"{path!r} has signs that mean something to nginx; required are letters, digits and ._~+- alone"
    if problem:
        raise OptionProblem(
            "models/directory", f"{problem}, and lan_cache/models serves it; choose another place, or leave that out"
        )


def _check(source: str, key: str | None, option: str) -> None:
    """Refuse a source that is neither a plain URL nor a mirror that has such an archive."""
    if "://" in source:
        if not re.fullmatch(_URL, source):
            shown = "an address with a login" if has_login(source) else repr(source)
            raise OptionProblem(
                option, f"{shown} is no plain http(s) URL; write it without login, query and signs other than ._~+-"
            )
    elif source not in presets():
        hint = did_you_mean(source, presets())
        raise OptionProblem(option, f"{source!r} is no known mirror{hint}; write {', '.join(presets())}, or a URL")
    elif key is None or getattr(presets()[source], key) is None:
        able = [name for name, mirror in presets().items() if key and getattr(mirror, key)]
        names = ", ".join(able) or "none of files/mirrors.yaml"
        raise OptionProblem(option, f"{source!r} has no such archive that is known here; known: {names}; write a URL")
