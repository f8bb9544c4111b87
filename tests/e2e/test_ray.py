"""Two bare hosts become one Ray cluster that computes on both, for those who know its token; nodes come and go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from roles.ray.options import RayOptions
from roles.ray.units import client_settings
from tests.conftest import MakeHost
from tests.e2e.support import Hosts, Run, run
from tests.testbed.hosts import BedHost, wait

TOKEN = "/etc/metal2model/ray/token"
PYTHON = "/opt/metal2model/ray/current/bin"
# What an engine does: a task on each node, which says where it ran.
PROGRAM = """
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(log_to_driver=False, logging_level="ERROR")
where = ray.remote(num_cpus=0.1)(ray.util.get_node_ip_address)
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
print("ran on", *sorted(ray.get([where.options(scheduling_strategy=On(n, soft=False)).remote() for n in nodes])))
"""


@dataclass(frozen=True)
class Cluster:
    """Two hosts, and what their administrator declares."""

    head: BedHost
    worker: BedHost

    def declared(self, **worker: Any) -> Hosts:
        nodes = [self.head.address, self.worker.address]
        ray = {"head": self.head.address, "nodes": nodes, "num_cpus": 1, "num_gpus": 0, "token_file": TOKEN}
        return {
            host.name: {
                **host.pyinfra_data("root"),
                "tags": ["cpu"],
                "mirrors": {"pypi": ["tuna"]},
                "ray": {"node_ip_address": host.address, **ray, **(worker if host is self.worker else {})},
            }
            for host in (self.head, self.worker)
        }

    def options(self) -> RayOptions:
        return RayOptions.load(self.declared()[self.head.name]["ray"], where=self.head.name)

    def computed(self, settings: list[str]) -> str:
        """What the program says on the head, in a unit with these settings, as that of an engine has them."""
        lines = [*settings, "Type=oneshot", "ProtectSystem=strict", "PrivateTmp=yes", f"ExecStart={PYTHON}/python -"]
        lines += ["StandardInputText=" + line.replace("%", "%%") for line in PROGRAM.splitlines()]
        unit = "\n".join(["[Service]", *lines, "StandardOutput=truncate:/run/program.log", ""])
        self.head.ssh("cat >/run/systemd/system/program.service && systemctl daemon-reload", input=unit)
        self.head.ssh("systemctl start program", check=False)
        return self.head.ssh("cat /run/program.log").stdout

    def alive(self) -> int:
        """How many nodes the head counts, by Ray's own command."""
        settings = f"RAY_ADDRESS={self.head.address}:6379 RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={TOKEN}"
        status = self.head.ssh(f"{settings} {PYTHON}/ray status", check=False).stdout
        return sum(line.startswith(" 1 node_") for line in status.partition("Pending")[0].splitlines())


def rows(result: Run) -> list[str]:
    """The endpoints of verify's table that are healthy."""
    return [line.split()[0] for line in result.output.splitlines() if "ray       active (running)  ok" in line]


