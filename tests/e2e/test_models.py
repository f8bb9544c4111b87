"""Models on real hosts, by the hubs' real clients; the oracles are the host's own tools and the hub's log."""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import PYINFRA, ROOT, Run
from tests.testbed import artefacts, state_dir
from tests.testbed.hosts import Bed, BedHost
from tests.testbed.hub import Client
from tests.testbed.hub_http import Request
from tests.testbed.hub_models import commit_of

DEPLOY = """
from pyinfra import host
from roles.models.deploy import deploy_models, deploy_unwanted_models
from roles.models.options import ModelsOptions
from roles.preflight.deploy import deploy_warnings

options = ModelsOptions.load(host.data.models, where=host.name, path="models")
deploy_models(options)
if options.remove_unwanted:
    deploy_unwanted_models(links=["/srv/ollama/blobs"])
deploy_warnings(lang="en")
"""
BIG = artefacts.BIG_REPOSITORY
BIG_FILE = "tiny-random-big-F32.gguf"
LOST_AT_MOST = 1 << 20
"""Bytes that a cut may cost: the clients write in pieces."""
SLOW = 10_000_000
"""Bytes a second with which a download of 64 MB takes long enough to do something meanwhile."""

BYTES_FROM = {
    "huggingface": "cas-bridge.xethub.hf.co/xet-bridge-us/metal2model-fixtures/tiny-random-big",
    "modelscope": r"modelscope.cn/api/v1/models/metal2model-fixtures/tiny-random-big-GGUF/repo\?",
    "url": "models.example.org/tiny-big",
}
"""Kind of source -> where the hub's log and faults have its downloads."""

Try = Callable[..., Run]


def big() -> Path:
    """The file of 64 MB as the hub serves it; its size changes with what makes it."""
    return state_dir() / "models" / BIG / BIG_FILE


def big_size() -> int:
    return big().stat().st_size


def command(folder: Path, host: BedHost, models: Mapping[str, Any], user: str = "root") -> list[str]:
    (folder / "deploy.py").write_text(DEPLOY)
    data = host.pyinfra_data(user) | {"models": {"keep_free_mib": 4, "retries": 2, **models}}
    (folder / "inventory.py").write_text(f"fleet = {[(host.name, data)]!r}\n")
    return [str(PYINFRA), "-y", "-vvv", str(folder / "inventory.py"), str(folder / "deploy.py")]


@pytest.fixture(scope="module")
def host(make_module_host: MakeHost) -> BedHost:
    """A bare host that speaks Chinese, with a small disk for models and what the base role would install."""
    host = make_module_host("bookworm", srv_mib=240, locale="zh_CN.UTF-8")
    apt = "apt-get -qq -o DPkg::Lock::Timeout=60"
    host.ssh(
        f"{apt} update && DEBIAN_FRONTEND=noninteractive {apt} install -y --no-install-recommends "
        "python3 python3-venv ca-certificates",
        timeout=120,
    )
    return host


@pytest.fixture
def hub(bed: Bed, host: BedHost) -> Iterator[Client]:
    """The hub, doing everything right before and after; and a host without models."""
    host.ssh("rm -rf /srv/models /var/lib/metal2model/models")
    client = Client(bed.state, [host.address])
    client.clear_faults()
    yield client
    client.clear_faults()


@pytest.fixture
def deploy(tmp_path: Path, host: BedHost) -> Try:
    def once(models: Mapping[str, Any], user: str = "root") -> Run:
        done = subprocess.run(
            command(tmp_path, host, models, user), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=200, check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout)

    return once


