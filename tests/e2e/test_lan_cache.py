"""One host fetches, the others have it from there: the hub's log says who asked outside, for what, how often."""

from __future__ import annotations

import re
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.containers import build_image, digest_of, docker_host, push_image, remove_image, serve_registry
from tests.e2e.support import Run, run, run_text
from tests.testbed import state_dir
from tests.testbed.hosts import POWER_OFF_SECONDS, BedHost, wait, wait_for_ssh
from tests.testbed.hub import Client
from tests.testbed.hub_http import Request

PORT = 8090
PYPI = "pypi.tuna.tsinghua.edu.cn"
NUMPY = r"numpy-2\.\d+\.\d+-cp311-cp311-manylinux_2_27_x86_64\.manylinux_2_28_x86_64\.whl"
"""Some 17 MB, so that there is a middle to be killed in."""
PART = 4 << 20
DEPLOY = """
from pyinfra import host

from roles.base.deploy import deploy_base
from roles.base.options import BaseOptions
from roles.common.connection import send_at_once
from roles.lan_cache.deploy import deploy_lan_cache
from roles.lan_cache.options import LanCacheOptions
from roles.common.python import PythonEnvironment, python_environment
from roles.mirrors.deploy import deploy_mirrors
from roles.mirrors.options import MirrorsOptions

send_at_once(host)
if caching := host.data.get("lan_cache"):
    deploy_lan_cache(LanCacheOptions.load(caching, where=host.name, path="lan_cache"), models_directory="/srv/models")
deploy_mirrors(MirrorsOptions.load(host.data.get("mirrors", {}), where=host.name, path="mirrors"))
if requirements := host.data.get("requirements"):
    deploy_base(BaseOptions())
    python_environment(wanted=PythonEnvironment(
        root="/opt/metal2model/try", version="1", requirements=requirements, role="try", module="six"))
"""
SIX = "six==1.17.0 --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"


@dataclass(frozen=True)
class Lan:
    """A cache, and hosts that know no other place."""

    cache: BedHost
    clients: list[BedHost]
    data: dict[str, dict[str, Any]]
    hub: Client
    """Told and asked of these hosts alone."""

    @property
    def url(self) -> str:
        return f"http://{self.cache.address}:{PORT}"

    def asked(self, *clients: BedHost) -> list[Request]:
        """Requests of these hosts that left the LAN."""
        addresses = [host.address for host in clients]
        return [request for request in self.hub.log() if request.client in addresses]


