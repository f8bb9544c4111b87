"""Options of the ktransformers role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from roles.common.cuda import card_findings, driver_findings, python_findings
from roles.common.engine import EngineOptions, InstanceOptions
from roles.common.findings import Finding, Word
from roles.common.fit import Claim, Room, Split, Wanted, resident, spilling
from roles.common.hardware import HardwareReport
from roles.common.lock import declared_cards, vendors_of
from roles.common.model import Model, ModelFormat
from roles.common.options import InstanceName, OptionProblem

VERSION = "0.7.2"
"""What is installed, and what every flag was read from: tests/upstream holds our command lines against this one."""
CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0))
"""Cards that kt-kernel's wheel is built for (kt-kernel 0.7.2, project description, GPU Compatibility Matrix)."""
DRIVER = "525"
"""The first branch that runs CUDA 12 (https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/)."""
PYTHONS = (("debian", "12"), ("ubuntu", "24.04"))
"""Systems whose own Python is 3.11 or 3.12, for which kt-kernel is published."""

Method = Literal["LLAMAFILE", "AMXINT4", "AMXINT8", "RAWINT4", "FP8", "BF16"]
NEEDS: Mapping[Method, tuple[str, ...]] = {
    "LLAMAFILE": ("avx2",),
    "AMXINT4": ("amx_tile", "amx_int8"),
    "AMXINT8": ("amx_tile", "amx_int8"),
    "RAWINT4": ("avx512f",),
    "FP8": ("avx512f", "avx512_bf16"),
    "BF16": ("avx512f", "avx512_bf16"),
}
"""Method -> what the processor must have (kt-kernel 0.7.2, project description, CPU Requirements by Backend)."""

RESERVED_ARGUMENTS = {
    "--model-path": "model", "--model": "model", "--served-model-name": "alias", "--host": "host", "--port": "port",
    "--api-key": "api_key", "--config": "api_key", "--log-level": "api_key", "--context-length": "context_length",
    "--max-running-requests": "parallel", "--kt-method": "method", "--kt-weight-path": "weights",
    "--kt-cpuinfer": "cpu_threads", "--kt-threadpool-count": "cpu_threads", "--kt-numa-nodes": "cpu_threads",
    "--kt-num-gpu-experts": "gpu_experts", "--kt-max-deferred-experts-per-token": "deferred_experts",
    "--kt-gpu-prefill-token-threshold": "gpu_prefill_tokens", "--tensor-parallel-size": "tensor_parallel",
    "--tp-size": "tensor_parallel", "--mem-fraction-static": "gpu_memory_utilization",
    "--attention-backend": "attention_backend", "--trust-remote-code": "trust_remote_code",
    "--chunked-prefill-size": "chunked_prefill_tokens",
    "--disable-shared-experts-fusion": "shared_experts_fusion",
}  # fmt: skip
"""Flags of ``sglang.launch_server`` that an option of this role already sets -> that option."""

NO_RULES = "which layers lie where is no longer written as rules; write gpu_experts"
OF_A_REQUEST = "a request says it now; remove it"
REMOVED_ARGUMENTS = {
    "--gguf-path": "write weights, a GGUF under models/wanted",
    "--model-name": "write alias",
    "--cpu-infer": "write cpu_threads",
    "--cache-lens": "write context_length",
    "--max-batch-size": "write parallel",
    "--chunk-size": "write chunked_prefill_tokens",
    "--optimize-config-path": NO_RULES,
    "--optimize-rule-path": NO_RULES,
    "--max-new-tokens": OF_A_REQUEST,
    "--temperature": OF_A_REQUEST,
    "--force-think": OF_A_REQUEST,
    "--backend-type": "SGLang is the one server now; remove it",
    "--use-cuda-graph": "it is always tried; write --disable-cuda-graph against it",
    "--web": "there is no page any more; write open_webui",
}
"""
Flags of local_chat.py and of the server before 0.4 -> what to do instead
(https://github.com/kvcache-ai/ktransformers/tree/main/archive).
"""


