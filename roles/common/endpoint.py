"""A server, as its role hands it to verify."""

from dataclasses import dataclass
from typing import Literal

DeviceProof = Literal["", "llama_cpp_log", "ollama_ps"]
"""How verify sees which device computes: llama-server's journal says how many layers it offloaded
(src/llama-model.cpp), Ollama's ``/api/ps`` how much of the model is in GPU memory (docs/api.md)."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A server on a host, and what it must prove."""

    name: str
    """Option path of the instance: ``llama_cpp/instances/r1``."""
    unit: str
    url: str
    """Base URL as seen from the host itself, without a trailing slash."""
    health_path: str = "/health"
    """Answers 200 when it can serve; what it says then does not matter."""
    ready_timeout_seconds: int
    model: str = ""
    """Model name that ``/v1/models`` must list; "" for a page that serves no model by itself."""
    api_key_file: str | None = None
    """File on the host with the key; read there, never sent to the controller."""
    prompt: str = ""
    """Asked of the model."""
    max_tokens: int = 0
    min_tokens_per_second: float = 0.0
    device_proof: DeviceProof = ""
    """Set where the model must compute on a GPU; "" asks nothing."""
