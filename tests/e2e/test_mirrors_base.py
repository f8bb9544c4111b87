"""Mirrors that die, sources that come back byte for byte, held locks: seen over ssh and in the hub's own log."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import Run, run_text
from tests.testbed import state_dir
from tests.testbed.hosts import BedHost
from tests.testbed.hub import Client

DEPLOY = """
from pyinfra import host
from roles.base.deploy import deploy_base
from roles.base.options import BaseOptions
from roles.common.connection import send_at_once
from roles.mirrors.deploy import deploy_mirrors
from roles.mirrors.options import MirrorsOptions

send_at_once(host)
deploy_mirrors(MirrorsOptions.load(host.data.get("mirrors", {}), where=host.name, path="mirrors"))
if (base := host.data.get("base")) is not None:
    deploy_base(BaseOptions.load(base, where=host.name, path="base"))
"""
SOURCES = {"noble": "/etc/apt/sources.list.d/ubuntu.sources", "bookworm": "/etc/apt/sources.list"}
STRANGER = "deb [signed-by=/etc/apt/keyrings/none.asc] http://10.77.0.1/nowhere noble main\n"
LOCK = """
import fcntl, os, sys, time
files = [open(path, "r+") for path in sys.argv[1:]]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def hub(hosts: list[BedHost]) -> Iterator[Client]:
    """The hub, doing everything right before and after."""
    client = Client(state_dir(), [host.address for host in hosts])
    client.clear_faults()
    client.clear_log()
    yield client
    client.clear_faults()


@pytest.fixture(scope="module")
def hosts(make_module_host: MakeHost) -> list[BedHost]:
    """A host with stanzas, and one with lines that speaks Chinese."""
    return [make_module_host("noble"), make_module_host("bookworm", locale="zh_CN.UTF-8")]


def run(directory: Path, hosts: list[BedHost], *, user: str = "root", **options: Any) -> Run:
    return run_text(directory, {host.name: {**host.pyinfra_data(user), **options} for host in hosts}, DEPLOY)


def text(host: BedHost, path: str) -> str:
    """The file as it is, byte for byte."""
    return host.ssh(f"base64 -w 0 {path}").stdout


def asked_by(hub: Client, host: BedHost) -> set[str]:
    """Names that the host asked for a release index, as the hub saw it."""
    return {r.host for r in hub.log() if r.client == host.address and r.path.endswith("Release")}


def update(host: BedHost) -> set[str]:
    """Hosts that a plain `apt-get update` of an administrator goes to."""
    lines = host.ssh("LC_ALL=C apt-get update 2>&1 || true").stdout.splitlines()
    return {line.split("/")[2] for line in lines if line.startswith(("Hit:", "Get:", "Ign:")) and "://" in line}


@contextmanager
def locks_held(host: BedHost, *paths: str) -> Iterator[int]:
    """Hold locks as apt does, by fcntl(2); gives the holder's pid, which it says once it holds them all."""
    command = host.ssh_command(f"exec python3 -c {shlex.quote(LOCK)} {' '.join(paths)}", options=("-tt",))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        try:
            yield pid
        finally:
            host.ssh(f"kill {pid}")


