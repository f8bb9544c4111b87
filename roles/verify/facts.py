"""What the verify role reads on a host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pyinfra.api import FactBase, QuoteString, StringCommand

from roles.common.endpoint import Endpoint

CHECK = Path(__file__).parent / "files" / "check.py"


@dataclass(frozen=True)
class EndpointCheck:
    """What one model server proved, and what it did not."""

    name: str
    unit: str = "-"
    health: str = "-"
    model: str = "-"
    answer: str = ""
    tokens_per_second: float | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Serving:
    """What a host serves, and what it was not asked to."""

    checks: tuple[EndpointCheck, ...] = ()
    undeclared: tuple[str, ...] = ()
    """Units of engines that run though the inventory does not declare them."""


class EndpointChecks(FactBase[Serving]):
    """The golden prompt's answer of each endpoint, with all that led to it; nothing is left on the host."""

    default = Serving

    def command(self, endpoints: Sequence[Endpoint], unit_patterns: Sequence[str]) -> StringCommand:
        """The program travels in the command line, so that verify writes nothing on the host."""
        wanted = json.dumps([asdict(endpoint) for endpoint in endpoints])
        words = map(QuoteString, (CHECK.read_text(), wanted, *unit_patterns))
        return StringCommand("if command -v python3 >/dev/null; then python3 -I -S -c", *words, "; else echo '{}'; fi")

    def process(self, output: list[str]) -> Serving:
        """Read the program's JSON; a host without python3 gives an empty object."""
        found = json.loads("\n".join(output))
        checks = [EndpointCheck(**{**check, "problems": tuple(check["problems"])}) for check in found.get("checks", ())]
        return Serving(tuple(checks), tuple(found.get("undeclared", ())))
