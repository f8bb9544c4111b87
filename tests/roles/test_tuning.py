"""Tuning: what is written, what is set now, what is left alone."""

import subprocess
from pathlib import Path

import pytest

from roles.common.options import OptionError
from roles.tuning.deploy import HUGE_PAGES, render_limits, render_sysctl, render_unit, sys_files
from roles.tuning.facts import KernelSetting, KernelState, KernelStates
from roles.tuning.operations import plan
from roles.tuning.options import TuningOptions

NOTHING = TuningOptions(
    swappiness=None,
    max_map_count=None,
    numa_balancing=None,
    transparent_hugepages=None,
    cpu_governor=None,
    open_files=None,
)


def test_defaults_are_written_so_that_a_kernel_may_lack_them() -> None:
    assert render_sysctl(TuningOptions()) == (
        "-vm.swappiness = 10\n-vm.max_map_count = 1048576\n-kernel.numa_balancing = 0\n"
    )


def test_none_leaves_everything_alone() -> None:
    assert (NOTHING.sysctls, sys_files(NOTHING)) == ({}, {})
    assert (render_sysctl(NOTHING), render_limits(NOTHING), render_unit({})) == ("", "", "")


def test_further_parameters_are_as_proc_shows_them() -> None:
    options = TuningOptions(sysctl={"net.core.somaxconn": 4096, "net.ipv4.ip_local_port_range": "10240\t 60999"})
    assert options.sysctls["net.core.somaxconn"] == "4096"
    assert options.sysctls["net.ipv4.ip_local_port_range"] == "10240 60999"


@pytest.mark.parametrize("name", ["net", "net.core.somaxconn; reboot", "../x.y", "net..x", "net.core.*"])
def test_a_parameter_name_is_a_name(name: str) -> None:
    with pytest.raises(OptionError):
        TuningOptions.load({"sysctl": {name: 1}}, where="h", path="tuning")


def test_a_likely_guess_is_advised() -> None:
    with pytest.raises(OptionError, match="h: tuning/thp: no such option: write transparent_hugepages"):
        TuningOptions.load({"thp": "madvise"}, where="h", path="tuning")


def test_only_soft_limits_are_set() -> None:
    assert render_limits(TuningOptions()) == "* soft nofile 65536\nroot soft nofile 65536\n"


def test_the_unit_writes_where_it_can(tmp_path: Path) -> None:
    policies = [tmp_path / f"policy{at}" for at in (0, 1)]
    for policy in policies:
        policy.write_text("powersave\n")
    unit = render_unit({f"{tmp_path}/policy*": "performance", f"{tmp_path}/absent": "madvise"})
    for line in unit.splitlines():
        if line.startswith("ExecStart=/bin/sh -c '"):
            script = line.removeprefix("ExecStart=/bin/sh -c '").removesuffix("'").replace("$$", "$")
            subprocess.run(["sh", "-c", script], check=True)
    assert [policy.read_text() for policy in policies] == ["performance\n"] * 2
    assert not (tmp_path / "absent").exists()
    assert "%" not in unit


def test_the_fact_reads_values_modes_and_choices(tmp_path: Path) -> None:
    policy = tmp_path / "policy0"
    policy.mkdir()
    (policy / "scaling_governor").write_text("powersave\n")
    (policy / "scaling_available_governors").write_text("performance powersave \n")
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "range").write_text("32768\t60999\n")
    (tmp_path / "link").symlink_to("nowhere")
    patterns = [
        f"{tmp_path}/policy*/scaling_governor",
        *(f"{tmp_path}/{name}" for name in ("enabled", "range", "absent")),
    ]
    command = KernelStates().command(patterns=patterns, link=f"{tmp_path}/link")
    output = subprocess.run(["sh", "-c", str(command)], capture_output=True, text=True, check=True).stdout
    assert KernelStates().process(output.splitlines()) == KernelState(
        {
            f"{policy}/scaling_governor": KernelSetting("powersave", True, ("performance", "powersave")),
            f"{tmp_path}/enabled": KernelSetting("madvise", True, ("always", "madvise", "never")),
            f"{tmp_path}/range": KernelSetting("32768 60999", True),
        },
        enabled=True,
    )


def test_what_cannot_be_set_is_noted_once_and_left() -> None:
    governor = "/sys/devices/system/cpu/cpufreq/policy{}/scaling_governor"
    wanted = {
        "/proc/sys/vm/swappiness": "10",
        "/proc/sys/vm/max_map_count": "1048576",
        "/proc/sys/kernel/numa_balancing": "0",
        "/proc/sys/net/core/somaxconn": "4096",
        HUGE_PAGES: "madvise",
        governor.format("*"): "schedutil",
        "/sys/absent": "x",
    }
    intel = ("performance", "powersave")
    changes, notes = plan(
        wanted,
        {
            "/proc/sys/vm/swappiness": KernelSetting("60", writable=False),
            "/proc/sys/vm/max_map_count": KernelSetting("1048576", writable=False),
            "/proc/sys/net/core/somaxconn": KernelSetting("128", writable=True),
            HUGE_PAGES: KernelSetting("always", True, ("always", "madvise", "never")),
            governor.format(0): KernelSetting("powersave", True, intel),
            governor.format(1): KernelSetting("powersave", True, intel),
        },
    )
    assert changes == {"4096": ["/proc/sys/net/core/somaxconn"], "madvise": [HUGE_PAGES]}
    assert notes == [
        "vm.swappiness stays '60', it is read-only here (a container?)",
        "kernel.numa_balancing does not exist on this kernel",
        f"{governor.format('*')} stays 'powersave', 'schedutil' is none of performance, powersave",
    ]


def test_processors_of_one_value_are_set_in_one_command() -> None:
    paths = [f"/sys/devices/system/cpu/cpufreq/policy{at}/scaling_governor" for at in range(256)]
    pattern = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"
    changes, notes = plan({pattern: "performance"}, {path: KernelSetting("powersave", True) for path in paths})
    assert (changes, notes) == ({"performance": paths}, [])
