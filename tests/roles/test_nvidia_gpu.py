"""Which of NVIDIA's drivers serves a host, what is wrong with the one that is there, and what nvidia-smi says."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.hardware import HardwareReport, OperatingSystem
from roles.common.lock import HARDWARE, declared_cards
from roles.common.options import OptionError
from roles.nvidia_gpu.deploy import DROP_IN, NOUVEAU, UPGRADES, files
from roles.nvidia_gpu.facts import READ, DriverState, DriverStates, Gpu, Package, Smi, SmiState, pci_address
from roles.nvidia_gpu.operations import ADVICE, CHANGE, lacks, problems_of, unloaded
from roles.nvidia_gpu.options import NvidiaGpuOptions
from roles.nvidia_gpu.plan import Driver, choice, drivers, findings, is_foreign, older
from tests.roles.test_hardware import dump
from tests.roles.test_lock import DATA_CENTRE, GEFORCE, report_with

UBUNTU = {release: OperatingSystem("ubuntu", release, name=f"Ubuntu {release}") for release in ("22.04", "24.04")}
DEBIAN = {release: OperatingSystem("debian", release, name=f"Debian {release}") for release in ("12", "13")}
OPEN, PROPRIETARY = Driver("580-server", "open"), Driver("580-server", "proprietary")
P40, V100, T4, A100, RTX3090 = "10de:1b38", "10de:1db6", "10de:1eb8", "10de:20b2", "10de:2204"
RTX4090, RTX5090, H200_NVL = "10de:2684", "10de:2b85", "10de:233b"
TAGS = sorted(GEFORCE | DATA_CENTRE)


def options(**given: Any) -> NvidiaGpuOptions:
    return NvidiaGpuOptions.load(given, where="h", path="nvidia_gpu")


def host(*pci_ids: str, system: OperatingSystem = UBUNTU["24.04"], **more: Any) -> HardwareReport:
    return replace(report_with(*pci_ids), os=system, architecture="amd64", **{"virtualization": "none", **more})


def keys(report: HardwareReport, tags: Sequence[str] = TAGS, **given: Any) -> list[tuple[str, str]]:
    return [(finding.key, finding.option) for finding in findings(options(**given), tags, report)]


# --- The choice ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "driver"),
    [
        ("p40", PROPRIETARY), ("v100", PROPRIETARY), ("t4", OPEN), ("a100", OPEN), ("rtx3090", OPEN), ("rtx4090", OPEN),
        ("l40s", OPEN), ("h20", OPEN), ("h100", OPEN), ("h800", OPEN), ("h200", OPEN), ("rtx5090", OPEN),
    ],
)  # fmt: skip
def test_every_tag_has_its_driver(tag: str, driver: Driver) -> None:
    report = report_with(*HARDWARE[tag].cards)
    assert choice(options(), declared_cards([tag], report)) == driver


def test_every_nvidia_tag_is_covered_by_the_test_before() -> None:
    assert {tag for tag, entry in HARDWARE.items() if entry.vendor == "nvidia" and entry.cards} == set(TAGS)


@pytest.mark.parametrize(
    ("pci_ids", "possible"),
    [
        ([V100, RTX4090], ["580-server"]),
        ([RTX4090, V100], ["580-server"]),
        ([P40, V100, T4], ["580-server"]),
        ([V100, RTX5090], []),
        ([P40, RTX5090, RTX4090], []),
        ([RTX4090, RTX5090], ["580-server-open", "595-server-open"]),
        ([RTX5090, RTX4090], ["580-server-open", "595-server-open"]),
        ([RTX4090, A100], ["580-server-open", "580-server", "595-server-open", "595-server"]),
        ([], []),
    ],
)
def test_cards_in_one_machine_share_a_driver(pci_ids: list[str], possible: list[str]) -> None:
    cards = declared_cards(TAGS, report_with(*pci_ids))
    assert [driver.suffix for driver in drivers(cards)] == possible
    assert choice(options(), cards) == (drivers(cards)[0] if possible else None)


def test_an_intel_card_beside_it_changes_nothing() -> None:
    cards = declared_cards(["b580", "v100"], report_with("8086:e20b", V100))
    assert choice(options(), cards) == PROPRIETARY


@pytest.mark.parametrize(
    ("given", "suffix"),
    [
        ({}, "580-server-open"),
        ({"modules": "proprietary"}, "580-server"),
        ({"branch": "595-server"}, "595-server-open"),
        ({"branch": "595-server", "modules": "proprietary"}, "595-server"),
    ],
)
def test_options_choose_among_what_drives_the_cards(given: dict[str, Any], suffix: str) -> None:
    chosen = choice(options(**given), declared_cards(TAGS, report_with(RTX4090)))
    assert chosen is not None
    assert (chosen.suffix, chosen.number) == (suffix, suffix[:3])


MIXES = st.lists(st.sampled_from([pci_id for tag in TAGS for pci_id in HARDWARE[tag].cards]), min_size=1, max_size=4)
CHOICES = st.fixed_dictionaries(
    {
        "branch": st.sampled_from([None, "580-server", "595-server"]),
        "modules": st.sampled_from([None, "open", "proprietary"]),
    }
)


@given(MIXES, CHOICES)
def test_a_host_without_a_finding_has_a_driver_and_one_with_a_finding_has_none(
    pci_ids: list[str], given: dict[str, Any]
) -> None:
    report = host(*pci_ids)
    chosen = choice(options(**given), declared_cards(TAGS, report))
    assert (chosen is None) is bool(keys(report, **given))
    if chosen:
        for card in declared_cards(TAGS, report):
            assert card.family.nvidia
            assert chosen.branch in card.family.nvidia.branches
            assert chosen.modules in card.family.nvidia.modules


@pytest.mark.parametrize(
    ("version", "required", "is_older"),
    [
        ("535", "570", True),
        ("550", "570", True),
        ("570", "570", False),
        ("580", "570", False),
        ("580", "580.95", False),  # some 580 is, and only so much is known
        ("580.65", "580.95", True),
        ("580.105", "580.95", False),
        ("99", "570", True),
        ("535", None, False),
    ],
)
def test_versions_are_numbers(version: str, required: str | None, is_older: bool) -> None:
    assert older(version, required) is is_older


# --- Findings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "given", "found"),
    [
        (host("8086:e20b"), {}, []),
        (host(RTX4090), {}, []),
        (host(V100, RTX5090), {}, [("nvidia_no_driver", "tags")]),
        (host(V100, RTX5090), {"source": "existing"}, []),
        (host(V100), {"branch": "595-server"}, [("nvidia_branch", "nvidia_gpu/branch")]),
        (host(V100), {"modules": "open"}, [("nvidia_modules", "nvidia_gpu/modules")]),
        (
            host(V100),
            {"branch": "595-server", "modules": "open"},
            [("nvidia_branch", "nvidia_gpu/branch"), ("nvidia_modules", "nvidia_gpu/modules")],
        ),
        (host(V100, RTX4090), {"branch": "595-server"}, [("nvidia_branch", "nvidia_gpu/branch")]),
        (host(RTX5090), {"modules": "proprietary"}, [("nvidia_modules", "nvidia_gpu/modules")]),
        (host(RTX4090, virtualization="docker"), {}, [("driver_container", "nvidia_gpu/source")]),
        (host(RTX4090, virtualization="lxc"), {"source": "existing"}, []),
        (host(RTX4090, virtualization="kvm", secure_boot=True), {}, []),
        (host(RTX4090, system=OperatingSystem("debian")), {}, [("nvidia_system", "nvidia_gpu/source")]),
        (host(RTX4090, system=OperatingSystem("arch")), {}, [("nvidia_system", "nvidia_gpu/source")]),
        (host(RTX4090, system=OperatingSystem("arch")), {"source": "existing"}, []),
    ],
)
def test_what_cannot_be_driven_is_told(
    report: HardwareReport, given: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    assert keys(report, **given) == found


@pytest.mark.parametrize(
    ("pci_id", "on_12", "on_13"),
    [
        (P40, True, True),
        (V100, True, True),
        (RTX3090, True, True),
        (RTX4090, True, True),
        ("10de:2335", True, True),
        (H200_NVL, False, False),
        ("10de:232c", False, False),
        (RTX5090, False, False),
    ],
)
def test_debian_has_one_driver_which_is_too_old_for_some(pci_id: str, on_12: bool, on_13: bool) -> None:
    for release, drives in (("12", on_12), ("13", on_13)):
        expected = [] if drives else [("nvidia_debian", "nvidia_gpu/source")]
        assert keys(host(pci_id, system=DEBIAN[release])) == expected


def test_debians_modules_are_never_signed() -> None:
    assert keys(host(RTX3090, system=DEBIAN["13"], secure_boot=True)) == [("nvidia_secure_boot", "tags")]
    assert keys(host(RTX3090, system=DEBIAN["13"], secure_boot=None)) == []
    both = keys(host(RTX5090, system=DEBIAN["12"], secure_boot=True))
    assert [key for key, _ in both] == ["nvidia_debian", "nvidia_secure_boot"]


def test_what_a_mix_fails_for_is_told_once_for_each_model() -> None:
    (finding,) = findings(options(), TAGS, host(V100, V100, RTX5090))
    assert finding.words["why"] == [
        "Tesla V100 PCIe 32GB: 580-server (proprietary)", "GeForce RTX 5090: 580-server/595-server (open)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"branch": "580"}, "'580-server' or '595-server', got '580'"),
        ({"branch": "535-server"}, "nvidia_gpu/branch: "),
        ({"modules": "closed"}, "nvidia_gpu/modules: "),
        ({"driver": "580"}, "nvidia_gpu/driver: no such option: write branch"),
        ({"open": True}, "nvidia_gpu/open: no such option: write modules: 'open' or 'proprietary'"),
    ],
)
def test_a_wrong_option_is_explained(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        options(**given)
    assert said in str(caught.value)


# --- Packages --------------------------------------------------------------------------------------------------------

OF_580_SERVER = (
    "libnvidia-cfg1-580-server", "libnvidia-compute-580-server", "libnvidia-common-580-server",
    "nvidia-compute-utils-580-server", "nvidia-kernel-common-580-server", "nvidia-utils-580-server",
    "nvidia-firmware-580-server-580.95.05", "xserver-xorg-video-nvidia-580-server", "nvidia-fabricmanager-580",
    "libnvidia-nscq-580", "nvidia-imex-580",
)  # fmt: skip
"""What Ubuntu's open and proprietary kinds have in common (packages.ubuntu.com, nvidia-graphics-drivers-580-server)."""

