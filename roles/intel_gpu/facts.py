"""What the intel_gpu role reads on a host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyinfra.api import FactBase

READ = (Path(__file__).parent / "files" / "read.sh").read_text()
KEEP_LINES = 6


@dataclass(frozen=True)
class RuntimeState:
    """What drives Intel's cards, and what the compute runtime finds."""

    drivers: tuple[tuple[str, str], ...] = ()
    """Address of a card, and the kernel driver bound to it; "" for none."""
    render_nodes: tuple[str, ...] = ()
    """Addresses of the cards that have one in /dev/dri."""
    devices: tuple[str, ...] = ()
    """What finds the GPUs that are listed: OpenCL's by PCI address, Vulkan's by device id, "e20b"."""
    asked: bool = False
    """A program that lists them is installed."""
    firmware: tuple[str, ...] = ()
    """What the kernel said of the GPU's firmware since the boot."""
    noted: bool = False
    """A note of this role asks for a reboot, or did."""

    @property
    def lost_firmware(self) -> list[str]:
        """The kernel's words when a firmware file was missing or refused."""
        return [line for line in self.firmware if re.search(r"-ENOENT|-ENXIO|-ENOEXEC|failed with error", line)]

    @property
    def guc(self) -> tuple[int, ...]:
        """Version of the GuC firmware that runs, () when the kernel did not say."""
        found = [
            match for line in self.firmware if (match := re.search(r"GuC firmware .* version (\d+(?:\.\d+)+)", line))
        ]
        return tuple(map(int, found[-1][1].split("."))) if found else ()


class Runtime(FactBase[RuntimeState]):
    """Drivers, render nodes, firmware and devices of the given cards, in one command."""

    default = RuntimeState

    def command(self, addresses: Sequence[str], vulkan: bool, note: str) -> str:
        """``addresses``: of the cards; ``vulkan``: ask Vulkan, not OpenCL; ``note``: path of the role's note."""
        return f"note={note} lister={'vulkan' if vulkan else 'opencl'}\nset -- {' '.join(addresses)}\n{READ}"

    def process(self, output: list[str]) -> RuntimeState:
        """Read lines of a word and the rest, see files/read.sh."""
        lines = [(word, rest) for line in output for word, _, rest in [line.partition(" ")]]
        drivers = [rest.partition(" ") for word, rest in lines if word == "card"]
        return RuntimeState(
            drivers=tuple((address, driver) for address, _, driver in drivers),
            render_nodes=tuple(rest for word, rest in lines if word == "render"),
            devices=tuple(rest for word, rest in lines if word == "device"),
            asked=any(word == "lister" for word, _ in lines),
            firmware=tuple(rest for word, rest in lines if word == "log"),
            noted=any(word == "noted" for word, _ in lines),
        )
