"""Every inventory that we ship says what the roles understand."""

import json
from pathlib import Path

import pytest
from pyinfra.api import Inventory, State
from pyinfra.context import ctx_state
from pyinfra_cli.inventory import make_inventory

from roles.common.options import OptionError
from roles.declaration import Declaration, declaration_of

ROOT = Path(__file__).parents[1]
INVENTORIES = sorted((ROOT / "inventories").glob("*.py"))
DEMO = {
    "connection": {"ssh_hostname": "192.0.2.1", "ssh_user": "root"},
    "revision": "0" * 40,
    "llama_cpp": {"version": "b1", "sha256": "0" * 64},
}


@pytest.fixture(autouse=True)
def demo_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    monkeypatch.setenv("M2M_DEMO", str(tmp_path / "demo.json"))


def loaded(path: Path) -> Inventory:
    with ctx_state.use(State()):
        inventory: Inventory = make_inventory(str(path), cwd=str(ROOT))
    return inventory


@pytest.mark.parametrize("path", INVENTORIES, ids=lambda path: path.stem)
def test_every_host_is_declared_well(path: Path) -> None:
    hosts = list(loaded(path))
    assert hosts
    for host in hosts:
        declared = declaration_of(host)
        assert declared.endpoints(), f"{host.name} serves nothing"
        assert declared.llama_cpp
        for name, instance in declared.llama_cpp.instances.items():
            assert declared.models_by_name()[instance.model].path.startswith("/"), name


def test_the_classroom_has_forty_hosts_with_options_from_their_group() -> None:
    hosts = list(loaded(ROOT / "inventories" / "classroom.py"))
    assert len(hosts) == 40
    assert {declaration_of(host).lang for host in hosts} == {"zh"}


def test_what_pyinfra_reads_is_not_ours_to_refuse(tmp_path: Path) -> None:
    data = {"ssh_hostname": "h", "ssh_key": "k", "_sudo": True, "_sudo_password": "x", "_retries": 2, "tags": ["cpu"]}
    (tmp_path / "fleet.py").write_text(f"fleet = [('h', {data!r})]\n")
    (host,) = loaded(tmp_path / "fleet.py")
    assert declaration_of(host).tags == ["cpu"]


def test_all_problems_of_all_hosts_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "fleet.py").write_text("fleet = [('a', {'tags': ['cpux'], 'mirors': {}}), ('b', {})]\n")
    host = next(iter(loaded(tmp_path / "fleet.py")))
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
