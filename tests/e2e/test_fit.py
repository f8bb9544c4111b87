"""A model that nobody knew is looked into before it is fetched: what does not fit is refused, what fits is served."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import ask, key_of, restarts, run
from tests.testbed import artefacts
from tests.testbed.hosts import Bed, BedHost
from tests.testbed.hub import Client

BIG = artefacts.BIG_REPOSITORY
BIG_FILE = "tiny-random-big-F32.gguf"
TOO_LONG = 100_000_000
"""Tokens whose KV cache exceeds the memory of any machine that these tests run on: 668 GiB."""


def declared(host: BedHost, context_length: int, hub: str = "huggingface") -> dict[str, Any]:
    """One server of a repository that files/models.yaml does not have."""
    release = artefacts.release()
    return {
        **host.pyinfra_data("root"),
        "tags": ["cpu"],
        "mirrors": {"pypi": ["tuna"]},
        "models": {"hub": hub, "wanted": {"big": {"repo": BIG, "files": [BIG_FILE]}}},
        "llama_cpp": {
            "version": release.tag,
            "sha256": release.sha256,
            "instances": {
                "big": {"model": "big", "port": 8000, "context_length": context_length, "threads": 1},
            },
        },
    }


@pytest.fixture(scope="module")
def host(make_module_host: MakeHost) -> BedHost:
    return make_module_host("noble")


def sent(bed: Bed, host: BedHost, since: float) -> int:
    """Bytes of the model's file that the hub sent to this host, by the hub's own log."""
    return sum(
        request.bytes_sent
        for request in Client(bed.state).log()
        if request.client == host.address and request.time >= since
        and ("xet-bridge-us" in request.path or f"FilePath={BIG_FILE}" in request.path)
    )  # fmt: skip


@pytest.mark.parametrize("hub", ["modelscope", "huggingface"])
def test_a_model_that_does_not_fit_is_refused_before_its_weights_leave_the_hub(
    hub: str, bed: Bed, host: BedHost, tmp_path: Path
) -> None:
    since = time.time()
    refused = run(tmp_path, {host.name: declared(host, TOO_LONG, hub)})
    assert refused.code != 0
    # 7 layers, 4 heads of 64 elements, keys and values, 2 bytes each: 7 KiB for a token.
    size = (artefacts.tiny_gguf_big().stat().st_size) / (1 << 30)
    said = " ".join(refused.output.split())
    assert re.search(
        rf"llama_cpp/instances/big: needs \d+\.\d GiB of memory \(big: {size:.1f} GiB weights \+ "
        r"667\.6 GiB KV cache \+ 1\.0 GiB overhead, for 100000000 tokens of 7\.0 KiB\), of which \d+\.\d GiB must stay",
        said,
    ), refused.output
    (fits,) = re.findall(r"what would fit here: context_length: (\d+)", said)
    assert 1024 <= int(fits) < TOO_LONG
    assert 0 < sent(bed, host, since) <= 4096, "the header, and no more"
    assert host.ssh("find /srv/models -type f | wc -l").stdout.strip() == "0"


def test_with_a_context_that_fits_it_is_fetched_and_answers(bed: Bed, host: BedHost, tmp_path: Path) -> None:
    since = time.time()
    run(tmp_path, {host.name: declared(host, 512)}).succeeded()
    assert ask(host, 8000, key=key_of(host, "big"))[0] == 200
    size = artefacts.tiny_gguf_big().stat().st_size
    assert size <= sent(bed, host, since) <= size + 4096
    assert run(tmp_path, {host.name: declared(host, 512)}).succeeded().changed(host.name) == []


def test_a_context_that_does_not_fit_is_refused_also_later_and_the_server_goes_on(
    host: BedHost, tmp_path: Path
) -> None:
    """Nothing is to be fetched any more, and what was read of the file is known."""
    started = restarts(host, "llama-server@big")
    refused = run(tmp_path, {host.name: declared(host, TOO_LONG)})
    assert refused.code != 0
    assert "must stay in memory all the time" in " ".join(refused.output.split())
    assert refused.changed(host.name) == []
    assert ask(host, 8000, key=key_of(host, "big"))[0] == 200
    assert restarts(host, "llama-server@big") == started