ONLY_OPEN = (
    "nvidia-headless-no-dkms-580-server-open", "nvidia-headless-580-server-open", "nvidia-dkms-580-server-open",
    "nvidia-kernel-source-580-server-open", "nvidia-driver-580-server-open",
    "linux-modules-nvidia-580-server-open-generic-hwe-24.04", "linux-modules-nvidia-580-server-open-6.17.0-14-generic",
    "linux-objects-nvidia-580-server-open-6.17.0-14-generic",
)  # fmt: skip
ONLY_PROPRIETARY = tuple(name.replace("-open", "") for name in ONLY_OPEN)

OF_OTHERS = (
    "nvidia-utils-580", "libnvidia-compute-580", "nvidia-firmware-580-580.95.05", "nvidia-driver-580-open",
    "nvidia-dkms-580", "linux-modules-nvidia-580-generic-hwe-24.04", "nvidia-utils-535-server", "nvidia-utils-470",
    "libnvidia-compute-535", "libnvidia-gl-550", "nvidia-firmware-595-server-595.71.05",
    "linux-modules-nvidia-595-server-open-6.17.0-14-generic", "linux-objects-nvidia-535-6.8.0-101-generic",
    "nvidia-fabricmanager-595", "nvidia-fabricmanager-535", "libnvidia-nscq-570", "nvidia-imex-570",
    "nvidia-kernel-common-570",
)  # fmt: skip

