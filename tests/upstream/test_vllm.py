"""What role vllm writes behind `vllm serve`, held against the argument definitions of the wheel that it installs."""

from functools import cache
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.model import Model
from roles.vllm import options as ours
from roles.vllm.options import REFUSED_ENVIRONMENT, REMOVED_ARGUMENTS, RESERVED_ARGUMENTS, VllmInstanceOptions
from roles.vllm.units import arguments as rendered
from roles.vllm.units import variables
from tests.upstream import vllm
from tests.upstream.arguments import Argument, Rejected, names, parse
from tests.upstream.source import Tree

MODEL = Model(name="r1", path="/srv/models/deepseek-ai/r1")
NODES = ["10.0.0.1", "10.0.0.2"]
DISABLED = {"--disable-log-requests"}
"""Its name is in lists of what is gone, but it lives on as the no of --enable-log-requests."""


@cache
def tree() -> Tree:
    return Tree(vllm.sources(ours.VERSION))


@cache
def accepted() -> list[Argument]:
    return vllm.arguments(tree())


def literals(option: str) -> st.SearchStrategy[Any]:
    """Any of the words that an option takes."""
    return st.sampled_from(sorted(words_of(VllmInstanceOptions.model_fields[option].annotation), key=str))


def words_of(annotation: Any) -> set[Any]:
    found: set[Any] = set()
    for one in get_args(annotation):
        found |= words_of(one) if get_args(one) else {one} if isinstance(one, str | int) else set()
    return found


PATHS = st.from_regex(r"/srv/[A-Za-z0-9._-]{1,12}(/[A-Za-z0-9._-]{1,12})?", fullmatch=True)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "host": st.sampled_from(["127.0.0.1", "0.0.0.0", "::", "10.0.0.1"]),
    "port": st.integers(1, 65535),
    "alias": st.text(min_size=1, max_size=20),
    "context_length": st.integers(0, 1 << 20),
    "parallel": st.integers(1, 1024),
    "max_num_batched_tokens": st.integers(1024, 1 << 20),
    "tokenizer": PATHS,
    "trust_remote_code": st.booleans(),
    "tensor_parallel": st.integers(1, 64),
    "pipeline_parallel": st.integers(1, 64).map(lambda number: number * 2),
    "expert_parallel": st.booleans(),
    "distributed_executor_backend": st.just("mp"),
    "nodes": st.just(NODES),
    "node_ip_address": st.sampled_from(NODES),
    "master_port": st.integers(1024, 65534),
    "gpu_memory_utilization": st.floats(0, 1, exclude_min=True),
    "cpu_offload_gb": st.floats(0, 1 << 12),
    "block_size": st.integers(1, 64).map(lambda number: number * 16),
    "enforce_eager": st.booleans(),
    "prefix_caching": st.booleans(),
    "lora_modules": st.dictionaries(NAMES, PATHS, max_size=3),
    "max_loras": st.integers(1, 64),
    "chat_template": PATHS,
    "generation_config": st.sampled_from(["auto", "vllm"]) | PATHS,
    "seed": st.integers(0, 1 << 40),
    "cors_origins": st.lists(st.sampled_from(["https://chat.example.org", "http://10.0.0.9:3000"])),
    **{
        option: literals(option)
        for option in ("dtype", "quantization", "kv_cache_dtype", "load_format", "tokenizer_mode", "max_lora_rank",
                       "reasoning_parser", "tool_call_parser")
    },
}  # fmt: skip
NEVER_RENDERED = {
    "model", "api_key", "environment", "extra_arguments", "golden_prompt", "golden_max_tokens", "present", "numa",
    "min_tokens_per_second", "ready_timeout_seconds", "cards", "fit",
}  # fmt: skip
TOGETHER = ("nodes", "node_ip_address")
HERE = {name: strategy for name, strategy in OPTIONS.items() if name not in TOGETHER}
INSTANCES = st.one_of(
    st.fixed_dictionaries({}, optional={**HERE, "data_parallel": st.integers(1, 64)}),
    # On two hosts: an even number of cards.
    st.fixed_dictionaries(
        {name: OPTIONS[name] for name in (*TOGETHER, "pipeline_parallel")},
        optional={name: strategy for name, strategy in HERE.items() if name != "pipeline_parallel"},
    ),
    st.fixed_dictionaries({"distributed_executor_backend": st.just("ray")}),
)


def instance(given_options: dict[str, Any]) -> VllmInstanceOptions:
    return VllmInstanceOptions.load({"model": "r1", "port": 8000, **given_options}, where="h")


def words(one: VllmInstanceOptions, *, numa_bind: bool = False) -> list[str]:
    serve, *rest = rendered("one", one, MODEL, numa_bind=numa_bind)
    assert serve == "serve"
    return rest


