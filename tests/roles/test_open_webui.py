"""Open WebUI's options become a unit and a file of settings; keys stay where they are."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.endpoint import Endpoint
from roles.common.files import environment_file as program
from roles.common.options import OptionError
from roles.common.secrets import KeyIn
from roles.declaration import Declaration
from roles.open_webui.options import SET_BY_OPTIONS, VERSION, OpenWebuiOptions
from roles.open_webui.units import QUIET, REQUIREMENTS, environment, render

MODELS = {"wanted": {"tiny": {"path": "/srv/models/tiny.gguf"}}}


def server(name: str, port: int, key: bool = True) -> Endpoint:
    role, _, instance = name.partition("/instances/")
    return Endpoint(
        name=name, unit=f"{instance}.service", url=f"http://127.0.0.1:{port}", model=instance,
        ready_timeout_seconds=60, api_key_file=f"/etc/metal2model/{role}/{instance}.key" if key else None,
    )  # fmt: skip


SERVERS = [server("llama_cpp/instances/one", 8000), server("vllm/instances/two", 8001, key=False)]


def load(**given: Any) -> OpenWebuiOptions:
    return OpenWebuiOptions.load(given, where="h", path="open_webui")


def refusal(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        Declaration.load({"tags": ["cpu"], **given}, where="h")
    return str(error.value)


def test_every_server_of_the_host_is_connected_with_its_key() -> None:
    values = environment(load(), SERVERS).values
    assert values["OPENAI_API_BASE_URLS"] == ["http://127.0.0.1:8000/v1;http://127.0.0.1:8001/v1"]
    assert values["OPENAI_API_KEYS"] == [KeyIn("/etc/metal2model/llama_cpp/one.key"), ";", "none"]
    assert values["ENABLE_OLLAMA_API"] == ["false"]


def test_only_the_servers_that_were_asked_for() -> None:
    values = environment(load(backends=["vllm/instances/two"]), SERVERS).values
    assert values["OPENAI_API_BASE_URLS"] == ["http://127.0.0.1:8001/v1"]
    assert values["OPENAI_API_KEYS"] == ["none"]


def test_a_server_elsewhere_comes_with_a_key_that_lies_on_the_host() -> None:
    more = {"big": {"url": "http://192.0.2.20:8000/v1", "api_key_file": "/etc/keys/big"}}
    values = environment(load(more_backends=more), SERVERS[:1]).values
    assert values["OPENAI_API_BASE_URLS"] == ["http://127.0.0.1:8000/v1;http://192.0.2.20:8000/v1"]
    assert values["OPENAI_API_KEYS"] == [KeyIn("/etc/metal2model/llama_cpp/one.key"), ";", KeyIn("/etc/keys/big")]


def test_ollama_is_spoken_to_in_its_own_words_and_once() -> None:
    models = [server("ollama/instances/a", 11434, key=False), server("ollama/instances/b", 11434, key=False)]
    values = environment(load(), models).values
    assert values["OLLAMA_BASE_URLS"] == ["http://127.0.0.1:11434"]
    assert values["ENABLE_OPENAI_API"] == ["false"] and "OPENAI_API_KEYS" not in values


def test_without_a_server_it_does_not_ask_openai() -> None:
    """Upstream takes api.openai.com where nothing is named (backend/open_webui/config.py)."""
    assert environment(load(), []).values["ENABLE_OPENAI_API"] == ["false"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backends": ["llama_cpp/instances/on"]}, "open_webui/backends: 'llama_cpp/instances/on' is no server of this "
         "host (did you mean 'llama_cpp/instances/one'?)"),
        ({"port": 8000}, "port 8000 is llama_cpp/instances/one/port's already"),
        ({"environment": {"OPENAI_API_KEYS": "x"}}, "open_webui/environment: OPENAI_API_KEYS is set by the role"),
        ({"method": "container", "python": "3.12"}, "open_webui/python: has no effect with method: 'container'"),
        ({"method": "container"}, "open_webui/method: it runs containers, and the docker role is not declared"),
        ({"environment": {"AUDIO_KEY": "s"}}, "open_webui/environment/AUDIO_KEY: its value is a secret"),
        ({"secrets": {"WEBUI_SECRET_KEY": "/k"}}, "open_webui/secrets: WEBUI_SECRET_KEY is set by the role"),
        ({"secrets": {"AUDIO_KEY": "k"}}, "open_webui/secrets/AUDIO_KEY: "),
        ({"auth": False}, "open_webui/auth: no such option: there is always a login"),
        ({"image": "ghcr.io/open-webui/open-webui:latest"}, "open_webui/image: "),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    engine = {"instances": {"one": {"model": "tiny", "port": 8000}}}
    assert said in refusal(models=MODELS, llama_cpp=engine, open_webui=given)


def test_a_secret_comes_from_a_file_of_the_host() -> None:
    options = load(method="container", secrets={"AUDIO_KEY": "/etc/keys/audio"})
    assert environment(options, []).values["AUDIO_KEY"] == [KeyIn("/etc/keys/audio")]
    assert "AUDIO_KEY" not in render(options)


def test_a_port_of_root_takes_the_right_to_it_and_no_other_port_does() -> None:
    assert "\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in render(load(port=80))
    assert "\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n" in render(load(port=80))
    assert "\nAmbientCapabilities=\n" in render(load()) and "\nCapabilityBoundingSet=\n" in render(load())
    assert "--cap-add=NET_BIND_SERVICE" in render(load(method="container", port=80))
    assert "--cap-add" not in render(load(method="container"))


def test_nothing_leaves_the_host_by_itself() -> None:
    unit = render(load())
    for name in ("OFFLINE_MODE=true", "DO_NOT_TRACK=true", "ANONYMIZED_TELEMETRY=false", "SCARF_NO_ANALYTICS=true"):
        assert f"Environment={name}\n" in unit
    assert "Environment=OFFLINE_MODE=false\n" in render(load(environment={"OFFLINE_MODE": "false"}))
    assert not SET_BY_OPTIONS.keys() & QUIET.keys()


def test_the_container_listens_where_it_is_told_and_gets_its_keys_by_a_file() -> None:
    unit = render(load(method="container", host="192.0.2.10", port=3001))
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert "--env=HOST=192.0.2.10 " in line and "--env=PORT=3001 " in line and "--network=host" in line
    assert "--env-file=${CREDENTIALS_DIRECTORY}/environment" in line
    assert line.endswith(f"ghcr.io/open-webui/open-webui:v{VERSION}")


@pytest.mark.parametrize("port", [80, 3000])
@pytest.mark.parametrize("method", ["native", "container"])
def test_the_unit_is_confined(method: str, port: int, tmp_path: Path) -> None:
    unit = tmp_path / "open-webui.service"
    # What the unit would run is not on this machine.
    text = render(load(method=method, port=port)).replace(
        "/opt/metal2model/open_webui/current/bin/open-webui", "/bin/true"
    )
    unit.write_text(text.replace("/usr/bin/docker", "/bin/true"))
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=40", str(unit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "open-webui.service:" in line]
    assert not [line for line in complaints if "docker.service not found" not in line], done.stderr


def test_the_packages_are_those_of_the_version_and_without_pytorch() -> None:
    pinned = {line.split("==")[0]: line.split("==")[1].split()[0] for line in REQUIREMENTS.read_text().splitlines()
              if "==" in line and not line.startswith("#")}  # fmt: skip
    assert pinned["open-webui"] == VERSION
    assert not {"torch", "triton"} & pinned.keys() and not [name for name in pinned if name.startswith("nvidia-")]


# --- The file of settings, as the host's own program writes it -----------------------------------------------------


def run(mode: str, wanted: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-I", "-S", program.__file__, mode, json.dumps([wanted])]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def wanted(path: Path, values: dict[str, Any], base: str = "") -> dict[str, Any]:
    return {"path": str(path), "base": base, "owner": "open_webui", "values": values}


def test_the_keys_come_from_their_files_into_one_that_is_roots_alone(tmp_path: Path) -> None:
    (tmp_path / "one.key").write_text("k1\n")
    (tmp_path / "two.key").write_text("k2")
    path = tmp_path / "new" / "environment"
    asked = wanted(path, {"KEYS": [{"path": f"{tmp_path}/one.key"}, ";", {"path": f"{tmp_path}/two.key"}]})
    assert run("check", asked).stdout == "differs\n"
    assert run("write", asked).returncode == 0
    assert path.read_text() == "KEYS=k1;k2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    if os.getuid() == 0:
        assert run("check", asked).stdout == "as wanted\n"
    path.chmod(0o644)
    assert run("check", asked).stdout == "differs\n"


def test_the_check_never_says_a_key(tmp_path: Path) -> None:
    (tmp_path / "one.key").write_text("very-secret\n")
    asked = wanted(tmp_path / "environment", {"KEY": [{"path": f"{tmp_path}/one.key"}]})
    for mode in ("check", "write", "check"):
        done = run(mode, asked)
        assert "very-secret" not in done.stdout + done.stderr


@pytest.mark.parametrize("key", ["", "two\nlines; x", "a;b", "a'b", 'a"b', "a$b", "a\\b", "a#b", "密"])
def test_a_key_that_the_program_would_read_as_something_else_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "one.key").write_text(key)
    done = run("write", wanted(tmp_path / "environment", {"KEY": [{"path": f"{tmp_path}/one.key"}]}))
    if key == "two\nlines; x":  # the first word counts
        assert (tmp_path / "environment").read_text() == "KEY=two\n"
        return
    assert done.returncode == 1 and not (tmp_path / "environment").exists()
    assert f"{tmp_path}/one.key holds no key that can be handed on" in done.stderr


def test_a_key_is_spelt_as_its_reader_wants_it(tmp_path: Path) -> None:
    """Dify's agent decodes base64url without padding, and wants exactly 32 bytes."""
    (tmp_path / "k").write_text("00ff" * 16 + "\n")
    asked = wanted(tmp_path / "environment", {"KEY": [{"path": f"{tmp_path}/k", "form": "base64url"}]})
    assert run("write", asked).returncode == 0
    value = (tmp_path / "environment").read_text().removeprefix("KEY=").strip()
    assert "=" not in value and base64.urlsafe_b64decode(value + "=") == bytes.fromhex("00ff" * 16)
    (tmp_path / "k").write_text("mine")
    assert "holds no key of 64 hexadecimal digits" in run("write", asked).stderr


