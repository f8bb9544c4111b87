"""Names and text of vLLM's units: pure functions of the options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from roles.common.container import Container, Mount, container_unit
from roles.common.engine import Gpu, key_file
from roles.common.hardware import HardwareReport
from roles.common.model import Model
from roles.common.numa import NumaPolicy, numa_policy
from roles.common.python import PythonEnvironment
from roles.common.rendering import templates
from roles.common.secrets import EnvironmentFile, KeyIn
from roles.common.systemd import environment_word, exec_line, unit_path
from roles.vllm.options import IMAGES, VERSION, VllmInstanceOptions, VllmOptions

ROOT = "/opt/metal2model/vllm"
USER = "vllm"
CACHES = "/var/cache/vllm"
CACHE_INSIDE = "/cache"
DOCUMENTATION = "https://docs.vllm.ai/en/stable/cli/serve/"
REQUIREMENTS = Path(__file__).parent / "files" / "requirements.txt"
NODE = Path(__file__).parent / "files" / "node.py"
NODE_PROGRAM = "/opt/metal2model/vllm-node.py"
"""NODE on the host. Not below ROOT, which is the Python environment's."""
TEMPLATES = templates(__file__)
VALUES = {
    "--max-num-seqs": "parallel", "--dtype": "dtype", "--quantization": "quantization",
    "--kv-cache-dtype": "kv_cache_dtype", "--load-format": "load_format", "--tokenizer": "tokenizer",
    "--tokenizer-mode": "tokenizer_mode", "--tensor-parallel-size": "tensor_parallel",
    "--pipeline-parallel-size": "pipeline_parallel", "--data-parallel-size": "data_parallel",
    "--distributed-executor-backend": "distributed_executor_backend",
    "--gpu-memory-utilization": "gpu_memory_utilization", "--cpu-offload-gb": "cpu_offload_gb",
    "--max-num-batched-tokens": "max_num_batched_tokens", "--block-size": "block_size",
    "--chat-template": "chat_template", "--reasoning-parser": "reasoning_parser",
    "--tool-call-parser": "tool_call_parser", "--generation-config": "generation_config", "--seed": "seed",
}  # fmt: skip
"""Flag -> the option whose value follows it; left out where that is None."""
SWITCHES = {
    "--trust-remote-code": "trust_remote_code",
    "--enable-expert-parallel": "expert_parallel",
    "--enforce-eager": "enforce_eager",
}
"""Flag -> the option that switches it on."""


def unit_name(instance: str) -> str:
    """Return the full name of an instance's unit."""
    return f"vllm@{instance}.service"


def environment_of(options: VllmOptions) -> PythonEnvironment:
    """Return the Python environment of `native`."""
    return PythonEnvironment(
        root=ROOT,
        version=VERSION,
        requirements=REQUIREMENTS.read_text(),
        role="vllm",
        python=options.python or "",
        module="vllm",
    )


def image_of(options: VllmOptions, gpu: Gpu) -> str:
    """Return the image of `container`."""
    return options.image or IMAGES[gpu]


def secrets_file(instance: str) -> str:
    """Return the path of the file from which vLLM has its key as a variable."""
    return f"/etc/metal2model/vllm/{instance}.environment"


def secrets(options: VllmOptions) -> list[EnvironmentFile]:
    """Return the files that hand each server its key: an argument would be seen by everybody on the host."""
    return [
        EnvironmentFile(path=secrets_file(name), values={"VLLM_API_KEY": [KeyIn(key_file("vllm", name))]}, owner="vllm")
        for name, instance in options.present.items()
        if instance.api_key
    ]


def reads(name: str, instance: VllmInstanceOptions, options: VllmOptions, model: Model) -> tuple[str, ...]:
    """Return what the unit reads at its start, so that a change of any of it restarts it."""
    program = [f"{ROOT}/current"] if options.method == "native" else []
    program += [NODE_PROGRAM] if instance.nodes else []
    return (
        unit_path(unit_name(name)),
        *program,
        model.path,
        *instance.paths,
        *([secrets_file(name)] if instance.api_key else []),
    )


