"""Deploy of the reboot role."""

from __future__ import annotations

from pyinfra.api import deploy

from roles.reboot.operations import rebooted
from roles.reboot.options import RebootOptions


@deploy("Reboot")
def deploy_reboot(options: RebootOptions) -> None:
    """Reboot the host if kernel or drivers wait for it, and go on when it is back."""
    rebooted(name="Reboot, if anything waits for it", allowed=options.allowed, timeout_seconds=options.timeout_seconds)
