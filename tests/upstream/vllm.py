"""
The arguments of ``vllm serve``, read from vLLM's wheel.

vLLM makes most of them from the fields of its configuration classes (``get_kwargs`` in vllm/engine/arg_utils.py); what
follows does the same with the text of those classes. https://docs.vllm.ai/en/latest/cli/serve/ is made by them.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.upstream import wheels
from tests.upstream.arguments import Argument, Kind
from tests.upstream.calls import Calls, Given, argument
from tests.upstream.source import Generic, Literal, Module, NotUnderstood, Tree, Type

ENGINE = "vllm.engine.arg_utils"
FRONTEND = "vllm.entrypoints.common.cli_args"
_FILES = ("vllm/engine/arg_utils.py", "vllm/entrypoints/common/cli_args.py", "vllm/config/*.py", "vllm/envs.py",
          "vllm/model_executor/layers/quantization/__init__.py", "vllm/model_executor/model_loader/__init__.py",
          "vllm/reasoning/__init__.py", "vllm/tool_parsers/__init__.py", "vllm/tool_parsers/tool_strict_level.py",
          "vllm/renderers/*.py")  # fmt: skip
_SIZES = ("max_num_batched_tokens", "max_num_scheduled_tokens", "kv_cache_memory_bytes",
          "safetensors_prefetch_block_size", "max_num_queued_tokens")  # fmt: skip


def sources(version: str) -> Path:
    """Return the directory with vLLM's own text."""
    return wheels.sources(f"vllm=={version}", *_FILES)


def arguments(tree: Tree) -> list[Argument]:
    """Return the arguments of ``vllm serve``; its model is the positional one."""
    frontend, engine = tree[FRONTEND], tree[ENGINE]
    maker = frontend.lookup("make_arg_parser")
    if maker is None or not isinstance(maker[1], ast.FunctionDef):
        raise NotUnderstood(f"{FRONTEND} has no make_arg_parser")
    found = [*Calls(frontend).arguments(maker[1].body), *_frontend(frontend)]
    for name in ("EngineArgs", "AsyncEngineArgs"):
        found += Calls(engine, _class_kwargs).arguments(engine.method(name, "add_cli_args").body)
    return found


def values(tree: Tree) -> dict[str, set[str]]:
    """Return what vLLM accepts where its parser takes any text and looks it up later: argument -> values."""
    cache = tree["vllm.config.cache"]
    quantization = tree["vllm.model_executor.layers.quantization"]
    loader = tree["vllm.model_executor.model_loader"]
    return {
        "--kv-cache-dtype": _literal(cache, "CacheDType"),
        "--quantization": _literal(quantization, "QuantizationMethods"),
        "--load-format": _literal(loader, "LoadFormats"),
        "--tokenizer-mode": _literal(tree["vllm.config.model"], "TokenizerMode"),
        "--reasoning-parser": _keys(tree["vllm.reasoning"], "_REASONING_PARSERS_TO_REGISTER"),
        "--tool-call-parser": _keys(tree["vllm.tool_parsers"], "_TOOL_PARSERS_TO_REGISTER"),
    }


def variables(tree: Tree) -> set[str]:
    """Return the environment variables that vLLM reads."""
    return _keys(tree["vllm.envs"], "environment_variables")


def _literal(module: Module, name: str) -> set[str]:
    return {value for one in module.types(ast.Name(name)) if isinstance(one, Literal) for value in one.values}


def _keys(module: Module, name: str) -> set[str]:
    found = module.names.get(name)
    if not isinstance(found, ast.Dict):
        raise NotUnderstood(f"{module.name} has no dictionary {name}")
    return {module.constant(key) for key in found.keys if key is not None}


def _frontend(module: Module) -> Iterator[Argument]:
    """Each field of FrontendArgs is an argument; some are changed by hand."""
    loop = ast.unparse(module.method("BaseFrontendArgs", "add_cli_args"))
    if "f\"--{key.replace('_', '-')}\"" not in loop:
        raise NotUnderstood("BaseFrontendArgs.add_cli_args names its arguments in another way")
    calls = Calls(module)
    kwargs = calls.variables["frontend_kwargs"] = _class_kwargs(module, "FrontendArgs")
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        for _ in calls.arguments(module.method(name, "_customize_cli_kwargs").body):
            raise NotUnderstood(f"{name}._customize_cli_kwargs adds an argument")
    for field, given in kwargs.items():
        yield argument((f"--{field.replace('_', '-')}",), given)


def _class_kwargs(module: Module, name: str) -> dict[str, Given]:
    return {field: _field(owner, field, node) for field, (owner, node) in module.fields(name).items()}


def _field(module: Module, name: str, node: ast.AnnAssign) -> Given:
    """Return the argument that vLLM makes of a field: the order of the cases is that of ``_compute_kwargs``."""
    types = module.types(node.annotation)
    generic = {one.name: one for one in types if isinstance(one, Generic)}
    literals = [one for one in types if isinstance(one, Literal)]
    given: Given = {"optional": "None" in generic, "bounds": _bounds(module, node)}
    if set(generic) == {"bool", "str", "None"} and not literals:
        return {**given, "kind": "str", "count": "?"}
    if "bool" in generic:
        return {"kind": "switch"}
    if literals:
        return {**given, **_choices(literals[0], free="str" in generic)}
    for collection in ("tuple", "list", "set"):
        if collection in generic:
            return {**given, "count": "+", **_element(generic[collection])}
    if "int" in generic:
        size: Kind = "size or auto" if name == "max_model_len" else "size" if name in _SIZES else "int"
        return {**given, "kind": size}
    if "float" in generic:
        return {**given, "kind": "float"}
    if "dict" in generic:
        return {**given, "kind": "str" if {"str", "other"} & set(generic) else "json"}
    return {**given, "kind": "str" if "str" in generic else "unknown"}


def _choices(literal: Literal, *, free: bool) -> Given:
    kind: Kind = "int" if isinstance(literal.values[0], int) else "str"
    return {"kind": kind, "choices": () if free else literal.values}


def _element(collection: Generic) -> Given:
    members: frozenset[Type] = collection.arguments[0] if collection.arguments else frozenset()
    literals = [one for one in members if isinstance(one, Literal)]
    if literals:
        return _choices(literals[0], free=False)
    known: Mapping[Type, Kind] = {Generic("int"): "int", Generic("float"): "float"}
    return {"kind": known.get(next(iter(members)), "str") if len(members) == 1 else "str"}


def _bounds(module: Module, node: ast.AnnAssign) -> dict[str, float]:
    match node.value:
        case ast.Call(func=ast.Name(id="Field"), keywords=keywords):
            return {k.arg: module.constant(k.value) for k in keywords if k.arg in ("ge", "gt", "le", "lt")}
    return {}
