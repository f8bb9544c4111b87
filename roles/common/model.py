"""A model, as the models role hands it to the engines; and the catalogue of named ones, files/models.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
Count = Annotated[int, Field(ge=1)]
Gigabytes = Annotated[float, Field(ge=0)]


class Layers(Options):
    """Layers that keep keys and values, and how much each keeps of a token."""

    layers: Annotated[int, Field(ge=0)]
    """How many: a hybrid model has others besides."""
    kv_heads: Count | list[Annotated[int, Field(ge=0)]]
    """One number, or one for each layer."""
    head_dim: Count
    """Elements of one head's key."""
    value_dim: Annotated[int, Field(ge=0)] | None = None
    """
    Elements of its value. None: as many. 0 with multi-head latent attention (MLA), which keeps one vector of
    kv_lora_rank + qk_rope_head_dim elements for all heads: `kv_heads: 1, head_dim: 576`, as llama.cpp's headers say it
    (ggml-org/llama.cpp#12801, #19067).
    """

    def elements(self, cards: int = 1) -> tuple[int, int]:
        """
        Return the elements of keys and of values that one token takes on one of so many cards.

        Tensor parallelism divides the heads; a card has at least one of them (get_num_kv_heads, vllm/config).
        """
        each = self.kv_heads if isinstance(self.kv_heads, list) else [self.kv_heads] * self.layers
        heads = sum(max(1, heads // cards) for heads in each if heads)
        return heads * self.head_dim, heads * (self.head_dim if self.value_dim is None else self.value_dim)


class SlidingLayers(Layers):
    """Layers that look back at the last tokens alone; engines that know it keep no others for them."""

    window: Count
    """At how many; config.json: sliding_window."""


class Attention(Layers):
    """What decides the size of a model's KV cache; config.json: num_hidden_layers, num_key_value_heads, head_dim."""

    heads: Count | None = None
    """Of the queries, num_attention_heads: tensor parallelism divides these. None: not known."""
    sliding: SlidingLayers | None = None
    """Its layers with a window, in models that have such; all that stands beside this is of the others then."""

    @property
    def depth(self) -> int:
        """How many layers keep anything."""
        return self.layers + (self.sliding.layers if self.sliding else 0)

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not self.depth:
            raise ValueError("no layer keeps keys and values")
        return self


class Shape(Options):
    """What the files of a model say of the memory that it takes."""

    size_bytes: Annotated[int, Field(ge=0)]
    """Of the weights."""
    attention: Attention | None = None
    context_length: Count | None = None
    """Tokens that it was trained with."""


class Embedding(Options):
    """The table of tokens, and its twin at the output: engines that quantise as they load leave it in 16 bit."""

    vocabulary: Count
    width: Count
    tied: bool = False
    """The output uses the same table: tie_word_embeddings."""


@dataclass(frozen=True)
class Model:
    """A model that stands complete and verified on the host once the models role has run."""

    name: str
    """Its name in the inventory, ``models/wanted/NAME``."""
    path: str
    """What an engine loads: the GGUF file (the first, if it is split), or the directory of a safetensors model."""
    size_bytes: int | None = None
    """Of all its files; None when only the hub knows."""
    attention: Attention | None = None
    """None when not known."""
    context_length: int | None = None
    """Tokens that it was trained with; None when not known."""
    entry: CatalogueEntry | None = None
    """What files/models.yaml has of it; None of any other model."""

    may_be_directory: bool = True
    """False when what is declared can be no model as transformers lays it out: one file, or GGUF files by a pattern."""

    @property
    def format(self) -> ModelFormat:
        """What an engine finds there, by its name."""
        return "gguf" if self.path.endswith(".gguf") else "safetensors"

    @property
    def attention_heads(self) -> int | None:
        """Heads of the queries, which tensor parallelism divides; None when not known."""
        return self.attention.heads if self.attention else None


class CatalogueSource(Options):
    """Where a hub has a catalogued model."""

    repo: Repository
    revision: Revision | None = None
    """Commit that the digests below were seen at. None: the hub's default branch, resolved once on each host."""


class Machine(Options):
    """A row of the sizing table: what a host should have."""

    cores: Count
    memory_gb: Gigabytes
    vram_gb: Gigabytes
    """0: the processors will do."""
    disk_gb: Gigabytes


class Sizing(Options):
    """What hosts are bought for a model, by its size; for quantisations of about 4 bit."""

    row: str
    """As people name it: "7B"."""
    recommended: Machine
    minimum: Machine


class Sampling(Options):
    """How its publisher says that a model is to be asked."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    system_prompt: bool = True
    """False: write instructions into the user's message."""


class CatalogueEntry(Options):
    """A model that an inventory can name: what its family has in common, and its own."""

    family: InstanceName
    """Name of the model, of which the entries of its family are quantisations."""
    description: str
    format: ModelFormat
    quantisation: str
    """As publishers spell it: Q4_K_M, UD-IQ1_S, BF16, FP8."""
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
    parameters: Count
    attention: Attention
    embedding: Embedding
    context_length: Count
    """Tokens that it was trained with."""
    offload_reserve_layers: Annotated[int, Field(ge=0)] | None = None
    """Its publisher's rule for llama.cpp's gpu_layers: VRAM / size of the files * layers, less these."""
    engines: list[str] = []
    """The only roles that are known to load it. Empty: all that load its format."""
    sampling: Sampling | None = None
    sizing: Sizing | None = None
    source: str
    """Where all this was read, and when."""

    @property
    def size_bytes(self) -> int | None:
        """Of all files: exactly where every size is known, else about."""
        if self.files and all(name in self.sizes for name in self.files):
            return sum(self.sizes[name] for name in self.files)
        if self.about_gb:
            return int(self.about_gb * 1e9)
        return 2 * self.parameters if self.quantisation == "BF16" else None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not (self.huggingface or self.modelscope):
            raise ValueError("neither huggingface nor modelscope: no hub has it")
        if self.size_bytes is None:
            raise ValueError("nothing says how large it is: give sizes of all files, or about_gb")
        return self


def load_catalogue(text: str) -> dict[str, CatalogueEntry]:
    """
    Return the models that the text of a `files/models.yaml` describes, or raise ValueError.

    What stands in a family counts for each of its models; what a model says itself goes before.
    """
    families: dict[str, dict[str, Any]] = from_yaml(text)
    entries: dict[str, Any] = {}
    for name, family in families.items():
        shared = {key: value for key, value in family.items() if key != "models"}
        for model, own in family["models"].items():
            if model in entries:
                raise ValueError(f"{model}: stands in two families")
            entries[model] = {**shared, **own, "family": name}
    return TypeAdapter(dict[InstanceName, CatalogueEntry]).validate_python(entries)


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """Return the named models of files/models.yaml."""
    return load_catalogue(CATALOGUE.read_text("utf-8"))
