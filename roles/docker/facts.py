"""What the docker role reads on a host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyinfra.api import FactBase, QuoteString, StringCommand

from roles.docker.plan import DOCKER_SOURCES, HEADER, Present

FILES = Path(__file__).parent / "files"
PROOF = (FILES / "proof.sh").read_text()
SETTINGS = (FILES / "settings.py").read_text()

AS_WANTED = "as wanted"


class Presence(FactBase[Present]):
    """What of an engine stands on the host, and which of its files are ours."""

    default = Present

    def command(self) -> StringCommand:
        """Names alone: of packages that are wholly installed, and of files."""
        return StringCommand(
            r"dpkg-query -W -f '${db:Status-Status} ${Package}\n' docker-ce docker.io 2>/dev/null;",
            f"if [ -e {DOCKER_SOURCES} ]; then echo repository; fi;",
            "grep -ls", QuoteString(f"^{HEADER.strip()}"), "/etc/docker/certs.d/*/ca.crt; true",
        )  # fmt: skip

    def process(self, output: list[str]) -> Present:
        """Read one name a line."""
        return Present(
            "docker" if "installed docker-ce" in output else "archive" if "installed docker.io" in output else "",
            "repository" in output,
            [line for line in output if line.startswith("/etc/docker/certs.d/")],
        )


class SettingsVerdict(FactBase[str]):
    """Whether JSON files hold our part: `AS_WANTED`, "differs", or "problem" and what it is; files/settings.py."""

    default = str

    def command(self, wanted: Mapping[str, Any]) -> StringCommand:
        """``wanted``: what files/settings.py takes. A host without python3, as before role base, says nothing."""
        return StringCommand("if command -v python3 >/dev/null; then", settings_command("check", wanted), "; fi")

    def process(self, output: list[str]) -> str:
        """Read the one line."""
        return output[-1] if output else ""


class ProofVerdict(FactBase[str]):
    """Whether a container runs, and sees the cards: `AS_WANTED`, or what is wrong; files/proof.sh."""

    default = str

    def command(self, gpus: int, renderers: int) -> StringCommand:
        """``gpus``: NVIDIA's cards that it must see; ``renderers``: Intel's."""
        return StringCommand("if command -v docker >/dev/null; then", proof_command("check", gpus, renderers), "; fi")

    def process(self, output: list[str]) -> str:
        """Read the one line."""
        return output[-1] if output else ""


def settings_command(task: str, wanted: Mapping[str, Any]) -> StringCommand:
    """Return the command that compares or writes JSON files."""
    return StringCommand("python3 -I -S -c", QuoteString(SETTINGS), task, QuoteString(json.dumps(wanted)))


def proof_command(task: str, gpus: int, renderers: int) -> StringCommand:
    """Return the command that asks, or proves, whether containers run."""
    return StringCommand("sh -c", QuoteString(PROOF), "sh", task, str(gpus), str(renderers))
