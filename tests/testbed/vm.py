"""Virtual machines: hosts of the bed with a kernel, a boot loader and a power switch of their own.

    with Bed.open(owner=os.getpid()) as bed:
        machine = vm.up(bed, "metal1")
        machine.ssh("uname -r").stdout
        machine.power_cycle()
        bed.down("metal1")

They are records among those of the other hosts, so that `./run hosts`, `ssh` and `down` know them and what clears away
leftovers finds them. `vm_images.py` makes their disk. Where the kernel has to be emulated, a machine does not boot:
it goes on where one that was booted once stands, from a snapshot.
"""

import base64
import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.testbed import RUN_DIR, BedError, hub, images, locked, network, say, vm_images
from tests.testbed.hosts import Bed, BedHost, Record, check_name, names_of, wait, wait_for_ssh
from tests.testbed.vm_images import Firmware

BOOT_SECONDS: Mapping[Firmware, float] = {"bios": 120, "secure-boot": 240}
GOING_DOWN_SECONDS = 90.0
"""From the order to reboot to GRUB."""
START_SECONDS = 20.0
SNAPSHOT_SECONDS = 60.0
ORIGINAL = "vm-original"
"""The machine of which a snapshot is made, while that lasts."""
SETTLE = "systemctl is-system-running --wait; apt-get -qq update; sync"
"""What it does before. An update of packages' lists takes a minute, if emulated, and seconds where nothing is new."""

BOOTED = re.compile(r"Loading Linux \S+")
"""What GRUB says when it starts a kernel, by the entries that grub-mkconfig writes."""

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


class BedVM(BedHost):
    """A virtual machine that is up; its disk and its console last as long as it is up, through all its boots."""

    @property
    def firmware(self) -> Firmware:
        return _firmware(self.record)

    @property
    def boots(self) -> int:
        """How often GRUB has started a kernel here, the first start included, whatever became of it."""
        return len(BOOTED.findall(self.console()))

    def await_boot(self, number: int) -> None:
        """Wait until GRUB starts a kernel for the `number`th time, and then for sshd."""
        limit = GOING_DOWN_SECONDS + BOOT_SECONDS[self.firmware]
        wait(lambda: self.boots >= number, limit, f"boot {number} of {self.name}")
        wait_for_ssh(self.record, BOOT_SECONDS[self.firmware])

    def reboot(self) -> None:
        """Reboot from inside, and wait for sshd."""
        number = self.boots + 1
        self.ssh("systemctl reboot", check=False)
        self.await_boot(number)

    def power_cycle(self) -> None:
        """Press the reset button, and wait for sshd; what the machine has not written to its disk is lost."""
        number = self.boots + 1
        with _monitor(self.record.run) as order:
            order("system_reset")
        self.await_boot(number)


def up(bed: Bed, name: str, *, firmware: Firmware = "bios", ubuntu_names: bool = False) -> BedVM:
    """Start a machine and wait for its sshd.

    With `ubuntu_names` it says that it is Ubuntu 24.04, and has the package sources of one.
    """
    check_name(name)
    vm_images.require_qemu()
    # One at a time: each answers at the same address until it has its own.
    with locked(RUN_DIR / "vm-lock"):
        accelerator = vm_images.accelerator(bed.state)
        origin = _snapshot(bed, firmware) if accelerator == vm_images.TCG else None
        files = vm_images.ubuntu_files(bed.state) if ubuntu_names else {}

        def start(record: Record) -> None:
            _make_disk(bed, record, Path(record.disk), origin)
            _power_on(record, accelerator, Path(record.disk), origin)

        def settle(record: Record) -> None:
            if origin:
                _resume(record)
            _introduce(record, files)

        (record,) = bed.admit([name], f"vm-{firmware}", start, settle)
    return BedVM(record)


# --- Snapshot --------------------------------------------------------------------------------------------------------


def _snapshot(bed: Bed, firmware: Firmware) -> Path:
    """A directory with the disk, the memory and the console of a machine that has booted; made when it is missing."""
    disk = vm_images.disk(bed.state)
    version = subprocess.run([vm_images.QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    recipe = vm_images.command(firmware, vm_images.TCG, Path(), mac="", tap=0)
    final = bed.state / "images" / f"vm-running-{images._digest(disk.name, version, SETTLE, *recipe)}"

    def build(part: Path) -> None:
        say(f"Booting the machine that others begin as ({firmware}; once; about a minute)")
        part.mkdir()

        def start(record: Record) -> None:
            _make_disk(bed, record, part, None)
            _power_on(record, vm_images.TCG, part, None)

        def settle(record: Record) -> None:
            guest = _await_setup(record)
            guest.ssh("cat >/etc/hosts", input=names_of(record, hub.served_names()))
            guest.ssh(SETTLE, check=False, timeout=240)
            with _monitor(record.run) as order:
                order("stop")
                # As fast as it can: nobody waits for the machine's other work.
                order("migrate-set-parameters", **{"max-bandwidth": 1 << 34})
                order("migrate", uri=f"exec:cat >{shlex.quote(str(part / 'memory'))}")
                wait(lambda: order("query-migrate")["status"] == "completed", SNAPSHOT_SECONDS, "a snapshot")
            shutil.copy(record.run / "console.log", part)

        bed.admit([ORIGINAL], f"vm-{firmware}", start, settle)
        bed.down(ORIGINAL)

    return images._built(bed.state, final, build)


def _resume(record: Record) -> None:
    """Let a machine go on once its memory is read."""
    with _monitor(record.run) as order:
        wait(lambda: order("query-status")["status"] != "inmigrate", SNAPSHOT_SECONDS, f"the memory of {record.name}")
        order("cont")


# --- Making ----------------------------------------------------------------------------------------------------------


def _firmware(record: Record) -> Firmware:
    return "secure-boot" if record.image == "vm-secure-boot" else "bios"


def _make_disk(bed: Bed, record: Record, directory: Path, origin: Path | None) -> None:
    """An overlay over the common disk, or over that of the snapshot, whose console the machine takes over, too."""
    images._remove(directory / "disk.qcow2")
    directory.mkdir(parents=True, exist_ok=True)
    below = ("-F", "qcow2", "-b", origin / "disk.qcow2") if origin else ("-F", "raw", "-b", _raw(bed))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, directory / "disk.qcow2"], check=True)
    if _firmware(record) == "secure-boot":
        shutil.copyfile(origin / "variables.fd" if origin else vm_images.OVMF_VARIABLES, directory / "variables.fd")
    if origin:
        shutil.copyfile(origin / "console.log", record.run / "console.log")


