"""Options of the vllm role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from posixpath import normpath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roles.common.container import ImageReference, cannot_mount
from roles.common.engine import EngineOptions, Gpu, InstanceOptions
from roles.common.fit import Claim
from roles.common.hardware import HardwareReport
from roles.common.lock import DeclaredCard, declared_cards, vendors_of
from roles.common.model import Model, ModelFormat
from roles.common.options import InstanceName, OptionProblem
from roles.common.systemd import hidden_from_units

VERSION = "0.33.0"
"""What is installed, and what every flag was read from: tests/upstream holds our command lines against this one."""

IMAGES: Mapping[Gpu, str] = {
    "nvidia": f"vllm/vllm-openai:v{VERSION}",
    "intel": f"vllm/vllm-openai-xpu:v{VERSION}",
    "none": f"vllm/vllm-openai-cpu:v{VERSION}",
}
"""Upstream's images, by whose cards they compute on (https://docs.vllm.ai/en/stable/deployment/docker/)."""

Quantization = Literal[
    "awq", "auto_awq", "fp8", "modelopt", "modelopt_fp4", "modelopt_mxfp8", "modelopt_mixed", "auto_gptq", "gptq",
    "gptq_marlin", "awq_marlin", "humming", "compressed-tensors", "experts_int8", "quark", "moe_wna16", "torchao",
    "inc", "mxfp4", "gpt_oss_mxfp4", "deepseek_v4_fp8", "online", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel",
    "int8_per_channel_weight_only", "nvfp4_per_token", "mxfp8",
]  # fmt: skip
CacheType = Literal[
    "auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc", "fp8_ds_mla", "nvfp4_ds_mla",
    "turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc", "octave_k3v4", "octave_k3v3",
    "octave_k3v3_compact", "ultraquant_4bit", "int4_per_token_head", "int8_per_token_head", "fp8_per_token_head",
    "nvfp4", "nvfp4_4over6",
]  # fmt: skip
LoadFormat = Literal[
    "auto", "hf", "dummy", "fastsafetensors", "instanttensor", "ipc_cache", "mistral", "modelexpress", "npcache", "pt",
    "runai_streamer", "runai_streamer_sharded", "safetensors", "sharded_state", "tensorizer",
]  # fmt: skip
TokenizerMode = Literal[
    "auto", "hf", "alpamayo2_super", "mistral", "deepseek_v32", "deepseek_v4", "inkling", "kimi_k3", "cohere"
]
ReasoningParser = Literal[
    "beam", "cohere_command3", "cohere_command4", "deepseek_r1", "deepseek_v3", "deepseek_v4", "deepseek_v41",
    "ernie45", "gemma4", "glm45", "glm47", "granite", "granite_thinking_parser", "hf", "holo2", "hunyuan_a13b", "hy_v3",
    "hy_v4", "inkling", "k2_horizon", "kimi_k2", "kimi_k3", "ling3", "mimo", "minicpmv", "minimax_m2",
    "minimax_m2_append_think", "minimax_m3", "mistral", "muse", "muse_glimmer", "musespark1x", "nemotron_v3", "olmo3",
    "openai_gptoss", "plamo3", "poolside_v1", "qwen3", "seed_oss", "step3", "step3p5", "step5",
]  # fmt: skip
ToolCallParser = Literal[
    "apertus", "beam", "cohere_command3", "cohere_command4", "deepseek_v3", "deepseek_v31", "deepseek_v32",
    "deepseek_v4", "deepseek_v41", "dots", "ernie45", "functiongemma", "gemma4", "gigachat3", "glm45", "glm47",
    "granite", "granite-20b-fc", "granite4", "hermes", "hf", "hunyuan_a13b", "hy_v3", "hy_v4", "inkling", "internlm",
    "jamba", "k2_horizon", "kimi_k2", "kimi_k3", "lfm2", "ling3", "llama3_json", "llama4_json", "llama4_pythonic",
    "longcat", "mimo", "minicpm5", "minimax_m2", "minimax_m3", "mistral", "muse", "muse_glimmer", "musespark1x",
    "olmo3", "openai", "phi4_mini_json", "plamo3", "poolside_v1", "pythonic", "qwen3_coder", "qwen3_json", "qwen3_xml",
    "seed_oss", "step3", "step3p5", "step5", "xlam",
]  # fmt: skip

