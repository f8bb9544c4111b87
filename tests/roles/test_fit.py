"""Whether models fit: the arithmetic against what was measured, what is refused, and what is suggested instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.findings import Finding
from roles.common.fit import Claim, Room, Split, Wanted, in_memory_together, layers_that_fit, resident, spilling
from roles.common.hardware import Cpu, HardwareReport, Mount, OperatingSystem
from roles.common.model import Attention, Model, Shape, SlidingLayers, catalogue
from roles.declaration import Declaration
from roles.models.options import ModelsOptions
from roles.preflight.messages import sentence, severity
from tests.roles.test_lock import report_with

DOCS = (Path(__file__).parents[2] / "docs" / "fit.md").read_text("utf-8")
GB, GIB = 1e9, 1 << 30


def model(name: str) -> Model:
    """A model of the catalogue, as the models role hands it out."""
    entry = catalogue()[name]
    return Model(name, f"/srv/{name}", entry.size_bytes, entry.attention, entry.context_length, entry)


def wanted(name: str = "deepseek-r1-distill-qwen-7b-q4", context_length: int = 4096, **more: Any) -> Wanted:
    return Wanted("r1", model(name), context_length, **more)


def said(findings: list[Finding]) -> str:
    (finding,) = findings
    return f"{severity(finding)} {sentence(finding, 'en')}"


# Against what was measured

SYM_INT4 = 4.5
"""Bits of a weight: 4, and a scale of 16 for each 32 (ggml's q4_0)."""
MEASURED: dict[str, tuple[float, float]] = {
    "R1-Distill-Qwen-7B, IPEX-LLM sym_int4, Arc B580, 288 tokens": (
        6.56,
        wanted("deepseek-r1-distill-qwen-7b", 288, bits=SYM_INT4).demand().total_bytes,
    ),
    "R1-Distill-Qwen-1.5B, IPEX-LLM sym_int4, Arc B580, 288 tokens": (
        3.13,
        wanted("deepseek-r1-distill-qwen-1.5b", 288, bits=SYM_INT4).demand().total_bytes,
    ),
    "R1-Distill-Qwen-1.5B, vLLM fp32, T4, 4 × 384 tokens": (
        9.8,
        Split()
        .demand(wanted("deepseek-r1-distill-qwen-1.5b", 384, parallel=4, bits=32, key_type="f32", value_type="f32"))
        .total_bytes,
    ),
    "R1-Distill-Qwen-1.5B, vLLM int8, T4, 4 × 384 tokens": (
        2.6,
        Split().demand(wanted("deepseek-r1-distill-qwen-1.5b", 384, parallel=4, bits=8)).total_bytes,
    ),
    "R1-Distill-Llama-70B, vLLM on 8 × RTX 4090, 8192 tokens, of each card": (
        21.5,
        Split(8).demand(wanted("deepseek-r1-distill-llama-70b", 8192)).total_bytes,
    ),
    "R1-Distill-Qwen-7B Q4_K_M, llama.cpp, RTX 3090, 32768 tokens": (
        (7765 - 1239) * (1 << 20) / GB,
        wanted("deepseek-r1-distill-qwen-7b-q4-bartowski", 32768).demand().total_bytes,
    ),
    "R1 671B UD-IQ1_S, llama.cpp, KV cache of 8192 tokens": (
        39040 * (1 << 20) / GB,
        wanted("deepseek-r1-ud-iq1-s", 8192).demand().kv_cache_bytes,
    ),
}


@pytest.mark.parametrize("what", MEASURED)
def test_the_error_of_each_prediction_is_what_the_page_says(what: str) -> None:
    measured, predicted = MEASURED[what][0], MEASURED[what][1] / GB
    error = f"{100 * (predicted / measured - 1):+.0f} %"
    assert f"| {what} | {measured:.2f} GB | {predicted:.2f} GB | {error} |" in DOCS


def test_every_prediction_but_the_one_that_cannot_be_hit_is_within_an_eighth() -> None:
    off = {what for what, (measured, predicted) in MEASURED.items() if abs(predicted / GB / measured - 1) > 0.125}
    assert off == {"R1-Distill-Qwen-1.5B, vLLM int8, T4, 4 × 384 tokens"}


RTX4090 = 24 * GIB
EIGHT = Room(512 * GIB, (RTX4090,) * 8)


def test_the_set_up_of_the_course_is_let_through_and_the_one_it_calls_impossible_is_not() -> None:
    """Llama 70B on eight RTX 4090, 8192 tokens, utilization 0.8: 16 bit works, float32 does not."""
    seventy = wanted("deepseek-r1-distill-llama-70b", 8192, parallel=10)
    assert resident("vllm", seventy, EIGHT, Split(8), 0.8) == []
    text = said(resident("vllm", replace(seventy, bits=32), EIGHT, Split(8), 0.8))
    assert text.startswith("error vllm/instances/r1: needs 35.2 GiB on each of its cards")
    assert "32.9 GiB weights + 0.3 GiB KV cache + 2.0 GiB overhead, for 8192 tokens of 40.0 KiB" in text


@pytest.mark.parametrize(("cards", "layers"), [(1, 7), (4, 40), (8, 61)])
def test_layers_of_the_dynamic_quantisations_are_by_their_publishers_rule(cards: int, layers: int) -> None:
    """unsloth's table has 7 layers for one card of 24 GB and all 61 for two of 80."""
    assert layers_that_fit(wanted("deepseek-r1-ud-iq1-s"), Room(cards=(RTX4090,) * cards)) == layers


# What is refused, what is warned of

B580 = Room(32 * GIB, (12 * GIB,))
PROCESSORS = Room(16 * GIB)


@pytest.mark.parametrize(
    ("one", "room", "begins"),
    [
        (wanted(), B580, None),
        (wanted(), PROCESSORS, None),
        (wanted("deepseek-r1-distill-qwen-32b-q4"), B580, "warning llama_cpp/instances/r1: needs 20.5 GiB of GPU"),
        (wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers=0), B580, None),
        (
            wanted("deepseek-r1-distill-llama-70b-q4", gpu_layers=0),
            replace(B580, memory_bytes=16 * GIB),
            "warning llama_cpp/instances/r1: needs 41.8 GiB",
        ),
        (
            wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers=0),
            replace(B580, memory_bytes=16 * GIB),  # with the card it would be enough, and the card is not used
            "warning llama_cpp/instances/r1: needs 20.5 GiB",
        ),
        (wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers=30), replace(B580, memory_bytes=16 * GIB), None),
        (wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers="all", experts_in_memory=True), B580, None),
        (
            wanted("deepseek-r1-distill-qwen-32b-q4", 131072, gpu_layers="all", experts_in_memory=True),
            B580,  # the cache goes to the card all the same
            "error llama_cpp/instances/r1: gpu_layers puts 33.0 GiB",
        ),
        (wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers=20), B580, None),
        (
            wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers=60),
            B580,
            "error llama_cpp/instances/r1: gpu_layers puts",
        ),
        (wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers="all"), B580, "error llama_cpp/instances/r1: gpu_layers"),
        (
            wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers="all", fit="warn"),
            B580,
            "warning llama_cpp/instances/r1: gpu_layers puts 20.5 GiB",
        ),
        (wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers="all", fit="off"), B580, None),
        (
            wanted("deepseek-r1-distill-qwen-32b-q4"),
            PROCESSORS,
            "warning llama_cpp/instances/r1: needs 20.5 GiB of mem",
        ),
        (
            wanted("deepseek-r1-distill-qwen-32b-q4", maps_weights=False),
            PROCESSORS,
            "error llama_cpp/instances/r1: needs 20.5 GiB of memory",
        ),
        (wanted(context_length=131072, parallel=4), PROCESSORS, "error llama_cpp/instances/r1: needs 33.4 GiB"),
        (wanted(context_length=131072, parallel=4, fit="warn"), PROCESSORS, "warning llama_cpp/instances/r1: needs 33"),
        (wanted(context_length=131072, parallel=4, key_type="q4_0", value_type="q4_0"), PROCESSORS, None),
        (wanted(context_length=131072, parallel=4), Room(), None),  # nobody knows how much there is
    ],
)
def test_what_llama_cpp_cannot_do_is_refused_and_what_is_slow_is_told(
    one: Wanted, room: Room, begins: str | None
) -> None:
    found = spilling("llama_cpp", [one], room)
    assert (said(found) if found else None) is begins or said(found).startswith(begins or "")
    assert bool(found) == bool(begins)


