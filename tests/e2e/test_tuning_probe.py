"""Probe, preflight and tuning on real hosts; what they did is read back over ssh, not through our facts."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import PYINFRA, ROOT, Hosts, Run, run
from tests.testbed.hosts import BedHost

USERS = ("root", "nopass", "withpass")

TUNE = """
from dataclasses import replace
from pyinfra import host
from roles.common.connection import send_at_once
from roles.common.hardware import Hardware
from roles.preflight.deploy import deploy_preflight
from roles.preflight.findings import findings
from roles.tuning.deploy import deploy_tuning
from roles.tuning.options import TuningOptions

send_at_once(host)
report = host.get_fact(Hardware)
if host.data.get("as_machine"):
    report = replace(report, virtualization="none")
deploy_preflight(findings=findings(host.data.tags, report), lang=host.data.get("lang", "en"))
deploy_tuning(TuningOptions.load(host.data.get("tuning", {}), where=host.name, path="tuning"), report)
"""


def tune(tmp_path: Path, hosts: Hosts, *options: str) -> Run:
    (tmp_path / "inventory.py").write_text(f"fleet = {list(hosts.items())!r}\n")
    (tmp_path / "tune.py").write_text(TUNE)
    done = subprocess.run(
        [str(PYINFRA), "-y", str(tmp_path / "inventory.py"), str(tmp_path / "tune.py"), *options],
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout)


def changes(done: Run, hosts: Hosts) -> int:
    """How many operations changed a host; each of them has an entry for every host."""
    done.succeeded()
    for operation, entries in done.results.items():
        assert entries.keys() == hosts.keys(), f"{operation}\n{done.output}"
    return sum(len(done.changed(name)) for name in hosts)


@pytest.fixture(scope="module")
def fleet(make_module_host: Any) -> Iterator[list[BedHost]]:
    yield [make_module_host("noble"), make_module_host("bookworm", locale="zh_CN.UTF-8")]


def test_probe_shows_every_host_once_whoever_asks(fleet: list[BedHost], tmp_path: Path) -> None:
    noble, bookworm = fleet
    hosts = {f"{noble.name}-{user}": noble.pyinfra_data(user) for user in USERS} | {
        bookworm.name: bookworm.pyinfra_data("nopass"),
    }
    done = run(tmp_path, hosts, "probe", "--data", f"json={tmp_path / 'hosts.json'}", timeout=60)
    assert changes(done, hosts) == 0
    assert done.output.count("Hardware of the hosts\n") == 1
    shown = [line.split()[0] for line in done.output.splitlines() if line.startswith((noble.name, bookworm.name))]
    assert shown == sorted(hosts)
    found = json.loads((tmp_path / "hosts.json").read_text())["hosts"]
    for host, name in ((noble, f"{noble.name}-withpass"), (bookworm, bookworm.name)):
        hardware = found[name][0]["hardware"]
        assert hardware["kernel"] == host.ssh("uname -r").stdout.strip()
        assert hardware["os"]["codename"] == host.image
        assert hardware["virtualization"] == "systemd-nspawn"
        assert hardware["architecture"] == host.ssh("dpkg --print-architecture").stdout.strip()
        assert (
            f"MemTotal: {hardware['memory_mib']} "
            in host.ssh("awk '/MemTotal/ {print $1, int($2 / 1024), 0}' /proc/meminfo").stdout
        )


def test_preflight_refuses_one_host_and_tunes_the_other(fleet: list[BedHost], tmp_path: Path) -> None:
    good, bad = fleet
    done = tune(tmp_path, {
        good.name: good.pyinfra_data("nopass") | {"tags": ["cpu"], "tuning": {"sysctl": {"net.core.somaxconn": 2048}}},
        bad.name: bad.pyinfra_data() | {"tags": ["b580", "numa"], "lang": "zh"},
    })  # fmt: skip
    assert done.code == 1
    assert [(hosts[good.name], hosts[bad.name]) for hosts in done.results.values() if bad.name in hosts] == [
        ("No changes", "Error"),
    ], done.output
    assert "声明了 'b580'" in done.output
    assert "NUMA 节点" in done.output
    assert good.ssh("sysctl -n net.core.somaxconn").stdout == "2048\n"
    assert bad.ssh("test -e /etc/sysctl.d/90-metal2model.conf", check=False).returncode == 1


@pytest.mark.parametrize("user", ["root", "withpass"])
def test_tuning_converges_as_any_user(fleet: list[BedHost], tmp_path: Path, user: str) -> None:
    wanted = {"tags": ["cpu"], "tuning": {"sysctl": {"net.core.somaxconn": 4096}}}
    hosts = {host.name: host.pyinfra_data(user) | wanted for host in fleet}
    for host in fleet:
        host.ssh("sysctl -qw net.core.somaxconn=128")
    first = tune(tmp_path, hosts)
    assert first.output.count("vm.swappiness stays") == len(fleet)
    assert changes(first, hosts) >= len(fleet)
    for host in fleet:
        assert first.changed(host.name)
        assert host.ssh("sysctl -n net.core.somaxconn").stdout == "4096\n"
        assert "-net.core.somaxconn = 4096" in host.ssh("cat /etc/sysctl.d/90-metal2model.conf").stdout
        assert host.ssh("test -e /etc/systemd/system/metal2model-tuning.service", check=False).returncode == 1
    second = tune(tmp_path, hosts, "-vvv")
    assert changes(second, hosts) == 0
    commands = [line for line in second.output.splitlines() if ">>>" in line]
    assert len(commands) == 3 * len(fleet), "the report, the files, the settings"


def test_new_logins_may_open_more_files(fleet: list[BedHost], tmp_path: Path) -> None:
    host = fleet[0]
    hosts = {host.name: host.pyinfra_data() | {"tags": ["cpu"], "tuning": {"open_files": 4321}}}
    tune(tmp_path, hosts).succeeded()
    assert [host.ssh("ulimit -Sn", user=user).stdout for user in ("root", "nopass")] == ["4321\n", "4321\n"]


def test_a_machine_has_a_unit_for_its_boots_until_it_is_not_wanted(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("trixie")
    data = host.pyinfra_data() | {"tags": ["cpu"], "as_machine": True}
    hosts = {host.name: data}
    assert changes(tune(tmp_path, hosts), hosts) == 2
    assert host.ssh("systemctl is-enabled metal2model-tuning").stdout == "enabled\n"
    assert host.ssh("systemd-analyze verify metal2model-tuning.service 2>&1").stdout == ""
    assert changes(tune(tmp_path, hosts), hosts) == 0
    host.reboot()
    shown = host.ssh("systemctl show --property Result,ExecMainStatus,ExecMainStartTimestamp metal2model-tuning").stdout
    assert {"Result=success", "ExecMainStatus=0"} < set(shown.splitlines())
    assert "ExecMainStartTimestamp=\n" not in shown
    data |= {"tuning": {"transparent_hugepages": None, "cpu_governor": None}}
    assert changes(tune(tmp_path, hosts), hosts) == 2
    assert host.ssh("find /etc/systemd/system -name 'metal2model*'").stdout == ""
    assert changes(tune(tmp_path, hosts), hosts) == 0
