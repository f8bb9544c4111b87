"""Time, logs and accounts of a host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.base.facts import Services
from roles.common.operations import Commands

TIMESYNCD = "systemd-timesyncd.service"
TIME_DAEMONS = ("chrony.service", "ntpsec.service", "ntp.service", "openntpd.service", TIMESYNCD)
"""Units that keep the clock, as Debian and Ubuntu name them; ours, if nobody chose another, is the last."""
JOURNALD = "systemd-journald.service"


@operation()
def services(reads: Mapping[str, Sequence[str]], accounts: Mapping[str, Sequence[str]]) -> Commands:
    """
    Have the journal run as configured, the clock kept by one daemon, and the accounts of the servers.

    + reads: unit -> the files that it reads only at start
    + accounts: system user -> groups that it belongs to; units name these groups, too

    A time daemon that runs is accepted, whichever it is; in a container the clock is not ours to set.
    One remote command when nothing is to do.
    """
    groups = sorted({group for names in accounts.values() for group in names})
    units = {unit: list(reads.get(unit, ())) for unit in (JOURNALD, *TIME_DAEMONS)}
    state = host.get_fact(Services, units=units, users=list(accounts), groups=groups)
    steps: list[StringCommand] = []
    # udev's package has them; a container may lack it, and no unit starts with a group that does not exist.
    steps += [StringCommand("groupadd --system", QuoteString(group)) for group in groups if group not in state.groups]
    for user, wanted in accounts.items():
        if user not in state.accounts:
            # No home: the units give each server directories of its own (systemd.exec(5), StateDirectory=).
            steps.append(
                StringCommand(
                    f"useradd --system --user-group --no-create-home --home-dir /var/lib/{user}",
                    f"--shell /usr/sbin/nologin{' --groups ' + ','.join(wanted) if wanted else ''}",
                    QuoteString(user),
                )
            )
        elif missing := [group for group in wanted if group not in state.accounts[user]]:
            steps.append(StringCommand("usermod --append --groups", ",".join(missing), QuoteString(user)))
    if (journal := state.units[JOURNALD]).exists and (journal.stale or not journal.active):
        steps.append(StringCommand("systemctl restart", JOURNALD))
    running = [unit for unit in TIME_DAEMONS if state.units[unit].active]
    if not state.container:
        installed = [unit for unit in TIME_DAEMONS if state.units[unit].exists]
        if not running and installed:
            steps.append(StringCommand("systemctl enable --now", installed[0]))
        elif TIMESYNCD in running and state.units[TIMESYNCD].stale:
            steps.append(StringCommand("systemctl restart", TIMESYNCD))
    yield from steps
    if not steps:
        host.noop("journal, clock and accounts as wanted")
