"""Options of the nvidia_gpu role."""

from typing import ClassVar, Literal

from roles.common.lock import NvidiaBranch, NvidiaModules
from roles.common.options import Options


class NvidiaGpuOptions(Options):
    """NVIDIA's driver. Which one follows from the tags; a host without an NVIDIA card gets none."""

    advice: ClassVar[dict[str, str]] = {
        "driver": "write branch",
        "version": "write branch; within a branch the archive's version is taken",
        "open": "write modules: 'open' or 'proprietary'",
    }

    source: Literal["archive", "existing"] = "archive"
    """`archive`: the distribution's packages. `existing`: a driver that you install yourself; it is only checked."""

    branch: NvidiaBranch | None = None
    """Branch of the driver, for Ubuntu. None: the first that drives all declared cards (files/hardware.yaml)."""

    modules: NvidiaModules | None = None
    """NVIDIA's open or proprietary kernel modules, for Ubuntu. None: open, where all declared cards run with them."""

    hold: bool = True
    """Hold the driver's packages, and keep unattended-upgrades from them: programs and the loaded module must be of
    one version, or nvidia-smi and CUDA fail until the next reboot. The kernel that the modules are made for is held
    with them. For a newer version of the branch: write False, run, upgrade the host, write True again."""

    persistence: bool = True
    """Keep the driver's state between uses (nvidia-persistenced --persistence-mode), which saves seconds each time."""
