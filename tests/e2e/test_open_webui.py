"""Open WebUI, the real one, in a browser: a person logs in, asks, and llama-server's answer stands in the page."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.browser import Page, browser
from tests.e2e.containers import build_image, docker_host
from tests.e2e.support import ROOT, ask, difference, key_of, run, snapshot, tunnel
from tests.e2e.test_full import declared, with_instances
from tests.testbed.hosts import BedHost

PAGE = "http://127.0.0.1:3000"
PASSWORD = "/etc/metal2model/open_webui/admin.password"
QUESTION = "Say hello."
ANSWER = "[...document.querySelectorAll('.chat-assistant')].map(one => one.innerText.trim()).join()"
# The same question gets the same answer, and a short one: the page's is compared with the server's own.
SERVER = {"model": "tiny", "context_length": 2048, "threads": 1, "extra_arguments": ["--temp", "0", "--predict", "8"]}
# They would ask the model for more than was asked by the person.
QUIET = {"ENABLE_TITLE_GENERATION": "false", "ENABLE_TAGS_GENERATION": "false", "ENABLE_FOLLOW_UP_GENERATION": "false"}


@pytest.fixture(scope="module")
def fronted(
    make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory
) -> tuple[BedHost, dict[str, Any], str]:
    """A host with two servers and the page before them, made from a bare one, and what the run said."""
    host = make_module_host("bookworm")
    data = declared(host, open_webui={"environment": QUIET})
    data = with_instances(data, one={**SERVER, "port": 8000}, two={**SERVER, "port": 8001, "api_key": False})
    said = run(tmp_path_factory.mktemp("first"), {host.name: data}, timeout=590).succeeded().output
    return host, data, said


def password_of(host: BedHost) -> str:
    return host.ssh(f"cat {PASSWORD}").stdout.strip()


def post(host: BedHost, path: str, body: dict[str, str]) -> Any:
    """Ask the page's own API, on the host."""
    return json.loads(host.ssh(f"curl -s --json @- {PAGE}{path}", input=json.dumps(body)).stdout)


def models(host: BedHost) -> list[str]:
    """Return the models that an administrator is offered."""
    token = post(host, "/api/v1/auths/signin", {"email": "admin@localhost", "password": password_of(host)})["token"]
    said = host.ssh(f"curl -s -H @- {PAGE}/api/models", input=f"Authorization: Bearer {token}\n").stdout
    return sorted(model["id"] for model in json.loads(said)["data"])


@pytest.fixture(scope="module")
def logged_in(fronted: tuple[BedHost, dict[str, Any], str]) -> Iterator[Page]:
    """The page in a browser, after the first login."""
    host, _, _ = fronted
    with browser(host) as page:
        page.open(PAGE)
        page.type("#email", "admin@localhost")
        page.type("#password", password_of(host))
        page.enter()
        page.click("Okay, Let's Go!")  # what is new in this version
        yield page


def test_a_person_logs_in_and_the_model_answers(
    fronted: tuple[BedHost, dict[str, Any], str], logged_in: Page, tmp_path: Path
) -> None:
    host, _, _ = fronted
    logged_in.type("#chat-input", QUESTION)
    logged_in.enter()
    _, direct = ask(host, 8000, key=key_of(host, "one"), prompt=QUESTION)
    expected = " ".join(direct["choices"][0]["message"]["content"].split())
    assert len(expected) > 10
    logged_in.wait(f"{ANSWER}.replace(/\\s+/g, ' ') === {json.dumps(expected)}")
    logged_in.wait('!document.body.innerText.includes("You\'re now logged in")')
    picture = tmp_path / "open-webui.png"
    picture.write_bytes(logged_in.screenshot())
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size < 200_000


def test_every_server_of_the_host_is_offered(fronted: tuple[BedHost, dict[str, Any], str]) -> None:
    assert models(fronted[0]) == ["one", "two"]


def test_nobody_else_gets_in(fronted: tuple[BedHost, dict[str, Any], str]) -> None:
    host, _, _ = fronted
    stranger = {"name": "x", "email": "x@example.org", "password": "long-enough-1"}
    assert "token" not in post(host, "/api/v1/auths/signup", stranger)
    assert "token" not in post(host, "/api/v1/auths/signin", {"email": "admin@localhost", "password": "admin"})
    assert host.ssh(f"curl -s -o /dev/null -w '%{{http_code}}' {PAGE}/api/models").stdout == "401"
    assert host.ssh("ss -Htln 'sport = :3000'").stdout.split()[3] == "127.0.0.1:3000"


def test_keys_and_password_stay_on_the_host_and_roots(fronted: tuple[BedHost, dict[str, Any], str]) -> None:
    host, _, said = fronted
    assert host.ssh("stat -c '%a %U' /etc/metal2model/open_webui/*").stdout.split() == ["600", "root"] * 3
    everywhere = said + host.ssh("cat /proc/*/cmdline | tr '\\0' ' '; journalctl --no-pager", check=False).stdout
    for secret in (key_of(host, "one"), password_of(host)):
        assert len(secret) >= 24 and secret not in everywhere


