"""Deploy of the llama_cpp role."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pyinfra.api import deploy

from roles.common.apt import packages
from roles.common.hardware import HardwareReport
from roles.common.model import Model
from roles.common.operations import TextFile, Unit, file_set, program, units
from roles.llama_cpp.operations import keys
from roles.llama_cpp.options import LlamaCppInstanceOptions, LlamaCppOptions, releases

ROOT = "/opt/metal2model/llama.cpp"
HERE = Path(__file__).parent
TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - unit files, not HTML
)

BUILD_OPTIONS = {"cpu": [], "cuda": ["-DGGML_CUDA=ON"], "vulkan": ["-DGGML_VULKAN=ON"],
                 "sycl": ["-DGGML_SYCL=ON", "-DCMAKE_C_COMPILER=icx", "-DCMAKE_CXX_COMPILER=icpx"]}  # fmt: skip
"""CMake options of each backend (docs/build.md upstream)."""


@deploy("llama.cpp")
def deploy_llama_cpp(options: LlamaCppOptions, models: Mapping[str, Model], report: HardwareReport) -> None:
    """Install llama-server and run the declared instances."""
    present = {name: instance for name, instance in options.instances.items() if instance.present}
    gone = [name for name, instance in options.instances.items() if not instance.present]
    packages(name="Install what llama-server needs", names=needed_packages(options))
    if options.source in ("release", "build"):
        version = installed_name(options, report.architecture)
        script = (HERE / "files" / f"{options.source}.sh").read_text()
        arguments = archives(options, report.architecture) + (cmake_options(options) if options.source == "build" else [])
        program(name=f"Install llama-server {version}", root=ROOT, version=version, script=script, arguments=arguments)
    keys(name="Have the API keys", paths={key_file(n): i.present and i.api_key for n, i in options.instances.items()})
    if gone:
        units(name="Stop removed instances", units=[Unit(unit_name(name), present=False) for name in gone])
    files = {unit_file(name): TextFile(render(name, i, options, models[i.model], report)) for name, i in present.items()}
    file_set(name="Write the units", files={**files, **{unit_file(name): None for name in gone}})
    units(name="Run the instances", units=[Unit(unit_name(n), reads(n, i, options, models[i.model])) for n, i in present.items()])


def needed_packages(options: LlamaCppOptions) -> list[str]:
    """Return the Debian packages that the chosen llama-server needs beside the base system."""
    if options.source == "package":
        return ["llama.cpp-tools"]
    if options.source == "existing":
        return []
    runtime = ["curl", "libgomp1", "libssl3t64|libssl3"]
    if options.source == "build":
        backend = {"vulkan": ["libvulkan-dev", "glslc"]}.get(options.build_backend, [])
        return [*runtime, "build-essential", "cmake", "ninja-build", "libssl-dev", *backend]
    return [*runtime, *(["libvulkan1"] if options.variant and options.variant.startswith("vulkan") else [])]
