"""What "works" means for the llama_cpp role."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.endpoint import Endpoint
from roles.common.engine import endpoint
from roles.common.lock import vendors_of
from roles.llama_cpp.options import LlamaCppInstanceOptions, LlamaCppOptions
from roles.llama_cpp.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: LlamaCppOptions, tags: Sequence[str]) -> list[Endpoint]:
    """Return the servers that must answer on this host."""
    return [
        endpoint(
            "llama_cpp",
            name,
            one,
            unit_name(name),
            # Else the second prompt would be no work (tools/server/README.md).
            request_fields={"cache_prompt": False},
            device_proof="gpu_memory" if _must_use_card(options, one, tags) else "",
        )
        for name, one in options.instances.items()
        if one.present
    ]


def _must_use_card(options: LlamaCppOptions, instance: LlamaCppInstanceOptions, tags: Sequence[str]) -> bool:
    """Whether the processors alone would be a failure: a card is declared, the program can use it, and may."""
    if options.variant == "fastest":
        return False  # the processors may have won
    return bool(vendors_of(tags)) and options.uses_gpu(tags) and instance.gpu_layers != 0
