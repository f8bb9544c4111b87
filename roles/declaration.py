"""The whole declaration of a host: its tags and every role's options, loaded and checked once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pyinfra.api import Host, Inventory
from pyinfra.api.arguments import all_global_arguments
from pyinfra.connectors.ssh import ConnectorData

from roles.base.options import BaseOptions
from roles.common.endpoint import Endpoint
from roles.common.engine import EngineOptions, port_collisions
from roles.common.findings import Finding
from roles.common.hardware import HardwareReport
from roles.common.kernels import KernelRange
from roles.common.lock import Tag, vendors_of
from roles.common.model import Model
from roles.common.options import OptionError, OptionProblem, Options, did_you_mean
from roles.intel_gpu.options import IntelGpuOptions
from roles.intel_gpu.plan import findings as intel_gpu_findings
from roles.kernel.options import KernelOptions
from roles.kernel.plan import findings as kernel_findings
from roles.llama_cpp.options import LlamaCppOptions
from roles.llama_cpp.verify import UNITS as LLAMA_SERVER_UNITS
from roles.llama_cpp.verify import endpoints as llama_cpp_endpoints
from roles.mirrors.options import MirrorsOptions
from roles.models.options import ModelsOptions
from roles.nvidia_gpu.options import NvidiaGpuOptions
from roles.nvidia_gpu.plan import findings as nvidia_gpu_findings
from roles.preflight.findings import findings as preflight_findings
from roles.ray.options import RayOptions
from roles.ray.verify import UNITS as RAY_UNITS
from roles.ray.verify import endpoints as ray_endpoints
from roles.reboot.options import RebootOptions
from roles.tuning.options import TuningOptions

PYINFRA_KEYS = frozenset(ConnectorData.__annotations__) | {name for name, _ in all_global_arguments()}
"""Host data that pyinfra itself reads: how to connect, and arguments of every operation."""

UNIT_PATTERNS = (LLAMA_SERVER_UNITS,)
"""Names of the units of every engine."""


def _writable(target: str | None) -> str | None:
    if target is None or target == "-":
        return target
    path = Path(target).absolute()
    if path.is_dir():
        raise ValueError(f"{target!r} is a directory; name a file in it")
    if not path.parent.is_dir():
        raise ValueError(f"{str(path.parent)!r} is no directory on this machine; create it, or choose another path")
    return target


class Declaration(Options):
    """Everything that an inventory says about one host."""

    tags: list[Tag]
    """Hardware tags of the host, as in files/hardware.yaml: `cpu`, `b580`, `rtx4090`, `numa`, ..."""

    lang: Literal["en", "zh"] = "en"
    """Language of the preflight messages."""

    json_to: Annotated[str | None, AfterValidator(_writable)] = Field(None, alias="json")
    """Where `verify` and `probe` write their results as JSON: a path on the controller, or `-` for standard output."""

    mirrors: MirrorsOptions = MirrorsOptions()
    base: BaseOptions = BaseOptions()
    kernel: KernelOptions = KernelOptions()
    intel_gpu: IntelGpuOptions = IntelGpuOptions()
    nvidia_gpu: NvidiaGpuOptions = NvidiaGpuOptions()
    reboot: RebootOptions = RebootOptions()
    tuning: TuningOptions = TuningOptions()
    models: ModelsOptions = ModelsOptions()
    llama_cpp: LlamaCppOptions | None = None

    @model_validator(mode="after")
    def _models_are_declared(self) -> Self:
        for role, engine in self.engines.items():
            for name, instance in engine.present.items():
                option = f"{role}/instances/{name}/model"
                if instance.model not in self.models.wanted:
                    close = did_you_mean(instance.model, self.models.wanted)
                    raise OptionProblem(
                        option, f"{instance.model!r} is not among models/wanted{close}; declare it there"
                    )
                if problem := engine.cannot_serve(self.models.model(instance.model)):
                    raise OptionProblem(option, f"{instance.model!r} {problem}")
        return self

    @model_validator(mode="after")
    def _options_go_with_the_tags(self) -> Self:
        for role, engine in self.engines.items():
            try:
                engine.check_tags(self.tags)
            except OptionProblem as problem:
                raise OptionProblem(f"{role}/{problem.option}", str(problem)) from None
        return self

    @model_validator(mode="after")
    def _ports_are_free(self) -> Self:
        roles: dict[str, EngineOptions | RayOptions] = {**({"ray": self.ray} if self.ray else {}), **self.engines}
        listeners = [(f"{role}/{path}", port) for role, one in roles.items() for path, port in one.listeners()]
        for option, other in port_collisions(listeners):
            port = dict(listeners)[option]
            raise OptionProblem(option, f"port {port} is {other}'s already; give each server its own")
        return self

    @property
    def engines(self) -> dict[str, EngineOptions]:
        """The declared kinds of model servers, by role."""
        fields = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in fields if isinstance(value, EngineOptions)}

    def findings(self, report: HardwareReport) -> list[Finding]:
        """Return what speaks against this host, or should be known of it: its tags, then the roles in their order."""
        return [
            *preflight_findings(self.tags, report),
            *kernel_findings(self.kernel, self.tags, report),
            *intel_gpu_findings(self.intel_gpu, self.tags, report),
            *nvidia_gpu_findings(self.nvidia_gpu, self.tags, report),
            *self.models.findings(report),
            *(self.llama_cpp.findings(report, self.tags, self.models_by_name()) if self.llama_cpp else []),
        ]

    def changes_what_boots(self, report: HardwareReport) -> bool:
        """Whether kernel or drivers are to be seen to: a card is declared, a kernel demanded, or one is on trial."""
        return bool(vendors_of(self.tags)) or self.kernel.range != KernelRange() or report.kernel_on_trial

    @property
    def holds_kernels(self) -> bool:
        """Whether upgrades must leave the kernel alone: NVIDIA's signed modules are held, and are made for one."""
        return self.kernel.hold or ("nvidia" in vendors_of(self.tags) and self.nvidia_gpu.hold)

    def models_by_name(self) -> dict[str, Model]:
        """Return the declared models as the engines see them."""
        return {name: self.models.model(name) for name in self.models.wanted}

    def endpoints(self) -> list[Endpoint]:
        """Return every server that must answer on this host."""
        return llama_cpp_endpoints(self.llama_cpp, self.tags) if self.llama_cpp else []


def declaration_of(host: Host) -> Declaration:
    """
    Return what the inventory says of this host.

    The first call checks every host of the run, and raises one `OptionError` with all problems of all hosts:
    nothing has been changed anywhere by then.
    """
    return _fleet(host.inventory)[host.name]


@cache
def _fleet(inventory: Inventory) -> dict[str, Declaration]:
    declarations, problems = {}, []
    for host in inventory:
        data: dict[str, Any] = host.data.dict()
        ours = {key: value for key, value in data.items() if key not in PYINFRA_KEYS}
        try:
            declarations[host.name] = Declaration.load(ours, where=host.name)
        except OptionError as error:
            problems.append(str(error))
    if problems:
        raise OptionError("the inventory cannot be used as it is, and nothing was changed:\n" + "\n".join(problems))
    return declarations
