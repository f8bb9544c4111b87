"""Wrong input and a hostile world: the message helps, and the host is left as it was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import Hosts, run, snapshot
from tests.e2e.test_full import TINY, declared
from tests.testbed import artefacts, state_dir
from tests.testbed.hosts import BedHost
from tests.testbed.hub import Client
from tests.testbed.hub_models import commit_of


@pytest.fixture(scope="module")
def host(make_module_host: MakeHost) -> BedHost:
    """A bare host: whatever is refused, it stays bare."""
    return make_module_host("noble")


@pytest.fixture
def hub() -> Iterator[Client]:
    """The fixtures' hub, without faults before and after."""
    client = Client(state_dir())
    client.clear_faults()
    yield client
    client.clear_faults()


def changed(host: BedHost, **given: Any) -> Hosts:
    return {host.name: {**declared(host), **given}}


def instance(**given: Any) -> dict[str, Any]:
    return {"instances": {"one": {"model": "tiny", "port": 8000, **given}}}


ONE = "llama_cpp/instances/one"
WRONG = {
    "an unknown role": ({"olama": {}}, "olama: unknown option"),
    "a misspelt role": ({"llama_cp": {}}, "llama_cp: unknown option (did you mean 'llama_cpp'?)"),
    "an unknown option": ({"llama_cpp": instance(prot=1)}, f"{ONE}/prot: unknown option (did you mean 'port'?)"),
    "an unknown tag": (
        {"tags": ["rtx409"]},
        "tags/0: unknown hardware tag 'rtx409' (did you mean 'rtx4090'?)",
    ),
    "a port that is none": (
        {"llama_cpp": instance(port=99999)},
        f"{ONE}/port: input should be less than or equal to 65535, got 99999",
    ),
    "an undeclared model": (
        {"llama_cpp": instance(model="tinny")},
        f"{ONE}/model: 'tinny' is not among models/wanted (did you mean 'tiny'?)",
    ),
    "an unknown mirror": (
        {"mirrors": {"apt": ["tuma"]}},
        "mirrors/apt: 'tuma' is no known mirror (did you mean 'tuna'?)",
    ),
    "an unknown catalogue name": ({"models": {"wanted": {"qwen3-0.6b-q9": {}}}}, "models/wanted/qwen3-0.6b-q9"),
    "no tags": ({"tags": None}, "tags: "),
    "a JSON path into nowhere": ({"json": "/no/such/place/x.json"}, "json: '/no/such/place' is no directory"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_explained_and_nothing_is_touched(
    host: BedHost, given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    before = snapshot(host)
    result = run(tmp_path, changed(host, **given))
    assert result.code != 0
    assert f"{host.name}: {said}" in result.output, result.output
    assert "Traceback" not in result.output
    assert snapshot(host) == before


def test_all_problems_of_all_hosts_come_at_once(host: BedHost, tmp_path: Path) -> None:
    data = declared(host)
    fleet = {
        "first": {**data, "tags": ["rtx409"], "base": {"journal_max_mb": 1}},
        "second": {**data, "llama_cpp": instance(prot=1)},
    }
    output = run(tmp_path, fleet).output
    for said in ("first: tags/0: ", "first: base/journal_max_mb: ", "second: llama_cpp/instances/one/prot: "):
        assert said in output, output


def test_a_tag_that_the_hardware_contradicts_is_refused(host: BedHost, tmp_path: Path) -> None:
    before = snapshot(host)
    result = run(tmp_path, changed(host, tags=["b580"]))
    assert result.code != 0
    assert "b580" in result.output and host.name in result.output
    assert snapshot(host) == before


def test_dead_mirrors_are_named_with_their_reasons(host: BedHost, hub: Client, tmp_path: Path) -> None:
    hub.fault(match=r"mirrors\.(tuna\.tsinghua|ustc)\.edu\.cn/", kind="dead", times=None)
    before = snapshot(host)
    result = run(tmp_path, changed(host, mirrors={"apt": ["tuna", "ustc"]}))
    assert result.code != 0
    assert "mirrors/apt" in result.output and "tuna" in result.output and "ustc" in result.output
    assert snapshot(host) == before


@contextmanager
def apt_lock_held(host: BedHost) -> Iterator[None]:
    """Hold dpkg's frontend lock as apt does, by fcntl(2); perl-base is on every Debian system, python3 is not yet."""
    program = (
        'open F, ">>", "/var/lib/dpkg/lock-frontend"; my $lock = pack "s s x4 q q i x4", F_WRLCK, 0, 0, 0, 0; '
        'fcntl F, F_SETLK, $lock or die; $| = 1; print "held\\n"; sleep 600'
    )
    command = host.ssh_command(f"exec perl -MFcntl -e '{program}'", options=("-tt",))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        try:
            yield
        finally:
            holder.kill()


def test_a_held_apt_lock_is_waited_for_and_then_explained(host: BedHost, tmp_path: Path) -> None:
    before = snapshot(host)
    with apt_lock_held(host):
        result = run(tmp_path, changed(host, base={"lock_timeout_seconds": 2}, mirrors={}))
    assert result.code != 0
    assert "base/lock_timeout_seconds: /var/lib/dpkg/lock-frontend is held by perl (pid " in result.output
    assert snapshot(host) == before


def test_a_full_disk_is_seen_before_the_first_byte(make_host: MakeHost, hub: Client, tmp_path: Path) -> None:
    host = make_host("noble", srv_mib=16)
    big = {**TINY, "repo": artefacts.BIG_REPOSITORY, "revision": commit_of(artefacts.BIG_REPOSITORY),
           "files": ["tiny-random-big-F32.gguf"]}  # fmt: skip
    hub.clear_log()
    result = run(tmp_path, changed(host, models={"wanted": {"tiny": big}}))
    assert result.code != 0
    assert "67306464 to come + 1073741824 to stay free = 1141048288 required" in result.output, result.output
    fetched = [request for request in hub.log() if request.path.endswith("big-F32.gguf") and request.method == "GET"]
    assert fetched == []
    assert host.ssh("find /srv -name '*.gguf*'").stdout == ""
