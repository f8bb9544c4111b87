"""Servers that have a card in common, of whatever engines: who is refused, who is warned, and who is left in peace."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.model import Shape
from roles.declaration import Declaration
from roles.preflight.messages import sentence, severity
from tests.roles.test_lock import report_with

RTX4090, T4, B580 = "10de:2684", "10de:1eb8", "8086:e20b"
GIB = 1 << 30
SMALL, GGUF = "deepseek-r1-distill-qwen-1.5b", "deepseek-r1-distill-qwen-7b-q4"
"""5.4 GiB in vLLM and its like; 4.4 GiB weights, 0.2 GiB KV cache and 1 GiB overhead in llama.cpp."""


def server(engine: str, *, role: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """A role with one server, of a model that its engine loads."""
    model = GGUF if engine in ("llama_cpp", "ollama") else SMALL
    port = {"llama_cpp": 1, "vllm": 2, "transformers_serve": 3, "ktransformers": 4, "ipex_llm": 5}.get(engine)
    usual = {"ktransformers": {"method": "BF16"}}.get(engine, {})
    return {engine: {**(role or {}), "instances": {"a": {"model": model, "port": port, **usual, **given}}}}


def said(*roles: dict[str, Any], cards: tuple[str, ...] = (RTX4090,), lang: str = "en") -> list[str]:
    """What a host with these cards and roles is told of its cards' memory, once all of its models are known."""
    tags = sorted({{RTX4090: "rtx4090", T4: "t4", B580: "b580"}[card] for card in cards})
    data: dict[str, Any] = {"tags": tags, "lang": lang, "docker": {}, "models": {"wanted": {SMALL: {}, GGUF: {}}}}
    for role in roles:
        data.update(role)
    declared = Declaration.load(data, where="h")
    found = declared.findings(report_with(*cards))
    return [f"{severity(one)} {sentence(one, declared.lang)}" for one in found if one.key.startswith("fit_")]


def test_servers_of_two_engines_that_exceed_a_card_are_refused_with_the_sum() -> None:
    (text,) = said(server("llama_cpp", gpu_layers="all"), server("vllm"))
    assert text.startswith("error vllm/instances/a: these servers take 27.7 GiB of GeForce RTX 4090 (10de:2684 @ ")
    assert "together: llama_cpp/instances/a 5.6 GiB + vllm/instances/a 22.1 GiB; it has 24.0 GiB;" in text
    (text,) = said(server("llama_cpp", gpu_layers="all"), server("vllm"), lang="zh")
    assert text.startswith("error vllm/instances/a：这些服务在 GeForce RTX 4090")


def test_what_takes_the_rest_of_a_card_is_warned_of() -> None:
    """llama.cpp and Ollama leave layers to the processors; only, whoever starts first has the card."""
    for engine in ("llama_cpp", "ollama"):
        (text,) = said(server(engine), server("vllm"))
        assert text.startswith("warning vllm/instances/a: these servers would take 27.7 GiB of GeForce RTX 4090"), text
        assert f"{engine}/instances/a will have what the others leave" in text


VLLM = server("vllm")
APART = server("vllm", cards=[1])
FITS = server("vllm", gpu_memory_utilization=0.6)


