"""The arguments that a program accepts, as data, and a parser made of them."""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

Kind = Literal["flag", "switch", "int", "float", "size", "size or auto", "str", "json", "unknown"]
"""What follows an argument: nothing, nothing (with a form that says no), a number, a number that may end in k or G, any
text, JSON; or something that was not understood, which no command line may use."""


@dataclass(frozen=True)
class Argument:
    """One argument of a program."""

    names: tuple[str, ...]
    """``--port``, ``-p``; a positional one has a name without a dash."""
    kind: Kind = "str"
    choices: tuple[Any, ...] = ()
    """The only values that it may have; () for any of its kind."""
    count: Literal["", "?", "*", "+", "append"] = ""
    """How many values it takes, as argparse writes it; ``append``: one, each time it is given."""
    negations: tuple[str, ...] = ()
    """Of a switch: the names that say no."""
    bounds: Mapping[str, float] = field(default_factory=dict)
    """Of a number: ``ge``, ``gt``, ``le``, ``lt``."""
    optional: bool = False
    """The program reads ``None`` as no value."""


class Rejected(Exception):
    """The program would not start with this command line."""


def names(arguments: Iterable[Argument]) -> set[str]:
    """Return everything that a program knows as an argument."""
    return {name for argument in arguments for name in (*argument.names, *argument.negations)}


def parse(arguments: Iterable[Argument], words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, without the program's name, as the program would, or raise `Rejected`."""
    # Abbreviations are off, whatever the program does: they hide a name that is gone.
    parser = _Parser(add_help=False, allow_abbrev=False)
    for argument in arguments:
        _add(parser, argument)
    return parser.parse_args(words)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Rejected(message)


def _add(parser: argparse.ArgumentParser, argument: Argument) -> None:
    given: dict[str, Any] = {}
    if argument.kind == "flag":
        given["action"] = "store_true"
    elif argument.kind == "switch":
        # One that is not given is neither: the program has its own default.
        parser.add_argument(*argument.negations, action="store_false", dest=_destination(argument), default=None)
        given |= {"action": "store_true", "default": None}
    else:
        given["type"] = _reader(argument)
        if argument.count == "append":
            given["action"] = "append"
        elif argument.count:
            given["nargs"] = argument.count
    if argument.names[0].startswith("-"):
        given["dest"] = _destination(argument)
    parser.add_argument(*argument.names, **given)


def _destination(argument: Argument) -> str:
    longest = next((name for name in argument.names if name.startswith("--")), argument.names[0])
    return longest.lstrip("-").replace("-", "_")


def _reader(argument: Argument) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        if argument.optional and text in ("", "None"):
            return None
        try:
            value = _READERS[argument.kind](text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
        if argument.choices and value not in argument.choices:
            raise argparse.ArgumentTypeError(f"{value!r} is none of {argument.choices}")
        for bound, limit in argument.bounds.items():
            if not _BOUNDS[bound](value, limit):
                raise argparse.ArgumentTypeError(f"{value!r} is not {bound} {limit}")
        return value

    return read


def _size(text: str) -> int:
    """Read ``4096``, ``4k`` (thousands) and ``4K`` (times 1024)."""
    match = re.fullmatch(r"(\d+)([kmgtKMGT]?)", text)
    if not match:
        raise ValueError("no size")
    power = "kmgt".find(match[2].lower()) + 1 if match[2] else 0
    return int(match[1]) * int((1024 if match[2].isupper() else 1000) ** power)


def _unknown(text: str) -> NoReturn:
    raise ValueError("how the program reads this argument was not understood; teach tests/upstream")


_READERS: Mapping[str, Callable[[str], Any]] = {
    "int": int, "float": float, "size": _size, "str": str, "json": json.loads, "unknown": _unknown,
    "size or auto": lambda text: -1 if text in ("-1", "auto") else _size(text),
}  # fmt: skip
_BOUNDS: Mapping[str, Callable[[float, float], bool]] = {
    "ge": lambda value, limit: value >= limit,
    "gt": lambda value, limit: value > limit,
    "le": lambda value, limit: value <= limit,
    "lt": lambda value, limit: value < limit,
}
