"""Hosts that pretend to be machines of their own: with cards on a PCI bus, a boot loader, and a kernel that can fail.

    host = bed.up("gpu", image="metal", machine=Machine(devices=(B580,), panics=("6.14.*",)))

Their apt, systemd and reboots are a host's, and so are the programs that put a boot menu and an initrd together
(grub-mkconfig, grub-reboot, update-initramfs). What they find is made up: machine.sh mounts it at each start, before
sshd, and decides what firmware, GRUB, Linux and its drivers would. Its decisions stand in LOG on the host.
"""

import re
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UUID = "7a1f3c52-9d0e-4b6a-8c35-e1d2f4a6b890"
"""Of the file system from which the machine seems to boot; ids of its boot menu's entries end with it."""

LOG = "/var/log/bed-machine.log"

PACKAGES = ("grub-common", "grub2-common", "initramfs-tools")
"""What an image needs for a machine; none of them touches a disk."""

SCRIPT = Path(__file__).with_name("machine.sh")
MOUNTED = "/usr/local/lib/bed-machine"
NSPAWN = (f"--bind={{disk}}/machine:{MOUNTED}",)


@dataclass(frozen=True)
class PciDevice:
    """A PCI function."""

    address: str
    """"0000:03:00.0"; an Arc's bus is 02 or more, as two of its card's switch come before it."""
    pci_id: str
    """"8086:e20b"."""
    class_code: str = "030000"
    subsystem: str = ""
    """"8086:1100"."""
    bars: tuple[int, ...] = ()
    """Bytes of the memory regions 0 to 5."""
    resizable: int = 0
    """Bytes to which the largest region could grow (Resizable BAR); 0 if it cannot."""
    numa_node: int = -1
    link: tuple[str, int, str, int] = ("16.0 GT/s PCIe", 16, "16.0 GT/s PCIe", 16)
    """Speed and lanes of the slot: now, and at most."""
    driver: str = ""
    """What binds to it on every kernel that is not blind; "": what machine.sh knows of NVIDIA and Arc."""

    @property
    def vendor(self) -> str:
        return self.pci_id[:4]

    @property
    def is_arc(self) -> bool:
        """Such a card has a switch of its own, and its GPU says of its link 2.5 GT/s and one lane, always."""
        return re.fullmatch("8086:(e2|56)..", self.pci_id) is not None


@dataclass(frozen=True)
class Machine:
    """A machine as it is when it is first switched on; `install` again and a reboot is work with the screwdriver."""

    devices: tuple[PciDevice, ...] = ()
    kernels: tuple[str, ...] = ("6.8.0-90-generic",)
    """Installed at first, as packages; the last boots first, once, and then what the boot menu has on top."""
    secure_boot: bool | None = False
    """None: started by a BIOS, which has none."""
    panics: tuple[str, ...] = ()
    """Kernels (fnmatch patterns) that never come up; nor does any without an initrd, or with an empty one."""
    blind: tuple[str, ...] = ()
    """Kernels (patterns) on which no driver takes a GPU."""
    nodes: int = 1
    """NUMA nodes that are shown; system calls know of none."""
    watchdog: bool = True
    """Resets a kernel that panicked; else only one with `panic=N` on its command line is."""
    files: tuple[tuple[str, str], ...] = ()
    """Path and text of what else is on the disk: firmware, a module."""


# --- Cards -----------------------------------------------------------------------------------------------------------

MIB, GIB = 1 << 20, 1 << 30

B580 = PciDevice("0000:03:00.0", "8086:e20b", subsystem="8086:1100", bars=(16 * MIB, 0, 16 * GIB), resizable=16 * GIB,
                 link=("16.0 GT/s PCIe", 8, "16.0 GT/s PCIe", 8))  # fmt: skip
B580_SMALL_BAR = PciDevice("0000:03:00.0", "8086:e20b", subsystem="8086:1100", bars=(16 * MIB, 0, 256 * MIB),
                           resizable=16 * GIB, link=("16.0 GT/s PCIe", 8, "16.0 GT/s PCIe", 8))  # fmt: skip
IGPU = PciDevice("0000:00:02.0", "8086:4680", subsystem="1043:8694", bars=(16 * MIB, 0, 256 * MIB), driver="i915",
                 link=("Unknown", 0, "Unknown", 0))  # fmt: skip