class KTransformersInstanceOptions(InstanceOptions):
    """One SGLang server with KTransformers' experts: one model on one port, in ``ktransformers@NAME.service``."""

    program: ClassVar[str] = "KTransformers"
    reserved_arguments: ClassVar[Mapping[str, str]] = RESERVED_ARGUMENTS
    removed_arguments: ClassVar[Mapping[str, str]] = REMOVED_ARGUMENTS
    advice: ClassVar[dict[str, str]] = {
        "gguf_path": "write weights, the name of a GGUF under models/wanted",
        "model_path": "write model, the name of the original model under models/wanted",
        "cpu_infer": "write cpu_threads",
        "cpuinfer": "write cpu_threads",
        "optimize_config_path": NO_RULES,
        "optimize_rule_path": NO_RULES,
        "use_numa": "nothing is compiled with USE_NUMA any more: each NUMA node gets a pool of threads by itself",
        "numa": "each NUMA node gets a pool of threads, and its part of every expert, by itself",
        "num_gpu_experts": "write gpu_experts",
        "mem_fraction_static": "write gpu_memory_utilization",
    }

    weights: str | None = None
    """
    Name of a model under `models/wanted` with the experts' weights: a GGUF, for processors with AVX2, or a directory
    that kt-kernel's `convert_cpu_weights.py` wrote, for those with AMX. None: those of `model` itself.
    """

    method: Literal["auto", "LLAMAFILE", "AMXINT4", "AMXINT8", "RAWINT4", "FP8", "BF16"] = "auto"
    """
    Format of those weights, and so the kernels: `LLAMAFILE` for a GGUF, `AMXINT4` and `AMXINT8` for converted ones,
    `FP8`, `BF16` and `RAWINT4` for a model's own. `auto` knows a GGUF. Processors that lack what they need are refused.
    """

    cpu_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads for the experts, shared by one pool for each NUMA node. None: the physical cores."""

    gpu_experts: Annotated[int, Field(ge=0)] = 1
    """Experts of each layer that lie on the card; as many as it has room for. All others stay with the processors."""

    deferred_experts: Annotated[int, Field(ge=0)] | None = None
    """Experts of a token that may finish one layer later, while the card goes on; costs a little accuracy."""

    gpu_prefill_tokens: Annotated[int, Field(ge=1)] | None = None
    """Prompts that are longer go through the card, layer by layer. For `FP8`, `BF16` and `RAWINT4`."""

    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """Cards that share each layer."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a card's memory for weights and KV cache (SGLang's mem-fraction-static)."""

    attention_backend: Literal["flashinfer", "triton", "fa3", "flashmla", "torch_native"] | None = None
    """Kernels of attention. None: SGLang chooses."""

    chunked_prefill_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens of a prompt that are read at a time. None: SGLang chooses."""

    shared_experts_fusion: bool = False
    """Compute the experts that all tokens share with the others; upstream's instructions switch it off."""

    trust_remote_code: bool = False
    """Run the Python files that come with the model."""

    @property
    def loads(self) -> list[str]:
        """The models whose files it loads: `model`, and that of the experts."""
        return [self.model, *([self.weights] if self.weights else [])]

    @model_validator(mode="after")
    def _own_weights_have_a_format(self) -> Self:
        if self.present and self.weights is None and self.method in ("auto", "LLAMAFILE", "AMXINT4", "AMXINT8"):
            raise OptionProblem(
                "weights",
                f"required with method: {self.method!r}; give the GGUF, or the converted weights, of the experts, or "
                "write method: 'FP8', 'BF16' or 'RAWINT4', whichever the model's own files have",
            )
        return self


