"""The hub of the test bed, asked by plain HTTP clients on this machine: no bed, no root."""

import asyncio
import hashlib
import http.client
import json
import lzma
import re
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import gguf
import pytest
from aiohttp import web

from tests.testbed import artefacts, hub, images, keys
from tests.testbed.hub_apt import Apt, Upstream, find_upstream
from tests.testbed.hub_cache import Cache
from tests.testbed.hub_http import Answer, Asked, Content, text_answer
from tests.testbed.hub_models import commit_of
from tests.testbed.hub_pypi import JSON_TYPE, find_index

TINY = "metal2model-fixtures/tiny-random-GGUF"
BIG = "metal2model-fixtures/tiny-random-big-GGUF"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)


@dataclass(frozen=True)
class Bed:
    """A running hub, and a client that finds every public name there."""

    state: Path
    http_port: int
    tls_port: int
    admin: hub.Client

    def connect(self, host: str, scheme: str = "https") -> http.client.HTTPConnection:
        port = self.tls_port if scheme == "https" else self.http_port
        raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.sock = raw
        if scheme == "https":
            trust = ssl.create_default_context(cafile=str(keys.ca_certificate(self.state)))
            connection.sock = trust.wrap_socket(raw, server_hostname=host)
        return connection

    def ask(self, url: str, method: str = "GET", **headers: str) -> Reply:
        parts = urlsplit(url)
        connection = self.connect(parts.netloc, parts.scheme)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, headers={name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    state = tmp_path_factory.mktemp("bed")
    bed = Bed(state, free_port(), free_port(), hub.Client(state))
    hub.ensure_running(state, "127.0.0.1", bed.http_port, bed.tls_port)
    yield bed
    hub.stop(state)


@pytest.fixture
def bed(running: Bed) -> Iterator[Bed]:
    running.admin.clear_log()
    yield running
    running.admin.clear_faults()


# --- The daemon ------------------------------------------------------------------------------------------------------


def test_a_hub_that_answers_is_left_alone(bed: Bed) -> None:
    before = bed.admin.status()
    hub.ensure_running(bed.state, "127.0.0.1", bed.http_port, bed.tls_port)
    assert bed.admin.status() == before


def test_many_starts_make_one_hub_and_stop_ends_it(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: hub.ensure_running(tmp_path, "127.0.0.1", *ports), range(4)))
    client = hub.Client(tmp_path)
    assert client.status() is not None
    hub.stop(tmp_path)
    assert client.status() is None
    assert not hub.run_dir(tmp_path).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))
    hub.stop(tmp_path)


def test_other_ports_replace_the_hub(tmp_path: Path) -> None:
    hub.ensure_running(tmp_path, "127.0.0.1", free_port(), free_port())
    moved = free_port(), free_port()
    hub.ensure_running(tmp_path, "127.0.0.1", *moved)
    status = hub.Client(tmp_path).status()
    assert status is not None
    assert status["address"] == ["127.0.0.1", *moved]
    hub.stop(tmp_path)


def test_a_hub_that_cannot_start_says_why(bed: Bed, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in use"):
        hub.ensure_running(tmp_path, "127.0.0.1", bed.http_port, free_port())
    hub.stop(tmp_path)


def test_hosts_cannot_administer_it(bed: Bed) -> None:
    for path in ("/log", "/faults", "/status"):
        assert bed.ask(f"http://127.0.0.1{path}").status == 421
        assert bed.ask(f"https://models.example.org{path}").status == 404


# --- Names and keys --------------------------------------------------------------------------------------------------


def test_every_name_has_a_certificate_of_the_bed(bed: Bed) -> None:
    names = hub.served_names()
    assert {"huggingface.co", "www.modelscope.cn", "github.com", "archive.ubuntu.com"} <= set(names)
    assert find_index().public_host in names
    for name in names:
        bed.connect(name).close()


def test_no_other_name_has_one(bed: Bed) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        bed.connect("other.example.org")
    assert bed.ask("http://other.example.org/").status == 421


def test_keys_are_made_once(tmp_path: Path) -> None:
    def everything() -> list[bytes]:
        paths = keys.ca_certificate(tmp_path), keys.archive_keyring(tmp_path), keys.server_certificate(tmp_path, ["a"])
        return [path.read_bytes() for path in paths]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: everything(), range(8)))
    assert made == [made[0]] * 8
    assert keys.server_certificate(tmp_path, ["a", "b"]).read_bytes() != made[0][2]