def test_servers_that_run_at_the_same_time_are_added_up() -> None:
    small = wanted("deepseek-r1-distill-qwen-7b-q4")
    other = replace(small, name="two")
    assert spilling("llama_cpp", [small], B580) == []
    text = said(spilling("llama_cpp", [small, replace(other, context_length=65536)], B580))
    assert text.startswith("warning llama_cpp/instances: needs 14.4 GiB")
    assert "r1: 4.4 GiB weights + 0.2 GiB KV cache" in text and "two: 4.4 GiB weights + 3.5 GiB KV cache" in text
    assert "what would fit here: two/context_length: 1792;" in text, "beside the first, which stays as it is"
    assert spilling("llama_cpp", [small, replace(other, context_length=1792)], B580) == []
    assert spilling("llama_cpp", [small, replace(other, context_length=2048)], B580) != []
    assert spilling("llama_cpp", [small, replace(other, context_length=65536, fit="off")], B580) == []


def test_a_server_that_may_fail_does_not_let_the_others_pass() -> None:
    """Whoever says `warn` speaks for one server: those that say `error` are judged by what they need themselves."""
    strict = wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers="all")
    lenient = replace(wanted(), name="two", fit="warn")
    text = said(spilling("llama_cpp", [strict, lenient], B580))
    assert text.startswith("error llama_cpp/instances/r1: gpu_layers puts 20.5 GiB") and "two:" not in text
    fits = replace(strict, model=model("deepseek-r1-distill-qwen-7b-q4"))
    large = replace(strict, name="two", fit="warn")
    assert said(spilling("llama_cpp", [fits, large], B580)).startswith("warning llama_cpp/instances: gpu_layers puts")
    assert said(spilling("llama_cpp", [fits, replace(large, fit="error")], B580)).startswith(
        "error llama_cpp/instances:"
    )