def test_the_card_says_where_to_log_in(fronted: tuple[BedHost, dict[str, Any], str]) -> None:
    host, _, said = fronted
    assert f"first: ssh -N -L 3000:127.0.0.1:3000 root@{host.address}" in said
    assert f"log in: admin@localhost, first password in {PASSWORD} on the host" in said


def test_openais_own_client_works_as_the_page_for_people_says(
    fronted: tuple[BedHost, dict[str, Any], str], tmp_path: Path
) -> None:
    """The example of docs/clients.md, with what the card says of this host put in place."""
    host, data, _ = fronted
    run(tmp_path, {host.name: data}, "verify", "--data", f"json={tmp_path / 'verify.json'}").succeeded()
    known = json.loads((tmp_path / "verify.json").read_text())["hosts"][host.name][0]
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/clients.md").read_text(), re.DOTALL | re.MULTILINE)
    assert 'base_url="http://127.0.0.1:8000/v1"' in example and known["base_url"] == "http://127.0.0.1:8000/v1"
    _, target = known["tunnel"].split("-L ")[1].split()[0].split(":", 1)
    with tunnel(host, target) as port:
        code = example.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace('model="r1"', 'model="one"')
        key = host.ssh(f"cat {known['api_key_file']}").stdout.strip()
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "LLM_KEY": key}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    whole, _, streamed = done.stdout.partition("\n")
    assert whole.strip() and streamed.strip()


def test_a_second_run_changes_nothing(fronted: tuple[BedHost, dict[str, Any], str], tmp_path: Path) -> None:
    host, data, _ = fronted
    before = snapshot(host)
    assert run(tmp_path, {host.name: data}).succeeded().changed(host.name) == []
    assert [path for path in difference(before, snapshot(host)) if not path.startswith("/var/lib/private/")] == []


def test_another_key_reaches_the_page_with_the_next_run(
    fronted: tuple[BedHost, dict[str, Any], str], tmp_path: Path
) -> None:
    host, data, _ = fronted
    host.ssh("echo my-own-key >/etc/metal2model/llama_cpp/one.key")
    result = run(tmp_path, {host.name: data}).succeeded()
    assert result.changed(host.name) == [
        "llama.cpp | Run the instances", "Open WebUI | Hand over the keys of the backends", "Open WebUI | Run it",
    ]  # fmt: skip
    assert models(host) == ["one", "two"]


def test_it_goes_and_the_chats_stay(fronted: tuple[BedHost, dict[str, Any], str], tmp_path: Path) -> None:
    host, data, _ = fronted
    gone = {**data, "open_webui": {"present": False}}
    run(tmp_path, {host.name: gone}).succeeded()
    assert host.ssh("systemctl cat open-webui", check=False).returncode != 0
    assert host.ssh("ss -Htln 'sport = :3000'").stdout == ""
    assert host.ssh("test -s /var/lib/private/open-webui/webui.db; echo $?").stdout == "0\n"
    assert run(tmp_path, {host.name: gone}).succeeded().changed(host.name) == []


STAND_IN = """\
import http.server, json, os, signal, sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit())

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({**os.environ}).encode())

with open("/app/backend/data/webui.db", "a") as chats:
    chats.write("started\\n")
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Page).serve_forever()
"""


def test_the_container_gets_its_keys_and_keeps_its_data(make_host: MakeHost, tmp_path: Path) -> None:
    """Upstream's image cannot be had here: what stands in for it says what it was given and writes where data go."""
    host = docker_host(make_host)
    build_image(host, "ghcr.io/open-webui/open-webui:v0.12.4", {
        "Dockerfile": 'FROM bed/python\nCOPY serve.py /\nRUN mkdir -p /app/backend/data\n'
        'ENTRYPOINT ["python3", "/serve.py"]\n',
        "serve.py": STAND_IN,
    })  # fmt: skip
    host.ssh("install -m 0600 /dev/null /etc/big.key && echo its-key >/etc/big.key")
    backend = {"url": "http://192.0.2.20:8000/v1", "api_key_file": "/etc/big.key"}
    data = {
        **host.pyinfra_data(),
        "tags": ["cpu"],
        "docker": {"source": "existing"},
        "open_webui": {"method": "container", "more_backends": {"big": backend}},
    }
    run(tmp_path, {host.name: data}).succeeded()
    given = json.loads(host.ssh(f"curl -s {PAGE}/health").stdout)
    assert (given["OPENAI_API_BASE_URLS"], given["OPENAI_API_KEYS"]) == ("http://192.0.2.20:8000/v1", "its-key")
    assert given["WEBUI_ADMIN_PASSWORD"] == password_of(host)
    assert "its-key" not in host.ssh("cat /proc/*/cmdline | tr '\\0' ' '", check=False).stdout
    assert run(tmp_path, {host.name: data}).succeeded().changed(host.name) == []
    host.ssh("systemctl restart open-webui")
    host.ssh(f"curl -s --retry 50 --retry-delay 1 --retry-connrefused {PAGE}/health")
    assert host.ssh("cat /var/lib/open-webui/webui.db").stdout == "started\n" * 2