@pytest.mark.parametrize(
    ("roles", "cards", "begins"),
    [
        ([server("llama_cpp", gpu_layers="all"), FITS], [RTX4090], None),
        ([server("llama_cpp"), FITS], [RTX4090], None),
        (
            [server("llama_cpp", gpu_layers="all", fit="warn"), VLLM],
            [RTX4090],
            "warning vllm/instances/a: these servers",
        ),
        ([server("llama_cpp", gpu_layers="all", fit="off"), VLLM], [RTX4090], None),
        ([server("llama_cpp", gpu_layers=0), VLLM], [RTX4090], None),
        ([server("llama_cpp", role={"variant": "x64"}), VLLM], [RTX4090], None),
        # Nobody knows which card that is.
        ([server("llama_cpp", environment={"CUDA_VISIBLE_DEVICES": "1"}), VLLM], [RTX4090, RTX4090], None),
        ([server("llama_cpp", extra_arguments=["--device", "CUDA1"]), VLLM], [RTX4090, RTX4090], None),
        ([server("llama_cpp"), APART], [RTX4090, RTX4090], "warning vllm/instances/a: these servers would"),
        # Ollama looks for a card with room.
        ([server("ollama"), VLLM], [RTX4090, RTX4090], None),
        ([server("ollama", role={"sched_spread": True}), VLLM], [RTX4090, RTX4090], "warning vllm"),
        ([server("ollama", role={"enabled": False}), VLLM], [RTX4090], None),
        ([server("ollama", role={"cuda_visible_devices": "-1"}), VLLM], [RTX4090], None),
        ([server("transformers_serve"), VLLM], [RTX4090], "error transformers_serve/instances/a: these servers"),
        ([server("transformers_serve", device="cuda:0"), APART], [RTX4090, RTX4090], None),
        ([server("transformers_serve", device="cpu"), VLLM], [RTX4090], None),
        ([server("transformers_serve"), FITS], [RTX4090], None),
        ([server("ktransformers"), VLLM], [RTX4090], "error ktransformers/instances/a: these servers take 43.7 GiB"),
        ([server("ktransformers"), APART], [RTX4090, RTX4090], None),
        ([server("ktransformers", tensor_parallel=2), APART], [RTX4090, RTX4090], "error ktransformers/instances/a"),
        ([server("ipex_llm"), VLLM], [RTX4090, B580], None),
        ([server("ipex_llm"), server("llama_cpp", role={"variant": "vulkan-x64"})], [B580], None),
        (
            [server("ipex_llm", low_bit="fp16", context_length=65536), server("llama_cpp", context_length=32768)],
            [B580],
            "warning ipex_llm/instances/a: these servers would take",
        ),
        ([server("ipex_llm", role={"devices": ["/dev/dri/renderD129"]}), server("llama_cpp")], [B580], None),
    ],
)
def test_engines_say_what_they_take_of_which_card(
    roles: list[dict[str, Any]], cards: list[str], begins: str | None
) -> None:
    found = [text for text in said(*roles, cards=tuple(cards)) if "these servers" in text]
    assert [text.startswith(begins or "") for text in found] == ([True] if begins else []), found


def test_servers_of_one_engine_that_adds_them_up_itself_are_not_told_twice() -> None:
    both = {name: {"model": GGUF, "port": port, "gpu_layers": "all"} for name, port in (("a", 1), ("b", 2))}
    long = {name: {**one, "context_length": 131072} for name, one in both.items()}
    (text,) = said({"llama_cpp": {"instances": long}})
    assert text.startswith("error llama_cpp/instances: gpu_layers puts 24.7 GiB on the cards")


def test_what_only_the_files_of_a_model_tell_is_told_by_them() -> None:
    """The size of a repository that nobody knew comes from its listing."""
    data = {
        "tags": ["rtx4090"],
        "models": {"wanted": {"x": {"repo": "a/b", "files": ["x.gguf"]}, SMALL: {}}},
        "llama_cpp": {"instances": {"a": {"model": "x", "port": 1, "gpu_layers": "all"}}},
        **FITS | {"vllm": {"instances": {"a": {"model": SMALL, "port": 2, "gpu_memory_utilization": 0.6}}}},
    }
    declared, report = Declaration.load(data, where="h"), report_with(RTX4090)
    assert [one.key for one in declared.findings(report) if one.key.startswith("fit_")] == []
    (error,), _ = declared.judge(report, {"x": Shape(size_bytes=12 * GIB)})
    assert (
        error.startswith("vllm/instances/a: these servers take 27.4 GiB") and "llama_cpp/instances/a 13.0 GiB" in error
    )


SERVERS = st.lists(
    st.tuples(st.integers(1, 100), st.sampled_from([[0], [1], [0, 1]]), st.sampled_from(["error", "warn", "off"])),
    min_size=1,
    max_size=4,
)


@given(SERVERS)
def test_shares_of_a_card_are_refused_above_all_of_it_and_warned_of_above_92_percent(
    servers: list[tuple[int, list[int], str]],
) -> None:
    """Of any servers of vLLM on two cards: the shares are whole percents, so that people can add them up."""
    instances = {
        f"s{number}": {
            "model": SMALL, "port": 1000 + number, "gpu_memory_utilization": percent / 100, "cards": cards,
            "tensor_parallel": len(cards), "fit": fit, "master_port": 2000 + number,
        }
        for number, (percent, cards, fit) in enumerate(servers)
    }  # fmt: skip
    found = [text for text in said({"vllm": {"instances": instances}}, cards=(T4, T4)) if "these servers" in text]

    def over(limit: int, *fits: str) -> bool:
        of_cards = [[p for p, cards, fit in servers if card in cards and fit in fits] for card in (0, 1)]
        return any(len(shares) > 1 and sum(shares) > limit for shares in of_cards)

    assert any(text.startswith("error") for text in found) == over(100, "error")
    assert bool(found) == over(92, "error", "warn")