def test_what_is_left_to_memory_is_told_with_what_there_is_of_that() -> None:
    one = wanted("deepseek-r1-distill-qwen-32b-q4", gpu_layers=0)
    text = said(spilling("llama_cpp", [one], replace(B580, memory_bytes=16 * GIB)))
    assert "of which 20.5 GiB are left to main memory, and the host has 16.0 GiB;" in text
    assert "what would fit here: gpu_layers: 32;" in text, "what would help most"


GEMMA3 = Attention(
    layers=3,
    kv_heads=1,
    head_dim=256,
    sliding=SlidingLayers(window=512, layers=15, kv_heads=1, head_dim=256),
)
"""Gemma 3 270M."""


@pytest.mark.parametrize(
    ("context_length", "parallel", "beside", "mib"),
    [
        # What llama-server says of this model, as unslothai/unsloth#5225 has it.
        (4096, 1, 512, 27),
        (2048, 2, 512, 42),
        (1024, 4, 512, 72),
        (512, 8, 512, 72),
        (8192, 1, 512, 39),
        (4096, 2, 512, 54),
        # With --swa-full, or an engine that knows of no windows.
        (4096, 1, None, 72),
        (8192, 1, None, 144),
        # transformers keeps the window alone.
        (8192, 1, 0, 24 + 7.5),
    ],
)
def test_layers_with_a_window_keep_what_they_look_back_at(
    context_length: int, parallel: int, beside: int | None, mib: float
) -> None:
    one = Wanted("x", Model("x", "/x.gguf", GIB, GEMMA3), context_length, parallel, beside_window=beside)
    assert one.demand().kv_cache_bytes == mib * (1 << 20)


