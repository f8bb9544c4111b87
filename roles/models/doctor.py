"""What the doctor asks for the models role: a file of each wanted model, on every hub that has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

from roles.common.sources import Source, host_of
from roles.models.options import ModelsOptions, Place

HUGGINGFACE_MIRROR = "https://hf-mirror.com"
WEIGHTS = ("*.gguf", "*.safetensors", "*.bin")


def sources(options: ModelsOptions) -> list[Source]:
    """Return where the models would come from, and what one changed option could bring instead."""
    return [source for name in options.wanted for source in _model(options, name)]


def needs_pypi(options: ModelsOptions) -> bool:
    """Whether a hub's client has to be installed."""
    return any(options.source(name).repo for name in options.wanted)


def _model(options: ModelsOptions, name: str) -> Iterator[Source]:
    wanted, chosen = options.wanted[name], options.source(name)
    what = f"model {name}"
    if chosen.url:
        yield Source(
            kind="model", what=what, name=host_of(chosen.url), option=f"models/wanted/{name}/url", url=chosen.url,
            shows="GGUF" if chosen.path.endswith(".gguf") else "",
        )  # fmt: skip
    for place in chosen.places:
        yield _at(place, chosen.files, what, f"models/{place.hub}_endpoint", place.endpoint)
    # What one changed option could bring instead: another endpoint, the other hub if it is known to have the same.
    first = {place.hub: place for place in reversed(chosen.places)}
    if found := first.get("huggingface"):
        asked = [place.endpoint for place in chosen.places]
        for endpoint in (*ModelsOptions().huggingface_endpoint, HUGGINGFACE_MIRROR):
            if endpoint not in asked:
                instead = replace(found, endpoint=endpoint)
                yield _at(instead, chosen.files, what, "models/huggingface_endpoint", endpoint, declared=False)
    option = f"models/wanted/{name}/hub" if wanted.hub else "models/hub"
    for place in options.known_places(name):
        if place.hub not in first:
            yield _at(place, chosen.files, what, option, place.hub, declared=False)


def _at(
    place: Place, files: tuple[str, ...], what: str, option: str, value: str, *, declared: bool = True
) -> Source:  # fmt: skip
    """
    Return a place as the doctor asks it: the listing, where only that names the file, and the file.

    https://huggingface.co/docs/hub/api, https://modelscope.cn/docs/models/download.
    """
    revision = quote(place.revision, safe="")
    if place.hub == "huggingface":
        url = f"{place.endpoint}/{place.repo}/resolve/{revision}/"
        listing = f"{place.endpoint}/api/models/{place.repo}/tree/{revision}?recursive=true"
    else:
        base = f"{place.endpoint}/api/v1/models/{place.repo}/repo"
        url, listing = f"{base}?Revision={revision}&FilePath=", f"{base}/files?Revision={revision}&Recursive=True"
    exact = files[0] if files and not set("*?[") & set(files[0]) else ""
    return Source(
        kind="model", what=what, name=host_of(place.endpoint), option=option, value=value, declared=declared,
        url=url + quote(exact), listing="" if exact else listing, pattern=r'"[Pp]ath":\s*"([^"]+)"',
        files=files or WEIGHTS, shows="GGUF" if exact.endswith(".gguf") else "",
    )  # fmt: skip