NOT_THE_DRIVER = (
    "libnvidia-container1", "libnvidia-container-tools", "nvidia-container-toolkit", "nvidia-container-toolkit-base",
    "nvidia-container-runtime", "nvidia-docker2", "nvidia-settings", "nvidia-prime", "nvidia-modprobe",
    "nvidia-cuda-toolkit", "nvidia-cuda-dev", "nvidia-cudnn", "nvidia-opencl-dev", "nvidia-profiler",
    "nvidia-visual-profiler", "nvidia-vaapi-driver", "libnvidia-egl-wayland1", "libnvidia-egl-gbm1", "libnvidia-ml-dev",
)  # fmt: skip
"""NVIDIA's name, and versions of their own."""


@pytest.mark.parametrize("package", OF_580_SERVER)
def test_what_both_kinds_need_stays(package: str) -> None:
    assert not is_foreign(package, OPEN)
    assert not is_foreign(package, PROPRIETARY)


@pytest.mark.parametrize(("package", "other"), list(zip(ONLY_OPEN, ONLY_PROPRIETARY, strict=True)))
def test_the_other_kind_of_modules_has_to_go(package: str, other: str) -> None:
    assert (is_foreign(package, OPEN), is_foreign(package, PROPRIETARY)) == (False, True)
    assert (is_foreign(other, OPEN), is_foreign(other, PROPRIETARY)) == (True, False)


@pytest.mark.parametrize("package", OF_OTHERS)
def test_other_branches_have_to_go(package: str) -> None:
    assert is_foreign(package, OPEN)
    assert is_foreign(package, PROPRIETARY)


