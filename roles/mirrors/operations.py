"""Choosing mirrors that answer, and writing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.common.apt import apt_script
from roles.common.bundle import PREFIX
from roles.common.mirror import Mirror, mirror_named
from roles.common.operations import Commands
from roles.mirrors.facts import CHOSEN, EXPIRY, PIP, STATE, UV, HostSources, MirrorProbes, MirrorState, packed
from roles.mirrors.options import UPSTREAM
from roles.mirrors.sources import (
    KEPT,
    entries,
    index_urls,
    is_archive,
    mirrored,
    moved,
    original,
    probe_files,
)

SWITCH = (Path(__file__).parent / "files" / "switch.sh").read_text()
MARK = "Written by metal2model, role mirrors"
UNCHECKED = "Acquire::Check-Valid-Until"
"""The setting of apt's without which lists of a bundle are good for a week, see `expiry`."""


@dataclass
class Change:
    """What is to be written: nothing, or all of it or none."""

    sources: dict[str, str] = field(default_factory=dict)
    """Path -> new text of a file of apt's."""
    keep: dict[str, str] = field(default_factory=dict)
    """Path -> text that ``upstream`` shall bring back."""
    indexes: list[str] = field(default_factory=list)
    """URLs of the InRelease files that apt must take afterwards."""
    files: dict[str, str | None] = field(default_factory=dict)
    """Path -> new text of a file beside apt's sources, None to remove it."""
    chosen: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Topic -> its new lines in `CHOSEN`."""
    label: str = ""
    alternatives: list[Change] = field(default_factory=list)
    """The same for candidates after the first good one, should apt fail to use that after all."""


@operation()
def mirrors_in_use(
    apt: Sequence[str] | None,
    security: bool,
    pypi: Sequence[str] | None,
    timeout_seconds: int,
    lock_timeout_seconds: int | None = None,
) -> Commands:
    """
    Take packages from the first mirror that answers, and keep to it until it stops answering.

    + apt: names or URLs of mirrors of the distribution's archive, ``upstream`` alone for the original; None to leave it
    + security: move the security pocket, too
    + pypi: the same for the index of pip and uv
    + timeout_seconds: how long a candidate may be silent
    + lock_timeout_seconds: how long to wait for another package manager; None for what the host's apt is set to

    One remote command when the mirrors in use answer and nothing else is to do; that command asks them. Everything is
    probed before anything is written. apt fetches its indexes from a copy of the sources, which then replaces them.
    """
    topics = [topic for topic, names in (("apt", apt), ("pypi", pypi)) if names is not None]
    if not topics:
        host.noop("the host keeps what it has")
        return
    state: HostSources = host.get_fact(MirrorState, topics=topics, timeout_seconds=timeout_seconds)
    problems: list[str] = []
    change = Change()
    to_probe: dict[str, list[Mirror]] = {}
    if apt is not None:
        problems += apt_problems(state, apt)
        if list(apt) == [UPSTREAM]:
            restore_apt(state, change)
        elif not problems and not apt_rests(state, apt, security):
            to_probe["apt"] = [mirror_named(name) for name in apt]
    if pypi is not None:
        problems += pypi_problems(state, pypi)
        if list(pypi) == [UPSTREAM]:
            restore_pypi(state, change)
        elif not problems and not pypi_rests(state, pypi):
            to_probe["pypi"] = [mirror_named(name) for name in pypi]
    if to_probe and not problems:
        problems += choose(
            state, to_probe, security=security, apt=apt or (), pypi=pypi or (), seconds=timeout_seconds, change=change
        )
    if problems:
        lines = [QuoteString(f"{host.name}: {problem}") for problem in problems]
        yield StringCommand(r"printf '%s\n'", *lines, ">&2; exit 1")
    elif change.sources or change.files or recorded(state, change) != list(state.chosen):
        yield apt_script(switch_script(state, change), lock_timeout_seconds=lock_timeout_seconds)
    else:
        host.noop("the mirrors in use answer")


def originals(state: HostSources) -> dict[str, str]:
    """Return apt's sources without any mirror of ours."""
    written = set(state.values("apt.written"))
    return {path: original(path, text, state.kept.get(path), written) for path, text in state.apt_files.items()}


