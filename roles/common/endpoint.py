"""A model server, as an engine role hands it to verify."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server on a host, and what it must prove."""

    name: str
    """Option path of the instance: ``llama_cpp/instances/r1``."""
    unit: str
    url: str
    """Base URL as seen from the host itself, without a trailing slash."""
    model: str
    """Model name that ``/v1/models`` must list."""
    api_key_file: str | None
    """File on the host with the key; read there, never sent to the controller."""
    prompt: str
    max_tokens: int
    min_tokens_per_second: float
    ready_timeout_seconds: int