@pytest.mark.parametrize(
    "package",
    [*NOT_THE_DRIVER, "linux-signatures-nvidia-6.17.0-14-generic", "linux-nvidia-hwe-24.04", "libcuda1", "nvidia-smi"],
)
def test_what_has_no_branch_may_stay(package: str) -> None:
    assert not is_foreign(package, OPEN)


def installed(*names: str, version: str = "580.95.05-0ubuntu0.24.04.2", held: bool = True) -> dict[str, Package]:
    return {name: Package(version, whole=True, held=held) for name in names}


WHOLE = installed(*OF_580_SERVER[:7], ONLY_OPEN[0], ONLY_OPEN[6], ONLY_OPEN[7])
KERNEL = "6.17.0-14-generic"
MODULE = f"/lib/modules/{KERNEL}/kernel/nvidia-580-server-open/nvidia.ko"


def state(**changes: Any) -> DriverState:
    return replace(DriverState(WHOLE, kernel=KERNEL, module=MODULE, loaded="580.95.05"), **changes)


def without(name: str) -> dict[str, Package]:
    return {other: package for other, package in WHOLE.items() if other != name}


@pytest.mark.parametrize(
    ("found", "fabric", "missing"),
    [
        (state(), False, []),
        (DriverState(kernel=KERNEL), False, ["nvidia-utils-580-server", f"a module for {KERNEL}"]),
        (state(module=""), False, [f"a module for {KERNEL}"]),
        (state(packages=without("nvidia-utils-580-server")), False, ["nvidia-utils-580-server"]),
        (state(packages=without("nvidia-headless-no-dkms-580-server-open")), False,
         ["nvidia-headless-no-dkms-580-server-open"]),
        (state(packages={**without(ONLY_OPEN[0]), **installed("nvidia-headless-580-server-open")}), False, []),  # DKMS
        (state(packages={**WHOLE, **installed(ONLY_OPEN[0], version="580.105.08-0ubuntu1")}), False,
         ["nvidia-headless-no-dkms-580-server-open"]),
        (state(packages={**WHOLE, **installed("nvidia-utils-535-server")}), False,
         ["the end of nvidia-utils-535-server"]),
        (state(packages={**WHOLE, **installed("libnvidia-compute-580")}), False, ["the end of libnvidia-compute-580"]),
        (state(packages={**WHOLE, **installed("nvidia-dkms-580-server")}), False,
         ["the end of nvidia-dkms-580-server"]),
        (state(packages={**WHOLE, "libnvidia-cfg1-580-server": Package("580.95.05-0ubuntu1", whole=False, held=False)}),
         False, ["the rest of libnvidia-cfg1-580-server"]),
        (state(), True, ["nvidia-fabricmanager-580 580.95.05"]),
        (state(packages={**WHOLE, **installed("nvidia-fabricmanager-580", version="580.95.05-1")}), True, []),
        (state(packages={**WHOLE, **installed("nvidia-fabricmanager-580", version="580.105.08-1")}), True,
         ["nvidia-fabricmanager-580 580.95.05"]),
    ],
)  # fmt: skip
def test_a_driver_is_whole_of_one_version_and_alone(found: DriverState, fabric: bool, missing: list[str]) -> None:
    assert lacks(found, OPEN, fabric) == missing


def test_debians_driver_is_whole() -> None:
    names = ("nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "nvidia-persistenced")
    found = DriverState(installed(*names, version="550.163.01-2"), "6.12.57+deb13-amd64", "/x/nvidia-current.ko.xz")
    assert lacks(found, None, False) == []
    assert lacks(replace(found, module=""), None, False) == ["a module for 6.12.57+deb13-amd64"]
    assert lacks(replace(found, packages={}), None, False) == list(names)
    assert unloaded(replace(found, loaded="550.163.01"), None) == ""


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        ("580.95.05", ""),
        ("", "NVIDIA's driver 580.95.05 is installed and not loaded"),
        ("580.82.07", "NVIDIA's module 580.82.07 is loaded, its programs are 580.95.05"),
        ("535.261.03", "NVIDIA's module 535.261.03 is loaded, its programs are 580.95.05"),
    ],
)
def test_a_driver_that_is_not_at_work_waits_for_a_boot(loaded: str, why: str) -> None:
    assert unloaded(state(loaded=loaded), OPEN) == why


