"""What "works" means for the vllm role."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.endpoint import Endpoint
from roles.common.engine import endpoint
from roles.vllm.options import VllmOptions
from roles.vllm.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: VllmOptions, tags: Sequence[str]) -> list[Endpoint]:
    """Return the servers that must answer on this host; of a model on several hosts the head, and others must run."""
    # A container's processes are not its unit's.
    proof = options.method == "native" and options.computes_on(tags) != "none"
    heads = [
        endpoint(
            "vllm",
            name,
            one,
            unit_name(name),
            restarts_by_itself=bool(one.nodes),
            device_proof="gpu_memory" if proof and one.distributed_executor_backend != "ray" else "",
        )
        for name, one in options.present.items()
        if not one.headless
    ]
    workers = [
        Endpoint(
            name=f"vllm/instances/{name}",
            unit=unit_name(name),
            url=f"tcp://{one.nodes[0]}:{one.watch_port}",
            health_command=("systemctl", "is-active", unit_name(name)),
            restarts_by_itself=True,
            ready_timeout_seconds=one.ready_timeout_seconds,
        )
        for name, one in options.present.items()
        if one.headless
    ]
    return [*heads, *workers]
