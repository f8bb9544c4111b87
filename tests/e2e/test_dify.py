"""Dify by compose. Its images cannot be had here: a small program stands in for each service of a small compose file
that has upstream's names and variables, and says what it was given."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.conftest import MakeHost
from tests.e2e.containers import build_image, docker_host
from tests.e2e.support import run
from tests.testbed.hosts import BedHost

# docker/docker-compose.yaml and .env.example of langgenius/dify, of which this has what the role depends on.
COMPOSE = """\
services:
  nginx:
    image: langgenius/dify-api:{version}
    restart: always
    env_file: [./.env]
    environment:
      API_KEY: ${{SANDBOX_API_KEY:-dify-sandbox}}
      DB_PASSWORD: ${{DB_PASSWORD:-difyai123456}}
    volumes: ["./volumes/app/storage:/app/api/storage", "./volumes/sandbox/conf:/conf"]
    ports:
      - "${{EXPOSE_NGINX_PORT:-80}}:${{NGINX_PORT:-80}}"
      - "${{EXPOSE_NGINX_SSL_PORT:-443}}:${{NGINX_SSL_PORT:-443}}"
  plugin_daemon:
    image: langgenius/dify-api:{version}
    restart: always
    environment: {{SERVER_KEY: "${{PLUGIN_DAEMON_KEY:-for-everybody}}"}}
    ports: ["${{EXPOSE_PLUGIN_DEBUGGING_PORT:-5003}}:5003"]
"""
EXAMPLE = "# As upstream\nLOG_LEVEL=INFO\nSECRET_KEY=sk-for-everybody\nDB_PASSWORD=difyai123456\nINIT_PASSWORD=\n"
SERVICE = """\
import http.server, json, os, signal, sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit())

class Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({**os.environ, "files": os.listdir("/app/api/storage")}).encode())

if "API_KEY" in os.environ:
    open("/app/api/storage/" + os.environ["DIFY_VERSION"], "w").close()
http.server.HTTPServer(("", 80), Api).serve_forever()
"""


def publish(host: BedHost, version: str) -> str:
    """Put a release where the host finds it, with its image, and return the archive's digest."""
    dockerfile = f'FROM bed/python\nENV DIFY_VERSION={version}\nCOPY serve.py /\nENTRYPOINT ["python3", "/serve.py"]\n'
    build_image(host, f"langgenius/dify-api:{version}", {"Dockerfile": dockerfile, "serve.py": SERVICE})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in {
            "docker/docker-compose.yaml": COMPOSE.format(version=version),
            "docker/.env.example": EXAMPLE,
            "docker/volumes/sandbox/conf/config.yaml": "app: {}\n",
            "api/app.py": "",
        }.items():
            member = tarfile.TarInfo(f"dify-{version}/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    place = f"/srv/hub/archive/refs/tags/{version}.tar.gz"
    store = host.ssh_command(f"mkdir -p {Path(place).parent} && cat >{place}")
    subprocess.run(store, input=buffer.getvalue(), check=True, timeout=60)
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def given(host: BedHost) -> Any:
    """Return what the service behind the page was given."""
    return json.loads(host.ssh("curl -sf http://127.0.0.1:8080/").stdout)


def test_dify_comes_up_with_its_own_secrets_and_goes_to_another_version_with_its_data(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = docker_host(make_host)
    older, newer = publish(host, "1.17.0"), publish(host, "1.17.1")
    host.ssh("systemd-run --quiet --unit hub python3 -m http.server --bind 127.0.0.1 --directory /srv/hub 9000")
    options = {"download_url": "http://127.0.0.1:9000", "environment": {"LOG_LEVEL": "DEBUG"}}

    def data(version: str, sha256: str) -> dict[str, Any]:
        dify = {**options, "version": version, "sha256": sha256}
        return {**host.pyinfra_data(), "tags": ["cpu"], "docker": {"source": "existing"}, "dify": dify}

    refused = run(tmp_path, {host.name: data("1.17.0", newer)})
    assert refused.code != 0 and "dify/sha256: http://127.0.0.1:9000/archive/refs/tags/1.17.0.tar.gz" in refused.output

    first = run(tmp_path, {host.name: data("1.17.0", older)}).succeeded()
    assert f"first: ssh -N -L 8080:127.0.0.1:8080 root@{host.address}" in first.output
    seen = given(host)
    assert (seen["LOG_LEVEL"], seen["DIFY_VERSION"], len(seen["INIT_PASSWORD"])) == ("DEBUG", "1.17.0", 24)
    keys = {name: host.ssh(f"cat /etc/metal2model/dify/{name}.key").stdout.strip() for name in ("secret", "database")}
    assert (seen["SECRET_KEY"], seen["DB_PASSWORD"]) == (keys["secret"], keys["database"])
    assert seen["API_KEY"] not in ("", "dify-sandbox")
    assert host.ssh("stat -c %a /etc/metal2model/dify/environment").stdout == "600\n"
    assert not [key for key in keys.values() if key in first.output]
    listening = host.ssh("ss -Htln | awk '{print $4}'").stdout.split()
    assert "127.0.0.1:8080" in listening
    assert not [one for one in listening if one.rpartition(":")[2] in ("80", "443", "5003")], listening

    assert run(tmp_path, {host.name: data("1.17.0", older)}).succeeded().changed(host.name) == []

    run(tmp_path, {host.name: data("1.17.1", newer)}).succeeded()
    seen = given(host)
    assert (seen["DIFY_VERSION"], sorted(seen["files"])) == ("1.17.1", ["1.17.0", "1.17.1"])
    assert seen["SECRET_KEY"] == keys["secret"]
    assert host.ssh("cat /var/lib/dify/volumes/sandbox/conf/config.yaml").stdout == "app: {}\n"

    gone = {**data("1.17.1", newer), "dify": {"present": False}}
    run(tmp_path, {host.name: gone}).succeeded()
    assert host.ssh("docker ps --all --quiet").stdout == ""
    assert host.ssh("ls /var/lib/dify/volumes/app/storage").stdout.split() == ["1.17.0", "1.17.1"]