@pytest.mark.parametrize("text", ["A: b\n", "- dashed\nfrom: x  \n\n C: d\n", "é\n" * 300])
def test_gpgv_accepts_our_signatures_and_no_others(tmp_path: Path, text: str) -> None:
    ring, key = keys.archive_keyring(tmp_path), keys.archive_key(tmp_path)
    plain, signed, signature = (tmp_path / name for name in ("Release", "InRelease", "Release.gpg"))
    plain.write_text(text)
    signed.write_bytes(keys.clear_sign(key, text, int(time.time())))
    signature.write_bytes(keys.detached_signature(key, text.encode(), int(time.time())))
    gpgv = ["gpgv", "--quiet", "--keyring", str(ring)]
    subprocess.run([*gpgv, str(signed)], check=True, capture_output=True)
    subprocess.run([*gpgv, str(signature), str(plain)], check=True, capture_output=True)
    plain.write_text(text + "more\n")
    assert subprocess.run([*gpgv, str(signature), str(plain)], check=False, capture_output=True).returncode != 0


# --- Ranges and validators -------------------------------------------------------------------------------------------

PLAIN = "https://models.example.org/tiny.gguf"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-99999999", 5, None)],
)
def test_a_range_is_that_part(bed: Bed, asked: str, start: int, stop: int | None) -> None:
    whole = (bed.state / "plain/tiny.gguf").read_bytes()
    reply = bed.ask(PLAIN, Range=asked)
    assert (reply.status, reply.body) == (206, whole[start:stop])
    first = len(whole) + start if start < 0 else start
    assert reply.headers["Content-Range"] == f"bytes {first}-{first + len(reply.body) - 1}/{len(whole)}"


def test_a_range_past_the_end_is_refused(bed: Bed) -> None:
    size = (bed.state / "plain/tiny.gguf").stat().st_size
    reply = bed.ask(PLAIN, Range=f"bytes={size}-")
    assert (reply.status, reply.headers["Content-Range"], reply.body) == (416, f"bytes */{size}", b"")


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=x-", "items=0-1", "bytes=-"])
def test_a_range_that_cannot_be_served_is_the_whole(bed: Bed, asked: str) -> None:
    assert bed.ask(PLAIN, Range=asked).status == 200


def test_validators(bed: Bed) -> None:
    head = bed.ask(PLAIN, "HEAD")
    etag, modified = head.headers["ETag"], head.headers["Last-Modified"]
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) == (bed.state / "plain/tiny.gguf").stat().st_size
    assert bed.ask(PLAIN, Range="bytes=0-0", If_Range=etag).status == 206
    assert bed.ask(PLAIN, Range="bytes=0-0", If_Range='"other"').status == 200
    assert bed.ask(PLAIN, Range="bytes=0-0", If_Range=modified).status == 206
    assert bed.ask(PLAIN, If_None_Match=etag).status == 304
    assert bed.ask(PLAIN, If_None_Match='"other"').status == 200
    assert bed.ask(PLAIN, If_Modified_Since=modified).status == 304
    assert bed.ask(PLAIN, If_Modified_Since="Thu, 01 Jan 2015 00:00:00 GMT").status == 200