# What dpkg-query prints; "un" is a name that dpkg has only heard of, "rc" left its configuration behind.
DPKG_SAYS = """\
package libcuda1  un
package libnvidia-compute-580-server 580.95.05-0ubuntu0.24.04.2 hi
package libnvidia-container1 1.18.1-1 iU
package nvidia-container-toolkit 1.18.1-1 ii
package nvidia-driver-535 535.261.03-0ubuntu0.24.04.1 rc
package nvidia-firmware-580-server-580.95.05 580.95.05-0ubuntu0.24.04.2 ii
package nvidia-kernel-common-580-server 580.95.05-0ubuntu0.24.04.2 iF
package nvidia-modprobe 580.95.05-1 ii
package nvidia-settings 510.47.03-0ubuntu4 ii
package nvidia-utils-580-server 580.95.05-0ubuntu0.24.04.2 iHR
kernel 6.17.0-14-generic
module /lib/modules/6.17.0-14-generic/kernel/nvidia-580-server-open/nvidia.ko
loaded NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (dvs-builder@U22-I3)
"""


def test_only_packages_of_the_driver_are_read() -> None:
    found = DriverStates().process(DPKG_SAYS.splitlines())
    assert found == DriverState(
        packages={
            "libnvidia-compute-580-server": Package("580.95.05-0ubuntu0.24.04.2", whole=True, held=True),
            "nvidia-firmware-580-server-580.95.05": Package("580.95.05-0ubuntu0.24.04.2", whole=True, held=False),
            "nvidia-kernel-common-580-server": Package("580.95.05-0ubuntu0.24.04.2", whole=False, held=False),
            "nvidia-utils-580-server": Package("580.95.05-0ubuntu0.24.04.2", whole=False, held=False),
        },
        kernel="6.17.0-14-generic",
        module="/lib/modules/6.17.0-14-generic/kernel/nvidia-580-server-open/nvidia.ko",
        loaded="580.82.07",
    )
    assert found.version("libnvidia-compute-580-server") == "580.95.05"
    assert found.version("nvidia-utils-580-server") == ""
    assert DriverStates().process([]) == DriverState()


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("580.95.05-0ubuntu0.24.04.2", "580.95.05"),
        ("550.163.01-2", "550.163.01"),
        ("1:580.95.05-1", "580.95.05"),
        ("535.309.01-0+deb12u1", "535.309.01"),
    ],
)
def test_nvidias_version_is_within_the_packages(version: str, upstream: str) -> None:
    assert Package(version, whole=True, held=False).upstream == upstream


def test_unattended_upgrades_leave_the_driver_and_nothing_else() -> None:
    """unattended-upgrades: is_pkgname_in_blacklist() takes re.match()."""
    text = files(options(), ubuntu=True)[UPGRADES]
    assert text is not None
    patterns = re.findall(r'"([^"]+)"', text.content)
    for name in (*OF_580_SERVER, *ONLY_OPEN, *OF_OTHERS, "libcuda1", "nvidia-kernel-dkms", "libnvidia-ml1"):
        assert name.startswith("xserver-") or any(re.match(pattern, name) for pattern in patterns), name
    for name in (*NOT_THE_DRIVER, "linux-image-nvidia", "bash", "linux-generic-hwe-24.04"):
        assert not any(re.match(pattern, name) for pattern in patterns), name
    assert files(options(hold=False), ubuntu=True)[UPGRADES] is None


def test_nouveau_is_kept_off_and_the_persistence_mode_on() -> None:
    written = files(options(), ubuntu=True)
    nouveau, unit = written[NOUVEAU], written[DROP_IN]
    assert nouveau and unit
    assert "blacklist nouveau\n" in nouveau.content
    assert "ExecStart=\nExecStart=/usr/bin/nvidia-persistenced " in unit.content
    assert "--no-persistence-mode" not in unit.content
    assert files(options(), ubuntu=False)[DROP_IN] is None
    assert files(options(persistence=False), ubuntu=True)[DROP_IN] is None


# --- What the scripts do ---------------------------------------------------------------------------------------------

STUBS = """\
m2m_log=$(mktemp)
m2m_update() { :; }
m2m_say() { printf '%s\\n' "$@" >&2; }
m2m_apt_get() { echo "apt-get $*"; }
m2m_run() { "$@"; }
m2m_install() { m2m_apt_get install "$@"; }
wish=:
find() { echo /lib/modules/nvidia.ko; }
"""


