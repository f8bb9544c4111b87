"""Deploy of the tuning role."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra.api import deploy

from roles.common.hardware import HardwareReport
from roles.common.operations import TextFile, file_set
from roles.tuning.operations import PROC_SYS, kernel_settings
from roles.tuning.options import TuningOptions

HEADER = "# Written by metal2model, role tuning: change the inventory's `tuning` options instead.\n"
SYSCTL = "/etc/sysctl.d/90-metal2model.conf"
LIMITS = "/etc/security/limits.d/90-metal2model.conf"
UNIT = "metal2model-tuning.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"


@deploy("Tuning")
def deploy_tuning(options: TuningOptions, report: HardwareReport) -> None:
    """Set the kernel for large models, now and at every boot."""
    sys = {} if report.is_container else sys_files(options)  # /sys belongs to the machine, not to a container
    files = {SYSCTL: render_sysctl(options), LIMITS: render_limits(options), UNIT_FILE: render_unit(sys)}
    file_set(
        name="Write what holds after a reboot",
        files={path: TextFile(HEADER + text) if text else None for path, text in files.items()},
    )
    proc = {PROC_SYS + name.replace(".", "/"): value for name, value in options.sysctls.items()}
    kernel_settings(name="Set it now", wanted={**proc, **sys}, unit=UNIT, present=bool(sys))


def sys_files(options: TuningOptions) -> dict[str, str]:
    """Return the settings that live in /sys: path, with wildcards -> value."""
    wanted = {HUGE_PAGES: options.transparent_hugepages, GOVERNORS: options.cpu_governor}
    return {path: value for path, value in wanted.items() if value is not None}


def render_sysctl(options: TuningOptions) -> str:
    """Text for sysctl.d(5). The leading "-": a kernel that lacks or denies one is no failed boot."""
    return "".join(f"-{name} = {value}\n" for name, value in options.sysctls.items())


def render_limits(options: TuningOptions) -> str:
    """
    Text for limits.conf(5).

    Only the soft limit: pam_limits refuses the login, and with it SSH, when it may not raise a hard one, as in an
    unprivileged container. "*" does not cover root.
    """
    if options.open_files is None:
        return ""
    return "".join(f"{who} soft nofile {options.open_files}\n" for who in ("*", "root"))


def render_unit(wanted: Mapping[str, str]) -> str:
    """Text of the unit that writes what sysctl.d cannot; late, since udev loads some cpufreq drivers as modules."""
    if not wanted:
        return ""
    loops = [
        f'ExecStart=/bin/sh -c \'for f in {path}; do [ ! -w "$$f" ] || echo {value} >"$$f"; done\''
        for path, value in wanted.items()
    ]
    return "\n".join([
        "[Unit]",
        "Description=Huge pages and clock speed for large models",
        "Documentation=https://docs.kernel.org/admin-guide/mm/transhuge.html",
        "",
        "[Service]",
        "Type=oneshot",
        *loops,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    ])  # fmt: skip
