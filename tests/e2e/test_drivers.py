"""
Kernels and GPU drivers on hosts that pretend to be machines: real apt, dpkg, systemd and reboots, stand-in packages.

What is pretended: the PCI bus, firmware, boot loader and kernel (machines.py), the drivers and their tools
(stand_ins.py). What is not: the roles, and how apt and systemd take what they do. The oracle is the host's own.
"""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conftest import MakeHost
from tests.e2e.support import ROOT, Run, command, difference, run, snapshot
from tests.testbed import stand_ins, state_dir
from tests.testbed.hosts import BedHost, wait, wait_for_ssh
from tests.testbed.machines import B580, B580_SMALL_BAR, BMC, H20, IGPU, NVSWITCH, RTX4090, V100, Machine

OLD, HWE = "6.8.0-90-generic", "6.17.0-14-generic"
SECOND_4090 = replace(RTX4090, address="0000:61:00.0")
BRANCH = "580-server"


def declared(host: BedHost, tags: Sequence[str], user: str = "root", **more: Any) -> dict[str, Any]:
    """What the inventory says; the keys are the bed's, as a company's own archive would have its own."""
    keys = stand_ins.fingerprints(state_dir())
    intel = {"ppa_key": keys["ppa"], "intel_keys": [keys["intel"], keys["intel-2024"]], **more.pop("intel_gpu", {})}
    kernel = {"mainline_key": keys["mainline"], **more.pop("kernel", {})}
    return {**host.pyinfra_data(user), "tags": list(tags), "intel_gpu": intel, "kernel": kernel, **more}


def full(tmp_path: Path, host: BedHost, tags: Sequence[str], **more: Any) -> Run:
    return run(tmp_path, {host.name: declared(host, tags, **more)})


def kernel_of(host: BedHost) -> str:
    return host.ssh("cat /proc/sys/kernel/osrelease").stdout.strip()


def version_of(host: BedHost, package: str) -> str:
    """NVIDIA's version of an installed package, "" without."""
    shown = host.ssh(f"dpkg-query -W -f '${{db:Status-Abbrev}}${{Version}}' {package} 2>/dev/null", check=False).stdout
    found = re.fullmatch(r"[hi]i ([0-9.]+)-.*", shown)
    return found[1] if found else ""


def smi(host: BedHost, fields: str) -> list[str]:
    return host.ssh(f"nvidia-smi --query-gpu={fields} --format=csv,noheader").stdout.splitlines()


def test_a_b580_gets_its_kernel_and_runtime_by_one_reboot(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(IGPU, B580), kernels=(OLD,), secure_boot=True))
    # What the archive of noble has for years, and what does not know the card.
    old = "intel-opencl-icd", "23.43.27642.40-1ubuntu3"
    host.ssh(
        "mkdir -p old/DEBIAN && cat >old/DEBIAN/control && dpkg-deb --build old old.deb && dpkg -i old.deb",
        input=f"Package: {old[0]}\nVersion: {old[1]}\nArchitecture: amd64\nMaintainer: bed\nDescription: old\n",
    )
    boots = host.record.boots()
    # A user whose sudo wants a password: what pyinfra keeps of it on the host is gone with the boot.
    first = full(tmp_path, host, ["b580"], user="withpass").succeeded()
    assert kernel_of(host) == HWE
    assert host.record.boots() == boots + 1
    assert host.ssh("readlink /sys/bus/pci/devices/0000:03:00.0/driver").stdout.rstrip().endswith("/xe")
    assert "B580" in host.ssh("clinfo -l").stdout
    shown = host.ssh(f"dpkg-query -W -f '${{Version}}' {old[0]}").stdout
    host.ssh(f"dpkg --compare-versions {shown} ge 24.48")
    assert "linux-image-generic-hwe-24.04" in host.ssh("apt-mark showhold").stdout.split()
    # The old kernel stays, and the new one is the default.
    assert host.ssh("ls /boot/vmlinuz-*").stdout.split() == [f"/boot/vmlinuz-{HWE}", f"/boot/vmlinuz-{OLD}"]
    environment = host.ssh("grub-editenv list").stdout
    assert f"gnulinux-{HWE}-advanced-" in environment and "next_entry=gnu" not in environment
    assert f"kernel {OLD} runs; required: >= 6.12, <= 7, not 6.18, for Arc B580" in first.output
    second = full(tmp_path, host, ["b580"], user="withpass").succeeded()
    assert second.changed(host.name) == []
    host.reboot()
    assert kernel_of(host) == HWE


