"""Dify's options become upstream's compose files with secrets of the host's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from roles.common.endpoint import Endpoint
from roles.common.options import OptionError
from roles.common.secrets import KeyIn
from roles.declaration import Declaration
from roles.dify.deploy import SCRIPT
from roles.dify.options import SET_BY_ROLE, DifyOptions, from_containers
from roles.dify.units import CLOSED, KEYS, SECRETS, compose, environment, key_paths, override, render
from roles.dify.verify import endpoints

PINNED = {"version": "1.17.1", "sha256": "0" * 64}
# Another address than the one that is asked of must be said by `listens`.
SERVER: dict[str, Any] = {
    "name": "llama_cpp/instances/r1", "unit": "llama-server@r1.service", "url": "http://127.0.0.1:8000", "model": "r1",
    "ready_timeout_seconds": 60, "api_key_file": "/etc/metal2model/llama_cpp/r1.key", "context_length": 4096,
}  # fmt: skip


class Loader(yaml.SafeLoader):
    """Compose's own tags, as lists."""


def as_list(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node)


for tag in ("!override", "!reset"):
    Loader.add_constructor(tag, as_list)


def load(**given: Any) -> DifyOptions:
    return DifyOptions.load({**PINNED, **given}, where="h", path="dify")


def refusal(given: dict[str, Any], **more: Any) -> str:
    with pytest.raises(OptionError) as error:
        Declaration.load({"tags": ["cpu"], "dify": given, **more}, where="h")
    return str(error.value)


def test_a_release_is_taken_only_with_a_digest_that_somebody_checked() -> None:
    assert "h: dify/version: this option is required" in refusal({}, docker={})
    said = refusal({"version": "1.17.1"}, docker={})
    assert "h: dify/sha256: this option is required, for upstream publishes no digests" in said
    assert "https://github.com/langgenius/dify/archive/refs/tags/1.17.1.tar.gz" in said


def test_it_needs_docker() -> None:
    assert "h: dify/present: it runs containers" in refusal(PINNED)


def test_no_secret_stands_in_an_inventory() -> None:
    said = refusal({**PINNED, "environment": {"DB_PASSWORD": "x", "LOG_LEVEL": "DEBUG"}}, docker={})
    assert said.startswith("h: dify/environment: DB_PASSWORD: made on the host")


def test_every_secret_that_upstream_ships_for_everybody_is_replaced() -> None:
    values = environment(load(environment={"LOG_LEVEL": "DEBUG"})).values
    assert values["LOG_LEVEL"] == ["DEBUG"]
    assert values.keys() >= SET_BY_ROLE
    for name in SET_BY_ROLE:
        assert [part for part in values[name] if isinstance(part, KeyIn)], name
    paths = {part.path for name in SET_BY_ROLE for part in values[name] if isinstance(part, KeyIn)}
    assert paths == key_paths().keys()
    # Where two programs have to agree on a key, it is one.
    assert all(values[names[0]] == values[other] for names in KEYS.values() for other in names)
    assert values["CELERY_BROKER_URL"][1] == values["DIFY_AGENT_REDIS_URL"][1] == values["REDIS_PASSWORD"][0]
    assert values["DIFY_AGENT_SERVER_SECRET_KEY"] == [KeyIn(f"{SECRETS}/agent-server.key", "base64url")]


def test_a_secret_of_ones_own_stays_on_the_host() -> None:
    values = environment(load(secrets={"SMTP_PASSWORD": "/etc/keys/smtp"})).values
    assert values["SMTP_PASSWORD"] == [KeyIn("/etc/keys/smtp")]
    for name, value in {
        "SMTP_PASSWORD": "hunter2",
        "S3_SECRET_KEY": "x",
        "DATABASE_URL": "postgres://u:hunter2@db/x",
    }.items():
        said = refusal({**PINNED, "environment": {name: value}}, docker={})
        assert f"dify/environment/{name}: its value is a secret" in said and f"write secrets: {{{name}: " in said
        assert "hunter2" not in said
    for name, value in {
        "MAX_TOKENS": "4096",
        "ENABLE_API_KEY": "true",
        "SMTP_PASSWORD": "",
        "X_URL": "http://db:1",
    }.items():
        assert load(environment={name: value}).environment == {name: value}
    both = {"environment": {"A_TOKEN": "1"}, "secrets": {"A_TOKEN": "/k"}}
    assert "dify/secrets/A_TOKEN: stands in environment, too" in refusal({**PINNED, **both}, docker={})
    assert "dify/secrets: DB_PASSWORD: made on the host" in refusal(
        {**PINNED, "secrets": {"DB_PASSWORD": "/k"}}, docker={}
    )


COMPOSE = """\
x-shared: &shared
  # ports: none here
  DB_PASSWORD: ${DB_PASSWORD:-difyai123456}
  AGENT_BACKEND_API_TOKEN: ${AGENT_BACKEND_API_TOKEN:-${DIFY_AGENT_API_TOKEN:-dify-agent-run-token-for-dev-only}}
  QDRANT_API_KEY: ${QDRANT_API_KEY:-difyai123456}
services:
  api:
    image: api:1
    environment: {<<: *shared}
  db: # the database
    image: db:1
    environment: {POSTGRES_PASSWORD: "${POSTGRES_PASSWORD:-difyai123456}"}
  nginx:
    image: nginx:1
    ports:
      - "80:80"
  qdrant:
    profiles: [qdrant]
    ports: ["6333:6333"]
  opensearch-dashboards:
    # The page.
    ports:
      - 5601:5601
networks:
  default: {}
"""
EXAMPLE = "DB_PASSWORD=difyai123456\nPOSTGRES_PASSWORD=${DB_PASSWORD}\nQDRANT_API_KEY=difyai123456\nEMPTY_KEY=\n"


