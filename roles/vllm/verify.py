"""What "works" means for the vllm role."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.endpoint import Endpoint
from roles.common.engine import key_file, reachable
from roles.vllm.options import VllmOptions
from roles.vllm.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: VllmOptions, tags: Sequence[str]) -> list[Endpoint]:
    """Return the servers that must answer on this host; of a model on several hosts, the head answers."""
    # A container's processes are not its unit's.
    proof = options.method == "native" and options.computes_on(tags) != "none"
    return [
        Endpoint(
            name=f"vllm/instances/{name}",
            unit=unit_name(name),
            url=f"http://{reachable(instance.host)}:{instance.port}",
            listens=instance.host,
            model=instance.alias or name,
            context_length=instance.context_length,
            api_key_file=key_file("vllm", name) if instance.api_key else None,
            prompt=instance.golden_prompt,
            max_tokens=instance.golden_max_tokens,
            min_tokens_per_second=instance.min_tokens_per_second,
            ready_timeout_seconds=instance.ready_timeout_seconds,
            device_proof="gpu_memory" if proof and instance.distributed_executor_backend != "ray" else "",
        )
        for name, instance in options.present.items()
        if not instance.headless
    ]
