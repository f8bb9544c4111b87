"""What a host was made from is collected there, and makes others where nothing outside can be reached."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.containers import build_image, docker_host, remove_image
from tests.e2e.support import ROOT, Run, ask, command, key_of, run, run_text
from tests.e2e.test_full import declared
from tests.testbed import network, state_dir
from tests.testbed.hosts import BedHost, wait
from tests.testbed.hub import Client

BUNDLE = "/srv/bundle"
MEDIUM = "/mnt/medium"
PORT = 8080
SERVER = f"server {{ listen {PORT}; root /srv; }}\n"
PYTHON = """
from pyinfra import host

from roles.common.connection import send_at_once
from roles.common.python import PythonEnvironment, python_environment

send_at_once(host)
python_environment(wanted=PythonEnvironment(
    root="/opt/metal2model/try", version="1", requirements={requirements!r}, role="try", module="six"))
"""
SIX = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"
LATER = 'Acquire::Check-Date "true";\nAcquire::Check-Valid-Until "true";\nAcquire::Max-ValidTime "1";\n'
"""apt.conf(5): a second after it was made, a Release file is not valid any more."""
ARCHIVE = r"github\.com/.*/releases/download/.*\.tar\.gz"


@dataclass(frozen=True)
class Island:
    """A bundle, the host that it was made on, and hosts that reach nothing else."""

    reference: BedHost
    data: dict[str, Any]
    hub: Client
    """Asked of the reference host alone."""
    served: BedHost
    """Has the bundle from a web server."""
    handed: BedHost
    """Has it on a medium of its own."""
    first: Run
    """The run that provisioned both."""

    @property
    def islanders(self) -> list[BedHost]:
        return [self.served, self.handed]

    def fleet(self) -> dict[str, dict[str, Any]]:
        bases = {self.served: f"http://{self.reference.address}:{PORT}/bundle", self.handed: f"file://{MEDIUM}"}
        return {
            host.name: {**self.data, **host.pyinfra_data(), "mirrors": {"all": base}} for host, base in bases.items()
        }


def cut_off(host: BedHost, *reached: BedHost) -> None:
    """Leave a host the way to some others, and its answers to whoever logs in; see that there is no other."""
    rules = [f"to {other.address}/32 lookup main" for other in reached]
    # By its number: the host has no /etc/protocols.
    rules += [f"to {network.GATEWAY} ipproto 6 sport 22 lookup main", "prohibit"]
    host.ssh(" && ".join(f"ip rule add pref {10 + number} {rule}" for number, rule in enumerate(rules)))
    tried = host.ssh("exec 3<>/dev/tcp/archive.ubuntu.com/80", check=False)
    assert tried.returncode != 0 and "Permission denied" in tried.stderr, tried.stderr


def years_later(host: BedHost) -> None:
    """Have apt find every list expired; after the bed's own settings, which may let them pass."""
    host.ssh("cat >/etc/apt/apt.conf.d/98later", input=LATER)


def python(directory: Path, hosts: dict[str, dict[str, Any]]) -> Run:
    """Have a Python environment on hosts, as roles of engines do."""
    return run_text(directory, hosts, PYTHON.format(requirements=SIX))


