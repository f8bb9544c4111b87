"""The catalogue of models: what stands in files/models.yaml, and what goes together in it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from roles.common.model import Attention, CatalogueEntry, catalogue, load_catalogue
from roles.common.options import OptionError
from roles.declaration import Declaration
from roles.models.options import ModelsOptions

ENTRIES = catalogue().items()
IDS = list(catalogue())

# What the safetensors of each model hold, in bytes: metadata.total_size of its model.safetensors.index.json.
TOTAL_SIZES = {
    "deepseek-r1-distill-qwen-7b": 15_231_233_024,
    "deepseek-r1-distill-qwen-14b": 29_540_067_328,
    "deepseek-r1-distill-qwen-32b": 65_527_752_704,
    "deepseek-r1-distill-llama-8b": 16_060_522_496,
    "deepseek-r1-distill-llama-70b": 141_107_412_992,
    "qwen3-8b": 16_381_470_720,
}


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=IDS)
def test_every_catalogued_model_can_be_wanted_from_each_hub_that_has_it(name: str, entry: CatalogueEntry) -> None:
    for hub in ("huggingface", "modelscope"):
        if getattr(entry, hub):
            path = ModelsOptions.load({"hub": hub, "wanted": {name: {}}}, where="h").model(name).path
            assert path.endswith(".gguf") == (entry.format == "gguf")
    for file in {*entry.sizes, *entry.sha256}:
        assert file in entry.files, f"it knows something of {file}, which it does not want"
    if entry.sha256 and entry.huggingface:
        assert re.fullmatch("[0-9a-f]{40}", entry.huggingface.revision or ""), "a digest, but no commit"


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=IDS)
def test_the_size_of_a_model_goes_with_its_parameters_and_bits(name: str, entry: CatalogueEntry) -> None:
    """A digit that is missing or one too many would be seen: ``bits`` is what publishers' own tables say."""
    bits = {
        "Q4_K_M": (4.6, 5.1), "Q8_0": (8.4, 9.1), "BF16": (15.9, 20.2), "FP8": (8.0, 8.3), "UD-IQ1_S": (1.5, 1.8),
        "UD-IQ1_M": (1.9, 2.1), "UD-IQ2_XXS": (2.2, 2.5), "UD-Q2_K_XL": (2.5, 2.9),
    }  # fmt: skip
    low, high = bits[entry.quantisation]
    assert low <= (entry.size_bytes or 0) * 8 / entry.parameters <= high


@pytest.mark.parametrize(("name", "size"), TOTAL_SIZES.items())
def test_parameters_are_those_of_the_published_files(name: str, size: int) -> None:
    assert 2 * catalogue()[name].parameters == size


