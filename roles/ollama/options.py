"""Options of the ollama role."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roles.common.data import from_yaml
from roles.common.engine import EngineOptions, InstanceOptions
from roles.common.findings import Finding, Word
from roles.common.fit import USABLE, Claim, Room, Wanted, held, on_cards, spilling, spread
from roles.common.hardware import HardwareReport
from roles.common.lock import HARDWARE, declared_cards, vendors_of
from roles.common.model import Model, ModelFormat
from roles.common.options import HttpUrl, InstanceName, OptionProblem, Options, Port, Sha256, did_you_mean
from roles.common.systemd import environment_word, hidden_from_units

AbsolutePath = Annotated[str, Field(pattern=r"^/[^\n]*[^/\n]$")]
Duration = Annotated[str, Field(pattern=r"^(-?[0-9]+|(-?([0-9]+(\.[0-9]+)?(ms|s|m|h))+))$")]
"""As Go's time.ParseDuration takes it, "5m" or "1h30m", or whole seconds; a negative one is for ever."""
_HOST, _PART = r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/", r"[A-Za-z0-9_][A-Za-z0-9._-]*"
ModelName = Annotated[str, Field(pattern=rf"^({_HOST})?({_PART}/)?{_PART}(:{_PART})?$")]
"""[HOST[:PORT]/][NAMESPACE/]MODEL[:TAG], types/model/name.go upstream."""

ZSTD_SINCE = (0, 14, 0)
"""The first release whose archives are .tar.zst; before, .tgz (ai-action/setup-ollama#367)."""
SPLIT_SINCE = (0, 30, 0)
"""The first release that takes a split GGUF (docs/import.mdx); it also writes each GGUF anew (server/create.go)."""

RESERVED_ENVIRONMENT = {
    "OLLAMA_HOST": "host", "OLLAMA_MODELS": "models_directory", "OLLAMA_KEEP_ALIVE": "keep_alive",
    "OLLAMA_LOAD_TIMEOUT": "load_timeout", "OLLAMA_NUM_PARALLEL": "instances/NAME/parallel",
    "OLLAMA_MAX_QUEUE": "max_queue", "OLLAMA_MAX_LOADED_MODELS": "max_loaded_models", "OLLAMA_ORIGINS": "origins",
    "OLLAMA_DEBUG": "debug", "OLLAMA_FLASH_ATTENTION": "flash_attention", "OLLAMA_KV_CACHE_TYPE": "kv_cache_type",
    "OLLAMA_CONTEXT_LENGTH": "context_length", "OLLAMA_GPU_OVERHEAD": "gpu_overhead_mib",
    "OLLAMA_SCHED_SPREAD": "sched_spread", "OLLAMA_VULKAN": "vulkan", "OLLAMA_LLM_LIBRARY": "llm_library",
    "OLLAMA_NOPRUNE": "prune", "OLLAMA_NO_CLOUD": "cloud", "CUDA_VISIBLE_DEVICES": "cuda_visible_devices",
    "GGML_VK_VISIBLE_DEVICES": "vulkan_visible_devices", "ROCR_VISIBLE_DEVICES": "rocm_visible_devices",
    "HSA_OVERRIDE_GFX_VERSION": "hsa_override_gfx_version",
}  # fmt: skip
"""Variables of ``ollama serve`` that an option of this role sets -> that option (envconfig/config.go upstream)."""

REMOVED_ENVIRONMENT = {
    "OLLAMA_PORT": "Ollama never had it; write port",
    "OLLAMA_MAX_VRAM": "Ollama no longer has it; write gpu_overhead_mib",
    "OLLAMA_RUNNERS_DIR": "Ollama no longer has it; its libraries lie beside its program",
    "OLLAMA_TMPDIR": "Ollama no longer has it; it unpacks nothing",
    "OLLAMA_INTEL_GPU": "Ollama no longer has it; Intel's cards compute by Vulkan, which is on",
}
"""Variables that do nothing -> what to do instead."""

NO_FLAGS = "`ollama serve` takes no arguments; write {}"
UPLOAD_FLAGS = "`ollama create` needs none: a model that is not as the inventory says is made again"


