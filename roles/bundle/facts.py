"""What the bundle role reads on a host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra.api import FactBase, QuoteString, StringCommand

PROGRAM = (Path(__file__).parent / "files" / "bundle.py").read_text()


@dataclass(frozen=True)
class Missing:
    """What a bundle lacks, or has too much."""

    problem: str = "the host did not say what it was made from; run deploys/full.py on it first"
    files: int = 0
    bytes: int = 0
    outdated: bool = False
    """apt's lists are of another day, and what other hosts would be offered may be newer."""


class BundleState(FactBase[Missing]):
    """What a bundle lacks of what its host was made from."""

    default = Missing

    def command(self, spec: Mapping[str, Any]) -> StringCommand:
        """``spec``: what files/bundle.py takes."""
        return StringCommand("if command -v python3 >/dev/null; then", command("check", spec), "; fi")

    def process(self, output: list[str]) -> Missing:
        """Read the one line of JSON."""
        return Missing(**json.loads(output[-1])) if output else Missing()


def command(task: str, spec: Mapping[str, Any]) -> StringCommand:
    """Return the command that looks, or collects."""
    return StringCommand("python3 -I -S -c", QuoteString(PROGRAM), task, QuoteString(json.dumps(spec)))
