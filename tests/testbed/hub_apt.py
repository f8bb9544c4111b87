"""Apt archives: Debian's own through a cache, and Debian bookworm presented as Ubuntu noble.

Which mirror Debian comes from is read from this machine's own apt sources when the hub starts.
"""

import datetime
import hashlib
import re
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from tests.testbed import keys
from tests.testbed.hub_cache import Cache
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
COMPONENTS = ("main", "restricted", "universe", "multiverse")
# https://wiki.debian.org/DebianRepository/Format: Suite is the pocket, Codename (for Ubuntu) the release.
POCKETS = {
    "noble": ("debian", "bookworm"),
    "noble-updates": ("debian", "bookworm-updates"),
    "noble-security": ("security", "bookworm-security"),
    "noble-backports": (None, ""),
}


@dataclass(frozen=True)
class Upstream:
    """Base URLs of this machine's Debian archive and of its security archive."""

    debian: str
    security: str

    @property
    def hosts(self) -> set[str]:
        """Name the hosts of both."""
        return {host for url in (self.debian, self.security) if (host := urlsplit(url).hostname)}


def find_upstream(etc_apt: Path = Path("/etc/apt")) -> Upstream | None:
    """Read this machine's apt sources (sources.list(5), both formats); None where they name no Debian archive."""
    found: list[tuple[str, str]] = []
    lists = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        for line in path.read_text().splitlines() if path.exists() else ():
            if match := re.match(r"deb\s+(?:\[[^]]*\]\s*)?(https?://\S+)\s+(\S+)", line.strip()):
                found.append((match[1], match[2]))
    for path in sorted((etc_apt / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"(?m)^(\w[\w-]*):[ \t]*(.*)$", stanza))
            if "deb" not in fields.get("Types", "").split() or fields.get("Enabled", "yes").strip() == "no":
                continue
            for uri in fields.get("URIs", "").split():
                if uri.startswith("http"):
                    found += [(uri, suite) for suite in fields.get("Suites", "").split()]
    archives = [(uri.rstrip("/"), suite) for uri, suite in found if "debian" in urlsplit(uri).path]
    main = next((uri for uri, suite in archives if not suite.endswith(("-security", "/updates"))), None)
    if main is None:
        return None
    security = next((uri for uri, suite in archives if suite.endswith("-security")), f"{main}-security")
    return Upstream(main, security)


class Apt:
    """Everything under /debian, /debian-security and /ubuntu."""

    def __init__(self, cache: Cache, upstream: Upstream | None, state_dir: Path) -> None:
        self.cache = cache
        self.upstream = upstream
        self.state_dir = state_dir

    @property
    def names(self) -> set[str]:
        """Name the hosts that carry archives."""
        return {*UBUNTU_HOSTS, *(self.upstream.hosts if self.upstream else ())}

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for an archive's path; None when the path is none."""
        if self.upstream is None:
            return None
        for archive, base in (("debian", self.upstream.debian), ("security", self.upstream.security)):
            parts = urlsplit(base)
            if asked.host == parts.hostname and asked.path.startswith(f"{parts.path}/"):
                return await self._debian(archive, asked.path.removeprefix(f"{parts.path}/"))
        top, _, rest = asked.path.lstrip("/").partition("/")
        if top not in ("debian", "debian-security", "ubuntu"):
            return None
        if top == "ubuntu":
            return await self._ubuntu(rest) if asked.host in UBUNTU_HOSTS else text_answer("not found\n", 404)
        return await self._debian("debian" if top == "debian" else "security", rest)

    async def _debian(self, archive: str, rest: str) -> Answer:
        assert self.upstream is not None
        base = self.upstream.debian if archive == "debian" else self.upstream.security
        # A file of the pool and a file named by its hash never change.
        fresh = None if rest.startswith("pool/") or "/by-hash/" in rest else INDEX_FRESH_SECONDS
        return await self.cache.get(f"{base}/{rest}", f"{archive}/{rest}", fresh)

    async def _ubuntu(self, rest: str) -> Answer:
        if rest.startswith("pool/"):
            # bookworm-security's own index says pool/updates/...; nothing else does.
            return await self._debian("security" if rest.startswith("pool/updates/") else "debian", rest)
        match = re.fullmatch(r"dists/([\w-]+)/(.+)", rest)
        if not match or match[1] not in POCKETS:
            return text_answer("not found\n", 404)
        pocket, name = match[1], match[2]
        archive, suite = POCKETS[pocket]
        if name in ("Release", "Release.gpg", "InRelease"):
            return await self._release(pocket, name)
        if archive and re.fullmatch(r"main/binary-amd64/(Packages(\.xz|\.gz)|by-hash/\w+/[0-9a-f]+)", name):
            return await self._debian(archive, f"dists/{suite}/{name}")
        if re.fullmatch(rf"({'|'.join(COMPONENTS)})/binary-amd64/Packages", name):
            return text_answer("")
        return text_answer("not found\n", 404)

    async def _release(self, pocket: str, name: str) -> Answer:
        archive, suite = POCKETS[pocket]
        theirs = ""
        if archive and self.upstream:
            base = self.upstream.debian if archive == "debian" else self.upstream.security
            file = f"dists/{suite}/Release"
            content = await self.cache.whole(f"{base}/{file}", f"{archive}/{file}", INDEX_FRESH_SECONDS)
            if content is None:
                return text_answer(f"the Debian archive has no {suite}\n", 502)
            theirs = content.decode()
        release, created = noble_release(pocket, theirs)
        key = keys.archive_key(self.state_dir)
        if name == "Release":
            content = release.encode()
        elif name == "InRelease":
            content = keys.clear_sign(key, release, created)
        else:
            content = keys.detached_signature(key, release.encode(), created)
        # Dated, so that apt's second update is a Hit.
        return replace(text_answer(content.decode()), modified=created)


def noble_release(pocket: str, theirs: str) -> tuple[str, int]:
    """Write the Release file of a pocket of noble over the indexes that Debian's Release (`theirs`) lists.

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
        f"Components: {' '.join(COMPONENTS)}",
        f"Description: {pocket} of the metal2model test bed (content of Debian bookworm)",
        "Acquire-By-Hash: yes",
    ]
    if pocket == "noble-backports":
        lines += ["NotAutomatic: yes", "ButAutomaticUpgrades: yes"]
    listed = re.findall(r"(?m)^ ([0-9a-f]{64}) +(\d+) (main/binary-amd64/Packages(?:\.xz|\.gz)?)$", theirs)
    nothing = hashlib.sha256().hexdigest()
    empty = [component for component in COMPONENTS if component != "main" or not listed]
    listed += [(nothing, "0", f"{component}/binary-amd64/Packages") for component in empty]
    lines += ["SHA256:", *(f" {digest} {size:>10} {path}" for digest, size, path in listed)]
    # gpgv refuses a signature from the future, and an archive is dated ahead of a machine whose clock is behind.
    return "\n".join(lines) + "\n", int(when.timestamp())
