"""Files that hold keys of the host, made on the host: the controller says which key goes where, and never sees one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from roles.common.operations import Commands

PROGRAM = Path(__file__).parent / "files" / "environment_file.py"


@dataclass(frozen=True)
class KeyIn:
    """The key that stands in a file of the host, its first word."""

    path: str


Parts = Sequence[str | KeyIn]
"""What a value is made of, put together without anything between."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentFile:
    """A file of NAME=value lines, root's alone, as systemd's ``EnvironmentFile=``, docker and compose read it."""

    path: str
    values: Mapping[str, Parts]
    owner: str
    """Role, to name when a key is missing."""
    base: str = ""
    """File on the host with the lines to begin with, such as an ``.env.example``; "" for none."""

    def spelt(self) -> dict[str, Any]:
        """Return it as files/environment_file.py reads it."""
        return {
            "path": self.path,
            "base": self.base,
            "owner": self.owner,
            "values": {
                name: [asdict(part) if isinstance(part, KeyIn) else part for part in parts]
                for name, parts in self.values.items()
            },
        }


def _command(mode: str, wanted: Sequence[EnvironmentFile]) -> StringCommand:
    """Return the command that compares files (``check``) or makes them (``write``)."""
    words = map(QuoteString, (PROGRAM.read_text(), mode, json.dumps([one.spelt() for one in wanted])))
    return StringCommand("python3 -I -S -c", *words)


class EnvironmentFileStates(FactBase[list[bool]]):
    """Whether each environment file holds what it shall, in their order; the contents stay on the host."""

    default = list

    def command(self, wanted: Sequence[EnvironmentFile]) -> StringCommand:
        """On a host without python3, as before role base has run, all differ."""
        return StringCommand("if command -v python3 >/dev/null; then", _command("check", wanted), "; fi")

    def process(self, output: list[str]) -> list[bool]:
        """Read the program's verdicts."""
        return [line == "as wanted" for line in output]


@operation()
def environment_files(wanted: Sequence[EnvironmentFile]) -> Commands:
    """
    Have environment files with keys in them.

    + wanted: what each shall hold

    One remote command when nothing is to do.
    """
    states = host.get_fact(EnvironmentFileStates, wanted=wanted) or [False] * len(wanted)
    if differing := [one for one, as_wanted in zip(wanted, states, strict=True) if not as_wanted]:
        yield _command("write", differing)
    else:
        host.noop(f"{len(wanted)} files are as wanted")
