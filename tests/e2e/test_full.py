"""A bare host becomes a model server that answers; run again, nothing changes; change one thing, only that changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roles.llama_cpp.options import LlamaCppInstanceOptions
from tests.conftest import MakeHost
from tests.e2e.support import Hosts, ask, difference, key_of, restarts, run, snapshot
from tests.testbed import artefacts
from tests.testbed.hosts import BedHost
from tests.testbed.hub_models import commit_of

TINY = {
    "repo": artefacts.GGUF_REPOSITORY,
    "hub": "huggingface",
    "revision": commit_of(artefacts.GGUF_REPOSITORY),
    "files": ["tiny-random-F32.gguf"],
}


def declared(host: BedHost, user: str = "root", **given: Any) -> dict[str, Any]:
    """What a user writes for one small server with a tiny model."""
    release = artefacts.release()
    return {
        **host.pyinfra_data(user),
        "tags": ["cpu"],
        "mirrors": {"pypi": ["tuna"]},
        "models": {"wanted": {"tiny": TINY}},
        "llama_cpp": {
            "version": release.tag,
            "sha256": release.sha256,
            "instances": {"one": {"model": "tiny", "port": 8000, "context_length": 512, "threads": 1}},
        },
        **given,
    }


def with_instances(data: dict[str, Any], **instances: dict[str, Any]) -> dict[str, Any]:
    return {**data, "llama_cpp": {**data["llama_cpp"], "instances": instances}}


@pytest.fixture(scope="module")
def served(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> tuple[BedHost, dict[str, Any]]:
    """A host that was bare a moment ago and has been provisioned once."""
    host = make_module_host("noble")
    data = declared(host)
    run(tmp_path_factory.mktemp("first"), {host.name: data}).succeeded()
    return host, data


def fleet(served: tuple[BedHost, dict[str, Any]], **given: Any) -> Hosts:
    host, data = served
    return {host.name: {**data, **given}}


def test_the_model_answers_on_the_host(served: tuple[BedHost, dict[str, Any]]) -> None:
    host, _ = served
    status, answer = ask(host, 8000, key=key_of(host, "one"))
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 8


def test_without_the_key_it_does_not(served: tuple[BedHost, dict[str, Any]]) -> None:
    host, _ = served
    assert ask(host, 8000, key=None)[0] == 401
    assert ask(host, 8000, key="wrong")[0] == 401


def test_nobody_outside_reaches_it(served: tuple[BedHost, dict[str, Any]]) -> None:
    host, _ = served
    listening = host.ssh("ss -Htln 'sport = :8000'").stdout.split()
    assert "127.0.0.1:8000" in listening
    assert f"{host.address}:8000" not in listening and "0.0.0.0:8000" not in listening


def test_the_key_is_secret(served: tuple[BedHost, dict[str, Any]]) -> None:
    host, _ = served
    key = key_of(host, "one")
    assert len(key) >= 32
    assert host.ssh("stat -c '%a %U' /etc/metal2model/llama_cpp/one.key").stdout == "600 root\n"
    assert key not in host.ssh("cat /proc/*/cmdline | tr '\\0' ' '", check=False).stdout
    assert host.ssh(f"grep -rlF {key} /etc /var/log /tmp /var/lib/metal2model 2>/dev/null || true").stdout.split() == [
        "/etc/metal2model/llama_cpp/one.key"
    ]
    assert key not in host.ssh("journalctl --no-pager").stdout


def test_the_server_runs_as_an_ordinary_user_in_a_hardened_unit(served: tuple[BedHost, dict[str, Any]]) -> None:
    host, _ = served
    assert host.ssh("ps -o user:20= -C llama-server").stdout.strip() == "llama-server"
    exposure = json.loads(host.ssh("systemd-analyze security --json=short llama-server@one", check=False).stdout)
    assert exposure, "systemd-analyze said nothing"
    overall = host.ssh("systemd-analyze security --no-pager llama-server@one | tail -1").stdout
    assert float(overall.split(":")[1].split()[0]) <= 4.0, overall


def test_the_model_is_root_owned_and_read_only(served: tuple[BedHost, dict[str, Any]]) -> None:
    host, _ = served
    path = f"/srv/models/{artefacts.GGUF_REPOSITORY}/tiny-random-F32.gguf"
    assert host.ssh(f"stat -c '%U:%G %a' {path}").stdout == "root:root 444\n"


def test_a_second_run_changes_nothing(served: tuple[BedHost, dict[str, Any]], tmp_path: Path) -> None:
    host, _ = served
    before, started = snapshot(host), restarts(host, "llama-server@one")
    second = run(tmp_path, fleet(served)).succeeded()
    assert {state for hosts in second.results.values() for state in hosts.values()} == {"No changes"}, second.output
    assert difference(before, snapshot(host)) == []
    assert restarts(host, "llama-server@one") == started


def test_it_comes_back_after_a_reboot_and_then_nothing_changes(
    served: tuple[BedHost, dict[str, Any]], tmp_path: Path
) -> None:
    host, _ = served
    host.reboot()
    again = run(tmp_path, fleet(served)).succeeded()
    assert again.changed(host.name) == []
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200


def test_a_changed_option_restarts_the_server_once_and_touches_nothing_else(
    served: tuple[BedHost, dict[str, Any]], tmp_path: Path
) -> None:
    host, data = served
    before, started = snapshot(host), len(restarts(host, "llama-server@one"))
    changed = with_instances(data, one={**data["llama_cpp"]["instances"]["one"], "context_length": 1024})
    result = run(tmp_path, {host.name: changed}).succeeded()
    assert result.changed(host.name) == ["llama.cpp | Write the units", "llama.cpp | Run the instances"]
    assert difference(before, snapshot(host)) == ["/etc/systemd/system/llama-server@one.service"]
    assert len(restarts(host, "llama-server@one")) == started + 1
    assert "--ctx-size 1024" in host.ssh("ps -o args= -C llama-server").stdout
    run(tmp_path, fleet(served)).succeeded()


def test_a_unit_edited_behind_its_back_is_put_right(served: tuple[BedHost, dict[str, Any]], tmp_path: Path) -> None:
    host, _ = served
    host.ssh("sed -i s/--parallel\\ 1/--parallel\\ 2/ /etc/systemd/system/llama-server@one.service")
    result = run(tmp_path, fleet(served)).succeeded()
    assert result.changed(host.name) == ["llama.cpp | Write the units", "llama.cpp | Run the instances"]
    assert "--parallel 1" in host.ssh("ps -o args= -C llama-server").stdout


def test_two_more_instances_come_and_go_beside_the_first(
    served: tuple[BedHost, dict[str, Any]], tmp_path: Path
) -> None:
    host, data = served
    one = data["llama_cpp"]["instances"]["one"]
    before = restarts(host, "llama-server@one")
    more = {
        "two": {**one, "port": 8001, "api_key": False},
        "three": {**one, "port": 8002, "context_length": 256, "parallel": 2, "alias": "third"},
    }
    run(tmp_path, {host.name: with_instances(data, one=one, **more)}).succeeded()
    assert ask(host, 8001, key=None)[0] == 200
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    assert ask(host, 8002, key=key_of(host, "one"))[0] == 401, "each has a key of its own"
    status, answer = ask(host, 8002, key=key_of(host, "three"))
    assert (status, answer["model"]) == (200, "third")
    gone = {name: {"present": False} for name in more}
    assert run(tmp_path, {host.name: with_instances(data, one=one, **gone)}).succeeded().changed(host.name)
    for name, port in (("two", 8001), ("three", 8002)):
        assert host.ssh(f"systemctl cat llama-server@{name}", check=False).returncode != 0
        assert host.ssh(f"systemctl is-enabled llama-server@{name}", check=False).stdout.strip() != "enabled"
        assert host.ssh(f"ss -Htln 'sport = :{port}'").stdout == ""
    assert restarts(host, "llama-server@one") == before
    assert run(tmp_path, {host.name: with_instances(data, one=one, **gone)}).succeeded().changed(host.name) == []


def test_verify_alone_changes_nothing_and_says_what_it_found(
    served: tuple[BedHost, dict[str, Any]], tmp_path: Path
) -> None:
    host, _ = served
    result = run(tmp_path, fleet(served), "verify", "--data", f"json={tmp_path / 'verify.json'}").succeeded()
    assert result.changed(host.name) == []
    (row,) = json.loads((tmp_path / "verify.json").read_text())["hosts"][host.name]
    assert (row["verdict"], row["health"], row["model"]) == ("ok", "ok", "one")
    assert row["answer"] and row["tokens/s"] > 0
    assert "llama_cpp/instances/one  active (running)  ok" in result.output


def test_verify_fails_a_host_whose_server_is_down_and_says_why(
    served: tuple[BedHost, dict[str, Any]], tmp_path: Path
) -> None:
    host, _ = served
    host.ssh("systemctl stop llama-server@one")
    result = run(tmp_path, fleet(served), "verify")
    assert result.code != 0
    assert f"{host.name}: llama_cpp/instances/one: the unit is inactive" in result.output
    repaired = run(tmp_path, fleet(served)).succeeded()
    assert repaired.changed(host.name) == ["llama.cpp | Run the instances"]


def test_verify_fails_a_server_that_is_too_slow(served: tuple[BedHost, dict[str, Any]], tmp_path: Path) -> None:
    host, data = served
    fast = with_instances(data, one={**data["llama_cpp"]["instances"]["one"], "min_tokens_per_second": 1e9})
    result = run(tmp_path, {host.name: fast}, "verify")
    assert result.code != 0
    assert "required are 1000000000.0 (min_tokens_per_second)" in result.output


def test_a_server_that_crashes_at_start_is_found(served: tuple[BedHost, dict[str, Any]], tmp_path: Path) -> None:
    host, data = served
    broken = with_instances(data, one={**data["llama_cpp"]["instances"]["one"], "extra_arguments": ["--no-such-flag"]})
    result = run(tmp_path, {host.name: broken})
    assert result.code != 0
    assert "--no-such-flag" in result.output
    run(tmp_path, fleet(served)).succeeded()


def test_the_real_server_understands_every_option(served: tuple[BedHost, dict[str, Any]], tmp_path: Path) -> None:
    """Each option is set to something that is not its default; llama-server refuses to start on a flag it lacks."""
    host, data = served
    everything: dict[str, Any] = {
        "model": "tiny", "port": 8002, "host": "127.0.0.2", "alias": "all of it", "context_length": 1024, "parallel": 2,
        "threads": 2, "gpu_layers": 0, "flash_attention": "on", "cache_type_k": "bf16", "cache_type_v": "f32",
        "load_mode": "mmap", "numa": "distribute", "metrics": False, "api_key": False,
        "cors_origins": ["https://chat.example.org"], "extra_arguments": ["--batch-size", "64"],
        "environment": {"A": "50% of $x \"y\""}, "golden_prompt": "It's \"quoted\" 你好", "golden_max_tokens": 4,
        "min_tokens_per_second": 0.1, "ready_timeout_seconds": 60, "fit": "warn",
    }  # fmt: skip
    one = data["llama_cpp"]["instances"]["one"]
    assert set(everything) == set(LlamaCppInstanceOptions.model_fields) - {"present"}
    run(tmp_path, {host.name: with_instances(data, one=one, all=everything)}).succeeded()
    served_models = json.loads(host.ssh("curl -s http://127.0.0.2:8002/v1/models").stdout)
    assert [model["id"] for model in served_models["data"]] == ["all of it"]
    assert host.ssh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.2:8002/metrics").stdout != "200"
    environment = host.ssh("tr '\\0' '\\n' < /proc/$(systemctl show -P MainPID llama-server@all)/environ").stdout
    assert 'A=50% of $x "y"' in environment.splitlines()
    run(tmp_path, {host.name: with_instances(data, one=one, all={"present": False})}).succeeded()


def test_what_runs_undeclared_is_shown(served: tuple[BedHost, dict[str, Any]], tmp_path: Path) -> None:
    host, data = served
    one = data["llama_cpp"]["instances"]["one"]
    run(tmp_path, {host.name: with_instances(data, one=one, two={**one, "port": 8001})}).succeeded()
    forgotten = run(tmp_path, fleet(served)).succeeded()
    assert "llama-server@two.service" in forgotten.output and "not declared" in forgotten.output
    run(tmp_path, {host.name: with_instances(data, one=one, two={"present": False})}).succeeded()


def test_a_rollback_to_another_version_is_a_link_and_a_restart(
    served: tuple[BedHost, dict[str, Any]], tmp_path: Path
) -> None:
    host, _ = served
    root = "/opt/metal2model/llama.cpp"
    current = host.ssh(f"readlink {root}/current").stdout.strip()
    host.ssh(f"cp -a {root}/{current} {root}/older && ln -sfn older {root}/current")
    before = len(restarts(host, "llama-server@one"))
    result = run(tmp_path, fleet(served)).succeeded()
    assert host.ssh(f"readlink {root}/current").stdout.strip() == current
    assert result.changed(host.name) == [f"llama.cpp | Install llama-server {current}", "llama.cpp | Run the instances"]
    assert len(restarts(host, "llama-server@one")) == before + 1