@settings(max_examples=300, deadline=None)
@given(INSTANCES, st.booleans())
def test_vllm_accepts_every_command_line_that_the_role_can_write(options: dict[str, Any], numa_bind: bool) -> None:
    one = instance(options)
    understood = parse(accepted(), words(one, numa_bind=numa_bind))
    assert understood.model_tag == MODEL.path
    assert understood.served_model_name == [one.alias or "one"]
    assert understood.tensor_parallel_size == one.tensor_parallel
    assert understood.gpu_memory_utilization == one.gpu_memory_utilization
    assert understood.max_model_len == (one.context_length or None)
    assert understood.max_num_seqs == one.parallel
    assert bool(understood.headless) == one.headless
    assert (understood.lora_modules or []) == [f"{name}={path}" for name, path in one.lora_modules.items()]
    assert (understood.allowed_origins or []) == one.cors_origins


def test_no_option_is_left_out_of_the_test_above() -> None:
    assert set(OPTIONS) | {"data_parallel"} | NEVER_RENDERED == set(VllmInstanceOptions.model_fields)


@settings(max_examples=100, deadline=None)
@given(INSTANCES)
def test_what_an_option_sets_cannot_be_set_again(options: dict[str, Any]) -> None:
    line = words(instance({**options, "alias": None}), numa_bind=True)
    written = {word.partition("=")[0] for word in line if word.startswith("--")}
    assert written <= set(RESERVED_ARGUMENTS)


@pytest.mark.parametrize(
    ("flag", "option", "values"),
    [
        ("--kv-cache-dtype", "kv_cache_dtype", ours.CacheType),
        ("--quantization", "quantization", ours.Quantization),
        ("--load-format", "load_format", ours.LoadFormat),
        ("--tokenizer-mode", "tokenizer_mode", ours.TokenizerMode),
        ("--reasoning-parser", "reasoning_parser", ours.ReasoningParser),
        ("--tool-call-parser", "tool_call_parser", ours.ToolCallParser),
    ],
)
def test_the_words_of_an_option_are_those_that_vllm_knows(flag: str, option: str, values: Any) -> None:
    """Of these vLLM's parser takes any text; what is no word of its own, it refuses after minutes of loading."""
    deprecated = {"fbgemm_fp8", "fp_quant"} if option == "quantization" else set()
    assert set(get_args(values)) == vllm.values(tree())[flag] - deprecated


def test_flags_that_are_said_to_be_gone_are_gone() -> None:
    assert set(REMOVED_ARGUMENTS) & names(accepted()) == set()
    assert names(accepted()) >= DISABLED


def test_flags_that_are_said_to_be_set_by_options_exist() -> None:
    assert set(RESERVED_ARGUMENTS) - names(accepted()) == set()


def test_flags_that_advice_names_exist() -> None:
    advice = [*REMOVED_ARGUMENTS.values(), *VllmInstanceOptions.advice.values()]
    named = {word.strip("'[],") for text in advice for word in text.split() if word.strip("'[],").startswith("--")}
    assert named and named <= names(accepted())


def test_environment_variables_are_vllms_own() -> None:
    one = instance({"nodes": NODES, "node_ip_address": NODES[0], "pipeline_parallel": 2})
    written = {*variables(one, "/cache", "nvidia"), *REFUSED_ENVIRONMENT, "VLLM_RPC_BASE_PATH", "VLLM_API_KEY"}
    assert {name for name in written if name.startswith("VLLM_")} <= vllm.variables(tree())


@pytest.mark.parametrize(
    ("module", "before", "after"),
    [
        (vllm.ENGINE, '"--tensor-parallel-size"', '"--tp-size"'),
        (vllm.ENGINE, '"--kv-cache-dtype"', '"--cache-dtype"'),
        (vllm.FRONTEND, "    host: str | None = None", "    address: str | None = None"),
        ("vllm.config.model", '"bfloat16", "float", "float32"]', '"bf16", "float", "float32"]'),
        (
            "vllm.config.cache",
            "block_size: int = Field(default=None, gt=0)",
            "block_size: int = Field(default=None, ge=4096)",
        ),
        ("vllm.config.lora", "Literal[1, 8, 16, 32,", "Literal[1, 8, 32,"),
    ],
)
def test_a_change_upstream_is_noticed(module: str, before: str, after: str) -> None:
    text = tree().text(module)
    assert text and text.count(before) == 1
    changed = vllm.arguments(Tree(tree().root, {module: text.replace(before, after)}))
    line = words(instance({"dtype": "bfloat16", "block_size": 32, "lora_modules": {"a": "/srv/a"}}))
    parse(accepted(), line)
    with pytest.raises(Rejected):
        parse(changed, line)