def test_two_4090_get_signed_modules_held_together(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(BMC, RTX4090, SECOND_4090), kernels=(OLD,), secure_boot=True))
    host.ssh(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qqy install linux-image-generic", timeout=200
    )
    boots = host.record.boots()
    full(tmp_path, host, ["rtx4090"]).succeeded()
    assert kernel_of(host) == OLD, "any kernel of Ubuntu's will do for NVIDIA"
    assert host.record.boots() == boots + 1
    assert smi(host, "name,persistence_mode") == ["NVIDIA GeForce RTX 4090, Enabled"] * 2
    held = host.ssh("apt-mark showhold").stdout.split()
    assert {f"nvidia-utils-{BRANCH}", f"libnvidia-compute-{BRANCH}"} <= set(held)
    assert f"linux-modules-nvidia-{BRANCH}-open-{OLD}" in held
    assert "linux-image-generic" in held, "a kernel that came by itself would have no module"
    assert "signed" in host.ssh(f"cat $(find /lib/modules/{OLD} -name nvidia.ko)").stdout
    assert "linux-modules-nvidia-" in host.ssh("apt-config dump Unattended-Upgrade::Package-Blacklist").stdout
    assert full(tmp_path, host, ["rtx4090"]).succeeded().changed(host.name) == []

    # Another branch: one transaction, and the old one is gone.
    switched = full(tmp_path, host, ["rtx4090"], nvidia_gpu={"branch": "595-server"}).succeeded()
    assert "Install the driver" in " ".join(switched.changed(host.name))
    assert host.record.boots() == boots + 2
    assert smi(host, "driver_version") == ["595.91.07"] * 2
    assert "580" not in host.ssh("dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n' '*nvidia*' | grep '^.i'").stdout
    assert full(tmp_path, host, ["rtx4090"], nvidia_gpu={"branch": "595-server"}).changed(host.name) == []

    free = {"branch": "595-server", "hold": False}
    full(tmp_path, host, ["rtx4090"], nvidia_gpu=free, kernel={"hold": False}).succeeded()
    assert host.ssh("apt-mark showhold").stdout == ""
    again = full(tmp_path, host, ["rtx4090"], nvidia_gpu=free, kernel={"hold": False})
    assert again.succeeded().changed(host.name) == []


def test_a_v100_beside_a_4090_gets_what_drives_both(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(V100, RTX4090), kernels=(OLD,)))
    host.ssh(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qqy install linux-image-generic", timeout=200
    )
    full(tmp_path, host, ["v100", "rtx4090"]).succeeded()
    assert len(smi(host, "name")) == 2
    assert "Open Kernel Module" not in host.ssh("cat /proc/driver/nvidia/version").stdout


def test_nvswitches_get_the_fabric_manager_of_the_drivers_version(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(H20, NVSWITCH), kernels=(OLD,)))
    host.ssh(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qqy install linux-image-generic", timeout=200
    )
    full(tmp_path, host, ["h20"]).succeeded()
    version = version_of(host, f"nvidia-utils-{BRANCH}")
    assert version and version_of(host, "nvidia-fabricmanager-580") == version
    assert host.ssh("systemctl is-active nvidia-fabricmanager").stdout == "active\n"
    assert full(tmp_path, host, ["h20"]).succeeded().changed(host.name) == []


def test_an_upgrade_behind_our_back_is_seen_and_mended(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(RTX4090,), kernels=(OLD,)))
    host.ssh(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qqy install linux-image-generic", timeout=200
    )
    host.ssh("printf 'Package: *nvidia*\\nPin: release a=noble\\nPin-Priority: 900\\n' >/etc/apt/preferences.d/old")
    full(tmp_path, host, ["rtx4090"]).succeeded()
    assert smi(host, "driver_version") == ["580.95.05"]
    host.ssh("rm /etc/apt/preferences.d/old; apt-mark unhold '*nvidia*' >/dev/null;"
             "DEBIAN_FRONTEND=noninteractive apt-get -qqy upgrade --with-new-pkgs", timeout=200)  # fmt: skip
    assert host.ssh("nvidia-smi", check=False).returncode == 18
    boots = host.record.boots()
    full(tmp_path, host, ["rtx4090"]).succeeded()
    assert host.record.boots() == boots + 1
    assert smi(host, "driver_version") == ["580.178.04"]
    assert f"nvidia-utils-{BRANCH}" in host.ssh("apt-mark showhold").stdout.split()


