"""How every role calls apt: it waits for locks, never asks, repairs what was interrupted, and explains a failure."""

from __future__ import annotations

import re
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


@dataclass(frozen=True)
class Archive:
    """Where a host gets its distribution's own packages from: a mirror, if it has one."""

    uri: str = ""
    keyring: str = ""
    """What signs it; "" where its entry does not say."""

    def entry(self, *, role: str, suite: str, components: str) -> str:
        """Return a deb822 source of the same archive, for what else it has (sources.list(5))."""
        signed = f"Signed-By: {self.keyring}\n" if self.keyring else ""
        return (
            f"# Written by metal2model, role {role}; change the inventory's `{role}` options instead.\n"
            f"Types: deb\nURIs: {self.uri}\nSuites: {suite}\nComponents: {components}\n{signed}"
        )


class DistributionArchive(FactBase[Archive]):
    """Where the host gets its distribution's own packages from, as apt itself sees it."""

    default = Archive

    def command(self) -> str:
        """One line for each suite; the release's own comes first."""
        return (
            "(. /etc/os-release && apt-get indextargets --format '$(REPO_URI) $(SIGNED_BY)' 'Created-By: Packages' "
            "\"Codename: $VERSION_CODENAME\" 'Component: main' 2>/dev/null); true"
        )

    def process(self, output: list[str]) -> Archive:
        """Read URI and keyring; apt prints the name of a field that an entry lacks as it stands."""
        words = next((line.split() for line in output if line.strip()), [])
        keyring = " ".join(words[1:])
        return Archive(words[0] if words else "", "" if keyring.startswith("$(") else keyring)


NO_ARCHIVE = (
    "apt on the host knows no entry of the distribution's own archive; required, since this is taken from the "
    "same place; look at apt-get indextargets and apt-get update on the host, then run again"
)
"""What to say of an `Archive` without a URI."""


class PackageStates(FactBase[dict[str, str]]):
    """Installed version of each of the given packages; one that is absent or half installed has no entry."""

    default = dict

    def command(self, names: list[str]) -> StringCommand:
        """dpkg-query(1); it exits 1 when it does not know one of the names."""
        return StringCommand(
            r"LC_ALL=C.UTF-8 dpkg-query -W -f '${Package}\t${Version}\t${db:Status-Abbrev}\n' --",
            *map(QuoteString, names),
            "2>/dev/null; true",
        )

    def process(self, output: list[str]) -> dict[str, str]:
        """Read name, version and status: wanted, state (``i``: wholly installed), error."""
        versions = {}
        for line in output:
            name, version, status = line.split("\t")
            if status[1] == "i" and status[2:].strip() == "":
                versions[name] = version
        return versions


@operation()
def packages(names: Sequence[str], lock_timeout_seconds: int | None = None) -> Commands:
    """
    Have packages installed, in one transaction of apt.

    + names: ``name``, ``name=version``, ``name>=24.48`` where an older one would not do, or ``a|b`` for the first of
      several that this release has
    + lock_timeout_seconds: how long to wait for another package manager; None for what the host's apt is set to

    One remote command when nothing is to do. Recommended packages are not installed. No package is removed: apt
    fails instead, and says which.
    """
    least = {name.partition(">=")[0]: name.partition(">=")[2] for name in names if ">=" in name}
    names = [name.partition(">=")[0] for name in names]
    choices = [name.partition("=")[0].split("|") for name in names]
    versions = host.get_fact(PackageStates, names=sorted({n for choice in choices for n in choice}))
    missing = []
    for name, choice in zip(names, choices, strict=True):
        wanted = name.partition("=")[2]
        fit = [n for n in choice if n in versions and not older(versions[n], least.get(name, "0"))]
        if not any(wanted in ("", versions[n]) for n in fit):
            missing.append(name)
    if not missing:
        host.noop(f"{len(names)} packages as wanted")
        return
    flags = ["--no-install-recommends", "--no-remove"]
    flags += ["--allow-downgrades"] if any("=" in name for name in missing) else []
    words = [*flags, "--", *map(_chosen, missing)]
    # A source that fails (somebody's dead PPA) must not keep the others from being used: the install decides.
    script = f"m2m_update || [ $? -ne {LOCKED} ] || exit {LOCKED}\nm2m_install {' '.join(words)}"
    yield apt_script(script, lock_timeout_seconds=lock_timeout_seconds)


def older(version: str, required: str) -> bool:
    """Whether a Debian version's leading numbers come before the required ones: "23.43.27642" before "24.48"."""
    have, want = (_leading_numbers(text.partition(":")[2] or text) for text in (version, required))
    return have < want


def _leading_numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]+", re.split(r"[^0-9.]", text)[0])]


def _chosen(name: str) -> str:
    """Return a word of sh for a package; ``a|b`` is decided on the host, when its package lists are fresh."""
    return f'"$(m2m_known {shlex.join(name.split("|"))})"' if "|" in name else shlex.join([name])
