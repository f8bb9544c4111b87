"""
Docker on hosts: a real engine and real registries, whose images are built on the spot.

The engine is Debian 13's; where it comes from Docker's own repository, that is the hub's stand-in, which holds the same
(tests/testbed/hub_docker.py). Cards are pretended, and described to Docker by a stand-in of NVIDIA's toolkit.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from roles.common.container import Container, container_unit
from tests.conftest import MakeHost
from tests.e2e.containers import build_image, docker_host, known_as, push_image, serve_registry
from tests.e2e.support import ROOT, Run, command, run
from tests.testbed import containers, stand_ins, state_dir
from tests.testbed.hosts import BedHost, wait
from tests.testbed.machines import B580, IGPU, RTX4090, Machine

HUB, PRIVATE, PLAIN = "box:1", "private.example.org:5002/team/box:1", "plain.example.org:5003/team/box:1"
MIRROR = "https://mirror.example.org:5001"
LOGIN = ("bed", "never:to:be:seen")
AUTH = base64.b64encode(":".join(LOGIN).encode()).decode()
"""As Docker spells a login."""
FOREIGN = {
    "runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}},
    "insecure-registries": ["10.0.0.0/8"],
    "shutdown-timeout": 20,
}
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers.get("Authorization") == "Bearer " + os.environ["KEY"]
        self.send_response(200 if known else 401)
        self.end_headers()
http.server.HTTPServer(("", 80), Handler).serve_forever()
"""


@dataclass(frozen=True)
class Site:
    """A host that is to run containers, and a machine with registries beside it."""

    host: BedHost
    registries: BedHost
    directory: Path
    digests: dict[str, str]
    """Image -> what its registry calls it."""

    @property
    def options(self) -> dict[str, Any]:
        """The docker role's options in an inventory of this site."""
        (self.directory / "login").write_text(":".join(LOGIN) + "\n")
        return {
            "mirrors": [MIRROR],
            "registries": {
                "private.example.org:5002": {
                    "ca_file": str(self.directory / "keys/ca.pem"),
                    "login_file": str(self.directory / "login"),
                },
                "plain.example.org:5003": {"insecure": True},
            },
            "images": [HUB, PRIVATE, PLAIN],
        }

    def full(self, **options: Any) -> Run:
        """Make the host what the inventory says."""
        data = {**self.host.pyinfra_data(), "tags": ["cpu"], "docker": {**self.options, **options}}
        return run(self.directory, {self.host.name: data})

    def daemon(self) -> Any:
        """What daemon.json says."""
        return json.loads(self.host.ssh("cat /etc/docker/daemon.json").stdout)

    def image_id(self, image: str) -> str:
        return self.host.ssh(f"docker image inspect --format '{{{{.Id}}}}' {image}").stdout.strip()


