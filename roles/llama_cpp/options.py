"""Options of the llama_cpp role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from roles.common.data import from_yaml
from roles.common.engine import EngineOptions, InstanceOptions
from roles.common.findings import Finding, Word
from roles.common.fit import Claim, Room, Wanted, held, on_cards, spilling, spread
from roles.common.hardware import HardwareReport
from roles.common.lock import declared_cards, vendors_of
from roles.common.model import Model, ModelFormat
from roles.common.numa import NumaChoice, numa_findings
from roles.common.options import HttpUrl, InstanceName, OptionProblem, Sha256, did_you_mean
from roles.common.systemd import hidden_from_units

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
Variant = Literal[
    "x64", "arm64", "vulkan-x64", "cuda-12.8-x64", "cuda-13.4-x64", "rocm-10.0-x64", "sycl-fp16-x64", "sycl-fp32-x64"
]

RELEASE_VARIANTS: dict[str, Variant] = {"amd64": "x64", "arm64": "arm64"}
"""Debian architecture -> upstream's CPU build for it."""

BY_VENDOR: dict[str, tuple[Variant, ...]] = {
    "nvidia": ("cuda-12.8-x64", "vulkan-x64"),
    "intel": ("vulkan-x64", "sycl-fp16-x64", "sycl-fp32-x64"),
}
"""
Maker of the cards -> the builds that use them, the usual first.

CUDA 12.8 still knows Volta and Pascal, which 13 does not. On Arc now Vulkan, now SYCL is ahead, by card and
quantisation (ggml-org/llama.cpp#26010, ollama/ollama#13153).
"""

RESERVED_ARGUMENTS = {
    "-m": "model", "--model": "model", "--host": "host", "--port": "port", "--alias": "alias", "-a": "alias",
    "--api-key": "api_key", "--api-key-file": "api_key", "--metrics": "metrics", "-c": "context_length",
    "--ctx-size": "context_length", "-np": "parallel", "--parallel": "parallel", "-t": "threads",
    "--threads": "threads", "-ngl": "gpu_layers", "--gpu-layers": "gpu_layers", "--n-gpu-layers": "gpu_layers",
    "-ctk": "cache_type_k", "--cache-type-k": "cache_type_k", "-ctv": "cache_type_v",
    "--cache-type-v": "cache_type_v", "--numa": "numa", "-fa": "flash_attention", "--flash-attn": "flash_attention",
    "--load-mode": "load_mode", "-lm": "load_mode", "--cors-origins": "cors_origins",
}  # fmt: skip
"""Flags of llama-server that an option of this role already sets -> that option."""

EXPERTS_IN_MEMORY = ("-ot", "--override-tensor", "-cmoe", "--cpu-moe", "-ncmoe", "--n-cpu-moe")
"""Flags that leave a mixture's experts to the processors."""

CHOOSES_CARDS = (
    "-dev", "--device", "-sm", "--split-mode", "-ts", "--tensor-split", "-mg", "--main-gpu",
    "CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "ONEAPI_DEVICE_SELECTOR", "ZE_AFFINITY_MASK",
)  # fmt: skip
"""Flags and variables by which a server has other cards, or has them otherwise, than all of them by their sizes."""

UBATCH = 512
"""Tokens that llama-server computes at once, by default; layers with a window keep as many beside it
(src/llama-kv-cache-iswa.cpp upstream, ggml-org/llama.cpp#13194)."""
KEEPS_MORE = ("--swa-full", "-ub", "--ubatch-size")
"""Flags by which such layers keep all tokens, or others than those."""

REMOVED_ARGUMENTS = {
    "--mmap": "write load_mode: mmap",
    "--no-mmap": "write load_mode: none",
    "--mlock": "write load_mode: mlock",
    "--draft": "write extra_arguments: --spec-draft-n-max",
    "--draft-max": "write extra_arguments: --spec-draft-n-max",
    "--draft-min": "write extra_arguments: --spec-draft-n-min",
}
"""Flags that llama-server no longer has -> what to do instead (tools/server/README.md upstream)."""


@cache
def releases() -> dict[str, dict[str, dict[str, str]]]:
    """Return the pinned assets: version -> variant -> asset -> sha256."""
    pins: dict[str, dict[str, dict[str, str]]] = from_yaml(Path(__file__).with_name("releases.yaml").read_text())
    return pins


