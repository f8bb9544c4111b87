"""A model, as the models role hands it to the engines; and the catalogue of named ones, files/models.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from roles.common.data import from_yaml
from roles.common.options import InstanceName, Options, Sha256

CATALOGUE = Path(__file__).parents[2] / "files" / "models.yaml"

ModelFormat = Literal["gguf", "safetensors"]
"""A single .gguf file (or the first of a split one), or a directory as transformers lays it out."""
HubName = Literal["huggingface", "modelscope"]
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
"""publisher/name, as both hubs spell it: https://huggingface.co/docs/hub/repositories-settings."""
# ASCII: a counted repetition of \w, which is all letters of Unicode, takes pydantic 15 ms to compile, in each model.
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$")]
"""A commit, a tag or a branch of a repository."""
FilePattern = Annotated[str, Field(pattern=r"^[^/\s][^\n]*$")]
"""A file's name in its repository, or a glob whose ``*`` crosses directories."""


@dataclass(frozen=True)
class Model:
    """A model that stands complete and verified on the host once the models role has run."""

    name: str
    """Its name in the inventory, ``models/wanted/NAME``."""
    path: str
    """What an engine loads: the GGUF file (the first, if it is split), or the directory of a safetensors model."""
    size_bytes: int | None = None
    """Of all its files; None when only the hub knows."""
    kv_elements_per_token: int | None = None
    """Elements of the KV cache that a token takes, keys and values; None when not known."""

    @property
    def format(self) -> ModelFormat:
        """What an engine finds there, by its name."""
        return "gguf" if self.path.endswith(".gguf") else "safetensors"


class Attention(Options):
    """What decides the size of a model's KV cache; config.json: num_hidden_layers, num_key_value_heads, head_dim."""

    layers: Annotated[int, Field(ge=1)]
    kv_heads: Annotated[int, Field(ge=1)]
    head_dim: Annotated[int, Field(ge=1)]


class CatalogueSource(Options):
    """Where a hub has a catalogued model."""

    repo: Repository
    revision: Revision | None = None
    """Commit that the digests below were seen at. None: the hub's default branch, resolved once on each host."""


class CatalogueEntry(Options):
    """A model that an inventory can name."""

    description: str
    format: ModelFormat
    licence: str
    huggingface: CatalogueSource | None = None
    modelscope: CatalogueSource | None = None
    files: list[FilePattern] = []
    """Names or globs; none for the whole repository. The first name of a GGUF model is what an engine loads."""
    sizes: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Bytes of the files whose size more than one source gives; what is not here, the hub's listing says."""
    about_gb: Annotated[float, Field(gt=0)] | None = None
    """Size of all files in GB, rounded, where `sizes` does not have them all: what preflight counts with."""
    sha256: dict[str, Sha256] = {}
    """Digests of the files, where more than one source gives the same: a hub that lists another is refused."""
    attention: Attention | None = None
    """Read from the model's config.json. None: preflight does not count a KV cache."""
    source: str
    """Where all this was read, and when."""

    @property
    def size_bytes(self) -> int | None:
        """Of all files: exactly where every size is known, else about."""
        if self.files and all(name in self.sizes for name in self.files):
            return sum(self.sizes[name] for name in self.files)
        return int(self.about_gb * 1e9) if self.about_gb else None

    @property
    def kv_elements_per_token(self) -> int | None:
        """Keys and values of every layer."""
        return 2 * self.attention.layers * self.attention.kv_heads * self.attention.head_dim if self.attention else None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if not (self.huggingface or self.modelscope):
            raise ValueError("neither huggingface nor modelscope: no hub has it")
        return self


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """Return the named models of files/models.yaml."""
    entries = TypeAdapter(dict[InstanceName, CatalogueEntry])
    return entries.validate_python(from_yaml(CATALOGUE.read_text("utf-8")))
