"""What the host's package sources are, and which mirrors answer there."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra.api import FactBase, StringCommand

from roles.mirrors.sources import KEPT, Release

STATE = "/var/lib/metal2model/mirrors"
CHOSEN = f"{STATE}/chosen"
PIP = "/etc/pip.conf"
UV = "/etc/uv/uv.toml"
EXPIRY = "/etc/apt/apt.conf.d/99metal2model-bundle"
"""What lets apt take lists that have expired; last in the order in which apt reads its settings."""
NO_RELEASE = Release("", "", "")
PROBE = (Path(__file__).parent / "files" / "probe.sh").read_text()


@dataclass(frozen=True)
class HostSources:
    """The files that say where a host gets packages from, and whether what we chose for it still answers."""

    release: Release = NO_RELEASE
    files: Mapping[str, str] = field(default_factory=dict)
    """Path -> text: apt's sources, the configuration of pip and uv, and `EXPIRY`."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Path -> text as it was before we first changed it."""
    chosen: tuple[tuple[str, str], ...] = ()
    """Key and value of every line of `CHOSEN`."""
    dead: Mapping[str, str] = field(default_factory=dict)
    """``apt`` or ``pypi`` -> why the chosen mirror did not answer just now."""

    def value(self, key: str) -> str:
        """Return the first value of a key of `CHOSEN`, "" without."""
        return next((value for found, value in self.chosen if found == key), "")

    def values(self, key: str) -> list[str]:
        """Return all values of a key of `CHOSEN`."""
        return [value for found, value in self.chosen if found == key]

    @property
    def apt_files(self) -> dict[str, str]:
        """The files that name apt's sources."""
        return {path: text for path, text in self.files.items() if path.startswith("/etc/apt/sources.list")}


class MirrorState(FactBase[HostSources]):
    """
    Package sources of the host, what we kept and chose, and whether the chosen mirrors answer.

    The check fetches the signature of one index and one page of the Python index, both at a time, with apt's own
    transport: that needs neither curl nor Python on the host.
    """

    default = HostSources

    def command(self, topics: Sequence[str], timeout_seconds: int) -> StringCommand:
        """``topics``: which chosen mirrors to check, of ``apt`` and ``pypi``."""
        return StringCommand(
            f"{PROBE}\nprobe_timeout={timeout_seconds}\n"
            f"show_state {STATE} {KEPT} {PIP} {UV} {EXPIRY}\n"
            f"check_chosen {CHOSEN} {' '.join(topics)}"
        )

    def process(self, output: list[str]) -> HostSources:
        """Read lines of a keyword and its values; texts are in base64, so that they arrive byte for byte."""
        release = NO_RELEASE
        texts: dict[str, dict[str, str]] = {"file": {}, "kept": {}, "dead": {}}
        chosen: list[tuple[str, str]] = []
        for line in output:
            kind, _, rest = line.partition(" ")
            if kind == "release":
                distribution, codename, architecture = (*rest.split(" "), "", "", "")[:3]
                release = Release(distribution, codename, architecture)
            elif kind == "chosen":
                key, _, value = rest.partition(" ")
                chosen.append((key, value))
            elif kind == "dead":
                topic, _, reason = rest.partition(" ")
                texts["dead"].setdefault(topic, reason)
            elif kind in texts:
                text, _, path = rest.partition(" ")
                texts[kind][path] = base64.b64decode(text[1:]).decode(errors="surrogateescape")
        return HostSources(release, texts["file"], texts["kept"], tuple(chosen), texts["dead"])


@dataclass(frozen=True)
class ProbeResult:
    """What a candidate answered on the host."""

    topic: str
    name: str
    problem: str
    """Why it cannot be used; "" when it can."""


class MirrorProbes(FactBase[list[ProbeResult]]):
    """
    Probe candidates in order, until one is good: apt's by fetching and verifying the signed index of every suite.

    ``apt-get update`` does it itself, with sources and lists of its own in a temporary directory and no package index
    wanted (apt.conf(5), Acquire::IndexTargets), so the host's own lists and locks are not touched.
    """

    default = list

    def command(
        self,
        apt: Mapping[str, Mapping[str, str]],
        pypi: Mapping[str, tuple[str, str]],
        architecture: str,
        timeout_seconds: int,
    ) -> StringCommand:
        """
        Say what to ask of each candidate.

        ``apt``: name of a candidate -> its source files by name; ``pypi``: name -> a page of its index, and what
        stands there.
        """
        lines = [PROBE, f"probe_timeout={timeout_seconds}", f"architecture={shlex.quote(architecture)}"]
        for topic, tries in (
            ("apt", [_try_apt(name, files) for name, files in apt.items()]),
            ("pypi", [f"try_pypi {shlex.join([name, *page])}" for name, page in pypi.items()]),
        ):
            if tries:
                lines.append(f"# {topic}\n{{ {' || '.join(tries)} || true; }}")
        return StringCommand("\n".join(lines))

    def process(self, output: list[str]) -> list[ProbeResult]:
        """Read lines of topic, name and problem."""
        return [ProbeResult(*(*line.split(" ", 2), "")[:3]) for line in output]


def packed(text: str) -> str:
    """Return text as a word of sh that `unpack` of probe.sh turns back: base64, byte for byte."""
    return "=" + base64.b64encode(text.encode(errors="surrogateescape")).decode()


def _try_apt(name: str, files: Mapping[str, str]) -> str:
    words = [part for file, text in files.items() for part in (file, packed(text))]
    return f"try_apt {shlex.join([name, *words])}"
