# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/shape.py.
"""
What a model's files say of the memory that it takes, read before any of its weights: config.json, or a GGUF's header.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes the header. It comes from strangers: whatever it
holds, reading ends, within `HEADER_LIMIT`, with a shape or with `Unknown`.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from .known import Json

HEADER_FIRST = 4096
"""Bytes to begin with: what is wanted stands before the vocabulary, which is megabytes."""
HEADER_LIMIT = 32 << 20
COUNT_LIMIT = 1 << 20
"""What no number of layers, heads or elements of a head exceeds; more is nonsense."""
LAYERS_LIMIT = 4096

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Unknown(Exception):
    """What was read says nothing that could be counted with; the message says why."""


class Cut(Exception):
    """The header goes on behind what was read."""


class Reader:
    """The bytes of a header, from the front."""

    def __init__(self, data: bytes) -> None:
        """Begin at the first byte."""
        self.data, self.at = data, 0

    def skip(self, count: int) -> int:
        """Go on by so many bytes; return where they began."""
        begin = self.at
        if count > len(self.data) - begin:
            if count > HEADER_LIMIT:
                raise Unknown(f"its header speaks of {count} bytes in one value")
            raise Cut
        self.at += count
        return begin

    def number(self, kind: str) -> Any:
        """Return a number; ``kind`` as of module struct."""
        form = f"<{kind}"
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def string(self) -> str:
        """Return a text."""
        size = self.number("Q")
        begin = self.skip(size)
        return self.data[begin : begin + size].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """Return a number, a text or a short list of numbers; None for a list that is anything else."""
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise Unknown(f"its header has a value of kind {kind}, which GGUF does not have")
        of, count = self.number("I"), self.number("Q")
        if of in SCALARS:
            size = struct.calcsize(f"<{SCALARS[of]}")
            begin = self.skip(size * count)
            if count > LAYERS_LIMIT:
                return None
            return list(struct.unpack_from(f"<{count}{SCALARS[of]}", self.data, begin))
        if of != STRING:
            raise Unknown("its header has lists of lists")
        if 8 * count > HEADER_LIMIT:
            raise Unknown(f"its header has a list of {count} texts")
        for _ in range(count):
            self.skip(self.number("Q"))
        return None


def gguf_values(data: bytes) -> Json:
    """
    Return the header's values, as far as the vocabulary; raise `Cut` when ``data`` ends before.

    Converters write what describes the model before its tokenizer (gguf-py's writer keeps the order).
    """
    reader = Reader(data)
    if (magic := data[:4]) != b"GGUF":
        raise Unknown(f"it is no GGUF file: it begins with {magic!r}")
    reader.skip(4)
    version = reader.number("I")
    if version not in (2, 3):
        raise Unknown(f"its GGUF version is {version}, and 2 and 3 are known")
    reader.skip(8)  # how many tensors
    values: Json = {}
    for _ in range(reader.number("Q")):
        key = reader.string()
        if key.startswith("tokenizer."):
            break
        values[key] = reader.value(reader.number("I"))
    return values


def of_gguf(values: Json, size: int) -> Json:
    """Return the shape of a model whose GGUF header has these values, and whose files so many bytes."""
    arch = values.get("general.architecture")

    def get(key: str, default: Any = None) -> Any:
        return values.get(f"{arch}.{key}", default)

    heads = get("attention.head_count")
    kv_heads = get("attention.head_count_kv", heads)
    most = max(heads, default=0) if isinstance(heads, list) else heads
    width = get("embedding_length")
    each = width // most if _counts(width, most) else None
    layers = get("block_count")
    if _counts(layers) and isinstance(predicting := get("nextn_predict_layers", 0), int):
        layers -= predicting  # they guess tokens ahead, and llama.cpp keeps no cache for them
    return _shape(
        size=size,
        layers=layers,
        heads=most,
        kv_heads=kv_heads[:layers] if isinstance(kv_heads, list) and _counts(layers) else kv_heads,
        head_dim=get("attention.key_length", each),
        # Multi-head latent attention: the values are part of the keys (ggml-org/llama.cpp#19067).
        value_dim=0 if get("attention.key_length_mla") else get("attention.value_length", each),
        context_length=get("context_length"),
    )


def of_config(text: str, size: int) -> Json:
    """
    Return the shape of a model with this config.json, and with so many bytes of weights.

    Names as of transformers' PretrainedConfig; a model that also sees has those of its language in text_config.
    """
    try:
        config: Json = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unknown(f"its config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise Unknown("its config.json is no object")
    if isinstance(inner := config.get("text_config"), dict):
        config = {**config, **inner}

    def get(key: str) -> Any:
        return config.get(key)

    heads, width, latent, rope = (
        get(key) for key in ("num_attention_heads", "hidden_size", "kv_lora_rank", "qk_rope_head_dim")
    )
    shared = {
        "size": size,
        "heads": heads,
        "layers": get("num_hidden_layers"),
        "context_length": get("max_position_embeddings"),
    }
    if isinstance(kinds := get("layer_types"), list):
        shared["layers"] = sum(kind != "linear_attention" for kind in kinds)
    if _counts(latent, rope):
        return _shape(**shared, kv_heads=1, head_dim=latent + rope, value_dim=0)
    each = get("head_dim") or (width // heads if _counts(width, heads) else None)
    return _shape(
        **shared, kv_heads=get("num_key_value_heads") or heads, head_dim=each, value_dim=get("v_head_dim") or each
    )


def _counts(*values: Any) -> bool:
    """Tell whether all are numbers of which there can be so many."""
    return all(type(value) is int and 0 < value <= COUNT_LIMIT for value in values)


def _shape(*, size: int, context_length: Any, **attention: Any) -> Json:
    """Return what the controller counts with, roles/common/model.py; raise `Unknown` where a number is no number."""
    needed = {name: attention[name] for name in ("layers", "head_dim")}
    kv_heads = attention["kv_heads"]
    if isinstance(kv_heads, list):
        if len(kv_heads) != needed["layers"] or not any(kv_heads) or not all(h == 0 or _counts(h) for h in kv_heads):
            raise Unknown("its attention.head_count_kv does not go with its layers")
    else:
        needed["kv_heads"] = kv_heads
    if wrong := [name for name, value in needed.items() if not _counts(value)]:
        raise Unknown(f"it does not say its {', '.join(wrong)}")
    if needed["layers"] > LAYERS_LIMIT:
        raise Unknown(f"it says that it has {needed['layers']} layers")
    if attention["value_dim"] != 0 and not _counts(attention["value_dim"]):
        attention["value_dim"] = attention["head_dim"]
    if not _counts(attention["heads"]):
        attention["heads"] = None
    # Contexts are longer than anything else is large: 10 million tokens exist.
    known = type(context_length) is int and 0 < context_length < 1 << 40
    return {"size_bytes": size, "attention": attention, "context_length": context_length if known else None}
