"""Templates of text files."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def templates(module: str) -> Environment:
    """Return what lies in ``templates`` beside a module, its ``__file__``; a name that is not given is an error."""
    return Environment(
        loader=FileSystemLoader(Path(module).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