@cache
def releases() -> dict[str, dict[str, dict[str, str]]]:
    """Return the pinned assets: version -> architecture -> asset -> sha256."""
    pins: dict[str, dict[str, dict[str, str]]] = from_yaml(Path(__file__).with_name("releases.yaml").read_text())
    return pins


def _can_be_written(text: str) -> str:
    """Refuse what a Modelfile cannot hold: its parser drops characters that are not printable (parser/parser.go)."""
    if '"""' in text:
        raise ValueError('""" ends a text in a Modelfile, and nothing escapes it; write the text without')
    lost = sorted({character for character in text if not character.isprintable() and character not in "\t\r\n"})
    if lost:
        named = ", ".join(f"U+{ord(character):04X}" for character in lost)
        raise ValueError(f"Ollama drops characters of a Modelfile that are not printable, here {named}; replace them")
    return text


ModelfileText = Annotated[str, Field(min_length=1), AfterValidator(_can_be_written)]
"""A text that comes out of a Modelfile as it went in."""


class MessageOptions(Options):
    """A turn of a conversation that a model has in mind from the start."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""

    content: ModelfileText
    """What is said."""


class OllamaInstanceOptions(InstanceOptions):
    """One model in Ollama, made from a file under `models/wanted` or pulled from a registry."""

    program: ClassVar[str] = "ollama serve"
    port_required: ClassVar[bool] = False
    model_required: ClassVar[bool] = False
    advice: ClassVar[dict[str, str]] = {
        "from": "write model, a name under models/wanted, or pull, a name in a registry",
        "name": "write alias",
        "num_gpu": "write gpu_layers",
        "num_ctx": "write context_length",
        "num_thread": "write threads",
        "num_parallel": "write parallel",
        "overwrite": UPLOAD_FLAGS,
        "force": UPLOAD_FLAGS,
        **{
            name: f"Ollama has one for all of its models; write ollama/{name}"
            for name in ("keep_alive", "load_timeout", "max_queue", "flash_attention", "kv_cache_type", "origins")
        },
        "cache_type_k": "Ollama has one for all of its models, of keys and values alike; write ollama/kv_cache_type",
        "cache_type_v": "Ollama has one for all of its models, of keys and values alike; write ollama/kv_cache_type",
    }

    model: str = ""
    """Name of a model under `models/wanted`. This or `pull` is required while `present`."""

    port: Port | None = None
    """The daemon's, if it is given: all models have one."""

    pull: ModelName | None = None
    """
    Instead of `model`: a name that Ollama pulls, `qwen3:8b` of its library, `modelscope.cn/ORG/REPO-GGUF:QUANT`,
    `hf-mirror.com/ORG/REPO:QUANT`. It is pulled once; a tag that moves on does not move the host.
    """

    alias: ModelName | None = None
    """Model name in the API, `NAME` or `NAME:TAG`. None: the instance's name."""

    api_key: bool = False
    """Must be False: Ollama has no authentication."""

    gpu_layers: Annotated[int, Field(ge=0)] | Literal["auto", "all"] = "auto"
    """Layers kept in GPU memory (`num_gpu`); `auto` lets Ollama fit them."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads (`num_thread`). None: Ollama's choice, the physical cores."""

    temperature: Annotated[float, Field(ge=0)] | None = None
    """Higher is more creative. None, here and below: the model's own, else Ollama's."""

    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of probability that the next token is chosen from."""

    top_k: Annotated[int, Field(ge=0)] | None = None
    """How many tokens the next one is chosen from."""

    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Least probability of a token, as a share of the likeliest one's."""

    repeat_penalty: Annotated[float, Field(ge=0)] | None = None
    """How strongly repetitions are avoided; 1 is not at all."""

    repeat_last_n: Annotated[int, Field(ge=-1)] | None = None
    """How many tokens back repetitions are looked for; 0 for none, -1 for the whole context."""

    seed: int | None = None
    """Start of the random numbers: the same gives the same answer to the same prompt."""

    num_predict: Annotated[int, Field(ge=-1)] | None = None
    """Most tokens of an answer; -1 for no limit."""

    stop: list[ModelfileText] = []
    """Texts at which an answer ends."""

    template: ModelfileText | None = None
    """Prompt template, in Go's template language. None: the file's own chat template."""

    system: ModelfileText | None = None
    """System message."""

    adapter: AbsolutePath | None = None
    """A LoRA adapter: a GGUF file on the host, made for this very model."""

    license: ModelfileText | None = None
    """Text of the licence, shown by `ollama show`."""

    messages: list[MessageOptions] = []
    """Turns of a conversation that the model has in mind from the start."""

    @model_validator(mode="after")
    def _serves_one_model(self) -> Self:
        if self.model and self.pull:
            raise OptionProblem("pull", "goes instead of 'model', and both are given; keep the one that is meant")
        if self.present and not (self.model or self.pull):
            raise OptionProblem(
                "model", "is required: a name under models/wanted; or write pull, a name that Ollama pulls"
            )
        if self.api_key:
            raise OptionProblem(
                "api_key",
                "Ollama has no authentication, so that no key can be required; keep host: '127.0.0.1' and put a "
                "reverse proxy before it, or serve the model by llama_cpp, which has keys",
            )
        if self.extra_arguments:
            flag = self.extra_arguments[0].split("=", 1)[0]
            option = {"--host": "ollama/host", "--port": "ollama/port"}.get(flag, "an option, or ollama/environment")
            raise OptionProblem("extra_arguments", NO_FLAGS.format(option))
        if self.environment:
            raise OptionProblem("environment", "Ollama has one for all of its models; write ollama/environment")
        return self


