"""What programs made with CUDA need of a host: its cards, its driver, the Python that they are published for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from roles.common.findings import Finding, Word
from roles.common.hardware import HardwareReport
from roles.common.lock import DeclaredCard

Capability = tuple[int, int]
"""A card's compute capability, as in (8, 9): https://developer.nvidia.com/cuda-gpus."""
PYTHON_311 = (("debian", "12"), ("debian", "13"), ("debian", ""), ("ubuntu", "24.04"), ("ubuntu", "26.04"))
"""Systems whose own Python is 3.11 or newer."""


def card_findings(program: str, cards: Sequence[DeclaredCard], required: Collection[Capability]) -> Iterator[Finding]:
    """Give the cards that a program's kernels were not built for; ``required``: those that they were."""
    for card in cards:
        if (found := card.compute_capability) and found not in required:
            words: dict[str, Word] = {
                "card": str(card),
                "found": spelt(found),
                "program": program,
                "required": [spelt(one) for one in sorted(required)],
            }
            yield Finding("cuda_capability", "tags", words)


def driver_findings(program: str, driver: str | None, required: str) -> Iterator[Finding]:
    """Give NVIDIA's driver, where it is older than a program's CUDA needs; None is one that is not known."""
    if driver and int(driver.partition(".")[0]) < int(required):
        yield Finding("cuda_driver", "nvidia_gpu/branch", {"found": driver, "program": program, "required": required})


def python_findings(
    program: str, option: str, report: HardwareReport, systems: Collection[tuple[str, str]] = PYTHON_311
) -> Iterator[Finding]:
    """Give the system, where its own Python is not one that a program is published for; ``systems``: where it is."""
    if (report.os.id, report.os.version) not in systems:
        known = [" ".join(system).strip() for system in systems]
        yield Finding("other_python", option, {"found": report.os.name or None, "program": program, "required": known})


def spelt(capability: Capability) -> str:
    """Spell a capability: "8.9"."""
    return f"{capability[0]}.{capability[1]}"
