"""Write docs/options.md from the options themselves, docs/models.md from the catalogue: ``python -m roles.docs``."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from roles.common.model import CatalogueEntry, Machine, catalogue
from roles.common.options import Options
from roles.declaration import Declaration

TARGET = Path(__file__).parents[1] / "docs" / "options.md"
MODELS = TARGET.with_name("models.md")

HEAD = """# Options

Generated from the code by `./run docs`; do not edit. What an inventory may say about a host, in plain dicts:

```python
lab = [("gpu-01", {"ssh_hostname": "192.0.2.10", "ssh_user": "root", "tags": ["cpu"], "llama_cpp": {...}})]
```

Keys that pyinfra reads (`ssh_hostname`, `ssh_user`, `_sudo`, ...) stand beside them; see its
[SSH connector](https://docs.pyinfra.com/en/3.x/connectors/ssh.html). An unknown key is an error.
"""
MODELS_HEAD = """# Models

Generated from [files/models.yaml](../files/models.yaml) by `./run docs`; do not edit. An inventory wants one by its
name, `"models": {"wanted": {"qwen3-4b-q4": {}}}`; anything else by `repo`, `url` or `path`. Whether one fits into a
host is computed as [fit.md](fit.md) says.
"""
MODELS_TABLE = """| Name | What it is | Format | Bits | Size | Hubs |
| --- | --- | --- | --- | --- | --- |"""
SIZING_TABLE = """| Row | | Cores | RAM | GPU memory | Disk |
| --- | --- | --- | --- | --- | --- |"""
TABLE = "| Option | Type | Default | Meaning |\n| --- | --- | --- | --- |"
WORDS = {"integer": "int", "number": "float", "string": "str", "boolean": "bool", "null": "None"}
BOUNDS = {"minimum": "at least {}", "maximum": "at most {}", "exclusiveMinimum": "more than {}", "pattern": "like `{}`"}

Schema = dict[str, Any]


def main() -> None:
    """Write the pages."""
    TARGET.write_text(page())
    MODELS.write_text(models_page())
    print("==> wrote docs/options.md and docs/models.md")


def page() -> str:
    """Return the whole page as Markdown."""
    schema = Declaration.model_json_schema()
    for model in _all_options(Options):
        described: Schema = schema if model is Declaration else schema["$defs"].get(model.__name__, {})
        for name, meaning in _meanings(model).items():
            if (field := described.get("properties", {}).get(model.model_fields[name].alias or name)) is not None:
                field["description"] = meaning
    return "\n".join([HEAD, *_sections("", schema, schema["$defs"])])


def _all_options(model: type[Options]) -> Iterator[type[Options]]:
    yield model
    for child in model.__subclasses__():
        yield from _all_options(child)


def _meanings(model: type[Options]) -> dict[str, str]:
    """Return field -> the text under it. Read here, for pydantic would read it again at every start of pyinfra."""
    inherited = {
        name: text for base in model.__bases__ if issubclass(base, Options) for name, text in _meanings(base).items()
    }
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    return inherited | {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and field.target.id in model.model_fields
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _sections(path: str, model: Schema, models: dict[str, Schema]) -> Iterator[str]:
    if path:
        yield f"## {path}\n\n{_line(model.get('description', ''))}\n"
    nested: list[tuple[str, Schema]] = []
    rows = []
    for name, field in model["properties"].items():
        inner, between = _inner_model(field)
        if inner:
            nested.append((f"{path}/{name}{between}".lstrip("/"), models[inner]))
        else:
            default = "required" if name in model.get("required", ()) else f"`{field.get('default')!r}`"
            rows.append(f"| `{name}` | {_type(field)} | {default} | {_line(field.get('description', ''))} |")
    if rows:
        yield "\n".join([TABLE, *rows, ""])
    for inner_path, inner_model in nested:
        yield from _sections(inner_path, inner_model, models)


def _inner_model(field: Schema) -> tuple[str, str]:
    """Return the options model that a field holds, and what stands between in its path; "" for none."""
    if "$ref" in field:
        return field["$ref"].rsplit("/", 1)[-1], ""
    for choice in field.get("anyOf", ()):
        if (found := _inner_model(choice))[0]:
            return found
    if field.get("type") == "array":
        name, between = _inner_model(field["items"])
        return name, f"/NUMBER{between}" if name else ""
    name, between = _inner_model(below) if (below := _below(field)) else ("", "")
    return name, f"/NAME{between}" if name else ""


def _below(field: Schema) -> Schema:
    """Return the schema of a dict's values, {} for what is no dict or says nothing of them."""
    below: Any = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), {})
    return below if isinstance(below, dict) else {}


def _type(field: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value!r}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']!r}`"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if field.get("type") == "object":
        return f"dict of {_type(below)}" if (below := _below(field)) else "dict"
    bounds = [text.format(_cell(str(field[key]))) for key, text in BOUNDS.items() if key in field]
    return ", ".join([WORDS[field["type"]], *bounds])


def _line(text: str) -> str:
    return _cell(" ".join(text.replace("``", "`").split()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def models_page() -> str:
    """Return the page of the catalogued models as Markdown."""
    families: dict[str, dict[str, CatalogueEntry]] = {}
    for name, entry in catalogue().items():
        families.setdefault(entry.family, {})[name] = entry
    sections = [line for family, entries in families.items() for line in _family(family, entries)]
    return "\n".join([MODELS_HEAD, *sections])


def _family(name: str, entries: dict[str, CatalogueEntry]) -> Iterator[str]:
    first = next(iter(entries.values()))
    yield f"## {name}\n"
    told = [f"{first.parameters / 1e9:.3g} billion parameters, trained with {first.context_length} tokens.",
            f"Licence: {first.licence}."]  # fmt: skip
    if first.sampling:
        system = "" if first.sampling.system_prompt else ", without a system prompt"
        told.append(f"Ask it with temperature {first.sampling.temperature}, top_p {first.sampling.top_p}{system}.")
    yield " ".join(told) + "\n"
    yield MODELS_TABLE
    for model, entry in entries.items():
        hubs = [hub for hub, place in (("Hugging Face", entry.huggingface), ("ModelScope", entry.modelscope)) if place]
        size = f"{(entry.size_bytes or 0) / 1e9:.3g} GB"
        yield (
            f"| `{model}` | {_cell(entry.description)} | {entry.format} | {entry.quantisation} | {size} | "
            f"{', '.join(hubs)} |"
        )
    if first.sizing:
        yield f"\n{SIZING_TABLE}"
        yield _machine(first.sizing.row, "recommended", first.sizing.recommended)
        yield _machine(first.sizing.row, "minimum", first.sizing.minimum)
    yield ""


def _machine(row: str, which: str, machine: Machine) -> str:
    vram = f"{machine.vram_gb:g} GB" if machine.vram_gb else "none"
    return f"| {row} | {which} | {machine.cores} | {machine.memory_gb:g} GB | {vram} | {machine.disk_gb:g} GB |"


if __name__ == "__main__":
    main()
