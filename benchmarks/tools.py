"""The tools that are compared: how each is started, and how it is known that it found nothing to do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Sample, recap
from roles.base.deploy import PACKAGES
from roles.common.engine import key_file
from roles.common.mirror import mirror_named
from roles.declaration import Declaration
from roles.llama_cpp.deploy import installation, needed_packages
from roles.llama_cpp.units import ROOT as LLAMA_ROOT
from roles.llama_cpp.units import unit_name
from tests.e2e.support import PYINFRA, ROOT, Run
from tests.testbed import artefacts, locked, say, state_dir
from tests.testbed.hosts import BedHost
from tests.testbed.hub_models import commit_of

HERE = Path(__file__).parent
MODEL_FILE = "tiny-random-F32.gguf"
INDEX = "tuna"
COPIED = (
    "/etc/pip.conf",
    "/etc/uv/uv.toml",
    "/etc/apt/apt.conf.d/90metal2model",
    "/etc/systemd/journald.conf.d/50-metal2model.conf",
    "/etc/sysctl.d/90-metal2model.conf",
    "/etc/security/limits.d/90-metal2model.conf",
    f"/etc/systemd/system/{unit_name('one')}",
)
"""Files whose content the playbook takes from the first host, so that both tools want the same bytes."""


class BenchError(Exception):
    """Something could not be measured; the text says what, and what the tool said."""


@dataclass(frozen=True)
class Finished:
    """A run of a tool that has ended."""

    sample: Sample
    output: str


def declared(host: BedHost) -> dict[str, Any]:
    """Return what the inventory says of a benchmark host: one small server with a tiny model."""
    release = artefacts.release()
    model = {
        "repo": artefacts.GGUF_REPOSITORY,
        "hub": "huggingface",
        "revision": commit_of(artefacts.GGUF_REPOSITORY),
        "files": [MODEL_FILE],
    }
    return {
        **host.pyinfra_data(),
        "tags": ["cpu"],
        "mirrors": {"pypi": [INDEX]},
        "models": {"wanted": {"tiny": model}},
        "llama_cpp": {
            "version": release.tag,
            "sha256": release.sha256,
            "instances": {"one": {"model": "tiny", "port": 8000, "context_length": 512, "threads": 1}},
        },
    }


def timed(command: Sequence[str], *, where: Path = ROOT, more: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end; the text that it prints goes to a pipe, as a terminal would slow it down."""
    began = time.monotonic()
    before = os.times()
    # In a session of its own, so that its end is ours to cause: Ansible's workers outlive a killed parent.
    process = subprocess.Popen(
        command, cwd=where, env={**os.environ, **(more or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=600)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    seconds = time.monotonic() - began
    after = os.times()
    if process.returncode != 0:
        raise BenchError(f"{' '.join(command)[:200]} ended with {process.returncode}:\n{output[-3000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Finished(Sample(seconds, cpu), output)


# --- ssh -------------------------------------------------------------------------------------------------------------


def ssh_true(hosts: Sequence[BedHost]) -> Sample:
    """Log in to all hosts at once, each by a new connection, and do nothing there."""
    began = time.monotonic()
    before = os.times()
    running = [subprocess.Popen(host.ssh_command("true", options=("-o", "BatchMode=yes"))) for host in hosts]
    failed = [process.args for process in running if process.wait() != 0]
    seconds = time.monotonic() - began
    after = os.times()
    if failed:
        raise BenchError(f"ssh failed: {failed[0]!r}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Sample(seconds, cpu)


# --- pyinfra ---------------------------------------------------------------------------------------------------------


def write_pyinfra_inventory(path: Path, hosts: Sequence[BedHost]) -> None:
    """Write what `pyinfra` reads, as support.py does for the tests."""
    path.write_text(f"fleet = {[(host.name, declared(host)) for host in hosts]!r}\n")


def pyinfra(inventory: Path, deploy: str, *options: str) -> Finished:
    """Run a deploy."""
    return timed([str(PYINFRA), "-y", str(inventory), deploy, *options])


def pyinfra_at_rest(inventory: Path, deploy: str, hosts: Sequence[BedHost]) -> Sample:
    """Run a deploy that must find nothing to do."""
    finished = pyinfra(inventory, deploy)
    run = Run(0, finished.output)
    for host in hosts:
        if not any(host.name in states for states in run.results.values()):
            raise BenchError(f"{deploy} did not come to {host.name}:\n{run.output[-3000:]}")
        if changed := run.changed(host.name):
            raise BenchError(f"{deploy} changed {host.name}, which was at rest: {', '.join(changed)}")
    return finished.sample


# --- ansible-core ----------------------------------------------------------------------------------------------------


def ansible_playbook() -> Path:
    """Return the program, installed beside the bed's state when it is not there yet."""
    requirements = HERE / "ansible.txt"
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = state_dir().parent / f"ansible-{digest}"
    program = home / "bin" / "ansible-playbook"
    with locked(home.with_suffix(".lock")):
        if not (home / "complete").exists():
            say("Installing ansible-core for the comparison")
            venv.create(home, clear=True, with_pip=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
            subprocess.run([*pip, "--require-hashes", "--no-deps", "-r", str(requirements)], check=True)
            (home / "complete").touch()
    return program


@dataclass(frozen=True)
class Ansible:
    """A playbook that is ready to run on some hosts."""

    program: Path
    directory: Path
    hosts: Sequence[BedHost]

    def run(self, *options: str) -> Finished:
        """Run it on hosts to which no connection is open, as a user's run finds them; none is open afterwards."""
        settings = {
            "ANSIBLE_CONFIG": str(HERE / "ansible.cfg"),
            "ANSIBLE_FORKS": str(len(self.hosts)),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "ANSIBLE_HOME": str(self.directory / "home"),
            "LC_ALL": "C.UTF-8",
        }
        command = [str(self.program), "-i", str(self.directory / "hosts.json"), str(HERE / "playbook.yml"), *options]
        try:
            return timed(command, more=settings)
        finally:
            self.close_connections()

    def at_rest(self) -> Sample:
        """Run it; it must find nothing to do."""
        finished = self.run()
        results = recap(finished.output)
        for host in self.hosts:
            result = results.get(host.name, {})
            if not result.get("ok") or result.get("changed") or result.get("failed") or result.get("unreachable"):
                raise BenchError(f"the playbook found {host.name} not at rest: {result}\n{finished.output[-3000:]}")
        return finished.sample

    def close_connections(self) -> None:
        """End the connections that ControlPersist keeps."""
        for path in (self.directory / "cp").glob("*"):
            command = ["ssh", "-F", "none", "-o", f"ControlPath={path}", "-O", "exit", "nobody"]
            subprocess.run(command, capture_output=True, check=False)


def ansible_for(program: Path, directory: Path, hosts: Sequence[BedHost]) -> Ansible:
    """Write inventory and files of the playbook; the hosts are those that full.py has made."""
    directory.mkdir()
    files = directory / "files"
    for path in COPIED:
        target = files / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(hosts[0].ssh(f"cat {path}").stdout)
    first = declared(hosts[0])
    ours = {key: value for key, value in first.items() if key in Declaration.model_fields}
    declaration = Declaration.load(ours, where=hosts[0].name)
    assert declaration.llama_cpp
    version, (url, _) = installation(declaration.llama_cpp, declaration.tags, "amd64")
    (endpoint,) = declaration.endpoints()
    repo = artefacts.GGUF_REPOSITORY
    variables = {
        "files_from": str(files),
        "pypi_index": mirror_named(INDEX).pypi,
        "packages": [name.partition("|")[0] for name in PACKAGES],
        "llama_packages": needed_packages(declaration.llama_cpp, declaration.tags),
        "model_path": declaration.models.model("tiny").path,
        "model_url": f"https://huggingface.co/{repo}/resolve/{commit_of(repo)}/{MODEL_FILE}",
        "model_sha256": hashlib.sha256(artefacts.tiny_gguf().read_bytes()).hexdigest(),
        "llama_root": LLAMA_ROOT,
        "llama_version": version,
        "llama_url": url,
        "key_path": key_file("llama_cpp", "one"),
        "unit": unit_name("one"),
        "server_url": endpoint.url,
        "model_name": endpoint.model,
        "prompt": endpoint.prompt,
        "max_tokens": endpoint.max_tokens,
    }
    data = [host.pyinfra_data() for host in hosts]
    inventory = {
        "all": {
            "vars": variables,
            "hosts": {
                host.name: {
                    "ansible_host": known["ssh_hostname"],
                    "ansible_user": known["ssh_user"],
                    "ansible_ssh_private_key_file": known["ssh_key"],
                    "ansible_ssh_common_args": f"-o UserKnownHostsFile={known['ssh_known_hosts_file']} "
                    "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes",
                }
                for host, known in zip(hosts, data, strict=True)
            },
        }
    }
    (directory / "hosts.json").write_text(json.dumps(inventory))
    return Ansible(program, directory, hosts)


# --- Counting, by a witness that belongs to neither -------------------------------------------------------------------


@contextlib.contextmanager
def sshd_that_tells(host: BedHost) -> Iterator[None]:
    """Have the host's sshd log every command that it starts."""
    # A restart, not a reload, which returns before sshd listens again; connections that stand are kept.
    drop_in = "/etc/ssh/sshd_config.d/00-bench.conf"
    host.ssh(f"echo LogLevel VERBOSE >{drop_in} && systemctl restart ssh")
    try:
        yield
    finally:
        host.ssh(f"rm {drop_in} && systemctl restart ssh")


def started_by_sshd(host: BedHost) -> int:
    """Return how many commands and transfers sshd has started, this question not among them."""
    shown = host.ssh("journalctl --sync; journalctl -u ssh -o cat --no-pager | grep -c '^Starting session: ' || true")
    return int(shown.stdout) - 1
