# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/shape.py.
"""
What a model's files say of the memory that it takes, read before any of its weights: config.json, or a GGUF's header.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes the header. It comes from strangers: whatever it
holds, reading ends, within `HEADER_LIMIT`, with a shape or with `Unknown`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from .known import Json

HEADER_FIRST = 4096
"""Bytes to begin with: what is wanted stands before the vocabulary, which is megabytes."""
HEADER_LIMIT = 32 << 20
COUNT_LIMIT = 1 << 20
"""What no number of layers, heads or elements of a head exceeds; more is nonsense."""
LAYERS_LIMIT = 4096

PERIODS = {
    "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt-oss": 2, "gpt_oss": 2, "cohere2": 4, "olmo2": 4, "mistral": 0,
}  # fmt: skip
"""
Kind of model -> of how many layers the last has no window (0: all have one), where its files leave that to the
programs: as a GGUF's architecture (src/models of llama.cpp) and as config.json's model_type (transformers).
"""

PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
"""Names of that number in config.json."""

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
    window, pattern = get("attention.sliding_window"), get("attention.sliding_window_pattern", PERIODS.get(str(arch)))
    most = max(heads, default=0) if isinstance(heads, list) else heads
    width = get("embedding_length")
    each = width // most if _counts(width, most) else None
    layers = get("block_count")
    if _counts(layers) and isinstance(predicting := get("nextn_predict_layers", 0), int):
        layers -= predicting  # they guess tokens ahead, and llama.cpp keeps no cache for them
    if _counts(layers) and isinstance(shared := get("attention.shared_kv_layers", 0), int):
        layers -= shared  # the last ones use what earlier ones keep
    key = get("attention.key_length", each)
    # Multi-head latent attention: the values are part of the keys (ggml-org/llama.cpp#19067).
    value = 0 if get("attention.key_length_mla") else get("attention.value_length", each)
    return _shape(
        size=size,
        layers=layers,
        heads=most,
        kv_heads=kv_heads[:layers] if isinstance(kv_heads, list) and _counts(layers) else kv_heads,
        head_dim=key,
        value_dim=value,
        window=window,
        slides=_slides(pattern, layers),
        near_dims=(get("attention.key_length_swa", key), get("attention.value_length_swa", value)),
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
    shared = {"size": size, "heads": heads, "context_length": get("max_position_embeddings")}
    layers, kinds = get("num_hidden_layers"), get("layer_types")
    if isinstance(kinds, list):
        kinds = kinds[:-reused] if _counts(reused := get("num_kv_shared_layers")) else kinds
        kinds = [kind for kind in kinds if kind != "linear_attention"]
        layers, slides = len(kinds), [kind == "sliding_attention" for kind in kinds]
    else:
        usual = PERIODS.get(str(get("model_type")))
        slides = _slides(next((n for n in map(get, PATTERNS) if n is not None), usual), layers)
    if _counts(latent, rope):
        return _shape(**shared, layers=layers, kv_heads=1, head_dim=latent + rope, value_dim=0)
    each = get("head_dim") or (width // heads if _counts(width, heads) else None)
    kv_heads = get("num_key_value_heads") or heads
    far_heads = get("num_global_key_value_heads") if get("attention_k_eq_v") else None
    value = get("v_head_dim") or each
    if (far := get("global_head_dim")) and any(slides):
        dims = {"head_dim": far, "value_dim": far}
    else:
        dims = {"head_dim": each, "value_dim": value}
    return _shape(
        **shared,
        layers=layers,
        kv_heads=[kv_heads if near else far_heads for near in slides] if far_heads and any(slides) else kv_heads,
        **dims,
        window=get("sliding_window") if get("use_sliding_window") is not False else None,
        slides=slides,
        near_dims=(each, value),
    )


def _slides(pattern: Any, layers: Any) -> list[bool]:
    """Return of each layer whether it has a window; nothing where that is not known."""
    if not _counts(layers) or layers > LAYERS_LIMIT:
        return []
    if isinstance(pattern, list):
        return [bool(near) for near in pattern[:layers]]
    if type(pattern) is not int or pattern < 0:
        return []
    return [not pattern or number % pattern != 0 for number in range(1, layers + 1)]


def _counts(*values: Any) -> bool:
    """Tell whether all are numbers of which there can be so many."""
    return all(type(value) is int and 0 < value <= COUNT_LIMIT for value in values)


def _shape(
    *,
    size: int,
    context_length: Any,
    window: Any = None,
    slides: Sequence[bool] = (),
    near_dims: tuple[Any, Any] = (None, None),
    **attention: Any,
) -> Json:
    """
    Return what the controller counts with, roles/common/model.py; raise `Unknown` where a number is no number.

    + slides: of each layer, whether it has the window
    + near_dims: elements of a head's key and value in those that have
    """
    needed = {name: attention[name] for name in ("layers", "head_dim")}
    kv_heads = attention["kv_heads"]
    if isinstance(kv_heads, list):
        if len(kv_heads) != needed["layers"] or not any(kv_heads) or not all(h == 0 or _counts(h) for h in kv_heads):
            raise Unknown("it does not say of each layer how many heads keep something")
    else:
        needed["kv_heads"] = kv_heads
    if wrong := [name for name, value in needed.items() if not _counts(value)]:
        raise Unknown(f"it does not say its {', '.join(wrong)}")
    layers = needed["layers"]
    if layers > LAYERS_LIMIT:
        raise Unknown(f"it says that it has {layers} layers")
    if attention["value_dim"] != 0 and not _counts(attention["value_dim"]):
        attention["value_dim"] = attention["head_dim"]
    if not _counts(attention["heads"]):
        attention["heads"] = None
    if _counts(window) and len(slides) == layers and any(slides):
        key, value = near_dims
        each = kv_heads if isinstance(kv_heads, list) else [kv_heads] * layers
        near = [heads for heads, slid in zip(each, slides, strict=True) if slid]
        far = [heads for heads, slid in zip(each, slides, strict=True) if not slid]
        attention["sliding"] = {
            "window": window,
            "layers": len(near),
            "kv_heads": _one(near),
            "head_dim": key if _counts(key) else attention["head_dim"],
            "value_dim": value if _counts(value) or attention["value_dim"] == 0 else attention["value_dim"],
        }
        attention.update(layers=len(far), kv_heads=_one(far))
    # Contexts are longer than anything else is large: 10 million tokens exist.
    known = type(context_length) is int and 0 < context_length < 1 << 40
    return {"size_bytes": size, "attention": attention, "context_length": context_length if known else None}


def _one(heads: list[int]) -> int | list[int]:
    """Return a number that all layers have in common, or those of each."""
    return heads[0] if heads and heads[0] and len(set(heads)) == 1 else heads
