"""What "works" means for the transformers_serve role."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.endpoint import Endpoint
from roles.common.engine import endpoint
from roles.transformers_serve.options import TransformersServeOptions, computes_on
from roles.transformers_serve.units import served_name, unit_name

UNITS = unit_name("*")
"""What the names of this role's units are like."""


def endpoints(options: TransformersServeOptions, tags: Sequence[str]) -> list[Endpoint]:
    """Return the servers that must answer on this host."""
    return [
        endpoint(
            "transformers_serve",
            name,
            one,
            unit_name(name),
            model=served_name(name, one),
            device_proof="gpu_memory" if computes_on(one, tags) != "none" else "",
        )
        for name, one in options.present.items()
    ]
