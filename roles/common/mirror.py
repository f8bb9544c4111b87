"""Mirrors of public archives, by the names of files/mirrors.yaml."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from roles.common.bundle import PREFIX
from roles.common.data import from_yaml

PRESETS = Path(__file__).parents[2] / "files" / "mirrors.yaml"


@dataclass(frozen=True)
class Mirror:
    """One candidate: where each archive is, without a trailing slash; None where the mirror has it not."""

    name: str
    """As the inventory spells it: a name of files/mirrors.yaml, or a URL."""
    ubuntu: str | None = None
    ubuntu_ports: str | None = None
    debian: str | None = None
    debian_security: str | None = None
    pypi: str | None = None


IN_BUNDLES = Mirror(
    "bundle",
    ubuntu="ubuntu",
    ubuntu_ports="ubuntu-ports",
    debian="debian",
    debian_security="debian-security",
    pypi="pypi/simple",
)
"""
Where bundles have these archives, below their base: under names of their own, since any mirror may be where they were
copied from. All else lies under its public address.
"""


@cache
def presets() -> dict[str, Mirror]:
    """Return the mirrors of files/mirrors.yaml by name."""
    known: dict[str, dict[str, str]] = from_yaml(PRESETS.read_text())
    described = ("title", "source")
    return {
        name: Mirror(name, **{key: url.rstrip("/") for key, url in entry.items() if key not in described})
        for name, entry in known.items()
    }


def mirror_named(name: str) -> Mirror:
    """
    Return the mirror that a name or a URL stands for.

    A URL is the archive itself, whichever the host needs. Debian's security archive is beside it: ``URL-security``
    for Debian, as every public mirror has it; Ubuntu's is in the archive. A bundle's base has the `PREFIX` before it.
    """
    if name in presets():
        return presets()[name]
    url = name.removeprefix(PREFIX).rstrip("/")
    if name.startswith(PREFIX):
        return Mirror(name, **{key: f"{url}/{place}" for key, place in asdict(IN_BUNDLES).items() if key != "name"})
    return Mirror(name, url, url, url, f"{url}-security", url)
