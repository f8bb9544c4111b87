"""Operations of the intel_gpu role."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from roles.common.findings import Finding, notice
from roles.common.operations import Commands, refuse
from roles.common.reboot import NOTES, Boot, BootState, content, wish
from roles.intel_gpu.facts import Runtime, RuntimeState

ROLE = "intel_gpu"
GOOD_GUC = (70, 65, 0)
"""Older GuC firmware resets Battlemage's compute engine under load (intel/compute-runtime#948, vllm-project#55425)."""


@operation()
def taken(addresses: Sequence[str], kernel_driver: str) -> Commands:
    """
    Ask for a reboot when the kernel has not taken the cards, though driver and firmware are there now.

    + addresses: of the declared cards on the PCI bus
    + kernel_driver: what must be bound to them
    """
    found: RuntimeState = host.get_fact(Runtime, addresses=list(addresses), vulkan=False, note=f"{NOTES}/{ROLE}")
    free = [address for address, driver in found.drivers if driver != kernel_driver]
    why = f"{kernel_driver} has not taken {', '.join(free)}"
    boot: BootState = host.get_fact(Boot) if free else BootState()
    if not free or boot.tried(why) or why in boot.wanted:
        host.noop("the cards are taken, or wait for the reboot")
        return
    yield StringCommand(wish(ROLE, why))


@operation()
def proven(cards: Mapping[str, str], kernel_driver: str, vulkan: bool) -> Commands:
    """
    Fail this host unless every declared card has its driver, a render node, and is found by the compute runtime.

    + cards: address on the PCI bus -> device id, "e20b"
    + kernel_driver: what must be bound to them
    + vulkan: Vulkan is to find them, not OpenCL
    """
    found: RuntimeState = host.get_fact(Runtime, addresses=list(cards), vulkan=vulkan, note=f"{NOTES}/{ROLE}")
    if problems := problems_of(found, cards, kernel_driver, vulkan=vulkan):
        if state.is_executing:
            yield from refuse._inner(problems=problems)
        return
    if state.is_executing and kernel_driver == "xe":
        for finding in old_firmware(found):
            notice(host.name, finding)
    if found.noted:
        yield StringCommand(content(ROLE))
    else:
        host.noop(f"{len(found.devices)} devices found")


def old_firmware(found: RuntimeState) -> list[Finding]:
    """Return whether the GuC's firmware is one that is known to fail under load; nothing where the kernel is silent."""
    if not found.guc or found.guc >= GOOD_GUC:
        return []
    words = {"found": ".".join(map(str, found.guc)), "required": ".".join(map(str, GOOD_GUC))}
    return [Finding("intel_old_guc", "", words)]


def problems_of(found: RuntimeState, cards: Mapping[str, str], kernel_driver: str, *, vulkan: bool) -> list[str]:
    """Return why the cards cannot compute: what was found, what is required, what to do."""
    problems = []
    for address, driver in found.drivers:
        if driver != kernel_driver:
            said = f"; the kernel says: {found.lost_firmware[-1]}" if found.lost_firmware else ""
            problems.append(
                f"intel_gpu: the card at {address} is driven by {driver or 'nothing'}; required: {kernel_driver}"
                f"{said}; look at journalctl -k -g {kernel_driver} on the host"
            )
        elif address not in found.render_nodes:
            problems.append(
                f"intel_gpu: the card at {address} has no render node in /dev/dri, though {kernel_driver} drives it; "
                f"required to compute; look at journalctl -k -g {kernel_driver} on the host"
            )
    if problems:
        return problems
    lister, program = ("Vulkan", "vulkaninfo --summary") if vulkan else ("OpenCL", "clinfo")
    if not found.asked:
        return [f"intel_gpu: {program.split()[0]} is not installed, so nothing proves the cards; run deploys/full.py"]
    wanted = Counter(cards.values() if vulkan else list(cards))
    return [
        f"intel_gpu: {lister} does not find {'a card of device id ' if vulkan else 'the card at '}{card}; it finds: "
        f"{', '.join(found.devices) or 'none'}; look at what {program} says on the host; with a small BAR the runtime "
        "finds none"
        for card in wanted - Counter(found.devices)
    ]
