"""What a host is made of: read in one command. What is known of its cards is in lock.py."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase

from roles.common.kernels import TRIAL

CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "sve")
"""Flags of /proc/cpuinfo that decide which build of an engine runs, and how fast."""

MOUNTS = ("/", "/opt", "/srv", "/srv/models", "/var")
"""Where programs, models and images go; what does not exist yet counts as its nearest ancestor."""

_CONTAINERS = {"container-other", "docker", "lxc", "lxc-libvirt", "openvz", "podman", "pouch", "proot", "rkt",
               "systemd-nspawn", "wsl"}  # fmt: skip
_NO_DISK = re.compile(r"(loop|ram|zram|dm-|md|sr|fd|nbd)\d|mmcblk\d+(boot|rpmb)|nvme\d+c\d+n")
_RESOURCE_MEMORY, _RESOURCE_UNSET = 0x200, 0x20000000
_LSPCI = re.compile(
    r"((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) .*?\[03[0-9a-f]{2}\]: (.*?) \[[0-9a-f]{4}:[0-9a-f]{4}\]"
)
_NVRM = re.compile(
    r"NVRM version:\s+NVIDIA UNIX (?:(Open) Kernel Module for \S+|\S+ Kernel Module)\s+(\d+\.\d+(?:\.\d+)?)"
)


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
    largest_bar_mib: int = 0
    """The largest size that the card offers for a region (Resizable BAR); 0 when it offers none, or none is shown."""
    link_width: int = 0
    """PCIe lanes in use, 0 when not known. Of an Intel Arc, those of the switch on the card: its GPU says 1 always."""
    max_link_width: int = 0
    link_speed: str = ""
    """As the kernel spells it, "16.0 GT/s PCIe"; a card at rest may have slowed it down."""
    max_link_speed: str = ""
    name: str = ""
    """As lspci prints it, "Intel Corporation Battlemage G21 [Arc B580]"; for people only."""

    @property
    def pci_id(self) -> str:
        """Vendor and device as lspci -n and `files/hardware.yaml` spell them, "8086:e20b"."""
        return f"{self.vendor}:{self.device}"

    @property
    def aperture_mib(self) -> int:
        """
        Size of the region for its memory: how much of that the CPU can map; 0 when it was given no address.

        With Resizable BAR that is all of it, rounded up to a power of two (16 GiB for 12); without, 256 MiB,
        whatever the firmware's menu says (intel/compute-runtime#933). Region 2 on Intel, 1 or 2 on NVIDIA; the others
        are for registers.
        """
        return max(self.bars[1:3], default=0) >> 20


@dataclass(frozen=True)
class NvidiaModule:
    """NVIDIA's kernel module as it says of itself in /proc/driver/nvidia/version."""

    version: str
    """"580.95.05"."""
    open: bool


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
    nvswitches: int = 0
    """NVSwitch bridges, of HGX and DGX machines: without their fabric manager CUDA does not start."""
    kernels: tuple[str, ...] = ()
    """Releases of the kernels in /boot, in no order."""
    held: tuple[str, ...] = ()
    """Packages that dpkg holds at their version."""
    kernel_on_trial: bool = False
    """A kernel was to be booted once, and nobody has judged it yet; see roles/common/kernels.py."""
    nvidia: NvidiaModule | None = None
    """NVIDIA's kernel module, if it is loaded."""

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
gpus=
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
case $c in
0x03*) ;;
0x0680*) get "$d/vendor" && [ "$v" = 0x10de ] && put nvswitch; continue ;;
*) continue ;;
esac
a=${d##*/}
for f in class vendor device subsystem_vendor subsystem_device numa_node boot_vga; do
get "$d/$f" && put pci "$a" $f "$v"
done
[ -L "$d/driver" ] && v=$(readlink "$d/driver") && put pci "$a" driver "${v##*/}"
sed -n "1,6s|^|pci\t$a\tresource\t|p" "$d/resource" 2>/dev/null
for f in "$d"/resource[0-5]_resize; do get "$f" && put pci "$a" resize "$v"; done
u=$(readlink -f "$d"); u=${u%/*}; u=${u%/*}
case $(cat "$d/vendor" "$u/vendor" "$u/class" 2>/dev/null) in 0x8086?0x8086?0x0604*) ;; *) u=$d ;; esac
for f in current_link_width max_link_width current_link_speed max_link_speed; do
get "$u/$f" && put pci "$a" $f "$v"
done
case $(cat "$d/vendor" 2>/dev/null) in 0x8086|0x10de) gpus=yes ;; esac
done
[ -z "$gpus" ] || lspci -Dnn 2>/dev/null | sed -n '/\[03[0-9a-f][0-9a-f]\]/s|^|lspci\t|p'
for d in /dev/dri/*; do [ -c "$d" ] && put dri "${d##*/}"; done
for f in /boot/vmlinuz-*; do [ -e "$f" ] && put installed "${f#/boot/vmlinuz-}"; done
grep -B1 '^Status: hold ' /var/lib/dpkg/status 2>/dev/null | sed -n 's|^Package: |held\t|p'
[ -e TRIAL ] && put trial
sed -n '/^NVRM/s|^|nvrm\t|p' /proc/driver/nvidia/version 2>/dev/null
true
""".replace("MOUNTS", shlex.join(MOUNTS)).replace("TRIAL", TRIAL)


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
            controllers=_controllers(rows["pci"], [row[0] for row in rows["lspci"]]),
            dri=tuple(row[0] for row in rows["dri"]),
            nvswitches=len(rows["nvswitch"]),
            kernels=tuple(row[0] for row in rows["installed"]),
            held=tuple(row[0] for row in rows["held"]),
            kernel_on_trial=bool(rows["trial"]),
            nvidia=nvidia_module(_word(rows["nvrm"])),
        )


def mount_of(report: HardwareReport, path: str) -> Mount | None:
    """Return the file system that one of `MOUNTS` lies on, None for another path: it may be a mount of its own."""
    return next((mount for mount in report.mounts if mount.path == path.rstrip("/")), None)


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


def _controllers(rows: list[list[str]], lspci: list[str]) -> tuple[DisplayController, ...]:
    devices: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for address, name, value, *_ in rows:
        devices[address][name].append(value)
    names = lspci_names(lspci)
    return tuple(_controller(address, values, names.get(address, "")) for address, values in sorted(devices.items()))


def lspci_names(lines: Iterable[str]) -> dict[str, str]:
    """Return address -> name of what ``lspci -nn`` or ``lspci -Dnn`` prints; a bus without a domain is of domain 0."""
    found = (match for line in lines if (match := _LSPCI.match(line)))
    return {match[1] if match[1].count(":") == 2 else f"0000:{match[1]}": match[2] for match in found}


def nvidia_module(line: str) -> NvidiaModule | None:
    """Read the first line of /proc/driver/nvidia/version."""
    found = _NVRM.match(line)
    return NvidiaModule(found[2], open=bool(found[1])) if found else None


def _controller(address: str, values: Mapping[str, list[str]], name: str) -> DisplayController:
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
        largest_bar_mib=max(map(_largest_mib, values.get("resize", [])), default=0),
        link_width=_lanes(value("current_link_width")),
        max_link_width=_lanes(value("max_link_width")),
        link_speed=value("current_link_speed").removeprefix("Unknown"),
        max_link_speed=value("max_link_speed").removeprefix("Unknown"),
        name=name,
    )


def _lanes(text: str) -> int:
    """A width of 255 is what a device says that does not answer any more."""
    return _number(text) if _number(text) < 255 else 0


def _largest_mib(mask: str) -> int:
    """Bit n of sysfs's ``resourceN_resize``: the region can have 2^n MiB (docs.kernel.org, sysfs-bus-pci)."""
    try:
        return 1 << (int(mask, 16).bit_length() - 1) if int(mask, 16) else 0
    except ValueError:
        return 0


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
