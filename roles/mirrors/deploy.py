"""Deploy of the mirrors role."""

from pyinfra.api import deploy

from roles.mirrors.operations import mirrors_in_use
from roles.mirrors.options import MirrorsOptions


@deploy("Mirrors")
def deploy_mirrors(options: MirrorsOptions, lock_timeout_seconds: int | None = None) -> None:
    """
    Have apt, pip and uv take packages from mirrors that answer.

    + lock_timeout_seconds: how long to wait for another package manager; None for what the host's apt is set to
    """
    mirrors_in_use(
        name="Take packages from mirrors that answer",
        apt=options.of_apt,
        security=options.moves_security,
        pypi=options.of_pypi,
        timeout_seconds=options.probe_timeout_seconds,
        lock_timeout_seconds=lock_timeout_seconds,
    )
