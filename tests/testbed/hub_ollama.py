"""Registries that Ollama pulls from (https://github.com/opencontainers/distribution-spec), as far as it does."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from tests.testbed import artefacts
from tests.testbed.hub_http import Answer, Asked, file_answer, text_answer

REGISTRIES = ("registry.ollama.ai", "modelscope.cn", "hf-mirror.com")
PULLED = ("library/tiny", artefacts.GGUF_REPOSITORY)
"""What they have, under any tag: one model."""


class Registries:
    """All of them."""

    names = frozenset(REGISTRIES)

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for a manifest or a blob; None for what is no registry's."""
        if not asked.path.startswith("/v2/"):
            return None
        for kind in ("manifests", "blobs"):
            name, separator, reference = asked.path.removeprefix("/v2/").rpartition(f"/{kind}/")
            if separator and name in PULLED:
                return self._found(kind, reference)
        return text_answer(json.dumps({"errors": [{"code": "NAME_UNKNOWN"}]}), 404)

    def _found(self, kind: str, reference: str) -> Answer:
        model = artefacts.tiny_gguf(self.state_dir)
        manifest = _manifest(model, model.stat().st_mtime_ns)
        if kind == "manifests":
            return text_answer(json.dumps(manifest), headers={"Content-Type": "application/json"})
        if reference == manifest["config"]["digest"]:
            return text_answer("{}")
        return file_answer(model, etag=reference)


@functools.lru_cache
def _manifest(model: Path, _modified: int) -> dict[str, Any]:
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (model.read_bytes(), b"{}")]
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": digests[0],
        "size": model.stat().st_size,
    }
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digests[1], "size": 2}
    return {"schemaVersion": 2, "config": config, "layers": [layer]}
