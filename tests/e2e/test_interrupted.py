"""A run that is killed at any moment is finished by the next one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

from tests.conftest import MakeHost
from tests.e2e.support import ROOT, ask, command, key_of, run
from tests.e2e.test_full import declared

OPERATION = re.compile(r"--> Starting operation: (.*\S)")
MOMENTS = 10


def killed_at(directory: Path, fleet: dict[str, dict[str, object]], operation: int) -> str:
    """Start a run, and kill it with SIGKILL in the middle of its nth operation; return that operation's name."""
    words = command(directory, fleet, "full")
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        started: list[str] = []
        for line in process.stdout:
            if found := OPERATION.match(line):
                started.append(found[1])
                if len(started) == operation:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    return started[-1]


def test_a_run_killed_at_ten_moments_is_finished_by_the_next(make_host: MakeHost, tmp_path: Path) -> None:
    """Each kill falls into an operation that still has work to do, because the run before it was killed there."""
    host = make_host("noble")
    fleet = {host.name: declared(host)}
    moments = [killed_at(tmp_path, fleet, operation) for operation in range(2, 2 + MOMENTS)]
    assert len(set(moments)) == MOMENTS, moments
    # What a killed run began on the host may still be at work there, as apt is; the next run waits for it.
    run(tmp_path, fleet).succeeded()
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    assert run(tmp_path, fleet).succeeded().changed(host.name) == []
    left = host.ssh("find /etc /opt /srv /usr/local -xdev -name '*.part*'").stdout
    assert left == "", f"half-written files were left behind: {left}"


def test_a_host_that_lost_power_in_the_middle_is_finished_by_the_next(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("noble")
    fleet = {host.name: declared(host)}
    killed_at(tmp_path, fleet, 3)
    host.reboot()
    run(tmp_path, fleet).succeeded()
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    assert run(tmp_path, fleet).succeeded().changed(host.name) == []
