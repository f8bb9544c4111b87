"""A stand-in for vLLM, which needs 10 GB and a card, and hosts that have its image."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from roles.vllm.options import IMAGES, VERSION
from tests.conftest import MakeHost
from tests.e2e.containers import build_image, docker_host
from tests.testbed import artefacts
from tests.testbed.hosts import BedHost
from tests.testbed.hub_models import commit_of
from tests.upstream import arguments, vllm
from tests.upstream.source import Tree

MODEL = {
    "repo": artefacts.SAFETENSORS_REPOSITORY,
    "hub": "huggingface",
    "revision": commit_of(artefacts.SAFETENSORS_REPOSITORY),
}
STAND_IN = r'''#!/usr/bin/python3
"""Stands in for vLLM, which needs 10 GB and a card: its command line, its key, and the endpoints that are asked."""
import json, os, pathlib, signal, socket, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
sys.path.insert(0, "/stand-in")
from arguments import Argument, Rejected, parse

if sys.argv[1] != "serve":
    sys.exit("vllm: only serve stands in")
try:
    given = parse([Argument(**one) for one in json.load(open("/stand-in/arguments.json"))], sys.argv[2:])
except Rejected as error:
    print(f"vllm serve: error: {error}", file=sys.stderr)
    sys.exit(2)
if not (pathlib.Path(given.model_tag) / "config.json").is_file():
    sys.exit(f"{given.model_tag} holds no model")
pathlib.Path(os.environ["VLLM_CACHE_ROOT"]).mkdir(parents=True, exist_ok=True)
(name,) = given.served_model_name


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/health":
            self.answer(200)
        elif self.allowed():
            self.answer(200, {"object": "list", "data": [{"id": name, "object": "model"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.allowed():
            choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": min(1, asked.get("max_tokens", 1)), "total_tokens": 2}
            self.answer(200, {"object": "chat.completion", "model": name, "choices": [choice], "usage": usage})

    def allowed(self):
        key = os.environ.get("VLLM_API_KEY")
        if self.path.startswith("/v1") and key and self.headers["Authorization"] != f"Bearer {key}":
            self.answer(401, {"error": "Unauthorized"})
            return False
        return True

    def answer(self, status, said=None):
        body = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as process 1 it would be ignored
# As the real one: the head waits until all have met, and who has met never notices that others have gone.
if given.headless:
    while True:
        try:
            met = socket.create_connection((given.master_addr, given.master_port))
            signal.pause()
        except OSError:
            time.sleep(0.1)
elif (given.nnodes or 1) > 1:
    meeting = socket.create_server((given.master_addr, given.master_port))
    met = [meeting.accept() for _ in range(given.nnodes - 1)]
ThreadingHTTPServer((given.host, given.port), Server).serve_forever()
'''


def key_of(host: BedHost, instance: str) -> str:
    return host.ssh(f"cat /etc/metal2model/vllm/{instance}.key").stdout.strip()


def stand_in() -> dict[str, str]:
    """Return the stand-in's files."""
    known = [asdict(one) for one in vllm.arguments(Tree(vllm.sources(VERSION)))]
    parser = Path(arguments.__file__).read_text()
    return {"vllm": STAND_IN, "arguments.py": parser, "arguments.json": json.dumps(known)}


def vllm_host(make_host: MakeHost) -> BedHost:
    """Boot a host with Docker and the image for processors."""
    host = docker_host(make_host)
    recipe = "FROM bed/python\nCOPY vllm /usr/bin/\nCOPY arguments.py arguments.json /stand-in/\n"
    build_image(host, IMAGES["none"], {"Dockerfile": recipe, **stand_in()})
    return host