@pytest.fixture(scope="module")
def lan(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """A cache and the first of two hosts, provisioned in one run: the packages of its base come through the cache."""
    cache, *clients = (make_module_host("noble") for _ in range(3))
    url = f"http://{cache.address}:{PORT}"
    caching = {
        "listen": cache.address,
        "allow": [f"{host.address}/32" for host in clients],
        "min_free_gib": 0,
        "apt": {"upstreams": {"ubuntu": ["tuna", "ustc"]}, "max_gib": 1},
        "pypi": {"upstreams": ["tuna"], "max_gib": 1},
        "models": True,
    }
    mirrors = {"apt": [f"{url}/ubuntu", "ustc"], "security": True, "pypi": [f"{url}/pypi/simple"]}
    data = {cache.name: {**cache.pyinfra_data(), "tags": ["cpu"], "lan_cache": caching}}
    data |= {host.name: {**host.pyinfra_data(), "tags": ["cpu"], "mirrors": mirrors} for host in clients}
    hub = Client(state_dir(), [cache.address, *(host.address for host in clients)])
    hub.clear_log()
    near = {name: data[name] for name in (cache.name, clients[0].name)}
    run(tmp_path_factory.mktemp("first"), near).succeeded()
    yield Lan(cache, clients, data, hub)
    hub.clear_faults()


def deploy(directory: Path, hosts: list[BedHost], **options: Any) -> Run:
    """Run the cache, mirrors and a Python environment alone on some hosts."""
    return run_text(directory, {host.name: {**host.pyinfra_data(), **options} for host in hosts}, DEPLOY)


def files_sent(requests: list[Request]) -> Counter[tuple[str, str, str | None]]:
    """How often the hub sent each part of each file that never changes."""
    return Counter(
        (request.host, request.path, request.range)
        for request in requests
        if request.status in (200, 206) and re.search(r"/pool/|/by-hash/|/packages-of/", request.path)
    )


def test_packages_leave_the_hub_once_and_for_the_cache_alone(lan: Lan, tmp_path: Path) -> None:
    done = deploy(tmp_path, lan.clients, mirrors=lan.data[lan.clients[0].name]["mirrors"], requirements=SIX)
    done.succeeded()
    for host in lan.clients:
        assert lan.url in host.ssh("cat /etc/apt/sources.list.d/ubuntu.sources").stdout
        assert host.ssh("dpkg-query -W -f '${Status}' numactl").stdout == "install ok installed"
        assert host.ssh("/opt/metal2model/try/current/bin/python -c 'import six; print(six.__version__)'").stdout
    assert lan.asked(*lan.clients) == []
    through = [r for r in lan.asked(lan.cache) if r.host in ("mirrors.tuna.tsinghua.edu.cn", PYPI)]
    sent = files_sent(through)
    assert {path.rpartition("/")[2].partition("_")[0] for _, path, _ in sent} >= {"numactl", "python3-venv"}
    assert any("/six-1.17.0-py2" in path for _, path, _ in sent)
    assert {what: times for what, times in sent.items() if times > 1} == {}


def test_the_second_run_changes_nothing(lan: Lan, tmp_path: Path) -> None:
    near = lan.clients[0]
    done = run(tmp_path, {host.name: lan.data[host.name] for host in (lan.cache, near)}).succeeded()
    assert [done.changed(host.name) for host in (lan.cache, near)] == [[], []]


def test_it_listens_where_it_was_told_and_to_whom_it_was_told(lan: Lan) -> None:
    listening = [line.split()[3] for line in lan.cache.ssh("ss -Htln").stdout.splitlines()]
    assert [address for address in listening if not address.endswith(":22")] == [f"{lan.cache.address}:{PORT}"]
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lan.url}/ubuntu/dists/noble/InRelease", timeout=5)
    client = lan.clients[0]
    assert client.ssh(f"curl -s -o /dev/null -w '%{{http_code}}' -X PUT {lan.url}/pypi/simple/pip/").stdout == "405"
    assert client.ssh(f"curl -s -o /dev/null -w '%{{http_code}}' {lan.url}/elsewhere").stdout == "404"


def test_models_are_served_in_any_part_and_nothing_beside_them(lan: Lan) -> None:
    lan.cache.ssh(
        "mkdir -p /srv/models/tiny/random /srv/models/.partial && cd /srv/models && seq 1 200000 >tiny/random/m.gguf"
        " && echo half >.partial/0123 && ln -s /etc/passwd tiny/random/passwd"
    )
    client = lan.clients[0]
    whole = lan.cache.ssh("cat /srv/models/tiny/random/m.gguf").stdout
    assert client.ssh(f"curl -sf {lan.url}/models/tiny/random/m.gguf").stdout == whole
    assert client.ssh(f"curl -sf -r 5000-5999 {lan.url}/models/tiny/random/m.gguf").stdout == whole[5000:6000]
    for path in (".partial/0123", "tiny/random/passwd", "../../etc/passwd", "..%2f..%2fetc/passwd"):
        said = client.ssh(f"curl -s --path-as-is -w '\\n%{{http_code}}' {lan.url}/models/{path}").stdout
        assert "root:" not in said and "half" not in said
        assert said.rpartition("\n")[2] in ("400", "403", "404"), said


def wheel(lan: Lan, which: int = -1) -> tuple[str, str]:
    """URL of one of numpy's wheels as the cache's page has it, and its digest as the index states it."""
    page = lan.clients[0].ssh(f"curl -sf {lan.url}/pypi/simple/numpy/").stdout
    links = re.findall(rf'href="\.\./\.\./([^"#]*/{NUMPY})#sha256=([0-9a-f]+)"', page)
    path, digest = links[which]
    return f"{lan.url}/pypi/{path}", digest


