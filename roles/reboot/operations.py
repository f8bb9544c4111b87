"""Operations of the reboot role."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api import operation

from roles.common.operations import Commands, refuse
from roles.common.reboot import Boot, BootState, reboot


@operation()
def rebooted(allowed: bool, timeout_seconds: int) -> Commands:
    """
    Have the host booted since the last change that wants it.

    + allowed: reboot; otherwise the host fails and says what waits
    + timeout_seconds: how long to wait for it
    """
    state: BootState = host.get_fact(Boot)
    if not state.wanted:
        host.noop("nothing waits for a reboot")
    elif allowed:
        yield from reboot(host, timeout_seconds)
    else:
        waits = "; ".join(state.wanted)
        problem = f"reboot/allowed is False, and a reboot is needed: {waits}; reboot the host, then run again"
        yield from refuse._inner(problems=[problem])
