"""llama-server's own parser: the real program, as the bed builds it, is asked whether it takes a command line."""

import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.testbed import artefacts, locked, state_dir
from tests.upstream.arguments import Rejected


def program() -> Path:
    """Return llama-server, unpacked; the bed builds it when it is not there, which takes about two minutes."""
    archive = artefacts.release()
    target = state_dir() / "upstream" / f"llama-server-{archive.sha256[:8]}"
    with locked(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            part = target.with_name(f".{target.name}.part")
            with tarfile.open(archive.path) as tar:
                tar.extractall(part, filter="data")
            part.rename(target)
    return next(target.rglob("llama-server"))


def parse(server: Path, words: Sequence[str]) -> None:
    """Have it read a command line, without the program's name, or raise `Rejected` with what it said."""
    # It handles its arguments in their order and leaves at this last one, before it opens any file.
    done = subprocess.run([server, *words, "--version"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Rejected(done.stderr.strip().splitlines()[0])


def names(server: Path) -> set[str]:
    """Return the flags of which it speaks in its help, at the beginnings of lines."""
    shown = subprocess.run([server, "--help"], capture_output=True, text=True, check=True).stdout
    found = set()
    for line in shown.splitlines():
        for word in line.split() if line.startswith("-") else ():
            if not word.startswith("-"):
                break
            found.add(word.rstrip(","))
    return found
