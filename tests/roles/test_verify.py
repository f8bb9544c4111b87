"""What verify says of servers that answer wrongly: the program of the host is real, the server is pretended."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from roles.verify.facts import EndpointChecks, Serving
from roles.verify.files import check as program

UNIT = "llama-server@r1.service"
GOOD: dict[str, tuple[int, Any]] = {
    "/health": (200, {"status": "ok"}),
    "/v1/models": (200, {"data": [{"id": "tiny"}]}),
    "/v1/chat/completions": (
        200,
        {
            "choices": [{"message": {"content": "hello"}}],
            "usage": {"completion_tokens": 4},
            "timings": {"predicted_per_second": 100.0},
        },
    ),
}
Answers = dict[str, tuple[int, Any]]


@contextmanager
def server(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = answers[self.path]
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def endpoint(url: str, **given: Any) -> dict[str, Any]:
    return {
        "name": "llama_cpp/instances/r1", "unit": UNIT, "url": url, "model": "tiny", "health_path": "/health",
        "health_command": [], "restarts_by_itself": False, "api": "openai", "attempts": 1, "request_fields": {},
        "device_proof": "",
        "api_key_file": None, "prompt": "hi", "max_tokens": 8, "min_tokens_per_second": 0, "ready_timeout_seconds": 1,
        **given,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What systemd would say of the unit."""
    properties = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NRestarts": "0", "Result": ""}
    monkeypatch.setattr(program, "units_shown", lambda names: {UNIT: dict(properties)})
    monkeypatch.setattr(program, "last_log_lines", lambda unit: "its last words")
    return properties


def check(url: str, **given: Any) -> dict[str, Any]:
    (result,) = program.checked([endpoint(url, **given)], ["llama-server@*.service"])["checks"]
    return dict(result)


def problems(answers: Answers, **given: Any) -> list[str]:
    with server({**GOOD, **answers}) as url:
        return list(check(url, **given)["problems"])


def chat(**given: Any) -> Answers:
    status, body = GOOD["/v1/chat/completions"]
    return {"/v1/chat/completions": (status, {**body, **given})}


def test_a_server_that_answers_has_no_problems() -> None:
    with server(GOOD) as url:
        result = check(url)
    assert result == {
        "name": "llama_cpp/instances/r1",
        "unit": "active (running)", "health": "ok", "model": "tiny", "answer": "hello", "tokens_per_second": 100.0,
        "problems": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "given", "said"),
    [
        ({"/health": (503, {})}, {}, "/health answers 503"),
        ({"/v1/models": (200, {"data": [{"id": "other"}]})}, {}, "/v1/models lists ['other'], required is 'tiny'"),
        ({"/v1/models": (401, {})}, {}, "/v1/models answers 401"),
        ({"/v1/models": (200, [])}, {}, "the API does not answer as OpenAI's does"),
        (chat(choices=[{"message": {"content": "  "}}]), {}, "the golden prompt got an empty answer"),
        (chat(choices=[]), {}, "the API does not answer as OpenAI's does"),
        (chat(usage={"completion_tokens": 99}), {}, "the answer has 99 tokens, 8 were allowed"),
        ({}, {"min_tokens_per_second": 101}, "100.0 tokens/s, required are 101.0"),
    ],
)
def test_what_is_wrong_is_said(answers: Answers, given: dict[str, Any], said: str) -> None:
    (problem,) = problems(answers, **given)
    assert said in problem


def test_a_server_that_warms_up_may_fail_at_first() -> None:
    asked = iter([(500, {"detail": "kernels are compiled"}), GOOD["/v1/chat/completions"]])

    class Warming(dict[str, Any]):
        def __getitem__(self, path: str) -> Any:
            return next(asked) if path == "/v1/chat/completions" else super().__getitem__(path)

    with server(Warming(GOOD)) as url:
        assert check(url, attempts=2)["problems"] == []
    (problem,) = problems({"/v1/chat/completions": (500, {"detail": "still"})}, attempts=3)
    assert "/v1/chat/completions answers 500" in problem


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ({"model": "tiny", "choices": [{"text": "hello"}]}, []),
        ({"model": "tiny", "choices": [{"text": " "}]}, ["the golden prompt got an empty answer"]),
        ({"model": "other", "choices": [{"text": "hello"}]}, ["'other' answers, required is 'tiny'"]),
        ({"choices": []}, ["the API does not answer as OpenAI's does"]),
    ],
)
def test_a_server_may_have_completions_alone(reply: dict[str, Any], said: list[str]) -> None:
    with server({"/health": (200, {}), "/v1/completions": (200, reply)}) as url:
        found = check(url, api="completions")["problems"]
    assert [problem.partition(";")[0].partition(":")[0] for problem in found] == said


def test_a_thinking_model_may_answer_in_its_thoughts() -> None:
    assert problems(chat(choices=[{"message": {"content": None, "reasoning_content": "hm"}}])) == []


def test_another_protocol_on_the_port_is_no_crash() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def greet() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        (problem,) = check(f"http://127.0.0.1:{port}")["problems"]
    assert "not ready within 1 s" in problem


def test_a_unit_that_is_down_is_not_waited_for(units: dict[str, str]) -> None:
    units.update(ActiveState="failed", Result="exit-code")
    (problem,) = check("http://127.0.0.1:9", ready_timeout_seconds=3600)["problems"]
    assert problem.startswith("the unit is failed (exit-code)") and "its last words" in problem


def test_a_unit_that_keeps_restarting_is_not_waited_for(units: dict[str, str]) -> None:
    units.update(ActiveState="activating", SubState="auto-restart", NRestarts="7")
    (problem,) = check("http://127.0.0.1:9", ready_timeout_seconds=3600)["problems"]
    assert problem.startswith("the unit keeps restarting (7 times")


