"""Deploy of the base role."""

from __future__ import annotations

from pyinfra.api import deploy

from roles.base.operations import JOURNALD, TIMESYNCD, services
from roles.base.options import BaseOptions
from roles.common.apt import packages
from roles.common.operations import TextFile, file_set

PACKAGES = (
    "ca-certificates",
    "curl",
    "gpg",
    "numactl",
    "pciutils",
    "python3",
    "python3-venv",
    "zstd",
    # Any daemon that is there is accepted; the first is installed where there is none.
    "systemd-timesyncd|chrony|ntpsec|ntp|openntpd",
)
"""What the roles of this repository call on a host, beside what the distribution always has."""

ACCOUNTS = {"llama-server": ("render", "video"), "ollama": ("render", "video")}
"""System users that servers run as, and the groups that may open GPU devices."""

APT = "/etc/apt/apt.conf.d/90metal2model"
JOURNAL = "/etc/systemd/journald.conf.d/50-metal2model.conf"
TIME = "/etc/systemd/timesyncd.conf.d/50-metal2model.conf"


@deploy("Base")
def deploy_base(options: BaseOptions) -> None:
    """Have the packages, settings, services and accounts that later roles rely on."""
    packages(
        name="Install what the roles need",
        names=[*PACKAGES, *options.extra_packages],
        lock_timeout_seconds=options.lock_timeout_seconds,
    )
    file_set(
        name="Set apt, the journal and the clock",
        files={
            APT: TextFile(apt_conf(options)),
            JOURNAL: TextFile(journal_conf(options)),
            # Without servers, too: a file that changes is seen by timesyncd's next restart, one that is gone is not.
            TIME: TextFile(time_conf(options)),
        },
    )
    services(
        name="Keep the journal, the clock and the accounts",
        reads={JOURNALD: [JOURNAL], TIMESYNCD: [TIME]},
        accounts=ACCOUNTS,
    )


def apt_conf(options: BaseOptions) -> str:
    """Text of the apt.conf(5) drop-in."""
    text = (
        "// Written by metal2model, role base. Change base/lock_timeout_seconds and base/never_upgrade\n"
        "// in the inventory, not this file.\n"
        f'DPkg::Lock::Timeout "{options.lock_timeout_seconds}";\n'
    )
    if options.never_upgrade:
        patterns = "".join(f'    "{pattern}";\n' for pattern in options.never_upgrade)
        # A list in apt.conf grows with every file that names it, so the distribution's own entries stay.
        text += f"Unattended-Upgrade::Package-Blacklist {{\n{patterns}}};\n"
    return text


def journal_conf(options: BaseOptions) -> str:
    """Text of the journald.conf(5) drop-in."""
    return (
        "# Written by metal2model, role base. Change base/journal_max_mib and base/journal_max_age_days\n"
        "# in the inventory, not this file.\n"
        "[Journal]\n"
        "Storage=persistent\n"
        f"SystemMaxUse={options.journal_max_mib}M\n"
        f"MaxRetentionSec={options.journal_max_age_days}day\n"
    )


def time_conf(options: BaseOptions) -> str:
    """Text of the timesyncd.conf(5) drop-in; without servers a comment, which leaves the distribution's."""
    text = "# Written by metal2model, role base. Change base/time_servers in the inventory, not this file.\n"
    return text + (f"[Time]\nNTP={' '.join(options.time_servers)}\n" if options.time_servers else "")