@pytest.fixture(scope="module")
def site(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A bare Debian 13 with somebody's daemon.json, and a mirror of Docker Hub, a private and a plain registry."""
    directory = tmp_path_factory.mktemp("site")
    registries = docker_host(make_module_host)
    upstream = "hub.example.org:5000/library/box:1"
    serve_registry(registries, ["hub.example.org"], port=5000)
    serve_registry(registries, ["mirror.example.org"], port=5001, upstream="https://hub.example.org:5000")
    serve_registry(registries, ["private.example.org"], port=5002, login=LOGIN, authority=directory)
    serve_registry(registries, ["plain.example.org"], port=5003, tls=False)
    login = json.dumps({"auths": {"private.example.org:5002": {"auth": AUTH}}})
    registries.ssh(
        "mkdir -p .docker /etc/docker/certs.d/private.example.org:5002"
        f" && echo '{login}' >.docker/config.json && cat >/etc/docker/certs.d/private.example.org:5002/ca.crt"
        ' && echo \'{"insecure-registries": ["plain.example.org:5003"]}\' >/etc/docker/daemon.json'
        " && systemctl restart docker",
        input=(directory / "keys/ca.pem").read_text(),
    )
    build_image(registries, upstream, {"Dockerfile": "FROM bed/busybox\nCMD echo it runs\n"})
    digests = {}
    for image, pushed in ((HUB, upstream), (PRIVATE, PRIVATE), (PLAIN, PLAIN)):
        registries.ssh(f"docker tag {upstream} {pushed}")
        digests[image] = push_image(registries, pushed)
    host = make_module_host("trixie", extra_nspawn=containers.NSPAWN)
    names = ["mirror.example.org", "private.example.org", "plain.example.org"]
    known_as(host, names, registries.address)
    host.ssh("mkdir -p /etc/docker .docker && cat >/etc/docker/daemon.json", input=json.dumps(FOREIGN))
    host.ssh('echo \'{"auths": {"other.example.org": {"auth": "eDp5"}}}\' >.docker/config.json')
    return Site(host, registries, directory, digests)


@pytest.fixture(scope="module")
def first(site: Site) -> Run:
    return site.full().succeeded()


def test_a_bare_host_runs_images_of_every_registry(site: Site, first: Run) -> None:
    for image in (HUB, PRIVATE, PLAIN):
        assert site.host.ssh(f"docker run --rm --pull=never {image}").stdout == "it runs\n"
        assert f"{image} " in site.host.ssh("cat /var/lib/metal2model/images").stdout
    # Docker Hub's came by way of the mirror, which fetched it.
    kept = site.registries.ssh("find /srv/bed-registry-5001/data -name data | wc -l").stdout
    assert int(kept) > 0
    assert re.match(r"Docker Compose version v?2\.", site.host.ssh("docker compose version").stdout)
    assert LOGIN[1] not in first.output and AUTH not in first.output
    second = site.full().succeeded()
    assert second.changed(site.host.name) == []


@pytest.mark.usefixtures("first")
def test_what_others_wrote_stays(site: Site) -> None:
    found = site.daemon()
    assert {key: found[key] for key in ("runtimes", "shutdown-timeout")} == {
        key: FOREIGN[key] for key in ("runtimes", "shutdown-timeout")
    }
    assert found["insecure-registries"] == ["plain.example.org:5003", "10.0.0.0/8"]
    assert found["registry-mirrors"] == [MIRROR]
    logins = json.loads(site.host.ssh("cat .docker/config.json").stdout)["auths"]
    assert logins.keys() == {"other.example.org", "private.example.org:5002"}
    holders = site.host.ssh(f"grep -rl {AUTH} /etc /root /var/lib/metal2model | xargs stat -c '%a %U'").stdout
    assert set(holders.splitlines()) == {"600 root"}


@pytest.mark.usefixtures("first")
def test_a_unit_runs_a_container_that_only_the_key_opens(site: Site) -> None:
    host = site.host
    build_image_of_server(site)
    container = Container(
        name="m2m-server", image="server:1", publish=("127.0.0.1", 8080, 80), secrets="/etc/server.env",
        environment={"GREETING": 'a "b" %n $HOME'},
    )  # fmt: skip
    unit = container_unit(container, role="test", option="x", description="A server", documentation="man:docker-run(1)")
    host.ssh("umask 077; echo KEY=open-sesame >/etc/server.env")
    host.ssh("cat >/etc/systemd/system/m2m-server.service && systemctl daemon-reload && systemctl start m2m-server",
             input=unit)  # fmt: skip
    ask = "curl -s -o /dev/null -w '%{http_code}' -H 'Authorization: Bearer open-sesame' http://127.0.0.1:8080/"
    wait(lambda: host.ssh(ask, check=False).stdout == "200", 20, "the server to answer")
    assert host.ssh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/", check=False).stdout == "401"
    assert host.ssh("docker exec metal2model-m2m-server sh -c 'echo \"$GREETING\"'").stdout == 'a "b" %n $HOME\n'
    assert (
        "open-sesame" not in host.ssh("ps axww; journalctl --no-pager -u m2m-server; systemctl cat m2m-server").stdout
    )
    # A server that was cut off together with its engine comes back with it.
    host.ssh("systemctl kill --signal=KILL docker")
    wait(lambda: host.ssh(ask, check=False).stdout == "200", 60, "the server to answer again")
    host.ssh("systemctl stop m2m-server")
    assert host.ssh("docker ps --all --quiet").stdout == ""


def build_image_of_server(site: Site) -> None:
    """Python comes with the base role, busybox does not."""
    site.host.ssh("apt-get -qqy install busybox-static >/dev/null")
    dockerfile = 'FROM bed/python\nCOPY serve.py /\nCMD ["python3", "/serve.py"]\n'
    build_image(site.host, "server:1", {"Dockerfile": dockerfile, "serve.py": SERVER})


@pytest.mark.usefixtures("first")
def test_a_version_stays_what_it_was_when_images_move_to_another_disk(site: Site) -> None:
    before = {image: site.image_id(image) for image in (HUB, PRIVATE, PLAIN)}
    # The version means something else from now on, for those who ask only now.
    registries = site.registries
    build_image(registries, PRIVATE, {"Dockerfile": "FROM bed/busybox\nCMD echo something else\n"})
    assert push_image(registries, PRIVATE) != site.digests[PRIVATE]
    # The store is on the disk that the bed bound there.
    moved = {"data_root": "/var/lib/docker/big"}
    login_gone = {"private.example.org:5002": {"ca_file": str(site.directory / "keys/ca.pem")}}
    dead = ["https://dead.example.org", MIRROR]
    site.full(**moved, mirrors=dead).succeeded()
    assert site.host.ssh("docker info --format '{{.DockerRootDir}}'").stdout == "/var/lib/docker/big/docker\n"
    assert site.host.ssh("ls /var/lib/docker/big/containerd | head -n 1").stdout
    assert {image: site.image_id(image) for image in before} == before
    assert site.daemon()["registry-mirrors"] == [MIRROR]
    # What we wrote goes when it is no longer wanted, what others wrote stays.
    registries_left = {**login_gone, "plain.example.org:5003": {}}
    site.full(**moved, mirrors=[], registries=registries_left).succeeded()
    found = site.daemon()
    assert "registry-mirrors" not in found
    assert found["insecure-registries"] == FOREIGN["insecure-registries"]
    assert found["runtimes"] == FOREIGN["runtimes"]
    logins = json.loads(site.host.ssh("cat .docker/config.json").stdout)["auths"]
    assert logins.keys() == {"other.example.org"}
    assert site.full(**moved, mirrors=[], registries=registries_left).succeeded().changed(site.host.name) == []
    site.full(**moved).succeeded()


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ('{"debug": tru', {}, r"/etc/docker/daemon.json on the host is no JSON object .*it was left as it is"),
        (None, {"settings": {"nonsense": 1}}, r"docker/settings: dockerd refuses .*nonsense"),
        (None, {"mirrors": ["https://dead.example.org"]}, r"docker/mirrors: none of https://dead.example.org answers"),
    ],
    ids=["unreadable", "refused", "no-mirror"],
)
def test_a_daemon_json_that_would_not_do_is_left_alone(
    site: Site, text: str | None, options: dict[str, Any], said: str
) -> None:
    good = site.host.ssh("cat /etc/docker/daemon.json").stdout
    started = site.host.ssh("systemctl show --property ActiveEnterTimestampMonotonic docker").stdout
    if text:
        site.host.ssh("cat >/etc/docker/daemon.json", input=text)
    try:
        refused = site.full(data_root="/var/lib/docker/big", **options)
        assert refused.code != 0
        assert re.search(said, refused.output), refused.output
        assert "Traceback" not in refused.output
        assert site.host.ssh("cat /etc/docker/daemon.json").stdout == (text or good)
        assert site.host.ssh("ls /etc/docker").stdout.split() == ["certs.d", "daemon.json"]
        assert site.host.ssh("systemctl show --property ActiveEnterTimestampMonotonic docker").stdout == started
    finally:
        site.host.ssh("cat >/etc/docker/daemon.json", input=good)


