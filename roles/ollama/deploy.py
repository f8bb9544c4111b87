"""Deploy of the ollama role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pyinfra.api import deploy

from roles.common.apt import packages
from roles.common.hardware import HardwareReport
from roles.common.lock import vendors_of
from roles.common.model import Model
from roles.common.operations import TextFile, Unit, file_set, program, units
from roles.ollama.modelfile import render, shards
from roles.ollama.operations import models as models_operation
from roles.ollama.operations import removed, taken_over
from roles.ollama.options import (
    SPLIT_SINCE,
    ZSTD_SINCE,
    OllamaInstanceOptions,
    OllamaOptions,
    api_name,
    releases,
    tagged,
)
from roles.ollama.units import (
    COMMAND,
    PROGRAM,
    RECORDS,
    ROOT,
    SETTINGS_FILE,
    UNIT,
    UNIT_FILE,
    USER,
    modelfile,
    settings_text,
    unit_text,
)

SCRIPTS = Path(__file__).parent / "files"


@deploy("Ollama")
def deploy_ollama(
    options: OllamaOptions, models: Mapping[str, Model], tags: Sequence[str], report: HardwareReport
) -> None:
    """Install Ollama, run its daemon, and have the declared models in it."""
    if not options.enabled:
        removed(
            name="Stop what is not wanted any more",
            unit=UNIT,
            unit_file=UNIT_FILE,
            settings=SETTINGS_FILE,
            link=COMMAND,
        )
        return
    if "intel" in vendors_of(tags):
        packages(name="Install what Vulkan needs", names=["libvulkan1", "mesa-vulkan-drivers"])
    version, arguments = installation(options, report.architecture)
    script = (SCRIPTS / "release.sh").read_text()
    program(name=f"Install Ollama {version}", root=ROOT, version=version, script=script, arguments=arguments)
    taken_over(
        name="Take over another installation",
        directory=options.models_directory,
        user=USER,
        link=COMMAND,
        target=PROGRAM,
        settings=SETTINGS_FILE,
    )
    wanted = specification(options, models)
    files: dict[str, TextFile | None] = {modelfile(name): None for name in options.instances}
    files |= {modelfile(name): TextFile(text) for name, text in modelfiles(options, models).items()}
    files |= {
        UNIT_FILE: TextFile(unit_text(options, tags)),
        SETTINGS_FILE: TextFile(settings_text(options)),
    }
    file_set(name="Write the unit and the Modelfiles", files=files)
    reads = (UNIT_FILE, SETTINGS_FILE, f"{ROOT}/current", PROGRAM)
    units(name="Run the daemon", units=[Unit(UNIT, reads)])
    models_operation(name="Have the models", spec=wanted)


def installation(options: OllamaOptions, architecture: str) -> tuple[str, list[str]]:
    """Return the name of the installed version, and the arguments of the script that installs it."""
    ending = "tar.zst" if options.number >= ZSTD_SINCE else "tgz"
    archive = f"ollama-linux-{architecture}.{ending}"
    pins = dict(releases().get(options.version, {}).get(architecture, {}))
    if options.sha256:
        pins = {archive: options.sha256}
    if options.rocm and options.rocm_sha256:
        pins[f"ollama-linux-{architecture}-rocm.{ending}"] = options.rocm_sha256
    base = f"{options.download_url}/releases/download/v{options.version}"
    arguments = [word for name, digest in pins.items() for word in (f"{base}/{name}", digest)]
    # Another digest is another directory: else what was installed under the old one would pass for the new.
    content = sha256(" ".join(pins.values()).encode()).hexdigest()[:8]
    return f"{options.version}-{architecture}{'-rocm' if options.rocm else ''}-{content}", arguments


def joins(options: OllamaOptions, parts: Sequence[str]) -> bool:
    """Whether a split model has to be joined before this release of Ollama can take it."""
    return len(parts) > 1 and options.number < SPLIT_SINCE


def merged_path(options: OllamaOptions, name: str) -> str:
    """Return where the parts of an instance's model are joined, for as long as it is made."""
    return f"{options.models_directory}/.{name}.gguf"


def modelfiles(options: OllamaOptions, models: Mapping[str, Model]) -> dict[str, str]:
    """Return the text of each present instance's Modelfile."""
    texts = {}
    for name, one in options.served.items():
        parts = [] if one.pull else shards(models[one.model].path)
        sources = [merged_path(options, name)] if joins(options, parts) else parts
        texts[name] = render(name, one, sources or [str(one.pull)])
    return texts


def specification(options: OllamaOptions, models: Mapping[str, Model]) -> dict[str, Any]:
    """Return what files/models.py is to have."""
    texts = modelfiles(options, models)
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    return {
        "host": address,
        "port": options.port,
        "program": PROGRAM,
        "directory": options.models_directory,
        "records": RECORDS,
        "split": options.gguf_split,
        "rewrites": options.number >= SPLIT_SINCE,
        "models": [entry(name, one, options, models, texts[name]) for name, one in options.served.items()],
        "gone": [
            {"instance": name, "name": api_name(name, one)}
            for name, one in options.instances.items()
            if not one.present
        ],
    }


def entry(
    name: str, one: OllamaInstanceOptions, options: OllamaOptions, models: Mapping[str, Model], text: str
) -> dict[str, Any]:
    """Return what files/models.py needs to know of a model."""
    parts = [] if one.pull else shards(models[one.model].path)
    return {
        "instance": name,
        "name": api_name(name, one),
        "modelfile": modelfile(name),
        "sha256": sha256(text.encode()).hexdigest(),
        "pull": tagged(one.pull) if one.pull else "",
        "files": [*parts, *([one.adapter] if one.adapter else [])],
        "parts": len(parts),
        "merged": merged_path(options, name) if joins(options, parts) else "",
    }
