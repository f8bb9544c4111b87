"""Facts that more than one role reads: each is one remote command, text -> typed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pyinfra.api import FactBase, QuoteString, StringCommand


@dataclass(frozen=True)
class FileState:
    """A regular file as it stands on the host."""

    sha256: str
    mode: str
    """Octal, as chmod takes it: "0644"."""
    owner: str
    """"user:group"."""


class FileStates(FactBase[dict[str, FileState]]):
    """
    Digest, mode and owner of each of the given paths.

    A path that is absent has no entry; one that is a symlink or no regular file has one that equals no wanted state.
    """

    default = dict

    def command(self, paths: list[str]) -> StringCommand:
        """One loop, so that any number of files costs one round trip."""
        return StringCommand(
            "export LC_ALL=C.UTF-8; for f in", *map(QuoteString, paths), "; do",
            'if [ -f "$f" ] && [ ! -L "$f" ]; then',
            'stat -c "%a %U:%G" -- "$f" && sha256sum -z -- "$f" | tr "\\0" "\\n";',
            'elif [ -e "$f" ] || [ -L "$f" ]; then printf "0 -:-\\n-  %s\\n" "$f"; fi; done',
        )  # fmt: skip

    def process(self, output: list[str]) -> dict[str, FileState]:
        """Read pairs of lines: mode and owner, then digest and path."""
        states = {}
        for stat, digest in zip(output[::2], output[1::2], strict=True):
            mode, owner = stat.split(" ", 1)
            sha256, path = digest.split("  ", 1)
            states[path] = FileState(sha256, mode.zfill(4), owner)
        return states


@dataclass(frozen=True)
class UnitState:
    """A systemd unit as systemd itself reports it."""

    exists: bool = False
    active: bool = False
    enabled: bool = False
    needs_reload: bool = False
    stale: bool = False
    """A file that it reads changed after it started."""


class UnitStates(FactBase[dict[str, UnitState]]):
    """
    State of systemd units and of the files that each reads.

    Staleness is a property of the host, not of a run: a run that was killed between writing a file and
    restarting its reader is repaired by the next one. It is measured by ctime, because a rename keeps mtime; a
    symlink counts by itself as well as what it points to: pointing it to an older program is a change, too.
    """

    default = dict

    def command(self, units: Mapping[str, Sequence[str]]) -> StringCommand:
        """``units``: full unit name -> paths that it reads at start."""
        properties = "LoadState,ActiveState,UnitFileState,NeedDaemonReload,ActiveEnterTimestamp"
        words: list[str | QuoteString] = []
        for unit, reads in units.items():
            words += ["echo", QuoteString(f"Unit={unit}"), ";"]
            if reads:
                for stat in ("stat -c changed=%.Z --", "stat -L -c changed=%.Z --"):
                    words += [stat, *map(QuoteString, reads), "2>/dev/null ;"]
        if units:
            words += ["systemctl show --timestamp=us+utc --property", properties, "--", *map(QuoteString, units), ";"]
        return StringCommand("export LC_ALL=C.UTF-8;", *words, "true")

    def process(self, output: list[str]) -> dict[str, UnitState]:
        """Read ``Unit=`` lines with the files' times, then systemd's blocks in the same order."""
        pairs = [(key, value) for line in output for key, separator, value in [line.partition("=")] if separator]
        changed: dict[str, list[float]] = {}
        blocks: list[dict[str, str]] = []
        for key, value in pairs:
            if key == "Unit":
                changed[value] = []
            elif key == "changed":
                list(changed.values())[-1].append(float(value))
            else:
                if not blocks or key in blocks[-1]:  # the first key again: the next unit
                    blocks.append({})
                blocks[-1][key] = value
        blocks += [{}] * (len(changed) - len(blocks))  # of a systemd that did not answer
        return {name: _unit_state(block, times) for (name, times), block in zip(changed.items(), blocks, strict=True)}


def _unit_state(values: Mapping[str, str], changed: Sequence[float]) -> UnitState:
    started = _timestamp(values.get("ActiveEnterTimestamp", ""))
    return UnitState(
        exists=values.get("LoadState") not in ("not-found", None),
        active=values.get("ActiveState") == "active",
        enabled=values.get("UnitFileState") in ("enabled", "static", "alias", "indirect", "generated"),
        needs_reload=values.get("NeedDaemonReload") == "yes",
        stale=any(time > started for time in changed),
    )


def _timestamp(text: str) -> float:
    """Seconds since the epoch of systemd's ``Sun 2026-11-22 03:32:44.123456 UTC``; 0 for never."""
    if not text:
        return 0.0
    return datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class ProgramState:
    """An installed program under ``/opt/metal2model``."""

    current: str
    """Name of the version that the ``current`` link points to; "" for none."""
    complete: bool
    """The wanted version's directory stands, which gets its name only when it is whole, and can still be used."""


class Program(FactBase[ProgramState]):
    """Which version of a program is current, and whether the wanted one is installed."""

    @staticmethod
    def default() -> ProgramState:
        """Nothing is known of a host that did not answer; pyinfra has failed it by then."""
        return ProgramState("", complete=False)

    def command(self, root: str, version: str, test: str = "true") -> StringCommand:
        """``root``: the program's directory, with one subdirectory for each version; ``test``: as of `program`."""
        current, wanted = QuoteString(f"{root}/current"), QuoteString(f"{root}/{version}")
        return StringCommand(
            "readlink -- ", current, " || echo; d=", wanted, f'; if [ -d "$d" ] && {test}; then echo complete; fi',
            _separator="",
        )  # fmt: skip

    def process(self, output: list[str]) -> ProgramState:
        """Read the link's target, then ``complete`` if the wanted version stands."""
        return ProgramState(current=output[0].rsplit("/", 1)[-1], complete="complete" in output[1:])


class Keys(FactBase[dict[str, str]]):
    """Mode and owner of each key file, ``600 root:root``; a missing or empty one has no entry."""

    default = dict

    def command(self, paths: list[str]) -> StringCommand:
        """One loop for any number of keys; their contents are never read."""
        return StringCommand(
            "for f in", *map(QuoteString, paths), '; do if [ -s "$f" ]; then stat -c "%a %U:%G %n" -- "$f"; fi; done'
        )

    def process(self, output: list[str]) -> dict[str, str]:
        """Read ``mode owner path`` lines."""
        lines = (line.split(" ", 2) for line in output)
        return {path: f"{mode} {owner}" for mode, owner, path in lines}


class RenderGroups(FactBase[list[int]]):
    """Numbers of the groups that may use the cards in /dev/dri: images have a group of another number, or none."""

    default = list

    def command(self) -> str:
        """render(4) nodes; all of one group, as a rule."""
        return "stat -c %g /dev/dri/renderD* 2>/dev/null | sort -nu"

    def process(self, output: list[str]) -> list[int]:
        """Read one number a line."""
        return [int(line) for line in output]