@pytest.mark.parametrize("path", ["/nothing", "/../keys/ca.key", "/%2e%2e/keys/ca.key", "/"])
def test_nothing_else_of_the_state_is_served(bed: Bed, path: str) -> None:
    assert bed.ask(f"https://models.example.org{path}").status == 404


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def test_hugging_face_describes_a_repository(bed: Bed) -> None:
    info = bed.ask(f"https://huggingface.co/api/models/{TINY}/revision/main").json()
    assert isinstance(info, dict)
    assert info["sha"] == commit_of(TINY)
    assert [file["rfilename"] for file in info["siblings"]] == [
        "README.md", "tiny-random-F32.gguf", "tiny-random-Q8_0.gguf",
    ]  # fmt: skip
    tree = bed.ask(f"https://hf-mirror.com/api/models/{TINY}/tree/{info['sha']}?recursive=true").json()
    assert isinstance(tree, list)
    content = (bed.state / "models" / TINY / "tiny-random-F32.gguf").read_bytes()
    assert tree[1]["lfs"] == {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    assert "lfs" not in tree[0]


def test_a_long_tree_comes_in_pages(bed: Bed) -> None:
    bed.admin.tree_page(2)
    url: str | None = "https://huggingface.co/api/models/metal2model-fixtures/tiny-random-safetensors/tree/main"
    assert url
    url += "?recursive=true"
    seen, pages = [], 0
    while url:
        reply = bed.ask(url)
        entries = reply.json()
        assert isinstance(entries, list)
        seen += [entry["path"] for entry in entries]
        pages += 1
        link = re.fullmatch(r'<(.*)>; rel="next"', reply.headers.get("Link", ""))
        url = link[1] if link else None
    bed.admin.tree_page(1000)
    assert pages == 3
    assert seen == sorted(
        ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json"]
    )  # fmt: skip


def test_folders_of_a_tree(bed: Bed) -> None:
    nested = bed.state / "models/someone/nested/a/b"
    nested.mkdir(parents=True, exist_ok=True)
    (nested / "c.txt").write_text("c")
    base = "https://huggingface.co/api/models/someone/nested/tree/main"

    def listed(url: str) -> list[tuple[str, str]]:
        entries = bed.ask(url).json()
        assert isinstance(entries, list)
        return [(entry["type"], entry["path"]) for entry in entries]

    assert listed(base) == [("directory", "a")]
    assert listed(f"{base}/a?recursive=false") == [("directory", "a/b")]
    assert listed(f"{base}?recursive=true") == [("directory", "a"), ("directory", "a/b"), ("file", "a/b/c.txt")]


def test_a_small_file_comes_at_once_named_by_git(bed: Bed) -> None:
    reply = bed.ask(f"https://huggingface.co/{TINY}/resolve/main/README.md")
    assert reply.status == 200
    git = hashlib.sha1(b"blob %d\0" % len(reply.body) + reply.body, usedforsecurity=False).hexdigest()
    assert reply.headers["ETag"] == f'"{git}"'
    assert reply.headers["X-Repo-Commit"] == commit_of(TINY)


def test_a_large_file_comes_from_elsewhere_named_by_its_sha256(bed: Bed) -> None:
    head = bed.ask(f"https://huggingface.co/{TINY}/resolve/main/tiny-random-F32.gguf", "HEAD")
    assert head.status == 302
    target = head.headers["Location"]
    assert urlsplit(target).netloc not in ("huggingface.co", "hf-mirror.com")
    reply = bed.ask(target)
    digest = hashlib.sha256(reply.body).hexdigest()
    assert head.headers["X-Linked-ETag"] == f'"{digest}"' == reply.headers["ETag"]
    assert head.headers["X-Linked-Size"] == str(len(reply.body))
    assert head.headers["X-Repo-Commit"] == commit_of(TINY)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/models/metal2model-fixtures/none", 401, "RepoNotFound"),
        (f"/api/models/{TINY}/revision/other", 404, "RevisionNotFound"),
        (f"/{TINY}/resolve/other/README.md", 404, "RevisionNotFound"),
        (f"/{TINY}/resolve/main/none.gguf", 404, "EntryNotFound"),
        (f"/{TINY}/resolve/main/.README.md.recipe", 404, "EntryNotFound"),
        ("/../keys/resolve/main/ca.key", 401, "RepoNotFound"),
    ],
)
def test_hugging_face_refuses_in_its_own_words(bed: Bed, path: str, status: int, code: str) -> None:
    reply = bed.ask(f"https://huggingface.co{path}")
    assert (reply.status, reply.headers.get("X-Error-Code")) == (status, code)


# --- ModelScope ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["modelscope.cn", "www.modelscope.cn"])
def test_modelscope_lists_and_serves(bed: Bed, host: str) -> None:
    listing = bed.ask(f"https://{host}/api/v1/models/{TINY}/repo/files?Revision=master&Recursive=True").json()
    assert isinstance(listing, dict)
    assert listing["Success"] is True
    assert len(listing["Data"]["Files"]) == 3
    for file in listing["Data"]["Files"]:
        for url in (
            f"https://{host}/api/v1/models/{TINY}/repo?Revision=master&FilePath={file['Path']}",
            f"https://{host}/models/{TINY}/resolve/master/{file['Path']}",
        ):
            reply = bed.ask(url)
            assert (len(reply.body), hashlib.sha256(reply.body).hexdigest()) == (file["Size"], file["Sha256"])
            assert bed.ask(url, Range="bytes=1-4").body == reply.body[1:5]


