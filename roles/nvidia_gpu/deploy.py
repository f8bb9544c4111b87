"""Deploy of the nvidia_gpu role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.hardware import HardwareReport
from roles.common.lock import declared_cards
from roles.common.operations import TextFile, Unit, units
from roles.nvidia_gpu.facts import OTHERS
from roles.nvidia_gpu.operations import driver, proven
from roles.nvidia_gpu.options import NvidiaGpuOptions
from roles.nvidia_gpu.plan import choice

HEADER = "Written by metal2model, role nvidia_gpu; change the inventory's `nvidia_gpu` options instead."
UPGRADES = "/etc/apt/apt.conf.d/91metal2model-nvidia"
NOUVEAU = "/etc/modprobe.d/metal2model-nouveau.conf"
PERSISTENCED = "nvidia-persistenced.service"
DROP_IN = f"/etc/systemd/system/{PERSISTENCED}.d/50-metal2model.conf"
FABRIC = "nvidia-fabricmanager.service"


@deploy("NVIDIA GPU")
def deploy_nvidia_gpu(
    options: NvidiaGpuOptions, tags: Sequence[str], report: HardwareReport, lock_timeout_seconds: int
) -> None:
    """Have the driver for the declared cards installed, to be loaded at the next boot."""
    cards = declared_cards(tags, report, "nvidia")
    if not cards or options.source == "existing":
        return
    driver(
        name="Install the driver",
        wanted=choice(options, cards) if report.os.id == "ubuntu" else None,
        files=files(options, ubuntu=report.os.id == "ubuntu"),
        codename=report.os.codename,
        fabric=bool(report.nvswitches),
        hold=options.hold,
        secure_boot=bool(report.secure_boot),
        lock_timeout_seconds=lock_timeout_seconds,
    )


@deploy("NVIDIA GPU")
def deploy_nvidia_gpu_proof(options: NvidiaGpuOptions, tags: Sequence[str], report: HardwareReport) -> None:
    """After the reboot: have the driver's services running, and every declared card at work."""
    cards = declared_cards(tags, report, "nvidia")
    if not cards:
        return
    if options.source == "archive":
        reads = (DROP_IN,) if report.os.id == "ubuntu" else ()
        wanted = [Unit(PERSISTENCED, reads)] if options.persistence else []
        wanted += [Unit(FABRIC)] if report.nvswitches else []
        units(name="Run the driver's services", units=wanted)
    proven(
        name="Prove that every card is at work",
        addresses=[card.controller.address for card in cards],
        persistence=options.persistence and options.source == "archive",
    )


def files(options: NvidiaGpuOptions, *, ubuntu: bool) -> dict[str, TextFile | None]:
    """Return what keeps unattended-upgrades and nouveau from the driver, and the persistence mode."""
    # Regular expressions of Python, for the beginning of a package's name.
    ours = (f"(?!{OTHERS})(lib)?nvidia-", "libcuda", "linux-modules-nvidia-", "linux-objects-nvidia-")
    listed = "".join(f'"{expression}"; ' for expression in ours)
    upgrades = f"// {HEADER}\nUnattended-Upgrade::Package-Blacklist {{ {listed}}};\n"
    # Ubuntu's unit says --no-persistence-mode; Debian's leaves it on.
    unit = (
        f"# {HEADER}\n[Service]\nExecStart=\n"
        "ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --persistence-mode --verbose\n"
    )
    return {
        UPGRADES: TextFile(upgrades) if options.hold else None,
        NOUVEAU: TextFile(f"# {HEADER}\nblacklist nouveau\noptions nouveau modeset=0\n"),
        DROP_IN: TextFile(unit) if options.persistence and ubuntu else None,
    }
