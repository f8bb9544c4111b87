"""Files that hold keys of the host, made on the host: the controller says which key goes where, and never sees one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from roles.common.operations import Commands
from roles.common.options import OptionProblem, has_login

PROGRAM = Path(__file__).parent / "files" / "environment_file.py"


VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
SecretFile = Annotated[str, Field(pattern=r"^/[^\s]+$")]
"""File on the host, root's, whose first word is a key."""
_SECRET = re.compile(r"(^|_)(PASSWORD|PASSWD|PASSPHRASE|SECRETS?|KEYS?|TOKENS?|CREDENTIALS?)$")
_SETTING = re.compile(r"|true|false|none|[0-9]+", re.IGNORECASE)


@dataclass(frozen=True)
class KeyIn:
    """The key that stands in a file of the host, its first word."""

    path: str
    form: Literal["", "base64url"] = ""
    """As it stands, or 32 bytes in base64url without padding, of a key of 64 hexadecimal digits."""


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


def keep_apart(environment: Mapping[str, str], secrets: Mapping[str, str]) -> None:
    """
    Refuse variables that hold a secret, by their names or as a login in a URL, and those that stand in both.

    What ``environment`` says stands in the inventory, on command lines and in files that everybody reads; ``secrets``
    says in which files of the host the values are.
    """
    for name, value in environment.items():
        if name in secrets:
            raise OptionProblem(f"secrets/{name}", "stands in environment, too; remove it from one of the two")
        if (_SECRET.search(name) and not _SETTING.fullmatch(value)) or ("://" in value and has_login(value)):
            raise OptionProblem(
                f"environment/{name}",
                "its value is a secret, and everybody on the host could read it; put it into a file of the host that "
                f"root alone reads, and write secrets: {{{name}: THE FILE}}",
            )


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
