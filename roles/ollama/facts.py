"""What the ollama role reads on a host."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra.api import FactBase, QuoteString, StringCommand

FILES = Path(__file__).parent / "files"


@dataclass(frozen=True)
class Foreign:
    """What somebody else installed of Ollama."""

    unit: str = ""
    """Path of an ollama.service that is not this role's; "" for none."""
    models: str = ""
    """Where that keeps its models; "" where it has none."""
    program: str = ""
    """A program where this role's link shall be."""
    link: str = ""
    """Where a link in that place points to."""
    drop_ins: Sequence[str] = ()
    """Drop-ins of ollama.service, this role's among them."""


class ForeignOllama(FactBase[Foreign]):
    """Another installation of Ollama: by upstream's installer, by a package, by hand."""

    default = Foreign

    def command(self, link: str) -> StringCommand:
        """``link``: where this role has its link to the program."""
        return StringCommand("sh -c", QuoteString((FILES / "foreign.sh").read_text()), "sh", QuoteString(link))

    def process(self, output: list[str]) -> Foreign:
        """Read ``key=value`` lines."""
        found = dict(line.split("=", 1) for line in output if "=" in line)
        drop_ins = found.pop("drop_ins", "").split()
        return Foreign(**found, drop_ins=tuple(drop_ins))


@dataclass(frozen=True)
class ModelsState:
    """What of Ollama's models is not as wanted."""

    answers: bool = False
    """The daemon does."""
    todo: Mapping[str, str] = field(default_factory=dict)
    """Instance -> why its model must be made."""
    gone: Sequence[str] = ()
    """Instances whose models are still to be removed."""
    undeclared: Sequence[str] = ()
    """Models that no instance declares."""


class OllamaModels(FactBase[ModelsState]):
    """
    State of the declared models, by Ollama's own list and what was written down when they were made.

    A host without python3 is one that the base role has not seen yet: all is to do there.
    """

    default = ModelsState

    def command(self, spec: str) -> StringCommand:
        """``spec``: JSON, as roles/ollama/deploy.py makes it. The program travels in the command line."""
        return StringCommand(
            "export LC_ALL=C.UTF-8; if command -v python3 >/dev/null; then python3 -I -S -c",
            QuoteString((FILES / "models.py").read_text()), "state", QuoteString(spec), "; else echo '{}'; fi",
        )  # fmt: skip

    def process(self, output: list[str]) -> ModelsState:
        """Read the line of JSON."""
        return ModelsState(**json.loads(output[-1]))