# NVIDIA's regions 1 and 3 have addresses of 64 bits, which take the next one.
RTX4090 = PciDevice("0000:41:00.0", "10de:2684", subsystem="10de:16f4", bars=(16 * MIB, 256 * MIB, 0, 32 * MIB),
                    resizable=32 * GIB)  # fmt: skip
V100 = PciDevice("0000:18:00.0", "10de:1db4", "030200", "10de:1214", bars=(16 * MIB, 16 * GIB, 0, 32 * MIB),
                 link=("8.0 GT/s PCIe", 16, "8.0 GT/s PCIe", 16))  # fmt: skip
H20 = PciDevice("0000:19:00.0", "10de:2329", "030200", "10de:198b", bars=(16 * MIB, 128 * GIB, 0, 32 * MIB),
                link=("32.0 GT/s PCIe", 16, "32.0 GT/s PCIe", 16))  # fmt: skip
NVSWITCH = PciDevice("0000:07:00.0", "10de:22a3", "068000", "10de:1796", bars=(32 * MIB,))
BMC = PciDevice("0000:c3:00.0", "1a03:2000", subsystem="1a03:2000", bars=(64 * MIB, MIB // 4), driver="ast",
                link=("5.0 GT/s PCIe", 1, "5.0 GT/s PCIe", 1))  # fmt: skip

XE_FIRMWARE = ("/lib/firmware/xe/bmg_guc_70.bin", "bed\n")
DG2_FIRMWARE = ("/lib/firmware/i915/dg2_guc_70.bin", "bed\n")


def nvidia_module(kernel: str, version: str, flavour: str, *, signed: bool = False) -> tuple[str, str]:
    """What stands for NVIDIA's module of a kernel, for `Machine.files`; packages for this bed ship the same."""
    text = f"{version}\n{flavour}\n" + ("signed\n" if signed else "")
    return f"/lib/modules/{kernel}/updates/dkms/nvidia.ko", text


# --- The pretended tree ----------------------------------------------------------------------------------------------


def install(machine: Machine, disk: Path, tree: Sequence[Path] = ()) -> None:
    """Put a machine under a host's disk; with `tree`, its image, also what is on the machine's disk at first.

    Without, only the hardware is changed, and the host sees it after its next reboot.
    """
    where = disk / "machine"
    shutil.rmtree(where, ignore_errors=True)
    for name in ("bus/pci/devices", "bus/pci/tree", "bus/pci/drivers", "proc-driver"):
        (where / name).mkdir(parents=True)
    for name in ("osrelease", "cmdline"):
        (where / name).touch()
    _write(where, _settings(machine))
    if machine.secure_boot is not None:
        _write(where / "firmware/efi", _efi(machine.secure_boot))
    if machine.nodes > 1:
        cpus = Path("/sys/devices/system/cpu/online").read_text().strip()
        _write(where / "node", _nodes(machine.nodes, int(re.split("[-,]", cpus)[-1]) + 1))
    console = _console(machine.devices)
    for number, device in enumerate(machine.devices):
        _plug(where / "bus/pci", device, 0x4000000000 + number * 1024 * GIB, device is console)
    shutil.copy(SCRIPT, where / "machine.sh")
    if tree:
        _write(disk / "upper", _at_first(machine, tree))
        wants = disk / "upper/etc/systemd/system/sysinit.target.requires"
        wants.mkdir(parents=True)
        (wants / "bed-machine.service").symlink_to("../bed-machine.service")


def _write(where: Path, files: dict[str, str | bytes]) -> None:
    for path, content in files.items():
        target = where / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        if target.suffix == ".postrm":
            target.chmod(0o755)


def _settings(machine: Machine) -> dict[str, str | bytes]:
    """What machine.sh reads."""

    def array(words: Sequence[str]) -> str:
        return "(" + " ".join(f"'{word}'" for word in words) + ")"

    settings = (
        f"UUID={UUID}\nPANICS={array(machine.panics)}\nBLIND={array(machine.blind)}\nWATCHDOG={machine.watchdog:d}\n"
    )
    devices = "".join(
        f"{device.address} {device.pci_id} {device.class_code} {device.driver}\n"
        for device in sorted(machine.devices, key=lambda device: device.address)
    )
    return {"settings": settings, "devices": devices}


def _efi(secure_boot: bool) -> dict[str, str | bytes]:
    """Two variables of UEFI; four bytes of attributes precede their values."""
    vendor = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
    return {
        "fw_platform_size": "64\n",
        f"efivars/SecureBoot-{vendor}": bytes((6, 0, 0, 0, secure_boot)),
        f"efivars/SetupMode-{vendor}": bytes((6, 0, 0, 0, 0)),
    }


def _nodes(nodes: int, cpus: int) -> dict[str, str | bytes]:
    """The processors in as many parts; where they are fewer than nodes, the last ones have memory alone."""
    files: dict[str, str | bytes] = {name: f"0-{nodes - 1}\n" for name in ("online", "possible", "has_memory")}
    each = max(1, cpus // nodes)
    for node in range(nodes):
        first, end = min(node * each, cpus), cpus if node == nodes - 1 else min((node + 1) * each, cpus)
        mask = f"{(1 << end) - (1 << first):0{(cpus + 3) // 4}x}"
        groups = [mask[max(0, at - 8) : at] for at in range(len(mask), 0, -8)]
        files[f"node{node}/cpulist"] = (
            "" if first == end else f"{first}-{end - 1}" if end - first > 1 else f"{first}"
        ) + "\n"
        files[f"node{node}/cpumap"] = ",".join(reversed(groups)) + "\n"
        files[f"node{node}/distance"] = " ".join("10" if other == node else "21" for other in range(nodes)) + "\n"
        files[f"node{node}/meminfo"] = "".join(
            f"Node {node} {name + ':':<15}{kib:>10} kB\n"
            for name, kib in (("MemTotal", 64 << 20), ("MemFree", 60 << 20), ("MemUsed", 4 << 20))
        )
    return files


def _console(devices: Sequence[PciDevice]) -> PciDevice | None:
    """The one with the firmware's console: a BMC's (ASPEED, Matrox), else the first that has outputs."""
    screens = [device for device in devices if device.class_code == "030000"]
    return next((device for device in screens if device.vendor in ("1a03", "102b")), screens[0] if screens else None)


def _plug(bus: Path, device: PciDevice, memory: int, is_console: bool) -> None:
    """Show a device, behind the ports of its card if it has some."""
    domain, number, _ = device.address.split(":")
    place = bus / "tree"
    link = device.link
    if device.is_arc:
        for step, port, pci_id in ((2, "00.0", "8086:e2ff"), (1, "01.0", "8086:e2f0")):
            address = f"{domain}:{int(number, 16) - step:02x}:{port}"
            place /= address
            bridge = PciDevice(address, pci_id, "060400", numa_node=device.numa_node, link=link)
            _write(place, _sysfs(bridge, memory, False))
            _show(bus, place)
            link = ("2.5 GT/s PCIe", 1, "2.5 GT/s PCIe", 1)
    place /= device.address
    _write(place, _sysfs(device, memory, is_console, link))
    _show(bus, place)


def _show(bus: Path, place: Path) -> None:
    (bus / "devices" / place.name).symlink_to(Path("..") / place.relative_to(bus))


def _sysfs(
    device: PciDevice, memory: int, is_console: bool, link: tuple[str, int, str, int] | None = None
) -> dict[str, str | bytes]:
    """A device's files, https://docs.kernel.org/PCI/sysfs-pci.html; its regions begin at `memory`."""
    vendor, identity = device.pci_id.split(":")
    subsystem = (device.subsystem or "0000:0000").split(":")
    speed, lanes, max_speed, max_lanes = link or device.link
    files: dict[str, str | bytes] = {
        "class": f"0x{device.class_code}\n",
        "vendor": f"0x{vendor}\n",
        "device": f"0x{identity}\n",
        "subsystem_vendor": f"0x{subsystem[0]}\n",
        "subsystem_device": f"0x{subsystem[1]}\n",
        "revision": "0x00\n",
        "irq": "0\n",
        "numa_node": f"{device.numa_node}\n",
        "resource": _resources(device.bars, memory),
        "current_link_speed": f"{speed}\n",
        "current_link_width": f"{lanes}\n",
        "max_link_speed": f"{max_speed}\n",
        "max_link_width": f"{max_lanes}\n",
        # For lspci: the first 64 bytes; a bridge's header is of type 1.
        "config": struct.pack(
            "<HHHH4B4B24xHH16x",
            *(int(vendor, 16), int(identity, 16), 7, 0x10, 0, *reversed(bytes.fromhex(device.class_code))),
            *(16, 0, int(device.class_code.startswith("0604")), 0, int(subsystem[0], 16), int(subsystem[1], 16)),
        ),
    }
    if device.class_code.startswith("03"):
        files["boot_vga"] = f"{is_console:d}\n"
    if device.resizable:
        largest = max(range(len(device.bars)), key=lambda index: device.bars[index])
        # Bit n: it can be 2^n MiB.
        sizes = (device.resizable // MIB << 1) - 256
        files[f"resource{largest}_resize"] = f"{sizes:016x}\n"
    return files


def _resources(bars: Sequence[int], memory: int) -> str:
    """Begin, end and flags of each region; six are the device's own, the seventh its ROM's, the rest a bridge's."""
    lines = []
    for size in (*bars, *[0] * (13 - len(bars))):
        if size:
            memory += -memory % size
            # linux/ioport.h: memory; of 64 bits and prefetchable where it is large.
            lines.append((memory, memory + size - 1, 0x14220C if size > 16 * MIB else 0x40200))
            memory += size
        else:
            lines.append((0, 0, 0))
    return "".join(f"0x{begin:016x} 0x{end:016x} 0x{flags:016x}\n" for begin, end, flags in lines)


# --- What is on its disk at first ------------------------------------------------------------------------------------

UNIT = f"""\
[Unit]
Description=Firmware, boot loader and kernel that the bed pretends
DefaultDependencies=no
Conflicts=shutdown.target
# udev stays away while /sys is read-only, which must be so when it looks.
Before=sysinit.target shutdown.target systemd-udevd.service systemd-udev-trigger.service systemd-sysctl.service

[Service]
Type=oneshot
RemainAfterExit=yes
TimeoutStartSec=infinity
StandardOutput=journal+console
ExecStart={MOUNTED}/machine.sh boot
"""


CLOCK = """\
# A container may not set the clock, and systemd knows one when it sees it; the machine that is pretended keeps its own.
[Unit]
ConditionVirtualization=
ConditionCapability=

[Service]
Type=exec
AmbientCapabilities=
CapabilityBoundingSet=
WatchdogSec=0
ExecStart=
ExecStart=/bin/sleep infinity
"""

INFO = "var/lib/dpkg/info"

_POSTRM = """\
#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
DEB_MAINT_PARAMS="$*" run-parts --arg=KERNEL --arg=/boot/vmlinuz-KERNEL /etc/kernel/postrm.d
"""


def _at_first(machine: Machine, tree: Sequence[Path]) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {
        "etc/systemd/system/bed-machine.service": UNIT,
        "etc/systemd/system/systemd-timesyncd.service.d/50-bed.conf": CLOCK,
        # GRUB's block of 1024 bytes. The one-shot entry is how an administrator would have started the last one.
        "boot/grub/grubenv": (
            f"# GRUB Environment Block\nnext_entry={menu_id(machine.kernels[-1])}\n".ljust(1024, "#")
            if len(machine.kernels) > 1
            else "# GRUB Environment Block\n".ljust(1024, "#")
        ),
    }
    status = next(path for layer in tree if (path := layer / "var/lib/dpkg/status").exists()).read_text()
    for kernel in machine.kernels:
        files[f"boot/vmlinuz-{kernel}"] = f"vmlinuz of {kernel}\n"
        files[f"boot/initrd.img-{kernel}"] = f"initrd of {kernel}\n"
        files[f"usr/lib/modules/{kernel}/modules.builtin"] = ""
        for package, owned in (
            (f"linux-image-{kernel}", Path(f"/boot/vmlinuz-{kernel}")),
            (f"linux-modules-{kernel}", Path(f"/lib/modules/{kernel}/modules.builtin")),
        ):
            paths = ["/.", *reversed(owned.parents[:-1]), owned]
            files[f"{INFO}/{package}.list"] = "".join(f"{path}\n" for path in paths)
            files[f"{INFO}/{package}.md5sums"] = ""
            status += f"\n{_dpkg_entry(package, kernel)}"
        files[f"{INFO}/linux-image-{kernel}.postrm"] = _POSTRM.replace("KERNEL", kernel)
    files["var/lib/dpkg/status"] = status
    for name, text in machine.files:
        # /lib is a link to /usr/lib.
        files[re.sub("^/lib/", "/usr/lib/", name).lstrip("/")] = text
    return files


def menu_id(kernel: str) -> str:
    """How the boot menu calls a kernel's entry; grub-reboot(8) and GRUB_DEFAULT take it."""
    return f"gnulinux-advanced-{UUID}>gnulinux-{kernel}-advanced-{UUID}"


def package_version(kernel: str) -> str:
    """The version of a kernel's packages, as noble's: 6.8.0-90.91, and of its later (HWE) ones 6.17.0-14.14~24.04.1."""
    abi = re.sub("-[^-]*$", "", kernel)
    number = int(re.findall("[0-9]+", abi)[-1])
    return f"{abi}.{number}~24.04.1" if kernel.endswith("-generic") and abi[:4] != "6.8." else f"{abi}.{number + 1}"


def _dpkg_entry(package: str, kernel: str) -> str:
    return (
        f"Package: {package}\nStatus: install ok installed\nPriority: optional\nSection: kernel\nInstalled-Size: 1\n"
        f"Maintainer: bed <root@localhost>\nArchitecture: amd64\nVersion: {package_version(kernel)}\n"
        f"Description: {kernel}, as the bed pretends it\n"
    )


# --- What its image has beside PACKAGES ------------------------------------------------------------------------------

_DETECT_VIRT = f"""\
#!/bin/sh
# The bed's: this machine is no container.
[ -e {MOUNTED} ] || exec /usr/bin/systemd-detect-virt "$@"
for word; do
    case $word in
        -q | --quiet) quiet=1 ;;
        -c | --container | -v | --vm) ;;
        *) exec /usr/bin/systemd-detect-virt "$@" ;;
    esac
done
[ "${{quiet-}}" ] || echo none
exit 1
"""

_UNAME = """\
#!/bin/sh
# The bed's: the kernel that is pretended.
case $* in
    -r | --kernel-release) exec cat /proc/sys/kernel/osrelease ;;
    *) exec /usr/bin/uname "$@" ;;
esac
"""

_GRUB_PROBE = f"""\
#!/bin/sh
# The bed's: / is the second partition of a disk. The real one finds none below an overlay.
while [ $# -gt 0 ]; do
    case $1 in
        --target=*) target=${{1#*=}} ;;
        -t | --target) target=$2; shift ;;
    esac
    shift
done
case $target in
    device) echo /dev/sda2 ;;
    drive) echo '(hd0,gpt2)' ;;
    fs) echo ext2 ;;
    fs_uuid) echo {UUID} ;;
    partmap) echo gpt ;;
    hints_string) echo '--hint-bios=hd0,gpt2 --hint-efi=hd0,gpt2 --hint-baremetal=ahci0,gpt2' ;;
    compatibility_hint) echo hd0,gpt2 ;;
esac
"""

_MKINITRAMFS = """\
#!/bin/sh
# The bed's: there are no modules to put into it.
for word; do
    [ "${before-}" != -o ] || output=$word
    before=$word
done
[ "${output-}" ] || exec /usr/sbin/mkinitramfs.distrib "$@"
[ -d "/lib/modules/$word" ] || echo "W: missing /lib/modules/$word" >&2
echo "initrd of $word" >"$output"
"""

_DEFAULT_GRUB = """\
# If you change this file, run 'update-grub' afterwards to update
# /boot/grub/grub.cfg.

GRUB_DEFAULT=0
GRUB_TIMEOUT_STYLE=hidden
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=`( . /etc/os-release && echo ${NAME%% *} )`
GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"
GRUB_CMDLINE_LINUX=""
"""

IMAGE_FILES = {
    "usr/local/bin/systemd-detect-virt": _DETECT_VIRT,
    "usr/local/bin/uname": _UNAME,
    "usr/sbin/grub-probe.bed": _GRUB_PROBE,
    "usr/sbin/mkinitramfs.bed": _MKINITRAMFS,
    "etc/default/grub": _DEFAULT_GRUB,
    # Maintainers' scripts ask systemd-detect-virt, too.
    "etc/apt/apt.conf.d/91bed-machine": (
        'DPkg::Path "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";\n'
    ),
}

IMAGE_SCRIPT = """
chmod 0755 /usr/local/bin/systemd-detect-virt /usr/local/bin/uname
for program in /usr/sbin/grub-probe /usr/sbin/mkinitramfs; do
    dpkg-divert --quiet --local --rename --divert $program.distrib --add $program
    chmod 0755 $program.bed
    mv $program.bed $program
done
"""
"""Runs in the image. dpkg-divert: what apt upgrades later goes beside ours."""
