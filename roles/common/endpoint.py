"""A server, as its role hands it to verify."""

from dataclasses import dataclass
from typing import Literal

DeviceProof = Literal["", "gpu_memory", "ollama_ps"]
"""
How verify sees which device computes: by the GPU memory that the unit's processes hold (nvidia-smi, or the kernel's
drm-usage-stats), or by what Ollama's ``/api/ps`` says of the model (docs/api.md upstream).
"""


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
    health_command: tuple[str, ...] = ()
    """Run on the host instead, where health is no page: it succeeds, or says what is wrong."""
    ready_timeout_seconds: int
    model: str = ""
    """Model name that ``/v1/models`` must list; "" for a page that serves no model by itself."""
    api_key_file: str | None = None
    """File on the host with the key; read there, never sent to the controller."""
    prompt: str = ""
    """Asked of the model."""
    max_tokens: int = 0
    min_tokens_per_second: float = 0.0
    listens: str = ""
    """Address that it listens on, where that is not the one in `url`: others may reach it there."""
    context_length: int = 0
    """Tokens that one request may have; 0 for what is not known. Clients want to be told."""
    notes: tuple[str, ...] = ()
    """What else a person needs in order to use it, one line each."""
    device_proof: DeviceProof = ""
    """Set where the model must compute on a GPU; "" asks nothing."""