def test_health_can_be_a_command_of_the_host() -> None:
    with server({}) as url:
        result = check(url, health_command=["true"], model="")
    assert (result["health"], result["problems"]) == ("ok", [])


def test_a_command_that_fails_says_why() -> None:
    said = ["sh", "-c", "echo 10.0.0.2 has not joined >&2; exit 1"]
    (problem,) = check("ray://10.0.0.1:6379", health_command=said)["problems"]
    assert "10.0.0.2 has not joined; required is that ray://10.0.0.1:6379 is whole; its last words" in problem


def test_a_node_may_start_anew_with_its_cluster(monkeypatch: pytest.MonkeyPatch, units: dict[str, str]) -> None:
    asked = iter(range(9))
    monkeypatch.setattr(program, "units_shown", lambda names: {UNIT: {**units, "NRestarts": str(next(asked))}})
    assert problems({}, restarts_by_itself=True) == []
    units.update(ActiveState="activating", SubState="auto-restart")
    monkeypatch.setattr(program, "units_shown", lambda names: {UNIT: units})
    (problem,) = check("http://127.0.0.1:9", restarts_by_itself=True)["problems"]
    assert "not ready within 1 s" in problem


def test_a_restart_during_the_check_is_seen(monkeypatch: pytest.MonkeyPatch, units: dict[str, str]) -> None:
    asked = iter(range(9))
    monkeypatch.setattr(program, "units_shown", lambda names: {UNIT: {**units, "NRestarts": str(next(asked))}})
    assert "the unit restarted during the check" in problems({})[0]


def test_a_unit_that_runs_undeclared_is_told(monkeypatch: pytest.MonkeyPatch, units: dict[str, str]) -> None:
    others = {"old.service": units, "off.service": {**units, "ActiveState": "inactive"}}
    monkeypatch.setattr(program, "units_shown", lambda names: {UNIT: units, **others})
    with server(GOOD) as url:
        assert program.checked([endpoint(url)], ["*.service"])["undeclared"] == ["old.service"]


def test_a_unit_that_is_not_there_is_told_with_the_remedy(units: dict[str, str]) -> None:
    units.update(LoadState="not-found")
    assert "run deploys/full.py" in check("http://127.0.0.1:9")["problems"][0]


def test_a_host_without_python_has_no_checks() -> None:
    assert EndpointChecks().process(["{}"]) == Serving()


# --- Which device computes -------------------------------------------------------------------------------------------


@pytest.fixture
def unit_with_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory of programs before all others; the unit has the process of this test."""
    monkeypatch.setattr(program, "processes_of", lambda group: [str(os.getpid())])
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def lists(directory: Path, *pids: int) -> None:
    """Have an nvidia-smi there that lists these compute processes."""
    (directory / "nvidia-smi").write_text("#!/bin/sh\n" + "".join(f"echo {pid}\n" for pid in pids))
    (directory / "nvidia-smi").chmod(0o755)


def test_a_unit_that_computes_on_nvidias_card_is_believed(unit_with_processes: Path) -> None:
    lists(unit_with_processes, 1, os.getpid())
    assert problems({}, device_proof="gpu_memory") == []


def test_a_unit_that_computes_on_the_processors_is_found_out(unit_with_processes: Path) -> None:
    lists(unit_with_processes, 1)
    (problem,) = problems({}, device_proof="gpu_memory")
    assert problem.startswith("none of the unit's 1 processes holds GPU memory; required is that the GPU computes")


@pytest.mark.parametrize(
    ("fdinfo", "held"),
    [
        ("drm-driver:\txe\ndrm-total-system:\t4 KiB\ndrm-total-vram0:\t6881280 KiB\n", True),
        ("drm-driver:\ti915\ndrm-total-local0:\t512 MiB\n", True),
        ("drm-driver:\txe\ndrm-total-vram0:\t0\ndrm-total-gtt:\t4096 KiB\n", False),
        ("pos:\t0\nflags:\t02\n", False),
    ],
)
def test_the_kernel_says_how_much_of_intels_memory_a_process_holds(fdinfo: str, held: bool) -> None:
    """The keys are those of docs.kernel.org/gpu/drm-usage-stats.html."""
    assert bool(sum(map(int, program.DRM_MEMORY.findall(fdinfo)))) is held


@pytest.mark.parametrize(
    ("loaded", "said"),
    [
        ([{"name": "tiny", "size": 100 << 20, "size_vram": 100 << 20}], ""),
        ([{"name": "tiny:latest", "size": 100 << 20, "size_vram": 100 << 20}], ""),
        ([{"name": "tiny", "size": 100 << 20, "size_vram": 40 << 20}], ""),
        ([{"name": "tiny", "size": 100 << 20}], "0 of 100 MiB are in GPU memory"),
        ([], "/api/ps does not list 'tiny' after it answered"),
    ],
)
def test_ollamas_fallback_to_the_processors_is_found_out(loaded: list[dict[str, Any]], said: str) -> None:
    found = problems({"/api/ps": (200, {"models": loaded})}, device_proof="ollama_ps")
    assert said in "".join(found) and bool(found) is bool(said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"abc\n", ""),
        (b"\xef\xbb\xbfabc\r\n", ""),
        ("schlüssel".encode(), "required is one word of ASCII"),
        (b"\xff\xfe", "can't decode"),
        (b"two words", "required is one word of ASCII"),
        (b"", "required is one word of ASCII"),
    ],
)
def test_a_key_that_is_none_is_told_and_stops_no_other_check(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "r1.key"
    file.write_bytes(content)
    found = "".join(problems({}, api_key_file=str(file)))
    assert said in found and bool(found) is bool(said)
