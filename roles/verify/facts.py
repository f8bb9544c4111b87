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


class EndpointChecks(FactBase[list[EndpointCheck]]):
    """The golden prompt's answer of each endpoint, with all that led to it; nothing is left on the host."""

    default = list

    def command(self, endpoints: Sequence[Endpoint]) -> StringCommand:
        """The program travels in the command line, so that verify writes nothing on the host."""
        wanted = json.dumps([asdict(endpoint) for endpoint in endpoints])
        check = StringCommand("python3 -c", QuoteString(CHECK.read_text()), QuoteString(wanted))
        return StringCommand("if command -v python3 >/dev/null; then", check, "; else echo '[]'; fi")

    def process(self, output: list[str]) -> list[EndpointCheck]:
        """Read the program's JSON."""
        results = json.loads("\n".join(output))
        return [EndpointCheck(**{**result, "problems": tuple(result["problems"])}) for result in results]
