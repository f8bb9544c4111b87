"""Which of NVIDIA's drivers serves a host: pure functions of options, tags and report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from roles.common.findings import Finding, Word
from roles.common.hardware import HardwareReport
from roles.common.lock import DeclaredCard, NvidiaBranch, NvidiaModules, declared_cards
from roles.nvidia_gpu.options import NvidiaGpuOptions

DEBIAN = {"12": "535", "13": "550"}
"""Debian release -> branch of the driver in its archive (packages.debian.org, nvidia-graphics-drivers)."""


@dataclass(frozen=True)
class Driver:
    """One of NVIDIA's drivers, as Ubuntu's packages are named."""

    branch: NvidiaBranch
    modules: NvidiaModules

    @property
    def number(self) -> str:
        """The branch without its support: "580"."""
        return self.branch.partition("-")[0]

    @property
    def suffix(self) -> str:
        """What the names of packages with kernel modules end in: "580-server-open"."""
        return f"{self.branch}-open" if self.modules == "open" else self.branch


def drivers(cards: Sequence[DeclaredCard]) -> list[Driver]:
    """Return the drivers that serve all cards together, the preferred first."""
    support = [card.family.nvidia for card in cards if card.family.nvidia]
    if not support:
        return []
    return [
        Driver(branch, modules)
        for branch in support[0].branches
        for modules in support[0].modules
        if all(branch in other.branches and modules in other.modules for other in support)
        and not any(older(branch.partition("-")[0], card.card.min_driver) for card in cards)
    ]


def choice(options: NvidiaGpuOptions, cards: Sequence[DeclaredCard]) -> Driver | None:
    """Return the driver to install; None when the options and the cards leave none."""
    return next(
        (
            driver
            for driver in drivers(cards)
            if options.branch in (None, driver.branch) and options.modules in (None, driver.modules)
        ),
        None,
    )


def version(options: NvidiaGpuOptions, tags: Sequence[str], report: HardwareReport) -> str | None:
    """Return the version of the driver, or its branch, that runs once the role is through; None when not known."""
    chosen = choice(options, declared_cards(tags, report, "nvidia"))
    if options.source != "existing" and report.os.id == "ubuntu" and chosen:
        return chosen.number
    if options.source != "existing" and report.os.id == "debian":
        return DEBIAN.get(report.os.version)
    return report.nvidia.version if report.nvidia else None


def older(version: str, required: str | None) -> bool:
    """Whether a version of the driver comes before the required one; only as many numbers count as are given."""
    if required is None:
        return False
    have, want = ([int(number) for number in text.split(".")] for text in (version, required))
    return have < want[: len(have)]


def findings(options: NvidiaGpuOptions, tags: Sequence[str], report: HardwareReport) -> list[Finding]:
    """Return why the declared cards cannot be driven on this host."""
    cards = declared_cards(tags, report, "nvidia")
    if not cards or options.source == "existing":
        return []
    if report.is_container:
        words = {"card": str(cards[0]), "virtualization": report.virtualization}
        return [Finding("driver_container", "nvidia_gpu/source", words)]
    if report.os.id == "ubuntu":
        return _on_ubuntu(options, cards, report)
    if report.os.id == "debian" and report.os.version in DEBIAN:
        return _on_debian(cards, report)
    system = report.os.name or report.os.id or None
    known = "Ubuntu 22.04, 24.04, 26.04, Debian 12, 13"
    return [Finding("nvidia_system", "nvidia_gpu/source", {"system": system, "required": known})]


UBUNTUS_KERNEL = re.compile(r"\d+\.\d+\.\d+-\d{1,4}-[a-z]")
"""A release of one of Ubuntu's own kernels, "6.8.0-90-generic": not mainline's "6.12.3-061203-generic"."""


def _on_ubuntu(options: NvidiaGpuOptions, cards: Sequence[DeclaredCard], report: HardwareReport) -> list[Finding]:
    possible = drivers(cards)
    if not possible:
        why = [
            f"{card.card.name}: {'/'.join(card.family.nvidia.branches)} ({'/'.join(card.family.nvidia.modules)})"
            for card in cards
            if card.family.nvidia
        ]
        return [Finding("nvidia_no_driver", "tags", {"cards": [c.card.name for c in cards], "why": unique(why)})]
    found = []
    for card in cards:
        support = card.family.nvidia
        if support and options.branch and options.branch not in support.branches:
            words = {"found": options.branch, "card": str(card), "required": unique(d.branch for d in possible)}
            found.append(Finding("nvidia_branch", "nvidia_gpu/branch", words))
        if support and options.modules and options.modules not in support.modules:
            words = {"found": options.modules, "card": str(card), "required": unique(d.modules for d in possible)}
            found.append(Finding("nvidia_modules", "nvidia_gpu/modules", words))
    if not found and choice(options, cards) is None:  # each would do, the two together do not
        both: dict[str, Word] = {"found": options.branch, "card": str(cards[0]), "required": _spelt(possible)}
        found.append(Finding("nvidia_branch", "nvidia_gpu/branch", both))
    if report.secure_boot and report.kernel and not UBUNTUS_KERNEL.match(report.kernel):
        found.append(Finding("nvidia_secure_boot", "tags", {"system": report.kernel}))
    return found


def _spelt(possible: Sequence[Driver]) -> list[str]:
    return [f"{driver.branch} ({driver.modules})" for driver in possible]


def _on_debian(cards: Sequence[DeclaredCard], report: HardwareReport) -> list[Finding]:
    branch = DEBIAN[report.os.version]
    found = [
        Finding(
            "nvidia_debian", "nvidia_gpu/source",
            {"system": report.os.name, "found": branch, "card": str(card), "required": card.card.min_driver},
        )
        for card in cards
        if older(branch, card.card.min_driver)
    ]  # fmt: skip
    if report.secure_boot:
        found.append(Finding("nvidia_secure_boot", "tags", {"system": report.os.name or None}))
    return found


def unique(words: Iterable[str]) -> list[str]:
    """Return the words in order, each once."""
    return list(dict.fromkeys(words))


_KERNEL_SIDE = re.compile(
    r"linux-(?:modules|objects)-nvidia-|nvidia-(?:dkms|headless|headless-no-dkms|kernel-source|driver)-"
)
_BRANCH = re.compile(r"(?:^|-)(?:lib)?nvidia-(?:[a-z0-9]+-)*?(\d{3})(-server)?(-open)?(?:-|$)")
_OF_ALL_FLAVOURS = ("nvidia-fabricmanager-", "libnvidia-nscq-", "nvidia-imex-")
"""What is published once for a branch, with and without ``-server``."""


def is_foreign(package: str, driver: Driver) -> bool:
    """Whether a package belongs to another branch, or to the other kind of kernel modules, than the driver's."""
    found = _BRANCH.search(package)
    if found is None:
        return False
    number, server, is_open = found[1], bool(found[2]), bool(found[3])
    if package.startswith(_OF_ALL_FLAVOURS):
        return number != driver.number
    if number != driver.number or server != driver.branch.endswith("-server"):
        return True
    return bool(_KERNEL_SIDE.match(package)) and is_open != (driver.modules == "open")