def test_a_mirror_is_used_kept_replaced_when_it_dies_and_taken_back(
    hosts: list[BedHost], hub: Client, tmp_path: Path
) -> None:
    before = {host.name: text(host, SOURCES[host.image]) for host in hosts}
    for host in hosts:
        host.ssh("cat >/etc/apt/sources.list.d/stranger.list", input=STRANGER)
    options: dict[str, Any] = {
        "mirrors": {"apt": ["tuna", "ustc"], "pypi": ["tuna", "aliyun"], "probe_timeout_seconds": 3}
    }

    first = run(tmp_path, hosts, **options).succeeded()
    for host in hosts:
        assert first.changed(host.name)
        assert "mirrors.tuna.tsinghua.edu.cn" in asked_by(hub, host)
        went = update(host)
        assert "mirrors.tuna.tsinghua.edu.cn" in went
        assert not went & {"archive.ubuntu.com", "mirrors.ustc.edu.cn"}
        assert host.ssh("cat /etc/apt/sources.list.d/stranger.list").stdout == STRANGER
        assert "https://pypi.tuna.tsinghua.edu.cn/simple" in host.ssh("cat /etc/pip.conf /etc/uv/uv.toml").stdout

    second = run(tmp_path, hosts, **options).succeeded()
    assert [second.changed(host.name) for host in hosts] == [[], []]

    hub.fault(r"^mirrors\.tuna\.", "dead", times=None)
    third = run(tmp_path, hosts, **options).succeeded()
    for host in hosts:
        assert third.changed(host.name)
        assert "mirrors.ustc.edu.cn" in update(host)
    hub.clear_faults()
    fourth = run(tmp_path, hosts, **options).succeeded()
    assert [fourth.changed(host.name) for host in hosts] == [[], []]

    run(tmp_path, hosts, mirrors={"apt": "upstream", "pypi": "upstream"}).succeeded()
    for host in hosts:
        assert text(host, SOURCES[host.image]) == before[host.name]
        assert host.ssh("ls /etc/pip.conf /etc/uv/uv.toml", check=False).returncode != 0
        assert host.ssh("find /var/lib/metal2model/mirrors", check=False).stdout == ""
        host.ssh("rm /etc/apt/sources.list.d/stranger.list")


def test_without_a_good_candidate_the_host_is_told_why_and_nothing_changed(
    hosts: list[BedHost], hub: Client, tmp_path: Path
) -> None:
    before = {host.name: text(host, SOURCES[host.image]) for host in hosts}
    hub.fault(r"^mirrors\.ustc\..*Release", "corrupt", times=None)
    nowhere = "http://mirrors.aliyun.com/nowhere"
    candidates = [nowhere, "https://nosuch.example.org/ubuntu", "ustc"]
    result = run(tmp_path, hosts, mirrors={"apt": candidates, "pypi": ["tuna"], "probe_timeout_seconds": 3})
    assert result.code != 0
    for host in hosts:
        said = [line for line in result.output.splitlines() if f"[{host.name}]" in line]
        assert any(f"{host.name}: mirrors/apt: none of the candidates can be used" in line for line in said)
        for name in candidates:
            assert any(f"  {name}: " in line for line in said), result.output
        assert any("what to do: " in line for line in said)
        assert text(host, SOURCES[host.image]) == before[host.name]
        assert host.ssh("ls /etc/pip.conf /var/lib/metal2model/mirrors/chosen", check=False).stdout == ""


def test_an_administrators_pip_conf_is_not_overwritten(hosts: list[BedHost], tmp_path: Path) -> None:
    host = hosts[0]
    host.ssh("printf '[global]\\nproxy = http://proxy.lan:3128\\n' >/etc/pip.conf")
    result = run(tmp_path, [host], mirrors={"pypi": ["tuna"]})
    assert result.code != 0
    assert "mirrors/pypi: /etc/pip.conf exists and is not ours" in result.output
    assert "proxy.lan" in host.ssh("cat /etc/pip.conf; rm /etc/pip.conf").stdout


def test_the_base_stands_after_one_run_and_rests_after_two(hosts: list[BedHost], tmp_path: Path) -> None:
    options = {"base": {"lock_timeout_seconds": 60, "never_upgrade": ["nvidia-"], "journal_max_mib": 128}}
    for user in ("nopass", "withpass"):
        host = hosts[0 if user == "nopass" else 1]
        run(tmp_path, [host], user=user, **options).succeeded()
        assert run(tmp_path, [host], user=user, **options).succeeded().changed(host.name) == []
        shown = host.ssh("apt-config dump").stdout
        assert 'DPkg::Lock::Timeout "60";' in shown
        assert 'Unattended-Upgrade::Package-Blacklist:: "nvidia-";' in shown
        assert "video" in host.ssh("id -Gn llama-server").stdout.split()
        host.ssh("python3 -m venv --help >/dev/null && curl --version && numactl --help 2>&1; lspci; zstd --version")
        # The journal itself says what it may use; it read the drop-in because it was started after it.
        assert "max 128.0M" in host.ssh("LC_ALL=C journalctl -b -u systemd-journald -o cat").stdout


