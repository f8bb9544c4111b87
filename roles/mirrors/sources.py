"""apt's sources as text: which entries are the distribution's own, and how they point to a mirror. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from roles.common.mirror import Mirror

KEPT = "/var/lib/metal2model/mirrors/original"
"""Below it stand the sources as they were, under their own paths; apt does not look there."""

OWN_FILES = {
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/ubuntu.sources",
    "/etc/apt/sources.list.d/debian.sources",
}
"""Where an entry without Signed-By may be the distribution's; elsewhere it is somebody's repository."""

POCKETS = ("", "-updates", "-backports", "-backports-sloppy", "-proposed", "-proposed-updates", "-security", "/updates")
SYMBOLIC = {"ubuntu": ("devel",), "debian": ("stable", "oldstable", "oldoldstable", "testing")}
ROLLING = {"ubuntu": (), "debian": ("sid", "unstable", "experimental")}
COMPONENTS = {
    "ubuntu": {"main", "restricted", "universe", "multiverse"},
    "debian": {"main", "contrib", "non-free", "non-free-firmware"},
}
KEYRINGS = {"ubuntu": "ubuntu-archive-", "debian": "debian-archive-"}
"""How the names of the archive keyrings begin (packages ubuntu-keyring, debian-archive-keyring)."""

ONE_LINE = re.compile(
    r"^[ \t]*(?P<type>deb|deb-src)[ \t]+(?:\[(?P<options>[^]\n]*)\][ \t]*)?"
    r"(?P<uri>[^\s#\[]\S*)[ \t]+(?P<suite>[^\s#]+)(?P<components>[^#\n]*)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Release:
    """Which distribution a host runs."""

    distribution: str
    """``ID`` of os-release(5): ubuntu, debian."""
    codename: str
    architecture: str
    """As dpkg spells it: amd64, arm64."""

    def __str__(self) -> str:
        """As a person says it."""
        return f"{self.distribution} {self.codename} {self.architecture}"

    @property
    def ports(self) -> bool:
        """Whether Ubuntu serves this architecture from its ports archive, which has all pockets on one host."""
        return self.distribution == "ubuntu" and self.architecture not in ("amd64", "i386")


@dataclass(frozen=True)
class Entry:
    """One line of sources.list(5), or one stanza of a .sources file."""

    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str
    enabled: bool
    start: int
    """Where the value of its URIs begins in the text of the file."""
    end: int
    block: tuple[int, int]
    """Where the whole entry stands in the text."""

    @property
    def security(self) -> bool:
        """Whether it lists the security pocket and nothing else."""
        return all(suite.endswith(("-security", "/updates")) for suite in self.suites)


def entries(path: str, text: str) -> Iterator[Entry]:
    """Read the entries of a file of apt's sources; comments and what apt would not understand are skipped."""
    return _stanzas(text) if path.endswith(".sources") else _lines(text)


def _lines(text: str) -> Iterator[Entry]:
    for match in ONE_LINE.finditer(text):
        options = dict(
            (key.rstrip("+-").lower(), value)
            for key, separator, value in (word.partition("=") for word in (match["options"] or "").split())
            if separator
        )
        yield Entry(
            types=(match["type"],),
            uris=(match["uri"],),
            suites=(match["suite"],),
            components=tuple(match["components"].split()),
            signed_by=options.get("signed-by", ""),
            enabled=True,
            start=match.start("uri"),
            end=match.end("uri"),
            block=(match.start(), match.end()),
        )


def _stanzas(text: str) -> Iterator[Entry]:
    for stanza in re.finditer(r"(?:^[^\n]*\S[^\n]*(?:\n|\Z))+", text, re.MULTILINE):
        values: dict[str, list[str]] = {}
        spans: dict[str, tuple[int, int]] = {}
        name = ""
        for line in re.finditer(r"[^\n]+", stanza[0]):
            content = line[0]
            if content.startswith("#"):
                continue
            if content[0] not in " \t":
                name, separator, content = content.partition(":")
                name = name.strip().lower() if separator else ""
                start = line.start() + len(line[0]) - len(content.lstrip())
                spans[name], values[name] = (start, start), []
            if name:
                values[name].append(content.strip())
                spans[name] = (spans[name][0], max(spans[name][0], line.start() + len(line[0].rstrip())))
        words = {key: tuple(" ".join(lines).split()) for key, lines in values.items()}
        if words.get("types") and words.get("uris") and words.get("suites"):
            start, end = spans["uris"]
            yield Entry(
                types=words["types"],
                uris=words["uris"],
                suites=words["suites"],
                components=words.get("components", ()),
                signed_by="\n".join(values.get("signed-by", [])).strip(),
                enabled=" ".join(words.get("enabled", ("yes",))).lower()
                not in ("no", "false", "without", "off", "disable"),
                start=stanza.start() + start,
                end=stanza.start() + end,
                block=stanza.span(),
            )