def placement(
    instance: VllmInstanceOptions, gpu: Gpu, tags: Sequence[str], report: HardwareReport
) -> tuple[NumaPolicy, bool]:
    """Return where the server's memory and processors shall be, and whether vLLM is to place each card's process."""
    if instance.numa == "bind":
        return NumaPolicy(), True
    if instance.numa == "none":
        return NumaPolicy(), False
    policy = numa_policy(report, instance.numa, tags=tags, uses_gpu=gpu != "none")
    if policy.policy == "interleave" and gpu == "nvidia":  # its cards hang on several nodes
        return NumaPolicy(), True
    return policy, False


def arguments(name: str, instance: VllmInstanceOptions, model: Model, *, numa_bind: bool, host: str = "") -> list[str]:
    """Return the words after ``vllm`` (https://docs.vllm.ai/en/stable/cli/serve/)."""
    # Of several words, as this flag takes them, one that begins with a dash would be the next flag.
    words = ["serve", model.path, f"--served-model-name={instance.alias or name}",
             "--host", host or instance.host, "--port", str(instance.port)]  # fmt: skip
    if instance.context_length:
        words += ["--max-model-len", str(instance.context_length)]
    for flag, option in VALUES.items():
        if (value := getattr(instance, option)) is not None:
            words += [flag, str(value)]
    words += [flag for flag, option in SWITCHES.items() if getattr(instance, option)]
    if instance.prefix_caching is not None:
        words.append("--enable-prefix-caching" if instance.prefix_caching else "--no-enable-prefix-caching")
    if instance.tool_call_parser:
        words.append("--enable-auto-tool-choice")
    if instance.lora_modules:
        words += ["--enable-lora", "--max-loras", str(instance.max_loras), "--max-lora-rank",
                  str(instance.max_lora_rank), "--lora-modules"]  # fmt: skip
        words += [f"{adapter}={path}" for adapter, path in instance.lora_modules.items()]
    if instance.cors_origins:
        words += ["--allowed-origins", json.dumps(instance.cors_origins)]
    if instance.nodes and instance.node_ip_address:
        rank = instance.nodes.index(instance.node_ip_address)
        words += ["--nnodes", str(len(instance.nodes)), "--node-rank", str(rank),
                  "--master-addr", instance.nodes[0], "--master-port", str(instance.master_port)]  # fmt: skip
    if instance.headless:
        words.append("--headless")
    if numa_bind:
        words.append("--numa-bind")
    return [*words, *instance.extra_arguments]


def run_by(name: str, instance: VllmInstanceOptions) -> list[str]:
    """Return the words with which a server runs as one node of several; none where it is alone."""
    if not instance.nodes or not instance.node_ip_address:
        return []
    words = [name, instance.node_ip_address, str(instance.watch_port), *instance.nodes]
    return ["/usr/bin/python3", "-I", "-S", NODE_PROGRAM, *words, "--"]