def test_a_held_lock_is_explained_and_the_host_left_as_it_was(hosts: list[BedHost], tmp_path: Path) -> None:
    host = hosts[0]
    everything = "dpkg-query -W; find /etc /var/lib/metal2model -type f | sort | xargs -d '\\n' md5sum"
    before = host.ssh(everything).stdout
    with locks_held(host, "/var/lib/apt/lists/lock", "/var/lib/dpkg/lock-frontend") as pid:
        result = run(tmp_path, [host], base={"lock_timeout_seconds": 2, "extra_packages": ["tree"]})
    assert result.code != 0
    assert f"is held by python3 (pid {pid})" in result.output
    assert "base/lock_timeout_seconds: /var/lib/" in result.output
    waited = re.search(r"waited (\d+) s for it", result.output)
    assert waited, result.output
    assert 2 <= int(waited[1]) < 60, "neither at once nor as long as without the option, 120 s"
    assert "what to do: " in result.output
    assert host.ssh(everything).stdout == before


def test_an_install_killed_in_the_middle_is_completed_by_the_next_run(hosts: list[BedHost], tmp_path: Path) -> None:
    host = hosts[1]
    run(tmp_path, [host], base={}).succeeded()
    # dpkg killed between unpacking and configuring leaves what a pulled plug leaves.
    host.ssh("LC_ALL=C apt-get install -y -o Dpkg::Options::=--no-triggers --download-only tree")
    host.ssh("dpkg --unpack /var/cache/apt/archives/tree_*.deb && : >/var/lib/dpkg/updates/0001")
    assert host.ssh("apt-get -y install lsof", check=False).returncode != 0
    run(tmp_path, [host], base={"extra_packages": ["tree", "lsof"]}).succeeded()
    assert host.ssh("dpkg --audit; tree --version >/dev/null && lsof -v 2>/dev/null").stdout == ""


def test_a_mirror_in_the_middle_of_a_sync_gives_way_to_the_next(
    hosts: list[BedHost], hub: Client, tmp_path: Path
) -> None:
    host = hosts[0]
    hub.fault(r"^mirrors\.tuna\..*/(Packages|by-hash)", "corrupt", times=None)
    options: dict[str, Any] = {"mirrors": {"apt": ["tuna", "aliyun"]}}
    run(tmp_path, [host], **options).succeeded()
    assert "mirrors.aliyun.com" in update(host)
    assert run(tmp_path, [host], **options).succeeded().changed(host.name) == []
    before = text(host, SOURCES[host.image])
    result = run(tmp_path, [host], mirrors={"apt": ["tuna"]})
    assert result.code != 0
    assert "mirrors/apt: tuna: apt did not get https://mirrors.tuna.tsinghua.edu.cn/" in result.output
    assert text(host, SOURCES[host.image]) == before


KILLER = """#!/bin/sh
/bin/mv "$@" || exit
left=$(($(cat /var/local/left) - 1))
echo $left >/var/local/left
[ $left -ne 0 ] || kill -9 $PPID
"""


def test_a_switch_killed_after_any_of_its_steps_is_completed_by_the_next_run(
    hosts: list[BedHost], hub: Client, tmp_path: Path
) -> None:
    """Every step that counts ends in a rename; one after the other, the shell is killed right after it."""
    host = hosts[1]
    before = text(host, SOURCES[host.image])
    host.ssh("cat >/usr/local/bin/mv && chmod +x /usr/local/bin/mv", input=KILLER)
    for steps in (1, 2, 3, 4):
        host.ssh(f"echo {steps} >/var/local/left")
        assert run(tmp_path, [host], mirrors={"apt": ["ustc"]}).code != 0
        assert host.ssh("cat /var/local/left").stdout == "0\n"
    host.ssh("rm /usr/local/bin/mv")
    run(tmp_path, [host], mirrors={"apt": ["ustc"]}).succeeded()
    assert "mirrors.ustc.edu.cn" in update(host)
    run(tmp_path, [host], mirrors={"apt": "upstream"}).succeeded()
    assert text(host, SOURCES[host.image]) == before
