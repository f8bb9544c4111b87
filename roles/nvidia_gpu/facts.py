"""What the nvidia_gpu role reads on a host."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra.api import FactBase

from roles.common.hardware import nvidia_module
from roles.common.kernels import NEXT

READ = NEXT + (Path(__file__).parent / "files" / "read.sh").read_text()
OTHERS = (
    "^libnvidia-(container|egl-|ml-dev)|"
    "^nvidia-(container|cuda|cudnn|docker|modprobe|opencl-dev|prime|profiler|settings|vaapi|visual-profiler)"
)
"""Packages with NVIDIA's name that are no part of the driver: they have versions of their own, and are left alone."""
FIELDS = (
    "index", "uuid", "name", "pci.bus_id", "compute_cap", "driver_version", "memory.total", "persistence_mode",
    "ecc.errors.uncorrected.volatile.total",
)  # fmt: skip
"""What nvidia-smi is asked for (nvidia-smi --help-query-gpu)."""


@dataclass(frozen=True)
class Package:
    """A package of the driver."""

    version: str
    whole: bool
    """Installed, and not half."""
    held: bool

    @property
    def upstream(self) -> str:
        """NVIDIA's version: "580.95.05" of "580.95.05-0ubuntu0.24.04.2"."""
        return self.version.rpartition(":")[2].partition("-")[0]


@dataclass(frozen=True)
class DriverState:
    """NVIDIA's driver as it is installed and loaded."""

    packages: Mapping[str, Package] = field(default_factory=dict)
    kernel: str = ""
    """The kernel that will run next: the one on trial, else the running one."""
    module: str = ""
    """Path of NVIDIA's module for that kernel, "" for none."""
    loaded: str = ""
    """Version of the loaded module, "" for none."""
    free_kernels: tuple[str, ...] = ()
    """Ubuntu's packages that bring the next kernel, where they are installed and not held."""

    def version(self, name: str) -> str:
        """Return NVIDIA's version of a package, "" when it is not wholly installed."""
        package = self.packages.get(name)
        return package.upstream if package and package.whole else ""


class DriverStates(FactBase[DriverState]):
    """Packages of the driver, its module for the kernel that runs next, and the one that is loaded."""

    default = DriverState

    def command(self) -> str:
        """Lines of a word and the rest, see files/read.sh."""
        return READ

    def process(self, output: list[str]) -> DriverState:
        """Read the lines."""
        packages: dict[str, Package] = {}
        one: dict[str, str] = {}
        metas: list[str] = []
        for line in output:
            word, _, rest = line.partition(" ")
            if word == "meta":
                metas.append(rest)
            elif word == "package":
                name, version, status = rest.split(" ", 2)
                if status[1:2] not in ("n", "c") and not re.search(OTHERS, name):
                    packages[name] = Package(version, status[1:] == "i", status[:1] == "h")
            else:
                one[word] = rest
        loaded = nvidia_module(one.get("loaded", ""))
        version = loaded.version if loaded else ""
        return DriverState(packages, one.get("kernel", ""), one.get("module", ""), version, tuple(metas))


BROKEN = ("[GPU is lost]", "[Unknown Error]", "[GPU requires reset]", "ERR!")
"""Values of a card that fails; one that merely lacks something has [N/A] or [Not Supported]."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as nvidia-smi lists it."""

    address: str
    """"0000:41:00.0"."""
    name: str
    driver_version: str
    memory_mib: int
    persistence: bool
    uncorrected_errors: int
    """Of its memory, since the last reset; 0 where it does not count them."""
    broken: str = ""
    """What nvidia-smi shows instead of a value when the card does not answer, "[GPU is lost]"."""


@dataclass(frozen=True)
class SmiState:
    """What nvidia-smi answered."""

    status: int = -1
    """Its exit status; 127 when it is not installed."""
    message: str = ""
    """What it said instead of a list."""
    gpus: tuple[Gpu, ...] = ()
    noted: bool = False
    """A note of this role asks for a reboot, or did."""


class Smi(FactBase[SmiState]):
    """The GPUs that NVIDIA's driver has at work."""

    default = SmiState

    def command(self, note: str) -> str:
        """``note``: path of the role's note for the reboot."""
        query = f"nvidia-smi --query-gpu={','.join(FIELDS)} --format=csv,noheader,nounits"
        return f'export LC_ALL=C.UTF-8; {query} 2>&1; echo "exit $?"; [ ! -e {note} ] || echo noted'

    def process(self, output: list[str]) -> SmiState:
        """Read one GPU a line, then the exit status; ``[N/A]`` and the like are values that a card does not have."""
        status, text, noted = -1, [], False
        for line in output:
            if line.startswith("exit "):
                status = int(line.split()[1])
            elif line == "noted":
                noted = True
            else:
                text.append(line)
        if status != 0:
            return SmiState(status, " ".join(text).strip(), noted=noted)
        return SmiState(status, gpus=tuple(gpu for line in text if (gpu := _gpu(line))), noted=noted)


def _gpu(line: str) -> Gpu | None:
    words = [word.strip() for word in line.split(",")]
    if len(words) != len(FIELDS):
        return None
    values = dict(zip(FIELDS, words, strict=True))
    errors = values["ecc.errors.uncorrected.volatile.total"]
    memory = values["memory.total"]
    return Gpu(
        address=pci_address(values["pci.bus_id"]),
        name=values["name"],
        broken=next((word for word in words if word in BROKEN), ""),
        driver_version=values["driver_version"],
        memory_mib=int(memory) if memory.isdecimal() else 0,
        persistence=values["persistence_mode"] == "Enabled",
        uncorrected_errors=int(errors) if errors.isdecimal() else 0,
    )


def pci_address(bus_id: str) -> str:
    """Return nvidia-smi's bus id as the kernel writes it: "00000000:41:00.0" -> "0000:41:00.0"."""
    return re.sub(r"^0{1,4}(?=[0-9a-f]{4})", "", bus_id.lower())
