"""Options of the ipex_llm role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from roles.common.container import ImageReference, cannot_mount
from roles.common.engine import EngineOptions, InstanceOptions, is_loopback
from roles.common.findings import Finding
from roles.common.fit import USABLE, Claim, Room, Split, Wanted, resident
from roles.common.hardware import HardwareReport
from roles.common.lock import declared_cards, vendors_of
from roles.common.model import Model, ModelFormat
from roles.common.options import DirectoryName, InstanceName, OptionProblem

BITS = {"sym_int4": 4.5, "asym_int4": 5.0, "sym_int8": 8.5, "fp6": 6.5, "fp8": 8.5, "fp16": None}
"""Of a weight, with its part of the scales; None: as in the files
(https://github.com/intel/ipex-llm/blob/main/python/llm/src/ipex_llm/ggml/quantize.py)."""

RESERVED_ARGUMENTS = {"--repo-id-or-model-path": "model", "--low-bit": "low_bit", "--port": "port"}
"""Flags of lightweight_serving.py that an option of this role already sets -> that option."""


class IpexLlmInstanceOptions(InstanceOptions):
    """One ``lightweight_serving.py``: one model on one port, in a container of ``ipex-llm@NAME.service``."""

    program: ClassVar[str] = "lightweight_serving.py"
    reserved_arguments: ClassVar[Mapping[str, str]] = RESERVED_ARGUMENTS
    advice: ClassVar[dict[str, str]] = {
        "quantization": "write low_bit",
        "load_in_low_bit": "write low_bit",
        "shm_size": "write shared_memory_gib",
        "memory": "write memory_gib",
    }

    alias: DirectoryName | None = None
    """Model name in the API: the server names a model by its directory. None: the instance's name."""

    context_length: Annotated[int, Field(ge=0)] = 4096
    """
    Tokens that one request may have, prompt and answer together, for preflight's arithmetic alone: the server has no
    limit but the model's own. 0: what the model was trained with.
    """

    parallel: Annotated[int, Field(ge=1, le=1)] = 1
    """Requests that are answered at the same time: the server has one after the other."""

    api_key: bool = False
    """Must be False: the server asks nobody for a key. It listens on a loopback address alone for that."""

    min_tokens_per_second: Annotated[float, Field(ge=0, le=0)] = 0.0
    """Must be 0: the server does not say how many tokens its answers have."""

    low_bit: Literal["sym_int4", "asym_int4", "sym_int8", "fp6", "fp8", "fp16"] = "sym_int4"
    """To what the weights are converted as they are loaded."""

    memory_gib: Annotated[int, Field(ge=1)] = 16
    """Most memory that the container may have (`--memory`); the whole model passes through it while it is loaded."""

    shared_memory_gib: Annotated[int, Field(ge=1)] = 16
    """Most of that which its processes may share (`--shm-size`)."""

    @model_validator(mode="after")
    def _only_this_host(self) -> Self:
        if self.api_key:
            raise OptionProblem(
                "api_key",
                "lightweight_serving.py cannot ask for a key; leave it False and put a proxy that does before it, or "
                "serve the model by llama_cpp or vllm",
            )
        if not is_loopback(self.host):
            raise OptionProblem(
                "host",
                f"{self.host!r} would let everybody there use the model without a key; leave it 127.0.0.1 and put a "
                "proxy that asks for one before it, or serve the model by llama_cpp or vllm",
            )
        return self


class IpexLlmOptions(EngineOptions):
    """
    IPEX-LLM's lightweight server for Intel's cards, one container for each named instance.

    Intel archived the project in January 2026, with known security issues (https://github.com/intel/ipex-llm): for
    what was made for it. llama_cpp (variant vulkan-x64 or sycl-fp16-x64) and vllm (method: container) come after it.
    """

    formats: ClassVar[frozenset[ModelFormat]] = frozenset({"safetensors"})
    hides_home: ClassVar[bool] = False  # a container sees what is mounted into it

    image: ImageReference = "intelanalytics/ipex-llm-xpu:2.2.0-SNAPSHOT"
    """
    Image to begin with. The version is one that moved while it was built; what it last was is pulled once, and on it
    is built, on the host, what the server lacks. Pin what you tested as `NAME@sha256:...`.
    """

    devices: list[Annotated[str, Field(pattern="^/dev/")]] = ["/dev/dri"]
    """Devices that the containers may open; one card of several is, for instance, `/dev/dri/renderD129`."""

    instances: Mapping[InstanceName, IpexLlmInstanceOptions] = {}
    """The servers, by name."""

    @property
    def present(self) -> Mapping[str, IpexLlmInstanceOptions]:
        """The servers that are to run."""
        return {name: one for name, one in self.instances.items() if one.present}

    @property
    def needs_docker(self) -> str:
        """The option by which this role runs containers; "" when it does not."""
        return "image" if self.present else ""

    def cannot_serve(self, model: Model) -> str | None:
        """Return what is wrong with a model for a container."""
        return super().cannot_serve(model) or cannot_mount(model.path)

    def findings(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Finding]:
        """Return what should be known of these options on this hardware."""
        if not self.present:
            return []
        found = [Finding("ipex_archived", "ipex_llm", {"found": self.image})]
        if "intel" not in vendors_of(tags):
            found.append(Finding("ipex_no_card", "ipex_llm", {"found": list(tags)}))
        for name, one in self.present.items():
            room = Room.of(report, tags, "intel")
            # It computes on the first card.
            first = Room(room.memory_bytes, room.cards[:1])
            found += resident("ipex_llm", _wanted(name, one, models), first, Split(), USABLE)
        return found

    def claims(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Claim]:
        """Return what its servers take of the first card: model, cache and overhead."""
        if self.devices != ["/dev/dri"]:
            return []  # which card that is, only the host knows
        return [
            Claim(
                f"ipex_llm/instances/{name}",
                {card.controller.address: Split().demand(_wanted(name, one, models)).total_bytes},
                one.fit,
            )
            for name, one in self.present.items()
            if models[one.model].size_bytes
            for card in declared_cards(tags, report, "intel")[:1]
        ]


def _wanted(name: str, instance: IpexLlmInstanceOptions, models: Mapping[str, Model]) -> Wanted:
    bits = BITS[instance.low_bit]
    model, tokens = models[instance.model], instance.context_length
    return Wanted(name, model, tokens, fit=instance.fit, maps_weights=False, bits=bits)
