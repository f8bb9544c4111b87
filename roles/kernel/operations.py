"""Operations of the kernel role: install, try once, confirm or give up."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from roles.common.apt import NO_ARCHIVE, Archive, DistributionArchive, apt_script
from roles.common.hardware import Hardware, HardwareReport
from roles.common.kernels import KernelRange
from roles.common.lock import declared_cards
from roles.common.operations import Commands, ShownCommand, TextFile, file_set, refuse
from roles.common.reboot import content, reboot, wish
from roles.kernel.facts import FAILED, Brought, Candidates, Kernels, KernelState
from roles.kernel.plan import Metas

ROLE = "kernel"
CHANGE = (Path(__file__).parent / "files" / "change.sh").read_text()
BACKPORTS = "/etc/apt/sources.list.d/metal2model-backports.sources"
GRUB = """\
# Written by metal2model, role kernel: the default is the kernel that is proven, and a panic ends in a reboot, so that a
# kernel on trial gives way by itself. Change the inventory's `kernel` options instead.
GRUB_DEFAULT=saved
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX panic=10"
"""


MENDED = """\
m2m_update || [ $? -ne 75 ] || exit 75
[ -z "$(dpkg --audit)" ] || m2m_run dpkg --force-confdef --force-confold --configure -a
"""
"""Complete what an earlier run, or a power cut, left half installed: apt's simulation does not show it."""


@operation()
def installed(
    wanted: KernelRange,
    brought_by: Metas,
    suite: str,
    mainline: Sequence[str],
    lock_timeout_seconds: int,
) -> Commands:
    """
    Have a kernel in /boot that will do, and the running one as the default until another is proven.

    + wanted: which kernels will do
    + brought_by: packages that bring one, and its headers where something is compiled for every kernel (DKMS)
    + suite: a suite of backports that apt needs for it, "" for none
    + mainline: arguments of ``mainline`` of files/change.sh instead of packages, () for none
    + lock_timeout_seconds: how long to wait for another package manager
    """
    found: KernelState = host.get_fact(Kernels, boot_loader=True)
    if problems := boot_problems(found):
        yield from refuse._inner(problems=problems)
        return
    if found.trial and found.fell_back:  # the run that was to judge it has ended before
        yield StringCommand(f"{CHANGE}lost {shlex.quote(found.trial.kernel)}")
    if found.best(wanted):
        host.noop(f"{found.best(wanted)} is there")
        return
    yield apt_script(MENDED, lock_timeout_seconds=lock_timeout_seconds)
    if state.is_executing:
        found = replace(host.get_fact(Kernels, boot_loader=True), failed=found.lost)
        if found.best(wanted):
            return
    if suite and state.is_executing:
        archive: Archive = host.get_fact(DistributionArchive)
        if not archive.uri:
            yield from refuse._inner(problems=[f"kernel/source: {NO_ARCHIVE}"])
            return
        entry = archive.entry(role=ROLE, suite=suite, components="main")
        yield from file_set._inner(files={BACKPORTS: TextFile(entry)})
    if not mainline and state.is_executing:
        brought: Brought = host.get_fact(Candidates, package=brought_by.image, suite=suite,
                                         lock_timeout_seconds=lock_timeout_seconds)  # fmt: skip
        if problems := candidate_problems(brought, brought_by.image, wanted, found):
            yield from file_set._inner(files={BACKPORTS: None} if suite else {})
            yield from refuse._inner(problems=problems)
            return
    running = shlex.quote(found.running)
    install = f"install_kernel {shlex.join([suite, brought_by.image, brought_by.headers])}"
    steps = [
        f"fetch_mainline {shlex.join(mainline)} || exit" if mainline else "",
        f"save_default {running} {shlex.quote(GRUB)} && keep {running} || exit",
        'm2m_install --no-install-recommends "$work"/*.deb' if mainline else install,
    ]
    yield _shown("\n".join(steps), lock_timeout_seconds)


@operation()
def armed(wanted: KernelRange, lock_timeout_seconds: int) -> Commands:
    """
    Have the newest kernel that will do booted next, once; the running one stays the default.

    + wanted: which kernels will do
    + lock_timeout_seconds: how long to wait for another package manager
    """
    found: KernelState = host.get_fact(Kernels, boot_loader=False)
    target = found.best(wanted)
    if target is None:
        if state.is_executing:
            yield from refuse._inner(problems=nothing_left(found, wanted))
        return
    running = shlex.quote(found.running)
    steps = [
        wish(ROLE, f"kernel {target} is to be tried"),
        f"save_default {running} {shlex.quote(GRUB)} && keep {running} && arm {shlex.quote(target)} {running}",
    ]
    yield apt_script(CHANGE + "\n".join(steps), lock_timeout_seconds=lock_timeout_seconds)


