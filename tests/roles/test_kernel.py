"""Which kernel a host needs, where it would come from, and what the host says of its kernels."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.apt import apt_script
from roles.common.hardware import DisplayController, HardwareReport, OperatingSystem
from roles.common.kernels import KernelRange
from roles.common.options import OptionError
from roles.kernel.facts import READ, Brought, Candidates, Kernels, KernelState, Trial
from roles.kernel.operations import (
    CHANGE,
    boot_problems,
    candidate_problems,
    nothing_left,
    undriven,
)
from roles.kernel.options import KernelOptions, Source
from roles.kernel.plan import SOURCES, findings, held_metas, metas, need, source_of
from tests.roles.test_hardware import dump
from tests.roles.test_lock import report_with

NOBLE = OperatingSystem("ubuntu", "24.04", "noble", "Ubuntu 24.04.4 LTS")
TRIXIE = OperatingSystem("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)")
B580 = "Arc B580 (8086:e20b @ 0000:01:00.0)"


def options(**given: Any) -> KernelOptions:
    return KernelOptions.load(given, where="h", path="kernel")


def host(kernel: str = "6.8.0-87-generic", *pci_ids: str, **more: Any) -> HardwareReport:
    """A bare-metal Ubuntu 24.04 without Secure Boot; its cards are bound to their driver."""
    report = report_with(*(pci_ids or ("8086:e20b",)))
    cards = tuple(replace(card, driver="xe") for card in report.controllers)
    given = {"os": NOBLE, "architecture": "amd64", "virtualization": "none", "uefi": True, "secure_boot": False}
    return replace(report, kernel=kernel, controllers=cards, **{**given, **more})


def keys(declared: KernelOptions, tags: Sequence[str], report: HardwareReport) -> list[str]:
    return [finding.key for finding in findings(declared, tags, report)]


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "mainline"}, "kernel/version: required with source: 'mainline'; write a release such as '6.12.3'"),
        ({"version": "6.12.3"}, "kernel/version: has no effect with source: 'auto'; write source: 'mainline'"),
        ({"source": "mainline", "version": "v6.12"}, "kernel/version: "),
        ({"source": "mainline", "version": "6.12.0"}, "kernel/version: "),  # listed as 6.12
        ({"source": "mainline", "version": "6.12-rc1"}, "kernel/version: "),
        ({"source": "hwe-edge"}, "kernel/source: "),
        ({"source": "backport"}, "(did you mean 'backports'?)"),
        ({"min": "6.12-rc1"}, "kernel/min: "),
        ({"min": 6.12}, "kernel/min: "),
        ({"known_bad": ["6.x"]}, "kernel/known_bad/0: "),
        ({"flavour": "generic"}, "kernel/flavour: no such option: it follows the source"),
        ({"mainline_url": "ftp://kernel.ubuntu.com"}, "kernel/mainline_url: "),
        ({"mainline_key": "0x60AA7B6F"}, "kernel/mainline_key: "),
    ],
)
def test_a_wrong_option_is_explained(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        options(**given)
    assert said in str(caught.value)


# --- Need ------------------------------------------------------------------------------------------------------------


def test_cards_and_options_narrow_the_range_together() -> None:
    wanted = need(options(max="7.0", known_bad=["6.14"]), ["b580", "arc-pro-b60"], host("", "8086:e20b", "8086:e211"))
    assert str(wanted.range) == ">= 6.12.26, <= 7.0, not 6.13, not 6.14, not 6.18"
    assert wanted.why == (
        "kernel/min, max, known_bad", B580, "Arc Pro B60 (8086:e211 @ 0000:02:00.0)",
    )  # fmt: skip


def test_a_host_that_needs_nothing_keeps_its_kernel() -> None:
    wanted = need(options(), ["cpu"], host("3.2.0-4-amd64"))
    assert (wanted.range, wanted.why) == (KernelRange(), ())
    assert wanted.met_by(host("3.2.0-4-amd64"))
    assert findings(options(), ["cpu"], host("3.2.0-4-amd64")) == []


def test_nvidia_cards_go_with_the_kernel_that_is_there() -> None:
    assert need(options(), ["h200"], dump("eight-h200")).range == KernelRange()


# --- Sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "version", "brings"),
    [
        ("ubuntu", "22.04", {"auto": "hwe", "hwe": "hwe", "mainline": "mainline", "keep": "keep"}),
        ("ubuntu", "24.04", {"auto": "hwe", "hwe": "hwe", "mainline": "mainline", "keep": "keep"}),
        ("ubuntu", "26.04", {"auto": "hwe", "hwe": "hwe", "mainline": "mainline", "keep": "keep"}),
        ("debian", "12", {"auto": "backports", "backports": "backports", "keep": "keep"}),
        ("debian", "13", {"auto": "backports", "backports": "backports", "keep": "keep"}),
        ("debian", "", {"keep": "keep"}),
        ("arch", "", {"keep": "keep"}),
    ],
)
def test_each_system_has_its_sources(system: str, version: str, brings: dict[str, Source]) -> None:
    report = host(os=OperatingSystem(system, version))
    for source in ("auto", "hwe", "backports", "mainline", "keep"):
        given = options(source=source, **({"version": "6.12.3"} if source == "mainline" else {}))
        assert source_of(given, report) == brings.get(source)


@pytest.mark.parametrize(
    ("source", "system", "architecture", "names"),
    [
        (
            "hwe",
            OperatingSystem("ubuntu", "22.04"),
            "amd64",
            ["linux-image-generic-hwe-22.04", "linux-headers-generic-hwe-22.04"],
        ),
        (
            "hwe",
            OperatingSystem("ubuntu", "24.04"),
            "arm64",
            ["linux-image-generic-hwe-24.04", "linux-headers-generic-hwe-24.04"],
        ),
        ("hwe", OperatingSystem("ubuntu", "26.04"), "amd64", ["linux-image-generic", "linux-headers-generic"]),
        ("backports", TRIXIE, "amd64", ["linux-image-amd64", "linux-headers-amd64"]),
        ("backports", TRIXIE, "arm64", ["linux-image-arm64", "linux-headers-arm64"]),
    ],
)
def test_kernels_come_by_the_packages_that_bring_the_next_one_too(
    source: Source, system: OperatingSystem, architecture: str, names: list[str]
) -> None:
    found = metas(source, host(os=system, architecture=architecture))
    assert [found.image, found.headers] == names


def test_what_is_held_is_what_would_bring_the_next_kernel() -> None:
    assert metas("hwe", host()).all == [
        "linux-image-generic-hwe-24.04", "linux-headers-generic-hwe-24.04", "linux-generic-hwe-24.04",
    ]  # fmt: skip
    assert metas("mainline", host()) == metas("hwe", host())
    assert metas("backports", host(os=TRIXIE)).all == ["linux-image-amd64", "linux-headers-amd64"]


# --- Findings --------------------------------------------------------------------------------------------------------


def test_a_kernel_out_of_range_is_replaced_and_told() -> None:
    (finding,) = findings(options(), ["b580"], host("6.11.0-29-generic"))
    assert (finding.key, finding.option) == ("kernel_not_for_card", "kernel")
    assert finding.words == {
        "found": "6.11.0-29-generic", "required": ">= 6.12, <= 7, not 6.18", "why": (B580,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "report", "key", "option"),
    [
        ({}, host("6.17.0-14-generic"), None, ""),
        ({"source": "keep"}, host("6.17.0-14-generic"), None, ""),
        ({"source": "keep"}, host(), "kernel_keep", "kernel/source"),
        ({}, host(virtualization="lxc"), "kernel_container", "kernel"),
        ({"source": "keep"}, host(virtualization="lxc"), "kernel_container", "kernel"),
        ({}, host(virtualization="kvm"), "kernel_not_for_card", "kernel"),
        ({"min": "7.1", "max": "7.0"}, host(), "kernel_empty_range", "kernel"),
        ({"min": "8"}, host(), "kernel_empty_range", "kernel"),  # no card is known to run with it
        ({"known_bad": ["6.17"]}, host("6.17.0-14-generic"), "kernel_not_for_card", "kernel"),
        ({}, host(os=OperatingSystem("debian", "", "forky", "Debian forky/sid")), "kernel_source", "kernel/source"),
        ({"source": "backports"}, host(), "kernel_source", "kernel/source"),
        ({"source": "hwe"}, host(os=TRIXIE), "kernel_source", "kernel/source"),
        ({"source": "mainline", "version": "6.12.3"}, host(os=TRIXIE), "kernel_source", "kernel/source"),
        ({"source": "mainline", "version": "6.14.3"}, host(), "kernel_not_for_card", "kernel"),
        ({"source": "mainline", "version": "6.18.3"}, host(), "kernel_mainline_version", "kernel/version"),
        ({"source": "mainline", "version": "6.14.3"}, host(secure_boot=True), "kernel_unsigned", "kernel/source"),
        ({"source": "mainline", "version": "6.14.3"}, host(secure_boot=None), "kernel_unsigned", "kernel/source"),
        (
            {"source": "mainline", "version": "6.14.3"},
            host(secure_boot=None, uefi=False),
            "kernel_not_for_card",
            "kernel",
        ),
        ({}, host(secure_boot=True), "kernel_not_for_card", "kernel"),
    ],
)
def test_what_keeps_a_host_from_a_kernel_is_told_before_anything_is_tried(
    given: dict[str, Any], report: HardwareReport, key: str | None, option: str
) -> None:
    found = findings(options(**given), ["b580"], report)
    assert [(finding.key, finding.option) for finding in found] == ([(key, option)] if key else [])


def test_choices_are_those_of_the_system() -> None:
    (finding,) = findings(options(source="hwe"), ["b580"], host(os=TRIXIE))
    assert finding.words["choices"] == ("backports", "keep")
    (finding,) = findings(options(source="mainline", version="6.14.3"), ["b580"], host(secure_boot=True))
    assert (finding.words["found"], finding.words["signed"]) == ("on", "hwe")


def test_a_wrong_version_and_secure_boot_are_told_together() -> None:
    declared = options(source="mainline", version="6.11.3")
    assert keys(declared, ["b580"], host(secure_boot=True)) == ["kernel_mainline_version", "kernel_unsigned"]


def test_an_intel_card_that_the_right_kernel_did_not_take_is_told() -> None:
    report = dump("b580-unnamed-no-driver")
    (finding,) = findings(options(), ["b580"], replace(report, kernel="6.17.0-14-generic"))
    assert (finding.key, finding.words["driver"]) == ("unbound", "xe")
    assert keys(options(), ["b580"], report) == ["kernel_not_for_card"]
    # NVIDIA's driver is not part of the kernel, and comes later.
    assert keys(options(), ["t4"], dump("t4-unnamed")) == []
    assert keys(options(), ["rtx4090"], dump("rtx4090-on-a-pi")) == []
    assert keys(options(), ["b580"], dump("b580-in-a-vm")) == ["kernel_source"]  # Ubuntu 24.10 has no HWE


@pytest.mark.parametrize(("system", "version"), SOURCES)
@given(kernel=st.sampled_from(["6.8.0-87-generic", "6.12.57+deb13-amd64", "6.18.2-061802-generic", "7.0.0-30-generic"]))
def test_a_kernel_in_range_is_never_replaced(system: str, version: str, kernel: str) -> None:
    report = host(kernel, os=OperatingSystem(system, version))
    wanted = need(options(), ["b580"], report)
    assert keys(options(), ["b580"], report) == ([] if wanted.range.holds(kernel) else ["kernel_not_for_card"])


def test_cards_without_their_driver_fail_a_trial() -> None:
    assert undriven(["a380"], dump("a380-beside-igpu")) == []
    assert undriven(["b580"], dump("b580-unnamed-no-driver")) == [
        "Arc B580 (8086:e20b @ 0000:0c:00.0) (driver none, required xe)"
    ]
    assert undriven(["rtx3090"], dump("rtx3090-nouveau")) == [
        "GeForce RTX 3090 (10de:2204 @ 0000:09:00.0) (driver nouveau, required nvidia)"
    ]
    assert undriven(["cpu"], dump("rtx3090-nouveau")) == []


# --- Facts -----------------------------------------------------------------------------------------------------------

OLD, NEW, NEWER = "6.8.0-87-generic", "6.17.0-14-generic", "6.17.0-101-generic"
BOOT, NEXT = "0b8f7e3c-8a0f-4b34-9e10-000000000001", "0b8f7e3c-8a0f-4b34-9e10-000000000002"


def state(*lines: str, running: str = OLD, boot: str = BOOT, grub: str = "- ext2/ext3/ext4") -> KernelState:
    usual = [f"running {running}", f"boot {boot}", f"installed {OLD}", f"installed {NEW}", f"grub {grub}"]
    return Kernels().process([*usual, *lines])


def test_the_kernels_of_a_host_are_read() -> None:
    assert state() == KernelState(
        running=OLD,
        boot_id=BOOT,
        installed=(OLD, NEW),
        boot_loader="grub",
    )
    assert Kernels().process([]) == KernelState()


def test_a_trial_is_armed_then_runs_or_has_fallen_back() -> None:
    armed = state(f"trial {NEW} {OLD} {BOOT} ")
    assert (armed.trial, armed.fell_back) == (Trial(NEW, OLD, BOOT), False)
    assert not state(f"trial {NEW} {OLD} {BOOT} ", running=NEW, boot=NEXT).fell_back
    lost = state(f"trial {NEW} {OLD} {BOOT} ", boot=NEXT)
    assert lost.fell_back
    assert lost.best(KernelRange(min="6.12")) is None


@pytest.mark.parametrize("line", ["trial", "trial ", f"trial {NEW}", f"trial {NEW} {OLD}"])
def test_a_trial_that_was_half_written_is_none(line: str) -> None:
    assert state(line).trial is None


def test_the_newest_kernel_that_will_do_is_best() -> None:
    found = state(f"installed {NEWER}", "installed 7.0.0-30-generic", "installed 6.18.2-061802-generic")
    assert found.best(KernelRange()) == "7.0.0-30-generic"
    assert found.best(KernelRange(max="6", bad=["6.18"])) == NEWER  # 101 is more than 14
    assert found.best(KernelRange(max="6.8")) == OLD
    assert found.best(KernelRange(min="8")) is None


def test_a_kernel_that_failed_is_not_best() -> None:
    found = state(f"installed {NEWER}", f"failed {NEWER}", "failed 6.16.0-1-generic")
    assert found.failed == (NEWER, "6.16.0-1-generic")
    assert found.best(KernelRange(min="6.12")) == NEW


@pytest.mark.parametrize(
    ("grub", "problem"),
    [
        ("- ext2/ext3/ext4", ""),
        ("- ext2", ""),
        ("- xfs", ""),
        ("- fat", ""),
        ("- btrfs", "/boot/grub lies on btrfs, which GRUB cannot write"),
        ("- zfs", "/boot/grub lies on zfs, which GRUB cannot write"),
        ("lvm ext2", "/boot/grub lies on lvm"),
        ("diskfilter+mdraid1x ext2", "/boot/grub lies on diskfilter+mdraid1x"),
        ("cryptodisk+luks2+lvm ext2", "/boot/grub lies on cryptodisk+luks2+lvm"),
    ],
)
def test_grub_must_be_able_to_forget_a_trial(grub: str, problem: str) -> None:
    found = state(grub=grub)
    assert (found.boot_loader, found.environment) == ("grub", problem)
    assert boot_problems(found) == (
        [
            f"kernel: {problem}; required is a plain partition whose file system GRUB can write, or a trial boot would "
            "last (grub-reboot(8)); install a kernel in range by hand, boot it, and run again"
        ]
        if problem
        else []
    )


def test_without_grub_nothing_is_tried() -> None:
    (problem,) = boot_problems(Kernels().process([f"running {OLD}", f"installed {OLD}"]))
    assert problem.startswith("kernel: the host has no GRUB")


WORDS = ["running", "boot", "installed", "trial", "failed", "grub", "x", ""]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.text(alphabet="a .-0/+"))))
def test_no_output_of_the_script_is_an_error(lines: list[tuple[str, str]]) -> None:
    found = Kernels().process([f"{word} {rest}" for word, rest in lines])
    assert found.best(KernelRange()) in (None, *found.installed)
    assert isinstance(found.fell_back, bool)


def test_candidates_are_the_kernels_that_apt_would_install() -> None:
    command = Candidates().command(package="linux-generic-hwe-24.04", suite="", lock_timeout_seconds=9)
    assert "install -- linux-generic-hwe-24.04;" in command.get_raw_value()
    command = Candidates().command(package="linux-image-amd64", suite="trixie-backports", lock_timeout_seconds=9)
    assert "install -t trixie-backports -- linux-image-amd64;" in command.get_raw_value()
    said = "E: Unable to locate package linux-generic-hwe-24.04"
    assert Candidates().process([NEW, "", "Reading package lists...", said]) == Brought((NEW,), (said,))


APT_SAYS = """\
NOTE: This is only a simulation!
Inst linux-modules-6.17.0-14-generic (6.17.0-14.14~24.04.1 Ubuntu:24.04/noble-updates [amd64])
Inst linux-image-6.17.0-14-generic (6.17.0-14.14~24.04.1 Ubuntu:24.04/noble-updates [amd64])
Inst linux-image-unsigned-6.19.10-061910-generic (6.19.10-061910.202603251147 localhost [amd64])
Inst linux-image-6.17.8+deb13-amd64 (6.17.8-1~bpo13+1 Debian Backports:stable-backports [amd64])
Inst linux-image-generic-hwe-24.04 (6.17.0-14.14~24.04.1 Ubuntu:24.04/noble-updates [amd64])
Inst linux-headers-6.17.0-14-generic (6.17.0-14.14~24.04.1 Ubuntu:24.04/noble-updates [amd64])
Conf linux-image-6.17.0-14-generic (6.17.0-14.14~24.04.1 Ubuntu:24.04/noble-updates [amd64])
"""


def test_candidates_are_read_from_what_apt_says() -> None:
    text = Candidates().command(package="x", suite="", lock_timeout_seconds=9).get_raw_value()
    sed = text[text.rindex("sed -n") :]
    said = subprocess.run(["sh", "-c", sed], input=APT_SAYS, capture_output=True, text=True, check=True).stdout
    assert Candidates().process(said.splitlines()).releases == (
        "6.17.0-14-generic", "6.19.10-061910-generic", "6.17.8+deb13-amd64",
    )  # fmt: skip


def test_an_archive_that_brings_no_fitting_kernel_is_told() -> None:
    wanted, names = KernelRange(min="6.12", bad=["6.18"]), "linux-generic-hwe-22.04"
    assert candidate_problems(Brought((NEW,)), names, wanted, state()) == []
    (problem,) = candidate_problems(Brought(("6.8.0-87-generic",)), names, wanted, state())
    assert problem == (
        "kernel: linux-generic-hwe-22.04 would bring 6.8.0-87-generic; required: >= 6.12, not 6.18; nothing was "
        "changed; choose another kernel/source"
    )
    for brought in (Brought((NEW,)), Brought()):
        (problem,) = candidate_problems(brought, names, wanted, state(f"failed {NEW}"))
        assert f"; {NEW} was tried and failed" in problem
        assert problem.endswith("to try it again, remove its line from /var/lib/metal2model/kernel/failed on the host")
    (problem,) = candidate_problems(Brought((), ("E: no such thing",)), names, wanted, state())
    assert problem.startswith("kernel: apt would install no kernel with linux-generic-hwe-22.04; required: >= 6.12")
    assert "; apt says: E: no such thing; see " in problem


def test_when_no_kernel_is_left_all_are_named() -> None:
    (problem,) = nothing_left(state(f"failed {NEW}"), KernelRange(min="6.12"))
    assert (
        f"none of the installed kernels will do: {OLD}, {NEW}; required: >= 6.12; tried and given up: {NEW}" in problem
    )
    (problem,) = nothing_left(KernelState(), KernelRange(min="6.12"))
    assert "will do: none; required: >= 6.12; choose another kernel/source" in problem


# --- GRUB's menu, by the script --------------------------------------------------------------------------------------

# Entries as /etc/grub.d/10_linux of Ubuntu and Debian writes them.
UUID = "9f0c5a2e-1111-4222-8333-444455556666"
ENTRY = "menuentry '{0}' --class ubuntu --class os $menuentry_id_option '{1}' {{\n\tlinux /boot/vmlinuz\n}}\n"


def grub_cfg(*releases: str) -> str:
    text = ENTRY.format("Ubuntu", f"gnulinux-simple-{UUID}")
    text += f"submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced-{UUID}' {{\n"
    for release in releases:
        text += ENTRY.format(f"Ubuntu, with Linux {release}", f"gnulinux-{release}-advanced-{UUID}")
        text += ENTRY.format(f"Ubuntu, with Linux {release} (recovery mode)", f"gnulinux-{release}-recovery-{UUID}")
    return text + "}\n"


def entry(tmp_path: Path, release: str, cfg: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "grub.cfg").write_text(cfg)
    text = apt_script(CHANGE + f"entry '{release}'", lock_timeout_seconds=9).get_raw_value()
    script = text.replace("/boot/grub", str(tmp_path))
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("release", ["6.17.0-14-generic", "6.17.8+deb13-amd64", "6.8.0-101-generic"])
def test_a_kernel_is_found_in_grubs_menu(tmp_path: Path, release: str) -> None:
    cfg = grub_cfg("6.17.0-14-generic", "6.17.8+deb13-amd64", "6.8.0-101-generic", "6x17y0-14-generic")
    done = entry(tmp_path, release, cfg)
    assert done.stdout == f"gnulinux-advanced-{UUID}>gnulinux-{release}-advanced-{UUID}\n"


def test_a_menu_without_a_submenu_will_do(tmp_path: Path) -> None:
    """GRUB_DISABLE_SUBMENU=y"""
    cfg = ENTRY.format("Debian", f"gnulinux-{OLD}-advanced-{UUID}")
    assert entry(tmp_path, OLD, cfg).stdout == f"gnulinux-{OLD}-advanced-{UUID}\n"


def test_a_kernel_that_is_not_in_the_menu_is_told(tmp_path: Path) -> None:
    done = entry(tmp_path, "6.17.0-1-generic", grub_cfg("6.17.0-14-generic"))
    assert done.returncode == 1
    assert "GRUB's menu has no entry for 6.17.0-1-generic" in done.stdout + done.stderr
    assert "update-grub" in done.stdout + done.stderr


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash") if shutil.which(shell)])
def test_the_script_reads_this_machine(tmp_path: Path, shell: str) -> None:
    (tmp_path / "trial").write_text(f"{NEW}\n{OLD}\n{BOOT}\n")
    (tmp_path / "failed").write_text(f"{NEWER}\n")
    done = subprocess.run(
        [shell, "-c", f"state={tmp_path} boot_loader=yes\n{READ}"], capture_output=True, text=True, check=True
    )
    found = Kernels().process(done.stdout.splitlines())
    assert found.running == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert found.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (found.trial, found.failed) == (Trial(NEW, OLD, BOOT), (NEWER,))


def test_a_card_that_is_not_declared_wants_no_kernel() -> None:
    report = replace(host(), controllers=(DisplayController("0000:00:02.0", "8086", "b080", driver="xe"),))
    assert need(options(), ["b580"], report).range == KernelRange()


def test_what_brings_kernels_and_is_held_is_known_by_name() -> None:
    metapackages = ("linux-image-generic", "linux-generic-hwe-24.04", "linux-headers-generic", "linux-image-amd64")
    others = ("linux-image-6.8.0-90-generic", "linux-libc-dev", "linux-firmware", "nvidia-utils-580-server")
    assert held_metas(host(held=(*metapackages, *others))) == list(metapackages)
