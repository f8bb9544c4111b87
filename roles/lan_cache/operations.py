"""Programs of the distribution, without the services that come with them."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.common.apt import PackageStates, packages
from roles.common.facts import UnitStates
from roles.common.operations import Commands


@operation()
def programs(services: Mapping[str, str | None], lock_timeout_seconds: int | None = None) -> Commands:
    """
    Have packages installed, and the services that they bring not started.

    + services: package -> the unit that it would start; None for none
    + lock_timeout_seconds: how long to wait for another package manager; None for what the host's apt is set to

    Debian starts a service as soon as its package is installed, as it is configured there: on a well-known port of
    every address. So the unit is masked before; one that exists before is somebody's, and left alone. One remote
    command when nothing is to do.
    """
    installed = host.get_fact(PackageStates, names=list(services))
    missing = [package for package in services if package not in installed]
    if not missing:
        host.noop(f"{len(services)} packages as wanted")
        return
    units = [unit for package in missing if (unit := services[package])]
    states = host.get_fact(UnitStates, units={unit: [] for unit in units})
    if to_mask := [unit for unit in units if unit in states and not states[unit].exists]:
        yield StringCommand("systemctl mask --", *map(QuoteString, to_mask))
    yield from packages._inner(names=missing, lock_timeout_seconds=lock_timeout_seconds)
