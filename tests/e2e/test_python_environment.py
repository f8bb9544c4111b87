"""A Python environment of pinned packages: made by the real uv from an index, finished after a kill, else refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from roles.common.python import PythonEnvironment
from roles.vllm.units import REQUIREMENTS
from tests.conftest import MakeHost
from tests.e2e.support import PYINFRA, ROOT, Run
from tests.testbed import state_dir
from tests.testbed.hosts import BedHost
from tests.testbed.hub import Client

SAMPLE = "/opt/metal2model/sample"
DEPLOY = """
from pyinfra import host
from roles.common.python import PythonEnvironment, python_environment

python_environment(name="Install", wanted=PythonEnvironment(**host.data.wanted))
"""


def pinned(*names: str) -> str:
    """Some packages of those that vLLM needs, pinned as they are there."""
    blocks = re.split(r"\n(?=\S)", REQUIREMENTS.read_text())
    return "\n".join(block for name in names for block in blocks if block.startswith(f"{name}==")) + "\n"


def wanted(*names: str, version: str = "1", module: str = "idna") -> PythonEnvironment:
    return PythonEnvironment(root=SAMPLE, version=version, requirements=pinned(*names), role="sample", module=module)


def command(folder: Path, host: BedHost, environment: PythonEnvironment) -> list[str]:
    (folder / "deploy.py").write_text(DEPLOY)
    data = {**host.pyinfra_data(), "wanted": vars(environment)}
    (folder / "inventory.py").write_text(f"fleet = {[(host.name, data)]!r}\n")
    return [str(PYINFRA), "-y", str(folder / "inventory.py"), str(folder / "deploy.py")]


def install(folder: Path, host: BedHost, environment: PythonEnvironment) -> Run:
    done = subprocess.run(
        command(folder, host, environment), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
    )  # fmt: skip
    return Run(done.returncode, done.stdout)


def imports(host: BedHost, module: str) -> str:
    return host.ssh(f"{SAMPLE}/current/bin/python -c 'import {module}; print({module}.__version__)'").stdout.strip()


@pytest.fixture(scope="module")
def host(make_module_host: MakeHost) -> BedHost:
    made = make_module_host("noble")
    made.ssh("apt-get -qq update && apt-get -qq install --no-install-recommends python3-venv >/dev/null")
    return made


def test_a_killed_installation_is_finished_by_the_next_run(host: BedHost, tmp_path: Path) -> None:
    hub = Client(state_dir(), [host.address])
    hub.fault(r"/idna-", "stall", after=1000)
    running = subprocess.Popen(
        command(tmp_path, host, wanted("idna")), cwd=ROOT, start_new_session=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        host.ssh(f"timeout 100 sh -c 'until ls -d {SAMPLE}/*.part/bin; do sleep 0.1; done' 2>/dev/null")
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert host.ssh(f"ls {SAMPLE}/current", check=False).returncode != 0
    host.reboot()
    hub.clear_faults()
    install(tmp_path, host, wanted("idna")).succeeded()
    assert imports(host, "idna") == "3.20"
    assert "part" not in host.ssh(f"ls {SAMPLE}").stdout


def test_run_again_nothing_changes_and_the_index_is_not_asked(host: BedHost, tmp_path: Path) -> None:
    hub = Client(state_dir(), [host.address])
    hub.clear_log()
    again = install(tmp_path, host, wanted("idna")).succeeded()
    assert again.changed(host.name) == []
    assert hub.log() == []


def test_other_packages_are_another_environment_and_the_way_back_is_a_link(host: BedHost, tmp_path: Path) -> None:
    hub = Client(state_dir(), [host.address])
    install(tmp_path, host, wanted("idna", "sniffio", version="2")).succeeded()
    assert imports(host, "sniffio") == "1.3.1"
    hub.clear_log()
    install(tmp_path, host, wanted("idna")).succeeded()
    assert host.ssh(f"readlink {SAMPLE}/current").stdout.strip() == wanted("idna").name
    assert host.ssh(f"{SAMPLE}/current/bin/python -c 'import sniffio'", check=False).returncode != 0
    assert hub.log() == []


def test_a_package_with_another_digest_is_refused(host: BedHost, tmp_path: Path) -> None:
    other = PythonEnvironment(
        root=SAMPLE, version="3", requirements=f"idna==3.20 --hash=sha256:{'0' * 64}\n", role="sample", module="idna"
    )
    refused = install(tmp_path, host, other)
    assert refused.code != 0 and "sample: the packages could not be installed" in refused.output
    assert "hash" in refused.output.lower() or "digest" in refused.output.lower()
    assert host.ssh(f"readlink {SAMPLE}/current").stdout.strip() == wanted("idna").name


def test_a_program_that_does_not_load_is_not_made_current(host: BedHost, tmp_path: Path) -> None:
    refused = install(tmp_path, host, wanted("idna", version="4", module="not_there"))
    assert refused.code != 0 and "not_there is installed, but Python cannot load it" in refused.output
    assert host.ssh(f"readlink {SAMPLE}/current").stdout.strip() == wanted("idna").name
