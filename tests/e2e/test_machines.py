"""A host that pretends to be a machine: kernels come and go by real hooks and a boot menu, and cards by the kernel."""

from __future__ import annotations

import pytest

from tests.conftest import MakeHost
from tests.testbed import BedError
from tests.testbed.hosts import BedHost
from tests.testbed.machines import B580, BMC, LOG, RTX4090, XE_FIRMWARE, Machine, install, menu_id, nvidia_module

FIRST, GOOD, BAD, BLIND = "6.8.0-90-generic", "6.17.0-14-generic", "6.18.0-1-generic", "6.19.0-1-generic"
MODULES = [nvidia_module(kernel, "580.95.05", "open", signed=kernel == GOOD) for kernel in (FIRST, GOOD)]


def add_kernel(host: BedHost, kernel: str) -> None:
    """What the postinst of a kernel's package does."""
    image = f"/boot/vmlinuz-{kernel}"
    host.ssh(f"mkdir -p /lib/modules/{kernel} && echo {kernel} >{image}")
    host.ssh(
        f"DEB_MAINT_PARAMS=configure run-parts --exit-on-error --arg={kernel} --arg={image} /etc/kernel/postinst.d"
    )


def kernel_of(host: BedHost) -> str:
    """What uname says, and everything else with it."""
    said = host.ssh("uname -r; cat /proc/sys/kernel/osrelease /run/bed-machine /proc/cmdline").stdout.split()
    assert said[:4] == [said[0]] * 3 + [f"BOOT_IMAGE=/boot/vmlinuz-{said[0]}"]
    return said[0]


def drivers_of(host: BedHost) -> dict[str, str]:
    """PCI address -> driver."""
    links = host.ssh("cd /sys/bus/pci/devices; for d in */driver; do echo $d $(readlink $d); done").stdout.splitlines()
    return {line.split("/")[0]: line.rpartition("/")[2] for line in links if " /" in line}


def test_a_machine_boots_what_its_menu_says_and_falls_back(make_host: MakeHost) -> None:
    machine = Machine(
        devices=(B580, RTX4090, BMC),
        kernels=(FIRST,),
        secure_boot=True,
        panics=("6.18.*",),
        blind=("6.19.*",),
        nodes=2,
        files=(XE_FIRMWARE, *MODULES),
    )
    host = make_host("metal", machine=machine)
    assert host.ssh("systemctl is-system-running --wait").stdout == "running\n"
    assert host.ssh("systemd-detect-virt; systemd-detect-virt --container", check=False).stdout == "none\nnone\n"
    assert host.ssh("systemd-detect-virt --quiet --container", check=False).returncode == 1
    assert host.ssh("cat /sys/devices/system/node/online").stdout == "0-1\n"
    assert host.ssh("od -An -tu1 -j4 /sys/firmware/efi/efivars/SecureBoot-*").stdout.split() == ["1"]

    # As it comes: no driver for one card, an unsigned module for the other.
    assert kernel_of(host) == FIRST
    assert drivers_of(host) == {RTX4090.address: "nouveau", BMC.address: "ast"}
    dri = host.ssh("for f in /dev/dri/*; do [ -c $f ] && echo ${f##*/}; done; true").stdout.split()
    assert dri == ["card0", "card1", "renderD128"], "a BMC renders nothing"
    assert host.ssh("ls /proc/driver").stdout == ""

    # A newer kernel is the first entry of the menu.
    add_kernel(host, GOOD)
    host.reboot()
    assert kernel_of(host) == GOOD
    assert drivers_of(host) == {B580.address: "xe", RTX4090.address: "nvidia", BMC.address: "ast"}
    version = host.ssh("cat /proc/driver/nvidia/version").stdout
    assert version.startswith("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (")

    # One that panics is tried once; then the saved entry counts.
    add_kernel(host, BAD)
    host.ssh("mkdir -p /etc/default/grub.d && echo GRUB_DEFAULT=saved >/etc/default/grub.d/90-test.cfg && update-grub")
    host.ssh(f"grub-set-default '{menu_id(GOOD)}' && grub-reboot '{menu_id(BAD)}'")
    host.reboot()
    assert kernel_of(host) == GOOD
    assert f"\n{BAD} panics, by the one-shot entry " in host.ssh(f"cat {LOG}").stdout
    host.reboot()
    assert kernel_of(host) == GOOD
    assert host.ssh(f"grep -c '{BAD} panics' {LOG}").stdout == "1\n"

    # Without an initrd none comes up, and update-initramfs helps.
    host.ssh(f": >/boot/initrd.img-{FIRST}; grub-reboot '{menu_id(FIRST)}'")
    host.reboot()
    assert kernel_of(host) == GOOD
    host.ssh(f"update-initramfs -u -k {FIRST}; grub-reboot '{menu_id(FIRST)}'")
    host.reboot()
    assert kernel_of(host) == FIRST

    # A kernel may come up and see no card; and cards may be taken out.
    add_kernel(host, BLIND)
    host.ssh(f"grub-set-default '{menu_id(BLIND)}'")
    install(Machine(devices=(RTX4090,), blind=machine.blind, secure_boot=None), host.disk)
    host.reboot()
    assert kernel_of(host) == BLIND
    assert drivers_of(host) == {} and host.ssh("ls /dev/dri", check=False).returncode != 0
    assert host.ssh("ls /sys/bus/pci/devices").stdout.split() == [RTX4090.address]
    assert host.ssh("ls /sys/firmware", check=False).returncode != 0


def test_apt_takes_a_machines_kernels_for_packages(make_host: MakeHost) -> None:
    host = make_host("metal-bookworm", machine=Machine(kernels=("6.1.0-40-amd64", "6.1.0-41-amd64")))
    assert host.ssh(
        "dpkg --audit; dpkg --verify linux-image-6.1.0-40-amd64; dpkg -S /boot/vmlinuz-6.1.0-40-amd64"
    ).stdout == ("linux-image-6.1.0-40-amd64: /boot/vmlinuz-6.1.0-40-amd64\n")
    host.ssh("DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge linux-image-6.1.0-40-amd64")
    assert host.ssh("ls /boot").stdout.split() == ["grub", "initrd.img-6.1.0-41-amd64", "vmlinuz-6.1.0-41-amd64"]
    assert "6.1.0-40" not in host.ssh("cat /boot/grub/grub.cfg").stdout


def test_a_machine_needs_an_image_with_a_boot_loader(make_host: MakeHost) -> None:
    with pytest.raises(BedError, match=r"noble host has no boot loader.*these have: metal"):
        make_host("noble", machine=Machine())
