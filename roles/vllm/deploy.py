"""Deploy of the vllm role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra.api import deploy

from roles.common.apt import packages
from roles.common.engine import key_files
from roles.common.hardware import HardwareReport
from roles.common.images import images
from roles.common.model import Model
from roles.common.operations import TextFile, Unit, file_set, keys, units
from roles.common.python import python_environment
from roles.common.secrets import environment_files
from roles.common.systemd import unit_path
from roles.vllm.options import VERSION, VllmOptions
from roles.vllm.units import (
    NODE,
    NODE_PROGRAM,
    environment_of,
    image_of,
    reads,
    render,
    secrets,
    secrets_file,
    unit_name,
)


@deploy("vLLM")
def deploy_vllm(
    options: VllmOptions,
    models: Mapping[str, Model],
    tags: Sequence[str],
    report: HardwareReport,
    cluster: Sequence[str] = (),
    *,
    bundle: str | None = None,
) -> None:
    """
    Install vLLM and run the declared instances.

    ``cluster``: lines of [Service] with which a unit computes on this host's Ray cluster.

    ``bundle``: base of the bundle that the image comes from; None for its registry.
    """
    present = options.present
    gone = [name for name in options.instances if name not in present]
    if options.installed and options.method == "native":
        packages(name="Install what compiles kernels", names=needed_packages(options))
        python_environment(name=f"Install vLLM {VERSION}", wanted=environment_of(options))
    elif options.installed:
        image = image_of(options, options.computes_on(tags))
        images(name="Pull the image", references=[image], bundle=bundle)
    keys(name="Have the API keys", paths=key_files("vllm", options.instances))
    environment_files(name="Hand the keys over", wanted=secrets(options))
    several = any(one.nodes for one in present.values())
    files: dict[str, TextFile | None] = {NODE_PROGRAM: TextFile(NODE.read_text()) if several else None}
    for name, instance in options.instances.items():
        if name in gone:
            files[unit_path(unit_name(name))] = None
        else:
            text = render(name, instance, options, models[instance.model], tags=tags, report=report, cluster=cluster)
            files[unit_path(unit_name(name))] = TextFile(text)
        if name in gone or not instance.api_key:
            files[secrets_file(name)] = None
    file_set(name="Write the units", files=files)
    wanted = [Unit(unit_name(name), reads(name, one, options, models[one.model])) for name, one in present.items()]
    units(name="Run the instances", units=wanted)


def needed_packages(options: VllmOptions) -> list[str]:
    """Return the Debian packages with which Triton compiles its launchers when a model is loaded."""
    return ["g++", "libc6-dev", *([] if options.python else ["python3-dev"])]
