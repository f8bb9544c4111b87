"""Deploy of the ktransformers role."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra.api import deploy

from roles.common.apt import packages
from roles.common.engine import key_files
from roles.common.hardware import HardwareReport
from roles.common.model import Model
from roles.common.operations import TextFile, Unit, file_set, keys, units
from roles.common.python import python_environment
from roles.common.systemd import unit_path
from roles.ktransformers.options import VERSION, KTransformersOptions
from roles.ktransformers.units import environment_of, reads, render, unit_name

COMPILER = ("g++", "libc6-dev", "python3-dev")
"""With these Triton compiles its launchers when a model is loaded."""


@deploy("KTransformers")
def deploy_ktransformers(options: KTransformersOptions, models: Mapping[str, Model], report: HardwareReport) -> None:
    """Install KTransformers and run the declared instances."""
    present = options.present
    gone = [name for name in options.instances if name not in present]
    if present:
        packages(name="Install what compiles kernels", names=list(COMPILER))
        python_environment(name=f"Install KTransformers {VERSION}", wanted=environment_of(options))
    keys(name="Have the API keys", paths=key_files("ktransformers", options.instances))
    files: dict[str, TextFile | None] = {unit_path(unit_name(name)): None for name in gone}
    wanted = []
    for name, one in present.items():
        model, experts = models[one.model], models[one.weights or one.model]
        files[unit_path(unit_name(name))] = TextFile(
            render(name, one, options, model=model, experts=experts, report=report)
        )
        wanted.append(Unit(unit_name(name), reads(name, one, model, experts)))
    file_set(name="Write the units", files=files)
    units(name="Run the instances", units=wanted)
