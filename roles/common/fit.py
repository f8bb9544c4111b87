"""Whether models fit into memory: the arithmetic, printed so that a person can check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OVERHEAD_BYTES = 1 << 30
"""What llama.cpp needs beside weights and KV cache: buffers for computing, the CUDA context, the program."""

USABLE = 0.92
"""Share of a card's memory that can be filled; the rest is the driver's and the desktop's."""

CACHE_BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
    "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
"""Type of the KV cache -> bytes for each element (block sizes of ggml/src/ggml-common.h)."""


@dataclass(frozen=True)
class Demand:
    """Memory that one server needs."""

    name: str
    weights_bytes: int
    kv_cache_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_cache_bytes + OVERHEAD_BYTES

    def __str__(self) -> str:
        """Spell the sum: "r1: 4.7 GiB weights + 0.2 GiB KV cache + 1.0 GiB overhead"."""
        return (
            f"{self.name}: {gib(self.weights_bytes)} weights + {gib(self.kv_cache_bytes)} KV cache + "
            f"{gib(OVERHEAD_BYTES)} overhead"
        )


def kv_cache_bytes(elements_per_token: int, context_length: int, type_k: str, type_v: str) -> int:
    """Return the size of a KV cache; a token has as many elements for keys as for values, half of them each."""
    return int(elements_per_token / 2 * (CACHE_BYTES[type_k] + CACHE_BYTES[type_v]) * context_length)


def total(demands: Sequence[Demand]) -> int:
    """Return what all need together, in bytes."""
    return sum(demand.total_bytes for demand in demands)


def gib(size_bytes: float) -> str:
    """Spell a size: "4.7 GiB"."""
    return f"{size_bytes / (1 << 30):.1f} GiB"
