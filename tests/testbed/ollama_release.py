"""Release archives of the stand-in for Ollama, as upstream packs its own."""

from __future__ import annotations

import functools
import hashlib
import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import locked, state_dir
from tests.testbed.hub_state import write_atomic

STAND_IN = Path(__file__).with_name("ollama_stand_in.py")
NEW, OLD = "0.32.15", "0.13.5"
"""Packed as .tar.zst and as .tgz; the old one takes no split GGUF, and keeps files as they are."""


@dataclass(frozen=True)
class OllamaRelease:
    """A release that the hub serves under github.com."""

    version: str
    sha256: str


def ollama_release(version: str = NEW) -> OllamaRelease:
    """Give a release, packed anew."""
    ending = "tar.zst" if version == NEW else "tgz"
    path = state_dir() / "releases/ollama/ollama" / f"v{version}" / f"ollama-linux-amd64.{ending}"
    content = packed(version)
    with locked(path.parent / ".lock"):
        if not path.exists() or path.read_bytes() != content:
            write_atomic(path, content)
    return OllamaRelease(version, hashlib.sha256(content).hexdigest())


@functools.cache
def packed(version: str) -> bytes:
    """Give the archive: bin/ollama and lib/ollama."""
    text = STAND_IN.read_text().replace('VERSION = "0.0.0"', f'VERSION = "{version}"').encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, mode, content in (
            ("bin/ollama", 0o755, text),
            ("lib/ollama/README", 0o644, b"Ollama has its libraries here; this is a stand-in.\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    how = ["zstd", "-q", "-c"] if version == NEW else ["gzip", "-n", "-c"]
    return subprocess.run(how, input=buffer.getvalue(), stdout=subprocess.PIPE, check=True).stdout