def start(folder: Path, host: BedHost, models: Mapping[str, Any]) -> subprocess.Popen[str]:
    """Begin a run and leave it at work."""
    return subprocess.Popen(
        command(folder, host, models), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def asked(hub: Client, host: BedHost, since: float, path: str) -> list[Request]:
    """The downloads that the host asked the hub for."""
    return [
        r for r in hub.log() if r.client == host.address and r.time >= since and path in r.path and r.method == "GET"
    ]


def downloads(hub: Client, host: BedHost, since: float) -> list[Request]:
    """The requests of the 64 MB file itself, as long as it was."""
    return [request for request in asked(hub, host, since, "tiny") if request.bytes_sent > 10_000]


def digest_on(host: BedHost, path: str) -> str:
    return host.ssh(f"sha256sum '{path}'").stdout.split()[0]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wanted(source: str) -> tuple[dict[str, Any], str]:
    """A model of 64 MB from each kind of source, and where it shall stand."""
    if source == "url":
        sha256 = digest_of(state_dir() / "plain" / "tiny-big.gguf")
        model: dict[str, Any] = {"url": "https://models.example.org/tiny-big.gguf", "sha256": sha256}
        return {"wanted": {"big": model}}, "/srv/models/models.example.org/big/tiny-big.gguf"
    return {"wanted": {"big": {"repo": BIG, "hub": source, "files": [BIG_FILE]}}}, f"/srv/models/{BIG}/{BIG_FILE}"


def test_models_of_every_source_stand_verified_and_a_second_run_costs_one_command(
    deploy: Try, hub: Client, host: BedHost
) -> None:
    host.ssh("mkdir -p /srv/own && cp /bin/true /srv/own/x && printf GGUF >/srv/own/mine.gguf")
    web = digest_of(state_dir() / "plain" / "tiny.gguf")
    models = {
        "wanted": {
            "tiny": {"repo": artefacts.GGUF_REPOSITORY, "files": ["tiny-random-F32.gguf"]},
            "tensors": {
                "repo": artefacts.SAFETENSORS_REPOSITORY,
                "revision": commit_of(artefacts.SAFETENSORS_REPOSITORY),
            },
            "quant": {"repo": artefacts.GGUF_REPOSITORY, "files": ["*Q8*"]},
            "scope": {"repo": BIG, "hub": "modelscope"},
            "web": {
                "url": "https://models.example.org/tiny.gguf",
                "sha256": web,
            },
            "mine": {"path": "/srv/own/mine.gguf"},
        }
    }
    first = deploy(models, "withpass").succeeded()
    assert first.changed(host.name) == ["Models | Have the models"]

    base = state_dir() / "models"
    for repository in (artefacts.GGUF_REPOSITORY, artefacts.SAFETENSORS_REPOSITORY, BIG):
        for file in (base / repository).glob("[!.]*"):
            path = f"/srv/models/{repository}/{file.name}"
            if repository == artefacts.GGUF_REPOSITORY and file.suffix != ".gguf":
                assert host.ssh(f"test -e {path}", check=False).returncode == 1, "was not asked for"
            else:
                assert digest_on(host, path) == digest_of(file)
    assert digest_on(host, "/srv/models/models.example.org/web/tiny.gguf") == web
    kinds = host.ssh("find /srv/models/* -printf '%y %U:%G %m\\n' | sort -u").stdout.splitlines()
    assert kinds == ["d 0:0 755", "f 0:0 444"]
    assert host.ssh("ls -A /srv/models").stdout.split() == ["metal2model-fixtures", "models.example.org"]

    since = time.time()
    second = deploy(models, "withpass").succeeded()
    assert second.changed(host.name) == []
    assert second.output.count(">>>") == 1, second.output
    assert asked(hub, host, since, "/") == []


@pytest.mark.parametrize("source", BYTES_FROM)
def test_a_download_that_is_cut_and_then_killed_goes_on_where_it_was(
    source: str, deploy: Try, hub: Client, host: BedHost, tmp_path: Path
) -> None:
    models, path = wanted(source)
    began = time.time()
    hub.fault(BYTES_FROM[source], "cut", after=20_000_000)
    hub.fault(BYTES_FROM[source], "stall", after=10_000_000)
    with start(tmp_path, host, models) as first:
        wait_for(lambda: [request.bytes_sent for request in downloads(hub, host, began)] == [20_000_000, 10_000_000])
        assert settled_size(host) >= 30_000_000 - 2 * LOST_AT_MOST
        host.ssh("kill -KILL $(pgrep -f '^[^ ]*python[0-9.]* -I -c .* /opt/metal2model/models ')")
        first.communicate(timeout=60)
    assert first.returncode == 1
    assert host.ssh(f"test -e {path}", check=False).returncode == 1, "a partial file has the final name"

    deploy(models).succeeded()
    assert digest_on(host, path) == digest_of(big())
    sent = sum(request.bytes_sent for request in downloads(hub, host, began))
    assert big_size() <= sent <= big_size() + 2 * LOST_AT_MOST, "bytes that were there already came again"
    assert deploy(models).succeeded().changed(host.name) == []


@pytest.mark.parametrize("source", BYTES_FROM)
def test_a_wrong_file_never_gets_its_name(source: str, deploy: Try, hub: Client, host: BedHost) -> None:
    models, path = wanted(source)
    hub.fault(BYTES_FROM[source], "corrupt", after=5_000_000)
    refused = deploy(models)
    assert refused.code != 0
    assert "models/wanted/big: sha256: " in refused.output
    assert "it was deleted" in refused.output
    assert host.ssh("find /srv/models -type f").stdout == ""
    deploy(models).succeeded()
    assert digest_on(host, path) == digest_of(big())


def test_a_listing_that_comes_in_pages_is_read_to_its_end(deploy: Try, hub: Client, host: BedHost) -> None:
    repository = artefacts.SAFETENSORS_REPOSITORY
    since = time.time()
    hub.tree_page(2)
    try:
        deploy({"wanted": {"tensors": {"repo": repository}}}).succeeded()
    finally:
        hub.tree_page(1000)
    pages = [request for request in asked(hub, host, since, "/tree/") if request.status == 200]
    names = {path.name for path in (state_dir() / "models" / repository).glob("[!.]*")}
    assert len(pages) == (len(names) + 1) // 2
    assert set(host.ssh(f"ls /srv/models/{repository}").stdout.split()) == names


@pytest.mark.parametrize(
    ("first", "becomes"),
    [("huggingface", "dead"), ("modelscope", "dead"), ("modelscope", "slow"), ("huggingface", "slow")],
)
def test_what_one_hub_breaks_off_or_makes_slow_goes_on_from_the_other(
    first: str, becomes: str, deploy: Try, hub: Client, host: BedHost
) -> None:
    other = {"huggingface": "modelscope", "modelscope": "huggingface"}[first]
    models = {"hub": [first, other], "retries": 0, "wanted": {"big": {"repo": BIG, "files": [BIG_FILE]}}}
    # The first byte and the first megabyte, by which hubs are judged, come as they should; then it is about to fail.
    hub.fault(BYTES_FROM[first], "slow", times=2, rate=1 << 30)
    if becomes == "dead":
        hub.fault(BYTES_FROM[first], "cut", after=40_000_000)
        hub.fault(BYTES_FROM[first], "cut", times=None)
    else:
        hub.fault(BYTES_FROM[first], "slow", times=None, rate=200 << 10)
    since = time.time()
    done = deploy(models).succeeded()
    host_of_other = {"huggingface": "https://huggingface.co", "modelscope": "https://modelscope.cn"}[other]
    assert f"Now {host_of_other} is asked." in done.output
    assert (f"{host_of_other} sends more" in done.output) == (becomes == "slow")
    assert digest_on(host, f"/srv/models/{BIG}/{BIG_FILE}") == digest_of(big())
    sent = [request for request in asked(hub, host, since, "tiny") if request.bytes_sent > 2_000_000]
    assert [bool(re.search(BYTES_FROM[other], f"{request.host}{request.path}")) for request in sent] == [False, True]
    assert sum(request.bytes_sent for request in sent) <= big_size() + LOST_AT_MOST, "bytes came twice"
    assert deploy(models).succeeded().changed(host.name) == []


def test_a_hub_that_lists_and_sends_nothing_is_asked_after_the_other(deploy: Try, hub: Client, host: BedHost) -> None:
    models = {"hub": ["huggingface", "modelscope"], "wanted": {"big": {"repo": BIG, "files": [BIG_FILE]}}}
    hub.fault(BYTES_FROM["huggingface"], "dead", times=None)
    done = deploy(models).succeeded()
    assert "https://huggingface.co: cannot be used from here: cut (0 KiB); asked after the others" in done.output
    assert digest_on(host, f"/srv/models/{BIG}/{BIG_FILE}") == digest_of(big())


def test_a_hub_that_is_silent_when_it_is_asked_what_it_has_is_followed_by_the_other(
    deploy: Try, hub: Client, host: BedHost
) -> None:
    mirror = "https://hf-mirror.com"
    models = {
        "huggingface_endpoint": [mirror, "https://huggingface.co"],
        "retries": 0,
        "wanted": {"big": {"repo": BIG, "files": [BIG_FILE]}},
    }
    hub.fault("hf-mirror.com/api/models", "stall", times=None)
    done = deploy(models).succeeded()
    assert f"models/wanted/big: {mirror}: " in done.output
    assert "Now https://huggingface.co is asked." in done.output
    assert digest_on(host, f"/srv/models/{BIG}/{BIG_FILE}") == digest_of(big())


def test_a_server_that_is_asked_too_often_is_left_alone_as_long_as_it_wants(
    deploy: Try, hub: Client, host: BedHost
) -> None:
    models, path = wanted("huggingface")
    since = time.time()
    hub.fault("huggingface.co/metal2model-fixtures/tiny-random-big", "status", status=429, retry_after=4)
    deploy(models).succeeded()
    assert digest_on(host, path) == digest_of(big())
    refused, again = (request.time for request in asked_twice(hub, host, since))
    assert again - refused >= 4


def asked_twice(hub: Client, host: BedHost, since: float) -> list[Request]:
    """The first two requests for the file, whatever became of them."""
    found = [r for r in hub.log() if r.client == host.address and r.time >= since and f"/{BIG_FILE}" in r.path]
    return found[:2]


def test_a_file_that_changed_is_looked_at_and_only_a_wrong_one_comes_again(
    deploy: Try, hub: Client, host: BedHost
) -> None:
    models = {"wanted": {"tiny": {"repo": artefacts.GGUF_REPOSITORY, "files": ["tiny-random-F32.gguf"]}}}
    path = f"/srv/models/{artefacts.GGUF_REPOSITORY}/tiny-random-F32.gguf"
    right = digest_of(state_dir() / "models" / artefacts.GGUF_REPOSITORY / "tiny-random-F32.gguf")
    deploy(models).succeeded()

    since = time.time()
    host.ssh(f"touch {path}; chown 65534 {path}; chmod 0666 {path}")
    deploy(models).succeeded()
    assert asked(hub, host, since, "tiny") == []
    assert host.ssh(f"stat -c '%u %a' {path}").stdout == "0 444\n"

    # Same size, same modification time: only the content and the change time differ.
    host.ssh(f"cp -p {path} /tmp/was; printf X | dd of={path} seek=9999 bs=1 conv=notrunc; touch -r /tmp/was {path}")
    assert digest_on(host, path) != right
    assert deploy(models).succeeded().changed(host.name) == ["Models | Have the models"]
    assert digest_on(host, path) == right

    host.ssh(f"rm {path}")
    deploy(models).succeeded()
    assert digest_on(host, path) == right
    assert deploy(models).succeeded().changed(host.name) == []


def test_a_program_that_a_power_cut_damaged_is_mended(deploy: Try, hub: Client, host: BedHost) -> None:
    models = {"wanted": {"tiny": {"repo": artefacts.GGUF_REPOSITORY, "files": ["tiny-random-F32.gguf"]}}}
    deploy(models).succeeded()
    compiled = "/opt/metal2model/models/store/__pycache__/known.*.pyc"
    for damage in (f"truncate -s 500 {compiled}", "truncate -s 500 /opt/metal2model/models/store/known.py"):
        host.ssh(damage)
        assert deploy(models).succeeded().changed(host.name) == ["Models | Have the models"]
        assert deploy(models).succeeded().changed(host.name) == []


def test_what_does_not_fit_is_refused_before_the_first_byte(deploy: Try, hub: Client, host: BedHost) -> None:
    models, path = wanted("huggingface")
    free = int(host.ssh("df --output=avail -B1 /srv | tail -1").stdout)
    since = time.time()
    refused = deploy({**models, "keep_free_mib": 200})
    assert refused.code != 0
    required = big_size() + (200 << 20)
    assert f"{big_size()} to come + {200 << 20} to stay free = {required} required, " in refused.output
    found = re.search(r"required, (\d+) free: (\d+) bytes short, so nothing was downloaded", refused.output)
    assert found
    assert abs(int(found[1]) - free) < 1 << 20, "df sees another free space"
    assert int(found[2]) == required - int(found[1])
    assert asked(hub, host, since, "xet-bridge-us") == []
    assert host.ssh(f"test -e {path}", check=False).returncode == 1


@pytest.mark.parametrize("source", BYTES_FROM)
def test_a_disk_that_fills_up_meanwhile_is_named_and_the_download_goes_on_when_there_is_room(
    source: str, deploy: Try, hub: Client, host: BedHost, tmp_path: Path
) -> None:
    models, path = wanted(source)
    hub.fault(BYTES_FROM[source], "slow", after=1_000_000, rate=SLOW)
    try:
        with start(tmp_path, host, models) as first:
            wait_for(lambda: partial_size(host) > 0)
            # fallocate takes all that is free at once; dd the rest that it may not get, and what a race leaves.
            host.ssh(
                "fallocate -l $(df --output=avail -B1 /srv | tail -1) /srv/filler;"
                " dd if=/dev/zero of=/srv/rest bs=4k 2>&1",
                check=False,
            )
            output, _ = first.communicate(timeout=60)
        assert first.returncode == 1, output
        assert "models/wanted/big: the disk of /srv/models is full. Make room; what has arrived is kept." in output
        assert host.ssh(f"test -e {path}", check=False).returncode == 1, "a partial file has the final name"
        kept = partial_size(host)
        assert 0 < kept < big_size()
    finally:
        host.ssh("rm -f /srv/filler /srv/rest")

    since = time.time()
    deploy(models).succeeded()
    assert digest_on(host, path) == digest_of(big())
    (rest,) = downloads(hub, host, since)
    assert (rest.status, rest.bytes_sent) == (206, big_size() - kept), "bytes that were there already came again"


def test_what_cannot_be_had_says_why_and_the_rest_comes(deploy: Try, hub: Client, host: BedHost) -> None:
    tiny = artefacts.GGUF_REPOSITORY
    hub.fault("huggingface.co/api/models/metal2model-fixtures/tiny-random-big", "dead")
    refused = deploy(
        {
            "retries": 0,
            "wanted": {
                "absent": {"repo": "metal2model-fixtures/no-such"},
                "typo": {"repo": tiny, "files": ["tiny-random-F23.gguf"]},
                "scope": {"repo": "metal2model-fixtures/nor-this", "hub": "modelscope"},
                "dead": {"repo": BIG},
                "web": {"url": "https://models.example.org/none.gguf", "sha256": "0" * 64},
                "mine": {"path": "/etc/hostname"},
                "good": {"repo": tiny, "files": ["tiny-random-Q8_0.gguf"]},
            },
        }
    )
    assert refused.code != 0
    for said in (
        "models/wanted/absent: https://huggingface.co has no repository metal2model-fixtures/no-such",
        "none is 'tiny-random-F23.gguf' (did you mean 'tiny-random-F32.gguf'",
        "models/wanted/scope: https://modelscope.cn has no repository metal2model-fixtures/nor-this",
        "models/wanted/dead: https://huggingface.co: ",
        "models/wanted/web: https://models.example.org/none.gguf answers HTTP 404",
        "models/wanted/mine: path: /etc/hostname is no GGUF file",
    ):
        assert said in refused.output
    path = f"/srv/models/{tiny}/tiny-random-Q8_0.gguf"
    assert digest_on(host, path) == digest_of(state_dir() / "models" / tiny / "tiny-random-Q8_0.gguf")


def test_two_runs_at_once_download_once(deploy: Try, hub: Client, host: BedHost, tmp_path: Path) -> None:
    models, path = wanted("huggingface")
    began = time.time()
    other = tmp_path / "other"
    other.mkdir()
    hub.fault(BYTES_FROM["huggingface"], "slow", after=1_000_000, rate=SLOW)
    with start(other, host, models) as first:
        wait_for(lambda: partial_size(host) > 0)
        second = deploy(models).succeeded()
        output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    waits = "models: another run works on the models of this host; waiting for it"
    assert waits in second.output, "the runs did not overlap"
    assert waits not in output
    assert len(asked(hub, host, began, "xet-bridge-us")) == 1
    assert digest_on(host, path) == digest_of(big())


def test_what_is_not_wanted_any_more_is_listed_and_goes_on_request_unless_somebody_uses_it(
    deploy: Try, hub: Client, host: BedHost
) -> None:
    tiny = artefacts.GGUF_REPOSITORY
    path = f"/srv/models/{tiny}/tiny-random-F32.gguf"
    kept = {"kept": {"repo": tiny, "files": ["tiny-random-Q8_0.gguf"]}}
    deploy({"wanted": {**kept, "old": {"repo": tiny, "files": ["tiny-random-F32.gguf"]}}}).succeeded()
    host.ssh(f"cp {path} /srv/models/own.gguf")

    told = deploy({"wanted": kept}).succeeded()
    assert re.search(
        r"models/remove_unwanted: models that are not wanted any more take space: old \(\d+ MB\)", told.output
    )
    host.ssh(f"test -e {path}")

    host.ssh(f"systemd-run --unit=holder --property=StandardInput=file:{path} sleep infinity")
    held = deploy({"wanted": kept, "remove_unwanted": True}).succeeded()
    assert re.search(r"old \(\d+ MB\) is not wanted any more and stays, as it is in use by sleep \(\d+\)", held.output)
    host.ssh(f"test -e {path}; systemctl stop holder")

    gone = deploy({"wanted": kept, "remove_unwanted": True}).succeeded()
    assert gone.changed(host.name) == ["Unwanted models | Remove what nobody wants"]
    left = host.ssh("find /srv/models -type f").stdout.split()
    assert sorted(left) == [f"/srv/models/{tiny}/tiny-random-Q8_0.gguf", "/srv/models/own.gguf"]
    again = deploy({"wanted": kept, "remove_unwanted": True}).succeeded()
    assert again.changed(host.name) == []
    assert "not wanted any more" not in again.output

    for _ in range(2):
        told = deploy({}).succeeded()
        assert "not wanted any more take space: kept (" in told.output, "no model is wanted at all"
    assert told.changed(host.name) == []
    deploy({"remove_unwanted": True}).succeeded()
    assert host.ssh("find /srv/models -type f").stdout == "/srv/models/own.gguf\n"


def partial_size(host: BedHost) -> int:
    """Bytes in the partial files of the host."""
    sizes = host.ssh("find /srv/models/.partial -type f -size +64k -printf '%s\n' 2>/dev/null || true").stdout.split()
    return sum(map(int, sizes))


def settled_size(host: BedHost) -> int:
    """Bytes in the partial files of the host, when they grow no more."""
    sizes = [-1]

    def at_rest() -> bool:
        sizes.append(partial_size(host))
        return sizes[-1] == sizes[-2]

    wait_for(at_rest)
    return sizes[-1]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"did not come to pass in {seconds} s"
        time.sleep(0.3)
