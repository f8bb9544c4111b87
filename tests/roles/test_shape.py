"""What the store reads of a model before its weights: GGUF headers and config.json, however they come."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.model import Shape
from roles.models.files.store.shape import HEADER_FIRST, Cut, Unknown, gguf_values, of_config, of_gguf
from tests.testbed import artefacts


def written(path: Path, arch: str, values: dict[str, Any], *, vocabulary: int = 10) -> bytes:
    """A GGUF with these values of its architecture, by the library of its makers."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"{arch}.{key}", value)
        else:
            writer.add_uint32(f"{arch}.{key}", value)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"token {number}" for number in range(vocabulary)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


LLAMA = {
    "block_count": 32, "context_length": 131072, "embedding_length": 4096, "attention.head_count": 32,
    "attention.head_count_kv": 8,
}  # fmt: skip


def described(path: Path, arch: str = "llama", **changes: Any) -> Shape:
    """The shape that is read of a header whose values these replace; None removes one."""
    given = {**LLAMA, **{key.replace("__", "."): value for key, value in changes.items()}}
    data = written(path, arch, {key: value for key, value in given.items() if value is not None})
    return Shape.model_validate(of_gguf(gguf_values(data), 1000))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


def test_a_header_is_read_as_its_makers_read_it() -> None:
    """The oracle: gguf.GGUFReader, on the test bed's own models."""
    for file in (artefacts.tiny_gguf(), artefacts.tiny_gguf_q8(), artefacts.tiny_gguf_big()):
        fields = gguf.GGUFReader(file).fields
        found = gguf_values(file.read_bytes())
        expected = {
            name: field.contents() for name, field in fields.items() if not name.startswith(("GGUF.", "tokenizer."))
        }
        assert found == pytest.approx(expected)
        attention = Shape.model_validate(of_gguf(found, 1)).attention
        assert attention is not None
        assert attention.layers == expected["llama.block_count"]
        assert attention.kv_heads == expected["llama.attention.head_count_kv"]


def test_the_first_kilobytes_suffice_before_a_large_vocabulary(path: Path) -> None:
    data = written(path, "llama", LLAMA, vocabulary=100_000)
    assert len(data) > 1_000_000
    assert gguf_values(data[:HEADER_FIRST])["llama.block_count"] == 32


@pytest.mark.parametrize(
    ("changes", "token_elements"),
    [
        ({}, 32 * 8 * 256),
        ({"attention__key_length": 64, "attention__value_length": 32}, 32 * 8 * 96),
        ({"attention__head_count_kv": None}, 32 * 32 * 256),
        ({"attention__head_count_kv": [8] * 16 + [0] * 16}, 16 * 8 * 256),
        ({"nextn_predict_layers": 2}, 30 * 8 * 256),
        ({"attention__head_count_kv": 1, "attention__key_length": 576, "attention__value_length": 512}, 32 * 1088),
        (
            {"attention__head_count_kv": 1, "attention__key_length": 576, "attention__value_length": 512,
             "attention__key_length_mla": 192},
            32 * 576,
        ),
    ],
)  # fmt: skip
def test_what_a_token_takes_is_computed_from_the_header(
    changes: dict[str, Any], token_elements: int, path: Path
) -> None:
    shape = described(path, **changes)
    assert shape.attention is not None
    assert sum(shape.attention.elements()) == token_elements
    assert (shape.attention.heads, shape.context_length, shape.size_bytes) == (32, 131072, 1000)


def windowed(shape: Shape) -> tuple[int, int, int, int] | None:
    """Window, how many layers have it, and the elements of a token in those that do, and in those that do not."""
    assert shape.attention is not None
    near = shape.attention.sliding
    if near is None:
        return None
    return near.window, near.layers, sum(near.elements()), sum(shape.attention.elements())


WINDOW = {"attention__sliding_window": 1024}


