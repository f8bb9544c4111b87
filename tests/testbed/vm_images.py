"""The disk of virtual machines: Debian 12 with its own kernel and GRUB, from the same recipe as the other hosts.

One disk serves both kinds of firmware: GRUB for the BIOS in the gap before the first partition, shim and Debian's
signed GRUB on a small EFI partition. Neither a loop device nor a mount is needed to make it, nor must this machine's
kernel know partitions: mke2fs fills the file, and one boot of the disk's own kernel, handed to QEMU directly, installs
GRUB and has update-grub write the menu as on any Debian.
"""

import shlex
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tests.testbed import BedError, images, locked, network, say

Firmware = Literal["bios", "secure-boot"]

QEMU = "qemu-system-x86_64"
TCG = ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64")
KVM = ("-accel", "kvm", "-cpu", "host")
MEMORY_MIB = 1024
KVM_SECONDS = 10
"""A kernel that runs at all gets through the probe in two."""
PREPARE_SECONDS = 300

# The 4 MiB build exists since Debian 12 and Ubuntu 22.04; in its variables Microsoft's keys are enrolled.
OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.ms.fd")
OVMF_VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")

SETUP_ADDRESS = str(network.NETWORK[network.FIRST - 1])
"""Where a machine answers until it is told who it is; one at a time."""
NETWORK_FILE = "etc/systemd/network/10-bed.network"

PACKAGES = (
    "linux-image-amd64", "initramfs-tools", "grub-pc", "grub-efi-amd64-signed", "shim-signed", "dosfstools",
    "e2fsprogs", "pciutils",
    # What role base would install; under emulation that takes minutes, and bare hosts are for containers to try.
    "curl", "gpg", "numactl", "python3", "python3-venv", "zstd", "systemd-timesyncd",
)  # fmt: skip

# initramfs-tools' MODULES=most takes ten minutes under emulation at each kernel installation. Before the packages,
# because the kernel's own installation makes the first one.
INITRAMFS = """
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/bed"
printf '%s\\n' virtio_pci virtio_blk ext4 >"$1/usr/share/initramfs-tools/modules.d/bed"
"""

SECTOR = 512
MIB = 1 << 20
DISK_MIB, EFI_MIB, GAP_MIB = 8192, 64, 1
ROOT_MIB = DISK_MIB - EFI_MIB - GAP_MIB
LINUX, EFI = 0x83, 0xEF
PARTITIONS = ((LINUX, GAP_MIB, ROOT_MIB), (EFI, GAP_MIB + ROOT_MIB, EFI_MIB))
"""Type, start and size in MiB. OVMF starts from an MBR disk, too."""

PREPARED = "bed: the disk is prepared"
PREPARE = f"""\
#!/bin/sh
# The only process of one boot, which makes the disk bootable and powers off, come what may.
# To SysRq this very script, removed and still read, is no reason to keep the disk writable.
trap 'for key in s u o; do echo $key >/proc/sysrq-trigger; sleep 1; done; sleep 60' EXIT
set -ex
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkfs.vfat -n EFI /dev/vda2
mkdir -p /boot/efi
modprobe vfat
mount -t vfat /dev/vda2 /boot/efi
grub-install --target=i386-pc /dev/vda
grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram --uefi-secure-boot
# Debian's signed GRUB looks for its configuration there, however it was started.
[ -e /boot/efi/EFI/debian/grub.cfg ] || install -D /boot/efi/EFI/BOOT/grub.cfg /boot/efi/EFI/debian/grub.cfg
update-grub
umount /boot/efi
rm "$0"
echo '{PREPARED}'
"""

FILES = {
    "usr/local/sbin/bed-prepare": PREPARE,
    "etc/fstab": "LABEL=root / ext4 errors=remount-ro 0 1\nLABEL=EFI /boot/efi vfat umask=0077,noauto 0 0\n",
    # As Debian's own, but for the delay, `quiet` and the console.
    "etc/default/grub": """\
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=`lsb_release -i -s 2> /dev/null || echo Debian`
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=ttyS0"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --speed=115200"
""",
    "etc/hostname": "vm\n",
    "etc/resolv.conf": f"nameserver {network.GATEWAY}\noptions timeout:1 attempts:1\n",
}

