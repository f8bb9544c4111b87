"""
The compatibility lock: what `files/hardware.yaml` knows of cards, and which kernel and driver they need.

A card is known by its PCI id. Cards that one driver serves alike are a family; a family is a tag of its own, for hosts
whose exact card does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from roles.common.data import from_yaml
from roles.common.hardware import DisplayController, HardwareReport
from roles.common.kernels import KernelRange
from roles.common.options import Options, did_you_mean

NvidiaModules = Literal["open", "proprietary"]
"""NVIDIA's two sets of kernel modules. Both are published by NVIDIA; older cards run with one, newer with the other."""

NvidiaBranch = Literal["580-server", "595-server"]
"""A branch of NVIDIA's driver as Ubuntu names its packages; ``-server`` is what NVIDIA supports for data centres."""


class Card(Options):
    """A GPU model, known by its PCI id."""

    name: str
    vram_mib: Annotated[int, Field(gt=0)] | None = None
    """Nominal, MiB; what a driver reports is a few percent less. None: sold with several sizes, or not published."""

    kernel: KernelRange | None = None
    """Where this card needs another kernel than its family."""

    min_driver: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$")] | None = None
    """The first version of NVIDIA's driver that drives it, where that is newer than some distribution's."""


class NvidiaSupport(Options):
    """Which of NVIDIA's drivers serve a family; of each the preferred first."""

    branches: Annotated[list[NvidiaBranch], Field(min_length=1)]
    modules: Annotated[list[NvidiaModules], Field(min_length=1)]


