"""The doctor: what the program on the host finds out about real servers that do wrong, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.files import ask as program
from roles.common.hardware import HardwareReport, OperatingSystem
from roles.common.mirror import presets
from roles.common.sources import Archive, Source, archive, images, registry_of
from roles.declaration import Declaration
from roles.doctor.facts import ASK, Answer, Answers
from roles.doctor.messages import NOTES, PROBLEMS, remarks
from roles.doctor.plan import fastest, rows, summary, unmet
from roles.mirrors.facts import HostSources
from roles.mirrors.sources import Release
from roles.sources import sources_of
from tests.roles.test_hardware import dump
from tests.testbed import keys

MEGABYTE = 1 << 20
PATIENCE = 2
"""Seconds that the program waits for what is silent."""
SECRET = "hunter2"


class Server(ThreadingHTTPServer):
    """Remembers what it was asked: host, path, Range and login."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.asked: list[tuple[str, str, str | None, str | None]] = []

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


Serve = Callable[..., Server]


class Web(BaseHTTPRequestHandler):
    """Does what the path says."""

    protocol_version = "HTTP/1.1"
    login_header = "Authorization"
    server: Server
    file = b"GGUF" + b"x" * (2 * MEGABYTE)
    whole = b"x" * (64 * MEGABYTE)

    def setup(self) -> None:
        super().setup()
        port = self.server.server_port
        page = {"Content-Type": "text/html"}
        self.plain: dict[str, tuple[int, bytes, dict[str, str]]] = {
            "/elsewhere": (302, b"", {"Location": f"http://localhost:{port}/file?Signature={SECRET}"}),
            "/a/mirror/of/pip/": (301, b"", {"Location": "/simple/pip/"}),
            "/round": (302, b"", {"Location": "/round"}),
            "/patience": (429, b"", {"Retry-After": "120"}),
            "/login": (200, b"<html>welcome to our network</html>", page),
            "/deaf": (200, self.whole, {}),
            "/simple/pip/": (200, b'<a href="../../files/pip-2-py3-none-any.whl#sha256=0">pip</a>', page),
            "/tree": (200, b'[{"path": "README.md"}, {"path": "model.gguf"}, {"path": "a b.txt"}]', {}),
            "/empty-tree": (200, b"[]", {}),
        }

    def do_GET(self) -> None:
        host, what = self.headers["Host"].partition(":")[0], self.path.split("?")[0]
        self.server.asked.append((host, self.path, self.headers["Range"], self.headers[self.login_header]))
        if what in self.plain:
            self.answer(*self.plain[what])
        elif what == "/nothing":
            self.connection.close()
        elif what == "/silence":
            time.sleep(PATIENCE * 3)
        elif what in ("/file", "/folder/model.gguf", "/files/pip-2-py3-none-any.whl"):
            self.part()
        elif what in ("/stall", "/cut", "/slow"):
            self.wrong(what)
        elif what.startswith(("/v2/", "/token")):
            self.registry(what, self.server.server_port)
        else:
            self.answer(404, b"not here")

    def registry(self, what: str, port: int) -> None:
        """A registry as the specification has it: a token first, an index, a manifest, and layers elsewhere."""
        if what == "/token":
            assert self.path == "/token?service=bed&scope=repository%3Ateam/chat%3Apull"
            return self.answer(200, json.dumps({"token": SECRET}).encode())
        if self.headers["Authorization"] != f"Bearer {SECRET}":
            realm = f'Bearer realm="http://127.0.0.1:{port}/token",service="bed",scope="repository:team/chat:pull"'
            return self.answer(401, headers={"WWW-Authenticate": realm})
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine)
        if what == "/v2/team/chat/manifests/1.0":
            others = [{"digest": "sha256:other", "platform": {"architecture": "s390x"}}]
            ours = {"digest": "sha256:ours", "platform": {"architecture": machine}}
            return self.answer(200, json.dumps({"manifests": [*others, ours]}).encode())
        if what == "/v2/team/chat/manifests/sha256:ours":
            layers = [{"digest": "sha256:small", "size": 9}, {"digest": "sha256:large", "size": len(self.file)}]
            return self.answer(200, json.dumps({"layers": layers}).encode())
        if what == "/v2/team/chat/blobs/sha256:large":
            return self.answer(307, headers={"Location": f"http://localhost:{port}/file"})
        return self.answer(404)

    def part(self) -> None:
        first, last = map(int, (self.headers["Range"] or f"bytes=0-{len(self.file) - 1}")[6:].split("-"))
        self.answer(206, self.file[first : last + 1])

    def wrong(self, what: str) -> None:
        """Give a byte to who asks for one, and a megabyte badly."""
        if self.headers["Range"] == "bytes=0-0":
            return self.answer(206, b"x")
        self.send_response(206)
        self.send_header("Content-Length", str(MEGABYTE))
        self.end_headers()
        self.wfile.write(b"x" * 100 * 1024)
        self.wfile.flush()
        if what == "/stall":
            time.sleep(PATIENCE * 2)
        for _ in range(20) if what == "/slow" else ():
            time.sleep(PATIENCE / 10)
            self.wfile.write(b"x" * 512)
        self.connection.close()
        return None

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:  # who has enough goes
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Proxy(Web):
    """Answers itself for whatever is asked of it, and connects to nobody."""

    login_header = "Proxy-Authorization"

    def do_GET(self) -> None:
        self.server.asked.append(("", self.path, self.headers["Range"], self.headers[self.login_header]))
        self.part()

    def do_CONNECT(self) -> None:
        self.server.asked.append(("", self.path, None, self.headers[self.login_header]))
        self.answer(403)


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """Run servers until the module's tests are over."""
    running: list[Server] = []

    def start(handler: type[Web], certificate: Path | None = None) -> Server:
        server = Server(handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        running.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def source(url: str = "", **given: Any) -> Source:
    return Source(**{"kind": "release", "what": url, "name": "it", "option": "an/option", "url": url, **given})


def ask(
    sources: Sequence[Source], total_seconds: int = 60, silence_seconds: int = 30, **environment: str
) -> list[Answer]:
    """Run the program as the fact does, and read its output as the fact does."""
    wanted = json.dumps(
        {
            "sources": [asdict(one) for one in sources],
            "silence_seconds": silence_seconds,
            "total_seconds": total_seconds,
        }
    )
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", ASK.read_text(), wanted],
        capture_output=True, text=True, env={**clean, **environment}, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert SECRET not in done.stdout
    return Answers().process(done.stdout.splitlines())


PATHS = (
    "elsewhere",
    "round",
    "patience",
    "nothing",
    "silence",
    "login",
    "file",
    "deaf",
    "stall",
    "cut",
    "slow",
    "gone",
)


@pytest.fixture(scope="module")
def web(serve: Serve) -> Server:
    return serve(Web)


@pytest.fixture(scope="module")
def answers(web: Server, serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What the program says of a server, asked once for everything."""
    authority = tmp_path_factory.mktemp("authority")
    secure = serve(Web, keys.server_certificate(authority, ["localhost"])).server_port
    with Server(Web) as closed:
        nobody = closed.base
    listed: dict[str, Any] = {"pattern": r'"path": "([^"]+)"', "files": ("*.gguf",)}
    wanted = {path: source(f"{web.base}/{path}") for path in PATHS} | {
        "unresolved": source("http://nosuch.invalid/"),
        "closed": source(nobody),
        "tls": source(f"https://localhost:{secure}/file"),
        "other name": source(f"https://127.0.0.1:{secure}/file"),
        "no tls": source(f"https://127.0.0.1:{web.server_port}/file"),
        "shown": source(f"{web.base}/file", shows="GGUF"),
        "not shown": source(f"{web.base}/file", shows="PGP"),
        "index": source(listing=f"{web.base}/a/mirror/of/pip/", pattern='href="([^"#]+)', files=("*pip-*-any.whl",)),
        "repository": source(f"{web.base}/folder/", listing=f"{web.base}/tree", shows="path", **listed),
        "empty": source(f"{web.base}/folder/", listing=f"{web.base}/empty-tree", **listed),
        "image": source(f"{web.base}/v2/team/chat/manifests/1.0", is_manifest=True),
    }
    found = ask(list(wanted.values()), silence_seconds=PATIENCE, SSL_CERT_FILE=str(keys.ca_certificate(authority)))
    return dict(zip(wanted, found, strict=True))


def test_the_bytes_are_followed_to_where_they_come_from(answers: dict[str, Answer]) -> None:
    answer = answers["elsewhere"]
    assert (answer.problem, answer.hosts, answer.bytes) == ("", ("127.0.0.1", "localhost"), MEGABYTE)
    assert answer.kib_per_second
    assert answer.status == 206
    assert None not in (answer.resolve_ms, answer.connect_ms, answer.answer_ms)
    assert answer.tls_ms is None


def test_a_megabyte_and_no_more_is_asked_for(answers: dict[str, Answer], web: Server) -> None:
    ranges = [part for _, path, part, _ in web.asked if not path.startswith(("/v2/", "/token"))]
    assert set(ranges) == {"bytes=0-0", f"bytes=0-{MEGABYTE - 1}"}
    assert answers["deaf"].usable, "a server without ranges is used all the same, and left when it has sent enough"
    assert answers["deaf"].bytes == MEGABYTE


@pytest.mark.parametrize(
    ("name", "problem", "detail"),
    [
        ("gone", "missing", "HTTP 404 Not Found"),
        ("patience", "busy", "HTTP 429 Too Many Requests"),
        ("round", "redirects", ""),
        ("nothing", "cut", "0 KiB"),
        ("silence", "silent", f"{PATIENCE} s"),
        ("stall", "stalled", "100 KiB"),
        ("cut", "cut", "100 KiB"),
        ("login", "content", "text/html"),
        ("not shown", "content", ""),
        ("empty", "listing", "*.gguf"),
        ("closed", "connect", "127.0.0.1: Connection refused"),
        ("other name", "certificate", "IP address mismatch"),
    ],
)
def test_what_is_wrong_is_told_apart(answers: dict[str, Answer], name: str, problem: str, detail: str) -> None:
    answer = answers[name]
    assert (answer.problem, answer.usable) == (problem, False)
    assert detail in answer.detail


def test_names_and_handshakes_that_fail_are_told_apart(answers: dict[str, Answer]) -> None:
    assert answers["unresolved"].problem == "resolve"
    assert answers["unresolved"].connect_ms is None
    assert answers["no tls"].problem == "tls"
    assert answers["no tls"].address == "127.0.0.1"
    assert answers["tls"].problem == ""
    assert answers["tls"].tls_ms
    assert answers["patience"].retry_after == "120"


def test_slow_is_usable(answers: dict[str, Answer]) -> None:
    answer = answers["slow"]
    assert answer.usable
    assert (answer.kib_per_second or 0) in range(40, 80), "100 KiB and little more in two seconds"
    assert "slow: 5 GB take" in remarks(source(), answer, "en")[0]


def test_a_file_is_found_in_a_listing_and_known_by_what_it_shows(answers: dict[str, Answer], web: Server) -> None:
    assert [answers[name].problem for name in ("index", "repository", "shown")] == ["", "", ""]
    paths = [path for _, path, part, _ in web.asked if part == f"bytes=0-{MEGABYTE - 1}"]
    assert "/files/pip-2-py3-none-any.whl" in paths
    assert "/folder/model.gguf" in paths


def test_an_image_is_followed_to_its_largest_layer_and_the_token_stays_with_the_registry(
    answers: dict[str, Answer], web: Server
) -> None:
    answer = answers["image"]
    assert (answer.problem, answer.detail) == ("", "")
    assert answer.hosts == ("127.0.0.1", "localhost")
    assert answer.bytes == MEGABYTE
    with_token = {(host, path.split("?")[0]) for host, path, _, login in web.asked if login}
    assert {host for host, _ in with_token} == {"127.0.0.1"}
    assert ("127.0.0.1", "/v2/team/chat/blobs/sha256:large") in with_token


def test_proxies_are_honoured_and_their_passwords_are_not_shown(serve: Serve, tmp_path: Path) -> None:
    ours, apts = serve(Proxy), serve(Proxy)
    config = tmp_path / "apt-config"
    config.write_text(
        f"#!/bin/sh\necho 'Acquire::http::Proxy \"{apts.base}/\";'\n"
        "echo 'Acquire::http::Proxy::direct.invalid \"DIRECT\";'\n"
    )
    config.chmod(0o755)
    proxy = ours.base.replace("//", f"//somebody:{SECRET}@")
    found = ask(
        [
            source("http://far.invalid/file"),
            source("http://far.invalid/file", client="apt"),
            source("http://direct.invalid/file", client="apt"),
            source("https://far.invalid/file"),
            source("http://near.invalid/file"),
        ],
        http_proxy=proxy, https_proxy=proxy, no_proxy="near.invalid", PATH=f"{tmp_path}:{os.environ['PATH']}",
    )  # fmt: skip
    general, apt, apt_directly, refused, directly = found
    assert (general.problem, general.hosts) == ("", ("far.invalid",))
    assert f"http://{general.proxy}" == ours.base
    assert (apt.problem, f"http://{apt.proxy}") == ("", apts.base)
    assert {login for _, _, _, login in apts.asked} == {None}
    assert None not in {login for _, _, _, login in ours.asked}
    assert apt_directly.problem == "resolve"
    assert (refused.problem, refused.detail) == ("proxy", "HTTP 403")
    assert "far.invalid:443" in {path for _, path, _, _ in ours.asked}
    assert directly.problem == "resolve"


def test_before_a_host_has_authorities_others_than_apt_are_asked_all_the_same(serve: Serve, tmp_path: Path) -> None:
    server = serve(Web, keys.server_certificate(tmp_path, ["localhost"]))
    url = f"https://localhost:{server.server_port}/file"
    (empty := tmp_path / "empty").mkdir()
    apt, other = ask(
        [source(url, client="apt"), source(url)], SSL_CERT_FILE=str(tmp_path / "none"), SSL_CERT_DIR=str(empty)
    )
    assert (other.problem, other.unverified) == ("", True)
    assert "was not checked" in remarks(source(), other, "en")[0]
    assert apt.problem == "authorities"


def test_a_server_is_not_left_waiting_by_who_cannot_begin_tls(web: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "authorities", lambda: (ssl.create_default_context(), False))
    asked = program.Source({**asdict(source(f"https://127.0.0.1:{web.server_port}/file", client="apt"))}, 5)
    assert not program.attempt(asked, asked.reach)
    assert asked.found["problem"] == "authorities"
    assert asked.socket.fileno() == -1, "the connection is open"


def test_a_proxy_that_is_not_spoken_is_named() -> None:
    (answer,) = ask([source("http://far.invalid/")], all_proxy="socks5h://127.0.0.1:1080")
    assert (answer.problem, answer.detail) == ("proxy_kind", "socks5h")


def test_what_is_not_through_in_time_is_said_and_not_waited_for(web: Server) -> None:
    (answer,) = ask([source(f"{web.base}/silence")], total_seconds=0)
    assert answer.problem == "late"


# --- what is said


def test_every_problem_of_the_program_has_a_sentence_and_an_advice_in_both_languages() -> None:
    program = ASK.read_text()
    raised = set(re.findall(r'Failed\(\s*"(\w+)"|\d{3}: "(\w+)"|meanings.get\(.*?, "(\w+)"', program))
    raised = {word for words in raised for word in words if word}
    assert raised <= PROBLEMS.keys()
    assert PROBLEMS.keys() - raised == {"late", "unmeasured", "unforeseen", "no_python"}
    for key, message in PROBLEMS.items():
        fields = [set(re.findall(r"{(\w+)", text)) for text in (message.en, message.zh)]
        assert fields[0] == fields[1], key
        assert bool(message.en_advice) == bool(message.zh_advice) == (key != "unmeasured"), key
        for lang in ("en", "zh"):
            assert remarks(source(), Answer(problem=key), lang)
    assert all(set(re.findall(r"{\w+}", en)) == set(re.findall(r"{\w+}", zh)) for en, zh in NOTES.values())


MIRRORS = [
    source(what="apt", name="tuna", option="mirrors/apt", value="tuna"),
    source(what="apt", name="ustc", option="mirrors/apt", value="ustc"),
    source(what="apt", name="aliyun", option="mirrors/apt", value="aliyun", declared=False),
]
GOOD = Answer(problem="", hosts=("mirror.example.org",), connect_ms=1.0, kib_per_second=2000)
DEAD = Answer(problem="connect", hosts=("mirror.example.org",), detail="192.0.2.1: no answer in 10 s")


def test_one_usable_source_is_enough() -> None:
    asked = list(zip(MIRRORS, (DEAD, GOOD, DEAD), strict=True))
    assert unmet(asked, "en") == ""
    assert summary(asked, "en") == [{"for": "apt", "fastest": "ustc", "KiB/s": 2000, "write": "-"}]


def test_without_one_it_is_said_what_was_found_and_what_to_write() -> None:
    asked = list(zip(MIRRORS, (DEAD, DEAD, GOOD), strict=True))
    assert unmet(asked, "en") == (
        "mirrors/apt: apt cannot be had: tuna: mirror.example.org cannot be connected to (192.0.2.1: no answer in "
        "10 s); ustc: mirror.example.org cannot be connected to (192.0.2.1: no answer in 10 s); required is one place "
        "that gives it; what to do: write mirrors/apt: 'aliyun', which gives 2000 KiB/s here"
    )
    assert "请写 mirrors/apt: 'aliyun'" in unmet(asked, "zh")
    assert summary(asked, "en")[0]["write"] == "mirrors/apt: 'aliyun'"
    nothing = list(zip(MIRRORS, (DEAD, DEAD, DEAD), strict=True))
    assert "check route, firewall" in unmet(nothing, "en")
    assert summary(nothing, "zh")[0]["fastest"] == "均不可用"


def test_a_redirect_that_leads_abroad_is_named_beside_its_end() -> None:
    found = replace(DEAD, hosts=("hf-mirror.com", "cas.example.org"))
    assert remarks(source(), found, "en") == [
        "hf-mirror.com sends to cas.example.org for the bytes",
        "cas.example.org cannot be connected to (192.0.2.1: no answer in 10 s)",
    ]


def test_another_source_is_recommended_where_it_is_worth_it_and_no_last_resort() -> None:
    def written(used: int, other: int, **given: Any) -> str:
        sources = [MIRRORS[0], replace(MIRRORS[2], **given)]
        answers = [replace(GOOD, kib_per_second=used), replace(GOOD, kib_per_second=other)]
        return str(summary(list(zip(sources, answers, strict=True)), "en")[0]["write"])

    assert written(1000, 1500) == "-"
    assert written(1000, 2000) == "mirrors/apt: 'aliyun'"
    assert written(1000, 9000, last_resort=True) == "-"


answers_of_anything = st.builds(
    Answer,
    problem=st.sampled_from(["", *PROBLEMS]),
    hosts=st.lists(st.sampled_from(["a.example.org", "b.example.org"]), max_size=3).map(tuple),
    connect_ms=st.none() | st.floats(0, 1e4),
    kib_per_second=st.none() | st.integers(0, 10**6),
    retry_after=st.sampled_from(["", "10", "Wed, 21 Oct 2026 07:28:00 GMT"]),
)


@given(st.lists(st.tuples(st.sampled_from(MIRRORS), answers_of_anything), min_size=1))
def test_whatever_comes_back_the_tables_are_whole(asked: list[tuple[Source, Answer]]) -> None:
    for lang in ("en", "zh"):
        shown = rows(asked, lang)
        assert len(shown) == len(asked)
        usable = [row for row in shown if row["usable"]]
        assert sum(row["fastest"] for row in shown) == min(1, len(usable))
        assert all(row["usable"] for row in shown if row["fastest"])
        needs = [row for row in shown if row["declared"]]
        assert bool(shown[0]["unmet"]) == (bool(needs) and not any(row["usable"] for row in needs))
    best = fastest(asked)
    speeds = [answer.kib_per_second or 0 for _, answer in asked if answer.usable]
    assert (best is None) == (not speeds)
    if best:
        assert (best[1].kib_per_second or 0) == max(speeds)


# --- what is asked

NOBLE = Release("ubuntu", "noble", "amd64")
UBUNTU = """\
Types: deb
URIs: http://archive.ubuntu.com/ubuntu/
Suites: noble noble-updates noble-backports
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
URIs: http://security.ubuntu.com/ubuntu/
Suites: noble-security
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""
STATE = HostSources(NOBLE, {"/etc/apt/sources.list.d/ubuntu.sources": UBUNTU})
REPORT = HardwareReport(os=OperatingSystem(id="ubuntu", version="24.04", codename="noble"), architecture="amd64")


def declared(**options: Any) -> list[Source]:
    return sources_of(Declaration.load({"tags": ["cpu"], **options}, where="gpu-01"), REPORT, STATE)


def told(sources: Sequence[Source], what: str) -> list[tuple[str, bool, str]]:
    return [(one.name, one.declared, one.listing or one.url) for one in sources if one.what == what]


def test_apt_is_asked_where_the_host_takes_packages_from_and_where_it_could() -> None:
    found = declared()
    index = "dists/noble/InRelease"
    mirrors = [(name, False, f"{mirror.ubuntu}/{index}") for name, mirror in presets().items()]
    assert told(found, "apt") == [*mirrors, ("archive.ubuntu.com", True, f"http://archive.ubuntu.com/ubuntu/{index}")]
    security = "http://security.ubuntu.com/ubuntu/dists/noble-security/InRelease"
    assert told(found, "apt security") == [("security.ubuntu.com", True, security)]


def test_a_declared_mirror_is_needed_and_the_origin_is_the_alternative() -> None:
    found = declared(mirrors={"apt": ["http://mirror.lan/ubuntu", "tuna"], "security": True})
    named = {(name, is_declared) for name, is_declared, _ in told(found, "apt")}
    assert {("http://mirror.lan/ubuntu", True), ("tuna", True), ("ustc", False), ("archive.ubuntu.com", False)} <= named
    assert {name for name, is_declared, _ in told(found, "apt security") if is_declared} == {
        "http://mirror.lan/ubuntu", "tuna",
    }  # fmt: skip
    origin = next(one for one in found if one.name == "archive.ubuntu.com")
    assert (origin.option, origin.value, origin.client) == ("mirrors/apt", "upstream", "apt")


def test_the_python_index_is_needed_where_something_comes_from_it() -> None:
    def needed(**options: Any) -> bool:
        return any(one.declared for one in declared(**options) if one.kind == "pypi")

    assert not needed()
    assert not needed(mirrors={"pypi": "tuna"})
    assert needed(models={"wanted": {"qwen3-0.6b-q8": {}}})
    assert not needed(models={"wanted": {"own": {"path": "/srv/own.gguf"}}})


def test_a_model_is_looked_for_on_every_hub_that_one_option_leads_to() -> None:
    catalogued = declared(models={"wanted": {"qwen3-0.6b-q8": {}}})
    revision = "23749fefcc72300e3a2ad315e1317431b06b590a"
    file = "Qwen/Qwen3-0.6B-GGUF/resolve/" + revision + "/Qwen3-0.6B-Q8_0.gguf"
    scope = "https://modelscope.cn/api/v1/models/Qwen/Qwen3-0.6B-GGUF/repo"
    assert told(catalogued, "model qwen3-0.6b-q8") == [
        ("huggingface.co", True, f"https://huggingface.co/{file}"),
        ("hf-mirror.com", False, f"https://hf-mirror.com/{file}"),
        ("modelscope.cn", False, f"{scope}?Revision=master&FilePath=Qwen3-0.6B-Q8_0.gguf"),
    ]
    assert [(one.option, one.value) for one in catalogued if one.kind == "model"] == [
        ("models/huggingface_endpoint", "https://huggingface.co"),
        ("models/huggingface_endpoint", "https://hf-mirror.com"),
        ("models/hub", "modelscope"),
    ]
    wanted = {"r1": {"repo": "unsloth/R1-GGUF", "hub": "modelscope", "files": ["*UD-IQ1_S*"]}}
    (own,) = [one for one in declared(models={"wanted": wanted}) if one.kind == "model"]
    listing = "https://modelscope.cn/api/v1/models/unsloth/R1-GGUF/repo/files?Revision=master&Recursive=True"
    assert (own.listing, own.files) == (listing, ("*UD-IQ1_S*",))
    assert re.findall(own.pattern, '{"Path": "UD-IQ1_S/one.gguf"}') == ["UD-IQ1_S/one.gguf"]


def test_programs_and_kernels_are_asked_for_where_they_would_be_fetched() -> None:
    url = "https://github.com/ggml-org/llama.cpp/releases/download/b11146/llama-b11146-bin-ubuntu-x64.tar.gz"
    found = [one for one in declared(llama_cpp={}) if one.kind == "release"]
    assert [(one.url, one.option) for one in found] == [(url, "llama_cpp/download_url")]
    assert not [one for one in declared(llama_cpp={"source": "package"}) if one.kind == "release"]
    dify = {"version": "1.17.1", "sha256": "0" * 64}
    assert [one.url for one in declared(dify=dify, docker={}) if one.kind == "release"] == [
        "https://github.com/langgenius/dify/archive/refs/tags/1.17.1.tar.gz"
    ]
    old = replace(REPORT, kernel="6.8.0-90-generic")
    wanted = {"tags": ["cpu"], "kernel": {"min": "6.12", "source": "mainline", "version": "6.12.3"}}
    found = sources_of(Declaration.load(wanted, where="gpu-01"), old, STATE)
    assert [one.url for one in found if one.kind in ("release", "key")] == [
        "https://kernel.ubuntu.com/mainline/v6.12.3/amd64/CHECKSUMS",
        "https://keyserver.ubuntu.com/pks/lookup?op=get&options=mr&search=0x60AA7B6F30434AE68E569963E50C6A0917C622B0",
    ]
    fresh = replace(REPORT, kernel="6.12.9-1-generic")
    assert not [one for one in sources_of(Declaration.load(wanted, where="gpu-01"), fresh, STATE) if one.kind == "key"]


def test_an_archive_is_asked_for_its_list_of_packages() -> None:
    wanted = Archive("http://a.example.org/x/", "noble", "main", "arm64")
    one = archive(wanted, what="apt", name="a", option="mirrors/apt")
    release = f"SHA256:\n {hashlib.sha256().hexdigest()} 7 main/binary-arm64/Packages.xz\n 0 9 main/i18n/x.xz\n"
    assert re.findall(one.pattern, release) == ["main/binary-arm64/Packages.xz", "main/i18n/x.xz"]
    assert one.files == ("main/binary-arm64/Packages.gz", "main/binary-arm64/Packages.xz")


@pytest.mark.parametrize(
    ("reference", "whose"),
    [
        ("vllm/vllm-openai:v0.33.0", ("docker.io", "vllm/vllm-openai", "v0.33.0")),
        ("busybox:1.37", ("docker.io", "library/busybox", "1.37")),
        ("ghcr.io/open-webui/open-webui:v1", ("ghcr.io", "open-webui/open-webui", "v1")),
        ("localhost/x:1", ("localhost", "x", "1")),
        ("reg.example.org:5000/a/b@sha256:0", ("reg.example.org:5000", "a/b", "sha256:0")),
        ("reg.example.org:5000/a:2@sha256:0", ("reg.example.org:5000", "a", "sha256:0")),
    ],
)
def test_an_images_name_leads_to_its_registry(reference: str, whose: tuple[str, str, str]) -> None:
    assert registry_of(reference) == whose


def test_mirrors_stand_before_docker_hub_and_before_no_other_registry() -> None:
    mirrors = ["https://mirror.example.org/"]
    hub = images("vllm/vllm-openai:v1", option="docker/mirrors", mirrors=mirrors)
    path = "v2/vllm/vllm-openai/manifests/v1"
    assert [one.url for one in hub] == [f"https://mirror.example.org/{path}", f"https://registry-1.docker.io/{path}"]
    assert [one.name for one in images("ghcr.io/a/b:1", option="docker/mirrors", mirrors=mirrors)] == ["ghcr.io"]


def test_docker_is_asked_for_its_archive_and_one_image_of_each_registry() -> None:
    page = {"method": "container", "image": "ghcr.io/open-webui/open-webui:v1"}
    docker = {"source": "docker", "images": ["busybox:1.37", "vllm/vllm-openai:v1", "ghcr.io/a/b:1", "reg.lan/c:1"],
              "registries": {"reg.lan": {"insecure": True}}}  # fmt: skip
    found = [one for one in declared(docker=docker, open_webui=page) if one.kind != "pypi"]
    assert [one.listing for one in found if one.option == "docker/repository_url" and one.kind == "apt"] == [
        "https://download.docker.com/linux/ubuntu/dists/noble/InRelease"
    ]
    assert [one.url for one in found if one.kind == "key"] == ["https://download.docker.com/linux/ubuntu/gpg"]
    assert [one.url for one in found if one.kind == "image"] == [
        "https://registry-1.docker.io/v2/library/busybox/manifests/1.37", "https://ghcr.io/v2/a/b/manifests/1",
    ]  # fmt: skip
    toolkit = sources_of(Declaration.load({"tags": ["rtx4090"], "docker": {}}, where="gpu-01"), REPORT, STATE)
    assert [(one.listing, one.files[0]) for one in toolkit if one.what == "docker/nvidia"] == [
        ("https://nvidia.github.io/libnvidia-container/stable/deb/amd64/InRelease", "*Packages")
    ]


def test_ollama_is_asked_for_its_archive_and_for_models_where_it_pulls_them() -> None:
    instances = {
        "a": {"pull": "qwen3:8b"},
        "b": {"pull": "modelscope.cn/org/repo-GGUF:Q4_K_M"},
        "c": {"pull": "somebody/tuned"},
    }
    found = declared(ollama={"instances": instances})
    assert [one.url for one in found if one.option.startswith("ollama")] == [
        "https://github.com/ollama/ollama/releases/download/v0.32.15/ollama-linux-amd64.tar.zst",
        "https://registry.ollama.ai/v2/library/qwen3/manifests/8b",
        "https://modelscope.cn/v2/org/repo-GGUF/manifests/Q4_K_M",
        "https://registry.ollama.ai/v2/somebody/tuned/manifests/latest",
    ]
    assert all(one.is_manifest for one in found if one.option.endswith("/pull"))


def test_a_card_of_intel_needs_an_archive_and_its_key() -> None:
    report = replace(dump("b580-beside-igpu"), os=REPORT.os, architecture="amd64")
    found = sources_of(Declaration.load({"tags": ["b580"]}, where="gpu-01"), report, STATE)
    ours = [(one.kind, one.option, one.listing or one.url) for one in found if one.option.startswith("intel_gpu")]
    ppa = "https://ppa.launchpadcontent.net/kobuk-team/intel-graphics/ubuntu"
    assert ours[0] == ("apt", "intel_gpu/ppa_url", f"{ppa}/dists/noble/InRelease")
    assert ours[1][:2] == ("key", "intel_gpu/keyserver_url")
