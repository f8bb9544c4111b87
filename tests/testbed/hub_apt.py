"""Apt archives: Debian's own through a cache, and Debian bookworm presented as Ubuntu noble.

Noble's other components hold the stand-ins of stand_ins.py: kernels and drivers that Debian has not, or not so.

Which mirror Debian comes from is found on this machine when the hub starts. Where the machine is an Ubuntu with noble's
own archive, that one is passed through instead of the presentation.
"""

import datetime
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from tests.testbed import images, keys
from tests.testbed.hub_cache import Cache
from tests.testbed.hub_drivers import Noble
from tests.testbed.hub_http import Answer, Asked, text_answer

CHINESE_MIRRORS = (
    "mirrors.tuna.tsinghua.edu.cn",
    "mirrors.ustc.edu.cn",
    "mirrors.aliyun.com",
    "mirrors.huaweicloud.com",
)
UBUNTU_HOSTS = ("archive.ubuntu.com", "security.ubuntu.com", *CHINESE_MIRRORS)
# A new index is seen this late; the hosts of a bed all see the same one meanwhile.
INDEX_FRESH_SECONDS = 600
# https://wiki.debian.org/DebianRepository/Format: Suite is the pocket, Codename (for Ubuntu) the release.
POCKETS = {
    "noble": ("debian", "bookworm"),
    "noble-updates": ("debian", "bookworm-updates"),
    "noble-security": ("security", "bookworm-security"),
    "noble-backports": (None, ""),
}


@dataclass(frozen=True)
class Upstream:
    """Base URLs of the archives that this machine may use, by their names here; without a slash at the end."""

    archives: dict[str, str]

    @property
    def hosts(self) -> set[str]:
        """Name their hosts."""
        return {host for url in self.archives.values() if (host := urlsplit(url).hostname)}


def find_upstream(state_dir: Path) -> Upstream:
    """Take the mirrors which the base trees come from: of this machine's apt sources, else of mmdebstrap's choice."""
    archives = {}
    debian = images.mirror_of("bookworm")
    for tree in sorted((state_dir / "images").glob("bookworm-*")) if debian is None else ():
        if (tree / "etc/apt/sources.list").exists():
            debian = images._mirror_in(tree, "bookworm")
    if debian:
        archives = {"debian": debian.archive, "security": debian.security}
    if ubuntu := images.real_ubuntu():
        archives |= {"ubuntu": ubuntu.archive, "ubuntu-security": ubuntu.security}
    return Upstream({name: url.rstrip("/") for name, url in archives.items() if url})