class LlamaCppInstanceOptions(InstanceOptions):
    """One llama-server: one model on one port, in its own unit ``llama-server@NAME.service``."""

    program: ClassVar[str] = "llama-server"
    reserved_arguments: ClassVar[Mapping[str, str]] = RESERVED_ARGUMENTS
    removed_arguments: ClassVar[Mapping[str, str]] = REMOVED_ARGUMENTS
    advice: ClassVar[dict[str, str]] = {
        "n_gpu_layers": "write gpu_layers",
        "ngl": "write gpu_layers",
        "ctx_size": "write context_length",
        "n_ctx": "write context_length",
        "api_key_file": "the key is in /etc/metal2model/llama_cpp/NAME.key on the host; write api_key: True or False",
    }

    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads for generation. None: the physical cores that the unit may use."""

    gpu_layers: Annotated[int, Field(ge=0)] | Literal["auto", "all"] = "auto"
    """Layers kept in GPU memory; `auto` lets the server fit them. Without effect on a CPU build."""

    flash_attention: Literal["on", "off", "auto"] = "auto"
    """Flash attention. A quantised `cache_type_v` needs it."""

    cache_type_k: CacheType = "f16"
    """Data type of the keys in the KV cache."""

    cache_type_v: CacheType = "f16"
    """Data type of the values in the KV cache."""

    load_mode: Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"] = "auto"
    """How the weights come into memory. The modes with `mlock` let the unit lock any amount of memory."""

    numa: NumaChoice = "auto"
    """
    Memory and CPUs on a host with several NUMA nodes: `interleave` spreads the pages over all nodes (best for one
    large model on all sockets), a number binds the unit to the memory and CPUs of that node, `distribute` and
    `isolate` are llama-server's own strategies, `none` leaves it to the kernel. `auto`, on a host with the tag `numa`:
    the node of the cards, where one node has them all and the server uses them, else `interleave`.
    """

    metrics: bool = True
    """Serve Prometheus metrics at `/metrics`."""

    cors_origins: list[str] = []
    """Origins of web pages that may call the API from a browser. Empty: none but the server's own page."""

    @model_validator(mode="after")
    def _cache_fits_attention(self) -> Self:
        if self.context_length == 0 and self.parallel > 1:
            raise OptionProblem(
                "context_length",
                f"0 stands for what the model was trained with, which {self.parallel} requests would share; write the "
                "tokens that each may have",
            )
        if "LLAMA_API_KEY" in self.environment:
            raise OptionProblem("environment", "LLAMA_API_KEY would be readable by everybody; write api_key: True")
        if self.cache_type_v not in ("f32", "f16", "bf16") and self.flash_attention == "off":
            raise OptionProblem(
                "cache_type_v",
                f"{self.cache_type_v!r} needs flash attention; remove flash_attention: 'off', or use 'f16'",
            )
        return self


