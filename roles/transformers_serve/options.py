"""Options of the transformers_serve role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from roles.common.cuda import card_findings, driver_findings, python_findings
from roles.common.engine import EngineOptions, Gpu, InstanceOptions, is_loopback
from roles.common.findings import Finding
from roles.common.fit import USABLE, Claim, Room, Split, Wanted, held, resident, spilling
from roles.common.hardware import HardwareReport
from roles.common.lock import DeclaredCard, declared_cards, vendors_of
from roles.common.model import Model, ModelFormat
from roles.common.options import DirectoryName, InstanceName, OptionProblem
from roles.common.systemd import hidden_from_units

VERSION = "5.24.0"
"""What is installed, and what every flag was read from: tests/upstream holds our command lines against this one."""
CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1))
DRIVER = "580"
"""What the pinned PyTorch needs, which is made for CUDA 13: https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/."""

BITS = {"bnb-8bit": 8.0, "bnb-4bit": 4.2}
"""Of a weight, with its part of the scales: https://huggingface.co/docs/transformers/quantization/bitsandbytes."""

RESERVED_ARGUMENTS = {
    "--host": "host", "--port": "port", "--device": "device", "--dtype": "dtype", "--quantization": "quantization",
    "--continuous-batching": "continuous_batching", "--no-continuous-batching": "continuous_batching",
    "--attn-implementation": "attention", "--compile": "compile", "--no-compile": "compile",
    "--reasoning": "reasoning", "--trust-remote-code": "trust_remote_code",
    "--no-trust-remote-code": "trust_remote_code",
}  # fmt: skip
"""Flags of ``transformers serve`` that an option of this role already sets -> that option."""

REMOVED_ARGUMENTS = {
    "--load-in-8bit": "write quantization: 'bnb-8bit'",
    "--load-in-4bit": "write quantization: 'bnb-4bit'",
    "--bnb-4bit-quant-type": "4 bit is nf4 now; write quantization: 'bnb-4bit'",
    "--use-bnb-nested-quant": "4 bit is nested now; write quantization: 'bnb-4bit'",
    "--torch-dtype": "write dtype",
    "--force-model": "the server has one model, the option model",
    "--input-validation": "requests are always checked; remove it",
}
"""Flags that it no longer has -> what to do instead (https://huggingface.co/docs/transformers/serve-cli/serving)."""


class TransformersServeInstanceOptions(InstanceOptions):
    """One ``transformers serve``: one model on one port, in its own unit ``transformers-serve@NAME.service``."""

    program: ClassVar[str] = "transformers serve"
    reserved_arguments: ClassVar[Mapping[str, str]] = RESERVED_ARGUMENTS
    removed_arguments: ClassVar[Mapping[str, str]] = REMOVED_ARGUMENTS
    advice: ClassVar[dict[str, str]] = {
        "load_in_8bit": "write quantization: 'bnb-8bit'",
        "load_in_4bit": "write quantization: 'bnb-4bit'",
        "torch_dtype": "write dtype",
        "device_map": "write device",
        "attn_implementation": "write attention",
        "share": "it tunnels a page to the Internet, and Gradio's page is not part of this; write open_webui",
    }

    alias: DirectoryName | None = None
    """Model name in the API (`/v1/models`): the server names a model by its directory. None: the instance's name."""

    context_length: Annotated[int, Field(ge=0)] = 4096
    """
    Tokens that one request may have, prompt and answer together, for preflight's arithmetic alone: the server has no
    limit but the model's own. 0: what the model was trained with.
    """

    parallel: Annotated[int, Field(ge=1)] = 1
    """Requests that are answered at the same time. More than one needs `continuous_batching`, which sets no limit."""

    api_key: bool = False
    """Must be False: the server asks nobody for a key. It listens on a loopback address alone for that."""

    quantization: Literal["bnb-8bit", "bnb-4bit"] | None = None
    """Convert the weights as they are loaded: to 8 bit (load_in_8bit) or 4 bit, by bitsandbytes. None: as they are."""

    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """Data type of the weights. `auto`: as the model's files have it."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?|xpu(:[0-9]+)?)$")] = "auto"
    """What computes: `auto` shares the layers out among all cards, or takes the processors where there is none."""

    continuous_batching: bool = False
    """Answer requests together, with paged attention, on a card."""

    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = None
    """Which implementation of attention. None: the model's default. Flash attention needs its own package."""

    compile: bool = False
    """Compile the model with torch.compile at its first requests, which then take minutes; g++ is installed for it."""

    reasoning: Literal["auto", "on", "off"] = "auto"
    """Whether a model that can think does so, where its chat template lets one choose."""

    trust_remote_code: bool = False
    """Run the Python files that come with the model."""

    @model_validator(mode="after")
    def _only_this_host(self) -> Self:
        if self.api_key:
            raise OptionProblem(
                "api_key",
                "transformers serve cannot ask for a key; leave it False and put a proxy that does before it, or serve "
                "the model by vllm",
            )
        if not is_loopback(self.host):
            raise OptionProblem(
                "host",
                f"{self.host!r} would let everybody there use the model, unload it and load others, without a key; "
                "leave it 127.0.0.1 and put a proxy that asks for one before it, or serve the model by vllm",
            )
        if self.parallel > 1 and not self.continuous_batching:
            raise OptionProblem(
                "parallel", f"{self.parallel} need continuous_batching: True, else one waits for another"
            )
        return self


