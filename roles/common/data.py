"""Reading the data files of this repository."""

from __future__ import annotations

from typing import Any

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, five times as fast, where PyYAML was built with it: every start of pyinfra waits for it."""


def from_yaml(text: str) -> Any:
    """Return what a YAML document holds."""
    return yaml.load(text, Loader=LOADER)