@pytest.mark.parametrize(
    "path",
    ["/api/v1/models/a/none/repo/files", f"/api/v1/models/{TINY}/repo/files?Revision=v9",
     f"/api/v1/models/{TINY}/repo?FilePath=none", "/api/v1/repos/internalAccelerationInfo"],
)  # fmt: skip
def test_modelscope_refuses_in_its_own_words(bed: Bed, path: str) -> None:
    reply = bed.ask(f"https://modelscope.cn{path}")
    refusal = reply.json()
    assert isinstance(refusal, dict)
    assert (reply.status, refusal["Success"]) == (404, False)


# --- GitHub ----------------------------------------------------------------------------------------------------------


def test_a_release_is_redirected_to_its_bytes(bed: Bed) -> None:
    asset = bed.state / "releases/owner/project/v1/asset.tar.gz"
    asset.parent.mkdir(parents=True, exist_ok=True)
    asset.write_bytes(b"asset")
    first = bed.ask("https://github.com/owner/project/releases/download/v1/asset.tar.gz")
    assert first.status == 302
    assert urlsplit(first.headers["Location"]).netloc == "release-assets.githubusercontent.com"
    assert bed.ask(first.headers["Location"]).body == b"asset"
    assert bed.ask("https://github.com/owner/project/releases/download/v2/asset.tar.gz").status == 404


# --- Apt -------------------------------------------------------------------------------------------------------------


def test_noble_is_signed_by_the_bed_and_installs_from_debian(bed: Bed, tmp_path: Path) -> None:
    base = "http://security.ubuntu.com/ubuntu"
    release = bed.ask(f"{base}/dists/noble-security/InRelease")
    (tmp_path / "InRelease").write_bytes(release.body)
    ring = keys.archive_keyring(bed.state)
    subprocess.run(["gpgv", "-q", "--keyring", str(ring), str(tmp_path / "InRelease")], check=True, capture_output=True)
    text = release.body.decode()
    assert {"Origin: Ubuntu", "Codename: noble", "Suite: noble-security"} <= set(text.splitlines())
    listed = re.search(r" ([0-9a-f]{64}) +(\d+) main/binary-amd64/Packages\.xz", text)
    assert listed
    index = bed.ask(
        f"https://mirrors.ustc.edu.cn/ubuntu/dists/noble-security/main/binary-amd64/by-hash/SHA256/{listed[1]}"
    )
    assert (len(index.body), hashlib.sha256(index.body).hexdigest()) == (int(listed[2]), listed[1])
    stanzas = [
        dict(re.findall(r"(?m)^([\w-]+): (.*)$", stanza))
        for stanza in lzma.decompress(index.body).decode().split("\n\n")
    ]
    smallest = min((stanza for stanza in stanzas if stanza), key=lambda stanza: int(stanza["Size"]))
    package = bed.ask(f"{base}/{smallest['Filename']}")
    assert hashlib.sha256(package.body).hexdigest() == smallest["SHA256"]
    again = bed.ask(f"{base}/dists/noble-security/InRelease", If_Modified_Since=release.headers["Last-Modified"])
    assert again.status == 304


def test_every_pocket_of_noble_lists_every_component(bed: Bed) -> None:
    for pocket in ("noble", "noble-updates", "noble-security", "noble-backports"):
        reply = bed.ask(f"http://archive.ubuntu.com/ubuntu/dists/{pocket}/Release")
        assert reply.status == 200
        for component in ("main", "restricted", "universe", "multiverse"):
            assert f" {component}/binary-amd64/Packages\n" in reply.body.decode()
    empty = bed.ask("http://archive.ubuntu.com/ubuntu/dists/noble/universe/binary-amd64/Packages")
    assert (empty.status, empty.body) == (200, b"")


def test_debian_comes_through_under_every_mirror(bed: Bed) -> None:
    archives = find_upstream(bed.state).archives
    own = [
        f"http://{urlsplit(archives[name]).netloc}{urlsplit(archives[name]).path}" for name in ("debian", "security")
    ]
    mirrored = "https://mirrors.tuna.tsinghua.edu.cn"
    for one, other, path in (
        (own[0], f"{mirrored}/debian", "dists/bookworm-updates/InRelease"),
        (own[1], f"{mirrored}/debian-security", "dists/bookworm-security/InRelease"),
    ):
        replies = [bed.ask(f"{base}/{path}") for base in (one, other)]
        assert replies[0].body.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----")
        assert replies[0].body == replies[1].body
    assert bed.ask(f"{mirrored}/debian/dists/none/InRelease").status == 404
    assert bed.ask("http://archive.ubuntu.com/debian/../../keys/ca.key").status in (400, 404)