@pytest.fixture(scope="module")
def cluster(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """Two hosts that were bare a moment ago. The secret that they share was missing on one at first."""
    made = Cluster(make_module_host("noble"), make_module_host("noble"))
    made.head.ssh(f"install -D /dev/stdin {TOKEN}", input="0123456789abcdef" * 4 + "\n")
    worker = {made.worker.name: made.declared()[made.worker.name]}
    refused = run(tmp_path_factory.mktemp("refused"), worker)
    assert f"{made.worker.name}: ray/token_file: {TOKEN} does not exist or is empty" in refused.output
    assert refused.code != 0
    made.worker.ssh(f"install -D /dev/stdin {TOKEN}", input="0123456789abcdef" * 4 + "\n")
    run(tmp_path_factory.mktemp("first"), made.declared()).succeeded()
    return made


def test_a_program_computes_on_both_nodes(cluster: Cluster) -> None:
    both = " ".join(sorted((cluster.head.address, cluster.worker.address)))
    assert f"ran on {both}\n" in cluster.computed(client_settings(cluster.options()))


@pytest.mark.parametrize("settings", ["", "RAY_AUTH_MODE=token RAY_AUTH_TOKEN=fedcba9876543210"])
def test_without_the_token_the_cluster_tells_nothing(cluster: Cluster, settings: str) -> None:
    asked = cluster.worker.ssh(
        f"RAY_ADDRESS={cluster.head.address}:6379 {settings} {PYTHON}/ray status 2>&1", check=False
    )
    assert asked.returncode != 0
    assert "InvalidAuthToken" in asked.stdout and "Active" not in asked.stdout


def test_the_token_is_secret(cluster: Cluster) -> None:
    for host in (cluster.head, cluster.worker):
        assert host.ssh(f"stat -c '%a %U' {TOKEN}").stdout == "600 root\n"
        assert "0123456789abcdef" not in host.ssh("cat /proc/*/cmdline; journalctl --no-pager", check=False).stdout


def test_the_node_is_hardened(cluster: Cluster) -> None:
    assert cluster.head.ssh("systemd-analyze verify ray.service 2>&1").stdout == ""
    overall = cluster.head.ssh("systemd-analyze security --no-pager ray | tail -1").stdout
    assert float(overall.split(":")[1].split()[0]) <= 4.0, overall
    dynamic = range(61184, 65520)  # systemd.exec(5), DynamicUser=
    assert int(cluster.head.ssh("ps -o uid= -C raylet").stdout) in dynamic
    # Ray itself listens on every address, so that this is what keeps others away.
    allowed = cluster.worker.ssh("systemctl show --value --property IPAddressAllow ray").stdout
    assert {f"{cluster.head.address}/32", f"{cluster.worker.address}/32"} <= set(allowed.split())


def test_a_second_run_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    second = run(tmp_path, cluster.declared()).succeeded()
    assert {state for hosts in second.results.values() for state in hosts.values()} == {"No changes"}, second.output
    assert rows(second) == sorted([cluster.head.name, cluster.worker.name])


def test_a_node_that_fails_joins_again_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker.ssh("kill -9 $(pgrep -x raylet)")
    wait(lambda: cluster.worker.ssh("systemctl show --value -p NRestarts ray").stdout != "0\n", 30, "a new start")
    assert rows(run(tmp_path, cluster.declared(), "verify").succeeded()) == sorted(
        [cluster.head.name, cluster.worker.name]
    )


def test_a_node_that_is_missing_fails_the_head_by_name(cluster: Cluster, tmp_path: Path) -> None:
    cluster.worker.ssh("systemctl stop ray")
    # Of one that failed a moment ago, the head needs some seconds to know.
    wait(lambda: cluster.alive() == 1, 60, "one node")
    hosts = cluster.declared()
    head = {cluster.head.name: {**hosts[cluster.head.name]}}
    head[cluster.head.name]["ray"] = {**head[cluster.head.name]["ray"], "ready_timeout_seconds": 2}
    result = run(tmp_path, head, "verify")
    assert result.code != 0
    assert f"{cluster.head.name}: ray: not ready within 2 s: {cluster.worker.address} has not joined" in result.output
    # Both begin anew: a head that comes back is another cluster, and its workers join that.
    cluster.head.ssh("systemctl stop ray")
    repaired = run(tmp_path, hosts).succeeded()
    assert [repaired.changed(name) for name in hosts] == [["Ray | Run the node"]] * 2
    wait(lambda: cluster.alive() == 2, 30, "two nodes")  # `ray status` is some seconds old


def test_a_node_leaves(cluster: Cluster, tmp_path: Path) -> None:
    hosts = cluster.declared(present=False)
    assert (
        "Ray | Leave the cluster"
        in run(tmp_path, {cluster.worker.name: hosts[cluster.worker.name]}).succeeded().results
    )
    assert cluster.worker.ssh("systemctl cat ray", check=False).returncode != 0
    assert cluster.worker.ssh("pgrep -x raylet", check=False).stdout == ""
    wait(lambda: cluster.alive() == 1, 30, "one node")
