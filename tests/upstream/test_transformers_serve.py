"""What role transformers_serve writes, held against the arguments of the transformers that it installs."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.transformers_serve.options import (
    REMOVED_ARGUMENTS,
    RESERVED_ARGUMENTS,
    VERSION,
    TransformersServeInstanceOptions,
)
from roles.transformers_serve.units import arguments
from tests.upstream import transformers_serve
from tests.upstream.arguments import Argument, Rejected, names, parse
from tests.upstream.source import Tree
from tests.upstream.test_vllm import words_of

OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "host": st.sampled_from(["127.0.0.1", "::1", "::1"]),
    "port": st.integers(1, 65535),
    "alias": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}(/[A-Za-z0-9][A-Za-z0-9._-]{0,9})?", fullmatch=True),
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "xpu"]),
    "continuous_batching": st.booleans(),
    "compile": st.booleans(),
    "trust_remote_code": st.booleans(),
    **{
        name: st.sampled_from(sorted(words_of(TransformersServeInstanceOptions.model_fields[name].annotation)))
        for name in ("quantization", "dtype", "attention", "reasoning")
    },
}


@cache
def tree() -> Tree:
    return Tree(transformers_serve.sources(VERSION))


def text() -> str:
    found = tree().text(transformers_serve.SERVE)
    assert found
    return found


@cache
def accepted() -> list[Argument]:
    return transformers_serve.arguments(tree())


def words(options: dict[str, Any]) -> list[str]:
    one = TransformersServeInstanceOptions.load({"model": "r1", "port": 8000, **options}, where="h")
    serve, *rest = arguments("one", one)
    assert serve == "serve"
    return rest


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional=OPTIONS))
def test_it_accepts_every_command_line_that_the_role_can_write(options: dict[str, Any]) -> None:
    understood = parse(accepted(), words(options))
    assert understood.force_model == options.get("alias", "one")
    assert understood.port == options.get("port", 8000)
    assert understood.quantization == options.get("quantization")
    assert understood.attn_implementation == options.get("attention")
    assert bool(understood.continuous_batching) == options.get("continuous_batching", False)


def test_what_quantisation_may_be_stands_in_the_program() -> None:
    """It is a plain word to the parser, and refused later."""
    assert "'bnb-4bit' or 'bnb-8bit'" in text()
    assert words_of(TransformersServeInstanceOptions.model_fields["quantization"].annotation) == {
        "bnb-4bit",
        "bnb-8bit",
    }


def test_the_tables_of_flags_are_right() -> None:
    assert set(RESERVED_ARGUMENTS) <= names(accepted())
    assert not set(REMOVED_ARGUMENTS) & names(accepted())
    assert set(RESERVED_ARGUMENTS.values()) <= set(TransformersServeInstanceOptions.model_fields)


def test_a_renamed_flag_would_be_seen() -> None:
    module = transformers_serve.SERVE
    altered = Tree(tree().root, {module: text().replace("quantization: Annotated", "quantize: Annotated")})
    with pytest.raises(Rejected):
        parse(transformers_serve.arguments(altered), words({"quantization": "bnb-8bit"}))
