"""A run that is killed at any moment is finished by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.conftest import MakeHost
from tests.e2e.support import ROOT, ask, command, key_of, run
from tests.e2e.test_full import declared
from tests.testbed.hosts import BedHost

MOMENTS = {
    "the package index of Python is being set": "ls /etc/pip.conf* /etc/uv/uv.toml*",
    "dpkg is at work": "pgrep -x dpkg",
    "the first of apt's settings is there": "ls /etc/apt/apt.conf.d/90metal2model*",
    "the account was made, perhaps not its groups": "id llama-server",
    "the kernel's settings are half written": "ls /etc/sysctl.d/90-metal2model.conf*",
    "the hub's client is being installed": "ls -d /opt/metal2model/huggingface_hub/*",
    "the archive is being downloaded or unpacked": "ls -d /opt/metal2model/llama.cpp/*.part",
    "the key is being made": "ls /etc/metal2model/llama_cpp/one.key*",
    "the unit is written and not started": "ls /etc/systemd/system/llama-server@one.service*",
    "the unit is enabled and perhaps not started": "systemctl is-enabled --quiet llama-server@one",
}
"""What is so on the host -> a command that succeeds then."""

UNDONE = {
    "ls /etc/systemd/system/llama-server@one.service*": "rm -f /etc/systemd/system/llama-server@one.service*",
    "systemctl is-enabled --quiet llama-server@one": "systemctl disable llama-server@one",
}
"""Moments so soon after another that the kill before may have come too late -> what takes the host back."""


def kill_when(condition: str, host: BedHost, directory: Path, fleet: dict[str, dict[str, Any]]) -> None:
    """Start a run, and kill it with SIGKILL as soon as the condition, which does not hold yet, holds on the host."""
    quiet = f"{condition} >/dev/null 2>&1"
    if condition in UNDONE and host.ssh(quiet, check=False).returncode == 0:
        host.ssh(UNDONE[condition])
    assert host.ssh(quiet, check=False).returncode != 0, f"too late: {condition}"
    watch = host.ssh_command(f"until {quiet}; do sleep 0.003; done; echo now")
    with subprocess.Popen(watch, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as watcher:
        running = subprocess.Popen(
            command(directory, fleet, "full"), cwd=ROOT, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "now\n"
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            watcher.kill()
    assert running.wait() == -signal.SIGKILL, f"the run had ended before: {condition}"


def test_a_run_killed_at_ten_moments_is_finished_by_the_next(make_host: MakeHost, tmp_path: Path) -> None:
    """What a killed run began on the host may go on there for a while, as dpkg does: the next run waits for it."""
    host = make_host("noble")
    fleet = {host.name: declared(host)}
    assert len(MOMENTS) == 10
    for condition in MOMENTS.values():
        kill_when(condition, host, tmp_path, fleet)
    run(tmp_path, fleet).succeeded()
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    assert run(tmp_path, fleet).succeeded().changed(host.name) == []
    left = host.ssh("find /etc /opt /srv /usr/local /var/lib/metal2model -xdev -name '*.part*' ! -name .partial").stdout
    assert left == "", f"half-written files were left behind: {left}"


def test_a_host_that_is_rebooted_while_dpkg_works_is_finished_by_the_next(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("noble")
    fleet = {host.name: declared(host)}
    kill_when(MOMENTS["dpkg is at work"], host, tmp_path, fleet)
    host.reboot()
    run(tmp_path, fleet).succeeded()
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    assert run(tmp_path, fleet).succeeded().changed(host.name) == []