def test_the_sum_names_both_kinds_of_layers() -> None:
    one = Wanted("x", Model("x", "/x.gguf", 20 * GIB, GEMMA3), 8192, beside_window=512)
    assert "for 8192 tokens of 3.0 KiB and 1024 tokens of 15.0 KiB" in said(spilling("llama_cpp", [one], B580))


def test_a_model_of_unknown_shape_is_counted_by_its_files() -> None:
    unknown = Wanted("x", Model("x", "/x.gguf", 20 * GIB), 131072)
    assert "20.0 GiB weights + unknown KV cache + 1.0 GiB overhead" in said(spilling("llama_cpp", [unknown], B580))
    assert spilling("llama_cpp", [replace(unknown, model=Model("x", "/x.gguf"))], B580) == []


def test_no_context_length_means_what_the_model_was_trained_with() -> None:
    (kept,) = wanted(context_length=0, parallel=2).cache() or ()
    assert kept.tokens == 2 * 131072


# The host's memory, together


def claim(role: str, gib: int, **given: Any) -> Claim:
    return Claim(f"{role}/instances/r1", {}, memory_bytes=gib * GIB, **given)


def test_servers_of_two_engines_that_need_more_memory_than_there_is_are_refused() -> None:
    text = said(in_memory_together([claim("ktransformers", 40), claim("transformers_serve", 30)], 64 * GIB))
    assert "need 70.0 GiB of the host's memory together: ktransformers/instances/r1 40.0 GiB +" in text
    assert in_memory_together([claim("ktransformers", 40), claim("transformers_serve", 24)], 64 * GIB) == []
    assert in_memory_together([claim("ktransformers", 70)], 64 * GIB) == [], "one alone is judged by itself"
    twice = [claim("llama_cpp", 40, judged=True), claim("llama_cpp", 40, judged=True)]
    assert in_memory_together(twice, 64 * GIB) == [], "so are those of an engine that adds up its own"
    assert in_memory_together(twice, 0) == [], "nobody knows how much there is"


def test_one_that_says_warn_does_not_let_the_others_pass_and_off_counts_for_nothing() -> None:
    others = [claim("ktransformers", 40), claim("transformers_serve", 30)]
    (found,) = in_memory_together([*others, claim("llama_cpp", 1, fit="warn")], 64 * GIB)
    assert found.key == "fit_memory_together"
    (found,) = in_memory_together([claim("ktransformers", 40), claim("llama_cpp", 30, fit="warn")], 64 * GIB)
    assert severity(found) == "warning"
    assert in_memory_together([claim("ktransformers", 40), claim("llama_cpp", 30, fit="off")], 64 * GIB) == []


def test_what_engines_claim_of_the_memory() -> None:
    """On processors: vLLM a share of the nodes that it computes on, llama.cpp its KV cache, Transformers all."""
    name = "deepseek-r1-distill-qwen-1.5b"
    instance = {"model": name, "port": 8000}
    quantised = "deepseek-r1-distill-qwen-7b-q4"
    data = {
        "tags": ["cpu"],
        "docker": {},
        "models": {"wanted": {name: {}, quantised: {}}},
        "vllm": {"method": "container", "instances": {"a": {**instance, "gpu_memory_utilization": 0.25}}},
        "transformers_serve": {"instances": {"b": {**instance, "port": 8001}}},
        "llama_cpp": {"instances": {"c": {"model": quantised, "port": 8002, "context_length": 4096}}},
    }
    declared = Declaration.load(data, where="h")
    report = HardwareReport(memory_mib=64 << 10)
    models = declared.models_by_name()
    claims = [one for engine in declared.engines.values() for one in engine.claims(report, ["cpu"], models)]
    found = {one.role: one.memory_bytes for one in claims}
    assert found["vllm"] == 16 * GIB
    assert found["transformers_serve"] > (models[name].size_bytes or 0)
    assert GIB < found["llama_cpp"] < (models[quantised].size_bytes or 0)


