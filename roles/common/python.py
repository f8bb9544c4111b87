"""Python environments on a host: one directory for each set of pinned packages."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pyinfra.api import operation

from roles.common.operations import Commands, TextFile, program

FILES = Path(__file__).parent / "files"
USABLE = """[ -d "$d/lib/python$("$d/bin/python" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])')" ]"""
"""Whether the Python of an environment is the one that it was made for: an upgrade of the host replaces it."""


@dataclass(frozen=True, kw_only=True)
class PythonEnvironment:
    """A set of Python packages in a directory of its own."""

    root: str
    """The program's directory, ``/opt/metal2model/vllm``; environments are below it, ``current`` points to one."""
    version: str
    """Of the program."""
    requirements: str
    """Text of a pip requirements file with a hash for each package."""
    role: str
    """Whose options to name when the installation fails."""
    python: str = ""
    """Which one, as ``uv venv --python`` takes it; "" for the host's own python3."""
    module: str = ""
    """Must be importable before the environment counts as whole."""

    @property
    def name(self) -> str:
        """The directory's name: other packages or another Python are another directory."""
        content = f"{self.python}\n{self.requirements}"
        return f"{self.version}-{sha256(content.encode()).hexdigest()[:8]}"

    @property
    def python_path(self) -> str:
        """The interpreter of the current environment, for units: ``PYTHON -m module``."""
        return f"{self.root}/current/bin/python"


@operation()
def python_environment(wanted: PythonEnvironment) -> Commands:
    """
    Have a Python environment with exactly these packages, and ``current`` pointing to it.

    + wanted: what it shall have

    One remote command when nothing is to do. Packages come from the index that the host is configured for.
    """
    file, uv = f"{wanted.root}/{wanted.name}.txt", f"{wanted.root}/uv.txt"
    yield from program._inner(
        root=wanted.root,
        version=wanted.name,
        script=(FILES / "environment.sh").read_text(),
        arguments=[file, uv, wanted.role, wanted.python, wanted.module],
        files={file: TextFile(wanted.requirements), uv: TextFile((FILES / "uv.txt").read_text())},
        test=USABLE,
    )
