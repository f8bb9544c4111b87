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
from roles.dify.options import SET_BY_ROLE, DifyOptions, from_containers
from roles.dify.units import KEYS, environment, key_paths, override, render
from roles.dify.verify import endpoints

PINNED = {"version": "1.17.1", "sha256": "0" * 64}
# Another address than the one that is asked of must be said by `listens`.
SERVER: dict[str, Any] = {
    "name": "llama_cpp/instances/r1", "unit": "llama-server@r1.service", "url": "http://127.0.0.1:8000", "model": "r1",
    "ready_timeout_seconds": 60, "api_key_file": "/etc/metal2model/llama_cpp/r1.key", "context_length": 4096,
}  # fmt: skip


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
    assert values["CELERY_BROKER_URL"][1] == values["REDIS_PASSWORD"][0]


@pytest.mark.parametrize(
    ("host", "publish"), [("127.0.0.1", "127.0.0.1:8080:80"), ("::1", "[::1]:8080:80"), ("0.0.0.0", "0.0.0.0:8080:80")]
)
def test_one_port_is_open_and_no_other(host: str, publish: str) -> None:
    class Loader(yaml.SafeLoader):
        """Compose's own tags, as lists."""

    for tag in ("!override", "!reset"):
        Loader.add_constructor(tag, lambda loader, node: loader.construct_sequence(node))  # type: ignore[arg-type]
    laid_over = yaml.load(override(load(host=host)), Loader)["services"]
    assert laid_over["nginx"]["ports"] == [publish]
    assert laid_over["plugin_daemon"]["ports"] == []


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
