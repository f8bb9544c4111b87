"""What a host's tags and its hardware say against each other: pure functions of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from roles.common.findings import Finding, Word
from roles.common.hardware import DisplayController, HardwareReport
from roles.common.lock import HARDWARE, DeclaredCard, cards_of, declared_cards, tag_of

SYSTEMS = {"ubuntu": ("22.04", "24.04", "26.04"), "debian": ("12", "13", "")}
"""ID of os-release(5) -> values of VERSION_ID; Debian testing and unstable have none."""
SYSTEMS_TEXT = "Ubuntu 22.04, 24.04, 26.04; Debian 12, 13, testing, unstable"
ARCHITECTURES = ("amd64", "arm64")


def findings(tags: Sequence[str], report: HardwareReport) -> list[Finding]:
    """Return what speaks against this host, whatever it is to serve."""
    return [*_system(report), *_tags(tags, report), *(f for card in declared_cards(tags, report) for f in _card(card))]


def _system(report: HardwareReport) -> Iterator[Finding]:
    if report.os.version not in SYSTEMS.get(report.os.id, ()):
        found = report.os.name or report.os.id or None
        yield Finding("os", words={"found": found, "required": SYSTEMS_TEXT})
    if report.architecture not in ARCHITECTURES:
        yield Finding("architecture", words={"found": report.architecture or None, "required": ARCHITECTURES})


def _tags(tags: Sequence[str], report: HardwareReport) -> Iterator[Finding]:
    for tag in tags:
        if HARDWARE[tag].vendor and not declared_cards([tag], report):
            required = [f"{pci_id} ({card.name})" for pci_id, card in cards_of(tag).items()]
            yield Finding(
                "no_card", "tags",
                {"tag": tag, "found": [describe(c) for c in report.controllers], "required": required},
            )  # fmt: skip
    if "numa" in tags and len(report.nodes) < 2:
        yield Finding("one_node", "tags", {"found": len(report.nodes)})


def _card(card: DeclaredCard) -> Iterator[Finding]:
    controller = card.controller
    if controller.bars and not controller.aperture_mib:
        yield Finding("no_bar", words={"card": str(card)})
    if controller.driver in ("vfio-pci", "pci-stub"):
        bound: dict[str, Word] = {"card": str(card), "found": controller.driver, "required": card.family.driver}
        yield Finding("passed_through", "tags", bound)
    if controller.link_width < controller.max_link_width and controller.link_width:
        lanes: dict[str, Word] = {
            "card": str(card),
            "found": controller.link_width,
            "required": controller.max_link_width,
        }
        yield Finding("narrow_link", words=lanes)


def describe(controller: DisplayController) -> str:
    """Return a controller as a person looks for it: "10de:2684 @ 0000:41:00.0 (tag 'rtx4090')"."""
    tag = tag_of(controller)
    return f"{controller.pci_id} @ {controller.address}" + (f" (tag {tag!r})" if tag else "")
