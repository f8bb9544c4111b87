"""Check model servers on the host that runs them; reads only. Runs on any Python 3.9 or newer, standard library alone.

Arguments: a JSON list of endpoints, as roles/common/endpoint.py describes them, and patterns of the units that serve
them. Output: a JSON object, "checks" of the endpoints and "undeclared", running units that belong to none of them.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2


def unit_properties(unit: str) -> dict[str, str]:
    """Return what systemd says of a unit."""
    wanted = "LoadState,ActiveState,SubState,NRestarts,Result"
    shown = subprocess.run(
        ["systemctl", "show", "--property", wanted, "--", unit], capture_output=True, text=True, check=False
    )
    return dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)


def call(endpoint: dict[str, Any], path: str, body: dict[str, Any] | None = None, timeout: float = 10) -> Any:
    """Return the JSON of a GET, or of a POST when there is a body. Raises OSError and ValueError."""
    headers = {"Content-Type": "application/json"}
    if endpoint["api_key_file"]:
        headers["Authorization"] = "Bearer " + Path(endpoint["api_key_file"]).read_text(encoding="ascii").split()[0]
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(endpoint["url"] + path, data, headers)
    # A proxy of the environment must not see requests to this very host.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout) as response:
        return json.load(response)


def wait_until_healthy(endpoint: dict[str, Any]) -> str:
    """Return "" once /health answers 200, else what stood in the way; gives up at once when the unit is down."""
    deadline = time.monotonic() + endpoint["ready_timeout_seconds"]
    problem = ""
    restarts = None
    while time.monotonic() < deadline:
        try:
            call(endpoint, "/health")
            return ""
        except urllib.error.HTTPError as error:
            problem = f"/health answers {error.code}"
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            problem = f"/health: {getattr(error, 'reason', None) or repr(error)}"
        unit = unit_properties(endpoint["unit"])
        restarts = unit.get("NRestarts") if restarts is None else restarts
        if unit.get("ActiveState") not in ("active", "activating"):
            return f"the unit is {unit.get('ActiveState', 'unknown')} ({unit.get('Result', '')})"
        if unit.get("SubState") == "auto-restart" or unit.get("NRestarts") != restarts:
            return f"the unit keeps restarting ({unit.get('NRestarts')} times, last result {unit.get('Result')})"
        time.sleep(POLL_SECONDS)
    return f"not ready within {endpoint['ready_timeout_seconds']} s: {problem}"


def last_log_lines(unit: str) -> str:
    """Return a unit's last words, on one line."""
    shown = subprocess.run(
        ["journalctl", "--unit", unit, "--lines", "3", "--output", "cat", "--no-pager"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return " | ".join(shown.stdout.split("\n")).strip(" |")


def check(endpoint: dict[str, Any]) -> dict[str, Any]:
    """Return what one endpoint proved: fields of roles/verify/facts.py's EndpointCheck."""
    result: dict[str, Any] = {"problems": []}
    problems: list[str] = result["problems"]
    unit = unit_properties(endpoint["unit"])
    result["unit"] = f"{unit.get('ActiveState', 'unknown')} ({unit.get('SubState', '')})"
    if unit.get("LoadState") != "loaded":
        problems.append(
            f"{endpoint['unit']} is {unit.get('LoadState', 'unknown')}, required is an active unit; run deploys/full.py"
        )
        return result
    if problem := wait_until_healthy(endpoint):
        result["health"] = "failed"
        log = last_log_lines(endpoint["unit"])
        problems.append(f"{problem}; required is 200 from {endpoint['url']}/health; its last words: {log or 'none'}; "
                        f"read journalctl -u {endpoint['unit']}")  # fmt: skip
        return result
    result["health"] = "ok"
    try:
        served = [model["id"] for model in call(endpoint, "/v1/models")["data"]]
        result["model"] = ", ".join(served)
        if endpoint["model"] not in served:
            problems.append(
                f"/v1/models lists {served}, required is {endpoint['model']!r}; is another server on this port?"
            )
        answer(endpoint, result)
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace")
        problems.append(f"{error.url} answers {error.code}: {said}; read journalctl -u {endpoint['unit']}")
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        problems.append(f"the API does not answer as OpenAI's does: {error!r}; read journalctl -u {endpoint['unit']}")
    after = unit_properties(endpoint["unit"])
    if after.get("NRestarts") != unit.get("NRestarts"):
        problems.append(f"the unit restarted during the check; read journalctl -u {endpoint['unit']}")
    return result


def undeclared(endpoints: list[dict[str, Any]], patterns: list[str]) -> list[str]:
    """Return the units of engines that run though nothing declares them (any more)."""
    command = ["systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", "--", *patterns]
    shown = subprocess.run(command, capture_output=True, text=True, check=False) if patterns else None
    running = [line.split()[0] for line in shown.stdout.splitlines() if line.strip()] if shown else []
    return sorted(set(running) - {endpoint["unit"] for endpoint in endpoints})


def answer(endpoint: dict[str, Any], result: dict[str, Any]) -> None:
    """Ask the golden prompt and judge the answer."""
    body = {
        "model": endpoint["model"],
        "messages": [{"role": "user", "content": endpoint["prompt"]}],
        "max_tokens": endpoint["max_tokens"],
        "temperature": 0,
        "cache_prompt": False,
    }
    speed = 0.0
    # The first answer after a start is slow: pages are still read, clocks still low. Only a slow third one counts.
    for _ in range(3):
        started = time.monotonic()
        reply = call(endpoint, "/v1/chat/completions", body, timeout=300)
        seconds = time.monotonic() - started
        message = reply["choices"][0]["message"]
        text = (message.get("content") or "") + (message.get("reasoning_content") or "")
        tokens = reply["usage"]["completion_tokens"]
        # llama-server measures the generation alone; the wall clock also counts reading the prompt.
        speed = max(speed, reply.get("timings", {}).get("predicted_per_second") or tokens / seconds)
        if speed >= endpoint["min_tokens_per_second"]:
            break
    result["answer"] = text
    result["tokens_per_second"] = round(speed, 1)
    if not text.strip():
        result["problems"].append(
            "the golden prompt got an empty answer; required is text; is the chat template right?"
        )
    if tokens > endpoint["max_tokens"]:
        result["problems"].append(
            f"the answer has {tokens} tokens, {endpoint['max_tokens']} were allowed; does the server honour max_tokens?"
        )
    if speed < endpoint["min_tokens_per_second"]:
        result["problems"].append(
            f"{speed:.1f} tokens/s, required are {endpoint['min_tokens_per_second']:.1f} (min_tokens_per_second); "
            "is the model on the right device?"
        )


def main(declared: str, *patterns: str) -> None:
    """Check what is declared, and print the results."""
    endpoints = json.loads(declared)
    checks = [{"name": endpoint["name"], **check(endpoint)} for endpoint in endpoints]
    print(json.dumps({"checks": checks, "undeclared": undeclared(endpoints, list(patterns))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