def test_a_tree_of_the_bed_names_the_mirror_that_the_machine_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "mirror_of", lambda suite: None)
    monkeypatch.setattr(images, "real_ubuntu", lambda: None)
    assert find_upstream(tmp_path) == Upstream({})
    sources = tmp_path / "images/bookworm-1/etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    sources.write_text("deb http://m.example/debian/ bookworm main\ndeb http://s.example/sec bookworm-security main\n")
    found = find_upstream(tmp_path)
    assert found == Upstream({"debian": "http://m.example/debian", "security": "http://s.example/sec"})
    assert found.hosts == {"m.example", "s.example"}


def test_a_true_ubuntu_archive_is_passed_through(tmp_path: Path) -> None:
    class Asking(Cache):
        async def get(self, url: str, *_: object, **__: object) -> Answer:
            return text_answer(url)

    upstream = Upstream({"ubuntu": "http://u.example/ubuntu", "ubuntu-security": "http://v.example/ubuntu"})
    apt = Apt(Asking(tmp_path), upstream, tmp_path)

    def reached(host: str, path: str) -> str:
        answer = asyncio.run(apt.answer(Asked("http", host, "GET", path, {}, {})))
        assert answer
        assert isinstance(answer.body, Content)
        return answer.body.content.decode()

    assert (
        reached("archive.ubuntu.com", "/ubuntu/dists/noble/InRelease")
        == "http://u.example/ubuntu/dists/noble/InRelease"
    )
    assert reached("security.ubuntu.com", "/ubuntu/pool/x.deb") == "http://v.example/ubuntu/pool/x.deb"
    assert reached("u.example", "/ubuntu/pool/x.deb") == "http://u.example/ubuntu/pool/x.deb"
    assert "no mirror" in reached("mirrors.ustc.edu.cn", "/debian/pool/x.deb")


# --- Python indexes --------------------------------------------------------------------------------------------------


def test_python_indexes_lead_back_to_the_hub(bed: Bed) -> None:
    for base in (
        f"https://{find_index().public_host}/simple",
        "https://pypi.tuna.tsinghua.edu.cn/simple",
        "https://mirrors.aliyun.com/pypi/simple",
        "https://mirrors.huaweicloud.com/repository/pypi/simple",
    ):
        page = bed.ask(f"{base}/iniconfig/", Accept=JSON_TYPE).json()
        assert isinstance(page, dict)
        html = bed.ask(f"{base}/iniconfig/", Accept="text/html").body.decode()
        file = next(file for file in page["files"] if file["filename"].endswith(".whl"))
        link = urljoin(f"{base}/iniconfig/", file["url"])
        assert urlsplit(link).netloc in (urlsplit(base).netloc, find_index().files_host)
        assert f'href="{file["url"]}#sha256={file["hashes"]["sha256"]}"' in html
        wheel = bed.ask(link)
        assert hashlib.sha256(wheel.body).hexdigest() == file["hashes"]["sha256"]
    assert bed.ask(f"{base}/Ini_Config", Accept=JSON_TYPE).headers["Location"].endswith("/simple/ini-config/")
    assert bed.ask("https://mirrors.aliyun.com/pypi/packages-of/other.example/x").status == 404


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# --- The cache -------------------------------------------------------------------------------------------------------


@dataclass
class Registry:
    """An upstream under the test's control."""

    content: bytes = b"x" * 300_000
    served: int = 0
    broken: bool = False
    modified: str = "Mon, 05 Jan 2026 10:00:00 GMT"

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/none":
            return web.Response(status=404)
        if request.headers.get("If-Modified-Since") == self.modified:
            return web.Response(status=304)
        self.served += 1
        response = web.StreamResponse(headers={"Last-Modified": self.modified})
        response.content_length = len(self.content)
        await response.prepare(request)
        half = len(self.content) // 2
        await response.write(self.content[:half])
        await asyncio.sleep(0.05)
        if self.broken and request.transport:
            request.transport.close()
        else:
            await response.write(self.content[half:])
        return response


