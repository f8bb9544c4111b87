"""Deploy of the transformers_serve role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra.api import deploy

from roles.common.apt import packages
from roles.common.model import Model
from roles.common.operations import TextFile, Unit, file_set, units
from roles.common.python import python_environment
from roles.common.systemd import unit_path
from roles.transformers_serve.options import VERSION, TransformersServeOptions
from roles.transformers_serve.units import environment_of, reads, render, unit_name


@deploy("transformers serve")
def deploy_transformers_serve(
    options: TransformersServeOptions, models: Mapping[str, Model], tags: Sequence[str]
) -> None:
    """Install transformers and run the declared instances."""
    present = options.present
    gone = [name for name in options.instances if name not in present]
    if any(one.compile for one in present.values()):
        packages(name="Install what compiles models", names=["g++", "libc6-dev", "python3-dev"])
    if options.needs_pypi:
        python_environment(name=f"Install transformers {VERSION}", wanted=environment_of(options))
    files: dict[str, TextFile | None] = {unit_path(unit_name(name)): None for name in gone}
    for name, one in present.items():
        files[unit_path(unit_name(name))] = TextFile(render(name, one, options, models[one.model], tags))
    file_set(name="Write the units", files=files)
    wanted = [Unit(unit_name(name), reads(name, options, models[one.model])) for name, one in present.items()]
    units(name="Run the instances", units=wanted)
