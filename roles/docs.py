"""Write docs/options.md from the options themselves: ``python -m roles.docs``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from roles.common.options import Options
from roles.declaration import Declaration

TARGET = Path(__file__).parents[1] / "docs" / "options.md"

HEAD = """# Options

Generated from the code by `./run docs`; do not edit. What an inventory may say about a host, in plain dicts:

```python
lab = [("gpu-01", {"ssh_hostname": "192.0.2.10", "ssh_user": "root", "tags": ["cpu"], "llama_cpp": {...}})]
```

Keys that pyinfra reads (`ssh_hostname`, `ssh_user`, `_sudo`, ...) stand beside them; see the
[SSH connector](https://docs.pyinfra.com/en/3.x/connectors/ssh.html). An unknown key is an error.
"""


def main() -> None:
    """Write the page."""
    TARGET.write_text(page())
    print(f"==> wrote {TARGET.relative_to(Path.cwd()) if TARGET.is_relative_to(Path.cwd()) else TARGET}")


def page() -> str:
    """Return the whole page as Markdown."""
    return "\n".join([HEAD, *_sections("", Declaration)])


def _sections(path: str, model: type[Options]) -> Iterator[str]:
    fields = model.model_fields
    if path:
        yield f"## {path}\n\n{_text(model.__doc__)}\n"
    own = {name: field for name, field in fields.items() if _nested(field.annotation) is None}
    if own:
        yield "| Option | Type | Default | Meaning |\n| --- | --- | --- | --- |"
        for name, field in own.items():
            yield f"| `{field.alias or name}` | {_type(field)} | {_default(field)} | {_cell(field.description)} |"
        yield ""
    for name, field in fields.items():
        nested = _nested(field.annotation)
        if nested is not None:
            inner, suffix = nested
            yield from _sections(f"{path}/{name}{suffix}".lstrip("/"), inner)


def _nested(annotation: Any) -> tuple[type[Options], str] | None:
    """Return the options model inside an annotation, and what its path gets for the level of names between."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation, ""
    suffix = {dict: "/NAME", list: "/N"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        if (found := _nested(argument)) is not None:
            return found[0], suffix + found[1]
    return None


def _type(field: FieldInfo) -> str:
    text = str(field.annotation if not isinstance(field.annotation, type) else field.annotation.__name__)
    text = text.replace("typing.", "").replace("Literal", "one of ").replace("Optional", "optional ")
    bounds = [part for part in map(_bound, field.metadata) if part]
    return f"{_clean(text)}{', ' + ', '.join(bounds) if bounds else ''}".replace("|", "or")


def _clean(text: str) -> str:
    text = re.sub(r"Annotated\[([^,\]]+), FieldInfo\([^)]*\)\]", r"\1", text)
    text = re.sub(r"FieldInfo\([^)]*\)", "", text)
    text = re.sub(r"one of \[([^]]*)\]", r"\1", text)
    return text.replace("NoneType", "None")


def _bound(constraint: Any) -> str:
    for attribute, sign in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if (value := getattr(constraint, attribute, None)) is not None:
            return f"{sign} {value}"
    return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return "" if default is PydanticUndefined else f"`{default!r}`"


def _text(documentation: str | None) -> str:
    return " ".join((documentation or "").split())


def _cell(documentation: str | None) -> str:
    return _text(documentation).replace("|", "\\|")


if __name__ == "__main__":
    main()
