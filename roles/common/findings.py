"""What roles find out about a host before anything is changed; preflight says it, in the language of the inventory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Word = str | int | float | None | Sequence[str]
"""None is "unknown", a sequence is a list; both are spelt in the reader's language."""


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against a host, or that its administrator should know."""

    key: str
    """Which sentence of roles/preflight/messages.py; it also says whether this is an error or a warning."""

    option: str = ""
    """Path of the option to change, "" when none would help."""

    words: Mapping[str, Word] = field(default_factory=dict)
    """What the sentence leaves open."""


NOTICED: dict[str, list[Finding]] = {}
"""Host -> what roles noticed on it during the run, after preflight; listed with the warnings at the run's end."""


def notice(host: str, finding: Finding) -> None:
    """Have a warning listed at the end of the run."""
    NOTICED.setdefault(host, []).append(finding)
