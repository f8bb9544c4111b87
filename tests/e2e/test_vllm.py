"""vLLM in containers, and its native unit: the server is a stand-in that reads its arguments as vLLM does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from roles.common.hardware import HardwareReport
from roles.common.model import Model
from roles.vllm.options import VllmOptions
from roles.vllm.units import render
from tests.conftest import MakeHost
from tests.e2e.support import ask, difference, restarts, run, snapshot
from tests.e2e.vllm_stand_in import MODEL, key_of, stand_in, vllm_host
from tests.testbed.hosts import BedHost


def declared(host: BedHost, **instances: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a user writes for servers in containers on a host without a card."""
    wanted = {"tiny": MODEL}
    role = {"method": "container", "instances": instances}
    return {host.name: {**host.pyinfra_data(), "tags": ["cpu"], "mirrors": {"pypi": ["tuna"]},
                        "models": {"wanted": wanted}, "docker": {}, "vllm": role}}  # fmt: skip


ONE = {"model": "tiny", "port": 8000, "context_length": 512, "gpu_memory_utilization": 0.3}
MORE = {"alias": "chat", "tool_call_parser": "hermes", "cors_origins": ["https://a.example"]}
TWO = {**ONE, "port": 8001, **MORE}


@pytest.fixture(scope="module")
def served(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> BedHost:
    """A host with two servers."""
    host = vllm_host(make_module_host)
    run(tmp_path_factory.mktemp("first"), declared(host, one=ONE, two=TWO)).succeeded()
    return host


def test_a_model_answers_to_those_who_have_its_key(served: BedHost) -> None:
    for instance, port in (("one", 8000), ("two", 8001)):
        status, answer = ask(served, port, key=key_of(served, instance))
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "hello")
        assert ask(served, port, key=None)[0] == 401
    assert ask(served, 8001, key=key_of(served, "one"))[0] == 401


def test_nobody_outside_reaches_it_and_no_process_shows_its_key(served: BedHost) -> None:
    assert served.ssh("ss -Htln 'sport = :8000'").stdout.split()[3] == "127.0.0.1:8000"
    assert key_of(served, "one") not in served.ssh("ps -eo args; systemctl show -p Environment 'vllm@*'").stdout
    assert served.ssh("stat -c '%a %U' /etc/metal2model/vllm/*").stdout.splitlines() == ["600 root"] * 4


def test_run_again_nothing_changes(served: BedHost, tmp_path: Path) -> None:
    before = snapshot(served)
    again = run(tmp_path, declared(served, one=ONE, two=TWO)).succeeded()
    assert again.changed(served.name) == []
    assert difference(before, snapshot(served)) == []


def test_an_option_that_cannot_be_is_refused_before_anything_is_done(served: BedHost, tmp_path: Path) -> None:
    before = snapshot(served)
    refused = run(tmp_path, declared(served, one={**ONE, "port": 8002, "swap_space": 4}, two=TWO))
    assert (
        refused.code != 0 and "vllm/instances/one/swap_space: no such option: vLLM no longer has it" in refused.output
    )
    assert difference(before, snapshot(served)) == []


def test_only_what_changed_is_restarted(served: BedHost, tmp_path: Path) -> None:
    before = {name: len(restarts(served, f"vllm@{name}")) for name in ("one", "two")}
    changed = run(tmp_path, declared(served, one={**ONE, "max_num_batched_tokens": 512}, two=TWO)).succeeded()
    assert changed.changed(served.name) == ["vLLM | Write the units", "vLLM | Run the instances"]
    after = {name: len(restarts(served, f"vllm@{name}")) for name in ("one", "two")}
    assert (after["one"] - before["one"], after["two"] - before["two"]) == (1, 0)


def test_a_new_key_is_taken_up(served: BedHost, tmp_path: Path) -> None:
    served.ssh("printf own-key >/etc/metal2model/vllm/one.key")
    run(tmp_path, declared(served, one={**ONE, "max_num_batched_tokens": 512}, two=TWO)).succeeded()
    assert ask(served, 8000, key="own-key")[0] == 200


def test_a_container_that_was_left_behind_gives_way(served: BedHost) -> None:
    """As after a power cut, or when docker's client was killed."""
    served.ssh("systemctl kill --signal=KILL vllm@two")
    served.ssh("timeout 60 sh -c 'until curl -sf http://127.0.0.1:8001/health; do sleep 0.2; done'")
    assert served.ssh("docker ps --format '{{.Names}}'").stdout.split().count("metal2model-vllm-two") == 1


def test_what_vllm_does_not_understand_is_told_in_its_own_words(served: BedHost, tmp_path: Path) -> None:
    three = {**ONE, "port": 8002, "extra_arguments": ["--max-modle-len", "8"]}
    failed = run(tmp_path, declared(served, one=ONE, two=TWO, three=three))
    assert failed.code != 0
    assert "vllm serve: error: unrecognized arguments: --max-modle-len" in failed.output


def test_what_is_not_wanted_goes(served: BedHost, tmp_path: Path) -> None:
    gone = {"model": "tiny", "port": 8002, "present": False}
    run(tmp_path, declared(served, one=ONE, two={**TWO, "present": False}, three=gone)).succeeded()
    assert served.ssh("docker ps --all --format '{{.Names}}'").stdout.split() == ["metal2model-vllm-one"]
    assert served.ssh("ls /etc/metal2model/vllm").stdout.split() == ["one.environment", "one.key"]
    assert "vllm@two" not in served.ssh("ls /etc/systemd/system").stdout


@pytest.mark.parametrize("role", [{}, {"cache_directory": "/srv/cache"}])
def test_the_native_unit_starts_in_its_cage(served: BedHost, role: dict[str, Any]) -> None:
    """With a stand-in for the 10 GB of packages; the user is systemd's own, and the caches are that user's."""
    for name, text in stand_in().items():
        served.ssh(f"install -D -m 0644 /dev/stdin /stand-in/{name}", input=text)
    served.ssh(
        "d=/usr/lib/python3/dist-packages/vllm/entrypoints/cli && install -D -m 0644 /stand-in/vllm $d/main.py"
        " && d=/opt/metal2model/vllm/current/bin && install -d $d && ln -sf /usr/bin/python3 $d/python"
        " && printf 'VLLM_API_KEY=k\\n' | install -m 0600 /dev/stdin /etc/metal2model/vllm/n.environment"
    )
    path = served.ssh("find /srv/models -name config.json -printf '%h\\n'").stdout.split()[0]
    options = VllmOptions.load({**role, "instances": {"n": {"model": "tiny", "port": 8009}}}, where="h")
    model = Model("tiny", path)
    unit = render("n", options.instances["n"], options, model, tags=["cpu"], report=HardwareReport())
    served.ssh("cat >/etc/systemd/system/vllm@n.service && systemctl daemon-reload", input=unit)
    served.ssh(
        "systemctl restart vllm@n && timeout 30 sh -c 'until curl -sf 127.0.0.1:8009/health; do sleep 0.1; done'"
    )
    assert ask(served, 8009, key=None)[0] == 401
    assert ask(served, 8009, key="k")[0] == 200
    cache = f"{role.get('cache_directory', '/var/cache/vllm')}/n"
    owner, pid = served.ssh(f"stat -c %u {cache}/vllm; systemctl show --value -p MainPID vllm@n").stdout.split()
    assert owner == served.ssh(f"stat -c %u /proc/{pid}").stdout.strip() != "0"
    served.ssh("systemctl stop vllm@n && rm /etc/systemd/system/vllm@n.service /etc/metal2model/vllm/n.environment")
