"""Operations of the tuning role."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fnmatch import fnmatch

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.common.operations import Commands
from roles.tuning.facts import KernelSetting, KernelStates

PROC_SYS = "/proc/sys/"


@operation()
def kernel_settings(wanted: Mapping[str, str], unit: str, present: bool = True) -> Commands:
    """
    Have kernel settings in force now, and a unit enabled that sets at every boot what sysctl.d cannot.

    + wanted: path below /proc/sys or /sys, wildcards allowed -> value
    + unit: the unit's full name
    + present: whether the unit shall be enabled

    What this kernel lacks, or what a container may not change, is told and left alone.
    One remote command when nothing is to do.
    """
    link = f"/etc/systemd/system/multi-user.target.wants/{unit}"
    state = host.get_fact(KernelStates, patterns=list(wanted), link=link)
    changes, notes = plan(wanted, state.settings)
    if notes:
        host.log(f"left alone: {'; '.join(notes)}")
    for value, paths in changes.items():
        yield StringCommand("printf %s", QuoteString(value), "| tee", *map(QuoteString, paths), ">/dev/null")
    if present and not state.enabled:
        yield StringCommand("systemctl daemon-reload && systemctl enable", QuoteString(unit))
    elif state.enabled and not present:
        yield StringCommand("rm -f --", QuoteString(link), "&& systemctl daemon-reload")
    elif not changes:
        host.noop("all that can be set is as wanted")


def plan(wanted: Mapping[str, str], settings: Mapping[str, KernelSetting]) -> tuple[dict[str, list[str]], list[str]]:
    """
    Return what is to be written, value -> paths, and notes on what cannot be.

    A pattern in /sys that matches nothing needs no word: no cpufreq means that somebody else sets the frequency.
    """
    changes: dict[str, list[str]] = defaultdict(list)
    notes: dict[str, None] = {}
    for pattern, value in wanted.items():
        found = {path: setting for path, setting in settings.items() if fnmatch(path, pattern)}
        name = pattern.removeprefix(PROC_SYS).replace("/", ".") if pattern.startswith(PROC_SYS) else pattern
        if not found and pattern.startswith(PROC_SYS):
            notes[f"{name} does not exist on this kernel"] = None
        for path, setting in found.items():
            if setting.value == value:
                continue
            if setting.choices and value not in setting.choices:
                notes[f"{name} stays {setting.value!r}, {value!r} is none of {', '.join(setting.choices)}"] = None
            elif not setting.writable:
                notes[f"{name} stays {setting.value!r}, it is read-only here (a container?)"] = None
            else:
                changes[value].append(path)
    return dict(changes), list(notes)