RESERVED_ARGUMENTS = {
    "--model": "model", "--served-model-name": "alias", "--host": "host", "--port": "port", "--api-key": "api_key",
    "--max-model-len": "context_length", "--max-num-seqs": "parallel", "--dtype": "dtype",
    "--quantization": "quantization", "-q": "quantization", "--kv-cache-dtype": "kv_cache_dtype",
    "--load-format": "load_format", "--tokenizer": "tokenizer", "--tokenizer-mode": "tokenizer_mode",
    "--trust-remote-code": "trust_remote_code", "--no-trust-remote-code": "trust_remote_code",
    "--tensor-parallel-size": "tensor_parallel", "-tp": "tensor_parallel",
    "--pipeline-parallel-size": "pipeline_parallel", "-pp": "pipeline_parallel",
    "--data-parallel-size": "data_parallel", "-dp": "data_parallel",
    "--enable-expert-parallel": "expert_parallel", "--no-enable-expert-parallel": "expert_parallel",
    "--disable-expert-parallel": "expert_parallel", "-ep": "expert_parallel",
    "--distributed-executor-backend": "distributed_executor_backend", "--nnodes": "nodes", "-n": "nodes",
    "--node-rank": "nodes", "-r": "nodes", "--master-addr": "nodes", "--headless": "nodes",
    "--master-port": "master_port", "--gpu-memory-utilization": "gpu_memory_utilization",
    "--device-memory-utilization": "gpu_memory_utilization", "--cpu-offload-gb": "cpu_offload_gb",
    "--max-num-batched-tokens": "max_num_batched_tokens", "--block-size": "block_size",
    "--enforce-eager": "enforce_eager", "--no-enforce-eager": "enforce_eager",
    "--enable-prefix-caching": "prefix_caching", "--no-enable-prefix-caching": "prefix_caching",
    "--disable-prefix-caching": "prefix_caching", "--enable-lora": "lora_modules", "--no-enable-lora": "lora_modules",
    "--disable-lora": "lora_modules", "--lora-modules": "lora_modules", "--max-loras": "max_loras",
    "--max-lora-rank": "max_lora_rank", "--chat-template": "chat_template", "--reasoning-parser": "reasoning_parser",
    "--tool-call-parser": "tool_call_parser", "--enable-auto-tool-choice": "tool_call_parser",
    "--no-enable-auto-tool-choice": "tool_call_parser", "--disable-auto-tool-choice": "tool_call_parser",
    "--generation-config": "generation_config", "--seed": "seed", "--allowed-origins": "cors_origins",
    "--numa-bind": "numa", "--no-numa-bind": "numa", "--device-ids": "cards",
}  # fmt: skip
"""Flags of `vllm serve` that an option of this role already sets -> that option."""

NO_SWAP = (
    "preempted requests are computed again; write extra_arguments: ['--kv-offloading-size', '8'] to keep 8 GiB of KV "
    "cache in main memory, or cpu_offload_gb for weights"
)
NO_PROMPT_ADAPTERS = "prompt adapters are gone; use LoRA adapters, lora_modules"
REMOVED_ARGUMENTS = {
    "--swap-space": NO_SWAP,
    "--preemption-mode": NO_SWAP,
    "--enable-prompt-adapter": NO_PROMPT_ADAPTERS,
    "--max-prompt-adapters": NO_PROMPT_ADAPTERS,
    "--max-prompt-adapter-token": NO_PROMPT_ADAPTERS,
    "--device": "a wheel or an image is made for one kind of device; write gpu and method of the role",
    "--task": "write extra_arguments: ['--runner', 'pooling'], or leave it out for a model that generates",
    "--enable-reasoning": "write reasoning_parser alone",
    "--guided-decoding-backend": """write extra_arguments: ['--structured-outputs-config', '{"backend": "auto"}']""",
    "--rope-scaling": """write extra_arguments: ['--hf-overrides', '{"rope_parameters": {...}}']""",
    "--rope-theta": """write extra_arguments: ['--hf-overrides', '{"rope_parameters": {...}}']""",
    "--max-seq-len-to-capture": "write extra_arguments: ['--max-cudagraph-capture-size', '512']",
    "--max-context-len-to-capture": "write extra_arguments: ['--max-cudagraph-capture-size', '512']",
    "--num-scheduler-steps": "one step at a time is scheduled, and loses nothing by it; remove it",
    "--multi-step-stream-outputs": "one step at a time is scheduled, and loses nothing by it; remove it",
    "--use-v2-block-manager": "there is one block manager; remove it",
    "--worker-use-ray": "write distributed_executor_backend: 'ray'",
    "--quantization-param-path": "scales of the KV cache stand in the model's own files; remove it",
}
"""Flags that `vllm serve` no longer has -> what to do instead."""

