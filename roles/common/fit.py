"""Whether models fit into memory: the arithmetic, printed so that a person can check it. Explained in docs/fit.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from roles.common.findings import Finding, Word
from roles.common.hardware import HardwareReport
from roles.common.lock import DeclaredCard, declared_cards
from roles.common.model import Embedding, Layers, Model, catalogue

FitChoice = Literal["error", "warn", "off"]
"""What is done about a model that does not fit; see `InstanceOptions.fit`."""

OVERHEAD_BYTES = 1 << 30
"""What llama.cpp needs beside weights and KV cache: buffers for computing, the CUDA context, the program."""

VLLM_OVERHEAD_BYTES = 2 << 30
"""What vLLM and its like need of a card beside them: activations of the largest batch, NCCL, the CUDA context."""

USABLE = 0.92
"""Share of a card's memory that can be filled; the rest is the driver's and the desktop's."""

SHORTEST_CONTEXT = 1024
"""Tokens below which no context is suggested: nobody is served by less."""
CONTEXT_STEP = 256
"""llama.cpp pads the context, and what it keeps beside a window, to a multiple of this; a suggestion is one."""

CACHE_BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
    "q4_0": 18 / 32, "iq4_nl": 18 / 32, "fp8": 1.0,
}  # fmt: skip
"""Type of the KV cache -> bytes for each element (block sizes of ggml/src/ggml-common.h; fp8 is vLLM's)."""


@dataclass(frozen=True)
class Kept:
    """Layers of a KV cache that keep equally many tokens."""

    tokens: int
    token_bytes: float
    """What each takes in all of these layers together."""


@dataclass(frozen=True)
class Demand:
    """Memory that one server needs; of each of its cards, if there are several with an equal share."""

    name: str
    weights_bytes: int
    cache: Sequence[Kept] | None
    """None when not known, and then nothing is counted."""
    overhead_bytes: int = OVERHEAD_BYTES

    @property
    def kv_cache_bytes(self) -> int:
        """All of the KV cache."""
        return sum(int(kept.tokens * kept.token_bytes) for kept in self.cache or ())

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_cache_bytes + self.overhead_bytes

    @property
    def held_bytes(self) -> int:
        """What cannot be dropped and read again from the file, as mapped weights can."""
        return self.kv_cache_bytes + self.overhead_bytes

    def __str__(self) -> str:
        """Spell the sum: "r1: 4.4 GiB weights + 0.2 GiB KV cache + 1.0 GiB overhead, for 4096 tokens of 56.0 KiB"."""
        weights, overhead = gib(self.weights_bytes), gib(self.overhead_bytes)
        if self.cache is None:
            return f"{self.name}: {weights} weights + unknown KV cache + {overhead} overhead"
        if not self.cache:
            return f"{self.name}: {weights} weights + {overhead} overhead"
        tokens = " and ".join(f"{kept.tokens} tokens of {kept.token_bytes / 1024:.1f} KiB" for kept in self.cache)
        return (
            f"{self.name}: {weights} weights + {gib(self.kv_cache_bytes)} KV cache + {overhead} overhead, for {tokens}"
        )


