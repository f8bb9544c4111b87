"""Deploy of the llama_cpp role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from pyinfra.api import deploy

from roles.common.apt import packages
from roles.common.engine import key_files
from roles.common.hardware import HardwareReport
from roles.common.lock import declared_cards
from roles.common.model import Model
from roles.common.numa import numa_policy
from roles.common.operations import TextFile, Unit, file_set, keys, program, units
from roles.common.systemd import unit_path
from roles.llama_cpp.operations import fastest
from roles.llama_cpp.options import RELEASE_VARIANTS, LlamaCppOptions, Variant
from roles.llama_cpp.units import ROOT, USER, reads, render, unit_name

SCRIPTS = Path(__file__).parent / "files"
BACKEND_OPTIONS = {
    "cpu": [],
    "cuda": ["-DGGML_CUDA=ON"],
    "vulkan": ["-DGGML_VULKAN=ON"],
    "sycl": ["-DGGML_SYCL=ON", "-DCMAKE_C_COMPILER=icx", "-DCMAKE_CXX_COMPILER=icpx"],
}
"""CMake options of each backend (docs/build.md upstream)."""


@deploy("llama.cpp")
def deploy_llama_cpp(
    options: LlamaCppOptions, models: Mapping[str, Model], tags: Sequence[str], report: HardwareReport
) -> None:
    """Install llama-server and run the declared instances."""
    present = {name: instance for name, instance in options.instances.items() if instance.present}
    gone = [name for name, instance in options.instances.items() if not instance.present]
    if wanted := needed_packages(options, tags):
        packages(name="Install what llama-server needs", names=wanted)
    script = (SCRIPTS / f"{options.source}.sh").read_text() if options.source in ("release", "build") else ""
    if options.variant == "fastest":
        first = models[next(iter(present.values())).model]
        candidates = dict(archives(options, variant) for variant in options.variants(tags))
        cards = [card.controller.pci_id for card in declared_cards(tags, report)]
        fastest(
            name="Have the fastest llama-server", root=ROOT, candidates=candidates, script=script, model=first.path,
            threads=report.cpu.cores or 1, user=USER, cards=cards,
        )  # fmt: skip
    elif script:
        version, arguments = installation(options, tags, report.architecture)
        program(name=f"Install llama-server {version}", root=ROOT, version=version, script=script, arguments=arguments)
    keys(name="Have the API keys", paths=key_files("llama_cpp", options.instances))
    uses_gpu = options.uses_gpu(tags)
    files: dict[str, TextFile | None] = {unit_path(unit_name(name)): None for name in gone}
    for name, instance in present.items():
        policy = numa_policy(report, instance.numa, tags=tags, uses_gpu=uses_gpu)
        text = render(name, instance, options, models[instance.model], policy, uses_gpu=uses_gpu)
        files[unit_path(unit_name(name))] = TextFile(text)
    file_set(name="Write the units", files=files)
    wanted_units = [Unit(unit_name(n), reads(n, i, options, models[i.model])) for n, i in present.items()]
    units(name="Run the instances", units=wanted_units)


def needed_packages(options: LlamaCppOptions, tags: Sequence[str]) -> list[str]:
    """Return the Debian packages that the chosen llama-server needs."""
    if options.source == "existing":
        return []
    if options.source == "package":
        return ["llama.cpp-tools"]
    if options.source == "build":
        vulkan = ["libvulkan-dev", "glslc"] if options.build_backend == "vulkan" else []
        return ["curl", "build-essential", "cmake", "ninja-build", "libssl-dev", *vulkan]
    # Mesa's driver is what Intel's cards have; NVIDIA's brings its own.
    vulkan = ["libvulkan1", "mesa-vulkan-drivers"] if "vulkan-x64" in options.variants(tags) else []
    return ["curl", "libgomp1", *vulkan]


def installation(options: LlamaCppOptions, tags: Sequence[str], architecture: str) -> tuple[str, list[str]]:
    """Return the name of the installed version, and the arguments of the script that installs it."""
    if options.source == "build":
        url = f"{options.download_url}/archive/refs/tags/{options.version}.tar.gz"
        cmake = [*BACKEND_OPTIONS[options.build_backend], *options.build_options]
        return _named(f"{options.version}-build-{options.build_backend}", [url, str(options.sha256), *cmake])
    # An architecture without a release is refused by preflight.
    usual = options.variants(tags) or [RELEASE_VARIANTS.get(architecture, "x64")]
    return archives(options, usual[0])


def archives(options: LlamaCppOptions, variant: Variant) -> tuple[str, list[str]]:
    """Return the name of a release's variant, and the arguments of the script that installs it."""
    pins = options.pins(variant)
    archive = f"llama-{options.version}-bin-ubuntu-{variant}.tar.gz"
    if options.sha256:
        pins[archive] = options.sha256
    if options.cudart_sha256:
        pins[f"cudart-{archive}"] = options.cudart_sha256
    base = f"{options.download_url}/releases/download/{options.version}"
    arguments = [word for name, digest in pins.items() for word in (f"{base}/{name}", digest)]
    return _named(f"{options.version}-{variant}", arguments)


def _named(version: str, arguments: list[str]) -> tuple[str, list[str]]:
    """Return a version's directory and arguments: another digest or CMake option is another directory."""
    content = [word for word in arguments if not word.startswith(("http://", "https://", "file://"))]
    return f"{version}-{sha256(' '.join(content).encode()).hexdigest()[:8]}", arguments
