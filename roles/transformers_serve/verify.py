"""What "works" means for the transformers_serve role."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.endpoint import Endpoint
from roles.common.engine import reachable
from roles.transformers_serve.options import TransformersServeOptions, computes_on
from roles.transformers_serve.units import served_name, unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: TransformersServeOptions, tags: Sequence[str]) -> list[Endpoint]:
    """Return the servers that must answer on this host."""
    return [
        Endpoint(
            name=f"transformers_serve/instances/{name}",
            unit=unit_name(name),
            url=f"http://{reachable(instance.host)}:{instance.port}",
            model=served_name(name, instance),
            context_length=instance.context_length,
            prompt=instance.golden_prompt,
            max_tokens=instance.golden_max_tokens,
            min_tokens_per_second=instance.min_tokens_per_second,
            ready_timeout_seconds=instance.ready_timeout_seconds,
            device_proof="gpu_memory" if computes_on(instance, tags) != "none" else "",
        )
        for name, instance in options.present.items()
    ]
