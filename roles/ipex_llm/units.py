"""The image, and the text of the units, of IPEX-LLM's servers: pure functions of the options."""

from __future__ import annotations

from hashlib import sha256

from roles.common.container import Container, Mount, container_unit
from roles.common.model import Model
from roles.ipex_llm.options import IpexLlmInstanceOptions, IpexLlmOptions

PORT = 8000
"""In the container."""
MODELS = "/llm/models"
RECIPE = """\
# Written by metal2model, role ipex_llm: what lightweight_serving.py imports and the image lacks.
FROM {image}
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends libaio-dev libjpeg-turbo8 libpng16-16 \\
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir openai==1.59.7 python-multipart==0.0.20
WORKDIR /llm/lightweight_serving
ENTRYPOINT ["python", "lightweight_serving.py"]
"""
"""
The image's own server, https://github.com/intel/ipex-llm/tree/main/python/llm/example/GPU/Lightweight-Serving; the
versions are of the time when the image was built.
"""


def unit_name(instance: str) -> str:
    """Return the full name of an instance's unit."""
    return f"ipex-llm@{instance}.service"


def recipe(options: IpexLlmOptions) -> str:
    """Return the Dockerfile of the image that runs."""
    return RECIPE.format(image=options.image)


def image(options: IpexLlmOptions) -> str:
    """Return the name of the image that runs: another recipe, or another image under it, is another one."""
    return f"metal2model/ipex-llm:{sha256(recipe(options).encode()).hexdigest()[:12]}"


def render(name: str, instance: IpexLlmInstanceOptions, options: IpexLlmOptions, model: Model) -> str:
    """Return the text of an instance's unit."""
    inside = f"{MODELS}/{instance.alias or name}"  # the last part of it is the model's name in answers
    container = Container(
        name=f"ipex-llm-{name}",
        image=image(options),
        arguments=["--repo-id-or-model-path", inside, "--low-bit", instance.low_bit, "--port", str(PORT),
                   *instance.extra_arguments],
        # It listens on every address that it has; here it has one of its own.
        publish=(instance.host, instance.port or 0, PORT),
        environment={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", **instance.environment},
        mounts=[Mount(model.path, inside)],
        devices=options.devices,
        options=[f"--memory={instance.memory_gib}g", f"--shm-size={instance.shared_memory_gib}g"],
    )  # fmt: skip
    return container_unit(
        container,
        role="ipex_llm",
        option=f"ipex_llm/instances/{name}",
        description=f"IPEX-LLM server {name} ({instance.model})",
        documentation="https://github.com/intel/ipex-llm",
    )