def apt_problems(state: HostSources, names: Sequence[str]) -> list[str]:
    """Return why apt's sources cannot be handled at all."""
    release, option = state.release, option_of("apt", names)
    if release.distribution not in ("ubuntu", "debian") or not release.codename:
        found = f"{release.distribution or 'an unknown distribution'} {release.codename}".strip()
        return [
            f"{option}: the host runs {found}; mirrors are known for Ubuntu and Debian releases with a codename "
            "in /etc/os-release; leave the option out for this host"
        ]
    if list(names) == [UPSTREAM]:
        return []
    for path, text in originals(state).items():
        if any(is_archive(path, entry, release) for entry in entries(path, text)):
            return []
    looked = ", ".join(state.apt_files) or "no file at all"
    return [
        f"{option}: found no enabled entry of the archive of {release.distribution} {release.codename} in apt's "
        f"sources ({looked}), so there is nothing to point anywhere else; an entry counts when its suites are of "
        f"{release.codename} and it is signed by the archive's keyring: add one, or leave the option out"
    ]


def apt_rests(state: HostSources, names: Sequence[str], security: bool) -> bool:
    """Whether apt uses a mirror chosen from these very candidates, which just answered."""
    if state.values("apt.wanted") != [wanted(names, security)] or "apt" in state.dead:
        return False
    mirror = mirror_named(state.value("apt.mirror"))
    return not expiry(state, mirror.name) and all(
        mirrored(path, text, state.release, mirror, security) == state.files[path]
        for path, text in originals(state).items()
    )


def expiry(state: HostSources, mirror: str) -> dict[str, str | None]:
    """
    Return what is to become of `EXPIRY` for a mirror's sake.

    Debian's security updates are signed for a week (Valid-Until in their Release file), and a bundle stays as it is;
    who serves it decides how old it may grow. Of signatures, nothing is checked less: apt.conf(5),
    Acquire::Check-Valid-Until.
    """
    text = f'// {MARK}, for mirrors/all: a bundle does not change, so its lists expire.\n{UNCHECKED} "false";\n'
    new = text if mirror.startswith(PREFIX) else None
    return {} if state.files.get(EXPIRY) == new else {EXPIRY: new}


def wanted(names: Sequence[str], security: bool) -> str:
    """Line by which a later run sees whether the candidates are still the same."""
    return " ".join([*names, *(["+security"] if security else [])])


def restore_apt(state: HostSources, change: Change) -> None:
    """Plan to put apt's sources back."""
    texts = originals(state)
    change.sources = {path: text for path, text in texts.items() if text != state.files[path]}
    change.indexes = new_indexes(state, texts)
    change.files |= expiry(state, UPSTREAM)
    if change.sources or any(key.startswith("apt.") for key, _ in state.chosen):
        change.chosen["apt"] = []
        change.label = UPSTREAM


def new_indexes(state: HostSources, texts: Mapping[str, str]) -> list[str]:
    """Return the InRelease files that new texts make apt fetch, and the present ones do not."""
    before = {url for path, text in state.apt_files.items() for url in index_urls(path, text, state.release)}
    after = (url for path, text in texts.items() for url in index_urls(path, text, state.release))
    return [url for url in dict.fromkeys(after) if url not in before]


def pypi_problems(state: HostSources, names: Sequence[str]) -> list[str]:
    """Return which configuration of pip or uv is somebody else's, and so is not overwritten."""
    if list(names) == [UPSTREAM]:
        return []
    return [
        f"{option_of('pypi', names)}: {path} exists and is not ours; it is not overwritten, because an administrator "
        "may need it: move its settings elsewhere and remove it, or leave the option out for this host"
        for path in (PIP, UV)
        if path in state.files and MARK not in state.files[path]
    ]


def pypi_files(url: str) -> dict[str, str]:
    """Return the configuration of pip and uv for a simple index; both read no drop-ins."""
    note = f"# {MARK}. Change mirrors/pypi in the inventory, not this file.\n"
    # pip passes an index without TLS over, unless it is told to trust it; uv takes what it is given.
    trust = f"trusted-host = {urlsplit(url).netloc}\n" if url.startswith("http://") else ""
    return {
        # https://pip.pypa.io/en/stable/topics/configuration/
        PIP: f"{note}[global]\nindex-url = {url}\n{trust}",
        # https://docs.astral.sh/uv/concepts/configuration-files/
        UV: f'{note}[[index]]\nurl = "{url}"\ndefault = true\n',
    }


def pypi_rests(state: HostSources, names: Sequence[str]) -> bool:
    """Whether pip and uv use an index chosen from these very candidates, which just answered."""
    if state.values("pypi.wanted") != [wanted(names, False)] or "pypi" in state.dead:
        return False
    files = pypi_files(str(mirror_named(state.value("pypi.mirror")).pypi))
    return all(state.files.get(path) == text for path, text in files.items())