# Timers would fire when the clock is set; a journal on disk tells of earlier boots.
SCRIPT = """
chmod 0755 /usr/local/sbin/bed-prepare
echo 'grub-pc grub-pc/install_devices multiselect /dev/vda' | debconf-set-selections
systemctl -q mask dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
mkdir -p /var/log/journal
"""


def network_file(address: str) -> str:
    """What gives the machine its address."""
    return (
        f"[Match]\nName=en* eth*\n\n[Link]\nMACAddress={network.mac_of(address)}\n\n"
        f"[Network]\nAddress={address}/{network.NETWORK.prefixlen}\nLinkLocalAddressing=no\n"
    )


def ubuntu_files(state: Path) -> dict[str, bytes]:
    """What makes the machine say that it is Ubuntu 24.04: its names, its package sources and their keyring."""
    tree = _tree(state)
    debian, ubuntu = (images._layer(state, images.IMAGES[name], tree).files for name in ("bookworm", "noble"))
    return {path: content for path, content in ubuntu.items() if debian.get(path) != content}


def disk(state: Path) -> Path:
    """The directory with `disk.raw`, of which each machine has an overlay; built when it is missing."""
    tree = _tree(state)
    image = images.IMAGES["bookworm"]
    layer = images._layer(state, image, tree)
    files = {path: text.encode() for path, text in {**FILES, NETWORK_FILE: network_file(SETUP_ADDRESS)}.items()}
    layer = replace(layer, files=layer.files | files, script=layer.script + SCRIPT)
    identity = [part for path, content in sorted(layer.files.items()) for part in (path.encode(), content)]
    final = state / "images" / f"vm-disk-{images._digest(tree.name, layer.script, repr(PARTITIONS), *identity)}"

    def build(part: Path) -> None:
        say("Building the disk of virtual machines (once; about a minute)")
        part.mkdir()
        work = part / "work"
        images._assemble(state, replace(image, name="vm"), layer, tree, work)
        _fill(state, tree, work, part / "disk.raw")
        images._remove(work)
        _prepare(state, tree, part / "disk.raw")

    return images._built(state, final, build)


def _tree(state: Path) -> Path:
    """The base tree; its name begins as those of other bookworm trees do, of which the hub learns the mirror."""
    image = images.IMAGES["bookworm"]
    *command, suite = images._mmdebstrap(image)
    command += [f"--include={','.join(PACKAGES)}", f"--essential-hook={INITRAMFS}", suite]
    mirror = images._mirror_arguments(image)
    final = state / "images" / f"bookworm-vm-{images._digest(*command, *mirror)}"

    def build(part: Path) -> None:
        say("Building the base tree of virtual machines (once; about a minute)")
        images._contained([*command, str(part), *mirror], log=state / "logs" / "vm-tree.log")

    return images._built(state, final, build)


def _kernel(tree: Path) -> tuple[Path, Path]:
    """The kernel and the initramfs of a tree."""
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    return kernel, kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img"))


