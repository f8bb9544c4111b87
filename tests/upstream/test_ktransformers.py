"""What role ktransformers writes, held against the arguments of the SGLang that it installs."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.hardware import Cpu, HardwareReport, NumaNode
from roles.common.model import Model
from roles.ktransformers.options import (
    NEEDS,
    REMOVED_ARGUMENTS,
    RESERVED_ARGUMENTS,
    VERSION,
    KTransformersInstanceOptions,
)
from roles.ktransformers.units import arguments
from tests.upstream import sglang
from tests.upstream.arguments import Argument, Rejected, names, parse
from tests.upstream.source import Tree
from tests.upstream.test_vllm import words_of

MODEL = Model("r1", "/srv/models/deepseek-ai/DeepSeek-R1")
GGUF = Model("q4", "/srv/models/unsloth/DeepSeek-R1-GGUF/Q4_K_M/x-00001-of-00009.gguf")
REPORTS = [
    HardwareReport(cpu=Cpu(cores=64), nodes=tuple(NumaNode(index, "0", 32, 1) for index in indices))
    for indices in ((), (0,), (0, 1), (0, 2), (1, 3))
]
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "host": st.sampled_from(["127.0.0.1", "0.0.0.0", "::"]),
    "port": st.integers(1, 65535),
    "alias": st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=9).filter(
        lambda name: not name.startswith("-")
    ),
    "context_length": st.integers(0, 1 << 20),
    "parallel": st.integers(1, 256),
    "cpu_threads": st.integers(1, 512),
    "gpu_experts": st.integers(0, 256),
    "deferred_experts": st.integers(0, 8),
    "gpu_prefill_tokens": st.integers(1, 1 << 16),
    "tensor_parallel": st.integers(1, 8),
    "gpu_memory_utilization": st.floats(0.01, 1),
    "chunked_prefill_tokens": st.integers(1, 1 << 16),
    "shared_experts_fusion": st.booleans(),
    "trust_remote_code": st.booleans(),
    "api_key": st.booleans(),
    "attention_backend": st.sampled_from(
        sorted(words_of(KTransformersInstanceOptions.model_fields["attention_backend"].annotation))
    ),
}


@cache
def tree() -> Tree:
    return Tree(sglang.sources(VERSION))


@cache
def accepted() -> list[Argument]:
    return sglang.arguments(tree())


def words(options: dict[str, Any], report: HardwareReport = REPORTS[0]) -> list[str]:
    declared = {"model": "r1", "weights": "q4", "port": 30000, **options}
    return arguments("one", KTransformersInstanceOptions.load(declared, where="h"), MODEL, GGUF, report)


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional=OPTIONS), st.sampled_from(REPORTS))
def test_sglang_accepts_every_command_line_that_the_role_can_write(
    options: dict[str, Any], report: HardwareReport
) -> None:
    understood = parse(accepted(), words(options, report))
    assert understood.model_path == MODEL.path
    assert understood.served_model_name == options.get("alias", "one")
    assert understood.kt_weight_path == "/srv/models/unsloth/DeepSeek-R1-GGUF/Q4_K_M"
    assert understood.kt_cpuinfer == options.get("cpu_threads", 64)
    assert understood.kt_threadpool_count == max(len(report.nodes), 1)
    assert understood.context_length == (options.get("context_length", 4096) or None)


def test_the_tables_of_flags_are_right() -> None:
    assert set(RESERVED_ARGUMENTS) <= names(accepted())
    gone = set(REMOVED_ARGUMENTS) & names(accepted())
    assert gone == set()
    assert set(RESERVED_ARGUMENTS.values()) <= set(KTransformersInstanceOptions.model_fields)


def test_every_method_is_known() -> None:
    assert set(NEEDS) == words_of(KTransformersInstanceOptions.model_fields["method"].annotation) - {"auto"}


def test_a_renamed_flag_would_be_seen() -> None:
    text = tree().text(sglang.SERVER)
    assert text
    altered = Tree(tree().root, {sglang.SERVER: text.replace('"--kt-method"', '"--kt-mode"')})
    with pytest.raises(Rejected):
        parse(sglang.arguments(altered), words({}))