class Apt:
    """Everything under /debian, /debian-security and /ubuntu."""

    def __init__(self, cache: Cache, upstream: Upstream, state_dir: Path) -> None:
        self.cache = cache
        self.upstream = upstream
        self.state_dir = state_dir
        self.stand_ins = Noble()

    @property
    def names(self) -> set[str]:
        """Name the hosts that carry archives."""
        return {*UBUNTU_HOSTS, *self.upstream.hosts}

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for an archive's path; None when the path is none."""
        for archive, base in self.upstream.archives.items():
            parts = urlsplit(base)
            if asked.host == parts.hostname and asked.path.startswith(f"{parts.path}/"):
                return await self._proxied(archive, asked.path.removeprefix(f"{parts.path}/"))
        top, _, rest = asked.path.lstrip("/").partition("/")
        if top in ("debian", "debian-security"):
            return await self._proxied("debian" if top == "debian" else "security", rest)
        if top != "ubuntu" or asked.host not in UBUNTU_HOSTS:
            return None
        if "ubuntu" in self.upstream.archives:
            return await self._proxied("ubuntu-security" if asked.host.startswith("security.") else "ubuntu", rest)
        return self.stand_ins.answer(rest) or await self._ubuntu(rest)

    async def _proxied(self, archive: str, rest: str) -> Answer:
        base = self.upstream.archives.get(archive)
        if base is None:
            return text_answer(f"this machine's apt sources name no mirror with the {archive} archive\n", 502)
        # A file of the pool and a file named by its hash never change.
        fresh = None if rest.startswith("pool/") or "/by-hash/" in rest else INDEX_FRESH_SECONDS
        return await self.cache.get(f"{base}/{rest}", f"{archive}/{rest}", fresh)

    async def _ubuntu(self, rest: str) -> Answer:
        if rest.startswith("pool/"):
            # bookworm-security's own index says pool/updates/...; nothing else does.
            return await self._proxied("security" if rest.startswith("pool/updates/") else "debian", rest)
        match = re.fullmatch(r"dists/([\w-]+)/(.+)", rest)
        if not match or match[1] not in POCKETS:
            return text_answer("not found\n", 404)
        pocket, name = match[1], match[2]
        archive, suite = POCKETS[pocket]
        if name in ("Release", "Release.gpg", "InRelease"):
            return await self._release(pocket, name)
        if archive and re.fullmatch(r"main/binary-amd64/(Packages(\.xz|\.gz)|by-hash/\w+/[0-9a-f]+)", name):
            return await self._proxied(archive, f"dists/{suite}/{name}")
        if name == "main/binary-amd64/Packages":
            return text_answer("")
        return text_answer("not found\n", 404)

    async def _release(self, pocket: str, name: str) -> Answer:
        archive, suite = POCKETS[pocket]
        theirs = ""
        if archive:
            answer = await self._proxied(archive, f"dists/{suite}/Release")
            if answer.status != 200:
                return answer
            theirs = b"".join([piece async for piece in answer.body.read(0, answer.body.size)]).decode()
        release, created = noble_release(pocket, theirs, self.stand_ins.indexes[pocket])
        key = keys.archive_key(self.state_dir)
        if name == "Release":
            content = release.encode()
        elif name == "InRelease":
            content = keys.clear_sign(key, release, created)
        else:
            content = keys.detached_signature(key, release.encode(), created)
        # Dated, so that apt's second update is a Hit.
        return replace(text_answer(content.decode()), modified=created)


def noble_release(pocket: str, theirs: str, ours: Mapping[str, bytes]) -> tuple[str, int]:
    """Write the Release file of a pocket of noble over the indexes that Debian's Release (`theirs`) lists, and ours.

    Only what apt needs to install binary packages is listed, so that an update fetches nothing else.
    """
    date = re.search(r"(?m)^Date: (.*)$", theirs)
    when = parsedate_to_datetime(date[1]) if date else datetime.datetime(2024, 4, 25, 15, 10, 33, tzinfo=datetime.UTC)
    lines = [
        "Origin: Ubuntu",
        "Label: Ubuntu",
        f"Suite: {pocket}",
        "Version: 24.04",
        "Codename: noble",
        f"Date: {when:%a, %d %b %Y %H:%M:%S} UTC",
        "Architectures: amd64",
        "Components: main restricted universe multiverse",
        f"Description: {pocket} of the metal2model test bed (content of Debian bookworm)",
        "Acquire-By-Hash: yes",
    ]
    if pocket == "noble-backports":
        lines += ["NotAutomatic: yes", "ButAutomaticUpgrades: yes"]
    listed = re.findall(r"(?m)^ ([0-9a-f]{64}) +(\d+) (main/binary-amd64/Packages(?:\.xz|\.gz)?)$", theirs)
    contents = dict(ours) if listed else {"main/binary-amd64/Packages": b"", **ours}
    listed += [(hashlib.sha256(content).hexdigest(), str(len(content)), path) for path, content in contents.items()]
    lines += ["SHA256:", *(f" {digest} {size:>10} {path}" for digest, size, path in listed)]
    # gpgv refuses a signature from the future, and an archive is dated ahead of a machine whose clock is behind.
    return "\n".join(lines) + "\n", int(when.timestamp())
