"""Text of a Modelfile: a pure function of an instance's options (docs/modelfile.mdx upstream)."""

from __future__ import annotations

import re

from roles.ollama.options import OllamaInstanceOptions

MOST_TOKENS = 1 << 20
"""Asked for where the context shall be all that the model was trained with: Ollama cuts it down to that itself
(llm/server.go, "requested context size too large for model")."""
ALL_LAYERS = 999
"""More than any model has."""
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def shards(path: str) -> list[str]:
    """Return the paths of all parts of a GGUF file; of one that is not split, its own."""
    match = _SHARD.fullmatch(path)
    if match is None:
        return [path]
    return [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def render(name: str, instance: OllamaInstanceOptions, sources: list[str]) -> str:
    """Return the Modelfile of an instance; ``sources`` are the files that it is made of, or the model that it pulls."""
    lines = [
        f"# Written by metal2model, role ollama. Change ollama/instances/{name} in the inventory, not this file.",
        *(f"FROM {source}" for source in sources),
    ]
    if instance.adapter:
        lines.append(f"ADAPTER {instance.adapter}")
    lines += [f"PARAMETER {key} {value}" for key, value in parameters(instance).items()]
    lines += [f"PARAMETER stop {quoted(text)}" for text in instance.stop]
    texts = {"TEMPLATE": instance.template, "SYSTEM": instance.system, "LICENSE": instance.license}
    lines += [f"{command} {quoted(text)}" for command, text in texts.items() if text is not None]
    lines += [f"MESSAGE {message.role} {quoted(message.content)}" for message in instance.messages]
    return "\n".join(lines) + "\n"


def parameters(instance: OllamaInstanceOptions) -> dict[str, int | float]:
    """Return the parameters that are numbers."""
    layers = {"auto": None, "all": ALL_LAYERS}.get(str(instance.gpu_layers), instance.gpu_layers)
    given = {
        "num_ctx": instance.context_length or MOST_TOKENS,
        "num_gpu": layers,
        "num_thread": instance.threads,
        "num_predict": instance.num_predict,
        "repeat_last_n": instance.repeat_last_n,
        "repeat_penalty": instance.repeat_penalty,
        "seed": instance.seed,
        "temperature": instance.temperature,
        "top_k": instance.top_k,
        "top_p": instance.top_p,
        "min_p": instance.min_p,
    }
    return {key: value for key, value in given.items() if isinstance(value, int | float)}


def quoted(text: str) -> str:
    """
    Return a text as a Modelfile holds any: nothing is escaped in three quotes, and only three quotes end it.

    What they cannot hold, the options refuse.
    """
    return f'"""{text}"""'
