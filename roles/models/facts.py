"""Facts of the models role."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api import FactBase, QuoteString, StringCommand

from roles.common.model import Shape

RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from store.{} import main; sys.exit(main(sys.argv[1:]))"
"""
Text of a program that runs a module of files/store, after the directory that holds the package. Neither ``python -m``
nor a script, as this one can have ``-I``, and what it imports is kept compiled.
"""


@dataclass(frozen=True)
class StoreState:
    """What of the wanted models is not as wanted."""

    installed: bool
    """The role's own files stand on the host as they are here."""
    clients: Mapping[str, str | None]
    """Hub -> why the environment of its client cannot be used; None when it can. Empty when not installed."""
    models: Mapping[str, str | None]
    """Name -> why the model is not known to be complete; None when it is. Empty when not installed."""
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    """Name -> what the model's files say of the memory that it takes, of those that were looked into."""
    unwanted: Mapping[str, int] = field(default_factory=dict)
    """Name -> bytes of what it has of models that nobody wants any more."""
    lan: str | None = None
    """Why the host does not share its models with the others as wanted; None when it does, or shall not."""
    gives: bool = False
    """Whether it has anything to give them."""

    @property
    def at_rest(self) -> bool:
        """Nothing is to do."""
        return self.installed and not any(self.clients.values()) and not any(self.models.values()) and not self.lan


class Store(FactBase[StoreState]):
    """
    State of all wanted models and of the clients' environments.

    Compares what stat says with the manifests; reads no model. Says that nothing is installed on a host that has no
    Python yet.
    """

    @staticmethod
    def default() -> StoreState:
        """Nothing is known of a host that did not answer; pyinfra has failed it by then."""
        return StoreState(False, {}, {})

    def command(self, home: str, spec: str, digests: Mapping[str, str], *, unless_new: str | None) -> StringCommand:
        """
        ``home``, ``spec``: paths of what holds the package files/store and of what is wanted.

        ``digests``: path -> sha256 of the role's own files.

        ``unless_new``: what a host has that ever had models; without, this one is as wanted. None where any are wanted.
        """
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in digests.items())
        never = '{"installed": true, "clients": {}, "models": {}}'
        new = ["[ -e", QuoteString(unless_new), "] || { echo", QuoteString(never), "; exit; };"] if unless_new else []
        return StringCommand(
            "export LC_ALL=C.UTF-8; umask 022;",
            *new,
            "printf %s", QuoteString(lines), "| sha256sum --check --status 2>/dev/null",
            "&& python3 -I -S -c", QuoteString(RUN.format("known")), QuoteString(home), QuoteString(spec),
            "2>/dev/null",
            """|| echo '{"installed": false, "clients": {}, "models": {}}'""",
        )  # fmt: skip

    def process(self, output: list[str]) -> StoreState:
        """Read the one line of JSON."""
        found = json.loads(output[-1])
        shapes = {name: Shape.model_validate(shape) for name, shape in found.pop("shapes", {}).items()}
        return StoreState(**found, shapes=shapes)


@dataclass(frozen=True)
class Unwanted:
    """What a host has of a model that nobody wants any more."""

    paths: tuple[str, ...]
    bytes: int
    users: tuple[str, ...]
    """Processes and links that use it; none of a model that can go."""


class UnwantedModels(FactBase[dict[str, Unwanted]]):
    """Models that nobody wants any more, and who uses them; empty where this role never had any."""

    default = dict

    def command(self, home: str, spec: str, links: Sequence[str]) -> StringCommand:
        """``links``: directories whose symbolic links mean that what they lead to is used."""
        return removal(home, spec, links, "")

    def process(self, output: list[str]) -> dict[str, Unwanted]:
        """Read the one line of JSON."""
        found = json.loads(output[-1])
        return {name: Unwanted(tuple(one["paths"]), one["bytes"], tuple(one["users"])) for name, one in found.items()}


def removal(home: str, spec: str, links: Sequence[str], word: str) -> StringCommand:
    """Return how to print the unwanted models, and with "remove" to remove those that nobody uses."""
    program = (RUN.format("unwanted"), home, spec, json.dumps(list(links)))
    # Asked before the first run, too: then this host has no program yet, and no models.
    return StringCommand(
        "[ ! -e", QuoteString(f"{home}/store/unwanted.py"), "] && echo '{}' ||",
        "python3 -I -c", *map(QuoteString, program), word,
    )  # fmt: skip