class LlamaCppOptions(EngineOptions):
    """llama.cpp's HTTP server, one systemd unit for each named instance."""

    formats: ClassVar[frozenset[ModelFormat]] = frozenset({"gguf"})

    source: Literal["release", "build", "package", "existing"] = "release"
    """
    Where llama-server comes from: upstream's `release` archive, a `build` from its source on the host, the
    distribution's `package` (llama.cpp-tools: Debian forky and later), or an `existing` program at `binary`.
    """

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "b11146"
    """Upstream tag, for `release` and `build`. Digests of the default are pinned; another one needs `sha256`."""

    variant: Variant | Literal["fastest"] | None = None
    """
    Which release archive. None: by the host's tags, CUDA for NVIDIA's cards, else Vulkan for Intel's, else the CPU
    build. `fastest`: all `candidates` are installed and measured once with llama-bench and the model of the first
    instance; the one that generates fastest serves. The result stays in `/var/lib/metal2model/llama_cpp/fastest.json`
    and holds until version, candidates, model or cards change.
    """

    candidates: list[Variant] = []
    """What `fastest` compares. Empty: the builds for the host's cards whose digests are known, and the CPU build."""

    digests: dict[str, Sha256] = {}
    """Digests of further release archives, by file name: those that `fastest` is to compare and are not pinned here."""

    sha256: Sha256 | None = None
    """Digest of the release archive, or of the source archive for `build`."""

    cudart_sha256: Sha256 | None = None
    """Digest of the `cudart-` archive that belongs to a CUDA release archive."""

    download_url: HttpUrl = "https://github.com/ggml-org/llama.cpp"
    """Where the project's `releases/download/` and `archive/refs/tags/` are served; a proxy of it works as well."""

    build_backend: Literal["cpu", "cuda", "vulkan", "sycl"] = "cpu"
    """What `build` compiles for. The compiler of the backend (nvcc, glslc, icx) must be on the host."""

    build_options: list[str] = []
    """Further CMake options of `build`, such as `-DGGML_CUDA_F16=ON`."""

    binary: Annotated[str, Field(pattern="^/")] | None = None
    """Absolute path of llama-server on the host, for `existing`."""

    instances: Mapping[InstanceName, LlamaCppInstanceOptions] = {}
    """The servers, by name."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.source == "existing" and self.binary is None:
            raise OptionProblem("binary", "required with source: 'existing'; give the absolute path of llama-server")
        if self.source != "existing" and self.binary is not None:
            raise OptionProblem(
                "binary", f"has no effect with source: {self.source!r}; write source: 'existing' or remove it"
            )
        if self.binary and (hidden := hidden_from_units(self.binary)):
            raise OptionProblem("binary", f"units cannot see {hidden} (ProtectHome, PrivateTmp); install it below /opt")
        if self.source == "build" and self.sha256 is None:
            raise OptionProblem(
                "sha256",
                f"required with source: 'build'; give the digest of {self.download_url}"
                f"/archive/refs/tags/{self.version}.tar.gz",
            )
        if self.source == "release" and self.sha256 is None:
            self._check_pinned()
        if self.candidates and self.variant != "fastest":
            raise OptionProblem("candidates", f"goes with variant: 'fastest', and that is {self.variant!r}")
        if self.variant == "fastest" and self.source != "release":
            raise OptionProblem("variant", f"'fastest' compares release archives, and source is {self.source!r}")
        if self.variant == "fastest" and not self.present:
            raise OptionProblem("variant", "'fastest' measures with the model of an instance; declare one")
        return self

    def _check_pinned(self) -> None:
        pins = releases().get(self.version)
        for variant in self.candidates:
            if missing := [asset for asset in self._assets(variant) if asset not in self.pins(variant)]:
                raise OptionProblem(
                    "digests",
                    f"of {', '.join(missing)} required for the candidate {variant!r}; take it from "
                    f"{self.download_url}/releases/tag/{self.version}",
                )
        if self.variant == "fastest":
            return
        if pins is None:
            raise OptionProblem(
                "sha256",
                f"required for version {self.version!r}, whose digest is not pinned here"
                f"{did_you_mean(self.version, releases())}; "
                f"take it from {self.download_url}/releases/tag/{self.version}",
            )
        if self.variant and self.variant not in pins:
            raise OptionProblem(
                "sha256",
                f"required for variant {self.variant!r}, whose digest is not pinned for {self.version} "
                f"(pinned: {', '.join(pins)}); take it from {self.download_url}/releases/tag/{self.version}",
            )

    def findings(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Finding]:
        """Return what speaks against these options on this hardware, and whether the models fit into its memory."""
        found = [
            finding
            for name, instance in self.instances.items()
            if instance.present
            for finding in numa_findings(report, instance.numa, f"llama_cpp/instances/{name}/numa")
        ]
        if self.source == "release" and not self.variants(tags) and report.architecture not in RELEASE_VARIANTS:
            words: dict[str, Word] = {"found": report.architecture or None, "required": list(RELEASE_VARIANTS)}
            found.append(Finding("no_release", "llama_cpp/source", words))
        return found + self._fit(report, tags, models)

    def check_tags(self, tags: Sequence[str]) -> None:
        """Raise `OptionProblem` where the tags choose a build whose digests nobody gave."""
        if self.variant is None and (chosen := self.variants(tags)):
            given = {0: self.sha256, 1: self.cudart_sha256}
            for place, asset in enumerate(self._assets(chosen[0])):
                if asset not in self.pins(chosen[0]) and not given[place]:
                    raise OptionProblem(
                        ("sha256", "cudart_sha256")[place],
                        f"required for {asset}, which the tags {', '.join(tags)} choose; take it from "
                        f"{self.download_url}/releases/tag/{self.version}, or write variant: 'x64' for the CPU build",
                    )

    def variants(self, tags: Sequence[str]) -> list[Variant]:
        """Return the release archives to install; [] for the CPU build of whatever architecture the host has."""
        if self.source != "release":
            return []
        if self.variant is not None and self.variant != "fastest":
            return [self.variant]
        vendors = vendors_of(tags)
        known = [
            variant
            for vendor in BY_VENDOR
            if vendor in vendors
            for variant in BY_VENDOR[vendor]
            if self.variant is None or not self._unknown(variant)
        ]
        if self.variant == "fastest":
            return self.candidates or [*dict.fromkeys(known), "x64"]
        return known[:1]

    def pins(self, variant: Variant) -> dict[str, Sha256]:
        """Return the archives of a variant with their digests: pinned here, or given."""
        known = {**releases().get(self.version, {}).get(variant, {}), **self.digests}
        return {asset: known[asset] for asset in self._assets(variant) if asset in known}

    def _assets(self, variant: Variant) -> list[str]:
        archive = f"llama-{self.version}-bin-ubuntu-{variant}.tar.gz"
        return [archive, f"cudart-{archive}"] if variant.startswith("cuda") else [archive]

    def _unknown(self, variant: Variant) -> bool:
        return len(self.pins(variant)) < len(self._assets(variant))

    def uses_gpu(self, tags: Sequence[str]) -> bool:
        """Whether llama-server may use a card; a program of unknown make may, where there is one."""
        if self.source == "release":
            return any(variant not in ("x64", "arm64") for variant in self.variants(tags))
        return self.source != "build" or self.build_backend != "cpu"

    def _vendor(self, tags: Sequence[str]) -> str | None:
        """Whose cards the chosen build sees; None for all: Vulkan, or a program of unknown make."""
        if self.source == "build":
            return {"cuda": "nvidia", "sycl": "intel"}.get(self.build_backend)
        kinds = {"cuda": "nvidia", "sycl": "intel"}
        variants = self.variants(tags)
        chosen = [vendor for variant in variants for kind, vendor in kinds.items() if variant.startswith(kind)]
        return chosen[0] if len(variants) == 1 and chosen else None

    def _fit(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Finding]:
        """Compare what the servers need with what there is, where their models' sizes are known."""
        room = Room.of(report, tags, self._vendor(tags))
        if not self.uses_gpu(tags):
            room = replace(room, cards=())
        elif vendors_of(tags) and not room.cards:
            return []  # nobody knows the size of one of the cards
        return spilling("llama_cpp", self._wanted(models), room)

    def _wanted(self, models: Mapping[str, Model]) -> list[Wanted]:
        flags = {name: {one.flag_of(word) for word in one.extra_arguments} for name, one in self.instances.items()}
        return [
            Wanted(
                name,
                models[one.model],
                one.context_length,
                one.parallel,
                one.cache_type_k,
                one.cache_type_v,
                one.fit,
                one.gpu_layers,
                maps_weights=one.load_mode in ("auto", "mmap"),
                experts_in_memory=not flags[name].isdisjoint(EXPERTS_IN_MEMORY),
                beside_window=UBATCH if flags[name].isdisjoint(KEEPS_MORE) else None,
            )
            for name, one in self.instances.items()
            if one.present
        ]

    def claims(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Claim]:
        """Return what its servers take: of the cards, by `auto`, all that there is of what they need."""
        cards = declared_cards(tags, report, self._vendor(tags)) if self.uses_gpu(tags) else []
        found = []
        for wanted in self._wanted(models):
            one = self.instances[wanted.name]
            words = {one.flag_of(word) for word in one.extra_arguments} | set(one.environment)
            option = f"llama_cpp/instances/{wanted.name}"
            if wanted.model.size_bytes and (wanted.gpu_layers == 0 or not self.uses_gpu(tags)):
                found.append(Claim(option, {}, one.fit, memory_bytes=held([wanted]), judged=True))
            elif wanted.model.size_bytes and words.isdisjoint(CHOOSES_CARDS):
                auto = wanted.gpu_layers == "auto"
                need = wanted.demand().total_bytes if auto else on_cards(wanted)
                found.append(Claim(option, spread(cards, need), one.fit, yields=auto, judged=True))
        return found
