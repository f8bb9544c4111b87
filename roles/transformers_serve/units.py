"""Names and text of the units of transformers serve: pure functions of the options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from roles.common.model import Model
from roles.common.python import PythonEnvironment
from roles.common.rendering import templates
from roles.common.systemd import environment_word, exec_line, unit_path
from roles.transformers_serve.options import (
    VERSION,
    TransformersServeInstanceOptions,
    TransformersServeOptions,
    computes_on,
)

ROOT = "/opt/metal2model/transformers"
REQUIREMENTS = Path(__file__).parent / "files" / "requirements.txt"
TEMPLATES = templates(__file__)
VALUES = {"--quantization": "quantization", "--attn-implementation": "attention"}
"""Flag -> the option whose value follows it; left out where that is None."""
SWITCHES = {
    "--continuous-batching": "continuous_batching",
    "--compile": "compile",
    "--trust-remote-code": "trust_remote_code",
}
"""Flag -> the option that switches it on."""


def unit_name(instance: str) -> str:
    """Return the full name of an instance's unit."""
    return f"transformers-serve@{instance}.service"


def environment_of(options: TransformersServeOptions) -> PythonEnvironment:
    """Return the Python environment that is made where none is given."""
    return PythonEnvironment(
        root=ROOT,
        version=VERSION,
        requirements=REQUIREMENTS.read_text(),
        role="transformers_serve",
        python=options.python or "",
        module="transformers",
    )


def program(options: TransformersServeOptions) -> str:
    """Return the absolute path of ``transformers`` on the host."""
    return f"{options.existing or f'{ROOT}/current'}/bin/transformers"


def reads(name: str, options: TransformersServeOptions, model: Model) -> tuple[str, ...]:
    """Return what the unit reads at its start, so that a change of any of it restarts it."""
    current = [] if options.existing else [f"{ROOT}/current"]
    return (unit_path(unit_name(name)), program(options), *current, model.path)


def served_name(name: str, instance: TransformersServeInstanceOptions) -> str:
    """Return the model's name in the API, which is that of a directory."""
    return instance.alias or name


def arguments(name: str, instance: TransformersServeInstanceOptions) -> list[str]:
    """Return the words after ``transformers`` (https://huggingface.co/docs/transformers/serve-cli/serving)."""
    words = ["serve", served_name(name, instance), "--host", instance.host, "--port", str(instance.port),
             "--device", instance.device, "--dtype", instance.dtype, "--reasoning", instance.reasoning]  # fmt: skip
    for flag, option in VALUES.items():
        if value := getattr(instance, option):
            words += [flag, value]
    words += [flag for flag, option in SWITCHES.items() if getattr(instance, option)]
    return [*words, *instance.extra_arguments]


def render(
    name: str,
    instance: TransformersServeInstanceOptions,
    options: TransformersServeOptions,
    model: Model,
    tags: Sequence[str],
) -> str:
    """Return the text of an instance's unit."""
    directory = f"/run/transformers-serve/{name}"
    cache = f"/var/cache/transformers-serve/{name}"
    given = {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HOME": cache,
        "XDG_CACHE_HOME": cache,
        "HF_HOME": f"{cache}/huggingface",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        **instance.environment,
    }
    return TEMPLATES.get_template("transformers-serve.service.j2").render(
        name=name,
        instance=instance,
        command=exec_line([program(options), *arguments(name, instance)]),
        directory=directory,
        model=exec_line([f"{model.path}:{directory}/{served_name(name, instance)}"]),
        uses_gpu=computes_on(instance, tags) != "none",
        environment=[environment_word(key, value) for key, value in sorted(given.items())],
    )
