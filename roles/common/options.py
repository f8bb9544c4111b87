"""Typed role options: name, type, default and meaning declared once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Protocol, Self, get_args, get_origin, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from pyinfra.api.exceptions import InventoryError


def has_login(text: str) -> bool:
    """Whether a URL, or what was meant as one, has something before an ``@`` that may be a user and a password."""
    rest = text.partition("://")[2] or text
    authority = re.split(r"[/?#]", rest)[0]
    # A password with a slash in it looks like a port that is no number.
    return "@" in authority or ("@" in rest and re.search(r":(?!\d*$)[^\]]*$", authority) is not None)


def _without_login(url: str) -> str:
    if has_login(url):
        raise ValueError(
            "the URL holds a login, which everybody on the host could read where it is written, and logs would show; "
            "write an address that needs none, such as a mirror or a cache in your own network"
        )
    return url


Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern="^[0-9A-F]{40}$")]
"""Of an OpenPGP key: all 40 digits, without spaces."""
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$"), AfterValidator(_without_login)]
InstanceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A name that is safe in a unit name, a path and a URL alike."""
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
DirectoryName = Annotated[str, Field(pattern=rf"^{_PART}(/{_PART})?$")]
"""A model's name, NAME or ORGANISATION/NAME, where a server takes for it the path at which it sees the model."""


class OptionError(InventoryError):
    """One or more role options in the inventory are wrong; the message has one line for each."""


class OptionProblem(ValueError):
    """What a validator of several options raises, naming the one to change."""

    def __init__(self, option: str, message: str) -> None:
        """``option``: its name, relative to the options that the validator belongs to."""
        super().__init__(message)
        self.option = option


class Options(BaseModel):
    """Base of every role's options: frozen, strict, and unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    advice: ClassVar[dict[str, str]] = {}
    """Names that people write because upstream once had them or seems to -> what to write instead."""

    @classmethod
    def load(cls, data: dict[str, Any], *, where: str, path: str = "") -> Self:
        """
        Return the options that ``data`` spells, or raise `OptionError` with every problem.

        ``where`` is the host's name, ``path`` the option path of ``data`` itself ("" for a whole host).
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [f"{where}: {_explain(cls, detail, path)}" for detail in error.errors()]
            raise OptionError("\n".join(lines)) from None


@runtime_checkable
class Listening(Protocol):
    """Options of what takes TCP ports on its host."""

    def listeners(self) -> list[tuple[str, int]]:
        """Return the ports, each with the path of its option below the role."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'port'?)``, or nothing when no known word is close."""
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _explain(root: type[Options], detail: ErrorDetails, path: str) -> str:
    loc = [part for part in detail["loc"] if part != "[key]"]
    if isinstance(cause := detail.get("ctx", {}).get("error"), OptionProblem):
        loc.append(cause.option)
    full = "/".join([*([path] if path else []), *map(str, loc)]) or "the host's options"
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        parent = _model_at(root, loc[:-1])
        name = str(loc[-1])
        if parent and name in parent.advice:
            return f"{full}: no such option: {parent.advice[name]}"
        return f"{full}: unknown option" + did_you_mean(name, parent.model_fields if parent else ())
    if kind == "missing":
        return f"{full}: this option is required and has no default"
    if kind == "value_error":
        return f"{full}: {detail['ctx']['error']}"
    shown = "a hidden value" if _is_secret(loc) or _may_hold_login(given) else repr(given)
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    if kind == "literal_error":
        choices = [choice.strip(" '") for choice in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{full}: {message}, got {shown}" + did_you_mean(str(given), choices)
    return f"{full}: {message}, got {shown}"


def _is_secret(loc: Iterable[object]) -> bool:
    return any(word in str(part) for part in loc for word in ("key", "password", "secret", "token"))


def _may_hold_login(given: object) -> bool:
    return re.search(r":.*@", repr(given)) is not None


def _model_at(root: type[Options], loc: Iterable[object]) -> type[Options] | None:
    """Return the options model that stands at ``loc``, so that a typo is compared with its fields."""
    annotation: Any = root
    for part in loc:
        model = next(_models_in(annotation), None)
        if model is not None and (field := model.model_fields.get(str(part))) is not None:
            annotation = field.annotation
        elif get_origin(annotation) in (dict, list):
            annotation = get_args(annotation)[-1]
    return next(_models_in(annotation), None)


def _models_in(annotation: Any) -> Iterator[type[Options]]:
    if isinstance(annotation, type) and issubclass(annotation, Options):
        yield annotation
    elif get_origin(annotation) not in (dict, list):
        for argument in get_args(annotation):
            yield from _models_in(argument)