class Release:
    """release.sh, run on a source archive of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        self.compose, self.example = COMPOSE, EXAMPLE
        self.volumes = {"sandbox/conf/config.yaml": "app: {}\n"}

    def install(self, version: str = "1") -> subprocess.CompletedProcess[str]:
        docker = self.folder / "dify" / "docker"
        texts = {"docker-compose.yaml": self.compose, ".env.example": self.example}
        for name, text in {**texts, **{f"volumes/{name}": text for name, text in self.volumes.items()}}.items():
            (docker / name).parent.mkdir(parents=True, exist_ok=True)
            (docker / name).write_text(text)
        archive = self.folder / "dify.tar.gz"
        subprocess.run(["tar", "-C", self.folder, "-czf", archive, "dify"], check=True)
        fetch = 'set -eu\nfetch() { cp "$1" "$3"; }\n'
        words = ["sh", "-c", fetch + SCRIPT.read_text(), "sh", f"{self.folder}/programs/{version}", str(archive), "0"]
        words += [str(self.state), f"{self.folder}/environment", *environment(load()).values]
        return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def test_no_service_of_upstreams_file_opens_a_port_but_the_page(release: Release) -> None:
    assert release.install().stderr == ""
    closed = yaml.load((release.folder / "programs/1/metal2model-ports.yaml").read_text(), Loader)
    assert closed == {"services": {"qdrant": {"ports": []}, "opensearch-dashboards": {"ports": []}}}
    assert f"-f {CLOSED} " in compose()


@pytest.mark.parametrize("text", ["  x: {image: y, ports: [80]}\n", "x-common:\n  ports: [80]\n"])
def test_a_file_of_another_shape_is_refused(release: Release, text: str) -> None:
    release.compose = COMPOSE.replace("networks:", f"{text}networks:")
    done = release.install()
    assert done.returncode != 0 and "dify/version: docker-compose.yaml is laid out in another way" in done.stderr
    assert not (release.folder / "programs/1").exists()


@pytest.mark.parametrize(
    ("example", "compose", "name"),
    [
        ("NEW_KEY=new-token-for-dev-only\n", "", "NEW_KEY"),
        ("", "  NEW: ${NEW_KEY:-difyai123456}\n", "NEW_KEY"),
        ("NEW_KEY=\n", "  NEW: x${A:-${NEW_KEY:-difyai123456}}y\n", "NEW_KEY"),
        ("", "  NEW_KEY: dify-sandbox\n", "NEW_KEY"),
        ("NEW_KEY=${DB_PASSWORD}\n", "  NEW: ${NEW_KEY:-difyai123456}\n  # B: difyai123456\n", ""),
        ("", "  DIFY_AGENT_REDIS_URL: redis://:${REDIS_PASSWORD:-difyai123456}@redis:6379/2\n", ""),
    ],
)
def test_a_release_with_a_secret_that_everybody_knows_is_refused(
    release: Release, example: str, compose: str, name: str
) -> None:
    release.example += example
    release.compose = COMPOSE.replace("services:\n", f"{compose}services:\n", 1)
    done = release.install()
    assert (done.returncode != 0, (release.folder / "programs/1").exists()) == (bool(name), not name), done.stderr
    assert not name or f"upstream's files give {name} a secret that everybody knows" in done.stderr


def test_files_of_a_release_stand_beside_data_whole_or_not_at_all(release: Release) -> None:
    place = release.state / "volumes/sandbox/conf"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text("mine\n")
    (place / "other.yaml.part").write_text("ha")
    release.volumes["sandbox/conf/other.yaml"] = "half\n"
    assert release.install().returncode == 0
    assert {path.name: path.read_text() for path in place.iterdir()} == {
        "config.yaml": "mine\n",
        "other.yaml": "half\n",
    }
    assert (release.folder / "programs/1/volumes").resolve() == release.state / "volumes"


@pytest.mark.parametrize(
    ("host", "publish"), [("127.0.0.1", "127.0.0.1:8080:80"), ("::1", "[::1]:8080:80"), ("0.0.0.0", "0.0.0.0:8080:80")]
)
def test_one_port_is_open_and_no_other(host: str, publish: str) -> None:
    laid_over = yaml.load(override(load(host=host)), Loader)["services"]
    assert laid_over["nginx"]["ports"] == [publish]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, None),
        ({"listens": "127.0.0.1"}, None),
        ({"url": "http://[::1]:8000"}, None),
        ({"listens": "0.0.0.0"}, "http://host.docker.internal:8000/v1"),
        ({"listens": "172.17.0.1", "url": "http://172.17.0.1:8000"}, "http://172.17.0.1:8000/v1"),
    ],
)
def test_a_container_is_told_an_address_that_it_reaches(given: dict[str, Any], url: str | None) -> None:
    server = Endpoint(**{**SERVER, **given})
    assert from_containers(server) == url
    assert bool(load().findings([server])) == (url is None)


def test_the_card_has_what_the_provider_is_asked_for() -> None:
    (page,) = endpoints(load(), [Endpoint(**{**SERVER, "listens": "0.0.0.0"}), Endpoint(**{**SERVER, "name": "x"})])
    assert page.notes == (
        "first asked for: the password in /etc/metal2model/dify/init.password on the host",
        "plugin langgenius/openai_api_compatible: model r1, API Base URL http://host.docker.internal:8000/v1, "
        "model context size 4096, API key in /etc/metal2model/llama_cpp/r1.key",
    )


def test_the_unit_is_confined(tmp_path: Path) -> None:
    unit = tmp_path / "dify.service"
    unit.write_text(render().replace("/usr/bin/docker", "/bin/true"))
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=40", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "dify.service:" in line]
    assert not [line for line in complaints if "docker.service not found" not in line], done.stderr
