"""What the doctor asks for the ollama role: the archive of the program, and the registries that models come from."""

from __future__ import annotations

from roles.common.sources import Source, host_of
from roles.ollama.deploy import installation
from roles.ollama.options import OllamaOptions

LIBRARY = "registry.ollama.ai"


def sources(options: OllamaOptions, architecture: str) -> list[Source]:
    """Return where program and models would come from."""
    if not options.enabled:
        return []
    arguments = installation(options, architecture)[1]
    programs = [
        Source(
            kind="release", what=f"ollama {url.rpartition('/')[2]}", name=host_of(url), option="ollama/download_url",
            url=url, sha256=digest,
        )
        for url, digest in zip(arguments[::2], arguments[1::2], strict=True)
    ]  # fmt: skip
    wanted = {name: one.pull for name, one in options.instances.items() if one.present and one.pull}
    return [*programs, *(_model(name, pull) for name, pull in wanted.items())]


def _model(instance: str, name: str) -> Source:
    """https://github.com/ollama/ollama/blob/main/types/model/name.go: [HOST/][NAMESPACE/]MODEL[:TAG]."""
    *places, model = name.split("/")
    host, namespace = places if len(places) == 2 else [LIBRARY, *(places or ["library"])]
    model, _, tag = model.partition(":")
    return Source(
        kind="model", what=f"ollama {name}", name=host, option=f"ollama/instances/{instance}/pull", is_manifest=True,
        url=f"https://{host}/v2/{namespace}/{model}/manifests/{tag or 'latest'}",
    )  # fmt: skip
