"""Operations of the kernel role: install, try once, confirm or give up."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from roles.common.apt import apt_script
from roles.common.hardware import Hardware, HardwareReport
from roles.common.kernels import KernelRange
from roles.common.lock import declared_cards
from roles.common.operations import Commands, ShownCommand, TextFile, file_set, refuse
from roles.common.reboot import content, reboot, wish
from roles.kernel.facts import FAILED, Candidates, Kernels, KernelState

ROLE = "kernel"
CHANGE = (Path(__file__).parent / "files" / "change.sh").read_text()
BACKPORTS = "/etc/apt/sources.list.d/metal2model-backports.sources"
GRUB = """\
# Written by metal2model, role kernel: the default is the kernel that is proven, and a panic ends in a reboot, so that a
# kernel on trial gives way by itself. Change the inventory's `kernel` options instead.
GRUB_DEFAULT=saved
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX panic=10"
"""


@operation()
def installed(
    wanted: KernelRange,
    packages: Sequence[str],
    suite: str,
    mainline: Sequence[str],
    lock_timeout_seconds: int,
) -> Commands:
    """
    Have a kernel in /boot that will do, and the running one as the default until another is proven.

    + wanted: which kernels will do
    + packages: what brings one, by apt
    + suite: a suite of backports that apt needs for it, "" for none
    + mainline: arguments of ``mainline`` of files/change.sh instead of packages, () for none
    + lock_timeout_seconds: how long to wait for another package manager
    """
    found: KernelState = host.get_fact(Kernels)
    if problems := boot_problems(found):
        yield from refuse._inner(problems=problems)
        return
    if found.best(wanted):
        host.noop(f"{found.best(wanted)} is there")
        return
    if suite:
        yield from file_set._inner(files={BACKPORTS: TextFile(backports_source(found, suite))})
    if not mainline and state.is_executing:
        brought = host.get_fact(Candidates, packages=list(packages), suite=suite,
                                lock_timeout_seconds=lock_timeout_seconds)  # fmt: skip
        if problems := candidate_problems(brought, packages, wanted, found):
            yield from file_set._inner(files={BACKPORTS: None} if suite else {})
            yield from refuse._inner(problems=problems)
            return
    running = shlex.quote(found.running)
    choice = ["-t", suite] if suite else []
    install = f"m2m_install --no-install-recommends {shlex.join([*choice, '--', *packages])}"
    steps = [
        f"save_default {running} {shlex.quote(GRUB)} && keep {running} || exit",
        f"mainline {shlex.join(mainline)}" if mainline else f"m2m_update && {install}",
    ]
    yield _shown("\n".join(steps), lock_timeout_seconds)


@operation()
def armed(wanted: KernelRange, lock_timeout_seconds: int) -> Commands:
    """
    Have the newest kernel that will do booted next, once; the running one stays the default.

    + wanted: which kernels will do
    + lock_timeout_seconds: how long to wait for another package manager
    """
    found: KernelState = host.get_fact(Kernels)
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
    if found.trial and found.fell_back:
        steps.insert(0, f"lost {shlex.quote(found.trial.kernel)} || exit")
    yield apt_script(CHANGE + "\n".join(steps), lock_timeout_seconds=lock_timeout_seconds)


@operation()
def settled(tags: Sequence[str], metas: Sequence[str], reboot_timeout_seconds: int) -> Commands:
    """
    Make a kernel on trial the default if the host came up with it and it drives the declared cards; else give it up.

    + tags: the host's
    + metas: packages that would bring the next kernel, to be held
    + reboot_timeout_seconds: how long to wait for the host when it has to go back to its old kernel
    """
    found: KernelState = host.get_fact(Kernels)
    trial = found.trial
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
        yield StringCommand(f"{CHANGE}lost {kernel} && {content(ROLE)}")
        yield from reboot(host, reboot_timeout_seconds)
        problem = f"kernel {trial.kernel} came up as a trial, but does not drive {', '.join(blind)}"
        yield from refuse._inner(problems=[f"{problem}; the host went back to {trial.previous}, {AGAIN}"])
        return
    yield apt_script(f"{CHANGE}confirm {kernel} {shlex.join(metas)} && {content(ROLE)}")


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


def candidate_problems(
    brought: Sequence[str], packages: Sequence[str], wanted: KernelRange, found: KernelState
) -> list[str]:
    """Return why what apt would install is no help."""
    if any(wanted.holds(release) and release not in found.failed for release in brought):
        return []
    names = ", ".join(packages)
    tried = f"{', '.join(found.failed)} was tried and failed" if found.failed else ""
    again = f"to try it again, remove its line from {FAILED} on the host"
    if not brought and tried:
        return [
            f"kernel: {found.running} runs; required: {wanted}; {tried}, and {names} brings no newer one; "
            f"choose another kernel/source; {again}"
        ]
    if not brought:
        return [
            f"kernel: apt would install no kernel with {names}; required: {wanted}; see apt-get -s install {names} on "
            "the host; its package sources may lack the suite (mirrors/apt)"
        ]
    return [
        f"kernel: {names} would bring {', '.join(brought)}; required: {wanted}; {f'{tried}; ' if tried else ''}nothing "
        f"was changed; choose another kernel/source{f'; {again}' if tried else ''}"
    ]


def nothing_left(found: KernelState, wanted: KernelRange) -> list[str]:
    """Return what to say when no installed kernel will do."""
    have = ", ".join(found.installed) or "none"
    lost = f"; tried and given up: {', '.join(found.failed)} ({FAILED} on the host)" if found.failed else ""
    return [
        f"kernel: none of the installed kernels will do: {have}; required: {wanted}{lost}; choose another kernel/source"
    ]


def backports_source(found: KernelState, suite: str) -> str:
    """Return a deb822 entry for backports, from where the distribution's own packages come."""
    uri, keyring = found.archive
    signed = f"Signed-By: {keyring}\n" if keyring else ""
    return (
        "# Written by metal2model, role kernel; change the inventory's `kernel` options instead.\n"
        f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\n{signed}"
    )


def _shown(script: str, lock_timeout_seconds: int) -> StringCommand:
    """Minutes pass while a kernel is unpacked and its ramdisk made: the output is shown as it comes."""
    text = apt_script(CHANGE + script, lock_timeout_seconds=lock_timeout_seconds)
    return ShownCommand(*text.bits)