def test_both_makers_in_one_host_with_a_mainline_kernel(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(B580, RTX4090), kernels=(OLD,)))
    kernel = {"source": "mainline", "version": "6.12.3"}
    boots = host.record.boots()
    full(tmp_path, host, ["b580", "rtx4090"], kernel=kernel).succeeded()
    assert kernel_of(host) == "6.12.3-061203-generic"
    assert host.record.boots() == boots + 1
    assert "B580" in host.ssh("clinfo -l").stdout
    assert smi(host, "name") == ["NVIDIA GeForce RTX 4090"]
    assert "nvidia/580" in host.ssh("dkms status").stdout, "no signed modules are published for a mainline kernel"
    assert full(tmp_path, host, ["b580", "rtx4090"], kernel=kernel).succeeded().changed(host.name) == []


def test_a_module_that_does_not_compile_is_told_and_mended(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(RTX4090,), kernels=(OLD,)))
    kernel = {"source": "mainline", "version": "6.12.3", "min": "6.12"}
    host.ssh("mkdir -p /etc/bed && touch /etc/bed/dkms-fails")
    boots = host.record.boots()
    failed = full(tmp_path, host, ["rtx4090"], kernel=kernel)
    assert failed.code != 0
    assert "nvidia_gpu: the driver's module could not be compiled for kernel 6.12.3-061203-generic" in failed.output
    assert "make.log" in failed.output
    assert host.record.boots() == boots and kernel_of(host) == OLD
    host.ssh("rm /etc/bed/dkms-fails")
    full(tmp_path, host, ["rtx4090"], kernel=kernel).succeeded()
    assert smi(host, "name") == ["NVIDIA GeForce RTX 4090"]


def test_a_kernel_that_does_not_come_up_gives_way_to_the_old_one(make_host: MakeHost, tmp_path: Path) -> None:
    bad = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,), panics=("6.17.*",), watchdog=False))
    good = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,)))
    both = run(tmp_path, {host.name: declared(host, ["b580"]) for host in (bad, good)})
    assert both.code != 0
    assert (
        f"{bad.name}: kernel {HWE} was booted as a trial and did not come up; the host is back on {OLD}" in both.output
    )
    assert (kernel_of(bad), kernel_of(good)) == (OLD, HWE)
    boots = bad.record.boots()
    again = full(tmp_path, bad, ["b580"])
    assert again.code != 0 and f"{HWE} was tried and failed" in again.output
    assert bad.record.boots() == boots, "it is not tried again"


def test_a_kernel_that_does_not_see_the_card_is_given_up(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,), blind=("6.17.*",)))
    result = full(tmp_path, host, ["b580"])
    assert result.code != 0
    assert f"kernel {HWE} came up as a trial, but does not drive Arc B580 (8086:e20b @ 0000:03:00.0)" in result.output
    assert kernel_of(host) == OLD
    host.reboot()
    assert kernel_of(host) == OLD


def test_what_does_not_fit_is_refused_before_any_change(make_host: MakeHost, tmp_path: Path) -> None:
    secure = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,), secure_boot=True))
    small = make_host("metal", machine=Machine(devices=(B580_SMALL_BAR,), kernels=(HWE,)))
    hosts = {
        secure.name: declared(secure, ["b580"], kernel={"source": "mainline", "version": "6.12.3"}),
        small.name: declared(small, ["b580"], lang="zh"),
    }
    before = [snapshot(host) for host in (secure, small)]
    for deploy in ("preflight", "full"):
        refused = run(tmp_path, hosts, deploy)
        assert refused.code != 0
        assert "kernel/source: Secure Boot is on; mainline kernels are not signed" in refused.output
        assert "write source: 'hwe'" in refused.output
        assert "只向处理器开放 256 MiB 显存；要求：全部 12288 MiB" in refused.output
    assert [difference(old, snapshot(host)) for old, host in zip(before, (secure, small), strict=True)] == [[], []]


def test_under_secure_boot_an_unsigned_module_is_refused_before_any_change(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(RTX4090,), kernels=("6.14.0-1-custom",), secure_boot=True))
    mainline = make_host(
        "metal", machine=Machine(devices=(V100,), kernels=("6.12.3-061203-generic",), secure_boot=True)
    )
    full(tmp_path, host, ["cpu"]).succeeded()
    before = [snapshot(one) for one in (host, mainline)]
    refused = run(tmp_path, {host.name: declared(host, ["rtx4090"]), mainline.name: declared(mainline, ["v100"])})
    assert refused.code != 0
    assert "Secure Boot is on, and NVIDIA's modules for 6.12.3-061203-generic have to be compiled" in refused.output
    # This name is like those of Ubuntu's kernels; that no modules are published for it, only apt can tell.
    assert "nvidia_gpu: Secure Boot is on, and no signed modules of 580-server-open are published" in refused.output
    left = [difference(old, snapshot(one)) for old, one in zip(before, (host, mainline), strict=True)]
    assert left == [[], []]