class TransformersServeOptions(EngineOptions):
    """
    The server of Hugging Face's transformers, one systemd unit for each named instance.

    It loads any model that transformers can, with quantisation at load; vllm is faster where it can load it.
    """

    formats: ClassVar[frozenset[ModelFormat]] = frozenset({"safetensors"})

    python: Annotated[str, Field(pattern=r"^3\.1[1-4]$")] | None = None
    """Python to install it in, such as `3.12`; uv brings it. None: the system's own, which must be 3.11 or newer."""

    existing: Annotated[str, Field(pattern="^/")] | None = None
    """
    Directory of a Python environment that has `transformers[serving]` already. For a PyTorch that PyPI does not have:
    its builds for x86-64 are made for NVIDIA's cards (3 GB, and compute on processors as well); builds for Intel's or
    AMD's cards, or for processors alone, come from PyTorch's own index. None: it is installed from PyPI, pinned.
    """

    instances: Mapping[InstanceName, TransformersServeInstanceOptions] = {}
    """The servers, by name."""

    @model_validator(mode="after")
    def _visible(self) -> Self:
        if self.existing and (hidden := hidden_from_units(self.existing)):
            raise OptionProblem("existing", f"units cannot see {hidden} (ProtectHome, PrivateTmp); make it below /opt")
        if self.existing and self.python:
            raise OptionProblem("python", "has no effect with existing, which has its own; remove one of the two")
        return self

    @property
    def present(self) -> Mapping[str, TransformersServeInstanceOptions]:
        """The servers that are to run."""
        return {name: one for name, one in self.instances.items() if one.present}

    @property
    def needs_pypi(self) -> bool:
        """Whether it is installed from a Python package index."""
        return self.existing is None and bool(self.present)

    def cannot_serve(self, model: Model) -> str | None:
        """Return what is wrong with a model for a unit that has it bound to another path (BindReadOnlyPaths=)."""
        found = next((character for character in """:$"'\\""" if character in model.path), None)
        bound = (
            f"is {model.path}, and systemd cannot bind a path with {found!r} elsewhere; rename it" if found else None
        )
        return super().cannot_serve(model) or bound

    def findings(
        self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model], driver: str | None
    ) -> list[Finding]:
        """Return what speaks against these options on this hardware; ``driver``: NVIDIA's, that will run here."""
        if not self.present:
            return []
        found: list[Finding] = []
        if self.existing is None and self.python is None:
            found += python_findings("transformers", "transformers_serve/python", report)
        if self.existing is None and any(computes_on(one, tags) == "nvidia" for one in self.present.values()):
            found += card_findings("PyTorch", declared_cards(tags, report, "nvidia"), CAPABILITIES)
            found += driver_findings("PyTorch", driver, DRIVER)
        for name, one in self.present.items():
            wanted = _wanted(name, one, models)
            if computes_on(one, tags) == "none":
                found += spilling("transformers_serve", [wanted], Room(report.memory_mib << 20))
            else:
                cards = _cards(one, tags, report)
                room = Room.with_cards(report, cards)
                found += resident("transformers_serve", wanted, room, Split(pipeline=len(cards) or 1), USABLE)
        return found

    def claims(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Claim]:
        """Return what its servers take of their cards or of the memory: model, cache and overhead."""
        found = []
        for name, one in self.present.items():
            cards = _cards(one, tags, report)
            wanted, option = _wanted(name, one, models), f"transformers_serve/instances/{name}"
            if not models[one.model].size_bytes:
                continue
            if computes_on(one, tags) == "none":
                found.append(Claim(option, {}, one.fit, memory_bytes=held([wanted])))
            elif cards:
                each = Split(pipeline=len(cards)).demand(replace(wanted, parallel=1)).total_bytes
                found.append(Claim(option, {card.controller.address: each for card in cards}, one.fit))
        return found


def _wanted(name: str, instance: TransformersServeInstanceOptions, models: Mapping[str, Model]) -> Wanted:
    """
    Return a model as a server wants it.

    The cache has one token less than the window where a layer has one, and with paged attention no more than that
    (transformers/cache_utils.py, DynamicSlidingWindowLayer; generation/continuous_batching/cache_allocators).
    """
    return Wanted(
        name,
        models[instance.model],
        instance.context_length,
        instance.parallel,
        fit=instance.fit,
        maps_weights=False,
        bits=BITS.get(instance.quantization or "") or (32.0 if instance.dtype == "float32" else None),
        beside_window=0,
    )


def _cards(
    instance: TransformersServeInstanceOptions, tags: Sequence[str], report: HardwareReport
) -> list[DeclaredCard]:
    """Return the cards that a server computes on."""
    gpu = computes_on(instance, tags)
    cards = [] if gpu == "none" else declared_cards(tags, report, gpu)
    number = int(instance.device.partition(":")[2] or 0)
    return cards if instance.device == "auto" else cards[number : number + 1]


def computes_on(instance: TransformersServeInstanceOptions, tags: Sequence[str]) -> Gpu:
    """Return whose cards a server computes on."""
    if instance.device == "cpu":
        return "none"
    if instance.device.startswith("xpu"):
        return "intel"
    return "nvidia" if instance.device.startswith("cuda") or "nvidia" in vendors_of(tags) else "none"