class OllamaOptions(EngineOptions):
    """Ollama: one daemon that serves many models, in the unit ``ollama.service``."""

    formats: ClassVar[frozenset[ModelFormat]] = frozenset({"gguf"})
    advice: ClassVar[dict[str, str]] = {
        "api_key": "Ollama has no authentication; keep host: '127.0.0.1' and put a reverse proxy before it",
        "extra_arguments": NO_FLAGS.format("options, or environment"),
        "models": "write models_directory for the place, instances for what is in it",
        "num_parallel": "write parallel, of each of the instances",
        "gpu_overhead": "write gpu_overhead_mib",
        "noprune": "write prune: False",
        "no_cloud": "write cloud: False",
        "present": "write enabled: False to stop the daemon; present: False belongs to an instance",
    }

    enabled: bool = True
    """False: the daemon is stopped and its unit removed; its models stay."""

    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9.]+)?$")] = "0.32.15"
    """Release, without the `v`. Digests of the default are pinned; another one needs `sha256`."""

    sha256: Sha256 | None = None
    """Digest of `ollama-linux-ARCHITECTURE.tar.zst` (`.tgz` before 0.14), as in the release's `sha256sum.txt`."""

    rocm: bool = False
    """Add the libraries for AMD's cards, `ollama-linux-amd64-rocm`. Needs `rocm_sha256`."""

    rocm_sha256: Sha256 | None = None
    """Digest of that archive."""

    download_url: HttpUrl = "https://github.com/ollama/ollama"
    """Where the project's `releases/download/` is served; a proxy of it works as well."""

    host: str = "127.0.0.1"
    """Address to listen on. Ollama has no authentication: anything but a loopback address gives it to that network."""

    port: Port = 11434
    """TCP port, one for all models."""

    models_directory: AbsolutePath = "/srv/ollama"
    """
    Where Ollama keeps its models. Releases since 0.30 write a file of their own from one under `models/wanted`, as
    large as that; older ones are given a link to it.
    """

    keep_alive: Duration = "5m"
    """How long a model stays in memory after its last request; `-1` for ever, `0` not at all."""

    load_timeout: Duration = "5m"
    """How long the loading of a model may stand still before it is given up; `0` or less for ever."""

    max_queue: Annotated[int, Field(ge=1)] = 512
    """Requests that wait; further ones are refused."""

    max_loaded_models: Annotated[int, Field(ge=0)] = 0
    """Models in memory at the same time. 0: Ollama's choice, three for each card, or three on the processors."""

    origins: list[Annotated[str, Field(pattern=r"^[^\s,]+$")]] = []
    """Origins of web pages that may call the API from a browser, beside pages of this very host; `*` for all."""

    debug: Literal["off", "debug", "trace"] = "off"
    """What the journal tells."""

    flash_attention: bool | None = None
    """Flash attention. None: Ollama's choice, by model and card."""

    kv_cache_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    """Data type of the KV cache. A quantised one needs flash attention."""

    context_length: Annotated[int, Field(ge=1)] | None = None
    """Context of models that no instance describes. None: Ollama's choice, by the memory of the cards."""

    gpu_overhead_mib: Annotated[int, Field(ge=0)] = 0
    """Memory of each card that Ollama leaves to others."""

    sched_spread: bool = False
    """Spread each model over all cards, even where it fits into one."""

    vulkan: bool = True
    """Use cards by Vulkan where nothing better is there; Intel's have nothing else."""

    llm_library: str | None = None
    """Library to compute with, such as `cuda_v13` or `cpu`, instead of what Ollama finds best."""

    prune: bool = True
    """Delete, at the daemon's start, files of models that no model has any more."""

    cloud: bool = True
    """Offer Ollama's cloud models. False: the daemon calls nobody but for what is pulled."""

    cuda_visible_devices: str | None = None
    """NVIDIA's cards to use, by index or, better, UUID; `-1` for none."""

    vulkan_visible_devices: str | None = None
    """Cards to use by Vulkan, by index; `-1` for none."""

    rocm_visible_devices: str | None = None
    """AMD's cards to use, by index or UUID."""

    hsa_override_gfx_version: str | None = None
    """LLVM target to treat AMD's cards as, such as `10.3.0`."""

    environment: dict[str, str] = {}
    """Further variables of the daemon, such as `HTTPS_PROXY`, by which it pulls."""

    gguf_split: AbsolutePath = "/opt/metal2model/llama.cpp/current/llama-gguf-split"
    """The program on the host that joins a split GGUF, for releases before 0.30; llama.cpp's own."""

    instances: Mapping[InstanceName, OllamaInstanceOptions] = {}
    """The models, by name."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if hidden := hidden_from_units(self.models_directory):
            raise OptionProblem(
                "models_directory",
                f"{self.models_directory} cannot be seen by the unit, from which {hidden} is hidden (ProtectHome, "
                f"PrivateTmp); put it below /srv or /var/lib",
            )
        if self.kv_cache_type != "f16" and self.flash_attention is False:
            raise OptionProblem(
                "kv_cache_type", f"{self.kv_cache_type!r} needs flash attention; remove flash_attention: False"
            )
        for name in self.environment:
            if option := RESERVED_ENVIRONMENT.get(name):
                raise OptionProblem("environment", f"{name} is set by the option {option!r}; use that")
            if instead := REMOVED_ENVIRONMENT.get(name):
                raise OptionProblem("environment", f"{name} does nothing: {instead}")
        self._check_digests()
        return self

    @model_validator(mode="after")
    def _instances_share_one_daemon(self) -> Self:
        names: dict[str, str] = {}
        first: tuple[str, int] | None = None
        for instance, one in self.served.items():
            path = f"instances/{instance}"
            for option in ("port", "host"):
                given, ours = getattr(one, option), getattr(self, option)
                if option in one.model_fields_set and given not in (None, ours):
                    raise OptionProblem(
                        f"{path}/{option}",
                        f"{given!r} differs from ollama/{option}, {ours!r}: Ollama listens once for all of its models; "
                        f"remove it, or write ollama/{option}",
                    )
            first = first or (instance, one.parallel)
            if one.parallel != first[1]:
                raise OptionProblem(
                    f"{path}/parallel",
                    f"is {one.parallel}, and {first[1]} in instances/{first[0]}: Ollama has one number for all of its "
                    f"models, and each takes that much KV cache; write the same everywhere",
                )
            name = api_name(instance, one)
            other = names.setdefault(name.lower(), instance)
            if other != instance:
                raise OptionProblem(
                    f"{path}/alias", f"{name!r} is instances/{other}'s name already; Ollama takes no notice of case"
                )
        for instance, one in self.served.items():
            if one.pull and (same := names.get(tagged(one.pull).lower())):
                raise OptionProblem(
                    f"instances/{instance}/pull",
                    f"{one.pull!r} is the name of instances/{same}, too, which is made from it; "
                    f"name that instance otherwise, or give it another alias",
                )
        return self

    def _check_digests(self) -> None:
        sums = f"{self.download_url}/releases/download/v{self.version}/sha256sum.txt"
        if self.sha256 is None and self.version not in releases():
            raise OptionProblem(
                "sha256",
                f"required for version {self.version!r}, whose digest is not pinned here"
                f"{did_you_mean(self.version, releases())}; take it from {sums}",
            )
        if self.rocm and self.rocm_sha256 is None:
            raise OptionProblem("rocm_sha256", f"required with rocm: True; take it from {sums}")

    @property
    def served(self) -> dict[str, OllamaInstanceOptions]:
        """The models that are to be there."""
        return {name: one for name, one in self.instances.items() if one.present}

    @property
    def number(self) -> tuple[int, ...]:
        """The release as numbers, to compare."""
        return tuple(int(part) for part in self.version.partition("-")[0].split("."))

    @property
    def parallel(self) -> int:
        """Requests that each model answers at the same time."""
        return max((one.parallel for one in self.served.values()), default=1)

    def listeners(self) -> list[tuple[str, int]]:
        """Return the daemon's one port."""
        return [("port", self.port)] if self.enabled else []

    def check_tags(self, tags: Sequence[str]) -> None:
        """Refuse Intel's cards without what they compute by."""
        if "intel" in vendors_of(tags) and not self.vulkan:
            raise OptionProblem(
                "vulkan",
                "is False, and tags declare a card of Intel's: Ollama uses those by Vulkan alone, and would compute on "
                "the processors; remove it",
            )

    def cannot_serve(self, model: Model) -> str | None:
        """Return what is wrong with a model for Ollama."""
        if problem := super().cannot_serve(model):
            return problem
        if not model.path.isprintable():
            return f"is {model.path!r}, and Ollama drops characters that are not printable from paths; rename it"
        return None

    def uses_gpu(self, tags: Sequence[str]) -> bool:
        """Whether the daemon may use a card."""
        return self.rocm or bool(vendors_of(tags))

    def variables(self) -> dict[str, str]:
        """Return the daemon's environment (envconfig/config.go upstream); what is None is left to Ollama."""
        address = f"[{self.host}]" if ":" in self.host else self.host
        values: dict[str, str | int | None] = {
            "OLLAMA_HOST": f"{address}:{self.port}",
            "OLLAMA_MODELS": self.models_directory,
            "OLLAMA_KEEP_ALIVE": self.keep_alive,
            "OLLAMA_LOAD_TIMEOUT": self.load_timeout,
            "OLLAMA_NUM_PARALLEL": self.parallel,
            "OLLAMA_MAX_QUEUE": self.max_queue,
            "OLLAMA_MAX_LOADED_MODELS": self.max_loaded_models,
            "OLLAMA_ORIGINS": ",".join(self.origins),
            "OLLAMA_DEBUG": {"off": 0, "debug": 1, "trace": 2}[self.debug],
            "OLLAMA_FLASH_ATTENTION": None if self.flash_attention is None else int(self.flash_attention),
            "OLLAMA_KV_CACHE_TYPE": self.kv_cache_type,
            "OLLAMA_CONTEXT_LENGTH": self.context_length,
            "OLLAMA_GPU_OVERHEAD": self.gpu_overhead_mib << 20,
            "OLLAMA_SCHED_SPREAD": int(self.sched_spread),
            "OLLAMA_VULKAN": int(self.vulkan),
            "OLLAMA_LLM_LIBRARY": self.llm_library,
            "OLLAMA_NOPRUNE": int(not self.prune),
            "OLLAMA_NO_CLOUD": int(not self.cloud),
            "CUDA_VISIBLE_DEVICES": self.cuda_visible_devices,
            "GGML_VK_VISIBLE_DEVICES": self.vulkan_visible_devices,
            "ROCR_VISIBLE_DEVICES": self.rocm_visible_devices,
            "HSA_OVERRIDE_GFX_VERSION": self.hsa_override_gfx_version,
            **self.environment,
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    @property
    def environment_words(self) -> list[str]:
        """Values of ``Environment=`` for the unit, one for each variable."""
        return [environment_word(name, value) for name, value in sorted(self.variables().items())]

    def findings(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Finding]:
        """Return what speaks against these options on this hardware, and whether each model fits into its memory."""
        if not self.enabled:
            return []
        found = []
        if self.sha256 is None and report.architecture not in releases()[self.version]:
            words: dict[str, Word] = {
                "found": report.architecture or None,
                "required": list(releases()[self.version]),
                "version": self.version,
            }
            found.append(Finding("ollama_no_release", "ollama/version", words))
        return [*found, *self._old_driver(report, tags), *self._fit(report, tags, models)]

    def _old_driver(self, report: HardwareReport, tags: Sequence[str]) -> list[Finding]:
        """Compare the driver that runs with what Ollama's CUDA needs (docs/gpu.mdx upstream)."""
        cards = declared_cards(tags, report, "nvidia")
        if report.nvidia is None or not cards:
            return []
        oldest = min(cards, key=lambda card: _capability(card.tag))
        required = 570 if _capability(oldest.tag) < (7, 0) else 550
        if int(report.nvidia.version.partition(".")[0]) >= required:
            return []
        words: dict[str, Word] = {"found": report.nvidia.version, "required": str(required), "card": str(oldest)}
        return [Finding("ollama_old_driver", "tags", words)]

    def _fit(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Finding]:
        """Compare what each model needs with what there is: Ollama loads them one by one, and unloads for others."""
        room = Room.of(report, tags)
        if not self.uses_gpu(tags):
            room = replace(room, cards=())
        elif vendors_of(tags) and not room.cards:
            return []  # nobody knows the size of one of the cards
        return [finding for wanted in self._wanted(models) for finding in spilling("ollama", [wanted], room)]

    def _wanted(self, models: Mapping[str, Model]) -> list[Wanted]:
        kind = self.kv_cache_type
        return [
            Wanted(name, model, one.context_length, one.parallel, kind, kind, one.fit, one.gpu_layers)
            for name, one in self.served.items()
            if (model := models.get(one.model))
        ]

    def claims(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Claim]:
        """
        Return what the model takes that takes most: others make room, and none is there before it is asked for.

        Of several cards Ollama takes the one with the most free memory, if the model fits into one (docs/faq.mdx
        upstream), so that only a model for which it does not is known to be on each.
        """
        cards = declared_cards(tags, report) if self.enabled and self.uses_gpu(tags) else []
        if any((self.cuda_visible_devices, self.vulkan_visible_devices, self.rocm_visible_devices)):
            return []
        loaded = [
            (on_cards(wanted) if isinstance(wanted.gpu_layers, int) else wanted.demand().total_bytes, wanted)
            for wanted in self._wanted(models)
            if wanted.model.size_bytes and wanted.fit != "off"
        ]
        if not loaded:
            return []
        need, largest = max(loaded, key=lambda one: one[0])
        one_card = max(((card.card.vram_mib or 0) << 20 for card in cards), default=0)
        if len(cards) > 1 and need <= one_card * USABLE and not self.sched_spread:
            return []
        return [
            Claim(
                f"ollama/instances/{largest.name}",
                spread(cards, need),
                largest.fit,
                memory_bytes=0 if self.uses_gpu(tags) else held([largest]),
                yields=True,
                judged=True,
            )
        ]


def _capability(tag: str) -> tuple[int, int]:
    major, _, minor = (HARDWARE[tag].compute_capability or "0.0").partition(".")
    return int(major), int(minor)


def tagged(name: str) -> str:
    """Return a model's name as Ollama lists it: with a tag, and without its own registry and library."""
    short = re.sub(
        r"^(registry\.ollama\.ai/)?(library/)?(?=[^/]+$)|^registry\.ollama\.ai/", "", name, flags=re.IGNORECASE
    )
    return short if ":" in short.rpartition("/")[2] else f"{short}:latest"


def api_name(instance: str, options: InstanceOptions) -> str:
    """Return the name by which Ollama serves an instance."""
    return tagged(options.alias or instance)