class Machine:
    """Programs of a host that answer from files: installed packages, candidates, holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.program("dpkg", "echo amd64")
        self.program("dpkg-query", f"[ $# -gt 2 ] || exit 1; cat {path}/installed 2>/dev/null")
        self.program("apt-get", f"[ ! -e {path}/impossible ] || {{ echo 'E: Unable to correct problems'; exit 100; }}")
        self.program("update-initramfs", ":")
        self.program("apt-mark", f'[ "$1" = showhold ] && exec cat {path}/held; echo "apt-mark $*" >>{path}/marked')
        self.program("apt-cache", f'grep -qx "$2" {path}/known && echo "  Candidate: 580.95.05-0ubuntu1"; '
                                  f'[ "$1" != madison ] || cat {path}/madison')  # fmt: skip
        for name in ("installed", "held", "known", "madison"):
            self.put(name)

    def program(self, name: str, text: str) -> None:
        (self.path / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.path / name).chmod(0o755)

    def put(self, name: str, *lines: str) -> None:
        (self.path / name).write_text("".join(f"{line}\n" for line in lines))

    @property
    def marked(self) -> list[str]:
        return (self.path / "marked").read_text().splitlines()

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.path}:{os.environ['PATH']}", "TMPDIR": str(self.path)}
        text = f"{STUBS}{CHANGE}\n{script}"
        return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_driver_is_held_and_nothing_else(machine: Machine) -> None:
    driver = ("libnvidia-compute-580-server", "nvidia-firmware-580-server-580.95.05", "libcuda1", "nvidia-smi")
    machine.put(
        "installed",
        *(f"ii {name}" for name in (*driver, *NOT_THE_DRIVER)),
        "un nvidia-driver-535",
        "rc nvidia-utils-470",
    )
    machine.run("hold linux-image-generic")
    assert machine.marked == [" ".join(["apt-mark hold", "linux-image-generic", *driver])]


def test_modules_come_for_the_kernel_and_unless_all_is_held_for_those_that_follow(machine: Machine) -> None:
    suffix, flavour = "580-server-open", "generic-hwe-24.04"
    machine.put("installed", f"ii linux-image-{KERNEL}", f"hi linux-image-{flavour}", "rc linux-image-lowlatency")
    machine.put("known", *(f"linux-modules-nvidia-{suffix}-{name}" for name in (KERNEL, flavour, "lowlatency")))
    assert machine.run(f"modules_for {suffix} {KERNEL} yes").stdout == f"linux-modules-nvidia-{suffix}-{KERNEL}\n"
    assert machine.run(f"modules_for {suffix} {KERNEL} no").stdout.split() == [
        f"linux-modules-nvidia-{suffix}-{KERNEL}", f"linux-modules-nvidia-{suffix}-{flavour}",
    ]  # fmt: skip
    assert machine.run(f"modules_for {suffix} 6.19.10-061910-generic no").stdout == ""


def test_a_driver_comes_in_one_transaction_that_takes_the_other_off(machine: Machine) -> None:
    machine.put("known", f"linux-modules-nvidia-580-server-open-{KERNEL}")
    machine.put("installed", "hi nvidia-utils-535", "hi nvidia-container-toolkit")
    machine.put("held", "linux-nvidia-hwe-24.04", "nvidia-container-toolkit", "nvidia-utils-535")
    done = machine.run(f"install_driver 580-server-open 580-server {KERNEL} no yes yes nvidia-utils-535")
    (install,) = done.stdout.splitlines()
    assert machine.marked == ["apt-mark unhold nvidia-utils-535"]  # what a person holds of others stays held
    modules = f"linux-modules-nvidia-580-server-open-{KERNEL}"
    assert install == (
        f"apt-get install --no-install-recommends --allow-change-held-packages {modules} "
        "nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server nvidia-utils-535-"
    )


def test_what_apt_cannot_install_is_told_before_anything_is_changed(machine: Machine) -> None:
    machine.put("known", f"linux-modules-nvidia-580-server-open-{KERNEL}")
    machine.put("impossible")
    done = machine.run(f"install_driver 580-server-open 580-server {KERNEL} no yes yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "E: Unable to correct problems" in done.stderr and "nothing was changed" in done.stderr


def test_a_driver_without_a_module_for_the_kernel_is_no_reason_to_reboot(machine: Machine) -> None:
    done = machine.run("find() { :; }; loadable 6.1.0-1-amd64")
    assert done.returncode == 1
    assert "no module came for kernel 6.1.0-1-amd64" in done.stderr and "apt full-upgrade" in done.stderr


def test_without_signed_modules_secure_boot_gets_none(machine: Machine) -> None:
    machine.put("known", f"linux-headers-{KERNEL}")
    done = machine.run(f"install_driver 580-server-open 580-server {KERNEL} no yes yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no signed modules of 580-server-open are published" in done.stderr
    done = machine.run(f"install_driver 580-server-open 580-server {KERNEL} no no yes")
    assert f"linux-headers-{KERNEL} nvidia-dkms-580-server-open nvidia-headless-580-server-open" in done.stdout
    done = machine.run("install_driver 580-server-open 580-server 6.19.10-061910-generic no no yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "neither modules of 580-server-open nor headers are published" in done.stderr


def test_the_fabric_manager_is_of_the_drivers_version(machine: Machine) -> None:
    machine.put("known", f"linux-modules-nvidia-580-server-open-{KERNEL}", "nvidia-utils-580-server")
    row = "nvidia-fabricmanager-580 | {} | http://archive.ubuntu.com/ubuntu noble-updates/multiverse amd64 Packages"
    machine.put("madison", row.format("580.105.08-1"), row.format("580.95.05-1"))
    done = machine.run(f"install_driver 580-server-open 580-server {KERNEL} yes yes yes")
    assert done.stdout.split()[-1] == "nvidia-fabricmanager-580=580.95.05-1"
    machine.put("madison", row.format("580.105.08-1"))
    done = machine.run(f"install_driver 580-server-open 580-server {KERNEL} yes yes yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nvidia-fabricmanager-580 is not published in version 580.95.05" in done.stderr


def test_the_script_reads_this_machine() -> None:
    done = subprocess.run(["sh", "-c", READ], capture_output=True, text=True, check=True)
    assert DriverStates().process(done.stdout.splitlines()).kernel == os.uname().release


# --- nvidia-smi ------------------------------------------------------------------------------------------------------

NOTE = "/var/lib/metal2model/reboot/nvidia_gpu"
ROW = "{0}, GPU-0f1e2d3c-0000-4000-8000-00000000000{0}, {1}, 00000000:{2}:00.0, {3}, 580.95.05, {4}, {5}, {6}"
TWO_4090 = [
    ROW.format(0, "NVIDIA GeForce RTX 4090", "01", "8.9", 24564, "Enabled", "[N/A]"),
    ROW.format(1, "NVIDIA GeForce RTX 4090", "C1", "8.9", 24564, "Enabled", "[N/A]"),
]


def smi(*lines: str, status: int = 0) -> SmiState:
    return Smi().process([*lines, f"exit {status}"])


def test_the_cards_at_work_are_read() -> None:
    assert smi(*TWO_4090) == SmiState(
        0,
        gpus=(
            Gpu("0000:01:00.0", "NVIDIA GeForce RTX 4090", "580.95.05", 24564, True, 0),
            Gpu("0000:c1:00.0", "NVIDIA GeForce RTX 4090", "580.95.05", 24564, True, 0),
        ),
    )
    assert Smi().process([*TWO_4090, "exit 0", "noted"]).noted
    assert not smi(*TWO_4090).noted


@pytest.mark.parametrize(
    "unknown", ["[N/A]", "N/A", "[Unknown Error]", "ERR!", "[Not Supported]", "[Insufficient Permissions]"]
)
def test_what_a_card_cannot_tell_is_no_number(unknown: str) -> None:
    (gpu,) = smi(ROW.format(0, "NVIDIA A100-SXM4-80GB", "07", unknown, unknown, "Disabled", unknown)).gpus
    assert (gpu.address, gpu.memory_mib, gpu.uncorrected_errors, gpu.persistence) == ("0000:07:00.0", 0, 0, False)


@pytest.mark.parametrize("said", ["[GPU is lost]", "[Unknown Error]", "ERR!"])
def test_a_card_that_does_not_answer_is_told_though_nvidia_smi_succeeds(said: str) -> None:
    found = smi(ROW.format(0, "NVIDIA A100-SXM4-80GB", "07", "8.0", said, "Enabled", 0))
    (problem,) = problems_of(found, ["0000:07:00.0"], False)
    assert problem.startswith(f"nvidia_gpu: NVIDIA A100-SXM4-80GB at 0000:07:00.0 shows {said}; required is an answer")


def test_lines_that_are_no_list_are_left_out() -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:0F:00.0"
    assert [gpu.address for gpu in smi(TWO_4090[0], warning, "").gpus] == ["0000:01:00.0"]


def test_uncorrected_errors_are_counted() -> None:
    found = smi(ROW.format(0, "NVIDIA A100-SXM4-80GB", "07", "8.0", 81920, "Enabled", 3))
    (problem,) = problems_of(found, ["0000:07:00.0"], True)
    assert problem.startswith(
        "nvidia_gpu: NVIDIA A100-SXM4-80GB at 0000:07:00.0 has 3 uncorrected memory errors; required"
    )


def test_a_card_that_is_not_listed_is_told() -> None:
    assert problems_of(smi(*TWO_4090), ["0000:01:00.0", "0000:c1:00.0"], True) == []
    (problem,) = problems_of(smi(*TWO_4090), ["0000:01:00.0", "0000:41:00.0"], True)
    assert problem.startswith(
        "nvidia_gpu: the card at 0000:41:00.0 is on the PCI bus, but nvidia-smi does not list it; "
    )


def test_persistence_is_asked_of_declared_cards_only() -> None:
    rows = [row.replace("Enabled", "Disabled") for row in TWO_4090]
    assert problems_of(smi(*rows), ["0000:01:00.0"], False) == []
    (problem,) = problems_of(smi(*rows), ["0000:01:00.0"], True)
    assert problem.startswith(
        "nvidia_gpu/persistence: NVIDIA GeForce RTX 4090 at 0000:01:00.0 is not in persistence mode"
    )


def test_an_empty_list_misses_every_card() -> None:
    assert len(problems_of(smi(), ["0000:01:00.0", "0000:c1:00.0"], True)) == 2


FAILURES = {
    6: "No devices were found",
    8: "Unable to determine the device handle for GPU0: 0000:41:00.0: Insufficient External Power",
    9: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.",
    12: "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.",
    14: "WARNING: infoROM is corrupted at gpu 0000:41:00.0",
    15: "Unable to determine the device handle for GPU1: 0000:41:00.0: GPU is lost. Reboot the system",
    16: "Unable to determine the device handle for GPU1: 0000:41:00.0: GPU requires reset",
    18: "Failed to initialize NVML: Driver/library version mismatch NVML library version: 580.95",
    127: "sh: 1: nvidia-smi: not found",
}


@pytest.mark.parametrize(("status", "text"), FAILURES.items())
def test_a_failure_of_nvidia_smi_is_explained(status: int, text: str) -> None:
    (problem,) = problems_of(smi(text, "", status=status), ["0000:41:00.0"], True)
    assert problem == f"nvidia_gpu: nvidia-smi ended with {status}: {text}; {ADVICE[status]}"


def test_every_advice_is_tested_and_names_something_to_do() -> None:
    assert ADVICE.keys() == FAILURES.keys()
    assert {status: word for status, word in {
        6: "nvidia_gpu/branch", 8: "power cable", 9: "Secure Boot", 12: "deploys/full.py", 14: "replaced", 15: "power",
        16: "reboot", 18: "reboot", 127: "deploys/full.py",
    }.items() if word not in ADVICE[status]} == {}  # fmt: skip


@pytest.mark.parametrize("status", [1, 2, 4, 10, 255, -1])
def test_another_failure_says_where_to_look(status: int) -> None:
    (problem,) = problems_of(smi(status=status), [], True)
    assert problem == f"nvidia_gpu: nvidia-smi ended with {status}: no text; look at journalctl -k -g NVRM on the host"


def test_a_host_that_answers_nothing_has_no_cards_at_work() -> None:
    (problem,) = problems_of(Smi().process([]), ["0000:41:00.0"], True)
    assert "no text" in problem


def test_nvidia_smi_is_asked_and_its_status_kept(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    (tmp_path / "nvidia-smi").write_text(f'#!/bin/sh\necho "$*" >{asked}\necho "No devices were found" >&2\nexit 6\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "note").touch()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    script = Smi().command(note=str(tmp_path / "note"))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert Smi().process(done.stdout.splitlines()) == SmiState(6, "No devices were found", noted=True)
    assert "pci.bus_id" in asked.read_text() and "--format=csv,noheader,nounits" in asked.read_text()


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFF), st.integers(0, 0x1F), st.integers(0, 7))
def test_an_address_reads_as_the_kernel_writes_it(domain: int, bus: int, device: int, function: int) -> None:
    assert pci_address(f"{domain:08X}:{bus:02X}:{device:02X}.{function}") == (
        f"{domain:04x}:{bus:02x}:{device:02x}.{function}"
    )


@given(st.lists(st.text(alphabet="0123456789, []N/AE!:.-x"), max_size=3))
def test_no_output_of_nvidia_smi_is_an_error(lines: list[str]) -> None:
    assert isinstance(smi(*lines), SmiState)


def test_a_dump_with_a_mixed_driver_is_understood() -> None:
    """595 with the open modules has the H100's and A100's machines; 535 is what Debian 12 has."""
    assert choice(options(), declared_cards(["a100"], dump("a100-80gb"))) == OPEN
    assert keys(dump("p40-in-a-vm"), ["p40"]) == []
    assert keys(replace(dump("rtx3090-nouveau"), secure_boot=False), ["rtx3090"]) == []
    assert keys(dump("rtx3090-nouveau"), ["rtx3090"]) == [("nvidia_secure_boot", "tags")]
