"""Every inventory that we ship says what the roles understand."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import Inventory

from roles.common.options import OptionError
from roles.declaration import Declaration, declaration_of

ROOT = Path(__file__).parents[1]
INVENTORIES = sorted((ROOT / "inventories").glob("*.py"))
DEMO = {
    "connection": {"ssh_hostname": "192.0.2.1", "ssh_user": "root"},
    "revision": "0" * 40,
    "llama_cpp": {"version": "b1", "sha256": "0" * 64},
}
# In a process of its own: importing pyinfra_cli replaces threads and sockets by gevent's in the whole process.
READ = """
import json, sys
from pyinfra.api import State
from pyinfra.context import ctx_state
from pyinfra_cli.inventory import make_inventory
with ctx_state.use(State()):
    inventory = make_inventory(sys.argv[1], cwd=".")
print(json.dumps([[host.name, host.data.dict()] for host in inventory]))
"""
Hosts = list[tuple[str, dict[str, Any]]]


def written(path: Path, tmp_path: Path) -> Hosts:
    """The hosts of an inventory and their data, groups included, as pyinfra itself reads them."""
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    environment = {**os.environ, "M2M_DEMO": str(tmp_path / "demo.json")}
    command = [sys.executable, "-W", "ignore", "-c", READ, str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    hosts: Hosts = json.loads(done.stdout)
    return hosts


def fleet(hosts: Hosts) -> Inventory:
    return Inventory(([(name, data) for name, data in hosts], {}))


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: path.stem)
def test_every_host_is_declared_well(path: Path, tmp_path: Path) -> None:
    hosts = written(path, tmp_path)
    assert hosts
    for host in fleet(hosts):
        declared = declaration_of(host)
        assert declared.endpoints(), f"{host.name} serves nothing"
        for engine in declared.engines.values():
            for name, instance in engine.instances.items():
                assert declared.models_by_name()[instance.model].path.startswith("/"), name


def test_servers_that_are_gone_end_before_others_begin() -> None:
    both = {
        "tags": ["cpu"],
        "models": {"wanted": {"qwen3-0.6b-q8": {}}},
        "docker": {},
        "vllm": {"method": "container", "instances": {"old": {"present": False}}},
        "llama_cpp": {"instances": {"r1": {"present": False}, "new": {"model": "qwen3-0.6b-q8", "port": 8000}}},
    }
    assert Declaration.load(both, where="h").gone_units == ["llama-server@r1.service", "vllm@old.service"]


def test_one_word_moves_a_model_to_another_engine() -> None:
    one = {"model": "x", "port": 8000, "context_length": 2048, "parallel": 2, "min_tokens_per_second": 3}
    gguf, original = {"x": {"path": "/srv/x.gguf"}}, {"x": {"path": "/srv/x"}}
    engines = {"llama_cpp": gguf, "ollama": gguf, "vllm": original}
    for engine, wanted in engines.items():
        port = 11434 if engine == "ollama" else 8000
        instance = {"instances": {"r1": {**one, "port": port}}}
        data = {"tags": ["rtx4090"], "models": {"wanted": wanted}, engine: instance}
        (served,) = Declaration.load(data, where="h").servers()
        assert served.url.endswith(f":{port}"), engine


def test_the_classroom_has_forty_hosts_with_options_from_their_group(tmp_path: Path) -> None:
    hosts = list(fleet(written(ROOT / "inventories" / "classroom.py", tmp_path)))
    assert len(hosts) == 40
    assert {declaration_of(host).lang for host in hosts} == {"zh"}


def test_what_pyinfra_reads_is_not_ours_to_refuse() -> None:
    data = {"ssh_hostname": "h", "ssh_key": "k", "_sudo": True, "_sudo_password": "x", "_retries": 2, "tags": ["cpu"]}
    (host,) = fleet([("h", data)])
    assert declaration_of(host).tags == ["cpu"]


def test_all_problems_of_all_hosts_come_at_once() -> None:
    host = next(iter(fleet([("a", {"tags": ["cpux"], "mirors": {}}), ("b", {})])))
    with pytest.raises(OptionError) as error:
        declaration_of(host)
    assert str(error.value).splitlines() == [
        "the inventory cannot be used as it is, and nothing was changed:",
        "a: tags/0: unknown hardware tag 'cpux' (did you mean 'cpu'?)",
        "a: mirors: unknown option (did you mean 'mirrors'?)",
        "b: tags: this option is required and has no default",
    ]


def test_an_engine_needs_a_declared_model() -> None:
    with pytest.raises(OptionError) as error:
        Declaration.load({"tags": ["cpu"], "llama_cpp": {"instances": {"a": {"model": "x", "port": 1}}}}, where="h")
    assert str(error.value) == "h: llama_cpp/instances/a/model: 'x' is not among models/wanted; declare it there"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"repo": "a/b", "files": ["*UD-IQ1_S*"]}, "'x' is /srv/models/a/b, and this engine loads one .gguf file"),
        ({"path": "/home/u/x.gguf"}, "'x' is /home/u/x.gguf, and the unit cannot see /home"),
    ],
)
def test_an_engine_needs_a_model_that_it_can_load(model: dict[str, Any], said: str) -> None:
    instances = {"a": {"model": "x", "port": 1}}
    data = {"tags": ["cpu"], "models": {"wanted": {"x": model}}, "llama_cpp": {"instances": instances}}
    with pytest.raises(OptionError) as error:
        Declaration.load(data, where="h")
    assert str(error.value).startswith(f"h: llama_cpp/instances/a/model: {said}")