def partition_table(partitions: Sequence[tuple[int, int, int]]) -> bytes:
    """The end of a master boot record, from byte 446 on; the first partition is the active one."""
    far = b"\xfe\xff\xff"  # beyond what cylinders and heads can say
    entries = b"".join(
        struct.pack("<B3sB3sII", 0x80 if not number else 0, far, kind, far, *(n * MIB // SECTOR for n in (start, size)))
        for number, (kind, start, size) in enumerate(partitions)
    )
    return entries.ljust(64, b"\0") + b"\x55\xaa"


def _fill(state: Path, tree: Path, work: Path, target: Path) -> None:
    """Write the partition table and the root filesystem."""
    with target.open("wb") as image:
        image.truncate(DISK_MIB * MIB)
        image.seek(446)
        image.write(partition_table(PARTITIONS))
    script = """
mount -t overlay overlay -o "lowerdir=$2:$3" "$1"
# GRUB 2.06 cannot read the newest features.
exec mke2fs -q -t ext4 -L root -O ^metadata_csum_seed,^orphan_file -E "offset=$5,root_owner=0:0" -d "$1" "$4" "$6"
"""
    arguments = [work / "root", work / "upper", tree, target, GAP_MIB * MIB, f"{ROOT_MIB}M"]
    command = ["sh", "-ec", script, "sh", *(str(argument) for argument in arguments)]
    images._contained(command, log=state / "logs" / "vm-disk.log")


def _prepare(state: Path, tree: Path, target: Path) -> None:
    """Boot the disk once, without its boot loader, to have it installed."""
    kernel, initramfs = _kernel(tree)
    log = state / "logs" / "vm-prepare.log"
    images._contained(
        [
            "timeout", str(PREPARE_SECONDS),
            QEMU, *accelerator(state), "-machine", "pc", "-smp", "2", "-m", str(MEMORY_MIB), "-no-reboot",
            "-nodefaults", "-display", "none", "-serial", "stdio",
            "-drive", f"file={target},if=virtio,format=raw,cache=unsafe",
            "-kernel", str(kernel), "-initrd", str(initramfs),
            "-append", "root=/dev/vda1 rw console=ttyS0 quiet panic=-1 init=/usr/local/sbin/bed-prepare",
        ],
        log=log,
    )  # fmt: skip
    said = log.read_text(errors="replace")
    if PREPARED not in said.replace(f"echo '{PREPARED}'", ""):
        tail = "\n".join(said.splitlines()[-15:])
        raise BedError(f"The disk of virtual machines could not install its GRUB; the end of {log} says:\n{tail}")


def require_qemu() -> None:
    """Refuse early, and say which packages are missing."""
    missing = [
        name for name in (QEMU, "qemu-img", str(OVMF_VARIABLES)) if not (shutil.which(name) or Path(name).exists())
    ]
    if missing:
        raise BedError(
            f"{', '.join(missing)}: missing, and virtual machines need them. Install the packages qemu-system-x86, "
            "qemu-utils and ovmf."
        )


def accelerator(state: Path) -> tuple[str, ...]:
    """How QEMU runs machines here: KVM if an ordinary kernel gets along with it, which a nested one may not."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    noted = state / "kvm"
    with locked(state / "locks" / "kvm"):
        if not noted.exists() or noted.read_text().split()[0] != boot:
            noted.write_text(f"{boot} {'works' if _kvm_works(state) else 'fails'}\n")
        return KVM if noted.read_text().split()[1] == "works" else TCG


def _kvm_works(state: Path) -> bool:
    """Start a kernel without a disk: it panics and resets, and so QEMU ends, if it runs at all."""
    if not Path("/dev/kvm").exists():
        return False
    kernel, _ = _kernel(_tree(state))
    command = [
        "timeout", "--kill-after=1", str(KVM_SECONDS),
        QEMU, *KVM, "-smp", "2", "-m", "512", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1",
    ]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0 and b"Kernel panic" in done.stdout


def command(
    firmware: Firmware, accelerator: Sequence[str], directory: Path, *, mac: str, tap: int, origin: Path | None = None
) -> list[str]:
    """The command line of a machine whose disk is in `directory`; its console and monitor are where it is started.

    With `origin`, it begins with the memory that is kept there, and does not run until told.
    """
    words = [QEMU, *accelerator, "-smp", "2", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"]
    if firmware == "bios":
        words += ["-machine", "pc"]
    else:
        # Only in system management mode may the variables be written, or they would protect nothing.
        words += ["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
        words += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"]
        words += ["-drive", f"if=pflash,unit=1,format=raw,file={directory / 'variables.fd'}"]
    words += ["-drive", f"if=virtio,format=qcow2,cache=unsafe,file={directory / 'disk.qcow2'}"]
    words += ["-netdev", f"tap,id=net,fd={tap}", "-device", f"virtio-net-pci,netdev=net,mac={mac},romfile="]
    words += ["-device", "virtio-rng-pci"]
    words += ["-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"]
    words += ["-qmp", "unix:monitor,server=on,wait=off"]
    if origin:
        words += ["-incoming", f"exec:cat {shlex.quote(str(origin / 'memory'))}", "-S"]
    return words