REFUSED_ENVIRONMENT = {
    "VLLM_SERVER_DEV_MODE": "it opens endpoints that run code and reset the server, and no key guards them; remove it",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "whoever reaches the workers could run programs here by it; remove it",
    "VLLM_API_KEY": "write api_key, and put a key of your own into /etc/metal2model/vllm/NAME.key on the host",
    "VLLM_HOST_IP": "write node_ip_address",
    "CUDA_VISIBLE_DEVICES": "write cards",
    "ZE_AFFINITY_MASK": "write cards",
    "VLLM_CACHE_ROOT": "write cache_directory, of the role",
    "HF_HOME": "write cache_directory, of the role",
}
"""Environment variables that an instance must not have -> what to do instead."""


def _node(text: str) -> str:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise ValueError(f"{text!r} is no IPv4 address; write that of a card in the nodes' own network") from None
    if address.is_unspecified or address.is_loopback or address.is_global:
        raise ValueError(
            f"{text!r} cannot be a node's: vLLM encrypts nothing between its nodes, and whoever reaches them can run "
            "programs there; write an address of a private network that only they share"
        )
    return text


Node = Annotated[str, AfterValidator(_node)]
HostPath = Annotated[str, Field(pattern=r"^/[^,=\s]+$")]
"""A file or directory of the host, whose name vLLM's lists and docker's mounts can hold."""

SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")


def _for_caches(path: str) -> str:
    """Refuse a directory of the system's: root makes it, and gives it and all that is in it to the server's user."""
    plain = normpath(path)
    if hidden := hidden_from_units(plain):
        raise ValueError(f"{path!r}: the unit cannot see {hidden} (ProtectHome, PrivateTmp); put it below /srv or /var")
    if taken := next((one for one in SYSTEM if f"{plain}/".startswith(f"{one}/")), None):
        raise ValueError(f"{path!r}: {taken} is the system's; put it below /srv, /var or a disk of your own")
    return path


CacheDirectory = Annotated[str, Field(pattern=r'^/[^,=:\s%$"\\]+[^,=:\s%$"\\/]$'), AfterValidator(_for_caches)]