class KTransformersOptions(EngineOptions):
    """
    KTransformers: SGLang on a card, a model's experts on the processors; one systemd unit for each named instance.

    For models such as DeepSeek-R1 671B on one host with much memory and one card. Others are faster in vllm.
    """

    formats: ClassVar[frozenset[ModelFormat]] = frozenset({"safetensors"})
    advice: ClassVar[dict[str, str]] = {
        "version": f"flags are checked for {VERSION} alone",
        "use_numa": "nothing is compiled with USE_NUMA any more: each NUMA node gets a pool of threads by itself",
    }

    python: Annotated[str, Field(pattern=r"^3\.1[12]$")] | None = None
    """Python to install it in, `3.11` or `3.12`; uv brings it. None: the system's own, which must be one of them."""

    instances: Mapping[InstanceName, KTransformersInstanceOptions] = {}
    """The servers, by name."""

    @property
    def present(self) -> Mapping[str, KTransformersInstanceOptions]:
        """The servers that are to run."""
        return {name: one for name, one in self.instances.items() if one.present}

    def check_tags(self, tags: Sequence[str]) -> None:
        """Raise `OptionProblem` where no card is declared that it could compute on."""
        if self.present and "nvidia" not in vendors_of(tags):
            raise OptionProblem(
                "instances",
                f"KTransformers needs one of NVIDIA's cards, and the tags are {', '.join(tags)}; serve the model by "
                "llama_cpp, or declare the card",
            )

    def check_weights(self, models: Mapping[str, Model]) -> None:
        """Raise `OptionProblem` where an instance's weights are not declared, or are of another format than it says."""
        for name, one in self.present.items():
            if one.weights is None:
                continue
            option = f"instances/{name}"
            if one.weights not in models:
                raise OptionProblem(
                    f"{option}/weights", f"{one.weights!r} is not among models/wanted; declare it there"
                )
            gguf = models[one.weights].format == "gguf"
            if one.method == "auto" and not gguf:
                raise OptionProblem(
                    f"{option}/method",
                    f"'auto' knows a GGUF, and {one.weights!r} is {models[one.weights].path}; write the method that "
                    "it was converted for: 'AMXINT4' or 'AMXINT8'",
                )
            if gguf != (one.method in ("auto", "LLAMAFILE")):
                raise OptionProblem(
                    f"{option}/method",
                    f"{one.method!r} does not go with {one.weights!r}, {models[one.weights].path}; a GGUF, and nothing "
                    "else, is for 'LLAMAFILE'",
                )

    def findings(
        self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model], driver: str | None
    ) -> list[Finding]:
        """Return what speaks against these options on this hardware; ``driver``: NVIDIA's, that will run here."""
        if not self.present:
            return []
        found: list[Finding] = []
        if report.architecture not in ("", "amd64"):
            found.append(Finding("kt_architecture", "ktransformers", {"found": report.architecture}))
        if self.python is None:
            found += python_findings("KTransformers", "ktransformers/python", report, PYTHONS)
        found += card_findings("KTransformers", declared_cards(tags, report, "nvidia"), CAPABILITIES)
        found += driver_findings("KTransformers", driver, DRIVER)
        for name, one in self.present.items():
            method = method_of(one)
            missing = [feature for feature in NEEDS[method] if feature not in report.cpu.features]
            if missing and report.cpu.features:
                words: dict[str, Word] = {"method": method, "found": missing, "required": list(NEEDS[method])}
                found.append(Finding("kt_processor", f"ktransformers/instances/{name}/method", words))
            found += _fit(name, one, models, Room.of(report, tags, "nvidia"))
        return found

    def claims(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Claim]:
        """Return the share of each card that its servers take at their start, and the memory of their experts."""
        cards = declared_cards(tags, report, "nvidia")
        return [
            Claim(
                f"ktransformers/instances/{name}",
                {
                    card.controller.address: one.gpu_memory_utilization * ((card.card.vram_mib or 0) << 20)
                    for card in cards[: one.tensor_parallel]
                },
                one.fit,
                memory_bytes=models[one.weights or one.model].size_bytes or 0,
            )
            for name, one in self.present.items()
        ]


def _fit(
    name: str, instance: KTransformersInstanceOptions, models: Mapping[str, Model], room: Room
) -> Iterator[Finding]:
    """
    Compare weights with memory, and the KV cache with a card.

    All of the experts are read into memory; what the card takes of the weights is little beside them. The cache is that
    of `model`, whose attention SGLang computes, whatever kind of cache the experts' own file was made for.
    """
    experts, model = models[instance.weights or instance.model], models[instance.model]
    option = "weights" if instance.weights else "model"
    wanted = Wanted(name, experts, 0, fit=instance.fit, maps_weights=False, cache_elsewhere=True, option=option)
    yield from spilling("ktransformers", [wanted], Room(room.memory_bytes))
    cached = Wanted(name, model, instance.context_length, fit=instance.fit)
    split = Split(instance.tensor_parallel, offload_bytes=cached.weights_bytes)
    cards = Room(room.memory_bytes, room.cards[: instance.tensor_parallel])
    yield from resident("ktransformers", cached, cards, split, instance.gpu_memory_utilization)


def method_of(instance: KTransformersInstanceOptions) -> Method:
    """Return the method; `check_weights` refuses an `auto` that is not of a GGUF."""
    return "LLAMAFILE" if instance.method == "auto" else instance.method
