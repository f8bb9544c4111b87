"""Deploy of the dify role."""

from __future__ import annotations

from pathlib import Path

from pyinfra.api import deploy

from roles.common.apt import packages
from roles.common.operations import TextFile, Unit, file_set, keys, program, units
from roles.common.secrets import environment_files
from roles.dify.operations import compose_images
from roles.dify.options import DifyOptions
from roles.dify.units import (
    ENVIRONMENT,
    OVERRIDE,
    PASSWORD,
    ROOT,
    STATE,
    UNIT,
    UNIT_FILE,
    archive_url,
    compose,
    environment,
    key_paths,
    override,
    render,
    version_directory,
)

SCRIPT = Path(__file__).parent / "files" / "release.sh"


@deploy("Dify")
def deploy_dify(options: DifyOptions) -> None:
    """Install upstream's compose files, with secrets of this host's own, and run them."""
    if not options.present:
        units(name="Stop it", units=[Unit(UNIT, present=False)])
        file_set(name="Remove the unit", files={UNIT_FILE: None})
        return
    packages(name="Install what a download needs", names=["curl"])
    program(
        name=f"Install the compose files of {options.version}",
        root=ROOT,
        version=version_directory(options),
        script=SCRIPT.read_text(),
        arguments=[archive_url(options), str(options.sha256), STATE, ENVIRONMENT, *sorted(environment(options).values)],
    )
    keys(name="Have the secrets", paths=key_paths(), lengths={PASSWORD: 24})
    environment_files(name="Write upstream's settings", wanted=[environment(options)])
    files = {UNIT_FILE: TextFile(render()), OVERRIDE: TextFile(override(options))}
    file_set(name="Write the unit", files=files)
    compose_images(name="Pull the images", compose=compose())
    units(name="Run it", units=[Unit(UNIT, (UNIT_FILE, ENVIRONMENT, OVERRIDE, f"{ROOT}/current"))])
