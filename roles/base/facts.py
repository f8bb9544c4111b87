"""What the base role reads: units and accounts, in one command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api import FactBase, QuoteString, StringCommand

from roles.common.facts import UnitState, UnitStates


@dataclass(frozen=True)
class HostServices:
    """Units and accounts of a host."""

    units: Mapping[str, UnitState] = field(default_factory=dict)
    container: bool = False
    """Its clock is the clock of the machine around it; nothing in it can or need set that."""
    groups: frozenset[str] = frozenset()
    """Which of the asked groups exist."""
    accounts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """User -> its groups; a user that does not exist has no entry."""


class Services(FactBase[HostServices]):
    """State of units, users and groups, and whether the host is a container."""

    default = HostServices

    def command(self, units: Mapping[str, Sequence[str]], users: Sequence[str], groups: Sequence[str]) -> StringCommand:
        """``units`` as in `UnitStates`; ``users`` and ``groups`` by name."""
        asked = [QuoteString(name) for name in groups]
        return StringCommand(
            UnitStates().command(units),
            "; if systemd-detect-virt --quiet --container; then echo container=yes; fi;",
            'for g in', *asked, '; do if getent group "$g" >/dev/null; then echo "group=$g"; fi; done;',
            'for u in', *map(QuoteString, users), '; do if g=$(id -Gn "$u" 2>/dev/null); then',
            'echo "user=$u $g"; fi; done',
        )  # fmt: skip

    def process(self, output: list[str]) -> HostServices:
        """Read the units, then one line for each account and group that exists."""
        mine = ("container=", "group=", "user=")
        pairs = [line.partition("=") for line in output if line.startswith(mine)]
        accounts = [value.partition(" ") for key, _, value in pairs if key == "user"]
        return HostServices(
            units=UnitStates().process([line for line in output if not line.startswith(mine)]),
            container=any(key == "container" for key, _, _ in pairs),
            groups=frozenset(value for key, _, value in pairs if key == "group"),
            accounts={name: frozenset(groups.split()) for name, _, groups in accounts},
        )
