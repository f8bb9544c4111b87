"""Run metal2model as a user does, and read what it said; what it did is for each test to see over ssh."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.testbed.hosts import BedHost

ROOT = Path(__file__).parents[2]
PYINFRA = Path(sys.executable).with_name("pyinfra")
Hosts = Mapping[str, Mapping[str, Any]]
"""Host name -> host data, as an inventory has it."""


@dataclass(frozen=True)
class Run:
    """What a run of pyinfra said."""

    code: int
    output: str
    """Its log and its tables, in the order in which they came."""

    @property
    def results(self) -> dict[str, dict[str, str]]:
        """Operation -> host -> Success, No changes or Error."""
        found: dict[str, dict[str, str]] = {}
        operation = ""
        for line in self.output.splitlines():
            if started := re.match(r"--> Starting operation: (.*\S)", line):
                operation = started[1]
                found[operation] = {}
            elif ended := re.match(r"\s+\[(\S+)\]\s+(Success|No changes|Error)", line):
                found.setdefault(operation, {})[ended[1]] = ended[2]
        return found

    def changed(self, host: str) -> list[str]:
        """Return the operations that changed this host, which must have had some."""
        assert any(host in hosts for hosts in self.results.values()), self.output
        return [operation for operation, hosts in self.results.items() if hosts.get(host) == "Success"]

    def succeeded(self) -> Run:
        """Return this run, or fail the test with all that it said."""
        assert self.code == 0, self.output
        assert any(self.results.values()), self.output
        return self


def command(directory: Path, hosts: Hosts, deploy: str, *options: str) -> list[str]:
    """Return the command line for a fleet; its inventory is written into the directory."""
    inventory = directory / "fleet.py"
    inventory.write_text(f"fleet = {[(name, dict(data)) for name, data in hosts.items()]!r}\n")
    return [str(PYINFRA), "-y", str(inventory), f"deploys/{deploy}.py", *options]


def run(directory: Path, hosts: Hosts, deploy: str = "full", *options: str, timeout: float = 400) -> Run:
    """Run a deploy on a fleet as a user would."""
    done = subprocess.run(
        command(directory, hosts, deploy, *options),
        cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout)


def run_text(directory: Path, hosts: Hosts, deploy: str) -> Run:
    """Run a deploy that the test itself wrote, from its own directory: nothing of this one is found by chance."""
    (directory / "deploy.py").write_text(deploy)
    command(directory, hosts, "none")
    done = subprocess.run(
        [str(PYINFRA), "-y", str(directory / "fleet.py"), str(directory / "deploy.py")],
        cwd=directory, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout)


@contextmanager
def tunnel(host: BedHost, target: str) -> Iterator[int]:
    """Bring a ``address:port`` that only the host reaches to a free port of this machine, with ssh, and return that."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # It says a word when the port is open, and ends with its standard input.
    options = ("-L", f"127.0.0.1:{port}:{target}", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes")
    line = host.ssh_command("echo open; cat", options=options)
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ssh:
        assert ssh.stdin and ssh.stdout
        try:
            assert ssh.stdout.readline() == "open\n", f"no tunnel to {target}"
            yield port
        finally:
            ssh.stdin.close()


def restarts(host: BedHost, unit: str) -> list[str]:
    """Return when the unit was started since the host booted, in systemd's own journal, oldest first."""
    lines = host.ssh(f"journalctl -o short-monotonic --no-pager -u {unit} | grep -F ': Started ' || true").stdout
    return lines.splitlines()


def ask(host: BedHost, port: int, *, key: str | None, prompt: str = "hello") -> tuple[int, Any]:
    """Ask a model on the host itself, with curl, and return the HTTP status and the answer."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": 8})
    authorization = f"-H 'Authorization: Bearer {key}'" if key else ""
    said = host.ssh(
        f"curl -s -w '\\n%{{http_code}}' {authorization} --json @- http://127.0.0.1:{port}/v1/chat/completions",
        input=body,
    ).stdout
    text, _, status = said.rpartition("\n")
    return int(status), json.loads(text) if text else None


def key_of(host: BedHost, instance: str) -> str:
    """Return the API key that stands on the host."""
    return host.ssh(f"cat /etc/metal2model/llama_cpp/{instance}.key").stdout.strip()


def snapshot(host: BedHost) -> str:
    """
    Return what a run that refuses, or finds nothing to do, must leave as it was.

    Every file with size and time, every link and directory with its rights, packages, holds, and which units run.
    Logs, containerd's database and apt's own caches are no part of it: reading a fresh package list is how a refusal
    comes about.
    """
    passing = ["/proc", "/sys", "/run", "/tmp", "/dev", "/var/log", "/var/cache", "/var/tmp", "/var/lib/systemd",
               "/var/lib/containerd"]  # fmt: skip
    pruned = " -o ".join(
        f"-path {path}" for path in [*passing, "/var/lib/apt/lists", "/var/lib/metal2model/apt-updated"]
    )
    return host.ssh(
        f"export LC_ALL=C; for root in / /srv; do find $root -xdev \\( {pruned} \\) -prune"
        " -o -type f -printf 'file %p %s %T@ %m %u:%g\\n' -o -printf '%y %p %l %m %u:%g\\n'; done"
        # The directory of apt's stamp comes with the stamp.
        " | grep -v '^d /var/lib/metal2model ' | sort -u;"
        " dpkg-query -W; apt-mark showhold; systemctl list-unit-files --no-legend;"
        " systemctl list-units --type=service --state=active --plain --no-legend | awk '{ print $1 }'"
        " | grep -v -e ^user@ -e ^user-runtime-dir@ -e ^systemd-hostnamed -e ^lock-holder"
    ).stdout


def difference(before: str, after: str) -> list[str]:
    """Return the paths, packages and units in which two snapshots differ."""
    return sorted(
        {line.split()[1 if " /" in line else 0] for line in set(before.splitlines()) ^ set(after.splitlines())}
    )