@pytest.fixture(scope="module")
def island(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> Island:
    """The first attempt to collect is killed in the middle of a file; then the bundle is served, and handed over."""
    reference, served = make_module_host("noble"), make_module_host("noble")
    directory, data = tmp_path_factory.mktemp("first"), declared(reference)
    fleet = {reference.name: data}
    run(directory, fleet).succeeded()
    python(directory, fleet).succeeded()
    hub = Client(state_dir(), [reference.address])
    hub.clear_log()
    hub.fault(ARCHIVE, "stall", after=10000, times=None)
    collecting = subprocess.Popen(
        command(directory, fleet, "bundle"), cwd=ROOT, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait(lambda: any(re.search(ARCHIVE, r.host + r.path) for r in hub.log()), 120, "the archive to be asked for")
    finally:
        os.killpg(collecting.pid, signal.SIGKILL)
    assert collecting.wait() == -signal.SIGKILL
    reference.ssh("pkill -x curl", check=False)
    hub.clear_faults()
    run(directory, fleet, "bundle").succeeded()
    reference.ssh(f"test -e {BUNDLE}/manifest.json && apt-get install -y nginx-light")
    reference.ssh("cat >/etc/nginx/sites-enabled/default && systemctl reload nginx", input=SERVER)
    medium = reference.disk / "upper" / BUNDLE.lstrip("/")
    handed = make_module_host("noble", extra_nspawn=[f"--bind-ro={medium}:{MEDIUM}"])
    cut_off(served, reference)
    cut_off(handed)
    years_later(served)
    years_later(handed)
    Client(state_dir(), [served.address, handed.address]).clear_log()
    found = Island(reference, data, hub, served, handed, Run(0, ""))
    return Island(reference, data, hub, served, handed, run(directory, found.fleet()).succeeded())


def test_a_host_without_a_way_out_becomes_a_server_that_answers(island: Island) -> None:
    outside = Client(state_dir(), [host.address for host in island.islanders])
    for host in island.islanders:
        assert "llama.cpp | Run the instances" in island.first.changed(host.name)
        assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
        assert host.ssh("sha256sum /srv/models/*/*/*.gguf").stdout == (
            island.reference.ssh("sha256sum /srv/models/*/*/*.gguf").stdout
        )
    assert outside.log() == []


def test_the_second_run_changes_nothing(island: Island, tmp_path: Path) -> None:
    second = run(tmp_path, island.fleet()).succeeded()
    assert [second.changed(host.name) for host in island.islanders] == [[], []]


def test_lists_that_have_expired_are_good_enough_for_who_has_no_others(island: Island) -> None:
    for host in island.islanders:
        assert host.ssh("apt-get update").returncode == 0
        strict = host.ssh("LC_ALL=C.UTF-8 apt-get -o Acquire::Check-Valid-Until=true update", check=False)
        assert strict.returncode != 0 and "is expired" in strict.stderr


def test_packages_of_python_come_from_there_too(island: Island, tmp_path: Path) -> None:
    python(tmp_path, island.fleet()).succeeded()
    for host in island.islanders:
        assert host.ssh("/opt/metal2model/try/current/bin/python -c 'import six; print(six.__version__)'").stdout


def test_a_bundle_proves_itself_and_is_fetched_once(island: Island, tmp_path: Path) -> None:
    sent = Counter(r.path for r in island.hub.log() if r.status == 200 and r.path.endswith(".deb") and r.bytes_sent)
    ours = [path for path in sent if "nginx" not in path]
    assert len(ours) > 100 and max(sent[path] for path in ours) == 1
    assert island.reference.ssh(f"cd {BUNDLE} && sha256sum --check --quiet SHA256SUMS").stdout == ""
    files = island.reference.ssh(f"cd {BUNDLE} && find . -type f ! -name manifest.json ! -name SHA256SUMS").stdout
    listed = island.reference.ssh(f"cut -c 67- {BUNDLE}/SHA256SUMS").stdout
    assert sorted(files.splitlines()) == sorted(f"./{line}" for line in listed.splitlines())


def test_collecting_again_takes_what_is_new_leaves_the_rest_and_then_changes_nothing(
    island: Island, tmp_path: Path
) -> None:
    """nginx, which serves the bundle, was installed after it was made."""
    fleet = {island.reference.name: island.data}
    island.hub.clear_log()
    assert run(tmp_path, fleet, "bundle").succeeded().changed(island.reference.name)
    fetched = {r.path.rpartition("/")[2].partition("_")[0] for r in island.hub.log() if r.path.endswith(".deb")}
    assert "nginx-light" in fetched and not fetched & {"curl", "python3", "numactl"}
    island.hub.clear_log()
    assert run(tmp_path, fleet, "bundle").succeeded().changed(island.reference.name) == []
    assert [r.path for r in island.hub.log()] == []


def test_what_was_changed_or_is_missing_in_the_bundle_is_refused(island: Island, tmp_path: Path) -> None:
    changed, missing = (
        island.reference.ssh(f"find {BUNDLE} -name '{name}'").stdout.strip() for name in ("llama-*.tar.gz", "tree_*")
    )
    assert missing == "", "a package that the reference host has not"
    island.reference.ssh(f"cp {changed} /var/tmp/whole && printf x | dd of={changed} bs=1 seek=1000 conv=notrunc")
    island.served.ssh("rm -r /opt/metal2model/llama.cpp")
    fleet = {island.served.name: island.fleet()[island.served.name]}
    refused = run(tmp_path, fleet)
    assert refused.code != 0 and re.search(
        r"llama_cpp/sha256: http://\S*/bundle/github\.com/\S* has sha256", refused.output
    )
    island.reference.ssh(f"cp /var/tmp/whole {changed}")
    more = {"base": {"extra_packages": ["tree"]}}
    refused = run(tmp_path, {name: {**data, **more} for name, data in fleet.items()})
    assert refused.code != 0 and re.search(r"404 +Not Found", refused.output) and "/tree_" in refused.output
    assert "mirrors/all: the bundle has not what is named above" in refused.output
    assert "make it again by deploys/bundle.py" in refused.output
    run(tmp_path, fleet).succeeded()
    assert ask(island.served, 8000, key=key_of(island.served, "one"))[0] == 200


def test_images_are_loaded_as_they_were_saved(make_host: MakeHost, tmp_path: Path) -> None:
    reference, host = docker_host(make_host), docker_host(make_host)
    image = "r.example.org:5000/a/thing:2.1"
    build_image(reference, image, {"Dockerfile": "FROM bed/busybox\nRUN echo kept >/what\n"})
    data = {"tags": ["cpu"], "docker": {"images": [image]}}
    known = {reference.name: {**reference.pyinfra_data(), **data}}
    early = run(tmp_path, known, "bundle")
    assert early.code != 0 and "run deploys/full.py on it first" in early.output
    assert reference.ssh(f"ls {BUNDLE}", check=False).stdout == ""
    run(tmp_path, known).succeeded()
    run(tmp_path, known, "bundle").succeeded()
    reference.ssh(f"systemd-run --quiet python3 -m http.server --directory /srv {PORT}")
    cut_off(host, reference)
    mirrors = {"all": f"http://{reference.address}:{PORT}/bundle"}
    fleet = {host.name: {**host.pyinfra_data(), **data, "mirrors": mirrors}}
    run(tmp_path, fleet).succeeded()
    assert host.ssh(f"docker run --rm {image} cat /what").stdout == "kept\n"
    assert run(tmp_path, fleet).succeeded().changed(host.name) == []
    build_image(reference, image, {"Dockerfile": "FROM bed/busybox\nRUN echo other >/what\n"})
    reference.ssh(f"docker save -o {BUNDLE}/r.example.org:5000/a/thing:2.1.tar {image}")
    remove_image(host, image)
    refused = run(tmp_path, fleet)
    assert refused.code != 0 and f"mirrors/all: {image} came from http://" in refused.output
    assert host.ssh("docker image ls -q r.example.org:5000/a/thing").stdout == ""
