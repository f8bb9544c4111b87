"""What "works" means for the llama_cpp role."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.endpoint import Endpoint
from roles.common.engine import key_file, reachable
from roles.common.lock import vendors_of
from roles.llama_cpp.options import LlamaCppInstanceOptions, LlamaCppOptions
from roles.llama_cpp.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: LlamaCppOptions, tags: Sequence[str]) -> list[Endpoint]:
    """Return the servers that must answer on this host."""
    return [
        Endpoint(
            name=f"llama_cpp/instances/{name}",
            unit=unit_name(name),
            url=f"http://{reachable(instance.host)}:{instance.port}",
            listens=instance.host,
            model=instance.alias or name,
            context_length=instance.context_length,
            api_key_file=key_file("llama_cpp", name) if instance.api_key else None,
            prompt=instance.golden_prompt,
            # Else the second prompt would be no work (tools/server/README.md).
            request_fields={"cache_prompt": False},
            max_tokens=instance.golden_max_tokens,
            min_tokens_per_second=instance.min_tokens_per_second,
            ready_timeout_seconds=instance.ready_timeout_seconds,
            device_proof="gpu_memory" if _must_use_card(options, instance, tags) else "",
        )
        for name, instance in options.instances.items()
        if instance.present
    ]


def _must_use_card(options: LlamaCppOptions, instance: LlamaCppInstanceOptions, tags: Sequence[str]) -> bool:
    """Whether the processors alone would be a failure: a card is declared, the program can use it, and may."""
    if options.variant == "fastest":
        return False  # the processors may have won
    return bool(vendors_of(tags)) and options.uses_gpu(tags) and instance.gpu_layers != 0