def index_page(mirror: Mirror) -> tuple[str, str]:
    """Return a page by which an index is known, and what stands there; a bundle may hold no package at all."""
    if mirror.name.startswith(PREFIX):
        return f"{mirror.pypi}/index.html", "pypi:repository-version"
    return f"{mirror.pypi}/pip/", "pip-[0-9]"


def restore_pypi(state: HostSources, change: Change) -> None:
    """Plan to remove what we wrote for pip and uv."""
    ours = [path for path in (PIP, UV) if MARK in state.files.get(path, "")]
    change.files |= dict.fromkeys(ours)
    if ours or any(key.startswith("pypi.") for key, _ in state.chosen):
        change.chosen["pypi"] = []


def choose(
    state: HostSources,
    candidates: Mapping[str, Sequence[Mirror]],
    *,
    security: bool,
    apt: Sequence[str],
    pypi: Sequence[str],
    seconds: int,
    change: Change,
) -> list[str]:
    """Probe the candidates on the host, plan to write the first good one of each topic, or return why there is none."""
    release, texts = state.release, originals(state)
    refused: dict[str, list[str]] = {topic: [] for topic in candidates}
    apt_tries, pypi_tries = {}, {}
    for mirror in candidates.get("apt", ()):
        if files := probe_files(texts, release, mirror, security):
            apt_tries[mirror.name] = files
        else:
            refused["apt"].append(f"{mirror.name}: has no archive for {release.distribution} on {release.architecture}")
    for mirror in candidates.get("pypi", ()):
        if mirror.pypi:
            pypi_tries[mirror.name] = index_page(mirror)
        else:
            refused["pypi"].append(f"{mirror.name}: has no Python index")
    results = host.get_fact(
        MirrorProbes, apt=apt_tries, pypi=pypi_tries, architecture=release.architecture, timeout_seconds=seconds
    )
    good: dict[str, Mirror] = {}
    for result in results:
        if result.problem:
            refused[result.topic].append(f"{result.name.removeprefix(PREFIX)}: {result.problem.strip()}")
        else:
            good[result.topic] = mirror_named(result.name)
    if "apt" in good:
        plan_apt(state, good["apt"], apt, security, change)
        # A mirror in the middle of a sync has a good index and bad package lists: apt finds out, and goes on.
        for name in list(apt_tries)[list(apt_tries).index(good["apt"].name) + 1 :]:
            plan_apt(state, mirror_named(name), apt, security, other := Change())
            change.alternatives += [other] if other.sources else []
    if "pypi" in good:
        plan_pypi(state, good["pypi"], pypi, change)
    return [
        "\n  ".join(
            [
                f"{option_of(topic, names)}: none of the candidates can be used from this host, and nothing was "
                "changed:",
                *(refused[topic] or ["no answer at all"]),
                f"what to do: {advice(refused[topic], names)}",
            ]
        )
        for topic, names in (("apt", apt), ("pypi", pypi))
        if topic in candidates and topic not in good
    ]


def option_of(topic: str, names: Sequence[str]) -> str:
    """Return the option that chose the candidates."""
    return "mirrors/all" if any(name.startswith(PREFIX) for name in names) else f"mirrors/{topic}"


def advice(reasons: Sequence[str], names: Sequence[str]) -> str:
    """Return what helps, by what the candidates' reasons have in common."""
    text = " ".join(reasons)
    if "No system certificates" in text:
        return (
            "the host has no CA certificates: write the mirror as an http:// URL (apt checks signatures itself), or "
            "install ca-certificates"
        )
    if "not valid yet" in text:
        return "the host's clock is behind: set it, then run again"
    if option_of("", names) == "mirrors/all":
        return (
            "check that the host reaches the bundle; one that was made on a host of another release or architecture, "
            "or with fewer suites in apt's sources, lacks what this one needs: make it again by deploys/bundle.py on a "
            "host like this one"
        )
    return "name other candidates (files/mirrors.yaml lists some), or see to the host's network or proxy"