def _raw(bed: Bed) -> Path:
    return vm_images.disk(bed.state) / "disk.raw"


def _power_on(record: Record, accelerator: Sequence[str], directory: Path, origin: Path | None) -> None:
    # Who this is, with the time of its start, as supervise.sh has it; the shell becomes QEMU and keeps both.
    note = 'read -r -a stat </proc/$$/stat; echo "$$ ${stat[21]}" >pid.part && mv pid.part pid && exec "$@"'
    tap = _tap(record)
    try:
        command = vm_images.command(
            _firmware(record), accelerator, directory, mac=network.mac_of(record.address), tap=tap, origin=origin
        )
        with (record.run / "console.log").open("ab") as console:
            qemu = subprocess.Popen(
                ["bash", "-c", note, "bash", *command],
                cwd=record.run, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                pass_fds=[tap], start_new_session=True,
            )  # fmt: skip
    finally:
        os.close(tap)
    started = (record.run / "monitor").exists
    wait(lambda: started() or qemu.poll() is not None, START_SECONDS, f"QEMU of {record.name}")
    if qemu.poll() is not None:
        raise BedError(f"QEMU of {record.name} ended at once and says:\n{BedHost(record).console()[-1000:]}")


def _tap(record: Record) -> int:
    """A network card's other end, on the bridge; it goes with the last process that has it open."""
    name = f"m2mvm{record.address.rpartition('.')[2]}"
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        # A bridge takes the lowest address of its ports. This one is none of those: hosts would be deaf for a while,
        # whenever a machine comes or goes.
        address = f"fe{network.mac_of(record.address)[2:]}"
        network._ip("link", "set", "dev", name, "address", address, "master", network.BRIDGE, "up")
    except BaseException:
        os.close(handle)
        raise
    return handle


def _await_setup(record: Record) -> BedHost:
    """The machine at the address where it is before it has its own."""
    there = replace(record, address=vm_images.SETUP_ADDRESS)
    wait_for_ssh(there, BOOT_SECONDS[_firmware(record)])
    return BedHost(there)


def _introduce(record: Record, files: Mapping[str, bytes]) -> None:
    """Tell the machine the time and who it is."""
    own = {
        "etc/hostname": f"{record.name}\n",
        "etc/hosts": names_of(record, hub.served_names()),
        vm_images.NETWORK_FILE: vm_images.network_file(record.address),
    }
    everything = {**files, **{path: text.encode() for path, text in own.items()}}
    guest = _await_setup(record)
    # The time is asked only now: where the machine is emulated beside other work, its sshd takes a while to answer.
    guest.ssh("sh -e", input=introduction(time.time(), everything))
    wait_for_ssh(record)


def introduction(now: float, files: Mapping[str, bytes]) -> str:
    """What a shell on the machine has to do, the change of address last and after this connection's end."""
    lines = [f"date --set=@{now:.3f} >/dev/null"]
    for path, content in files.items():
        target = shlex.quote(f"/{path}")
        lines.append(f"mkdir -p {shlex.quote(str(Path('/', path).parent))}")
        lines.append(f"base64 -d >{target} <<X\n{base64.encodebytes(content).decode()}X")
    lines += [
        "hostname -F /etc/hostname",
        "sync",
        "(sleep 0.2; networkctl reload; networkctl reconfigure $(ls /sys/class/net | grep ^e)) >/dev/null 2>&1 &",
    ]
    return "\n".join(lines) + "\n"


# --- Monitor ---------------------------------------------------------------------------------------------------------


class _Order:
    """QEMU's own protocol: https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html."""

    def __init__(self, connection: socket.socket) -> None:
        self.stream = connection.makefile("rw")
        self.stream.readline()  # the greeting
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        for line in self.stream:
            answer = json.loads(line)
            if "error" in answer:
                raise BedError(f"QEMU refuses {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise BedError(f"QEMU ended at {command}.")


@contextmanager
def _monitor(run: Path) -> Iterator[_Order]:
    """Orders to the QEMU of a host."""
    directory = os.open(run, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            # A socket's path may have 107 bytes, and the directory's is anybody's choice.
            connection.connect(f"/proc/self/fd/{directory}/monitor")
            yield _Order(connection)
    finally:
        os.close(directory)
