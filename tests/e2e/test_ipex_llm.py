"""
IPEX-LLM's container on a host with Docker: real docker, a stand-in for the image, which is 20 GB and wants a card.

The stand-in has the server where the image has it, with its three arguments and what it has of OpenAI's API. Its first
answer fails, as those do that come while kernels are compiled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roles.ipex_llm.options import IpexLlmOptions
from tests.conftest import MakeHost
from tests.e2e.containers import build_image, docker_host
from tests.e2e.support import difference, run, snapshot
from tests.testbed import artefacts
from tests.testbed.hosts import BedHost
from tests.testbed.hub_models import commit_of

MODEL = {
    "repo": artefacts.SAFETENSORS_REPOSITORY,
    "hub": "huggingface",
    "revision": commit_of(artefacts.SAFETENSORS_REPOSITORY),
}
SERVER = r'''"""Stands in for lightweight_serving.py."""
import argparse, json, os, pathlib, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--repo-id-or-model-path", required=True)
parser.add_argument("--low-bit", choices=["sym_int4", "asym_int4", "sym_int8", "fp6", "fp8", "fp16"])
parser.add_argument("--port", type=int, default=8000)
given = parser.parse_args()
model = pathlib.Path(given.repo_id_or_model_path)
if not (model / "config.json").is_file():
    sys.exit(f"{model} holds no model")
os.close(os.open("/dev/dri/renderD128", os.O_RDWR))  # the card
needed = ["libaio-dev", "libjpeg-turbo8", "libpng16-16", "openai", "python-multipart"]
if pathlib.Path("/installed").read_text().split() != needed:
    sys.exit("something is missing")
failures = [True]


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200 if self.path == "/openapi.json" else 404, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions" or not isinstance(asked["prompt"], str):
            self.answer(404, {})
        elif failures:
            failures.clear()
            self.answer(500, {"detail": "kernels are compiled"})
        else:
            choice = {"index": 0, "text": "hello", "finish_reason": "length"}
            self.answer(200, {"model": model.name, "choices": [choice]})

    def answer(self, status, said):
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as process 1 it would be ignored
ThreadingHTTPServer(("0.0.0.0", given.port), Server).serve_forever()
'''
INSTALLER = """#!/bin/sh
# Stands in for apt-get and pip: it notes what is asked for.
for word; do
    case $word in update | install | -*) ;; *) echo "${word%%=*}" >>/installed ;; esac
done
"""
DOCKERFILE = """\
FROM bed/python
COPY lightweight_serving.py /llm/lightweight_serving/
COPY apt-get pip /usr/bin/
RUN ln -s python3 /usr/bin/python
"""


def declared(host: BedHost, **given: Any) -> dict[str, dict[str, Any]]:
    """What a user writes for one server; /dev/dri is there, whatever the tags say."""
    role = {"instances": {"one": {"model": "tiny", "port": 8000, "alias": "tiny-chat", **given}}}
    return {host.name: {**host.pyinfra_data(), "tags": ["cpu"], "mirrors": {"pypi": ["tuna"]},
                        "models": {"wanted": {"tiny": MODEL}}, "docker": {}, "ipex_llm": role}}  # fmt: skip


@pytest.fixture(scope="module")
def host(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> BedHost:
    """A host with a card's node and the image under it, provisioned once."""
    made = docker_host(make_module_host)
    made.ssh("mkdir -p /dev/dri && touch /dev/dri/renderD128 && mount --bind /dev/null /dev/dri/renderD128")
    files = {"Dockerfile": DOCKERFILE, "lightweight_serving.py": SERVER, "apt-get": INSTALLER, "pip": INSTALLER}
    build_image(made, IpexLlmOptions().image, files)
    path = tmp_path_factory.mktemp("first")
    first = run(path, declared(made), "full", "--data", f"json={path / 'verify.json'}").succeeded()
    (row,) = json.loads((path / "verify.json").read_text())["hosts"][made.name]
    assert (row["verdict"], row["health"], row["model"], row["answer"]) == ("ok", "ok", "tiny-chat", "hello")
    assert "Intel archived in January 2026, with known security issues" in first.output
    return made


def test_it_answers_on_the_host_and_nowhere_else(host: BedHost) -> None:
    asked = json.dumps({"model": "tiny-chat", "prompt": "hi", "max_tokens": 4})
    said = host.ssh("curl -sf --json @- http://127.0.0.1:8000/v1/completions", input=asked).stdout
    assert json.loads(said)["choices"][0]["text"] == "hello"
    assert (
        host.ssh(f"curl -s -o /dev/null --max-time 5 http://{host.address}:8000/openapi.json", check=False).returncode
        == 7
    )


def test_the_container_has_no_more_than_it_needs(host: BedHost) -> None:
    (shown,) = json.loads(host.ssh("docker inspect metal2model-ipex-llm-one").stdout)
    limits = shown["HostConfig"]
    assert limits["ShmSize"] == 16 << 30
    # The bed's kernel lets docker limit no memory; it says so and drops this.
    assert " --memory=16g " in host.ssh("systemctl show --property ExecStart ipex-llm@one").stdout
    assert limits["CapDrop"] == ["ALL"] and not limits["Privileged"]
    assert [(mount["Source"], mount["RW"]) for mount in shown["Mounts"]] == [
        (f"/srv/models/{artefacts.SAFETENSORS_REPOSITORY}", False)
    ]
    assert [device["PathOnHost"] for device in limits["Devices"]] == ["/dev/dri"]
    assert host.ssh("systemd-analyze verify ipex-llm@one.service 2>&1").stdout == ""
    overall = host.ssh("systemd-analyze security --no-pager ipex-llm@one | tail -1").stdout
    assert float(overall.split(":")[1].split()[0]) <= 4.0, overall


def test_a_second_run_changes_nothing(host: BedHost, tmp_path: Path) -> None:
    before = snapshot(host)
    second = run(tmp_path, declared(host)).succeeded()
    assert {state for hosts in second.results.values() for state in hosts.values()} == {"No changes"}, second.output
    assert difference(before, snapshot(host)) == []


def test_it_is_replaced_and_removed(host: BedHost, tmp_path: Path) -> None:
    changed = run(tmp_path, declared(host, low_bit="fp8")).succeeded()
    assert changed.changed(host.name) == ["IPEX-LLM | Write the units", "IPEX-LLM | Run the instances"]
    assert "--low-bit fp8" in host.ssh("docker top metal2model-ipex-llm-one").stdout
    run(tmp_path, declared(host, present=False)).succeeded()
    assert host.ssh("docker ps --quiet --all").stdout == ""
    assert host.ssh("systemctl cat ipex-llm@one", check=False).returncode != 0
