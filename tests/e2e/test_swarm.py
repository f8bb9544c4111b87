"""Models once for a LAN, on eleven hosts; the oracles are the hub's log, the seed's counters and sha256sum."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.support import PYINFRA, ROOT, Run, command, run
from tests.testbed import state_dir
from tests.testbed.hosts import POWER_OFF_SECONDS, Bed, BedHost, Record, wait, wait_for_ssh
from tests.testbed.hub import Client

DEPLOY = """
from pyinfra import host

from roles.common.connection import send_at_once
from roles.declaration import declaration_of, lan_of
from roles.models.deploy import deploy_models

send_at_once(host)
deploy_models(declaration_of(host).models, lan=lan_of(host))
"""
PORT = 8090
MODEL = "models.example.org/big/tiny-big.gguf"
PATH = f"/srv/models/{MODEL}"
SIZE = (state_dir() / "plain" / "tiny-big.gguf").stat().st_size


def sha256_of(name: str) -> str:
    return hashlib.sha256((state_dir() / "plain" / name).read_bytes()).hexdigest()


SHA256 = sha256_of("tiny-big.gguf")
SHAPED = "tc qdisc replace dev host0 root tbf rate {} burst 64k latency 50ms"
MODELS = {
    "keep_free_mib": 4,
    "wanted": {"big": {"url": "https://models.example.org/tiny-big.gguf", "sha256": SHA256}},
}


@dataclass(frozen=True)
class Lan:
    """A seed, and hosts of the same inventory."""

    seed: BedHost
    peers: Sequence[BedHost]
    data: dict[str, dict[str, Any]]
    hub: Client

    def from_hub(self, *hosts: BedHost) -> int:
        """Bytes of the model that left the hub for these hosts."""
        addresses = [host.address for host in hosts]
        return sum(r.bytes_sent for r in self.hub.log() if r.client in addresses and "tiny-big" in r.path)

    def command(self, directory: Path, hosts: Sequence[BedHost]) -> list[str]:
        """The command that looks after some hosts' models; the whole inventory is there."""
        (directory / "deploy.py").write_text(DEPLOY)
        command(directory, self.data, "none")
        limit = [word for host in hosts for word in ("--limit", host.name)]
        return [str(PYINFRA), "-y", "-vvv", str(directory / "fleet.py"), str(directory / "deploy.py"), *limit]

    def start(self, directory: Path, hosts: Sequence[BedHost]) -> subprocess.Popen[str]:
        """Begin a run and leave it at work."""
        return subprocess.Popen(
            self.command(directory, hosts), cwd=directory, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def deploy(self, directory: Path, hosts: Sequence[BedHost]) -> Run:
        """Run to the end."""
        with self.start(directory, hosts) as process:
            output, _ = process.communicate(timeout=200)
        return Run(process.returncode, output)


def at_once(what: Callable[[BedHost], Any], hosts: Sequence[BedHost]) -> list[Any]:
    with ThreadPoolExecutor(len(hosts)) as threads:
        return list(threads.map(what, hosts))


def forget(*hosts: BedHost) -> None:
    """Have hosts that never saw a model, and give none."""
    state = "/srv/models /var/lib/metal2model/models /var/lib/model-swarm /opt/metal2model/models"
    at_once(lambda host: host.ssh(f"systemctl stop model-swarm 2>/dev/null; rm -rf {state}"), hosts)


def sent(host: BedHost) -> int:
    """Bytes that ever left the host."""
    return int(host.ssh("cat /sys/class/net/host0/statistics/tx_bytes").stdout)


def digests(hosts: Sequence[BedHost]) -> set[str]:
    """What the model is on these hosts."""
    return set(at_once(lambda host: host.ssh(f"sha256sum {PATH}").stdout.split()[0], hosts))


def arrived(host: BedHost) -> int:
    """Bytes of models that are on their way on the host's disk."""
    said = host.ssh("du -c -B1 /srv/models/.partial 2>/dev/null | tail -1 | cut -f1").stdout
    return int(said or 0)


@pytest.fixture(scope="module")
def lan(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """A seed and ten others; the first and the seed are provisioned in one run of everything, with the model."""
    names = [f"swarm{os.getpid()}-{number}" for number in range(11)]
    seed, *peers = bed.up_many(names, "noble")
    try:
        data = {host.name: {**host.pyinfra_data(), "tags": ["cpu"], "models": MODELS} for host in (seed, *peers)}
        data[seed.name] |= {"tags": ["cpu", "seed"], "lan_cache": {"listen": seed.address, "models": True}}
        found = Lan(seed, peers, data, Client(state_dir(), [host.address for host in (seed, *peers)]))
        found.hub.clear_log()
        near = {host.name: data[host.name] for host in (seed, peers[0])}
        run(tmp_path_factory.mktemp("first"), near).succeeded()
        # What roles install, all at once: that takes most of the time here.
        apt = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"
        at_once(lambda host: host.ssh(f"{apt} python3 ca-certificates aria2 mktorrent", timeout=200), peers[1:])
        yield found
        found.hub.clear_faults()
    finally:
        bed.down(*(name for name in names if Record.read(name)))


def test_the_first_run_of_all_has_the_model_once_from_outside(lan: Lan) -> None:
    assert digests([lan.seed, lan.peers[0]]) == {SHA256}
    assert SIZE <= lan.from_hub(lan.seed) <= 1.05 * SIZE
    assert lan.from_hub(lan.peers[0]) <= 1, "more than what tells the size"
    for host in (lan.seed, lan.peers[0]):
        assert host.ssh("systemctl is-active model-swarm; systemctl is-system-running").stdout == "active\nrunning\n"
        assert host.ssh("ps -o user= -C aria2c").stdout.split() == ["model-swarm"]
        assert host.ssh(f"stat -c '%U:%G %a' {PATH}").stdout == "root:root 444\n"
        assert host.ssh("ls -A /srv/models").stdout.split() == [".torrents", "models.example.org"]
    torrents = f"http://{lan.seed.address}:{PORT}/models/.torrents"
    status = "curl -s -o /dev/null -w '%{http_code} '"
    asked = f"{status} {torrents}/{SHA256}.torrent; {status} {torrents}/../.partial/"
    assert lan.peers[0].ssh(asked).stdout.split() == ["200", "404"]


def test_a_second_run_changes_nothing(lan: Lan, tmp_path: Path) -> None:
    second = lan.deploy(tmp_path, [lan.seed, lan.peers[0]]).succeeded()
    assert [second.changed(host.name) for host in (lan.seed, lan.peers[0])] == [[], []], second.output
    assert second.output.count(">>>") == 2 * 2, second.output


def test_ten_hosts_take_less_than_twice_the_time_of_one(lan: Lan, tmp_path: Path) -> None:
    forget(lan.peers[0])
    # Slow enough that the link counts, and not how many processors all of them share; aria2 decides every ten seconds.
    lan.seed.ssh(SHAPED.format("20mbit"))
    times = []
    for hosts in (lan.peers[:1], lan.peers):
        began = time.monotonic()
        lan.deploy(tmp_path, hosts).succeeded()
        times.append(time.monotonic() - began)
        assert digests(hosts) == {SHA256}
        if hosts != lan.peers:
            forget(*hosts)
    lan.seed.ssh("tc qdisc del dev host0 root")
    assert lan.from_hub(lan.seed, *lan.peers) <= 1.05 * SIZE
    assert times[1] <= 2 * times[0], times


def test_a_late_host_has_the_model_from_its_peers_and_spares_the_seed(lan: Lan, tmp_path: Path) -> None:
    late = lan.peers[0]
    forget(late)
    lan.seed.ssh("systemctl stop model-swarm")
    before = sent(lan.seed)
    lan.deploy(tmp_path, [late]).succeeded()
    assert digests([late]) == {SHA256}
    assert sent(lan.seed) - before < SIZE / 50
    assert lan.from_hub(*lan.peers) <= 100
    lan.seed.ssh("systemctl start model-swarm")


def test_a_host_that_loses_power_half_way_converges_and_delays_nobody(lan: Lan, tmp_path: Path) -> None:
    cut, other = lan.peers[:2]
    forget(*lan.peers)
    lan.seed.ssh(SHAPED.format("64mbit"))
    boots = cut.record.boots()
    with lan.start(tmp_path, [cut, other]) as process:
        wait(lambda: arrived(cut) > 10_000_000, 60, "a part of the model")
        cut.ssh("systemctl reboot --force --force", check=False)
        output, _ = process.communicate(timeout=120)
    assert digests([other]) == {SHA256}, output
    wait(lambda: cut.record.boots() > boots, POWER_OFF_SECONDS, "the host to be reset")
    wait_for_ssh(cut.record)
    lan.deploy(tmp_path, [cut]).succeeded()
    assert digests([cut]) == {SHA256}
    assert lan.from_hub(*lan.peers) <= 100


def test_a_host_that_is_no_part_of_it_any_more_and_wants_no_model_gives_nothing(lan: Lan, tmp_path: Path) -> None:
    left = lan.peers[0]
    alone = Lan(lan.seed, [left], {left.name: {**lan.data[left.name], "models": {}}}, lan.hub)
    assert alone.deploy(tmp_path, [left]).succeeded().changed(left.name) == ["Models | Have the models"]
    assert left.ssh("pgrep aria2c; systemctl is-system-running; ls -A /srv/models").stdout == (
        "running\nmodels.example.org\n"
    )
    assert left.ssh("ls /etc/systemd/system/model-* /etc/systemd/system/*/model-*", check=False).stdout == ""
    again = alone.deploy(tmp_path, [left]).succeeded()
    assert again.changed(left.name) == []
    assert again.output.count(">>>") == 1, again.output
    lan.deploy(tmp_path, [left]).succeeded()
    assert left.ssh("systemctl is-active model-swarm").stdout == "active\n"


def test_without_the_seed_the_rest_comes_from_outside(lan: Lan, tmp_path: Path) -> None:
    hosts = lan.peers[:2]
    forget(*lan.peers)
    lan.seed.ssh(SHAPED.format("64mbit"))
    with lan.start(tmp_path, hosts) as process:
        wait(lambda: min(map(arrived, hosts)) > 10_000_000, 60, "a part of the model")
        lan.seed.ssh("systemctl poweroff --force --force", check=False)
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert digests(hosts) == {SHA256}
    for host in hosts:
        assert lan.from_hub(host) < SIZE - 9_000_000, "what was there came again"
    assert lan.from_hub(*hosts) > 0