def fetch(host: BedHost, url: str) -> str:
    """Fetch once the cache answers; return the digest of what came."""
    host.ssh(f"curl -sf --retry 60 --retry-all-errors --retry-delay 1 -o fetched {url}", timeout=90)
    return host.ssh("sha256sum fetched; rm fetched").stdout.split()[0]


def test_two_who_ask_at_a_time_share_one_fetch(lan: Lan) -> None:
    url, digest = wheel(lan, -2)
    lan.hub.clear_log()
    lan.hub.fault(re.escape(url.rpartition("/")[2]), "slow", times=None, rate=2 * PART)
    fetching = f"curl -sf --speed-time 4 --speed-limit 1 {url} | sha256sum"
    both = [
        subprocess.Popen(host.ssh_command(fetching), stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        for host in lan.clients
    ]
    assert [one.communicate(timeout=60)[0].split()[0] for one in both] == [digest, digest]
    lan.hub.clear_faults()
    times = files_sent(lan.asked(lan.cache))
    assert len(times) >= 4 and set(times.values()) == {1}


def test_a_cache_killed_in_the_middle_of_a_file_keeps_whole_parts_and_serves_no_half(lan: Lan) -> None:
    url, digest = wheel(lan)
    near, far = lan.clients
    name = re.escape(url.rpartition("/")[2])
    lan.hub.clear_log()
    lan.hub.fault(name, "slow", times=2, rate=1 << 30)
    lan.hub.fault(name, "slow", times=None, rate=PART // 30)
    near.ssh(f"systemd-run --quiet --unit fetching curl -sf -o /run/half {url}")
    third = f"bytes={2 * PART}-{3 * PART - 1}"
    wait(lambda: any(r.range == third and r.bytes_sent for r in lan.hub.log()), 30, "the third part")
    lan.cache.ssh("systemctl kill --signal KILL lan-cache.service")
    wait(lambda: near.ssh("systemctl is-failed fetching", check=False).stdout == "failed\n", 20, "curl to notice")
    lan.hub.clear_faults()
    assert fetch(far, url) == digest
    times = files_sent(lan.asked(lan.cache))
    path = next(path for _, path, _ in times)
    assert times[PYPI, path, f"bytes=0-{PART - 1}"] == times[PYPI, path, f"bytes={PART}-{2 * PART - 1}"] == 1
    assert times[PYPI, path, third] == 2
    assert lan.asked(near, far) == []


def test_what_a_power_cut_left_short_is_fetched_again(lan: Lan) -> None:
    url, digest = wheel(lan)
    assert fetch(lan.clients[0], url) == digest
    newest = lan.cache.ssh(
        "cd /srv/lan-cache/packages && find pypi -type f -size +1M -newer synced -printf '%T@ %p\\n'"
        " | sort -n | tail -1"
    ).stdout.split()[1]
    # Cached files are renamed when they are whole, and written to the disk by the kernel, later. The kernel below the
    # bed goes on when a host is reset, so that what a power cut leaves is made by hand.
    lan.cache.ssh(
        f"cd /srv/lan-cache/packages && truncate -s 100000 {newest} && cp -p synced of-another-boot"
        " && echo 0 >of-another-boot && touch -r synced of-another-boot && mv of-another-boot synced"
    )
    boots = lan.cache.record.boots()
    lan.cache.ssh("systemctl reboot --force --force", check=False)
    wait(lambda: lan.cache.record.boots() > boots, POWER_OFF_SECONDS, "the cache to be reset")
    wait_for_ssh(lan.cache.record)
    assert fetch(lan.clients[0], url) == digest


def test_a_transfer_that_breaks_outside_is_no_file_inside(lan: Lan) -> None:
    client = lan.clients[0]
    page = client.ssh(f"curl -sf {lan.url}/pypi/simple/idna/").stdout
    path, digest = re.findall(r'href="\.\./\.\./([^"#]*\.whl)#sha256=([0-9a-f]+)"', page)[-1]
    lan.hub.fault(re.escape(path.rpartition("/")[2]), "cut", after=10000)
    broken = client.ssh(f"curl -sf -o broken {lan.url}/pypi/{path}", check=False)
    assert broken.returncode == 18, "curl must see that the transfer is not whole"
    assert fetch(client, f"{lan.url}/pypi/{path}") == digest


def test_the_next_upstream_and_then_what_is_there_serve_when_nobody_answers(lan: Lan) -> None:
    near, far = lan.clients
    lan.hub.clear_log()
    lan.hub.fault(r"^mirrors\.tuna\.", "dead", times=None)
    near.ssh("apt-get update && apt-get install -y tree")
    assert "mirrors.ustc.edu.cn" in {r.host for r in lan.asked(lan.cache) if "/pool/" in r.path}
    lan.hub.fault("", "dead", times=None)
    far.ssh(f"until curl -sI {lan.url}/ubuntu/dists/noble/InRelease | grep -q '^X-Cache: STALE'; do sleep 0.5; done")
    said = far.ssh("LC_ALL=C apt-get update 2>&1 && apt-get install -y tree").stdout
    assert not re.search(r"^(Err|W|E):", said, re.MULTILINE), said
    assert far.ssh("tree --version").stdout.startswith("tree v")
    assert lan.asked(near, far) == []
    lan.hub.clear_faults()


def test_without_the_cache_hosts_take_their_next_mirror(lan: Lan, tmp_path: Path) -> None:
    lan.cache.ssh("systemctl stop lan-cache.service")
    client = lan.clients[0]
    mirrors = lan.data[client.name]["mirrors"]
    done = deploy(tmp_path, [client], mirrors={**mirrors, "pypi": [*mirrors["pypi"], "tuna"]}).succeeded()
    assert done.changed(client.name)
    assert lan.url not in client.ssh("cat /etc/apt/sources.list.d/ubuntu.sources /etc/pip.conf").stdout
    client.ssh("apt-get update")


def test_images_come_once_for_two_who_pull_at_a_time_and_stay_when_upstream_is_gone(
    make_host: MakeHost, tmp_path: Path
) -> None:
    cache, upstream = docker_host(make_host), docker_host(make_host)
    serve_registry(upstream, ["localhost"], port=5000, tls=False)
    # Nothing that could be compressed: one pull is to be under way when the other begins.
    dockerfile = "FROM bed/busybox\nRUN head -c 40000000 /dev/urandom >/weights\n"
    build_image(upstream, "localhost:5000/library/thing:1", {"Dockerfile": dockerfile})
    digest = push_image(upstream, "localhost:5000/library/thing:1")
    remove_image(upstream, "localhost:5000/library/thing:1")
    url = f"http://{cache.address}:{PORT}"
    caching = {"listen": cache.address, "images": {"upstream": f"http://{upstream.address}:5000"}}
    for changes in (True, False):
        done = deploy(tmp_path, [cache], lan_cache=caching).succeeded()
        assert bool(done.changed(cache.name)) is changes
    for host in (cache, upstream):
        host.ssh("cat >/etc/docker/daemon.json && systemctl restart docker", input=f'{{"registry-mirrors": ["{url}"]}}')
    pulls = [subprocess.Popen(host.ssh_command("docker pull --quiet thing:1")) for host in (cache, upstream)]
    assert [pull.wait(60) for pull in pulls] == [0, 0]
    for host in (cache, upstream):
        assert digest_of(host, "thing:1") == digest
    log = upstream.ssh("journalctl -u bed-registry-5000 -o cat").stdout
    asked = Counter(re.findall(r'"GET /v2/library/thing/blobs/(sha256:[0-9a-f]+)', log))
    # Debian's registry fetches once for who asks, and once to keep it.
    assert len(asked) >= 2 and set(asked.values()) == {2}, asked
    upstream.ssh("systemctl stop bed-registry-5000")
    remove_image(upstream, "thing:1")
    upstream.ssh("docker pull --quiet thing:1")
    assert digest_of(upstream, "thing:1") == digest
