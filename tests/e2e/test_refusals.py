"""Wrong input and a hostile world: the message helps, and the host is left as it was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import Hosts, Run, difference, run, snapshot
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
def hub(host: BedHost) -> Iterator[Client]:
    """The fixtures' hub, without faults before and after."""
    client = Client(state_dir(), [host.address])
    client.clear_faults()
    yield client
    client.clear_faults()


def changed(host: BedHost, **given: Any) -> Hosts:
    return {host.name: {**declared(host), **given}}


def instance(**given: Any) -> dict[str, Any]:
    return {"instances": {"one": {"model": "tiny", "port": 8000, **given}}}


ONE = "llama_cpp/instances/one"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
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


@pytest.fixture(scope="module")
def refused(host: BedHost, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Run, list[str]]:
    """One run of a fleet in which every host is declared wrongly in another way, all of them at the same address."""
    data = declared(host)
    fleet = {name.replace(" ", "-"): {**data, **given} for name, (given, _) in WRONG.items()}
    before = snapshot(host)
    result = run(tmp_path_factory.mktemp("wrong"), fleet)
    return host.name, result, difference(before, snapshot(host))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option_is_explained(refused: tuple[str, Run, list[str]], name: str) -> None:
    _, result, _ = refused
    assert f"{name.replace(' ', '-')}: {WRONG[name][1]}" in result.output, result.output


def test_all_problems_of_all_hosts_come_at_once_and_nothing_is_touched(refused: tuple[str, Run, list[str]]) -> None:
    _, result, touched = refused
    assert result.code != 0
    assert "Traceback" not in result.output
    assert len([line for line in result.output.splitlines() if line.startswith("a") and ": " in line]) >= len(WRONG) - 1
    assert touched == []


def test_a_tag_that_the_hardware_contradicts_is_refused(host: BedHost, tmp_path: Path) -> None:
    before = snapshot(host)
    result = run(tmp_path, changed(host, tags=["b580"]))
    assert result.code != 0
    assert "b580" in result.output and host.name in result.output
    assert difference(before, snapshot(host)) == []


def test_dead_mirrors_are_named_with_their_reasons(host: BedHost, hub: Client, tmp_path: Path) -> None:
    hub.fault(match=r"mirrors\.(tuna\.tsinghua|ustc)\.edu\.cn/", kind="dead", times=None)
    before = snapshot(host)
    result = run(tmp_path, changed(host, mirrors={"apt": ["tuna", "ustc"]}))
    assert result.code != 0
    for url in ("https://mirrors.tuna.tsinghua.edu.cn/ubuntu", "https://mirrors.ustc.edu.cn/ubuntu"):
        assert url in result.output, result.output
    assert difference(before, snapshot(host)) == []


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
    assert difference(before, snapshot(host)) == []


def test_a_full_disk_is_seen_before_the_first_byte(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("noble", srv_mib=16)
    hub = Client(state_dir(), [host.address])
    big = {**TINY, "repo": artefacts.BIG_REPOSITORY, "revision": commit_of(artefacts.BIG_REPOSITORY),
           "files": ["tiny-random-big-F32.gguf"]}  # fmt: skip
    hub.clear_log()
    result = run(tmp_path, changed(host, models={"wanted": {"tiny": big}}))
    assert result.code != 0
    size = artefacts.tiny_gguf_big().stat().st_size
    assert f"{size} to come + {1 << 30} to stay free = {size + (1 << 30)} required" in result.output, result.output
    # What it is may be read from its header before; its weights stay where they are.
    assert sum(request.bytes_sent for request in hub.log() if "xet-bridge-us" in request.path) <= 4096
    assert host.ssh("find /srv -name '*.gguf*'").stdout == ""
