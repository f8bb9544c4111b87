"""What the doctor asks for the llama_cpp role: the archives of llama-server."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from roles.common.sources import Source, host_of
from roles.llama_cpp.deploy import archives, installation
from roles.llama_cpp.options import LlamaCppOptions


def sources(options: LlamaCppOptions, tags: Sequence[str], architecture: str) -> list[Source]:
    """Return where the program would come from; a distribution's package comes with the archive of apt."""
    if options.source not in ("release", "build"):
        return []
    if options.variant == "fastest":
        arguments = [word for variant in options.variants(tags) for word in archives(options, variant)[1]]
    else:
        arguments = installation(options, tags, architecture)[1]
    pinned = [(url, digest) for url, digest in pairwise(arguments) if url.startswith(("http://", "https://"))]
    return [
        Source(
            kind="release", what=f"llama_cpp {url.rpartition('/')[2]}", name=host_of(url),
            option="llama_cpp/download_url", url=url, sha256=digest,
        )
        for url, digest in pinned
    ]  # fmt: skip
