"""How every role calls apt: it waits for locks, never asks, repairs what was interrupted, and explains a failure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from roles.common.operations import Commands

LOCKED = 75
"""Exit status of an apt command that gave up waiting for a lock (EX_TEMPFAIL of sysexits.h)."""

SHELL = (Path(__file__).parent / "apt.sh").read_text()


def apt_script(script: str, *, lock_timeout_seconds: int | None = None) -> StringCommand:
    """
    Return the command that runs a script of sh in which the functions of apt.sh are defined.

    A lock is waited for as long as apt's own ``DPkg::Lock::Timeout`` says, which the base role sets from
    ``base/lock_timeout_seconds`` (120 seconds where nobody set it), or as ``lock_timeout_seconds`` says.
    """
    patience = "" if lock_timeout_seconds is None else str(lock_timeout_seconds)
    return StringCommand(f"{SHELL}m2m_set_patience '{patience}'\n{script}")


def apt_get(*arguments: str, lock_timeout_seconds: int | None = None) -> StringCommand:
    """Return the command ``apt-get -y ARGUMENTS``: waiting for locks, without questions, explaining a failure."""
    return apt_script(f"m2m_apt_get {shlex.join(arguments)}", lock_timeout_seconds=lock_timeout_seconds)


@dataclass(frozen=True)
class PackageState:
    """A package that is wholly installed."""

    version: str
    held: bool
    """``apt-mark hold``: apt does not change it unless told to."""


class PackageStates(FactBase[dict[str, PackageState]]):
    """Installed version of each of the given packages; one that is absent or half installed has no entry."""

    default = dict

    def command(self, names: list[str]) -> StringCommand:
        """dpkg-query(1); it exits 1 when it does not know one of the names."""
        return StringCommand(
            r"LC_ALL=C.UTF-8 dpkg-query -W -f '${Package}\t${Version}\t${db:Status-Abbrev}\n' --",
            *map(QuoteString, names),
            "2>/dev/null; true",
        )

    def process(self, output: list[str]) -> dict[str, PackageState]:
        """Read name, version and status: wanted (``i`` or ``h`` for hold), state, error."""
        states = {}
        for line in output:
            name, version, status = line.split("\t")
            if status[1] == "i" and status[2:].strip() == "":
                states[name] = PackageState(version, held=status[0] == "h")
        return states


@operation()
def packages(
    names: Sequence[str],
    absent: Sequence[str] = (),
    held: bool = False,
    lock_timeout_seconds: int | None = None,
) -> Commands:
    """
    Have packages installed, others not, in one transaction of apt.

    + names: ``name``, ``name=version``, or ``a|b`` for the first of several that this release has
    + absent: packages that must not be installed
    + held: keep all of ``names`` at their version until a role changes it
    + lock_timeout_seconds: how long to wait for another package manager; None for what the host's apt is set to

    One remote command when nothing is to do. Recommended packages are not installed. No package is removed
    that is not named in ``absent``: apt fails instead, and says which.
    """
    choices = [name.partition("=")[0].split("|") for name in names]
    states = host.get_fact(PackageStates, names=sorted({n for choice in choices for n in choice} | set(absent)))
    missing, found = [], []
    for name, choice in zip(names, choices, strict=True):
        version = name.partition("=")[2]
        here = [n for n in choice if n in states and version in ("", states[n].version)]
        found += here[:1]
        if not here:
            missing.append(name)
    surplus = [name for name in absent if name in states]
    to_hold = held and (missing or not all(states[name].held for name in found))
    if missing or surplus:
        words = [_chosen(name) for name in missing] + [shlex.join([f"{name}-"]) for name in surplus]
        flags = ["--no-install-recommends", "--allow-change-held-packages"] if held else ["--no-install-recommends"]
        flags += ["--allow-downgrades"] if any("=" in name for name in missing) else []
        flags += [] if surplus else ["--no-remove"]
        # A source that fails (somebody's dead PPA) must not keep the others from being used: the install decides.
        script = f"m2m_update || [ $? -ne {LOCKED} ] || exit {LOCKED}\nm2m_install {' '.join([*flags, '--', *words])}"
        yield apt_script(script, lock_timeout_seconds=lock_timeout_seconds)
    if to_hold:
        words = [_chosen(name.partition("=")[0]) for name in names]
        yield apt_script(f"m2m_run apt-mark hold {' '.join(words)}", lock_timeout_seconds=lock_timeout_seconds)
    if not (missing or surplus or to_hold):
        host.noop(f"{len(names)} packages as wanted")


def _chosen(name: str) -> str:
    """Return a word of sh for a package; ``a|b`` is decided on the host, when its package lists are fresh."""
    return f'"$(m2m_known {shlex.join(name.split("|"))})"' if "|" in name else shlex.join([name])