@pytest.mark.parametrize(
    ("arch", "changes", "found"),
    [
        ("gemma3", {"block_count": 62}, (1024, 52, 52 * 2048, 10 * 2048)),
        ("gemma3", {"block_count": 62, "attention__sliding_window": None}, None),
        ("gemma2", {}, (1024, 16, 16 * 2048, 16 * 2048)),
        ("gpt-oss", {}, (1024, 16, 16 * 2048, 16 * 2048)),
        ("new", {"attention__sliding_window_pattern": 8}, (1024, 28, 28 * 2048, 4 * 2048)),
        ("new", {"attention__sliding_window_pattern": 1}, None),
        ("new", {"attention__sliding_window_pattern": [True] * 24 + [False] * 8}, (1024, 24, 24 * 2048, 8 * 2048)),
        ("new", {"attention__sliding_window_pattern": [True] * 32}, (1024, 32, 32 * 2048, 0)),
        ("new", {"attention__sliding_window_pattern": [True]}, None),
        ("llama", {}, None),  # llama.cpp knows of no window there, whatever the file says
        ("phi3", {}, None),
        (
            "gemma4",
            {
                "attention__sliding_window_pattern": ([True] * 3 + [False]) * 8,
                "attention__head_count_kv": ([16] * 3 + [4]) * 8,
                "attention__key_length": 512, "attention__value_length": 512,
                "attention__key_length_swa": 256, "attention__value_length_swa": 256,
                "attention__shared_kv_layers": 16,
            },
            (1024, 12, 12 * 16 * 512, 4 * 4 * 1024),
        ),
    ],
)  # fmt: skip
def test_layers_with_a_window_are_told_from_the_others(
    arch: str, changes: dict[str, Any], found: tuple[int, int, int, int] | None, path: Path
) -> None:
    assert windowed(described(path, arch, **{**WINDOW, **changes})) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"block_count": None},
        {"block_count": 0},
        {"block_count": 1 << 31},
        {"attention__head_count": None, "attention__head_count_kv": None},
        {"embedding_length": None},
        {"attention__head_count_kv": [8] * 5},
        {"attention__head_count_kv": [0] * 32},
        {"nextn_predict_layers": 40},
    ],
)
def test_a_header_that_does_not_say_enough_is_unknown_and_not_guessed(changes: dict[str, Any], path: Path) -> None:
    with pytest.raises(Unknown):
        described(path, **changes)


# Strangers' bytes


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<html>" + b" " * 100, "begins with b'<htm'"),
        (b"", "begins with b''"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version is 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version is 50331648"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "1152921504606846976 bytes in one value"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 99), "a value of kind 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 8, 1 << 60), "a list of 1152921504606846976 texts"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 4, 1 << 60), "bytes in one value"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"a", 9, 9, 1), "lists of lists"),
    ],
)
def test_a_header_of_nonsense_is_said_to_be_that(data: bytes, said: str) -> None:
    with pytest.raises(Unknown) as refused:
        gguf_values(data)
    assert said in str(refused.value)


def test_a_header_with_endless_values_ends_with_its_bytes() -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, (1 << 64) - 1)
    with pytest.raises(Cut):
        gguf_values(head + struct.pack("<Q1sIB", 1, b"a", 0, 7) * 1000)


@pytest.fixture(scope="module")
def whole() -> bytes:
    return artefacts.tiny_gguf().read_bytes()[:HEADER_FIRST]


@given(st.data())
def test_a_header_that_is_cut_asks_for_more_or_is_read(whole: bytes, data: st.DataObject) -> None:
    """Never half of it: a value that is there is the right one."""
    count = data.draw(st.integers(4, len(whole)))
    try:
        found = gguf_values(whole[:count])
    except Cut:
        return
    assert found == gguf_values(whole)


@given(st.data())
def test_no_damage_makes_reading_fail_otherwise(whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, 600))] = data.draw(st.integers(0, 255))
    read(bytes(damaged))


@given(st.binary(max_size=400))
def test_no_bytes_make_reading_fail_otherwise(tail: bytes) -> None:
    read(b"GGUF" + struct.pack("<IQQ", 3, 0, 1000) + tail)
    read(tail)


def read(data: bytes) -> None:
    """A shape that the controller takes, or one of the two refusals."""
    try:
        found = of_gguf(gguf_values(data), 1)
    except (Unknown, Cut):
        return
    assert Shape.model_validate(json.loads(json.dumps(found))).attention is not None


