"""Names and text of KTransformers' units: pure functions of the options."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from roles.common.engine import key_file
from roles.common.hardware import HardwareReport
from roles.common.model import Model
from roles.common.python import PythonEnvironment
from roles.common.rendering import templates
from roles.common.systemd import environment_word, exec_line, unit_path
from roles.ktransformers.options import VERSION, KTransformersInstanceOptions, KTransformersOptions, method_of

ROOT = "/opt/metal2model/ktransformers"
REQUIREMENTS = Path(__file__).parent / "files" / "requirements.txt"
TEMPLATES = templates(__file__)
VALUES = {
    "--kt-max-deferred-experts-per-token": "deferred_experts",
    "--kt-gpu-prefill-token-threshold": "gpu_prefill_tokens",
    "--attention-backend": "attention_backend",
    "--chunked-prefill-size": "chunked_prefill_tokens",
}
"""Flag -> the option whose value follows it; left out where that is None."""


def unit_name(instance: str) -> str:
    """Return the full name of an instance's unit."""
    return f"ktransformers@{instance}.service"


def environment_of(options: KTransformersOptions) -> PythonEnvironment:
    """Return its Python environment."""
    return PythonEnvironment(
        root=ROOT,
        version=VERSION,
        requirements=REQUIREMENTS.read_text(),
        role="ktransformers",
        python=options.python or "",
        module="kt_kernel",
    )


def reads(name: str, instance: KTransformersInstanceOptions, model: Model, experts: Model) -> tuple[str, ...]:
    """Return what the unit reads at its start, so that a change of any of it restarts it."""
    key = [key_file("ktransformers", name)] if instance.api_key else []
    return (unit_path(unit_name(name)), f"{ROOT}/current", *dict.fromkeys([model.path, experts.path]), *key)


def weight_path(experts: Model) -> str:
    """Return what ``--kt-weight-path`` takes: the directory, for a split GGUF lies in several files of one."""
    return str(PurePosixPath(experts.path).parent) if experts.format == "gguf" else experts.path


def arguments(
    name: str, instance: KTransformersInstanceOptions, model: Model, experts: Model, report: HardwareReport
) -> list[str]:
    """
    Return the words after ``python -m sglang.launch_server``.

    https://ktransformers.net/en/docs/optimization-techniques/server-arguments: threads are the physical cores, and one
    pool of them for each NUMA node binds itself to it.
    """
    nodes = [node.index for node in report.nodes if node.cpus and node.memory_mib] or [0]
    words = ["--model-path", model.path, "--served-model-name", instance.alias or name,
             "--host", instance.host, "--port", str(instance.port),
             "--max-running-requests", str(instance.parallel),
             "--tensor-parallel-size", str(instance.tensor_parallel),
             "--mem-fraction-static", str(instance.gpu_memory_utilization),
             "--kt-method", method_of(instance), "--kt-weight-path", weight_path(experts),
             "--kt-cpuinfer", str(instance.cpu_threads or report.cpu.cores or 1),
             "--kt-threadpool-count", str(len(nodes)), "--kt-num-gpu-experts", str(instance.gpu_experts)]  # fmt: skip
    if nodes != list(range(len(nodes))):
        words += ["--kt-numa-nodes", *map(str, nodes)]
    if instance.context_length:
        words += ["--context-length", str(instance.context_length)]
    for flag, option in VALUES.items():
        if (value := getattr(instance, option)) is not None:
            words += [flag, str(value)]
    if not instance.shared_experts_fusion:
        words.append("--disable-shared-experts-fusion")
    if instance.trust_remote_code:
        words.append("--trust-remote-code")
    if instance.api_key:
        # What it says at "info" begins with all its arguments, the key among them.
        words += ["--log-level", "warning"]
    return [*words, *instance.extra_arguments]


def render(
    name: str,
    instance: KTransformersInstanceOptions,
    options: KTransformersOptions,
    *,
    model: Model,
    experts: Model,
    report: HardwareReport,
) -> str:
    """Return the text of an instance's unit."""
    cache = f"/var/cache/ktransformers/{name}"
    directory = f"/run/ktransformers/{name}"
    given = {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "HOME": cache,
        "XDG_CACHE_HOME": cache,
        "HF_HOME": f"{cache}/huggingface",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "FLASHINFER_WORKSPACE_BASE": cache,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # What compiles kernels is called by its name: ninja, which is in the environment, and gcc.
        "PATH": f"{ROOT}/current/bin:/usr/local/bin:/usr/bin:/bin",
        **instance.environment,
    }
    words = [environment_of(options).python_path, "-P", "-m", "sglang.launch_server"]
    config = ["--config", f"{directory}/key.yaml"] if instance.api_key else []
    return TEMPLATES.get_template("ktransformers.service.j2").render(
        name=name,
        instance=instance,
        command=exec_line([*words, *config, *arguments(name, instance, model, experts, report)]),
        key_file=key_file("ktransformers", name),
        directory=directory,
        environment=[environment_word(key, value) for key, value in sorted(given.items())],
    )