def is_archive(path: str, entry: Entry, release: Release) -> bool:
    """
    Whether an entry takes packages from the distribution's own archive.

    Decided by suite and Signed-By, and where that is missing by file and components; never by host name, because an
    installer in China leaves ``cn.archive...`` and an administrator any mirror.
    """
    distribution = release.distribution
    if distribution not in COMPONENTS or not entry.enabled:
        return False
    if any(re.match(r"(cdrom|file|copy):", uri) for uri in entry.uris):
        return False
    bases = (release.codename, *SYMBOLIC[distribution])
    suites = {base + pocket for base in bases for pocket in POCKETS} | set(ROLLING[distribution])
    if not set(entry.suites) <= suites:
        return False
    if entry.signed_by:
        keyring = PurePosixPath(entry.signed_by.split("\n")[0].split(",")[0]).name
        return keyring.startswith(KEYRINGS[distribution])
    # A PPA in sources.list looks the same; Launchpad is nobody's mirror of the archive.
    ppa = any("ppa.launchpad" in uri for uri in entry.uris)
    return path in OWN_FILES and set(entry.components) <= COMPONENTS[distribution] and not ppa


def mirror_uri(entry: Entry, release: Release, mirror: Mirror, security: bool) -> str | None:
    """Return where an entry of the archive shall point, with a trailing slash; None where it stays."""
    if entry.security and not (security or release.ports):
        return None
    if release.distribution == "debian":
        url = mirror.debian_security if entry.security else mirror.debian
    else:
        url = mirror.ubuntu_ports if release.ports else mirror.ubuntu
    return f"{url}/" if url else None


def header(path: str) -> str:
    """Comment at the top of a file whose entries we point to a mirror."""
    return (
        "# metal2model (role mirrors) points entries of this file to a mirror, as mirrors/apt in the inventory says.\n"
        f"# The file as it was: {KEPT}{path} ('mirrors/apt: upstream' puts it back)\n"
    )


def moved(path: str, text: str, release: Release, mirror: Mirror, security: bool) -> list[tuple[Entry, str]]:
    """Return the entries that a mirror shall serve, and the URI of each."""
    chosen = [entry for entry in entries(path, text) if is_archive(path, entry, release)]
    targets = [(entry, mirror_uri(entry, release, mirror, security)) for entry in chosen]
    return [(entry, uri) for entry, uri in targets if uri is not None]


def mirrored(path: str, text: str, release: Release, mirror: Mirror, security: bool) -> str:
    """Return the text of a file with its archive entries pointing to a mirror, everything else byte for byte."""
    changes = [
        (entry, uri)
        for entry, uri in moved(path, text, release, mirror, security)
        if tuple(one.rstrip("/") for one in entry.uris) != (uri.rstrip("/"),)
    ]
    return header(path) + _replaced(text, changes) if changes else text


def original(path: str, current: str, kept: str | None, written: Collection[str]) -> str:
    """
    Return the text of a file without our mirror: what ``upstream`` restores, and what another mirror starts from.

    Exactly what was kept when nobody touched the file since. Where somebody did (a release upgrade, a new entry),
    their text stays, and only URIs that we wrote go back to the kept ones.

    + kept: the text as it was before we first changed it
    + written: every URI that we may have written, with a trailing slash
    """
    body = current.removeprefix(header(path))
    if kept is None:
        return body
    ours = [entry for entry in entries(path, body) if len(entry.uris) == 1 and entry.uris[0] in written]
    if body == current and not ours:
        return body
    origins = list(entries(path, kept))
    untouched = [
        (entry, kept[origin.start : origin.end])
        for entry, origin in zip(entries(path, body), origins, strict=False)
        if entry in ours
    ]
    if _replaced(body, untouched) == kept:
        return kept
    changes = []
    for entry in ours:
        key = (entry.types, entry.suites, entry.components)
        alike = [o for o in origins if (o.types, o.suites, o.components) == key]
        alike += [o for o in origins if (o.security, o.signed_by) == (entry.security, entry.signed_by)]
        if alike:
            changes.append((entry, kept[alike[0].start : alike[0].end]))
    return _replaced(body, changes)


def _replaced(text: str, changes: list[tuple[Entry, str]]) -> str:
    for entry, uri in sorted(changes, key=lambda change: change[0].start, reverse=True):
        text = text[: entry.start] + uri + text[entry.end :]
    return text


def index_urls(path: str, text: str, release: Release) -> list[str]:
    """Return the URL of every InRelease file that the archive entries of a file make apt fetch."""
    return [
        f"{uri.rstrip('/')}/dists/{suite}/InRelease"
        for entry in entries(path, text)
        if is_archive(path, entry, release)
        for uri in entry.uris
        if uri.startswith(("http://", "https://"))
        for suite in entry.suites
    ]


def probe_files(files: Mapping[str, str], release: Release, mirror: Mirror, security: bool) -> dict[str, str]:
    """
    Return sources in which only the entries stand that a mirror shall serve, already pointing to it.

    + files: path -> text of every file of apt's sources, without any mirror of ours
    """
    probes: dict[str, list[str]] = {"probe.list": [], "probe.sources": []}
    for path, text in files.items():
        for entry, uri in moved(path, text, release, mirror, security):
            start, end = entry.block
            block = text[start : entry.start] + uri + text[entry.end : end]
            probes["probe.sources" if path.endswith(".sources") else "probe.list"].append(block.strip("\n") + "\n")
    return {name: "\n".join(blocks) for name, blocks in probes.items() if blocks}
