"""Deploy of the ipex_llm role."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra.api import deploy

from roles.common.images import images
from roles.common.model import Model
from roles.common.operations import TextFile, Unit, file_set, units
from roles.common.systemd import unit_path
from roles.ipex_llm.operations import built_image
from roles.ipex_llm.options import IpexLlmOptions
from roles.ipex_llm.units import image, recipe, render, unit_name


@deploy("IPEX-LLM")
def deploy_ipex_llm(options: IpexLlmOptions, models: Mapping[str, Model]) -> None:
    """Build the image and run the declared instances."""
    present = options.present
    gone = [name for name in options.instances if name not in present]
    if present:
        images(name="Pull the image", references=[options.image])
        built_image(name="Build what the server lacks", reference=image(options), recipe=recipe(options))
    files: dict[str, TextFile | None] = {unit_path(unit_name(name)): None for name in gone}
    for name, one in present.items():
        files[unit_path(unit_name(name))] = TextFile(render(name, one, options, models[one.model]))
    file_set(name="Write the units", files=files)
    wanted = [
        Unit(unit_name(name), (unit_path(unit_name(name)), models[one.model].path)) for name, one in present.items()
    ]
    units(name="Run the instances", units=wanted)
