"""Deploy of the preflight role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.hardware import HARDWARE, DisplayController, HardwareReport, tag_of
from roles.common.operations import refuse
from roles.preflight.messages import AND, MESSAGES, NO_CONTROLLER, ONE_OF, UNKNOWN, Language

SYSTEMS = {"ubuntu": ("22.04", "24.04", "26.04"), "debian": ("12", "13", "")}
"""ID of os-release(5) -> values of VERSION_ID; Debian testing and unstable have none."""
SYSTEMS_TEXT = "Ubuntu 22.04, 24.04, 26.04; Debian 12, 13, testing, unstable"
ARCHITECTURES = ("amd64", "arm64")


@deploy("Preflight")
def deploy_preflight(
    tags: Sequence[str], report: HardwareReport, lang: Language = "en", more: Sequence[str] = ()
) -> None:
    """
    Refuse this host if it does not fit its declaration; other hosts go on.

    ``more``: problems that other roles found in their options and the report.
    """
    refuse(name="Compare the host with its declaration", problems=[*problems(tags, report, lang), *more])


def problems(tags: Sequence[str], report: HardwareReport, lang: Language = "en") -> list[str]:
    """Return what speaks against this host: what was found, what is required, why, and what to do."""
    found = []

    def tell(key: str, **words: object) -> None:
        found.append(MESSAGES[key][lang].format(**words))

    if report.os.version not in SYSTEMS.get(report.os.id, ()):
        tell("os", found=report.os.name or report.os.id or UNKNOWN[lang], required=SYSTEMS_TEXT)
    if report.architecture not in ARCHITECTURES:
        tell("architecture", found=report.architecture or UNKNOWN[lang], required=AND[lang].join(ARCHITECTURES))
    present = {tag_of(controller) for controller in report.controllers}
    for tag in tags:
        if HARDWARE[tag].cards and tag not in present:
            shown = AND[lang].join(map(describe, report.controllers)) or NO_CONTROLLER[lang]
            required = AND[lang].join(f"{pci_id} ({card.name})" for pci_id, card in HARDWARE[tag].cards.items())
            wanted = required if len(HARDWARE[tag].cards) == 1 else ONE_OF[lang].format(required)
            tell("no_card", tag=tag, found=shown, required=wanted)
    if "numa" in tags and len(report.nodes) < 2:
        tell("one_node", found=len(report.nodes))
    return found


def describe(controller: DisplayController) -> str:
    """Return a controller as a person looks for it: "10de:2684 @ 0000:41:00.0 (tag 'rtx4090')"."""
    tag = tag_of(controller)
    return f"{controller.pci_id} @ {controller.address}" + (f" (tag {tag!r})" if tag else "")
