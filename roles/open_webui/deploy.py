"""Deploy of the open_webui role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.endpoint import Endpoint
from roles.common.images import images
from roles.common.operations import TextFile, Unit, file_set, keys, units
from roles.common.python import python_environment
from roles.common.secrets import environment_files
from roles.open_webui.options import OpenWebuiOptions
from roles.open_webui.units import (
    ENVIRONMENT,
    PASSWORD,
    SECRET_KEY,
    UNIT,
    UNIT_FILE,
    environment,
    python_of,
    reads,
    render,
)


@deploy("Open WebUI")
def deploy_open_webui(options: OpenWebuiOptions, servers: Sequence[Endpoint], bundle: str | None = None) -> None:
    """
    Install Open WebUI and connect it to the host's model servers, whose keys are on the host by now.

    ``bundle``: base of the bundle that the image comes from; None for its registry.
    """
    if not options.present:
        units(name="Stop it", units=[Unit(UNIT, present=False)])
        file_set(name="Remove the unit", files={UNIT_FILE: None, ENVIRONMENT: None})
        return
    if options.method == "native":
        python_environment(name="Install the packages", wanted=python_of(options))
    else:
        images(name="Pull the image", references=[options.image], bundle=bundle)
    keys(name="Have the secrets", paths={SECRET_KEY: True, PASSWORD: True}, lengths={PASSWORD: 24})
    environment_files(name="Hand over the keys of the backends", wanted=[environment(options, servers)])
    file_set(name="Write the unit", files={UNIT_FILE: TextFile(render(options))})
    units(name="Run it", units=[Unit(UNIT, reads(options))])