def test_a_trial_that_nobody_judged_is_judged_by_the_next_run(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,), panics=("6.17.*",)))
    assert full(tmp_path, host, ["b580"], reboot={"allowed": False}).code != 0
    host.reboot()  # somebody's; the kernel panics, and the old one is back
    assert kernel_of(host) == OLD
    later = full(tmp_path, host, ["b580"])
    assert later.code != 0 and f"{HWE} was tried and failed" in later.output
    assert host.ssh("cat /var/lib/metal2model/kernel/failed").stdout == f"{HWE}\n"


def test_a_trial_ends_though_its_card_is_not_declared_any_more(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,)))
    assert full(tmp_path, host, ["b580"], reboot={"allowed": False}).code != 0
    host.reboot()  # somebody's, into the kernel on trial
    assert kernel_of(host) == HWE
    full(tmp_path, host, ["cpu"]).succeeded()
    assert host.ssh("ls /var/lib/metal2model/kernel").stdout == ""
    assert f"gnulinux-{HWE}-advanced-" in host.ssh("grub-editenv list").stdout
    host.reboot()
    assert kernel_of(host) == HWE


def test_kernels_that_are_not_held_come_by_upgrades_as_ever(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,)))
    full(tmp_path, host, ["b580"], kernel={"hold": False}).succeeded()
    assert kernel_of(host) == HWE
    assert "linux" not in host.ssh("apt-mark showhold").stdout
    assert "saved" not in host.ssh("cat /etc/default/grub /etc/default/grub.d/* 2>/dev/null", check=False).stdout
    assert full(tmp_path, host, ["b580"], kernel={"hold": False}).succeeded().changed(host.name) == []


def test_a_reboot_that_is_not_allowed_is_asked_for(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,)))
    boots = host.record.boots()
    waiting = full(tmp_path, host, ["b580"], reboot={"allowed": False})
    assert waiting.code != 0 and "reboot/allowed is False, and a reboot is needed: " in waiting.output
    assert f"kernel {HWE} is to be tried" in waiting.output
    assert host.record.boots() == boots
    host.reboot()
    full(tmp_path, host, ["b580"], reboot={"allowed": False}).succeeded()
    assert kernel_of(host) == HWE


def test_a_run_that_is_killed_while_the_host_reboots_is_completed_by_the_next(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,)))
    boots = host.record.boots()
    line = command(tmp_path, {host.name: declared(host, ["b580"], user="withpass")}, "full")
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stop = threading.Timer(300, process.kill)
    stop.start()
    assert process.stdout
    for text in process.stdout:
        if "rebooting; waiting for it" in text:
            process.send_signal(signal.SIGKILL)
    process.wait()
    stop.cancel()
    wait(lambda: host.record.boots() > boots, 60, "the reboot that the killed run began")
    wait_for_ssh(host.record)
    full(tmp_path, host, ["b580"], user="withpass").succeeded()
    assert host.record.boots() == boots + 1, "the next run confirms, and reboots no more"
    assert kernel_of(host) == HWE
    assert host.ssh("ls /var/lib/metal2model/kernel /var/lib/metal2model/reboot").stdout.split() == [
        "/var/lib/metal2model/kernel:", "/var/lib/metal2model/reboot:",
    ]  # fmt: skip


def test_a_run_that_is_killed_while_the_kernel_is_installed_is_completed_by_the_next(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host("metal", machine=Machine(devices=(B580,), kernels=(OLD,)))
    boots = host.record.boots()
    line = command(tmp_path, {host.name: declared(host, ["b580"])}, "full")
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        unpacked = f"test -e /boot/vmlinuz-{HWE} -o -e /boot/vmlinuz-{HWE}.dpkg-new"
        wait(lambda: host.ssh(unpacked, check=False).returncode == 0, 120, "the new kernel to be unpacked")
    finally:
        process.kill()
        process.wait()
    assert (kernel_of(host), host.record.boots()) == (OLD, boots)
    full(tmp_path, host, ["b580"]).succeeded()
    assert (kernel_of(host), host.record.boots()) == (HWE, boots + 1)
    assert host.ssh("dpkg --audit").stdout == ""
