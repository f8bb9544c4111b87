"""
The arguments of ``transformers serve``, read from transformers' wheel.

typer makes them from the parameters of ``Serve.__init__``: https://typer.tiangolo.com/tutorial/parameter-types/
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.upstream import wheels
from tests.upstream.arguments import Argument, Kind
from tests.upstream.source import Generic, Module, NotUnderstood, Tree

SERVE = "transformers.cli.serve"


def sources(version: str) -> Path:
    """Return the directory with transformers' own text."""
    return wheels.sources(f"transformers=={version}", "transformers/cli/*.py")


def arguments(tree: Tree) -> list[Argument]:
    """Return the arguments of ``transformers serve``; the model that it serves is the positional one."""
    module = tree[SERVE]
    parameters = module.method("Serve", "__init__").args
    return [_argument(module, one) for one in parameters.args if one.arg != "self"]


def _argument(module: Module, parameter: ast.arg) -> Argument:
    match parameter.annotation:
        case ast.Subscript(
            value=ast.Name(id="Annotated"),
            slice=ast.Tuple(elts=[kind, ast.Call(func=ast.Attribute(attr=role), args=names)]),
        ):
            if names:  # typer.Option("--name")
                raise NotUnderstood(f"{module.name}: {parameter.arg} has names of its own")
            given = _given(module, kind)
            if role == "Argument":
                return Argument((parameter.arg,), count="?", **given)
            name = parameter.arg.replace("_", "-")
            negations = (f"--no-{name}",) if given["kind"] == "switch" else ()
            return Argument((f"--{name}",), negations=negations, **given)
    raise NotUnderstood(f"{module.name}: parameter {parameter.arg}")


def _given(module: Module, node: ast.expr) -> dict[str, Any]:
    kinds: dict[str, Kind] = {"bool": "switch", "int": "int", "float": "float", "str": "str"}
    for one in module.types(node):
        if isinstance(one, Generic) and one.name in kinds:
            return {"kind": kinds[one.name]}
    if isinstance(node, ast.Name):
        return {"kind": "str", "choices": tuple(_members(module, node.id))}
    raise NotUnderstood(f"{module.name}: {ast.unparse(node)}")


def _members(module: Module, name: str) -> Iterator[str]:
    """Give the values of an enumeration, which are the choices."""
    owner, definition = module.class_of(name)
    for statement in definition.body:
        match statement:
            case ast.Assign(targets=[ast.Name()], value=value):
                yield owner.constant(value)
