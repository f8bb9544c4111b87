"""Where the cache gets what it does not have: pure functions of the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from roles.common.mirror import presets
from roles.lan_cache.options import ARCHIVES, LanCacheOptions

RUN = "/run/lan-cache"


@dataclass(frozen=True)
class Upstream:
    """A server outside, and which of its paths are behind which of ours."""

    group: str
    """Upstreams of one group have the same files: the first that answers is used."""
    number: int
    url: str
    paths: tuple[tuple[str, str], ...]
    """Our path -> its path, both with a slash at each end; what stands first is looked at first."""

    @property
    def socket(self) -> str:
        """Where nginx speaks to itself as if it were this server: there each has paths and headers of its own."""
        return f"{RUN}/{self.group}-{self.number}.sock"

    @property
    def scheme(self) -> str:
        """http or https."""
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        """Name or address, as it stands in a URL."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def name(self) -> str:
        """Name or address, for a certificate."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port."""
        return urlsplit(self.url).port or (443 if self.scheme == "https" else 80)

    @property
    def addresses(self) -> str:
        """What nginx calls the addresses of this name, which the unit looks up."""
        return f"{self.name.replace(':', '_')}_{self.port}"


def upstreams(options: LanCacheOptions) -> list[Upstream]:
    """Return all servers that packages come from."""
    found: list[Upstream] = []
    for name, sources in (options.apt.upstreams if options.apt else {}).items():
        urls = _urls(sources, ARCHIVES.get(name, ""))
        found += [Upstream(f"archive-{name}", n, url, ((f"/{name}/", _path(url)),)) for n, url in enumerate(urls)]
    if options.pypi:
        for number, url in enumerate(_urls(options.pypi.upstreams, "pypi")):
            # A mirror's pages lead to files by ../../: they lie beside the directory of the pages.
            beside = _path(url.rpartition("/")[0])
            paths = (("/pypi/simple/", _path(url)), ("/pypi/", beside))
            found.append(Upstream("pypi", number, url, paths))
        for number, url in enumerate(options.pypi.files_urls):
            group = f"pypi-files-{number}"
            found.append(Upstream(group, 0, url, ((f"/pypi/files/{number}/", _path(url)),)))
    return found


def groups(found: Sequence[Upstream]) -> dict[str, list[Upstream]]:
    """Return upstreams by group, in order."""
    return {name: [one for one in found if one.group == name] for name in dict.fromkeys(one.group for one in found)}


def lookups(found: Sequence[Upstream]) -> list[str]:
    """Return each name to look up, once: ``what nginx calls it=name:port``."""
    return list(dict.fromkeys(f"{one.addresses}={one.name}:{one.port}" for one in found))


def _urls(sources: Sequence[str], key: str) -> list[str]:
    return [(source if "://" in source else str(getattr(presets()[source], key))).rstrip("/") for source in sources]


def _path(url: str) -> str:
    return f"{urlsplit(url).path.rstrip('/')}/"