class VllmInstanceOptions(InstanceOptions):
    """One vLLM server: one model on one port, in its own unit ``vllm@NAME.service``."""

    program: ClassVar[str] = "vllm serve"
    reserved_arguments: ClassVar[Mapping[str, str]] = RESERVED_ARGUMENTS
    removed_arguments: ClassVar[Mapping[str, str]] = REMOVED_ARGUMENTS
    advice: ClassVar[dict[str, str]] = {
        "max_model_len": "write context_length",
        "ctx_size": "write context_length",
        "max_num_seqs": "write parallel",
        "served_model_name": "write alias",
        "tensor_parallel_size": "write tensor_parallel",
        "pipeline_parallel_size": "write pipeline_parallel",
        "data_parallel_size": "write data_parallel",
        "enable_expert_parallel": "write expert_parallel",
        "enable_prefix_caching": "write prefix_caching",
        "enable_lora": "write lora_modules, which switches it on",
        "enable_auto_tool_choice": "write tool_call_parser, which switches it on",
        "allowed_origins": "write cors_origins",
        "numa_bind": "write numa: 'bind'",
        "gpu_layers": "vLLM keeps the whole model on the cards; write cpu_offload_gb for what does not fit",
        "threads": "vLLM computes on cards; write it for llama_cpp",
        "revision": "the model is a directory of the host by now; write models/wanted/NAME/revision",
        "download_dir": "models are the models role's; write models/directory",
        "swap_space": f"vLLM no longer has it: {NO_SWAP}",
        "enable_prompt_adapter": f"vLLM no longer has it: {NO_PROMPT_ADAPTERS}",
        "device": "a wheel or an image is made for one kind of device; write vllm/gpu and vllm/method",
        "nnodes": "write nodes, the addresses of all of them",
        "node_rank": "it is the place of node_ip_address in nodes",
        "master_addr": "write nodes, the head's address first",
        "api_key_file": "the key is in /etc/metal2model/vllm/NAME.key on the host; write api_key: True or False",
    }

    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    """Type of weights that are not quantised, and of what is computed. `auto`: the model's, or what the card can."""

    quantization: Quantization | None = None
    """How the weights are quantised. None: as the model's files say; one of the online kinds quantises at loading."""

    kv_cache_dtype: CacheType = "auto"
    """Type of the KV cache; `fp8` takes half the memory."""

    load_format: LoadFormat = "auto"
    """How the weights are read."""

    tokenizer: HostPath | None = None
    """Directory on the host with another tokenizer than the model's."""

    tokenizer_mode: TokenizerMode = "auto"
    """Whose tokenizer reads the model's files."""

    trust_remote_code: bool = False
    """Run Python code that lies beside the model. Only for models whose files you have read."""

    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    """Cards that share each layer. It must divide the model's attention heads."""

    pipeline_parallel: Annotated[int, Field(ge=1)] = 1
    """Groups of cards that take successive layers; between hosts, where the network is slower than a bus."""

    data_parallel: Annotated[int, Field(ge=1)] = 1
    """Copies of the model behind one port, each with cards of its own."""

    expert_parallel: bool = False
    """Spread whole experts over the cards, instead of a part of each: models that are mixtures of experts."""

    distributed_executor_backend: Literal["mp", "ray"] | None = None
    """
    Who starts the workers: vLLM itself (`mp`), or a Ray cluster, which the role `ray` runs on all of its hosts; the
    instance then stands on the head alone, and method is `native`. None: vLLM itself.
    """

    nodes: list[Node] = []
    """
    Addresses of the hosts that share the model without Ray, the head's first; the same list, and the same name of the
    instance, on each. The head answers, the others compute; when one goes, all begin anew. Empty: this host alone.
    """

    node_ip_address: Node | None = None
    """This host's address among `nodes`."""

    master_port: Annotated[int, Field(ge=1024, le=65534)] = 29501
    """First of two ports of the head, one after the other: the nodes meet there, and learn when one of them goes."""

    cards: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Which of the host's cards, counted by their PCI addresses as nvidia-smi does. None: all."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.92
    """
    Share of each card's memory that this server takes, weights, KV cache and all; without cards, of the memory of a
    NUMA node.
    """

    cpu_offload_gb: Annotated[float, Field(ge=0)] = 0.0
    """GiB of weights for each card that stay in main memory; slow."""

    max_num_batched_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens that one step computes. None: vLLM's choice by card."""

    block_size: Annotated[int, Field(ge=16, multiple_of=16)] | None = None
    """Tokens in a block of the KV cache. None: the attention kernel's choice."""

    enforce_eager: bool = False
    """Neither compile nor capture graphs: a faster start, slower answers."""

    prefix_caching: bool | None = None
    """Keep the KV cache of common beginnings of prompts. None: vLLM's default for the model."""

    lora_modules: dict[InstanceName, HostPath] = {}
    """LoRA adapters: model name in the API -> directory on the host."""

    max_loras: Annotated[int, Field(ge=1)] = 1
    """Adapters in one batch."""

    max_lora_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = 16
    """Largest rank among the adapters."""

    chat_template: HostPath | None = None
    """File on the host with a chat template. None: the model's."""

    reasoning_parser: ReasoningParser | None = None
    """Which model's way of marking thoughts is taken apart: `deepseek_r1`, `qwen3`, ..."""

    tool_call_parser: ToolCallParser | None = None
    """Which model's way of calling tools is understood: `hermes`, `qwen3_coder`, ... None: no tools."""

    generation_config: Literal["auto", "vllm"] | HostPath = "auto"
    """Default temperature and such: `auto` from the model, `vllm` vLLM's own, or a directory on the host."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of random numbers."""

    numa: Literal["auto", "none", "bind"] | Annotated[int, Field(ge=0)] = "auto"
    """
    On a host with several NUMA nodes: `bind` has vLLM run each card's process beside its card, a number binds the
    whole server to that node. `auto`, with the tag `numa`: the node of the cards, where one node has them all; else
    `bind`.
    """

    cors_origins: list[str] = []
    """Origins of web pages that may call the API from a browser. Empty: none."""

    @property
    def meeting_ports(self) -> list[int]:
        """Ports of the head that the nodes need."""
        return [self.master_port, self.watch_port] if self.nodes else []

    @property
    def watch_port(self) -> int:
        """Port of the head by which nodes notice each other's end."""
        return self.master_port + 1

    @property
    def headless(self) -> bool:
        """Whether this host only computes, and another one answers."""
        return bool(self.nodes) and self.node_ip_address != self.nodes[0]

    def chosen(self, cards: Sequence[DeclaredCard]) -> list[DeclaredCard]:
        """Return those of the host's cards that it may compute on."""
        if self.cards is None:
            return list(cards)
        return [cards[number] for number in self.cards if number < len(cards)]

    @property
    def cards_here(self) -> int:
        """How many cards of this host it needs."""
        everywhere = self.tensor_parallel * self.pipeline_parallel * self.data_parallel
        return everywhere // len(self.nodes) if self.nodes else everywhere

    @property
    def paths(self) -> list[str]:
        """Files and directories of the host that it reads beside its model."""
        optional = [self.tokenizer, self.chat_template]
        if self.generation_config not in ("auto", "vllm"):
            optional.append(self.generation_config)
        return [*self.lora_modules.values(), *(path for path in optional if path)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.environment:
            if instead := REFUSED_ENVIRONMENT.get(name):
                raise OptionProblem("environment", f"{name} is refused: {instead}")
        for path in self.paths:
            if hidden := hidden_from_units(path):
                names = [name for name, value in self if value == path]
                option = names[0] if names else "lora_modules"
                raise OptionProblem(option, f"is {path}, and the unit cannot see {hidden}; move it below /srv or /opt")
        if self.cards and len(set(self.cards)) < len(self.cards):
            raise OptionProblem("cards", f"{self.cards} name a card twice; write each once")
        if self.max_num_batched_tokens and self.max_num_batched_tokens < self.parallel:
            raise OptionProblem(
                "max_num_batched_tokens",
                f"{self.max_num_batched_tokens} tokens in a step, and {self.parallel} requests (parallel) that want one"
                " each; raise the one or lower the other",
            )
        return self

    @model_validator(mode="after")
    def _nodes_agree(self) -> Self:
        if not self.nodes:
            if self.node_ip_address:
                raise OptionProblem("node_ip_address", "has no effect without nodes; write those, or remove it")
            return self
        if self.distributed_executor_backend == "ray":
            raise OptionProblem("nodes", "Ray has its own list, ray/nodes; remove this one")
        if self.node_ip_address not in self.nodes:
            raise OptionProblem("node_ip_address", f"{self.node_ip_address!r} is not among nodes; write this host's")
        if len(self.nodes) < 2 or len(set(self.nodes)) < len(self.nodes):
            raise OptionProblem("nodes", "write two or more addresses, each once; one host alone needs none")
        if self.data_parallel > 1:
            raise OptionProblem(
                "data_parallel", "copies over several hosts are not made here; run one instance on each, behind a proxy"
            )
        cards = self.tensor_parallel * self.pipeline_parallel
        if cards % len(self.nodes):
            raise OptionProblem(
                "nodes",
                f"{cards} cards (tensor_parallel x pipeline_parallel) cannot be shared evenly by {len(self.nodes)} "
                f"hosts; write pipeline_parallel: {len(self.nodes)}",
            )
        return self


class VllmOptions(EngineOptions):
    """vLLM's OpenAI-compatible server, one systemd unit for each named instance."""

    formats: ClassVar[frozenset[ModelFormat]] = frozenset({"safetensors"})
    advice: ClassVar[dict[str, str]] = {
        "version": f"flags are checked for {VERSION} alone; write image, of the same version, to run another build",
        "torch_backend": "it is CUDA 13's, of the pinned PyTorch; write image for another",
    }

    method: Literal["native", "container"] = "native"
    """
    `native`: PyPI's wheel, for NVIDIA's cards, in a Python environment of its own: about 10 GB in /opt.
    `container`: upstream's image, under docker, for NVIDIA's and Intel's cards and for processors.
    """

    gpu: Gpu | None = None
    """Whose cards it computes on; `none` for processors, which only the container can. None: those of the tags."""

    image: ImageReference | None = None
    """
    What `container` runs. None: upstream's image of the version that the flags are checked for. For Intel's B60 and
    B70 `intel/llm-scaler-vllm:VERSION` is made, for instance; its entry point must know `vllm serve`.
    """

    python: Annotated[str, Field(pattern=r"^(3\.1[1-4]|/\S+)$")] | None = None
    """
    Python of `native`, 3.11 to 3.14: a version, which uv finds on the host or downloads, or a path. None: the host's;
    Ubuntu 22.04's is too old.
    """

    cache_directory: CacheDirectory | None = None
    """
    Where compiled kernels and graphs are kept, some GB for each model; a directory on another disk than the system's.
    None: /var/cache/vllm.
    """

    shared_memory_gib: Annotated[int, Field(ge=1)] = 16
    """Of `container`: the most that its processes may share (`--shm-size`)."""

    instances: Mapping[InstanceName, VllmInstanceOptions] = {}
    """The servers, by name."""

    @model_validator(mode="after")
    def _method_can(self) -> Self:
        if self.method == "native":
            if self.image:
                raise OptionProblem("image", "has no effect with method: 'native'; write method: 'container'")
            if self.gpu in ("intel", "none"):
                raise OptionProblem("gpu", f"{self.gpu!r}: PyPI's wheel is for NVIDIA; write method: 'container'")
            return self
        if self.python:
            raise OptionProblem("python", "has no effect with method: 'container'; remove it")
        for name, instance in self.present.items():
            if instance.distributed_executor_backend == "ray":
                raise OptionProblem(
                    f"instances/{name}/distributed_executor_backend",
                    "'ray' needs method: 'native': Ray's workers run in the environment that the host has",
                )
        return self

    @model_validator(mode="after")
    def _nodes_meet_apart(self) -> Self:
        taken: dict[tuple[str, int], str] = {}
        for name, one in self.present.items():
            for port in one.meeting_ports:
                other = taken.setdefault((one.nodes[0], port), name)
                if other != name:
                    raise OptionProblem(
                        f"instances/{name}/master_port",
                        f"port {port} of {one.nodes[0]} is that of instance {other!r}, too, and each takes master_port "
                        "and the port after it; write another, the same on all of its nodes",
                    )
        return self

    @property
    def present(self) -> dict[str, VllmInstanceOptions]:
        """The servers that are to run."""
        return {name: one for name, one in self.instances.items() if one.present}

    @property
    def installed(self) -> bool:
        """Whether vLLM is to be here: for servers, or, where none was ever declared, for the workers of a cluster."""
        return bool(self.present) or not self.instances

    @property
    def uses_ray(self) -> bool:
        """Whether an instance computes on a Ray cluster."""
        return any(one.distributed_executor_backend == "ray" for one in self.present.values())

    @property
    def needs_docker(self) -> str:
        """The option by which this role runs containers; "" when it does not."""
        return "method" if self.method == "container" else ""

    def cannot_serve(self, model: Model) -> str | None:
        """Return what is wrong with a model for vLLM."""
        return super().cannot_serve(model) or (cannot_mount(model.path) if self.method == "container" else None)

    def check_tags(self, tags: Sequence[str]) -> None:
        """Raise `OptionProblem` where no card is declared that the wheel could compute on."""
        if self.method == "native" and self.present and self.computes_on(tags) != "nvidia":
            raise OptionProblem(
                "method",
                f"'native' is PyPI's wheel, which computes on NVIDIA's cards, and the tags are {', '.join(tags)}; "
                "write method: 'container', whose images are for Intel's cards and for processors as well, or serve "
                "the model by llama_cpp",
            )

    def computes_on(self, tags: Sequence[str]) -> Gpu:
        """Return whose cards it computes on."""
        if self.gpu:
            return self.gpu
        vendors = vendors_of(tags)
        return "nvidia" if "nvidia" in vendors else "intel" if "intel" in vendors else "none"

    def claims(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Claim]:
        """Return the share of each card that its servers take at their start; which ones Ray takes, it knows alone."""
        cards = declared_cards(tags, report, self.computes_on(tags))
        return [
            Claim(
                f"vllm/instances/{name}",
                {
                    card.controller.address: one.gpu_memory_utilization * ((card.card.vram_mib or 0) << 20)
                    for card in one.chosen(cards)[: one.cards_here]
                },
                one.fit,
                memory_bytes=(
                    _of_nodes(one, report)
                    if self.computes_on(tags) == "none"
                    else one.cpu_offload_gb * (1 << 30) * one.cards_here
                ),
            )
            for name, one in self.present.items()
            if one.distributed_executor_backend != "ray"
        ]

    def listeners(self) -> list[tuple[str, int]]:
        """Return the TCP ports that this takes on the host, each with the path of its option below the role."""
        found = []
        for name, one in self.present.items():
            if not one.headless:
                found += [(f"instances/{name}/port", one.port or 0)]
                found += [(f"instances/{name}/master_port", port) for port in one.meeting_ports]
        return found


def _of_nodes(one: VllmInstanceOptions, report: HardwareReport) -> float:
    """Return what a server takes of the memory of the NUMA nodes that it computes on, one for each "card"."""
    if "VLLM_CPU_KVCACHE_SPACE" in one.environment:
        return 0  # it is so many GiB then, and what the model needs
    nodes = max(len(report.nodes), 1)
    return one.gpu_memory_utilization * (report.memory_mib << 20) / nodes * min(one.cards_here, nodes)
