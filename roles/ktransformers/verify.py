"""What "works" means for the ktransformers role."""

from __future__ import annotations

from roles.common.endpoint import Endpoint
from roles.common.engine import endpoint
from roles.ktransformers.options import KTransformersOptions
from roles.ktransformers.units import unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: KTransformersOptions) -> list[Endpoint]:
    """Return the servers that must answer on this host."""
    return [
        endpoint("ktransformers", name, one, unit_name(name), device_proof="gpu_memory")
        for name, one in options.present.items()
    ]
