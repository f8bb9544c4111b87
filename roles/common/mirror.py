"""Mirrors of public archives, by the names of files/mirrors.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
    for Debian, as every public mirror has it; Ubuntu's is in the archive.
    """
    if name in presets():
        return presets()[name]
    url = name.rstrip("/")
    return Mirror(name, url, url, url, f"{url}-security", url)
