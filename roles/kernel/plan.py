"""Which kernel a host needs, and where it would come from: pure functions of options, tags and report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from roles.common.findings import Finding, Word
from roles.common.hardware import HardwareReport
from roles.common.kernels import KernelRange, common_range
from roles.common.lock import declared_cards
from roles.kernel.options import KernelOptions, Source

SOURCES: dict[tuple[str, str], tuple[Source, ...]] = {
    ("ubuntu", "22.04"): ("hwe", "mainline"),
    ("ubuntu", "24.04"): ("hwe", "mainline"),
    ("ubuntu", "26.04"): ("hwe", "mainline"),
    ("debian", "12"): ("backports",),
    ("debian", "13"): ("backports",),
}
"""Operating system -> what brings kernels to it; the first is `auto`."""


@dataclass(frozen=True)
class Need:
    """Which kernels will do."""

    range: KernelRange
    why: tuple[str, ...]
    """The cards and options that say so; empty when any kernel will do."""

    def met_by(self, report: HardwareReport) -> bool:
        """Whether the running kernel will do."""
        return self.range.holds(report.kernel)


def need(options: KernelOptions, tags: Sequence[str], report: HardwareReport) -> Need:
    """Return what options and declared cards demand together."""
    ranges, why = [options.range], []
    if options.range != KernelRange():
        why.append("kernel/min, max, known_bad")
    for card in declared_cards(tags, report):
        if card.kernel != KernelRange():
            ranges.append(card.kernel)
            why.append(str(card))
    return Need(common_range(ranges), tuple(why))


def source_of(options: KernelOptions, report: HardwareReport) -> Source | None:
    """Return where a kernel would come from; None when that source brings none to this system."""
    known = SOURCES.get((report.os.id, report.os.version), ())
    if options.source == "keep":
        return "keep"
    if options.source == "auto":
        return known[0] if known else None
    return options.source if options.source in known else None


def findings(options: KernelOptions, tags: Sequence[str], report: HardwareReport) -> list[Finding]:
    """Return what keeps this host from a kernel that will do, before anything is tried."""
    wanted = need(options, tags, report)
    if wanted.met_by(report):
        return _unbound(tags, report)
    source = source_of(options, report)
    words: dict[str, Word] = {"found": report.kernel or None, "required": str(wanted.range), "why": wanted.why}
    if wanted.range.is_empty:
        return [Finding("kernel_empty_range", "kernel", words)]
    if report.is_container:
        return [Finding("kernel_container", "kernel", {**words, "virtualization": report.virtualization})]
    if source == "keep":
        return [Finding("kernel_keep", "kernel/source", words)]
    errors = _cannot_come(options, source, wanted, report, words)
    return errors or [Finding("kernel_not_for_card", "kernel", words)]


def _cannot_come(
    options: KernelOptions, source: Source | None, wanted: Need, report: HardwareReport, words: dict[str, Word]
) -> list[Finding]:
    """Why the source cannot bring a kernel that boots here."""
    known = SOURCES.get((report.os.id, report.os.version), ())
    if source is None:
        given = {**words, "source": options.source, "system": report.os.name or None, "choices": (*known, "keep")}
        return [Finding("kernel_source", "kernel/source", given)]
    if source != "mainline":
        return []
    found = []
    if not wanted.range.holds(options.version or ""):
        found.append(Finding("kernel_mainline_version", "kernel/version", {**words, "found": options.version}))
    if report.secure_boot or (report.uefi and report.secure_boot is None):
        state = "on" if report.secure_boot else None
        found.append(Finding("kernel_unsigned", "kernel/source", {"found": state, "signed": known[0]}))
    return found


def _unbound(tags: Sequence[str], report: HardwareReport) -> list[Finding]:
    """Cards whose driver is part of the kernel, which should have taken them; NVIDIA's driver comes later."""
    return [
        Finding("unbound", words={"card": str(card), "kernel": report.kernel, "driver": card.family.driver})
        for card in declared_cards(tags, report, "intel")
        if card.controller.driver is None and not report.is_container
    ]


@dataclass(frozen=True)
class Metas:
    """Packages that bring a kernel, and would bring the next one."""

    image: str
    headers: str
    """Wanted only where something is compiled for each kernel (DKMS)."""

    @property
    def all(self) -> list[str]:
        """What is to be held, where it is installed; Ubuntu has one more, that brings both."""
        both = self.image.replace("linux-image-generic", "linux-generic")
        return list(dict.fromkeys([self.image, self.headers, both]))


def metas(source: Source, report: HardwareReport) -> Metas:
    """Return the packages that a source's kernels come by."""
    if source == "backports":
        return Metas(f"linux-image-{report.architecture}", f"linux-headers-{report.architecture}")
    release = "" if report.os.version == "26.04" else f"-hwe-{report.os.version}"
    return Metas(f"linux-image-generic{release}", f"linux-headers-generic{release}")


def held_metas(report: HardwareReport) -> list[str]:
    """Return the packages that bring kernels, of whichever source, and are held."""
    return [
        name for name in report.held if re.fullmatch(r"linux-((image-|headers-)?generic.*|(image|headers)-\w+)", name)
    ]
