"""What a host is made of: read in one command, and what `files/hardware.yaml` knows of it."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter
from pyinfra.api import FactBase

from roles.common.data import from_yaml
from roles.common.options import Options, did_you_mean

CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "sve")
"""Flags of /proc/cpuinfo that decide which build of an engine runs, and how fast."""

MOUNTS = ("/", "/opt", "/srv", "/srv/models", "/var")
"""Where programs, models and images go; what does not exist yet counts as its nearest ancestor."""

_CONTAINERS = {"container-other", "docker", "lxc", "lxc-libvirt", "openvz", "podman", "pouch", "proot", "rkt",
               "systemd-nspawn", "wsl"}  # fmt: skip
_NO_DISK = re.compile(r"(loop|ram|zram|dm-|md|sr|fd|nbd)\d|mmcblk\d+(boot|rpmb)|nvme\d+c\d+n")
_RESOURCE_MEMORY, _RESOURCE_UNSET = 0x200, 0x20000000


@dataclass(frozen=True)
class OperatingSystem:
    """What /etc/os-release says of itself, os-release(5); "" where it is silent."""

    id: str = ""
    version: str = ""
    """"24.04"; Debian testing and unstable have none."""
    codename: str = ""
    name: str = ""
    """As a person reads it: "Ubuntu 24.04.3 LTS"."""


@dataclass(frozen=True)
class Cpu:
    """The processors of the machine; a container sees all of them, whatever it may use."""

    model: str = ""
    features: tuple[str, ...] = ()
    """Those of `CPU_FEATURES` that it has."""
    sockets: int = 0
    cores: int = 0
    """Physical ones: the best number of threads for inference."""
    threads: int = 0


@dataclass(frozen=True)
class NumaNode:
    """Processors and the memory next to them."""

    index: int
    cpus: str
    """As the kernel spells a list, "0-15,32-47"; "" for memory without processors."""
    cores: int
    memory_mib: int


@dataclass(frozen=True)
class Disk:
    """A physical (or a virtual machine's) disk; no partition, loop, array or mapping."""

    name: str
    size_bytes: int
    rotational: bool
    model: str


@dataclass(frozen=True)
class Mount:
    """The file system under a path."""

    path: str
    mount_point: str
    type: str
    size_mib: int
    free_mib: int


@dataclass(frozen=True)
class DisplayController:
    """A PCI function of class 03xx: VGA, 3D or other display controller. Every GPU is one, so is a BMC's."""

    address: str
    """"0000:03:00.0"."""
    vendor: str
    device: str
    subsystem: str = ""
    """"vendor:device" of the card's maker."""
    class_code: str = ""
    """"030000" VGA, "030200" 3D (no display outputs), "038000" other."""
    driver: str | None = None
    """Kernel driver that is bound to it."""
    numa_node: int | None = None
    boot_vga: bool = False
    """The firmware's console is on it."""
    bars: tuple[int, ...] = ()
    """Bytes of the memory regions 0 to 5; 0 for one that is absent or was given no address."""

    @property
    def pci_id(self) -> str:
        """Vendor and device as lspci -n and `files/hardware.yaml` spell them, "8086:e20b"."""
        return f"{self.vendor}:{self.device}"

    @property
    def aperture_mib(self) -> int:
        """
        Size of the largest region: how much of its memory the CPU can map.

        With Resizable BAR that is all of it, rounded up to a power of two (16 GiB for 12); without, 256 MiB,
        whatever the firmware's menu says (intel/compute-runtime#933). Region 2 on Intel, 1 or 2 on NVIDIA.
        """
        return max(self.bars, default=0) >> 20


@dataclass(frozen=True)
class HardwareReport:
    """A host as its kernel describes it; where sysfs lacks a part, as in containers, a field keeps its default."""

    os: OperatingSystem = OperatingSystem()
    architecture: str = ""
    """As dpkg names it, "amd64"; else as uname does."""
    kernel: str = ""
    """Release of the running kernel, "6.8.0-45-generic"."""
    uefi: bool = False
    secure_boot: bool | None = None
    virtualization: str = ""
    """As systemd-detect-virt(1) names it; "none" on bare metal."""
    cpu: Cpu = Cpu()
    memory_mib: int = 0
    nodes: tuple[NumaNode, ...] = ()
    disks: tuple[Disk, ...] = ()
    mounts: tuple[Mount, ...] = ()
    """One for each of `MOUNTS`."""
    controllers: tuple[DisplayController, ...] = ()
    dri: tuple[str, ...] = ()
    """Names in /dev/dri: "card0", "renderD128"."""

    @property
    def is_container(self) -> bool:
        """It shares its kernel with others: no modules, no reboot, hardly a sysctl."""
        return self.virtualization in _CONTAINERS


# Lines of words that are separated by tabs; the first says what the line is. Nothing but sh, coreutils, grep and
# sed, and no file that only root may read. Every process costs a millisecond or two of every run on every host, so
# what the shell's own `read` can do, it does; and a machine with 512 processors costs no more than a small one.
_SCRIPT = r"""
export LC_ALL=C.UTF-8
put() { printf '%s' "$1"; shift; printf '\t%s' "$@"; echo; }
get() { v=; [ -r "$1" ] && IFS= read -r v 2>/dev/null <"$1"; }
sed -e 's|^|os\t|' -e '$a\' /etc/os-release 2>/dev/null
put architecture "$(dpkg --print-architecture 2>/dev/null || uname -m)"
get /proc/sys/kernel/osrelease; put kernel "$v"
put virtualization "$(systemd-detect-virt 2>/dev/null)"
[ -d /sys/firmware/efi ] && put uefi yes
v=/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c
[ -r $v ] && put secure_boot "$(od -An -tu1 -j4 -N1 $v 2>/dev/null)"
v=$(sed -n -e '/^model name/s|^|cpuinfo\t|p' -e '/^\(flags\|Features\)/s|^|cpuinfo\t|p' -e '/^$/q' /proc/cpuinfo)
[ -z "$v" ] || echo "$v"
case $v in *'model name'*) ;; *) lscpu 2>/dev/null | sed -n '/^Model name/s|^|cpuinfo\t|p' ;; esac
put threads "$(grep -c '^processor' /proc/cpuinfo)"
cd /sys/devices/system/cpu 2>/dev/null && {
sed 's|^|core\t|' cpu[0-9]*/topology/thread_siblings_list 2>/dev/null
sed 's|^|package\t|' cpu[0-9]*/topology/physical_package_id 2>/dev/null
}
for d in /sys/devices/system/node/node[0-9]*; do
get "$d/cpulist" && put node "${d##*/node}" "$v" "$(grep MemTotal "$d/meminfo" 2>/dev/null)"
done
sed -n '/MemTotal/s|^|memory\t|p' /proc/meminfo
for d in /sys/block/*; do
n=${d##*/}
case $n in loop[0-9]*|ram[0-9]*|zram[0-9]*) continue ;; esac
get "$d/size" || continue
s=$v; get "$d/queue/rotational"; r=$v; get "$d/device/model"
put disk "$n" "$s" "$r" "$v"
done
for p in MOUNTS; do
e=$p; while [ ! -e "$e" ]; do e=${e%/*}; e=${e:-/}; done
df -PTk "$e" 2>/dev/null | { read -r v; IFS= read -r v && put mount "$p" "$v"; }
done
for d in /sys/bus/pci/devices/*; do
[ -r "$d/class" ] && read -r c <"$d/class" || continue
case $c in 0x03*) ;; *) continue ;; esac
a=${d##*/}
for f in class vendor device subsystem_vendor subsystem_device numa_node boot_vga; do
get "$d/$f" && put pci "$a" $f "$v"
done
[ -L "$d/driver" ] && v=$(readlink "$d/driver") && put pci "$a" driver "${v##*/}"
sed -n "1,6s|^|pci\t$a\tresource\t|p" "$d/resource" 2>/dev/null
done
for d in /dev/dri/*; do [ -c "$d" ] && put dri "${d##*/}"; done
true
""".replace("MOUNTS", shlex.join(MOUNTS))


class Hardware(FactBase[HardwareReport]):
    """
    Everything about the host that decides what can run on it.

    Read from sysfs and procfs (docs.kernel.org/PCI/sysfs-pci.html, .../admin-guide/cputopology.html), so that a bare
    host needs no lspci, and by any user.
    """

    default = HardwareReport

    def command(self) -> str:
        """One script: dozens of small files, one round trip."""
        return _SCRIPT.strip()

    def process(self, output: list[str]) -> HardwareReport:
        """Read lines of words that are separated by tabs; a word that is missing is "", and means "not known"."""
        rows: dict[str, list[list[str]]] = defaultdict(list)
        for line in output:
            kind, *words = line.rstrip("\n").split("\t")
            rows[kind].append([word.strip() for word in (*words, "", "", "", "")])
        virtualization = _word(rows["virtualization"])
        uefi = bool(rows["uefi"])
        secure_boot = {"1": True, "0": False}.get(_word(rows["secure_boot"]))
        if not uefi and virtualization not in {"", *_CONTAINERS}:
            secure_boot = False  # without UEFI there is none
        cores = [cpu_set(siblings) for siblings in sorted({row[0] for row in rows["core"]})]
        return HardwareReport(
            os=_os([row[0] for row in rows["os"]]),
            architecture=_word(rows["architecture"]),
            kernel=_word(rows["kernel"]),
            uefi=uefi,
            secure_boot=secure_boot,
            virtualization=virtualization,
            cpu=_cpu(rows, cores),
            memory_mib=_kib(_word(rows["memory"])) >> 10,
            nodes=tuple(sorted((_node(row, cores) for row in rows["node"]), key=lambda node: node.index)),
            disks=tuple(disk for row in rows["disk"] if (disk := _disk(row))),
            mounts=tuple(mount for row in rows["mount"] if (mount := _mount(row))),
            controllers=_controllers(rows["pci"]),
            dri=tuple(row[0] for row in rows["dri"]),
        )


def cpu_set(text: str) -> frozenset[int]:
    """Return the numbers that the kernel's list format spells: "0-2,8" -> {0, 1, 2, 8}."""
    numbers: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def cpu_list(numbers: Iterable[int]) -> str:
    """Return numbers as the kernel and systemd spell a list: {0, 1, 2, 8} -> "0-2,8"."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def _word(rows: list[list[str]]) -> str:
    return rows[0][0] if rows and rows[0] else ""


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _kib(text: str) -> int:
    """Kibibytes of a line of meminfo: "MemTotal:  24684564 kB", "Node 0 MemTotal: ..."."""
    found = re.search(r"MemTotal:\s*(\d+) kB", text)
    return int(found[1]) if found else 0


def _os(lines: list[str]) -> OperatingSystem:
    values = {}
    for line in lines:
        name, separator, value = line.partition("=")
        if separator and not name.startswith("#"):
            try:
                values[name] = "".join(shlex.split(value))
            except ValueError:  # a quote that does not close
                values[name] = value
    return OperatingSystem(
        id=values.get("ID", ""),
        version=values.get("VERSION_ID", ""),
        codename=values.get("VERSION_CODENAME", ""),
        name=values.get("PRETTY_NAME", ""),
    )


def _cpu(rows: Mapping[str, list[list[str]]], cores: Sequence[frozenset[int]]) -> Cpu:
    info = {}
    for row in rows.get("cpuinfo", []):
        name, _, value = "\t".join(row).partition(":")
        info[name.strip().lower()] = value.strip()
    flags = set((info.get("flags") or info.get("features") or "").split())
    threads = _number(_word(rows.get("threads", [])))
    return Cpu(
        model=re.sub(r"\s+", " ", info.get("model name", "")),
        features=tuple(feature for feature in CPU_FEATURES if feature in flags),
        sockets=len({_word([row]) for row in rows.get("package", [])}) or min(threads, 1),
        cores=len(cores) or threads,
        threads=threads or sum(map(len, cores)),
    )


def _node(row: list[str], cores: Sequence[frozenset[int]]) -> NumaNode:
    index, cpus, memory = row[:3]
    members = cpu_set(cpus)
    return NumaNode(
        index=_number(index),
        cpus=cpus,
        cores=sum(1 for core in cores if core <= members) or len(members),
        memory_mib=_kib(memory) >> 10,
    )


def _disk(row: list[str]) -> Disk | None:
    name, sectors, rotational, model = row[:4]
    if _NO_DISK.match(name) or not _number(sectors):
        return None
    return Disk(name, _number(sectors) * 512, rotational == "1", model)


def _mount(row: list[str]) -> Mount | None:
    """Read ``df -PTk``: source, type, KiB, used, available, percent, mount point."""
    path, line = row[:2]
    words = line.split(None, 6)
    if len(words) < 7:
        return None
    return Mount(path, words[6], words[1], _number(words[2]) >> 10, _number(words[4]) >> 10)


def _controllers(rows: list[list[str]]) -> tuple[DisplayController, ...]:
    devices: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for address, name, value, *_ in rows:
        devices[address][name].append(value)
    return tuple(_controller(address, values) for address, values in sorted(devices.items()))


def _controller(address: str, values: Mapping[str, list[str]]) -> DisplayController:
    def value(name: str) -> str:
        return values[name][0].removeprefix("0x") if name in values else ""

    subsystem = f"{value('subsystem_vendor')}:{value('subsystem_device')}"
    return DisplayController(
        address=address,
        vendor=value("vendor"),
        device=value("device"),
        subsystem="" if subsystem == ":" else subsystem,
        class_code=value("class"),
        driver=value("driver") or None,
        numa_node=_number(value("numa_node")) if value("numa_node").isdecimal() else None,  # -1: not known
        boot_vga=value("boot_vga") == "1",
        bars=tuple(_bar_bytes(line) for line in values.get("resource", [])[:6]),
    )


def _bar_bytes(line: str) -> int:
    """
    Size of a region from sysfs's ``start end flags``, docs.kernel.org/PCI/sysfs-pci.html.

    Flags are those of linux/ioport.h: one that found no room in the address space is marked unset.
    """
    try:
        start, end, flags = (int(word, 16) for word in line.split())
    except ValueError:
        return 0
    usable = flags & _RESOURCE_MEMORY and not flags & _RESOURCE_UNSET
    return end - start + 1 if usable and end > start else 0


class Card(Options):
    """A GPU model, known by its PCI id."""

    name: str
    vram_mib: Annotated[int, Field(gt=0)] | None = None
    """Nominal, MiB; what a driver reports is a few percent less. None: sold with several sizes, or not published."""


class HardwareTag(Options):
    """What a hardware tag in an inventory stands for."""

    vendor: Literal["intel", "nvidia"] | None = None
    """None for a tag that is no card: `cpu`, `numa`."""

    cards: dict[Annotated[str, Field(pattern="^[0-9a-f]{4}:[0-9a-f]{4}$")], Card] = Field(default_factory=dict)
    """PCI id, "vendor:device" -> the card that has it; a host fits the tag when it carries one of them."""

    source: Annotated[str, Field(min_length=1)]
    """Where ids and sizes were read."""


def load_hardware(text: str) -> dict[str, HardwareTag]:
    """Return the tags that the text of a `files/hardware.yaml` describes, or raise pydantic's ValidationError."""
    return TypeAdapter(dict[str, HardwareTag]).validate_python(from_yaml(text))


HARDWARE: Mapping[str, HardwareTag] = load_hardware(
    (Path(__file__).parents[2] / "files" / "hardware.yaml").read_text(encoding="utf-8")
)
"""Tag -> what it stands for."""

KNOWN_TAGS = tuple(HARDWARE)

_TAG_BY_PCI_ID = {pci_id: tag for tag, entry in HARDWARE.items() for pci_id in entry.cards}


def _known(tag: str) -> str:
    if tag not in HARDWARE:
        raise ValueError(f"unknown hardware tag {tag!r}{did_you_mean(tag, KNOWN_TAGS)}")
    return tag


Tag = Annotated[str, AfterValidator(_known)]
"""A hardware tag in an inventory: one of `KNOWN_TAGS`."""


def tag_of(controller: DisplayController) -> str | None:
    """Return the hardware tag of a card, None for one that `files/hardware.yaml` does not know."""
    return _TAG_BY_PCI_ID.get(controller.pci_id)


def card_of(controller: DisplayController) -> Card | None:
    """Return what is known of a card, None for one that `files/hardware.yaml` does not know."""
    tag = tag_of(controller)
    return HARDWARE[tag].cards[controller.pci_id] if tag else None


def suggested_tags(report: HardwareReport) -> list[str]:
    """Return the tags that fit this host: its cards, else `cpu`; and `numa` when it has several nodes."""
    cards = sorted({tag for controller in report.controllers if (tag := tag_of(controller))}, key=KNOWN_TAGS.index)
    return (cards or ["cpu"]) + (["numa"] if len(report.nodes) > 1 else [])


NumaChoice = Literal["none", "interleave", "distribute", "isolate"] | Annotated[int, Field(ge=0)]
"""Where a server's memory shall lie: wherever it falls, evenly on all nodes, where the engine itself puts it, or on
the node with this index together with the server's processors."""


@dataclass(frozen=True)
class NumaPolicy:
    """Values of a unit's directives, systemd.exec(5); "" for one that is to be left out."""

    policy: Literal["", "interleave", "bind"] = ""
    mask: str = ""
    cpu_affinity: str = ""
    physical_cores: int = 0
    """Those that the server then has: the best number of threads."""

    @property
    def directives(self) -> list[str]:
        """Lines for the unit's [Service] section."""
        pairs = {"NUMAPolicy": self.policy, "NUMAMask": self.mask, "CPUAffinity": self.cpu_affinity}
        return [f"{name}={value}" for name, value in pairs.items() if value]


def numa_policy(report: HardwareReport, choice: NumaChoice) -> NumaPolicy:
    """
    Return how systemd must start a server so that its memory lies as chosen.

    "distribute" and "isolate" are the engine's own work (llama.cpp: ``--numa distribute``), systemd leaves them
    alone; with "interleave" and a node, llama.cpp is told ``--numa numactl``. On a host with one node no directive is
    needed, and a container may be refused one: set_mempolicy(2) wants CAP_SYS_NICE there.
    A node that does not exist is `numa_problems`'s to tell.
    """
    chosen = [node for node in report.nodes if node.index == choice]
    if chosen and len(report.nodes) > 1:
        return NumaPolicy("bind", str(choice), chosen[0].cpus, chosen[0].cores)
    if choice == "interleave" and len(report.nodes) > 1:
        with_memory = cpu_list(node.index for node in report.nodes if node.memory_mib)
        return NumaPolicy("interleave", with_memory, "", report.cpu.cores)
    return NumaPolicy(physical_cores=report.cpu.cores)


def numa_problems(report: HardwareReport, choice: NumaChoice) -> list[str]:
    """Return why this host cannot place memory so: the node is absent, or lacks processors or memory."""
    if isinstance(choice, str):
        return []
    nodes = {node.index: node for node in report.nodes}
    have = cpu_list(nodes) or "none that the kernel shows"
    if choice not in nodes:
        return [f'NUMA node {choice} does not exist; nodes of this host: {have}; choose one of them or "interleave"']
    if not nodes[choice].cpus or not nodes[choice].memory_mib:
        lacks = "memory" if nodes[choice].cpus else "processors"
        return [f"NUMA node {choice} has no {lacks}, a server cannot be bound to it; nodes of this host: {have}"]
    return []
