"""Deploy of the ray role."""

from __future__ import annotations

from pyinfra.api import deploy

from roles.common.operations import TextFile, Unit, file_set, units
from roles.common.python import PythonEnvironment, python_environment
from roles.ray.operations import token
from roles.ray.options import RayOptions
from roles.ray.units import ENVIRONMENT, UNIT, UNIT_FILE, render


@deploy("Ray")
def deploy_ray(options: RayOptions, environment: PythonEnvironment = ENVIRONMENT) -> None:
    """
    Run this host's node of the cluster.

    ``environment``: Ray's own, or that of the engine that uses the cluster: what computes on a node is imported there.
    """
    if not options.present:
        units(name="Leave the cluster", units=[Unit(UNIT, present=False)])
        file_set(name="Remove the unit", files={UNIT_FILE: None})
        return
    python_environment(name="Install what the node runs", wanted=environment)
    if options.token_file:
        token(name="Look for the token", path=options.token_file)
    file_set(name="Write the unit", files={UNIT_FILE: TextFile(render(options, environment))})
    reads = (UNIT_FILE, f"{environment.root}/current", *([options.token_file] if options.token_file else []))
    units(name="Run the node", units=[Unit(UNIT, reads)])
