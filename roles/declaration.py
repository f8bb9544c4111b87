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
from roles.common.hardware import HardwareReport, Tag
from roles.common.model import Model
from roles.common.options import OptionError, OptionProblem, Options, did_you_mean
from roles.common.systemd import hidden_from_units
from roles.llama_cpp.options import LlamaCppOptions
from roles.llama_cpp.verify import UNITS as LLAMA_SERVER_UNITS
from roles.llama_cpp.verify import endpoints as llama_cpp_endpoints
from roles.mirrors.options import MirrorsOptions
from roles.models.options import ModelsOptions
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


def _cannot_be_served(path: str) -> str | None:
    if not path.endswith(".gguf"):
        return (
            f"is {path}, and llama-server loads one .gguf file; write the exact name of that file first in "
            "models/wanted/NAME/files, of a split model its first part"
        )
    if hidden := hidden_from_units(path):
        return f"is {path}, and the unit cannot see {hidden} (ProtectHome, PrivateTmp); put models below /srv or /opt"
    return None


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
    tuning: TuningOptions = TuningOptions()
    models: ModelsOptions = ModelsOptions()
    llama_cpp: LlamaCppOptions | None = None

    @model_validator(mode="after")
    def _models_are_declared(self) -> Self:
        for name, instance in (self.llama_cpp.instances if self.llama_cpp else {}).items():
            if instance.present and instance.model not in self.models.wanted:
                close = did_you_mean(instance.model, self.models.wanted)
                raise OptionProblem(
                    f"llama_cpp/instances/{name}/model",
                    f"{instance.model!r} is not among models/wanted{close}; declare it there",
                )
            if instance.present and (problem := _cannot_be_served(self.models.model(instance.model).path)):
                raise OptionProblem(f"llama_cpp/instances/{name}/model", f"{instance.model!r} {problem}")
        return self

    def problems(self, report: HardwareReport) -> list[str]:
        """Return what speaks against the roles' options on this hardware; the tags are preflight's own matter."""
        return self.llama_cpp.problems(report) if self.llama_cpp else []

    def models_by_name(self) -> dict[str, Model]:
        """Return the declared models as the engines see them."""
        return {name: self.models.model(name) for name in self.models.wanted}

    def endpoints(self) -> list[Endpoint]:
        """Return every server that must answer on this host."""
        return llama_cpp_endpoints(self.llama_cpp) if self.llama_cpp else []


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
