"""A server, as its role hands it to verify."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DeviceProof = Literal["", "gpu_memory", "ollama_ps"]
"""
How verify sees which device computes: by the GPU memory that the unit's processes hold (nvidia-smi, or the kernel's
drm-usage-stats), or by what Ollama's ``/api/ps`` says of the model (docs/api.md upstream).
"""


Api = Literal["openai", "completions"]
"""What of OpenAI's API a server has: models, chat and usage, or ``/v1/completions`` alone."""


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
    restarts_by_itself: bool = False
    """A restart while it is checked is no fault, as of a node whose cluster began anew."""
    model: str = ""
    """Model name that ``/v1/models`` must list; "" for a page that serves no model by itself."""
    api: Api = "openai"
    attempts: int = 1
    """How often the prompt is asked until it is answered; more than once where the first answers may fail."""
    api_key_file: str | None = None
    """File on the host with the key; read there, never sent to the controller."""
    prompt: str = ""
    """Asked of the model."""
    max_tokens: int = 0
    request_fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the request beside OpenAI's own, which another server might refuse."""
    min_tokens_per_second: float = 0.0
    listens: str = ""
    """Address that it listens on, where that is not the one in `url`: others may reach it there."""
    context_length: int = 0
    """Tokens that one request may have; 0 for what is not known. Clients want to be told."""
    notes: tuple[str, ...] = ()
    """What else a person needs in order to use it, one line each."""
    device_proof: DeviceProof = ""
    """Set where the model must compute on a GPU; "" asks nothing."""
