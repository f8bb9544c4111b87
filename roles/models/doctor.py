"""What the doctor asks for the models role: a file of each wanted model, on every hub that has it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from roles.common.model import HubName, catalogue
from roles.common.sources import Source, host_of
from roles.models.options import DEFAULT_BRANCH, ModelsOptions

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
    if not chosen.repo or not chosen.revision:
        return
    if chosen.kind == "huggingface":
        endpoints = dict.fromkeys(
            (options.huggingface_endpoint, ModelsOptions().huggingface_endpoint, HUGGINGFACE_MIRROR)
        )
        for endpoint in endpoints:
            yield _huggingface(endpoint, chosen.repo, chosen.revision, chosen.files, what=what, value=endpoint,
                               option="models/huggingface_endpoint",
                               declared=endpoint == options.huggingface_endpoint)  # fmt: skip
    else:
        yield _modelscope(options.modelscope_endpoint, chosen.repo, chosen.revision, chosen.files, what=what,
                          option="models/modelscope_endpoint", value=options.modelscope_endpoint)  # fmt: skip
    entry = None if wanted.repo else catalogue()[name]
    option = f"models/wanted/{name}/hub" if wanted.hub else "models/hub"
    other: HubName = "modelscope" if chosen.kind == "huggingface" else "huggingface"
    place = entry and (entry.modelscope if other == "modelscope" else entry.huggingface)
    if entry and place:
        ask, endpoint = (
            (_modelscope, options.modelscope_endpoint)
            if other == "modelscope"
            else (_huggingface, options.huggingface_endpoint)
        )
        yield ask(endpoint, place.repo, place.revision or DEFAULT_BRANCH[other], tuple(entry.files), what=what,
                  option=option, value=other, declared=False)  # fmt: skip


def _huggingface(
    endpoint: str, repo: str, revision: str, files: tuple[str, ...], *, what: str, option: str, value: str,
    declared: bool = True,
) -> Source:  # fmt: skip
    """https://huggingface.co/docs/hub/api for the listing; a large file is a redirect to where its bytes are."""
    base, revision = endpoint.rstrip("/"), quote(revision, safe="")
    return _file(
        f"{base}/{repo}/resolve/{revision}/", f"{base}/api/models/{repo}/tree/{revision}?recursive=true", files,
        name=host_of(endpoint), what=what, option=option, value=value, declared=declared,
    )  # fmt: skip


def _modelscope(
    endpoint: str, repo: str, revision: str, files: tuple[str, ...], *, what: str, option: str, value: str,
    declared: bool = True,
) -> Source:  # fmt: skip
    """The addresses that its client asks: https://modelscope.cn/docs/models/download."""
    base = f"{endpoint.rstrip('/')}/api/v1/models/{repo}/repo"
    revision = quote(revision, safe="")
    return _file(
        f"{base}?Revision={revision}&FilePath=", f"{base}/files?Revision={revision}&Recursive=True", files,
        name=host_of(endpoint), what=what, option=option, value=value, declared=declared,
    )  # fmt: skip


def _file(
    url: str, listing: str, files: tuple[str, ...], *, name: str, what: str, option: str, value: str, declared: bool
) -> Source:
    exact = files[0] if files and not set("*?[") & set(files[0]) else ""
    return Source(
        kind="model", what=what, name=name, option=option, value=value, declared=declared,
        url=url + quote(exact), listing="" if exact else listing, pattern=r'"[Pp]ath":\s*"([^"]+)"',
        files=files or WEIGHTS, shows="GGUF" if exact.endswith(".gguf") else "",
    )  # fmt: skip