@pytest.mark.usefixtures("first")
def test_a_pull_that_was_killed_is_done_again(site: Site) -> None:
    host, options = site.host, {**site.options, "data_root": "/var/lib/docker/big"}
    host.ssh(f"docker image rm {PLAIN}")
    # A registry that no longer says anything.
    site.registries.ssh("systemctl kill --signal=STOP bed-registry-5003")
    data = {**host.pyinfra_data(), "tags": ["cpu"], "docker": options}
    with subprocess.Popen(
        command(site.directory, {host.name: data}, "full"), cwd=ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            wait(lambda: host.ssh("pgrep -x docker", check=False).returncode == 0 and "pull" in host.ssh(
                "ps -o args= -C docker", check=False).stdout, 60, "docker to pull")  # fmt: skip
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            # The pull itself would go on without whoever asked for it.
            host.ssh("kill -KILL $(pgrep -x docker)")
            site.registries.ssh("systemctl kill --signal=CONT bed-registry-5003")
    again = site.full(data_root="/var/lib/docker/big").succeeded()
    assert "Docker | Pull the images" in again.changed(host.name)
    assert host.ssh(f"docker run --rm --pull=never {PLAIN}").stdout == "it runs\n"
    refused = site.full(data_root="/var/lib/docker/big", images=["private.example.org:5002/team/nothing:1"])
    assert refused.code != 0
    assert "private.example.org:5002 has no such image" in refused.output


def test_debian_12_gets_dockers_own_engine_and_keeps_its_images(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("bookworm", extra_nspawn=containers.NSPAWN)
    host.ssh("apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qqy install --no-install-recommends"
             " docker.io busybox-static", timeout=200)  # fmt: skip
    host.ssh("tar -C /usr/bin -c busybox | docker import - kept:1")
    fingerprint = stand_ins.fingerprints(state_dir())["docker"]
    unasked = run(tmp_path, {host.name: {**host.pyinfra_data(), "tags": ["cpu"], "docker": {}}})
    assert unasked.code != 0
    assert "docker/source: docker.io of Debian 12 is installed, and has no docker compose" in unasked.output
    wrong = {**host.pyinfra_data(), "tags": ["cpu"], "docker": {"source": "docker"}}
    refused = run(tmp_path, {host.name: wrong})
    assert refused.code != 0
    assert (
        f"docker/repository_key: https://download.docker.com/linux/debian/gpg serves the key {fingerprint}"
        in refused.output
    )
    assert host.ssh("docker version --format '{{.Server.Version}}'").stdout.startswith("20.10.")

    data = {**wrong, "docker": {"source": "docker", "repository_key": fingerprint, "compose": False}}
    run(tmp_path, {host.name: data}).succeeded()
    installed = host.ssh("dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n'").stdout.split("\n")
    assert {f"ii {name}" for name in ("docker-ce", "docker-ce-cli", "containerd.io")} <= {
        re.sub("  +", " ", line) for line in installed
    }
    assert not [line for line in installed if re.match(r"ii +(docker\.io|containerd|runc)$", line)]
    assert host.ssh("docker run --rm kept:1 /busybox echo kept").stdout == "kept\n"
    assert run(tmp_path, {host.name: data}).succeeded().changed(host.name) == []


def test_containers_see_the_cards_of_both_makers(make_host: MakeHost, tmp_path: Path) -> None:
    machine = Machine(devices=(IGPU, B580, RTX4090), kernels=("6.17.0-14-generic",))
    host = make_host("metal", machine=machine, extra_nspawn=containers.NSPAWN)
    keys = stand_ins.fingerprints(state_dir())
    data = {
        **host.pyinfra_data(), "tags": ["b580", "rtx4090"],
        "intel_gpu": {"ppa_key": keys["ppa"], "intel_keys": [keys["intel"], keys["intel-2024"]]},
        "docker": {"source": "docker", "repository_key": keys["docker"], "nvidia_key": keys["nvidia-toolkit"]},
    }  # fmt: skip
    run(tmp_path, {host.name: data}).succeeded()
    image = host.ssh("docker image ls --format '{{.Repository}}:{{.Tag}}'").stdout.strip()
    seen = host.ssh(f"docker run --rm --device nvidia.com/gpu=all {image} nvidia-smi -L").stdout
    assert seen.startswith("GPU 0: NVIDIA GeForce RTX 4090")
    versions = host.ssh("dpkg-query -W -f '${Version}\\n' '*nvidia-container*'").stdout.split()
    assert versions == ["1.20.1-1"] * 4
    # A newer one is published, and upgrades leave the four alone.
    host.ssh("DEBIAN_FRONTEND=noninteractive apt-get -qqy upgrade", timeout=200)
    assert host.ssh("dpkg-query -W -f '${Version}\\n' '*nvidia-container*'").stdout.split() == versions
    assert run(tmp_path, {host.name: data}).succeeded().changed(host.name) == []

    # The card is there, and no container would see it: that is no success.
    host.ssh("systemctl mask --now nvidia-cdi-refresh.service nvidia-cdi-refresh.path && rm /var/run/cdi/nvidia.yaml")
    blind = run(tmp_path, {host.name: data})
    assert blind.code != 0
    host.ssh("systemctl unmask nvidia-cdi-refresh.service nvidia-cdi-refresh.path")
    run(tmp_path, {host.name: data}).succeeded()
    assert host.ssh(f"docker run --rm --device nvidia.com/gpu=all {image} nvidia-smi -L").stdout == seen
