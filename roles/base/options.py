"""Options of the base role."""

from typing import Annotated

from pydantic import Field

from roles.common.options import Options, Seconds

PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
"""deb-control(5), Package."""
PackagePattern = Annotated[str, Field(pattern=r'^[^\s"]+$')]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]


class BaseOptions(Options):
    """What every later role stands on."""

    extra_packages: list[PackageName] = []
    """Packages of the distribution to have beside those that the roles need."""

    lock_timeout_seconds: Seconds = 120
    """How long to wait for another package manager, in seconds; after a boot, unattended-upgrades works for minutes.
    It becomes apt's own ``DPkg::Lock::Timeout`` on the host, for everybody's calls."""

    never_upgrade: list[PackagePattern] = []
    """Packages that unattended-upgrades must leave alone: the beginnings of their names, as regular expressions of
    Python (``linux-image-``). It is not installed where it is not."""

    journal_max_mib: Annotated[int, Field(ge=64)] = 1024
    """Disk that the system journal may fill, in MiB."""

    journal_max_age_days: Annotated[int, Field(ge=1)] = 30
    """Days after which journal entries are dropped."""

    time_servers: list[HostName] = []
    """NTP servers for systemd-timesyncd, in order of preference; empty for the distribution's. A host that runs
    chrony, ntpsec or another time daemon keeps it, and its servers."""
