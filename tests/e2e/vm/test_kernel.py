"""Another kernel on a machine that really boots it: through apt, GRUB, a panic and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.support import Run, difference, run, snapshot
from tests.e2e.vm.conftest import MakeVM
from tests.testbed.vm import BedVM

BREAK = """\
#!/bin/sh
# Runs after the hook that makes the ramdisk, and leaves the beginning of it.
case $1 in 6.1.*) ;; *) truncate --size 1M /boot/initrd.img-$1 ;; esac
"""


def full(tmp_path: Path, machine: BedVM, **kernel: Any) -> Run:
    data = {**machine.pyinfra_data(), "tags": ["cpu"], "kernel": {"min": "6.12", **kernel}}
    return run(tmp_path, {machine.name: data}, timeout=1200)


def kernel_of(machine: BedVM) -> tuple[int, int]:
    major, minor, *_ = machine.ssh("uname -r").stdout.split(".")
    return int(major), int(minor)


def test_a_kernel_from_backports_is_tried_gives_way_when_broken_and_stays_when_whole(
    make_vm: MakeVM, tmp_path: Path
) -> None:
    machine = make_vm()
    assert kernel_of(machine) == (6, 1)
    machine.ssh("cat >/etc/kernel/postinst.d/zzz-break && chmod +x /etc/kernel/postinst.d/zzz-break", input=BREAK)

    broken = full(tmp_path, machine)
    assert broken.code != 0
    assert "was booted as a trial and did not come up; the host is back on 6.1." in broken.output, broken.output
    assert machine.boots == 3, "the start, the trial, and the old kernel again"
    assert kernel_of(machine) == (6, 1)

    new = machine.ssh("ls /boot/vmlinuz-* | grep -v '/vmlinuz-6[.]1[.]' | sed s,.*vmlinuz-,,").stdout.strip()
    # As the message says: mended, and allowed again. That it is refused before is seen in test_drivers.py.
    machine.ssh(f"rm /etc/kernel/postinst.d/zzz-break; update-initramfs -c -k {new}", timeout=600)
    machine.ssh(f"sed -i /^{new}$/d /var/lib/metal2model/kernel/failed")
    whole = full(tmp_path, machine).succeeded()
    assert machine.boots == 4, whole.output
    assert kernel_of(machine) >= (6, 12)
    assert f"gnulinux-{new}-advanced-" in machine.ssh("grub-editenv list").stdout
    assert "linux-image-amd64" in machine.ssh("apt-mark showhold").stdout.split()

    # At once: GRUB reads the file system without its journal, where what a run decided last may still be alone.
    machine.power_cycle()
    assert kernel_of(machine) >= (6, 12)
    assert full(tmp_path, machine).succeeded().changed(machine.name) == []


def test_under_secure_boot_an_unsigned_kernel_is_refused_before_any_change(make_vm: MakeVM, tmp_path: Path) -> None:
    machine = make_vm(firmware="secure-boot", ubuntu_names=True)
    before = snapshot(machine)
    refused = full(tmp_path, machine, source="mainline", version="6.12.3")
    assert refused.code != 0
    assert "kernel/source: Secure Boot is on; mainline kernels are not signed and would not boot" in refused.output
    assert difference(before, snapshot(machine)) == []