@operation()
def settled(
    tags: Sequence[str], metas: Sequence[str], hold: bool, free: Sequence[str], reboot_timeout_seconds: int
) -> Commands:
    """
    Make a kernel on trial the default if the host came up with it and it drives the declared cards; else give it up.

    + tags: the host's
    + metas: packages that would bring the next kernel
    + hold: hold them, and keep the kernel as the default; else what upgrades bring boots
    + free: those of them that are held and shall not be
    + reboot_timeout_seconds: how long to wait for the host when it has to go back to its old kernel
    """
    found: KernelState = host.get_fact(Kernels, boot_loader=False)
    trial = found.trial
    if free:
        yield apt_script(f"m2m_run apt-mark unhold {shlex.join(free)}")
    if trial is None or (found.boot_id == trial.boot_id and found.running != trial.kernel):
        host.noop("no kernel is on trial")
        return
    kernel = shlex.quote(trial.kernel)
    if found.running != trial.kernel:
        yield StringCommand(f"{CHANGE}lost {kernel} && {content(ROLE)}")
        problem = f"kernel {trial.kernel} was booted as a trial and did not come up"
        yield from refuse._inner(problems=[f"{problem}; the host is back on {found.running}, {AGAIN}"])
        return
    report: HardwareReport = host.get_fact(Hardware)
    if blind := undriven(tags, report):
        # Given up only when the host is back: a run that ends before leaves a trial for the next one to judge.
        yield from reboot(host, reboot_timeout_seconds)
        yield StringCommand(f"{CHANGE}lost {kernel} && {content(ROLE)}")
        problem = f"kernel {trial.kernel} came up as a trial, but does not drive {', '.join(blind)}"
        yield from refuse._inner(problems=[f"{problem}; the host went back to {trial.previous}, {AGAIN}"])
        return
    yield apt_script(
        f"{CHANGE}confirm {shlex.join([trial.kernel, 'yes' if hold else 'no', *metas])} && {content(ROLE)}"
    )


AGAIN = (
    "which is its default as before; why is in the last boot's log there (journalctl -k -b -1) or on the console; "
    f"it is not tried again: to do so all the same, remove its line from {FAILED} on the host"
)


def undriven(tags: Sequence[str], report: HardwareReport) -> list[str]:
    """Return the declared cards that the right driver has not taken."""
    return [
        f"{card} (driver {card.controller.driver or 'none'}, required {card.family.driver})"
        for card in declared_cards(tags, report)
        if card.controller.driver != card.family.driver
    ]


def boot_problems(found: KernelState) -> list[str]:
    """Return why a kernel cannot be tried once on this host."""
    if not found.boot_loader:
        return [
            "kernel: the host has no GRUB (grub-reboot, /boot/grub/grub.cfg); required to boot a new kernel once and "
            "fall back by itself; install a kernel in range by hand, boot it, and run again"
        ]
    if found.environment:
        return [
            f"kernel: {found.environment}; required is a plain partition whose file system GRUB can write, or a trial "
            "boot would last (grub-reboot(8)); install a kernel in range by hand, boot it, and run again"
        ]
    return []


def candidate_problems(brought: Brought, package: str, wanted: KernelRange, found: KernelState) -> list[str]:
    """Return why what apt would install is no help."""
    if any(wanted.holds(release) and release not in found.failed for release in brought.releases):
        return []
    tried = f"{', '.join(found.failed)} was tried and failed" if found.failed else ""
    again = f"to try it again, remove its line from {FAILED} on the host"
    if not brought.releases and tried:
        return [
            f"kernel: {found.running} runs; required: {wanted}; {tried}, and {package} brings no newer one; "
            f"choose another kernel/source; {again}"
        ]
    if not brought.releases:
        said = f"; apt says: {brought.errors[0]}" if brought.errors else ""
        return [
            f"kernel: apt would install no kernel with {package}; required: {wanted}{said}; see apt-get -s install "
            f"{package} on the host; its package sources may lack the suite (mirrors/apt)"
        ]
    more = f"{tried}; " if tried else ""
    return [
        f"kernel: {package} would bring {', '.join(brought.releases)}; required: {wanted}; {more}nothing was changed; "
        f"choose another kernel/source{f'; {again}' if tried else ''}"
    ]


def nothing_left(found: KernelState, wanted: KernelRange) -> list[str]:
    """Return what to say when no installed kernel will do."""
    have = ", ".join(found.installed) or "none"
    lost = f"; tried and given up: {', '.join(found.failed)} ({FAILED} on the host)" if found.failed else ""
    return [
        f"kernel: none of the installed kernels will do: {have}; required: {wanted}{lost}; choose another kernel/source"
    ]


def _shown(script: str, lock_timeout_seconds: int) -> StringCommand:
    """Minutes pass while a kernel is unpacked and its ramdisk made: the output is shown as it comes."""
    text = apt_script(CHANGE + script, lock_timeout_seconds=lock_timeout_seconds)
    return ShownCommand(*text.bits)