async def _with_registry(registry: Registry, root: Path) -> tuple[Cache, str, web.ServerRunner]:
    runner = web.ServerRunner(web.Server(registry.handle, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return Cache(root), f"http://127.0.0.1:{runner.addresses[0][1]}", runner


def test_what_many_want_is_fetched_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = Registry()
        cache, url, runner = await _with_registry(registry, tmp_path)
        bodies = await asyncio.gather(*(cache.whole(f"{url}/pool", "pool") for _ in range(5)))
        assert set(bodies) == {registry.content}
        assert await cache.whole(f"{url}/pool", "pool") == registry.content
        assert registry.served == 1
        assert names_in(tmp_path) == ["pool"]
        await runner.cleanup()
        assert await cache.whole(f"{url}/pool", "pool") == registry.content
        await cache.close()

    asyncio.run(scenario())


def test_an_index_is_asked_for_again_and_outlives_its_upstream(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = Registry()
        cache, url, runner = await _with_registry(registry, tmp_path)
        for _ in range(3):
            assert await cache.whole(f"{url}/index", "index", fresh_seconds=0) == registry.content
        assert registry.served == 1, "unchanged content is not sent again"
        registry.content, registry.modified = b"new", "Tue, 06 Jan 2026 10:00:00 GMT"
        assert await cache.whole(f"{url}/index", "index", fresh_seconds=60) != b"new"
        assert await cache.whole(f"{url}/index", "index", fresh_seconds=0) == b"new"
        await runner.cleanup()
        assert await cache.whole(f"{url}/index", "index", fresh_seconds=0) == b"new"
        await cache.close()

    asyncio.run(scenario())


def test_a_broken_fetch_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        registry = Registry(broken=True)
        cache, url, runner = await _with_registry(registry, tmp_path)
        with pytest.raises(ConnectionError):
            await cache.whole(f"{url}/pool", "pool")
        assert names_in(tmp_path) == []
        registry.broken = False
        assert await cache.whole(f"{url}/pool", "pool") == registry.content
        assert (await cache.get(f"{url}/none", "none")).status == 404
        outside = await cache.get(f"{url}/pool", "../outside")
        assert (outside.status, isinstance(outside.body, Content)) == (400, True)
        await runner.cleanup()
        assert (await cache.get(f"{url}/later", "later")).status == 502
        await cache.close()

    asyncio.run(scenario())


# --- Faults and log --------------------------------------------------------------------------------------------------

BIG_FILE = "https://models.example.org/tiny-big.gguf"


def test_cut_ends_the_body_early_and_only_as_often_as_told(bed: Bed) -> None:
    bed.admin.fault(r"^models\.example\.org/tiny-big", "cut", after=1_000_000)
    assert bed.ask(BIG_FILE, "HEAD").status == 200
    with pytest.raises(http.client.IncompleteRead) as cut:
        bed.ask(BIG_FILE)
    assert len(cut.value.partial) == 1_000_000
    whole = bed.ask(BIG_FILE, Range="bytes=1000000-")
    assert cut.value.partial + whole.body == (bed.state / "plain/tiny-big.gguf").read_bytes()
    assert [(entry.method, entry.status, entry.range, entry.bytes_sent) for entry in bed.admin.log()] == [
        ("HEAD", 200, None, 0),
        ("GET", 200, None, 1_000_000),
        ("GET", 206, "bytes=1000000-", len(whole.body)),
    ]


def test_corrupt_keeps_the_length(bed: Bed) -> None:
    good = (bed.state / "plain/tiny.gguf").read_bytes()
    bed.admin.fault("tiny.gguf", "corrupt", times=2, after=5000)
    bad = bed.ask(PLAIN).body
    assert len(bad) == len(good)
    assert bad[:5000] == good[:5000]
    assert [at for at in range(len(good)) if bad[at] != good[at]] == list(range(5000, len(good), 4096))
    assert bed.ask(PLAIN).body == bad
    assert bed.ask(PLAIN).body == good


def test_a_redirect_does_not_use_up_a_fault_of_the_body(bed: Bed) -> None:
    bed.admin.fault("tiny-random-F32", "corrupt", after=10_000)
    first = bed.ask(f"https://huggingface.co/{TINY}/resolve/main/tiny-random-F32.gguf")
    good = (bed.state / "models" / TINY / "tiny-random-F32.gguf").read_bytes()
    assert bed.ask(first.headers["Location"]).body != good
    assert bed.ask(first.headers["Location"]).body == good


def test_status_answers_instead(bed: Bed) -> None:
    bed.admin.fault("huggingface.co/api", "status", times=None, status=429, retry_after=7)
    for _ in range(3):
        reply = bed.ask(f"https://huggingface.co/api/models/{TINY}")
        assert (reply.status, reply.headers["Retry-After"]) == (429, "7")
    assert bed.ask(PLAIN, "HEAD").status == 200
    bed.admin.clear_faults()
    assert bed.ask(f"https://huggingface.co/api/models/{TINY}").status == 200


def test_a_query_can_be_matched(bed: Bed) -> None:
    bed.admin.fault(r"FilePath=README\.md", "status", status=500)
    base = f"https://modelscope.cn/api/v1/models/{TINY}/repo?Revision=master&FilePath="
    assert bed.ask(f"{base}tiny-random-Q8_0.gguf", "HEAD").status == 200
    assert bed.ask(f"{base}README.md").status == 500


def test_stall_sends_no_more(bed: Bed) -> None:
    bed.admin.fault("tiny-big", "stall", after=1000)
    connection = bed.connect("models.example.org")
    connection.request("GET", "/tiny-big.gguf")
    response = connection.getresponse()
    assert len(response.read(1000)) == 1000
    assert connection.sock
    connection.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        response.read(1)
    connection.close()
    assert [entry.bytes_sent for entry in bed.admin.log()] == [1000]


def test_slow_takes_its_time(bed: Bed) -> None:
    bed.admin.fault("tiny.gguf", "slow", rate=1_000_000)
    begun = time.monotonic()
    size = len(bed.ask(PLAIN).body)
    assert time.monotonic() - begun >= 0.9 * size / 1_000_000


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_dead_answers_nothing(bed: Bed, scheme: str) -> None:
    bed.admin.fault("models.example.org", "dead")
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        bed.ask(f"{scheme}://models.example.org/tiny.gguf")
    assert bed.ask(f"{scheme}://models.example.org/tiny.gguf").status == 200
    assert [entry.status for entry in bed.admin.log()] == [0, 200]


def test_an_impossible_fault_is_refused(bed: Bed) -> None:
    with pytest.raises(ValueError, match="cut, corrupt, status"):
        bed.admin.fault("x", "explode")
    with pytest.raises(ValueError, match="refuses"):
        bed.admin.fault("(", "cut")


def test_the_log_tells_requests_apart(bed: Bed) -> None:
    bed.ask("http://models.example.org/tiny.gguf?a=b", Range="bytes=0-4", User_Agent="curl/8")
    (entry,) = bed.admin.log()
    assert (entry.scheme, entry.host, entry.method) == ("http", "models.example.org", "GET")
    assert (entry.path, entry.range, entry.status, entry.bytes_sent) == ("/tiny.gguf?a=b", "bytes=0-4", 206, 5)
    assert (entry.client, entry.user_agent) == ("127.0.0.1", "curl/8")
    assert abs(entry.time - time.time()) < 10
    bed.admin.clear_log()
    assert bed.admin.log() == []


# --- What is served --------------------------------------------------------------------------------------------------


def test_models_are_whole_and_the_same_every_time(bed: Bed, tmp_path: Path) -> None:
    for make in (artefacts.tiny_gguf, artefacts.tiny_gguf_q8, artefacts.tiny_gguf_big):
        again = make(tmp_path)
        reader = gguf.GGUFReader(again)
        assert reader.fields["general.architecture"].contents() == "llama"
        assert "messages" in str(reader.fields["tokenizer.chat_template"].contents())
        assert make(bed.state).read_bytes() == again.read_bytes()
    assert artefacts.tiny_gguf(tmp_path).stat().st_size < 600_000
    assert artefacts.tiny_gguf_big(tmp_path).stat().st_size > 60_000_000


def test_a_model_is_made_again_only_when_its_recipe_changed(tmp_path: Path) -> None:
    path = artefacts.tiny_gguf(tmp_path)
    before = path.stat().st_ino
    assert artefacts.tiny_gguf(tmp_path).stat().st_ino == before
    path.with_name(f".{path.name}.recipe").write_text("older")
    assert artefacts.tiny_gguf(tmp_path).stat().st_ino != before


def test_safetensors_hold_what_their_header_says(tmp_path: Path) -> None:
    folder = artefacts.tiny_safetensors(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    config = json.loads((folder / "config.json").read_text())
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert max(ends) == len(content) - 8 - length
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(259))
