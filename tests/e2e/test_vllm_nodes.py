"""One vLLM server over two hosts: the head answers, and whatever goes, all come back together by themselves."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import Hosts, ask, restarts, run
from tests.e2e.vllm_stand_in import MODEL, key_of, vllm_host
from tests.testbed.hosts import BedHost, wait

INSTANCE = {"model": "tiny", "port": 8000, "context_length": 512, "gpu_memory_utilization": 0.3, "tensor_parallel": 2}


@dataclass(frozen=True)
class Pair:
    """Two hosts, and what their administrator declares."""

    head: BedHost
    worker: BedHost

    def declared(self, **role: int) -> Hosts:
        nodes = [self.head.address, self.worker.address]
        return {
            host.name: {
                **host.pyinfra_data(),
                "tags": ["cpu"],
                "mirrors": {"pypi": ["tuna"]},
                "models": {"wanted": {"tiny": MODEL}},
                "docker": {},
                "vllm": {
                    "method": "container",
                    "instances": {"one": {**INSTANCE, "nodes": nodes, "node_ip_address": host.address, **role}},
                },
            }
            for host in (self.head, self.worker)
        }

    def answers(self) -> None:
        """Wait for the head, and have a chat with it."""
        self.head.ssh("timeout 90 sh -c 'until curl -sf http://127.0.0.1:8000/health; do sleep 0.2; done'")
        status, answer = ask(self.head, 8000, key=key_of(self.head, "one"))
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "hello")

    def is_unmoved_by_strangers(self) -> None:
        """Call the head with what no node says, and be sent away."""
        with socket.create_connection((self.head.address, 29502), timeout=30) as link:
            link.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert link.recv(1) == b""


@pytest.fixture(scope="module")
def pair(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two hosts that serve one model. As on Ubuntu, each one's own name leads to itself alone."""
    made = Pair(vllm_host(make_module_host), vllm_host(make_module_host))
    for host in (made.head, made.worker):
        host.ssh(f"sed -i 's/^[0-9.]* {host.name}$/127.0.1.1 {host.name}/' /etc/hosts")
    run(tmp_path_factory.mktemp("first"), made.declared()).succeeded()
    return made


def test_one_model_answers_from_two_hosts(pair: Pair) -> None:
    pair.answers()
    for host in (pair.head, pair.worker):
        assert host.ssh("docker ps --format '{{.Names}}'").stdout.split() == ["metal2model-vllm-one"]
        # What its libraries go by; left alone, they would take the address of the host's name.
        shown = host.ssh("tr '\\0' '\\n' <\"/proc/$(docker inspect -f '{{.State.Pid}}' metal2model-vllm-one)/environ\"")
        assert {"GLOO_SOCKET_IFNAME=host0", "NCCL_SOCKET_IFNAME==host0"} <= set(shown.stdout.splitlines())


def test_run_again_nothing_changes(pair: Pair, tmp_path: Path) -> None:
    again = run(tmp_path, pair.declared()).succeeded()
    assert [again.changed(name) for name in pair.declared()] == [[], []]
    # The worker answers nobody, and is no stray for that.
    assert "not declared" not in again.output
    assert sum("vllm/instances/one  active (running)  ok" in line for line in again.output.splitlines()) == 2


@pytest.mark.parametrize(
    ("who", "how"), [("head", "systemctl restart vllm@one"), ("worker", "docker kill metal2model-vllm-one")]
)
def test_when_one_begins_anew_so_do_all(pair: Pair, who: str, how: str) -> None:
    """Of the real one, what is left of the old group waits for ever, and what is new for what is left."""
    hosts = (pair.head, pair.worker)
    before = [len(restarts(host, "vllm@one")) for host in hosts]
    (pair.head if who == "head" else pair.worker).ssh(how)
    wait(lambda: all(len(restarts(one, "vllm@one")) > old for one, old in zip(hosts, before, strict=True)), 60, "both")
    pair.answers()


def test_what_is_changed_on_both_is_served_at_the_end_of_the_run(pair: Pair, tmp_path: Path) -> None:
    """One restarts before the other, and takes it along."""
    changed = run(tmp_path, pair.declared(max_num_batched_tokens=512)).succeeded()
    wanted = ["vLLM | Write the units", "vLLM | Run the instances"]
    assert [changed.changed(name) for name in pair.declared()] == [wanted, wanted]


def test_a_node_that_is_missing_is_named(pair: Pair, tmp_path: Path) -> None:
    pair.worker.ssh("systemctl stop vllm@one")
    assert pair.worker.ssh("systemctl is-active vllm@one", check=False).stdout == "inactive\n", "it did not fail"
    failed = run(tmp_path, {pair.head.name: pair.declared(ready_timeout_seconds=12)[pair.head.name]}, "verify")
    assert failed.code != 0
    assert f"metal2model: waiting for {pair.worker.address}" in failed.output


def test_a_stranger_does_not_count_as_a_node(pair: Pair) -> None:
    """The head waits for its worker still when somebody else has called, and goes on while it serves."""
    pair.is_unmoved_by_strangers()
    assert pair.head.ssh("docker ps --quiet").stdout == ""
    pair.worker.ssh("systemctl start vllm@one")
    pair.answers()
    before = restarts(pair.head, "vllm@one")
    pair.is_unmoved_by_strangers()
    pair.worker.ssh(f"timeout 5 bash -c ': </dev/tcp/{pair.head.address}/29502'")
    pair.answers()
    assert restarts(pair.head, "vllm@one") == before
