"""Where a host's compute runtime comes from: pure functions of options, tags and report."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.findings import Finding, Word
from roles.common.hardware import HardwareReport
from roles.common.lock import DeclaredCard, declared_cards
from roles.intel_gpu.options import IntelGpuOptions, Source

SMALL_MIB = 256
"""What a card shows of its memory without Resizable BAR."""

SOURCES: dict[tuple[str, str], tuple[Source, ...]] = {
    ("ubuntu", "22.04"): ("intel", "vulkan"),
    ("ubuntu", "24.04"): ("ppa", "intel", "vulkan"),
    ("ubuntu", "26.04"): ("archive", "ppa", "vulkan"),
    ("debian", "12"): ("vulkan",),
    ("debian", "13"): ("vulkan",),
    ("debian", ""): ("archive", "vulkan"),
}
"""Operating system -> where it can get the runtime from; the first is `auto`."""

RUNTIME: dict[Source, tuple[str, ...]] = {
    "ppa": ("libze-intel-gpu1", "libze1", "intel-opencl-icd>=24.48", "intel-metrics-discovery", "clinfo", "xpu-smi"),
    "intel": ("libze-intel-gpu1", "libze1", "intel-opencl-icd", "clinfo", "xpu-smi"),
    "archive": ("libze-intel-gpu1", "libze1", "intel-opencl-icd", "clinfo"),
    "vulkan": (),
}
"""
Source -> packages of the runtime and of what proves it (dgpu-docs.intel.com, client; packages.debian.org).

24.48.31907.7 is the first with production support for Battlemage (its release notes); noble's archive has 23.43.
"""

VULKAN = ("mesa-vulkan-drivers", "vulkan-tools")


def source_of(options: IntelGpuOptions, report: HardwareReport) -> Source | None:
    """Return where the runtime comes from; None when that source has none for this system."""
    known = SOURCES.get((report.os.id, report.os.version), ())
    if options.source == "existing":
        return "existing"
    if options.source == "auto":
        return known[0] if known else None
    return options.source if options.source in known else None


def findings(options: IntelGpuOptions, tags: Sequence[str], report: HardwareReport) -> list[Finding]:
    """Return why the declared cards cannot compute on this host, or not in full."""
    cards = declared_cards(tags, report, "intel")
    if not cards:
        return []
    if report.is_container and options.source != "existing":
        words = {"card": str(cards[0]), "virtualization": report.virtualization}
        return [Finding("driver_container", "intel_gpu/source", words)]
    found = [finding for card in cards for finding in _bar(options, card)]
    if options.source != "existing" and (report.os.id, report.os.version) == ("debian", "12"):
        # Of 2023-02; Battlemage's firmware came in 2024 (packages.debian.org, firmware-misc-nonfree).
        late = [card for card in cards if card.family.driver == "xe"]
        found += [
            Finding("intel_no_firmware", "tags", {"system": report.os.name or report.os.id, "card": str(card)})
            for card in late
        ]
    source = source_of(options, report)
    system = report.os.name or report.os.id or None
    if source is None:
        choices = (*SOURCES.get((report.os.id, report.os.version), ()), "existing")
        words_: dict[str, Word] = {"source": options.source, "system": system, "choices": choices}
        found.append(Finding("intel_source", "intel_gpu/source", words_))
    elif source == "vulkan" and options.source == "auto":
        found.append(Finding("intel_vulkan_only", "intel_gpu/source", {"system": system, "card": str(cards[0])}))
    return found


def _bar(options: IntelGpuOptions, card: DeclaredCard) -> list[Finding]:
    """
    Compare what the processor sees of a card's memory with all of it.

    The region is what counts, not the firmware's menu (intel/compute-runtime#933); with a small one the runtime finds
    no device (intel/compute-runtime#872).
    """
    seen, whole = card.controller.aperture_mib, card.card.vram_mib
    if seen == 0 or (seen > SMALL_MIB and (whole is None or seen >= whole)):
        return []
    required = whole or card.controller.largest_bar_mib or None
    key = "small_bar_allowed" if options.allow_small_bar else "small_bar"
    return [Finding(key, "", {"card": str(card), "found": seen, "required": required})]


def packages(source: Source, report: HardwareReport) -> list[str]:
    """Return the packages of runtime, firmware and proof."""
    if report.os.id == "ubuntu":
        firmware = ["linux-firmware-intel-graphics|linux-firmware"]
    else:
        firmware = ["firmware-intel-graphics|firmware-misc-nonfree"]
    return [*firmware, *RUNTIME[source], *(VULKAN if source == "vulkan" else ())]
