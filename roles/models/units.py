"""What a host that shares models with the others of its LAN runs: pure functions of what the inventory says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from roles.common.rendering import templates
from roles.common.systemd import exec_line, unit_path
from roles.models.facts import RUN

SEEDING = "model-swarm.service"
FETCHING = "model-fetch.service"
SYSUSERS = "/etc/sysusers.d/metal2model-models.conf"
LAN_FILES = (unit_path(SEEDING), unit_path(FETCHING), SYSUSERS)
"""What a host has that takes part, and no other."""
USER = "model-swarm"
PROGRAMS = {"aria2": "/usr/bin/aria2c", "mktorrent": "/usr/bin/mktorrent"}
"""Package -> the program that it brings."""
STATE = "/var/lib/metal2model/models"
"""What the program in files/store remembers."""
LISTED = f"{STATE}/seeding"
"""What is given to others; the program writes it."""
TEMPLATES = templates(__file__)


@dataclass(frozen=True)
class Seed:
    """A host that fetches models from outside, and serves them and their torrents over HTTP."""

    address: str
    url: str
    """Of its models directory."""


@dataclass(frozen=True)
class Lan:
    """How a host shares models with the others of its inventory."""

    seeds: Sequence[Seed]
    """All but itself."""
    networks: Sequence[str] = field(default=())
    """Who may have what it gives."""
    own: Seed | None = None
    """What it is itself, where it is a seed."""


def lan_files(lan: Lan, home: str, spec: str, directory: str) -> dict[str, str]:
    """Return the files of a host that takes part, path -> text."""
    common = {"user": USER, "program": PROGRAMS["aria2"]}
    seeding = TEMPLATES.get_template(f"{SEEDING}.j2").render(
        **common,
        directory=exec_line([directory]),
        command=exec_line(["/usr/bin/python3", "-I", "-S", "-c", RUN.format("lan"), home, spec, "seed"]),
        networks=lan.networks,
        listed=LISTED,
    )
    fetching = TEMPLATES.get_template(f"{FETCHING}.j2").render(**common, partial=exec_line([f"{directory}/.partial"]))
    user = f'# Written by metal2model, role models.\nu {USER} - "Models for and from the hosts of the LAN"\n'
    return dict(zip(LAN_FILES, (seeding, fetching, user), strict=True))
