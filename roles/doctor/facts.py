"""What sources answer to a host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pyinfra.api import FactBase, QuoteString, StringCommand

from roles.common.sources import Source

ASK = Path(__file__).parents[1] / "common" / "files" / "ask.py"
"""The models role has it, too, to choose between hubs."""


@dataclass(frozen=True)
class Answer:
    """What a source answered to a host, and by which steps."""

    problem: str = "no_python"
    """Which sentence of roles/doctor/messages.py; "" when there is none."""
    detail: str = ""
    hosts: tuple[str, ...] = ()
    """Whom the requests went to; the last one has the bytes."""
    proxy: str = ""
    """Host and port, where there is one in between."""
    address: str = ""
    resolve_ms: float | None = None
    connect_ms: float | None = None
    tls_ms: float | None = None
    answer_ms: float | None = None
    """From the last request to the first line of its answer."""
    status: int | None = None
    """HTTP's, of the last answer."""
    retry_after: str = ""
    bytes: int = 0
    kib_per_second: int | None = None
    """Of the first megabyte; None where there was too little to tell."""
    unverified: bool = False
    """The host has no certificates of authorities yet."""

    @property
    def usable(self) -> bool:
        """Whether the host can fetch from there."""
        return self.problem in ("", "unmeasured")


class Answers(FactBase[list[Answer]]):
    """
    The first megabyte of every source, or why it did not come; nothing is left on the host.

    One command, in which all are asked; the program travels in it. A host without Python gives no answers.
    """

    default = list

    def command(self, sources: Sequence[Source], silence_seconds: int, total_seconds: int) -> StringCommand:
        """``silence_seconds``: how long a source may be silent; ``total_seconds``: when all are to be through."""
        wanted = json.dumps(
            {
                "sources": [asdict(source) for source in sources],
                "silence_seconds": silence_seconds,
                "total_seconds": total_seconds,
            }
        )
        words = map(QuoteString, (ASK.read_text(), wanted))
        return StringCommand(
            "if command -v python3 >/dev/null; then python3 -I -S -B -c", *words, "; else echo '[]'; fi"
        )

    def process(self, output: list[str]) -> list[Answer]:
        """Read the program's JSON."""
        found = json.loads("\n".join(output))
        return [Answer(**{**answer, "hosts": tuple(answer["hosts"])}) for answer in found]
