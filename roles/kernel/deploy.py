"""Deploy of the kernel role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.hardware import HardwareReport
from roles.kernel.operations import armed, installed, settled
from roles.kernel.options import KernelOptions
from roles.kernel.plan import held_metas, metas, need, source_of


@deploy("Kernel")
def deploy_kernel(
    options: KernelOptions, tags: Sequence[str], report: HardwareReport, lock_timeout_seconds: int
) -> None:
    """Have a kernel that will do ready for one trial boot; nothing when the running one will do."""
    wanted = need(options, tags, report)
    source = source_of(options, report)
    if wanted.met_by(report) or source is None:
        return
    directory = f"v{options.version}"
    mainline = (options.mainline_url, directory, report.architecture, options.mainline_key, options.keyserver_url)
    installed(
        name="Install a kernel that drives the cards",
        wanted=wanted.range,
        brought_by=metas(source, report),
        suite=f"{report.os.codename}-backports" if source == "backports" else "",
        mainline=mainline if source == "mainline" else (),
        lock_timeout_seconds=lock_timeout_seconds,
    )
    armed(name="Boot it next, once", wanted=wanted.range, lock_timeout_seconds=lock_timeout_seconds)


@deploy("Kernel")
def deploy_kernel_settled(
    options: KernelOptions, tags: Sequence[str], report: HardwareReport, *, hold: bool, reboot_timeout_seconds: int
) -> None:
    """After the reboot: keep the new kernel, or say why the host is back on its old one."""
    source = source_of(options, report)
    names = metas(source, report).all if source else []
    settled(
        name="Keep the kernel that was tried, if it is good",
        tags=tags,
        metas=names,
        hold=hold,
        free=[] if hold else held_metas(report),
        reboot_timeout_seconds=reboot_timeout_seconds,
    )