@pytest.mark.parametrize(
    ("name", "token_bytes"),
    [
        ("deepseek-r1-distill-qwen-1.5b-q4", 28_672),
        ("deepseek-r1-distill-qwen-7b", 57_344),
        ("deepseek-r1-distill-llama-8b-q4", 131_072),
        ("deepseek-r1-distill-qwen-14b-q4", 196_608),
        ("deepseek-r1-distill-qwen-32b-q4", 262_144),
        ("deepseek-r1-distill-llama-70b", 327_680),
        ("qwen3-8b-q4", 147_456),
        ("qwen3-14b-q4", 163_840),
        # DeepSeek-V2's paper, 2.1.4: the compressed cache has (d_c + d_R) * layers elements.
        ("deepseek-r1", 70_272),
        # llama.cpp's log of unsloth's first GGUFs: 39040 MiB for 8192 tokens, K 23424 MiB, V 15616 MiB.
        ("deepseek-r1-ud-iq1-s", 39040 * (1 << 20) // 8192),
    ],
)
def test_a_token_takes_what_others_computed_or_measured(name: str, token_bytes: int) -> None:
    assert 2 * sum(catalogue()[name].attention.elements()) == token_bytes


def test_cards_share_the_heads_and_each_has_at_least_one() -> None:
    grouped = Attention(layers=2, kv_heads=8, head_dim=10)
    assert [grouped.elements(cards) for cards in (1, 4, 8, 16)] == [(160, 160), (40, 40), (20, 20), (20, 20)]
    latent = Attention(layers=2, kv_heads=1, head_dim=576, value_dim=0)
    assert latent.elements(8) == latent.elements(1) == (1152, 0), "what all heads share is on every card"
    mixed = Attention(layers=3, kv_heads=[4, 0, 2], head_dim=10)
    assert mixed.elements() == (60, 60)


def test_sizing_is_the_table_of_the_course() -> None:
    """Cores, RAM, GPU memory, disk: recommended, then least."""
    table = {
        "1.5B": ((6, 16, 4, 5), (4, 8, 0, 3)),
        "7B": ((8, 32, 8, 10), (4, 16, 4, 8)),
        "8B": ((10, 32, 10, 12), (6, 16, 6, 8)),
        "14B": ((12, 64, 16, 20), (8, 32, 8, 15)),
        "32B": ((16, 128, 24, 30), (12, 48, 16, 19)),
        "70B": ((32, 256, 40, 100), (16, 64, 24, 70)),
        "671B": ((64, 512, 160, 500), (32, 128, 80, 300)),
    }
    found = {
        entry.sizing.row: tuple(
            (row.cores, row.memory_gb, row.vram_gb, row.disk_gb)
            for row in (entry.sizing.recommended, entry.sizing.minimum)
        )
        for _, entry in ENTRIES
        if entry.sizing
    }
    assert found == table


def test_r1_is_asked_without_a_system_prompt() -> None:
    for name, entry in ENTRIES:
        if name.startswith("deepseek-r1"):
            assert entry.sampling is not None
            assert (entry.sampling.temperature, entry.sampling.system_prompt) == (0.6, False)


# The file


FAMILY: dict[str, Any] = {
    "licence": "MIT",
    "parameters": 1_000_000,
    "attention": {"layers": 1, "kv_heads": 1, "head_dim": 8},
    "embedding": {"vocabulary": 10, "width": 8},
    "context_length": 100,
    "models": {
        "m": {
            "description": "x", "format": "gguf", "quantisation": "Q8_0", "about_gb": 0.001, "source": "here",
            "huggingface": {"repo": "a/b"},
        },
    },
}  # fmt: skip


def written(**changes: Any) -> str:
    """A file with one family and one model, whose fields these replace; None removes one."""
    model = {key: value for key, value in {**FAMILY["models"]["m"], **changes}.items() if value is not None}
    return yaml.safe_dump({"family": {**FAMILY, "models": {"m": model}}})


def test_what_a_model_says_goes_before_what_its_family_says() -> None:
    other = {"layers": 2, "kv_heads": 3, "head_dim": 4}
    entry = load_catalogue(written(attention=other, licence="CC0"))["m"]
    assert (entry.attention.layers, entry.licence, entry.family, entry.context_length) == (2, "CC0", "family", 100)
    assert load_catalogue(written())["m"].licence == "MIT"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"huggingface": None}, "no hub has it"),
        ({"about_gb": None}, "nothing says how large it is"),
        ({"sise": 1}, "sise"),
        ({"sha256": {"f": "abc"}}, "sha256"),
        ({"huggingface": {"repo": "b"}}, "repo"),
        ({"attention": {"layers": 0, "kv_heads": 1, "head_dim": 8}}, "layers"),
        ({"format": "onnx"}, "format"),
        ({"sampling": {"temperature": 3.0, "top_p": 0.9}}, "temperature"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        load_catalogue(written(**changes))


def test_a_model_stands_in_one_family() -> None:
    with pytest.raises(ValueError, match="m: stands in two families"):
        load_catalogue(yaml.safe_dump({"one": FAMILY, "two": FAMILY}))


def test_a_model_that_is_known_to_load_in_one_engine_alone_is_refused_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = catalogue()["qwen3-8b-q4"].model_copy(update={"engines": ["ollama"]})
    monkeypatch.setattr("roles.models.options.catalogue", lambda: {"qwen3-8b-q4": entry})
    data = {
        "tags": ["cpu"],
        "models": {"wanted": {"qwen3-8b-q4": {}}},
        "llama_cpp": {"instances": {"a": {"model": "qwen3-8b-q4", "port": 1}}},
    }
    with pytest.raises(OptionError, match="llama_cpp/instances/a/model: 'qwen3-8b-q4' loads in ollama alone"):
        Declaration.load(data, where="h")
