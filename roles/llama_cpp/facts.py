"""What the llama_cpp role reads on a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase, QuoteString, StringCommand


@dataclass(frozen=True)
class ChoiceState:
    """Which of several builds serves, and for what it was measured."""

    measured: str = ""
    """What the measurement was made for; "" when there was none."""
    chosen: str = ""
    """The fastest then."""
    current: str = ""
    """Name of the version that the ``current`` link points to."""
    complete: tuple[str, ...] = ()
    """Which of the candidates are installed."""


class Choice(FactBase[ChoiceState]):
    """The result of the last measurement, and what is installed."""

    default = ChoiceState

    def command(self, root: str, result: str, candidates: Sequence[str]) -> StringCommand:
        """``result``: the file that files/fastest.py writes, whose first lines are what is read here."""
        file, link = QuoteString(result), QuoteString(f"{root}/current")
        return StringCommand(
            r"sed -n 's/^ \"\(measured\|chosen\)\": \"\(.*\)\",*$/\1 \2/p'", file, "2>/dev/null;",
            "echo current $(readlink --", link, ");",
            "for name in", *map(QuoteString, candidates), "; do",
            f'if [ -d {root}/"$name" ]; then echo complete "$name"; fi; done',
        )  # fmt: skip

    def process(self, output: list[str]) -> ChoiceState:
        """Read a word and the rest of each line."""
        lines = [(word, rest) for line in output for word, _, rest in [line.partition(" ")]]
        one = dict(lines)
        complete = tuple(rest for word, rest in lines if word == "complete")
        return ChoiceState(one.get("measured", ""), one.get("chosen", ""), one.get("current", ""), complete)
