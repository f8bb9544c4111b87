"""Whether vLLM can serve what is declared on a host: pure functions of options, tags, models and report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from roles.common.cuda import driver_findings, python_findings, spelt
from roles.common.engine import Gpu, is_loopback
from roles.common.findings import Finding, Word
from roles.common.fit import Room, Split, Wanted, resident
from roles.common.hardware import HardwareReport
from roles.common.lock import DeclaredCard, declared_cards
from roles.common.model import Model
from roles.common.numa import numa_findings
from roles.vllm.options import VllmInstanceOptions, VllmOptions

CAPABILITY = (7, 5)
BFLOAT16 = (8, 0)
"""
Compute capabilities of NVIDIA's cards: what vLLM's kernels are built for, and what can compute with bfloat16
(https://docs.vllm.ai/en/stable/getting_started/installation/gpu/; vllm/platforms/cuda.py, check_if_supports_dtype).
"""
DRIVER = "580"
"""The first branch that runs CUDA 13 (https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/, table 3)."""
QUANTISED_AT_LOAD = (
    "fp8",
    "fp8_per_tensor",
    "fp8_per_block",
    "fp8_per_channel",
    "int8_per_channel_weight_only",
    "mxfp8",
)
"""Kinds of quantisation that take a model in 16 bit (https://docs.vllm.ai/en/stable/features/quantization/)."""

BATCHED_TOKENS = ((160, 16384), (70, 8192), (0, 2048))
"""GiB of a card -> tokens of a batch, where max_num_batched_tokens says nothing (EngineArgs.get_batch_defaults)."""
WITHOUT_HYBRID_CACHE = ("--disable-hybrid-kv-cache-manager", "--kv-transfer-config", "--kv-offloading-size")
"""Flags by which layers with a window keep all tokens, or may."""


def findings(
    options: VllmOptions,
    tags: Sequence[str],
    report: HardwareReport,
    models: Mapping[str, Model],
    driver: str | None,
) -> list[Finding]:
    """
    Return what speaks against these options on this hardware, or should be known.

    ``driver``: version or branch of NVIDIA's driver that will run here, None when not known.
    """
    if options.instances and not options.present:
        return []  # it is to go
    gpu = options.computes_on(tags)
    cards = declared_cards(tags, report, gpu)
    return [
        *_installation(options, report),
        *(_nvidia(cards, driver) if gpu == "nvidia" else []),
        *(
            finding
            for name, one in options.present.items()
            for finding in [
                *(numa_findings(report, one.numa, f"vllm/instances/{name}/numa") if isinstance(one.numa, int) else []),
                *_instance(name, one, gpu, cards, models[one.model]),
            ]
        ),
    ]


def _installation(options: VllmOptions, report: HardwareReport) -> Iterator[Finding]:
    if options.method == "container":
        return
    if report.architecture not in ("", "amd64"):
        yield Finding("vllm_architecture", "vllm/method", {"found": report.architecture})
    if options.python is None:
        yield from python_findings("vLLM", "vllm/python", report)


def _nvidia(cards: Sequence[DeclaredCard], driver: str | None) -> Iterator[Finding]:
    for card in cards:
        if (found := card.compute_capability) and found < CAPABILITY:
            words: dict[str, Word] = {"card": str(card), "found": spelt(found), "required": spelt(CAPABILITY)}
            yield Finding("vllm_capability", "tags", words)
    yield from driver_findings("vLLM", driver, DRIVER)


def _instance(
    name: str, instance: VllmInstanceOptions, gpu: Gpu, cards: Sequence[DeclaredCard], model: Model
) -> Iterator[Finding]:
    option = f"vllm/instances/{name}"
    if instance.api_key and not instance.headless and not is_loopback(instance.host):
        yield Finding("vllm_exposed", f"{option}/host", {"found": instance.host})
    heads, spread = model.attention_heads, instance.tensor_parallel
    if heads and heads % spread:
        possible = [str(number) for number in range(1, 17) if heads % number == 0]
        words: dict[str, Word] = {"found": spread, "heads": heads, "model": instance.model, "required": possible}
        yield Finding("vllm_heads", f"{option}/tensor_parallel", words)
    if gpu == "none":
        return
    chosen = instance.chosen(cards)
    if cards and instance.distributed_executor_backend != "ray" and instance.cards_here > len(chosen):
        arithmetic = f"{instance.tensor_parallel} x {instance.pipeline_parallel} x {instance.data_parallel}"
        arithmetic += f" / {len(instance.nodes)}" if instance.nodes else ""
        words = {"found": len(chosen), "required": instance.cards_here, "arithmetic": arithmetic}
        yield Finding("vllm_cards", f"{option}/tensor_parallel", words)
    for card in chosen:
        if instance.dtype == "bfloat16" and (found := card.compute_capability) and found < BFLOAT16:
            words = {"card": str(card), "found": spelt(found), "required": spelt(BFLOAT16)}
            yield Finding("vllm_bfloat16", f"{option}/dtype", words)
            break
    sizes = [card.card.vram_mib for card in chosen if card.card.vram_mib]
    if len(sizes) == len(chosen):
        wanted = Wanted(
            name,
            model,
            instance.context_length,
            key_type=_cache_type(instance),
            value_type=_cache_type(instance),
            fit=instance.fit,
            bits=_bits(instance),
            beside_window=_beside_window(instance, min(sizes, default=0)),
        )
        split = Split(instance.tensor_parallel, instance.pipeline_parallel, int(instance.cpu_offload_gb * (1 << 30)))
        room = Room(cards=tuple(size << 20 for size in sizes))
        yield from resident("vllm", wanted, room, split, instance.gpu_memory_utilization)


def _beside_window(instance: VllmInstanceOptions, vram_mib: int) -> int | None:
    """
    Return how many tokens vLLM keeps beside the window of a layer: those that it is computing.

    Its scheduler has a batch more under way than there are stages (SlidingWindowSpec, vllm/v1/kv_cache_interface.py;
    VllmConfig.max_in_flight_tokens). How large they are goes by the card (EngineArgs.get_batch_defaults); an A100, of
    which vLLM makes an exception, is counted as others of its size. Without the hybrid manager of the KV cache
    (https://docs.vllm.ai/en/stable/design/hybrid_kv_cache_manager/) all tokens are kept, and there is None.
    """
    if any(instance.flag_of(word) in WITHOUT_HYBRID_CACHE for word in instance.extra_arguments):
        return None
    usual = next(tokens for size, tokens in BATCHED_TOKENS if vram_mib >= size << 10)
    return (instance.pipeline_parallel + 1) * (instance.max_num_batched_tokens or usual)


def _cache_type(instance: VllmInstanceOptions) -> str:
    """Return the type of the KV cache for the arithmetic; what takes less than a byte is counted as one."""
    if instance.kv_cache_dtype == "auto" and instance.dtype in ("float", "float32"):
        return "f32"
    return "f16" if instance.kv_cache_dtype in ("auto", "float16", "bfloat16") else "fp8"


def _bits(instance: VllmInstanceOptions) -> float | None:
    """Return to how many bits vLLM converts a model's weights as it loads them; None for those of the files."""
    if instance.quantization in QUANTISED_AT_LOAD:
        return 8
    return 32 if instance.dtype in ("float", "float32") else None
