"""Operations of the bundle role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyinfra import host, state
from pyinfra.api import operation

from roles.bundle.facts import BundleState, Missing, command
from roles.common.apt import apt_script
from roles.common.operations import Commands, ShownCommand, refuse


@operation()
def collected(spec: Mapping[str, Any], lock_timeout_seconds: int) -> Commands:
    """
    Have everything in the bundle that this host was made from.

    + spec: what files/bundle.py takes
    + lock_timeout_seconds: how long to wait for another package manager

    One remote command when nothing is to do, as long as apt's lists are of this day.
    """
    found: Missing = host.get_fact(BundleState, spec=spec)
    if found.problem:
        if state.is_executing:
            yield from refuse._inner(problems=[found.problem])
    elif found.files or found.outdated:
        script = f"m2m_update || exit\n{command('collect', spec).get_raw_value()}"
        yield ShownCommand(*apt_script(script, lock_timeout_seconds=lock_timeout_seconds).bits)
    else:
        host.noop("the bundle has what this host was made from")