# config.json

CONFIG = {
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584,
    "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "token_elements"),
    [
        ({}, 2 * 28 * 4 * 128),
        ({"head_dim": 64}, 2 * 28 * 4 * 64),
        ({"num_key_value_heads": None}, 2 * 28 * 28 * 128),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 28 * 576),
        ({"layer_types": ["full_attention", "linear_attention"] * 14}, 2 * 14 * 4 * 128),
        ({"text_config": {"num_hidden_layers": 10}, "vision_config": {"num_hidden_layers": 99}}, 2 * 10 * 4 * 128),
    ],
)
def test_what_a_token_takes_is_computed_from_config_json(changes: dict[str, Any], token_elements: int) -> None:
    shape = Shape.model_validate(of_config(json.dumps({**CONFIG, **changes}), 7))
    assert shape.attention is not None
    assert sum(shape.attention.elements()) == token_elements
    assert (shape.size_bytes, shape.context_length, shape.attention.heads) == (7, 131072, 28)


KINDS = ["sliding_attention"] * 5 + ["full_attention"]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"layer_types": KINDS * 4}, (1024, 20, 20 * 1024, 4 * 1024)),
        ({"layer_types": KINDS * 4, "sliding_window": None}, None),
        ({"layer_types": KINDS * 4, "num_kv_shared_layers": 12}, (1024, 10, 10 * 1024, 2 * 1024)),
        ({"layer_types": ["linear_attention", *KINDS] * 4}, (1024, 20, 20 * 1024, 4 * 1024)),
        ({"layer_types": ["full_attention"] * 28}, None),
        ({"sliding_window_pattern": 4}, (1024, 21, 21 * 1024, 7 * 1024)),
        ({"_sliding_window_pattern": 4}, (1024, 21, 21 * 1024, 7 * 1024)),
        ({"sliding_window_pattern": "LLLG"}, None),
        ({"text_config": {"model_type": "gemma3_text", "sliding_window": 512}}, (512, 24, 24 * 1024, 4 * 1024)),
        ({"model_type": "mistral"}, (1024, 28, 28 * 1024, 0)),
        ({"model_type": "mistral", "sliding_window": None}, None),
        ({"model_type": "qwen2", "use_sliding_window": False}, None),
        ({"layer_types": KINDS * 4, "use_sliding_window": False}, None),
        ({"model_type": "qwen2"}, None),
        (
            # Gemma 4: the others have fewer and longer heads.
            {
                "layer_types": KINDS * 4,
                "global_head_dim": 512,
                "num_global_key_value_heads": 1,
                "attention_k_eq_v": True,
            },
            (1024, 20, 20 * 1024, 4 * 1024),
        ),
        ({"layer_types": KINDS * 4, "global_head_dim": 512}, (1024, 20, 20 * 1024, 4 * 4096)),
    ],
)
def test_config_json_tells_layers_with_a_window_from_the_others(
    changes: dict[str, Any], found: tuple[int, int, int, int] | None
) -> None:
    config = {**CONFIG, "sliding_window": 1024, **changes}
    assert windowed(Shape.model_validate(of_config(json.dumps(config), 7))) == found


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"num_hidden_layers": "28"}', "[" * 100_000])
def test_a_config_that_does_not_say_enough_is_unknown(text: str) -> None:
    with pytest.raises(Unknown):
        of_config(text, 1)


def keys() -> Iterator[str]:
    yield from (*CONFIG, "head_dim", "v_head_dim", "kv_lora_rank", "qk_rope_head_dim", "layer_types", "text_config")
    yield from ("sliding_window", "sliding_window_pattern", "_sliding_window_pattern", "use_sliding_window")
    yield from ("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v", "num_kv_shared_layers")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*keys()]), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*keys()]), st.integers(1, 200) | ANYTHING))
def test_no_config_makes_reading_fail_otherwise(config: dict[str, Any]) -> None:
    try:
        found = of_config(json.dumps(config), 1)
    except Unknown:
        return
    assert Shape.model_validate(json.loads(json.dumps(found))).attention is not None