@dataclass(frozen=True)
class Wanted:
    """A model as an instance of an engine wants to serve it."""

    name: str
    """Of the instance."""
    model: Model
    context_length: int
    """Tokens of one request; 0 for what the model was trained with."""
    parallel: int = 1
    key_type: str = "f16"
    value_type: str = "f16"
    fit: FitChoice = "error"
    gpu_layers: int | Literal["auto", "all"] = "auto"
    maps_weights: bool = True
    """Weights stay in their file, and memory has of them what it has room for (mmap)."""
    bits: float | None = None
    """Of one weight, with its part of the scales, where the engine converts them as it loads. None: as in the files."""
    experts_in_memory: bool = False
    """Experts, or some of them, stay with the processors whatever `gpu_layers` says, as by llama.cpp's --cpu-moe."""
    cache_elsewhere: bool = False
    """Its KV cache lies in other memory than its weights, and is not counted here."""
    beside_window: int | None = None
    """Tokens that its engine keeps beside the window, where a layer has one. None: the engine keeps all there, too."""
    option: str = "model"
    """Which option of the instance names the model."""

    @property
    def weights_bytes(self) -> int:
        """Of the weights in memory."""
        entry = self.model.entry
        return (
            loaded_bytes(entry.parameters, entry.embedding, self.bits)
            if entry and self.bits
            else self.model.size_bytes or 0
        )

    @property
    def tokens_each(self) -> int:
        """Tokens that a request may have."""
        return self.context_length or self.model.context_length or 0

    def cache(self, cards: int = 1) -> Sequence[Kept] | None:
        """Return what is kept of the tokens on one of so many cards; None when that is not known."""
        if self.cache_elsewhere:
            return ()
        if (attention := self.model.attention) is None:
            return None
        all_kept, sliding = self.tokens_each * self.parallel, attention.sliding
        parts = [Kept(all_kept, self._token_bytes(attention, cards))]
        if sliding and self.beside_window is None:
            return [Kept(all_kept, parts[0].token_bytes + self._token_bytes(sliding, cards))]
        if sliding and self.beside_window is not None:
            near = -(-(sliding.window + self.beside_window) // CONTEXT_STEP) * CONTEXT_STEP
            kept = min(self.tokens_each, near) * self.parallel
            parts.append(Kept(kept, self._token_bytes(sliding, cards)))
        return [part for part in parts if part.token_bytes]

    def _token_bytes(self, layers: Layers, cards: int) -> float:
        keys, values = layers.elements(cards)
        return keys * CACHE_BYTES[self.key_type] + values * CACHE_BYTES[self.value_type]

    def demand(self) -> Demand:
        """Return what it needs of a host, or of its cards together."""
        return Demand(self.name, self.weights_bytes, self.cache())


@dataclass(frozen=True)
class Split:
    """How a server shares a model out among its cards."""

    tensor: int = 1
    """Cards that share each layer."""
    pipeline: int = 1
    """Groups of them that have the layers one after the other."""
    offload_bytes: int = 0
    """Weights of each card that stay in the host's memory."""
    overhead_bytes: int = VLLM_OVERHEAD_BYTES

    def demand(self, one: Wanted) -> Demand:
        """Return what a model needs of each card."""
        weights = max(one.weights_bytes // (self.tensor * self.pipeline) - self.offload_bytes, 0)
        whole = one.cache(self.tensor)
        cache = whole and [replace(kept, token_bytes=kept.token_bytes / self.pipeline) for kept in whole]
        return Demand(one.name, weights, cache, self.overhead_bytes)


@dataclass(frozen=True)
class Room:
    """What memory a host has."""

    memory_bytes: int = 0
    """0 when not known."""
    cards: tuple[int, ...] = ()
    """Bytes of each declared card; none when there is none, or the size of one is not known."""

    @classmethod
    def of(cls, report: HardwareReport, tags: Sequence[str], vendor: str | None = None) -> Room:
        """Return what a host has, with its declared cards of one maker or of all."""
        return cls.with_cards(report, declared_cards(tags, report, vendor))

    @classmethod
    def with_cards(cls, report: HardwareReport, cards: Sequence[DeclaredCard]) -> Room:
        """Return what a host has, with these of its cards."""
        sizes = [card.card.vram_mib for card in cards]
        known = [size << 20 for size in sizes if size]
        return cls(report.memory_mib << 20, tuple(known) if len(known) == len(sizes) else ())

    @property
    def vram_bytes(self) -> int:
        """Of all cards together, nominal."""
        return sum(self.cards)


def spilling(role: str, wanted: Sequence[Wanted], room: Room) -> list[Finding]:
    """
    Return what is to be said of servers that leave to the processors what the cards cannot hold: llama.cpp and its kin.

    They run at the same time, so that all count together. It is an error where nothing would help: a number of layers
    that the cards cannot hold, or a KV cache that memory cannot; else they would only be slow. Those that say `error`
    are judged by themselves first: it is not for one that says `warn` to let the others pass.
    """
    counted = [one for one in wanted if one.fit != "off" and one.model.size_bytes]
    strict = [one for one in counted if one.fit == "error"]
    verdict = _verdict(strict, room)
    if verdict in REFUSED:
        return [_spilling(role, verdict, strict, room)]
    key = _verdict(counted, room)
    if key in REFUSED:
        key = "fit_no_vram_allowed" if key == "fit_no_vram" else "fit_no_memory_allowed"
    return [_spilling(role, key, counted, room)] if key else []


REFUSED = ("fit_no_vram", "fit_no_memory")
"""Verdicts that stop a host, unless fit is `warn`."""


def _verdict(wanted: Sequence[Wanted], room: Room) -> str:
    """Return the worst that is to be said of servers, "" where they fit."""
    usable = room.vram_bytes * USABLE
    need = sum(one.demand().total_bytes for one in wanted)
    if room.cards and sum(map(on_cards, wanted)) > usable:
        key = "fit_no_vram"
    elif room.memory_bytes and held(wanted) > room.memory_bytes + usable:
        key = "fit_no_memory"
    elif room.memory_bytes and _left_to_memory(wanted, room) > room.memory_bytes:
        key = "fit_beside_cards" if room.cards else "fit_memory"
    elif room.cards and need > usable and any(one.gpu_layers == "auto" and not one.experts_in_memory for one in wanted):
        key = "fit_vram"
    else:
        return ""
    return key


def _spilling(role: str, key: str, served: Sequence[Wanted], room: Room) -> Finding:
    """Return the finding of a verdict, with what would help."""
    largest = max(served, key=lambda one: one.demand().total_bytes)

    def better(other: Wanted) -> bool:
        found = _verdict([other if one is largest else one for one in served], room)
        return not found or (found == "fit_vram" and key != "fit_vram")  # what is only slower is better than the rest

    suggested = suggestions(largest, better)
    layers = layers_that_fit(largest, room)
    if len(served) > 1:
        suggested = [f"{largest.name}/{text}" for text in suggested]
    elif layers and (key != "fit_beside_cards" or better(replace(largest, gpu_layers=layers))):
        suggested.append(f"gpu_layers: {layers}")
    usable = room.vram_bytes * USABLE
    have = {"fit_memory": room.memory_bytes, "fit_beside_cards": room.memory_bytes}.get(
        key, room.memory_bytes + usable if "no_memory" in key else room.vram_bytes
    )
    words: dict[str, Word] = {
        "need": gib(sum(one.demand().total_bytes for one in served)),
        "arithmetic": "; ".join(str(one.demand()) for one in served),
        "held": gib(held(served)),
        "pinned": gib(sum(map(on_cards, served))),
        "left": gib(_left_to_memory(served, room)),
        "have": gib(have),
        "suggestion": suggested,
    }
    return Finding(key, f"{role}/instances/{largest.name}" if len(served) == 1 else f"{role}/instances", words)


def resident(role: str, one: Wanted, room: Room, split: Split, share: float) -> list[Finding]:
    """
    Return what is to be said of a server that must have everything in its cards' memory: vLLM and its like.

    + room: with the cards that this server takes
    + share: of each card's memory that it takes, gpu_memory_utilization

    Counted is the KV cache of one request of full length, without which vLLM does not start; it keeps the caches of
    more in what is left, and lets requests wait for that.
    """
    if one.fit == "off" or not one.model.size_bytes or not room.cards:
        return []
    alone = replace(one, parallel=1)
    have = min(room.cards) * share
    demand = split.demand(alone)
    if demand.total_bytes <= have:
        return []
    wider = [
        f"tensor_parallel: {number}"
        for number in range(split.tensor + 1, len(room.cards) // split.pipeline + 1)
        if (one.model.attention_heads or 0) % number == 0
        and replace(split, tensor=number).demand(alone).total_bytes <= have
    ]
    key = "fit_cards" if one.fit == "error" else "fit_cards_allowed"
    words: dict[str, Word] = {
        "need": gib(demand.total_bytes),
        "arithmetic": str(demand),
        "have": gib(have),
        "share": f"{share:.0%}",
        "suggestion": [*wider[:1], *suggestions(alone, lambda other: split.demand(other).total_bytes <= have)],
    }
    return [Finding(key, f"{role}/instances/{one.name}", words)]


@dataclass(frozen=True)
class Claim:
    """What a server takes of cards and of the host's memory, once it runs."""

    option: str
    """Path of its instance."""
    cards: Mapping[str, float]
    """Address of a card -> bytes of its memory."""
    fit: FitChoice = "error"
    memory_bytes: float = 0
    """Of the host's memory, that it cannot do without."""
    yields: bool = False
    """It takes less where less is left, and leaves the rest to the processors."""
    judged: bool = False
    """`spilling` has added up the servers of its role."""

    @property
    def role(self) -> str:
        """Whose server it is."""
        return self.option.partition("/")[0]


def spread(cards: Sequence[DeclaredCard], size_bytes: float) -> dict[str, float]:
    """Return how many of these bytes each card has, where they are shared out by the cards' sizes."""
    room = sum(card.card.vram_mib or 0 for card in cards)
    return {card.controller.address: size_bytes * (card.card.vram_mib or 0) / room for card in cards if room}


def together(claims: Sequence[Claim], cards: Sequence[DeclaredCard]) -> list[Finding]:
    """
    Return what is to be said of servers that have a card in common, each of which may fit alone.

    It is an error where those that cannot yield need more than there is; of several cards that the same servers share,
    the fullest is named.
    """
    found: dict[tuple[str, ...], tuple[float, Finding]] = {}
    for card in cards:
        address, size = card.controller.address, (card.card.vram_mib or 0) << 20
        here = [claim for claim in claims if claim.fit != "off" and claim.cards.get(address)]
        if not size or len(here) < 2 or (here[0].judged and len({claim.role for claim in here}) == 1):
            continue
        firm = [claim for claim in here if not claim.yields]
        strict = [claim for claim in firm if claim.fit == "error"]
        full = sum(claim.cards[address] for claim in here) / size
        if len(strict) > 1 and sum(claim.cards[address] for claim in strict) > size:
            key = "fit_together"
            here = strict
        elif len(firm) > 1 and sum(claim.cards[address] for claim in firm) > size * USABLE:
            key = "fit_together_allowed"
            here = firm
        elif full > USABLE:
            key = "fit_beside"
        else:
            continue
        words: dict[str, Word] = {
            "card": str(card),
            "need": gib(sum(claim.cards[address] for claim in here)),
            "arithmetic": " + ".join(f"{claim.option} {gib(claim.cards[address])}" for claim in here),
            "found": [claim.option for claim in here if claim.yields],
            "have": gib(size),
        }
        who = tuple(claim.option for claim in here)
        if full > found.get(who, (0.0,))[0]:
            found[who] = full, Finding(key, here[-1].option, words)
    return [finding for _, finding in found.values()]


def in_memory_together(claims: Sequence[Claim], memory_bytes: int) -> list[Finding]:
    """Return what is to be said of servers that need the host's memory, each of which may fit alone."""
    here = [claim for claim in claims if claim.fit != "off" and claim.memory_bytes]
    strict = [claim for claim in here if claim.fit == "error"]

    def too_much(counted: Sequence[Claim]) -> bool:
        by_itself = all(claim.judged and claim.role == counted[0].role for claim in counted)
        several = len(counted) > 1 and not by_itself
        return several and sum(claim.memory_bytes for claim in counted) > memory_bytes > 0

    if too_much(strict):
        key = "fit_memory_together"
        here = strict
    elif too_much(here):
        key = "fit_memory_together_allowed"
    else:
        return []
    words: dict[str, Word] = {
        "need": gib(sum(claim.memory_bytes for claim in here)),
        "arithmetic": " + ".join(f"{claim.option} {gib(claim.memory_bytes)}" for claim in here),
        "have": gib(memory_bytes),
    }
    return [Finding(key, here[-1].option, words)]


Fits = Callable[[Wanted], bool]
"""Whether it would fit, if it were like this."""


def suggestions(one: Wanted, fits: Fits) -> list[str]:
    """Return changes, each of which alone would make a model fit: a smaller quantisation, a shorter context."""
    return [*_smaller_model(one, fits), *_shorter_context(one, fits)]


def _smaller_model(one: Wanted, fits: Fits) -> list[str]:
    """Return the largest quantisation of the same model in files/models.yaml that fits."""
    if one.model.entry is None:
        return []
    found = [
        (other.size_bytes or 0, name)
        for name, other in catalogue().items()
        if (other.family, other.format) == (one.model.entry.family, one.model.entry.format)
        and (other.size_bytes or 0) < (one.model.size_bytes or 0)
        and fits(replace(one, model=replace(one.model, size_bytes=other.size_bytes, attention=other.attention)))
    ]
    return [f"{one.option}: {max(found)[1]}"] if found else []


def _shorter_context(one: Wanted, fits: Fits) -> list[str]:
    """Return the greatest context that fits, if any does that is of use."""
    wanted = 0 if one.cache_elsewhere else one.tokens_each
    low, high = 0, wanted // CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if fits(replace(one, context_length=middle * CONTEXT_STEP)):
            low = middle
        else:
            high = middle - 1
    found = low * CONTEXT_STEP
    return [f"context_length: {found}"] if SHORTEST_CONTEXT <= found < wanted else []


def layers_that_fit(one: Wanted, room: Room) -> int:
    """
    Return how many layers of a model the cards can hold, with their share of the KV cache.

    Where the model's publisher has a rule, by that: for its dynamic quantisations of DeepSeek-R1, unsloth says
    ``n = VRAM / size of the files * layers - 4`` (https://unsloth.ai/blog/deepseekr1-dynamic).
    """
    attention, entry = one.model.attention, one.model.entry
    if attention is None or not one.model.size_bytes or not room.cards or one.experts_in_memory:
        return 0
    if entry and entry.offload_reserve_layers is not None:
        found = room.vram_bytes / one.model.size_bytes * attention.depth - entry.offload_reserve_layers
    else:
        demand = one.demand()
        free = room.vram_bytes * USABLE - demand.overhead_bytes
        found = attention.depth * free / (demand.weights_bytes + demand.kv_cache_bytes)
    return max(0, min(int(found), attention.depth))


def on_cards(one: Wanted) -> int:
    """Return what a server puts on the cards whether it fits there or not; the least of it, where not all is known."""
    demand = one.demand()
    of_layers = demand.kv_cache_bytes + (0 if one.experts_in_memory else demand.weights_bytes)
    if one.gpu_layers == "all":
        return of_layers + demand.overhead_bytes
    if one.gpu_layers == "auto" or not one.gpu_layers or one.model.attention is None:
        return 0  # a number says nothing where it is not known of how many
    layers = one.model.attention.depth
    return of_layers * min(one.gpu_layers, layers) // layers + demand.overhead_bytes


def held(wanted: Sequence[Wanted]) -> int:
    """Return what servers have in memory or on cards that cannot be dropped and read again."""
    return sum(one.demand().held_bytes if one.maps_weights else one.demand().total_bytes for one in wanted)


def _left_to_memory(wanted: Sequence[Wanted], room: Room) -> float:
    """Return what of servers lies in the host's memory, when the cards hold as much as they can and are to."""
    need = taken = 0
    for one in wanted:
        total = one.demand().total_bytes
        need += total
        counted = isinstance(one.gpu_layers, int) and one.model.attention is not None
        exactly = one.gpu_layers == 0 or (counted and not one.experts_in_memory)
        taken += on_cards(one) if exactly else total
    return need - min(taken, room.vram_bytes * USABLE)


def loaded_bytes(parameters: int, embedding: Embedding, bits: float) -> int:
    """
    Return the size of a model's weights in memory, where an engine converts them to so many bits as it loads.

    Below 16, the tables of tokens stay in 16.
    """
    tables = embedding.vocabulary * embedding.width * (1 if embedding.tied else 2)
    if bits >= 16:
        return int(parameters * bits / 8)
    return int(2 * tables + (parameters - tables) * bits / 8)


def gib(size_bytes: float) -> str:
    """Spell a size: "4.7 GiB"."""
    return f"{size_bytes / (1 << 30):.1f} GiB"