# What would fit


def test_a_smaller_quantisation_of_the_same_model_is_suggested() -> None:
    text = said(
        spilling("llama_cpp", [wanted("deepseek-r1-distill-qwen-7b-q8", gpu_layers="all")], Room(0, (8 * GIB,)))
    )
    assert "what would fit here: model: deepseek-r1-distill-qwen-7b-q4-bartowski, gpu_layers: 22;" in text
    r1 = Room(256 * GIB)
    text = said(spilling("llama_cpp", [wanted("deepseek-r1-ud-q2-k-xl", 16384)], replace(r1, memory_bytes=240 * GIB)))
    assert "what would fit here: model: deepseek-r1-ud-iq1-m, context_length: 5888;" in text


def test_more_cards_are_suggested_where_they_divide_the_heads() -> None:
    text = said(resident("vllm", wanted("deepseek-r1-distill-qwen-32b"), EIGHT, Split(2), 0.9))
    assert "what would fit here: tensor_parallel: 4;" in text
    three = replace(EIGHT, cards=(RTX4090,) * 3)
    text = said(resident("vllm", wanted("deepseek-r1-distill-qwen-32b"), three, Split(2), 0.9))
    assert "what would fit here: none at all;" in text, "three do not divide 40 heads"


def test_offloaded_weights_and_stages_take_less_of_a_card() -> None:
    one = wanted("deepseek-r1-distill-qwen-14b")
    whole = Split().demand(one)
    assert Split(offload_bytes=10 * GIB).demand(one).weights_bytes == whole.weights_bytes - 10 * GIB
    assert Split(pipeline=2).demand(one).kv_cache_bytes == Split(tensor=2).demand(one).kv_cache_bytes
    assert Split(pipeline=2).demand(one).weights_bytes == whole.weights_bytes // 2


NAMES = sorted(catalogue())


@given(
    st.builds(
        wanted,
        st.sampled_from(NAMES),
        st.integers(0, 1 << 20),
        parallel=st.integers(1, 32),
        key_type=st.sampled_from(["f16", "q8_0", "q4_0"]),
        gpu_layers=st.sampled_from(["auto", "all"]) | st.integers(0, 100),
        experts_in_memory=st.booleans(),
        maps_weights=st.booleans(),
    ),
    st.builds(Room, st.integers(1, 1 << 40), st.lists(st.integers(1, 1 << 38), max_size=8).map(tuple)),
)
def test_what_is_suggested_fits_and_is_the_most_that_does(one: Wanted, room: Room) -> None:
    """Whatever is declared on whatever host: who follows a suggestion does not hear the same again."""

    def keys(changed: Wanted) -> set[str]:
        return {finding.key for finding in spilling("llama_cpp", [changed], room)}

    for finding in spilling("llama_cpp", [one], room):
        suggestion = finding.words["suggestion"]
        assert isinstance(suggestion, list)
        for text in suggestion:
            option, value = text.split(": ")
            if option == "context_length":
                assert keys(replace(one, context_length=int(value))) <= {"fit_vram"} - {finding.key}
                if (
                    finding.key in ("fit_vram", "fit_memory", "fit_beside_cards")
                    and int(value) + 256 <= one.tokens_each
                ):
                    assert keys(replace(one, context_length=int(value) + 256)) == {finding.key}
            elif option == "model":
                assert keys(replace(one, model=model(value))) <= {"fit_vram"} - {finding.key}
            else:
                assert 0 < int(value) <= (one.model.attention.layers if one.model.attention else 0)


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 256), st.integers(0, 256), st.integers(1, 64))
def test_more_cards_never_need_more_of_each(layers: int, heads: int, key: int, value: int, cards: int) -> None:
    shape = Attention(layers=layers, kv_heads=heads, head_dim=key, value_dim=value)
    one = Wanted("x", Model("x", "/x", 10 * GIB, shape), 4096)
    assert Split(cards + 1).demand(one).total_bytes <= Split(cards).demand(one).total_bytes