def test_every_line_of_a_name_is_replaced(tmp_path: Path) -> None:
    """Who reads such a file takes the last one."""
    (tmp_path / "base").write_text("A=1\nB=2\n A=3\n")
    text = program.filled(wanted(tmp_path / "x", {"A": ["mine"]}, f"{tmp_path}/base"))
    assert text == "A=mine\nB=2\nA=mine\n"


def test_a_missing_key_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    asked = wanted(tmp_path / "environment", {"KEY": [{"path": f"{tmp_path}/none.key"}]})
    assert run("check", asked).stdout == "differs\n"
    done = run("write", asked)
    assert done.returncode == 1 and "open_webui:" in done.stderr and "none.key" in done.stderr
    assert not (tmp_path / "environment").exists()


NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True)
VALUES = st.from_regex(r"[a-z0-9./:-]{0,12}", fullmatch=True)
COMMENTS = st.sampled_from(["", "# A comment", "#OLD=value", "# A=b"])


@settings(max_examples=60, deadline=None)
@given(base=st.dictionaries(NAMES, VALUES), values=st.dictionaries(NAMES, VALUES), comments=st.lists(COMMENTS))
def test_a_file_to_begin_with_keeps_all_that_is_not_set(
    tmp_path_factory: pytest.TempPathFactory, base: dict[str, str], values: dict[str, str], comments: list[str]
) -> None:
    example = tmp_path_factory.mktemp("base") / ".env.example"
    lines = [*comments, *(f"{name}={value}" for name, value in base.items())]
    example.write_text("".join(f"{line}\n" for line in lines))
    text = program.filled(wanted(example, {name: [value] for name, value in values.items()}, str(example)))
    read = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert dict(line.split("=", 1) for line in read) == {**base, **values}
    assert len(read) == len({**base, **values})
    assert [line for line in text.splitlines() if line.startswith("#")] == [one for one in comments if one]
