"""
All that a host's declaration would fetch from, as the doctor asks it.

Beside `Declaration` and not in it, so that what the roles need for this is not imported at every start of pyinfra.
"""

from __future__ import annotations

from roles.common.hardware import HardwareReport
from roles.common.sources import Source
from roles.declaration import Declaration
from roles.dify.doctor import sources as dify
from roles.docker.doctor import sources as docker
from roles.intel_gpu.doctor import sources as intel_gpu
from roles.kernel.doctor import sources as kernel
from roles.llama_cpp.doctor import sources as llama_cpp
from roles.mirrors.doctor import sources as mirrors
from roles.mirrors.facts import HostSources
from roles.models.doctor import needs_pypi as models_need_pypi
from roles.models.doctor import sources as models
from roles.ollama.doctor import sources as ollama
from roles.vllm.units import image_of


def sources_of(declared: Declaration, report: HardwareReport, state: HostSources) -> list[Source]:
    """Return the sources of all roles, in their order; ``state``: what apt and pip on the host are set to."""
    tags = declared.tags
    if declared.mirrors.all:
        return bundled(declared.mirrors.all)
    return [
        *mirrors(declared.mirrors, state, needs_pypi=needs_pypi(declared)),
        *kernel(declared.kernel, tags, report),
        *intel_gpu(declared.intel_gpu, tags, report),
        *models(declared.models),
        *(docker(declared.docker, tags, report, images(declared)) if declared.docker else []),
        *(llama_cpp(declared.llama_cpp, tags, report.architecture) if declared.llama_cpp else []),
        *(ollama(declared.ollama, report.architecture) if declared.ollama else []),
        *(dify(declared.dify) if declared.dify else []),
    ]


def bundled(base: str) -> list[Source]:
    """Return what stands for all sources of a host that has everything from a bundle; a directory needs no doctor."""
    everything = Source(
        kind="release", what="everything", name="bundle", option="mirrors/all", url=f"{base}/SHA256SUMS",
        shows="InRelease",
    )  # fmt: skip
    return [] if base.startswith("file:") else [everything]


def needs_pypi(declared: Declaration) -> bool:
    """Whether something of this host is installed from a Python package index."""
    vllm, page = declared.vllm, declared.open_webui
    return (
        models_need_pypi(declared.models)
        or (declared.ray is not None and declared.ray.present)
        or (declared.ktransformers is not None and bool(declared.ktransformers.present))
        or (declared.transformers_serve is not None and declared.transformers_serve.needs_pypi)
        or (vllm is not None and vllm.installed and vllm.method == "native")
        or (page is not None and page.present and page.method == "native")
    )


def images_of(declared: Declaration) -> list[str]:
    """Return the images that this host has by its declaration."""
    return [*(declared.docker.images if declared.docker else []), *images(declared)]


def images(declared: Declaration) -> list[str]:
    """Return the images that servers of this host run in."""
    vllm, page, ipex = declared.vllm, declared.open_webui, declared.ipex_llm
    return [
        *([ipex.image] if ipex and ipex.needs_docker else []),
        *([image_of(vllm, vllm.computes_on(declared.tags))] if vllm and vllm.installed and vllm.needs_docker else []),
        *([page.image] if page and page.present and page.needs_docker else []),
    ]