def plan_apt(state: HostSources, mirror: Mirror, names: Sequence[str], security: bool, change: Change) -> None:
    """Plan to point apt to a mirror."""
    change.files |= expiry(state, mirror.name)
    written = set(state.values("apt.written"))
    checks: set[str] = set()
    local: list[str] = []
    for path, text in originals(state).items():
        for entry, uri in moved(path, text, state.release, mirror, security):
            written.add(uri)
            checks.add(f"{uri}dists/{entry.suites[0]}")
            # A directory on the host is no archive that an administrator would have moved, see `is_archive`.
            if uri.startswith("file://"):
                # apt says it with one slash.
                local += [f"file:{uri[7:]}dists/{suite}/InRelease" for suite in entry.suites]
        new = mirrored(path, text, state.release, mirror, security)
        if new != text:
            change.keep[path] = text
        if new != state.files[path]:
            change.sources[path] = new
    change.indexes = list(dict.fromkeys([*new_indexes(state, change.sources), *local]))
    # One check for each archive tells whether the mirror is alive; every suite of it would cost the run more.
    first = {url.split("dists/")[0]: url for url in sorted(checks, reverse=True)}
    change.chosen["apt"] = [
        ("apt.wanted", wanted(names, security)),
        ("apt.mirror", mirror.name),
        *(("apt.check", f"{url}/Release.gpg {url}/InRelease") for url in sorted(first.values())),
        *(("apt.written", uri) for uri in sorted(written)),
    ]
    change.label = mirror.name


def plan_pypi(state: HostSources, mirror: Mirror, names: Sequence[str], change: Change) -> None:
    """Plan to point pip and uv to an index."""
    wanted_files = pypi_files(str(mirror.pypi))
    change.files |= {path: text for path, text in wanted_files.items() if state.files.get(path) != text}
    change.chosen["pypi"] = [
        ("pypi.wanted", wanted(names, False)),
        ("pypi.mirror", mirror.name),
        ("pypi.check", index_page(mirror)[0]),
    ]


def recorded(state: HostSources, change: Change) -> list[tuple[str, str]]:
    """Return the lines of `CHOSEN` after a change, a topic's lines together."""
    topics = {topic: [pair for pair in state.chosen if pair[0].startswith(f"{topic}.")] for topic in ("apt", "pypi")}
    return [pair for lines in (topics | change.chosen).values() for pair in lines]


def switch_script(state: HostSources, change: Change) -> str:
    """
    Return the script that writes a change: all of it, or nothing when apt cannot use its new sources.

    A run that is killed anywhere in it leaves files that are each old or new, and the record of every URI that we may
    have written: the next run derives the rest.
    """
    lines = [SWITCH]
    tries = [change, *change.alternatives] if change.sources else []
    for number, one in enumerate(tries):
        whole = Change(chosen={**change.chosen, "apt": one.chosen["apt"]})
        lines += [f"use_{number}() {{", *_use(one, _record_text(recorded(state, whole))), "}"]
    if tries:
        lines.append(" || ".join([*(f"use_{number}" for number in range(len(tries))), "exit 1"]))
    for path, new in change.files.items():
        lines.append(f"rm -f {_quote(path)}" if new is None else f"put {packed(new)} {_quote(path)}")
    record = recorded(state, change)
    if not record:
        lines.append(f"rm -f {CHOSEN}")
    elif not tries or not change.chosen["apt"]:
        lines.append(f"put {packed(_record_text(record))} {CHOSEN}")
    if not change.chosen.get("apt", True):
        lines.append(f"rm -rf {KEPT}")
    lines.append(f'rm -rf "$stage"; rmdir {STATE} 2>/dev/null || true')
    return "\n".join(lines)


def _use(change: Change, record: str) -> list[str]:
    """Return the steps by which apt takes new sources: from a copy first, for real when that was good."""
    urls = " ".join(map(_quote, change.indexes))
    label = _quote(change.label)
    # The file that says so comes when apt's sources are in place.
    unchecked = f" -o {UNCHECKED}=false" if change.label.startswith(PREFIX) else ""
    return [
        "begin",
        *(f'put {packed(new)} "$(staged {_quote(path)})"' for path, new in change.sources.items()),
        f"with_staged m2m_apt_get update{unchecked} || [ $? -ne 75 ] || exit 75",
        f'check {label} "$(with_staged apt-get --print-uris update 2>&1)" {urls} || return 1',
        *(f"put {packed(old)} {_quote(KEPT + path)}" for path, old in change.keep.items()),
        *([f"put {packed(record)} {CHOSEN}"] if change.chosen["apt"] else []),
        *(f"before {_quote(path)}" for path in change.sources),
        *(f"put {packed(new)} {_quote(path)}" for path, new in change.sources.items()),
        f'check {label} "$(apt-get --print-uris update 2>&1)" {urls} || {{ put_back; return 1; }}',
    ]


def _record_text(record: Sequence[tuple[str, str]]) -> str:
    return f"# {MARK}: what it chose on this host, so that a run sees whether that still answers.\n" + "".join(
        f"{key} {value}\n" for key, value in record
    )


def _quote(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
