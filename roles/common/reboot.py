"""
Reboots: who wants one, and waiting for the host to come back.

A role that changed something which only a boot makes real leaves a note on the host, with the boot that it was written
in. The reboot role restarts a host that has a note of the present boot: so a run that was killed between the change and
the reboot is completed by the next one, and one reboot serves kernel and drivers together. A note of an earlier boot
says that this boot was tried for that reason already; its role removes it when all is well.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from paramiko import SSHException
from pyinfra import logger
from pyinfra.api import FactBase, FunctionCommand, Host, State, StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.connectors.util import clear_askpass_cache

from roles.common.apt import apt_script
from roles.common.connection import send_at_once

NOTES = "/var/lib/metal2model/reboot"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Note:
    """A role's wish for a reboot."""

    boot_id: str
    """The boot in which it was written."""
    why: str


@dataclass(frozen=True)
class BootState:
    """The present boot, and what wants another."""

    boot_id: str = ""
    notes: tuple[Note, ...] = ()

    @property
    def wanted(self) -> list[str]:
        """Why the host must be rebooted."""
        return [note.why for note in self.notes if note.boot_id == self.boot_id]

    def tried(self, why: str) -> bool:
        """Whether the host was rebooted for this reason, and the role that asked for it has not been content since."""
        return any(note.why == why and note.boot_id != self.boot_id for note in self.notes)


class Boot(FactBase[BootState]):
    """Identity of the present boot (random(4)), and the notes of all roles."""

    default = BootState

    def command(self) -> str:
        """A line for the boot, then one for each note."""
        return f"echo boot $(cat {BOOT_ID}); cat {NOTES}/* 2>/dev/null; true"

    def process(self, output: list[str]) -> BootState:
        """Read a word and the rest of each line."""
        first, *notes = [line.partition(" ") for line in output if line.strip()]
        return BootState(first[2], tuple(Note(boot_id, why) for boot_id, _, why in notes))


def wish(role: str, why: str) -> str:
    """Return sh text that leaves a note; run it before the change, so that a change is never without one."""
    note = f"{NOTES}/{role}"
    line = f"""printf '%s %s\\n' "$(cat {BOOT_ID})" {shlex.quote(why)}"""
    return f"mkdir -p {NOTES} && {line} >{note}.part && mv -f {note}.part {note}"


def content(role: str) -> str:
    """Return sh text that removes a role's note."""
    return f"rm -f {NOTES}/{role}"


def reboot(host: Host, timeout_seconds: int) -> Iterator[StringCommand | FunctionCommand]:
    """Yield what restarts a host and waits until it can be logged in to again, for at most that long."""
    before = host.get_fact(Boot).boot_id
    # A package manager that is at work, perhaps unattended-upgrades, is let finish; what it left half is completed.
    yield apt_script("m2m_run dpkg --configure -a")
    # Detached, so that the command ends before its connection does (pyinfra#1708).
    yield StringCommand("( sleep 1; systemctl reboot ) </dev/null >/dev/null 2>&1 &")
    yield FunctionCommand(_wait_for, (before, timeout_seconds), {})
    # sshd does not wait for drivers, and cards are judged next.
    yield StringCommand("udevadm settle --timeout=120 || true")


def _wait_for(state: State, host: Host, before: str, timeout_seconds: int) -> bool:
    """Reconnect to a host that reboots; return whether it came back as another boot."""
    began = time.monotonic()
    logger.info(f"{host.print_prefix}rebooting; waiting for it for at most {timeout_seconds} s")
    while time.monotonic() - began < timeout_seconds:
        time.sleep(POLL_SECONDS)
        boot_id = _attempt(lambda: _boot_id(host))
        if boot_id not in ("", before):
            send_at_once(host)
            logger.info(f"{host.print_prefix}is back after {time.monotonic() - began:.0f} s")
            return True
    logger.error(
        f"{host.print_prefix}{host.name}: did not come back within {timeout_seconds} s of its reboot "
        "(reboot/timeout_seconds); look at its console. If a new kernel hangs there, power it off and on: the kernel "
        "was to be booted once, and the one before is the default"
    )
    return False


def _boot_id(host: Host) -> str:
    # What is left of the old connection, and of what was uploaded through it, is gone with the boot.
    clear_askpass_cache(host)
    host.connector.disconnect()
    host.connected = False
    host.connector.connect()
    host.connected = True
    status, output = host.run_shell_command(
        StringCommand("cat", BOOT_ID), print_output=False, print_input=False, _timeout=30
    )
    return output.stdout.strip() if status else ""


def _attempt(action: Callable[[], str]) -> str:
    try:
        return action()
    except (ConnectError, SSHException, OSError, EOFError):
        return ""
