"""The doctor on a real host; the oracles are the hub's own log of what the host fetched, and the host as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import difference, run, snapshot
from tests.e2e.test_full import declared
from tests.testbed import artefacts
from tests.testbed.hosts import Bed, BedHost
from tests.testbed.hub import Client

MEGABYTE = 1 << 20
BYTES_OF_HUGGINGFACE = "cas-bridge.xethub.hf.co"
WANTED = {
    "big": {"repo": artefacts.BIG_REPOSITORY, "files": ["*-F32.gguf"]},
    "scope": {"repo": artefacts.GGUF_REPOSITORY, "files": ["*-F32.gguf"], "hub": "modelscope"},
}


@pytest.fixture(scope="module")
def host(make_module_host: MakeHost) -> BedHost:
    host = make_module_host("noble")
    apt = "apt-get -qq -o DPkg::Lock::Timeout=60"
    host.ssh(f"{apt} update && DEBIAN_FRONTEND=noninteractive {apt} install -y --no-install-recommends python3")
    return host


@pytest.fixture(scope="module")
def bare(make_module_host: MakeHost) -> BedHost:
    return make_module_host("bookworm")


@pytest.fixture
def hub(bed: Bed, host: BedHost) -> Iterator[Client]:
    """The hub, doing everything right before and after."""
    client = Client(bed.state, [host.address])
    client.clear_faults()
    client.clear_log()
    yield client
    client.clear_faults()


def wishes(host: BedHost, user: str = "root", **given: Any) -> dict[str, Any]:
    data = declared(host, user)
    return {
        **data,
        "mirrors": {"apt": ["tuna", "ustc"], "pypi": ["aliyun"], "probe_timeout_seconds": 3},
        "models": {"wanted": WANTED},
        "llama_cpp": {**data["llama_cpp"], "instances": {}},
        **given,
    }


def told(path: Path, host: BedHost) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(path.read_text())["hosts"][host.name]
    return {(row["for"], row["source"]): row for row in rows}


def test_good_sources_are_told_from_bad_ones_and_the_host_stays_as_it_was(
    host: BedHost, bare: BedHost, hub: Client, tmp_path: Path
) -> None:
    before = snapshot(host)
    hub.fault(r"^mirrors\.tuna\.", "dead", times=None)
    hub.fault(r"^modelscope\.cn/.*FilePath=", "stall", after=200_000, times=None)
    hub.fault(r"^release-assets\.githubusercontent\.com/", "cut", after=200_000, times=None)
    json_to = tmp_path / "sources.json"

    fleet = {host.name: wishes(host, "withpass"), bare.name: wishes(bare)}
    done = run(tmp_path, fleet, "doctor", "--data", f"json={json_to}")
    assert done.code == 1
    assert not done.changed(host.name)
    assert not done.changed(bare.name)
    found = told(json_to, host)
    usable = {names: row["usable"] for names, row in found.items() if row["declared"] and row["for"] != "apt security"}
    release = f"llama_cpp {artefacts.release().path.name}"
    assert usable == {
        ("apt", "tuna"): False, ("apt", "ustc"): True, ("pypi", "aliyun"): True,
        ("model big", "huggingface.co"): True, ("model scope", "modelscope.cn"): False,
        (release, "github.com"): False,
    }  # fmt: skip
    for hub_name in ("huggingface.co", "hf-mirror.com"):
        row = found["model big", hub_name]
        assert row["bytes from"] == BYTES_OF_HUGGINGFACE
        assert row["remarks"] == [f"{hub_name} sends to {BYTES_OF_HUGGINGFACE} for the bytes"]
    assert found["model scope", "modelscope.cn"]["remarks"] == ["modelscope.cn sends 195 KiB and then nothing"]
    assert found["apt", "ustc"]["KiB/s"] > 0
    said = [line for line in done.output.splitlines() if f"{host.name}: " in line]
    assert len(said) == 2, done.output
    assert f"{bare.name}: mirrors/apt: apt cannot be had: tuna: it was not asked: python3 did not run" in done.output
    assert "what to do: install python3" in done.output
    assert "models/modelscope_endpoint: model scope cannot be had: modelscope.cn: " in said[0]
    assert "llama_cpp/download_url: " in said[1]
    assert "closes the connection after" in said[1]
    assert not [line for line in said if "mirrors/apt" in line], "one of two mirrors answers"

    requests = hub.log()
    assert {request.method for request in requests} == {"GET"}
    assert {request.range for request in requests} == {"bytes=0-0", f"bytes=0-{MEGABYTE - 1}"}
    sent: dict[str, int] = {}
    for request in requests:
        sent[request.host + request.path] = sent.get(request.host + request.path, 0) + request.bytes_sent
    assert max(sent.values()) > 200_000
    # Each of the hub's names for the bytes of a model is asked by two hubs.
    assert max(sent.values()) <= 2 * MEGABYTE + 2
    assert difference(before, snapshot(host)) == []
    assert host.ssh("find /tmp /var/tmp -newer /proc/1 -type f").stdout == ""


def test_all_is_well_and_said_in_the_readers_language(host: BedHost, hub: Client, tmp_path: Path) -> None:
    done = run(tmp_path, {host.name: wishes(host, lang="zh")}, "doctor").succeeded()
    assert f"huggingface.co 把下载转到 {BYTES_OF_HUGGINGFACE}" in done.output
    assert not done.changed(host.name)
    assert re.search(r"model big +hf-mirror.com +no +yes ", done.output), "what one could have instead is shown, too"
