"""Operations of the probe role. They change nothing."""

from __future__ import annotations

from collections import Counter

from pyinfra import host
from pyinfra.api import operation

from roles.common.hardware import DisplayController, Hardware, HardwareReport
from roles.common.lock import card_of, suggested_tags, tag_of
from roles.common.operations import Commands
from roles.common.report import Report

COLUMNS = ("system", "cpu", "numa", "RAM GiB", "free GiB", "secure boot", "GPUs", "suggested tags")
"""What the table shows; JSON has the whole report besides."""


@operation()
def look(report: Report) -> Commands:
    """
    Enter this host in the report.

    + report: the fleet's table
    """
    report.enter(host.name, [row(host.get_fact(Hardware))])
    host.noop("nothing is changed")
    yield from ()


def row(hardware: HardwareReport) -> dict[str, object]:
    """Return a host as a row of the report."""
    cpu = hardware.cpu
    cores = f"{cpu.sockets} x {cpu.cores // max(cpu.sockets, 1)} cores, {cpu.threads} threads"
    arch = "" if hardware.architecture == "amd64" else f" ({hardware.architecture})"
    virtual = "" if hardware.virtualization in ("", "none") else f" ({hardware.virtualization})"
    mounts = {mount.mount_point: f"{mount.mount_point} {mount.free_mib >> 10}" for mount in hardware.mounts}
    return {
        "system": [(hardware.os.name or "?") + arch, hardware.kernel + virtual],
        "cpu": [cpu.model or "?", cores, *([" ".join(cpu.features)] if cpu.features else [])],
        "numa": [f"{node.index}: {node.cpus} {node.memory_mib >> 10} GiB" for node in hardware.nodes],
        "RAM GiB": hardware.memory_mib >> 10,
        "free GiB": list(mounts.values()),
        "secure boot": hardware.secure_boot,
        "GPUs": [f"{count} x {text}" for text, count in Counter(map(describe, hardware.controllers)).items()],
        "suggested tags": suggested_tags(hardware),
        "hardware": hardware,
    }


def describe(controller: DisplayController) -> str:
    """Return what the table says of a controller: id, name if known, BAR, driver."""
    card = card_of(controller)
    name = card.name if card else controller.name
    more = [f"BAR {controller.aperture_mib} MiB"] if tag_of(controller) else []
    if controller.max_link_width:
        speed = f" at {controller.max_link_speed.removesuffix(' PCIe')}" if controller.max_link_speed else ""
        more.append(f"x{controller.link_width} of x{controller.max_link_width}{speed}")
    return ", ".join([f"{controller.pci_id} {name}".strip(), *more, f"driver {controller.driver or 'none'}"])