# A whole host


REPORT = HardwareReport(
    os=OperatingSystem("ubuntu", "24.04", "noble", "Ubuntu 24.04"), architecture="amd64", cpu=Cpu("x", (), 1, 4, 8),
    memory_mib=16 << 10, mounts=(Mount("/srv/models", "/", "ext4", 1 << 20, 1 << 19),),
)  # fmt: skip
SHAPE = Shape(size_bytes=4 * GIB, attention=Attention(layers=32, kv_heads=8, head_dim=128), context_length=131072)


def host(*, lang: str = "en", wanted: dict[str, Any] | None = None, **instance: Any) -> Declaration:
    """A host that serves one model of a repository that files/models.yaml does not have."""
    models = wanted or {"x": {"repo": "a/b", "files": ["x.gguf"]}}
    instances = {"one": {"model": next(iter(models)), "port": 1, **instance}}
    data = {"tags": ["cpu"], "lang": lang, "models": {"wanted": models}, "llama_cpp": {"instances": instances}}
    return Declaration.load(data, where="h")


def test_a_model_that_nobody_knew_is_judged_by_what_the_host_read() -> None:
    declared = host(context_length=131072, parallel=2)
    assert [finding.key for finding in declared.findings(REPORT)] == []
    (error,), warnings = declared.judge(REPORT, {"x": SHAPE})
    assert error.startswith(
        "llama_cpp/instances/one: needs 37.0 GiB of memory (one: 4.0 GiB weights + 32.0 GiB KV cache"
    )
    assert warnings == []
    (error,), _ = host(lang="zh", context_length=131072, parallel=2).judge(REPORT, {"x": SHAPE})
    assert error.startswith("llama_cpp/instances/one：需要 37.0 GiB 内存")
    assert host(context_length=4096).judge(REPORT, {"x": SHAPE}) == ([], [])


NEAR = {"layers": 28, "kv_heads": 8, "head_dim": 128, "window": 1024}
WINDOWED = SHAPE.model_copy(
    update={"attention": Attention.model_validate({"layers": 4, "kv_heads": 8, "head_dim": 128, "sliding": NEAR})}
)


def test_a_model_with_windows_is_served_where_it_fits_and_refused_where_it_is_to_keep_all() -> None:
    long: dict[str, Any] = {"context_length": 131072, "parallel": 2}
    assert host(**long).judge(REPORT, {"x": WINDOWED}) == ([], [])
    for flags in (["--swa-full"], ["-ub", "65536"]):
        (error,), _ = host(**long, extra_arguments=flags).judge(REPORT, {"x": WINDOWED})
        assert "needs 37.0 GiB of memory (one: 4.0 GiB weights + 32.0 GiB KV cache" in error


def test_vllm_keeps_the_window_and_what_it_computes_at_once() -> None:
    """Two batches of 2048 tokens on a card of 24 GB; without its hybrid manager, everything."""

    def kept(**instance: Any) -> str:
        one = {"model": "x", "port": 1, "context_length": 131072, "gpu_memory_utilization": 0.2, **instance}
        models = {"wanted": {"x": {"repo": "a/b"}}}
        data = {"tags": ["rtx4090"], "models": models, "vllm": {"instances": {"one": one}}}
        errors, _ = Declaration.load(data, where="h").judge(report_with("10de:2684"), {"x": WINDOWED})
        return errors[0]

    assert "for 131072 tokens of 16.0 KiB and 5120 tokens of 112.0 KiB" in kept()
    assert "and 3072 tokens of" in kept(max_num_batched_tokens=1024)
    assert "for 131072 tokens of 128.0 KiB)" in kept(extra_arguments=["--disable-hybrid-kv-cache-manager"])