class HardwareTag(Options):
    """What a hardware tag in an inventory stands for."""

    vendor: Literal["intel", "nvidia"] | None = None
    """None for a tag that is no card: `cpu`, `numa`, `seed`."""

    family: str | None = None
    """The tag of the card's family, which has all that its cards have in common."""

    cards: dict[Annotated[str, Field(pattern="^[0-9a-f]{4}:[0-9a-f]{4}$")], Card] = Field(default_factory=dict)
    """PCI id, "vendor:device" -> the card that has it; a host fits the tag when it carries one of them."""

    driver: Literal["xe", "i915", "nvidia"] | None = None
    """Kernel driver that must be bound to the family's cards."""

    kernel: KernelRange | None = None
    """Kernels that are known to drive the family; None: any that its driver's packages are made for."""

    nvidia: NvidiaSupport | None = None

    compute_capability: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]$")] | None = None
    """CUDA's, of every card of the tag."""

    source: Annotated[str, Field(min_length=1)]
    """Where all this was read."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.family and (self.driver or self.kernel or self.nvidia):
            raise ValueError("driver, kernel and nvidia stand in the family's entry, or in a card's")
        if self.cards and not self.family:
            raise ValueError("a tag with cards names its family")
        if self.vendor and not self.cards and not self.driver:
            raise ValueError("a vendor's tag has cards, or is a family and names their driver")
        if self.driver and (self.driver == "nvidia") != (self.nvidia is not None):
            raise ValueError("`nvidia` goes with `driver: nvidia`")
        return self


def load_hardware(text: str) -> dict[str, HardwareTag]:
    """Return the tags that the text of a `files/hardware.yaml` describes, or raise ValueError."""
    tags = TypeAdapter(dict[str, HardwareTag]).validate_python(from_yaml(text))
    seen: dict[str, str] = {}
    for tag, entry in tags.items():
        if entry.family is not None:
            family = tags.get(entry.family)
            if family is None or family.driver is None:
                families = [name for name, other in tags.items() if other.driver]
                raise ValueError(f"{tag}: family {entry.family!r} is no family{did_you_mean(entry.family, families)}")
            if family.vendor != entry.vendor:
                raise ValueError(f"{tag}: vendor {entry.vendor!r}, but its family's is {family.vendor!r}")
        for pci_id in entry.cards:
            if pci_id in seen:
                raise ValueError(f"{tag}: {pci_id} is {seen[pci_id]!r} already; one id belongs to one tag")
            seen[pci_id] = tag
    return tags


HARDWARE: Mapping[str, HardwareTag] = load_hardware(
    (Path(__file__).parents[2] / "files" / "hardware.yaml").read_text(encoding="utf-8")
)
"""Tag -> what it stands for."""

KNOWN_TAGS = tuple(HARDWARE)

_TAG_BY_PCI_ID = {pci_id: tag for tag, entry in HARDWARE.items() for pci_id in entry.cards}


def _known(tag: str) -> str:
    if tag not in HARDWARE:
        raise ValueError(f"unknown hardware tag {tag!r}{did_you_mean(tag, KNOWN_TAGS)}")
    return tag


Tag = Annotated[str, AfterValidator(_known)]
"""A hardware tag in an inventory: one of `KNOWN_TAGS`."""


def cards_of(tag: str) -> dict[str, Card]:
    """Return the cards that fit a tag by PCI id, those of all its members for a family; none for what is no card."""
    members = [entry for name, entry in HARDWARE.items() if tag in (name, entry.family)]
    return {pci_id: card for entry in members for pci_id, card in entry.cards.items()}


def family_of(tag: str) -> HardwareTag:
    """Return the entry with what a tag's cards have in common: its family's, or its own."""
    entry = HARDWARE[tag]
    return HARDWARE[entry.family] if entry.family else entry


def tag_of(controller: DisplayController) -> str | None:
    """Return the hardware tag of a card, None for one that `files/hardware.yaml` does not know."""
    return _TAG_BY_PCI_ID.get(controller.pci_id)


def card_of(controller: DisplayController) -> Card | None:
    """Return what is known of a card, None for one that `files/hardware.yaml` does not know."""
    tag = tag_of(controller)
    return HARDWARE[tag].cards[controller.pci_id] if tag else None


def suggested_tags(report: HardwareReport) -> list[str]:
    """Return the tags that fit this host: its cards, else `cpu`; and `numa` when it has several nodes."""
    cards = sorted({tag for controller in report.controllers if (tag := tag_of(controller))}, key=KNOWN_TAGS.index)
    return (cards or ["cpu"]) + (["numa"] if len(report.nodes) > 1 else [])


@dataclass(frozen=True)
class DeclaredCard:
    """A card of the host that the inventory declares, with all that is known of it."""

    controller: DisplayController
    tag: str
    """Its own, also where the inventory names the family."""
    card: Card

    @property
    def family(self) -> HardwareTag:
        """What it shares with its family."""
        return family_of(self.tag)

    @property
    def kernel(self) -> KernelRange:
        """The kernels that are known to drive it."""
        return self.card.kernel or self.family.kernel or KernelRange()

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        """CUDA's, (8, 9); None for a card that has none."""
        major, _, minor = (HARDWARE[self.tag].compute_capability or "").partition(".")
        return (int(major), int(minor)) if major else None

    def __str__(self) -> str:
        """Name the card as a person looks for it: "Arc B580 (8086:e20b @ 0000:03:00.0)"."""
        return f"{self.card.name} ({self.controller.pci_id} @ {self.controller.address})"


def declared_cards(tags: Iterable[str], report: HardwareReport, vendor: str | None = None) -> list[DeclaredCard]:
    """Return the host's cards that its tags speak of, by address; of one vendor, or of all."""
    wanted = set(tags)
    found = []
    for controller in report.controllers:
        tag, card = tag_of(controller), card_of(controller)
        if tag and card and {tag, HARDWARE[tag].family} & wanted and vendor in (None, HARDWARE[tag].vendor):
            found.append(DeclaredCard(controller, tag, card))
    return found


def vendors_of(tags: Sequence[str]) -> set[str]:
    """Return the makers of the cards that the tags speak of."""
    return {vendor for tag in tags if (vendor := HARDWARE[tag].vendor)}