def variables(instance: VllmInstanceOptions, cache: str, gpu: Gpu) -> dict[str, str]:
    """Return the server's environment: nothing is sent home or fetched, and all caches lie in one directory."""
    found = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HOME": cache,
        "XDG_CACHE_HOME": cache,
        "XDG_CONFIG_HOME": cache,
        "HF_HOME": f"{cache}/huggingface",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "VLLM_CONFIG_ROOT": f"{cache}/config",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "FLASHINFER_WORKSPACE_BASE": cache,
    }
    if instance.node_ip_address:
        found["VLLM_HOST_IP"] = instance.node_ip_address
    if instance.cards is not None and gpu != "none":
        chosen = ",".join(map(str, instance.cards))
        # CUDA's own order is by speed.
        found |= {"ZE_AFFINITY_MASK": chosen} if gpu == "intel" else {"CUDA_VISIBLE_DEVICES": chosen}
    if gpu == "nvidia":
        found["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return found | instance.environment


def render(
    name: str,
    instance: VllmInstanceOptions,
    options: VllmOptions,
    model: Model,
    *,
    tags: Sequence[str],
    report: HardwareReport,
    cluster: Sequence[str] = (),
) -> str:
    """
    Return the text of an instance's unit.

    ``cluster``: lines of [Service] with which a server computes on this host's Ray cluster.
    """
    gpu = options.computes_on(tags)
    policy, numa_bind = placement(instance, gpu, tags, report)
    if options.method == "container":
        return _container(name, instance, options, model, gpu=gpu, policy=policy, numa_bind=numa_bind)
    on_ray = instance.distributed_executor_backend == "ray"
    cache = f"{options.cache_directory}/{name}" if options.cache_directory else f"{CACHES}/{name}"
    words = [environment_of(options).python_path, "-P", "-m", "vllm.entrypoints.cli.main"]
    given = variables(instance, cache, gpu) | {"VLLM_RPC_BASE_PATH": f"/run/vllm/{name}"}
    # What compiles kernels is called by its name: ninja, which is in the environment, and gcc.
    given.setdefault("PATH", f"{ROOT}/current/bin:/usr/local/bin:/usr/bin:/bin")
    return TEMPLATES.get_template("vllm.service.j2").render(
        name=name,
        instance=instance,
        command=exec_line([*run_by(name, instance), *words, *arguments(name, instance, model, numa_bind=numa_bind)]),
        user_settings=cluster if on_ray else ["DynamicUser=yes", f"User={USER}"],
        on_ray=on_ray,
        cache=cache if options.cache_directory else "",
        secrets=secrets_file(name) if instance.api_key else "",
        environment=[environment_word(key, value) for key, value in sorted(given.items())],
        numa_settings=policy.directives,
        peers=_peers(instance),
    )


def _peers(instance: VllmInstanceOptions) -> list[str]:
    """Return whom alone the server's processes may talk with: what runs on other nodes is not asked for a key."""
    return ["localhost", *instance.nodes] if instance.nodes and instance.host.startswith("127.") else []


def _container(
    name: str,
    instance: VllmInstanceOptions,
    options: VllmOptions,
    model: Model,
    *,
    gpu: Gpu,
    policy: NumaPolicy,
    numa_bind: bool,
) -> str:
    # Nodes meet on ports of their own choice; one server alone is shown to the host by one port.
    alone = not instance.nodes
    settings = [f"--shm-size={options.shared_memory_gib}g", "--ulimit=memlock=-1", "--entrypoint=vllm"]
    settings += [f"--volume={options.cache_directory or CACHES}/{name}:{CACHE_INSIDE}"]  # docker makes the directory
    settings += ["--cap-add=SYS_NICE"] if numa_bind else []  # set_mempolicy(2)
    settings += [f"--cpuset-cpus={policy.cpu_affinity}"] if policy.cpu_affinity else []
    settings += [f"--cpuset-mems={policy.mask}"] if policy.policy == "bind" else []
    given = variables(instance, CACHE_INSIDE, gpu)
    # Of the cards that it is given, the container counts its own.
    given = {key: value for key, value in given.items() if key != "CUDA_VISIBLE_DEVICES"}
    cards: Mapping[Gpu, Sequence[str]] = {
        "nvidia": [f"nvidia.com/gpu={number}" for number in instance.cards or ("all",)],
        "intel": ["/dev/dri"],
        "none": [],
    }
    inherited = [name for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name not in given]
    settings += [] if alone else [f"--env={name}" for name in inherited]  # node.py knows them
    container = Container(
        name=f"vllm-{name}",
        image=image_of(options, gpu),
        arguments=arguments(name, instance, model, numa_bind=numa_bind, host="0.0.0.0" if alone else ""),
        publish=(instance.host, instance.port or 0, instance.port or 0) if alone else None,
        environment=given,
        secrets=secrets_file(name) if instance.api_key else "",
        mounts=[Mount(path, path) for path in dict.fromkeys([model.path, *instance.paths])],
        devices=cards[gpu],
        options=settings,
        run_by=run_by(name, instance),
    )
    return container_unit(
        container,
        role="vllm",
        option=f"vllm/instances/{name}",
        description=f"vLLM server {name} ({instance.model})",
        documentation=DOCUMENTATION,
        settings=[] if alone else ["RestrictAddressFamilies=AF_INET"],
    )
