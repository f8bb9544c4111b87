"""What "works" means for the ktransformers role."""

from __future__ import annotations

from roles.common.endpoint import Endpoint
from roles.common.engine import key_file, reachable
from roles.ktransformers.options import KTransformersOptions
from roles.ktransformers.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: KTransformersOptions) -> list[Endpoint]:
    """Return the servers that must answer on this host."""
    return [
        Endpoint(
            name=f"ktransformers/instances/{name}",
            unit=unit_name(name),
            url=f"http://{reachable(instance.host)}:{instance.port}",
            listens=instance.host,
            model=instance.alias or name,
            context_length=instance.context_length,
            api_key_file=key_file("ktransformers", name) if instance.api_key else None,
            prompt=instance.golden_prompt,
            max_tokens=instance.golden_max_tokens,
            min_tokens_per_second=instance.min_tokens_per_second,
            ready_timeout_seconds=instance.ready_timeout_seconds,
            device_proof="gpu_memory",
        )
        for name, instance in options.present.items()
    ]