def test_what_is_only_slow_is_told_at_the_end_of_the_run() -> None:
    errors, (warning,) = host().judge(REPORT, {"x": SHAPE.model_copy(update={"size_bytes": 20 * GIB})})
    assert (errors, warning.key) == ([], "fit_memory")
    allowed = host(context_length=131072, parallel=2, fit="warn").judge(REPORT, {"x": SHAPE})
    assert (allowed[0], [finding.key for finding in allowed[1]]) == ([], ["fit_no_memory_allowed"])


def test_experts_of_a_repository_that_nobody_knew_are_judged_too() -> None:
    """DeepSeek-R1 itself is in the catalogue; a quantisation of somebody's own is not, and it is what memory holds."""
    instance = {"model": "deepseek-r1", "weights": "mine", "port": 30000, "context_length": 4096}
    models = {"deepseek-r1": {}, "mine": {"repo": "me/r1-gguf", "files": ["r1-00001-of-00002.gguf"]}}
    data = {"tags": ["rtx4090"], "models": {"wanted": models}, "ktransformers": {"instances": {"one": instance}}}
    declared = Declaration.load(data, where="h")
    assert declared.models_to_look_into == ["mine"]
    small, large = (SHAPE.model_copy(update={"size_bytes": size * GIB}) for size in (8, 400))
    report = replace(report_with("10de:2684"), memory_mib=16 << 10)
    (error,), _ = declared.judge(report, {"mine": large})
    assert error.startswith("ktransformers/instances/one: needs") and "400.0 GiB weights" in error
    assert declared.judge(report, {"mine": small})[0] == []


def test_what_preflight_has_said_is_not_said_again() -> None:
    declared = host(wanted={"qwen3-32b-q4": {}})
    assert [finding.key for finding in declared.findings(REPORT)] == ["fit_memory"]
    assert declared.judge(REPORT, {}) == ([], [])


def test_only_models_that_are_served_and_unknown_are_looked_into() -> None:
    models = {"x": {"repo": "a/b", "files": ["x.gguf"]}, "y": {"repo": "a/c"}, "qwen3-8b-q4": {}}
    assert host(wanted=models).models_to_look_into == ["x"], "y is not served"
    assert host(wanted={"qwen3-8b-q4": {}}).models_to_look_into == []
    assert host(fit="off").models_to_look_into == []
    assert host(present=False).models_to_look_into == []
    as_named = {"qwen3-8b-q4": {"repo": "a/b", "files": ["q.gguf"]}}
    assert host(wanted=as_named).models_to_look_into == ["qwen3-8b-q4"], "a repository of its own is not the entry"


@pytest.mark.parametrize(
    ("changes", "tags", "found"),
    [
        ({}, ["cpu"], "0 GB VRAM; required, by the minimum of row 7B"),
        ({"memory_mib": 15 << 10}, ["b580"], None),
        (
            {"memory_mib": 15 << 10, "cpu": Cpu("x", (), 1, 2, 4)},
            ["b580"],
            "2 cores; required, by the minimum of row 7B",
        ),
        ({"memory_mib": 8 << 10}, ["b580"], "8.59 GB RAM; required, by the minimum of row 7B"),
        (
            {"mounts": (Mount("/srv/models", "/", "ext4", 6 << 10, 0),)},
            ["b580"],
            "6.44 GB disk; required, by the minimum",
        ),
        ({"cpu": Cpu(), "memory_mib": 0, "mounts": ()}, ["b580"], None),  # a host that tells nothing
    ],
)
def test_a_host_below_the_sizing_table_is_told_of_the_row(
    changes: dict[str, Any], tags: list[str], found: str | None
) -> None:
    report = replace(REPORT, controllers=report_with("8086:e20b").controllers, **changes)
    options = ModelsOptions.load({"wanted": {"deepseek-r1-distill-qwen-7b-q4": {}}}, where="h")
    findings = options.findings(report, tags)
    if found is None:
        assert findings == []
    else:
        assert said(findings).startswith(f"warning models/wanted/deepseek-r1-distill-qwen-7b-q4: this host has {found}")
