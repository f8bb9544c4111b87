"""Names and text of llama-server's units: pure functions of the options."""

from __future__ import annotations

from roles.common.engine import key_file
from roles.common.model import Model
from roles.common.numa import NumaPolicy
from roles.common.rendering import templates
from roles.common.systemd import exec_line, unit_path
from roles.llama_cpp.options import LlamaCppInstanceOptions, LlamaCppOptions

ROOT = "/opt/metal2model/llama.cpp"
USER = "llama-server"
TEMPLATES = templates(__file__)


def unit_name(instance: str) -> str:
    """Return the full name of an instance's unit."""
    return f"llama-server@{instance}.service"


def server(options: LlamaCppOptions) -> str:
    """Return the absolute path of llama-server on the host."""
    if options.source == "existing":
        assert options.binary is not None  # the options refuse it
        return options.binary
    return "/usr/bin/llama-server" if options.source == "package" else f"{ROOT}/current/llama-server"


def reads(name: str, instance: LlamaCppInstanceOptions, options: LlamaCppOptions, model: Model) -> tuple[str, ...]:
    """Return what the unit reads at its start, so that a change of any of it restarts it."""
    program = [server(options), *([f"{ROOT}/current"] if options.source in ("release", "build") else [])]
    return (
        unit_path(unit_name(name)),
        *program,
        model.path,
        *([key_file("llama_cpp", name)] if instance.api_key else []),
    )


def command(
    name: str, instance: LlamaCppInstanceOptions, options: LlamaCppOptions, model: Model, policy: NumaPolicy
) -> str:
    """Return the unit's ``ExecStart=`` (tools/server/README.md upstream)."""
    port = str(instance.port)
    words = [server(options), "--model", model.path, "--alias", instance.alias or name,
             "--host", instance.host, "--port", port, "--ctx-size", str(instance.context_length * instance.parallel),
             "--parallel", str(instance.parallel), "--threads", str(instance.threads or policy.physical_cores or 1),
             "--gpu-layers", str(instance.gpu_layers), "--flash-attn", instance.flash_attention,
             "--cache-type-k", instance.cache_type_k, "--cache-type-v", instance.cache_type_v,
             "--load-mode", instance.load_mode, "--offline",
             "--cors-origins", ",".join(instance.cors_origins) or f"http://127.0.0.1:{port}"]  # fmt: skip
    if instance.numa in ("distribute", "isolate"):
        words += ["--numa", str(instance.numa)]
    elif policy.directives:
        words += ["--numa", "numactl"]
    if instance.metrics:
        words.append("--metrics")
    line = exec_line([*words, *instance.extra_arguments])
    # Expanded by systemd itself to where LoadCredential= put the key.
    return f"{line} --api-key-file ${{CREDENTIALS_DIRECTORY}}/api_key" if instance.api_key else line


def render(
    name: str,
    instance: LlamaCppInstanceOptions,
    options: LlamaCppOptions,
    model: Model,
    policy: NumaPolicy,
    *,
    uses_gpu: bool,
) -> str:
    """Return the text of an instance's unit."""
    return TEMPLATES.get_template("llama-server.service.j2").render(
        name=name,
        instance=instance,
        command=command(name, instance, options, model, policy),
        user=USER,
        uses_gpu=uses_gpu,
        key_file=key_file("llama_cpp", name),
        environment=instance.environment_words,
        numa_settings=policy.directives,
    )
