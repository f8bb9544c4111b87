"""Calls of argparse's ``add_argument`` in a function that is read, not run."""

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.upstream.arguments import Argument, Kind
from tests.upstream.source import Module, NotUnderstood

Given = dict[str, Any]
"""What one call gets: kind, choices, count, bounds, optional; each as `Argument` has it."""

READERS: Mapping[str, Kind] = {
    "int": "int", "float": "float", "str": "str", "json.loads": "json", "nullable_str": "str",
    "optional_type(str)": "str", "optional_type(json.loads)": "json", "human_readable_int": "size",
    "parse_reasoning_parser": "str",
}  # fmt: skip
"""What stands after ``type=`` -> what it reads; anything else is unknown, and no command line may use it."""


def no_kwargs(module: Module, class_name: str) -> dict[str, Given]:
    """Say that the program does not make arguments of classes."""
    raise NotUnderstood(f"{module.name}: get_kwargs({class_name})")


class Calls:
    """Follows the statements that name, change and add arguments; others cannot matter to a parser."""

    def __init__(self, module: Module, class_kwargs: Callable[[Module, str], dict[str, Given]] = no_kwargs) -> None:
        """``class_kwargs``: what ``get_kwargs(CLASS)`` gives there: field -> keywords."""
        self.module, self.class_kwargs = module, class_kwargs
        self.variables: dict[str, Any] = {}

    def arguments(self, body: list[ast.stmt]) -> Iterator[Argument]:
        """Give the arguments that these statements add."""
        for statement in body:
            match statement:
                case ast.If(body=inner):
                    yield from self.arguments(inner)
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if "super()" not in ast.unparse(value):
                    self.variables[name] = self._kwargs(value)
                case ast.Assign(
                    targets=[ast.Subscript(value=target, slice=ast.Constant(value=str(key)))], value=value
                ) if isinstance(given := self._kwargs(target), dict):
                    given |= self._given(key, value)
                case ast.Delete(targets=[ast.Subscript(value=target, slice=ast.Constant(value="nargs"))]):
                    if isinstance(given := self._kwargs(target), dict):
                        given.pop("count", None)
                case ast.Expr(value=ast.Call(func=ast.Attribute(attr="remove", value=target), args=[gone])):
                    self._remove(target, gone)
                case ast.Expr(value=ast.Call(func=ast.Attribute(attr="add_argument"), args=flags, keywords=keywords)):
                    given = {}
                    for keyword in keywords:
                        given |= self._given(keyword.arg, keyword.value)
                    yield argument(tuple(map(self.module.constant, flags)), given)

    def _remove(self, target: ast.expr, gone: ast.expr) -> None:
        match target:
            case ast.Subscript(value=owner, slice=ast.Constant(value="choices")):
                given = self._kwargs(owner)
                given["choices"] = tuple(value for value in given["choices"] if value != self.module.constant(gone))

    def _kwargs(self, node: ast.expr) -> Any:
        """Return the keywords that an expression stands for; None where it is something else."""
        match node:
            case ast.Call(func=ast.Name(id="get_kwargs"), args=[ast.Name(id=name)]):
                return self.class_kwargs(self.module, name)
            case ast.Name(id=name):
                return self.variables.get(name)
            case ast.Subscript(value=inner, slice=ast.Constant(value=str(key))):
                found = self._kwargs(inner)
                return found.get(key) if isinstance(found, dict) else None
            case ast.Dict(keys=keys, values=values):
                merged: Given = {}
                for named, value in zip(keys, values, strict=True):
                    merged |= self._given(None if named is None else self.module.constant(named), value)
                return merged
        return None

    def _given(self, key: str | None, value: ast.expr) -> Given:
        """Return what one keyword says; without a name, ``**value``."""
        text = ast.unparse(value)
        match key:
            case None:
                return self._kwargs(value) or {"kind": "unknown"}
            case "type":
                return {"kind": READERS.get(text, "unknown")}
            case "nargs":
                return {"count": self.module.constant(value)}
            case "choices":
                try:
                    return {"choices": tuple(self.module.constant(value))}
                except NotUnderstood:
                    return {"kind": "unknown"}
            case "action" if text == "argparse.BooleanOptionalAction":
                return {"kind": "switch"}
            case "action" if text in ("'store_true'", "'store_false'"):
                return {"kind": "flag"}
            case "action" if text == "'append'":
                return {"count": "append"}
        return {}  # help, default, metavar, dest; an action of the program's own takes what `type` reads


def argument(flags: tuple[str, ...], given: Given) -> Argument:
    """Return the argument of one call."""
    negations: tuple[str, ...] = ()
    if given.get("kind") == "switch":
        # argparse.BooleanOptionalAction, and vLLM's own pairs of enable and disable (EnableDisableAction).
        pairs = (("--enable-", "--disable-"), ("--disable-", "--enable-"))
        long = [flag for flag in flags if flag.startswith("--")]
        negations = tuple(f"--no-{flag[2:]}" for flag in long)
        negations += tuple(b + flag.removeprefix(a) for flag in long for a, b in pairs if flag.startswith(a))
    return Argument(flags, negations=negations, **{key: value for key, value in given.items() if value})
