"""What "works" means for the ollama role."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.endpoint import DeviceProof, Endpoint
from roles.common.engine import endpoint, reachable
from roles.common.lock import vendors_of
from roles.ollama.options import OllamaInstanceOptions, OllamaOptions, api_name
from roles.ollama.units import UNIT

UNITS = UNIT
"""What the names of this role's units are like."""


def endpoints(options: OllamaOptions, tags: Sequence[str]) -> list[Endpoint]:
    """Return the models that must answer on this host; of a daemon without any, the daemon."""
    if not options.enabled:
        return []
    url = f"http://{reachable(options.host)}:{options.port}"
    if not options.served:
        return [Endpoint(name="ollama", unit=UNIT, url=url, health_path="/api/version", ready_timeout_seconds=120,
                         listens=options.host)]  # fmt: skip
    return [
        endpoint(
            "ollama",
            name,
            one,
            UNIT,
            url=url,
            listens=options.host,
            health_path="/api/version",
            model=api_name(name, one),
            device_proof=proof(one, options, tags),
        )
        for name, one in options.served.items()
    ]


def proof(one: OllamaInstanceOptions, options: OllamaOptions, tags: Sequence[str]) -> DeviceProof:
    """Return how it shows that a card computes, where one is meant to."""
    has_card = options.rocm or bool(vendors_of(tags))
    return "ollama_ps" if has_card and one.gpu_layers in ("auto", "all") else ""
