"""A model, as the models role hands it to the engines."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A model that stands complete and verified on the host once the models role has run."""

    name: str
    """Its name in the inventory, ``models/wanted/NAME``."""
    path: str
    """What an engine loads: the GGUF file (the first, if it is split), or the directory of a safetensors model."""
