"""What "works" means for the llama_cpp role."""

from __future__ import annotations

from roles.common.endpoint import Endpoint
from roles.common.engine import key_file, reachable
from roles.llama_cpp.options import LlamaCppOptions
from roles.llama_cpp.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: LlamaCppOptions) -> list[Endpoint]:
    """Return the servers that must answer on this host."""
    return [
        Endpoint(
            name=f"llama_cpp/instances/{name}",
            unit=unit_name(name),
            url=f"http://{reachable(instance.host)}:{instance.port}",
            model=instance.alias or name,
            api_key_file=key_file("llama_cpp", name) if instance.api_key else None,
            prompt=instance.golden_prompt,
            max_tokens=instance.golden_max_tokens,
            min_tokens_per_second=instance.min_tokens_per_second,
            ready_timeout_seconds=instance.ready_timeout_seconds,
        )
        for name, instance in options.instances.items()
        if instance.present
    ]
