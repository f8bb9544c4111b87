"""Check model servers on the host that runs them; reads only. Runs on any Python 3.10 or newer, standard library alone.

Arguments: a JSON list of endpoints, as roles/common/endpoint.py describes them, and patterns of the units that serve
them. Output: a JSON object, "checks" of the endpoints and "undeclared", running units that belong to none of them.
"""

from __future__ import annotations

# Nothing heavy is imported: a host at rest spends most of its time here on starting Python.
import http.client
import json
import os
import re
import subprocess
import sys
import time
from typing import Any
from urllib.parse import urlsplit

POLL_SECONDS = 0.2


class Refused(Exception):
    """The server answered, with another status than 200."""


def units_shown(names: list[str]) -> dict[str, dict[str, str]]:
    """Return what systemd says of units, by name; a pattern stands for all loaded ones that match."""
    wanted = "Id,LoadState,ActiveState,SubState,NRestarts,Result"
    shown = subprocess.run(
        ["systemctl", "show", "--property", wanted, "--", *names], capture_output=True, text=True, check=False
    )
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.stdout.split("\n\n")]
    return {block["Id"]: block for block in blocks if "Id" in block}


def key_in(path: str) -> str:
    """Return the key in a file, which may begin with a byte order mark; raises OSError and ValueError."""
    with open(path, encoding="utf-8-sig") as file:
        words = file.read().split()
    if len(words) != 1 or not words[0].isascii():
        raise ValueError("required is one word of ASCII")
    return words[0]


def fetch(endpoint: dict[str, Any], path: str, body: dict[str, Any] | None = None, timeout: float = 10) -> bytes:
    """
    Return what a GET answers, or a POST when there is a body.

    Raises Refused, OSError and HTTPException. No proxy of the environment sees requests to this very host.
    """
    headers = {"Content-Type": "application/json"}
    if endpoint["api_key_file"]:
        headers["Authorization"] = "Bearer " + key_in(endpoint["api_key_file"])
    address = urlsplit(endpoint["url"])
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", address.path + path, data, headers)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if response.status != 200:
        said = text[:300].decode(errors="replace")
        raise Refused(f"{endpoint['url']}{path} answers {response.status}: {said}")
    return text


def call(endpoint: dict[str, Any], path: str, body: dict[str, Any] | None = None, timeout: float = 10) -> Any:
    """Return the JSON of `fetch`; raises ValueError where it is none."""
    return json.loads(fetch(endpoint, path, body, timeout))


def ask_for_health(endpoint: dict[str, Any]) -> None:
    """Return when it is healthy; raises what `fetch` does."""
    if not endpoint["health_command"]:
        fetch(endpoint, endpoint["health_path"])
        return
    try:
        done = subprocess.run(endpoint["health_command"], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise Refused("its health could not be told within 60 s") from None
    if done.returncode:
        raise Refused(" | ".join((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-3:]))


def wait_until_healthy(endpoint: dict[str, Any]) -> str:
    """Return "" once it is healthy, else what stood in the way; gives up at once when the unit is down."""
    deadline = time.monotonic() + endpoint["ready_timeout_seconds"]
    problem = ""
    restarts = None
    while time.monotonic() < deadline:
        try:
            ask_for_health(endpoint)
            return ""
        except Refused as error:
            problem = str(error)
        except (OSError, LookupError, http.client.HTTPException) as error:
            problem = f"{endpoint['health_path']}: {error!r}"
        unit = units_shown([endpoint["unit"]]).get(endpoint["unit"], {})
        restarts = unit.get("NRestarts") if restarts is None else restarts
        if unit.get("ActiveState") not in ("active", "activating"):
            return f"the unit is {unit.get('ActiveState', 'unknown')} ({unit.get('Result', '')})"
        again = unit.get("SubState") == "auto-restart" or unit.get("NRestarts") != restarts
        if again and not endpoint["restarts_by_itself"]:
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


def check(endpoint: dict[str, Any], unit: dict[str, str]) -> dict[str, Any]:
    """Return what one endpoint with such a unit proved: fields of EndpointCheck in roles/verify/facts.py."""
    result: dict[str, Any] = {"name": endpoint["name"], "problems": []}
    problems: list[str] = result["problems"]
    result["unit"] = f"{unit.get('ActiveState', 'unknown')} ({unit.get('SubState', '')})"
    if unit.get("LoadState") != "loaded":
        problems.append(
            f"{endpoint['unit']} is {unit.get('LoadState', 'unknown')}, required is an active unit; run deploys/full.py"
        )
        return result
    if endpoint["api_key_file"]:
        try:
            key_in(endpoint["api_key_file"])
        except (OSError, ValueError) as error:
            problems.append(f"the key in {endpoint['api_key_file']} cannot be read: {error}; run deploys/full.py")
            return result
    if problem := wait_until_healthy(endpoint):
        result["health"] = "failed"
        log = last_log_lines(endpoint["unit"])
        required = f"200 from {endpoint['url']}{endpoint['health_path']}"
        if endpoint["health_command"]:
            required = f"that {endpoint['url']} is whole"
        problems.append(f"{problem}; required is {required}; its last words: {log or 'none'}; "
                        f"read journalctl -u {endpoint['unit']}")  # fmt: skip
        return result
    result["health"] = "ok"
    if not endpoint["model"]:
        return result
    try:
        if endpoint["api"] == "completions":
            complete(endpoint, result)
        else:
            chat(endpoint, result)
        if endpoint["device_proof"] and (problem := DEVICE_PROOFS[endpoint["device_proof"]](endpoint)):
            problems.append(f"{problem}; required is that the GPU computes; read journalctl -u {endpoint['unit']}")
    except Refused as error:
        problems.append(f"{error}; read journalctl -u {endpoint['unit']}")
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        problems.append(f"the API does not answer as OpenAI's does: {error!r}; read journalctl -u {endpoint['unit']}")
    return result


def ask(endpoint: dict[str, Any], path: str, body: dict[str, Any]) -> Any:
    """Return the answer to a prompt, asked again as often as the endpoint allows; raises what `call` does."""
    for left in reversed(range(endpoint["attempts"])):
        try:
            return call(endpoint, path, body, timeout=300)
        except (Refused, OSError, http.client.HTTPException):
            if not left:
                raise
            time.sleep(POLL_SECONDS)
    raise AssertionError("attempts is 1 or more")


def complete(endpoint: dict[str, Any], result: dict[str, Any]) -> None:
    """Have the golden prompt completed by a server that has no list of models, no chat and no count of tokens."""
    body = {"model": endpoint["model"], "prompt": endpoint["prompt"], "max_tokens": endpoint["max_tokens"]}
    reply = ask(endpoint, "/v1/completions", body)
    result["model"], result["answer"] = reply["model"], reply["choices"][0]["text"]
    if reply["model"] != endpoint["model"]:
        result["problems"].append(
            f"{reply['model']!r} answers, required is {endpoint['model']!r}; is another server on this port?"
        )
    if not result["answer"].strip():
        result["problems"].append("the golden prompt got an empty answer; required is text")


def chat(endpoint: dict[str, Any], result: dict[str, Any]) -> None:
    """See that the model is served, ask the golden prompt and judge the answer."""
    served = [model["id"] for model in call(endpoint, "/v1/models")["data"]]
    result["model"] = ", ".join(served)
    if endpoint["model"] not in served:
        result["problems"].append(
            f"/v1/models lists {served}, required is {endpoint['model']!r}; is another server on this port?"
        )
    body = {
        "model": endpoint["model"],
        "messages": [{"role": "user", "content": endpoint["prompt"]}],
        "max_tokens": endpoint["max_tokens"],
        "temperature": 0,
        **endpoint["request_fields"],
    }
    speed = 0.0
    # The first answer after a start is slow: pages are still read, clocks still low. Only a slow third one counts.
    for _ in range(3):
        started = time.monotonic()
        reply = ask(endpoint, "/v1/chat/completions", body)
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


def ollama_ps(endpoint: dict[str, Any]) -> str:
    """Return that a model which has just answered is not in GPU memory; "" when any of it is (docs/api.md)."""
    loaded = {model["name"]: model for model in call(endpoint, "/api/ps")["models"]}
    model = loaded.get(endpoint["model"]) or loaded.get(f"{endpoint['model']}:latest")
    if model is None:
        return f"/api/ps does not list {endpoint['model']!r} after it answered"
    size, on_gpu = model["size"], model.get("size_vram", 0)
    if on_gpu > 0:
        return ""
    return f"the model runs on the processors: {on_gpu >> 20} of {size >> 20} MiB are in GPU memory"


def gpu_memory(endpoint: dict[str, Any]) -> str:
    """
    Return "" when a process of the unit holds GPU memory, else what was seen.

    NVIDIA's driver lists compute processes; those of Intel's say it in /proc/PID/fdinfo: "drm-total-vram0" of xe,
    "drm-total-local0" of i915 (docs.kernel.org/gpu/drm-usage-stats.html).
    """
    shown = subprocess.run(
        ["systemctl", "show", "--value", "--property", "ControlGroup", "--", endpoint["unit"]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    pids = processes_of(shown.stdout.strip())
    if any(drm_memory(pid) for pid in pids):
        return ""
    try:
        query = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    except FileNotFoundError:
        listed = []
    return "" if set(pids) & set(listed) else f"none of the unit's {len(pids)} processes holds GPU memory"


def processes_of(group: str) -> list[str]:
    """Return the ids of the processes in a control group."""
    try:
        with open(f"/sys/fs/cgroup{group}/cgroup.procs", encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return []


def drm_memory(pid: str) -> int:
    """Return how much of a card's own memory a process holds, in the kernel's units; 0 for none."""
    held = 0
    directory = f"/proc/{pid}/fdinfo"
    try:
        for entry in os.scandir(directory):
            with open(entry.path, encoding="ascii", errors="replace") as file:
                held += sum(int(amount) for amount in DRM_MEMORY.findall(file.read()))
    except OSError:  # the process, or one of its files, is gone
        pass
    return held


DRM_MEMORY = re.compile(r"^drm-total-(?:vram|local)\d*:\s+(\d+)", re.MULTILINE)
DEVICE_PROOFS = {"ollama_ps": ollama_ps, "gpu_memory": gpu_memory}


def checked(endpoints: list[dict[str, Any]], patterns: list[str]) -> dict[str, Any]:
    """Return what the endpoints proved, and the units of engines that run though nothing declares them (any more)."""
    declared = [endpoint["unit"] for endpoint in endpoints]
    before = units_shown([*declared, *patterns]) if declared or patterns else {}
    checks = [check(endpoint, before.get(endpoint["unit"], {})) for endpoint in endpoints]
    after = units_shown(declared) if declared else {}
    for endpoint, result in zip(endpoints, checks, strict=True):
        unit = endpoint["unit"]
        if endpoint["restarts_by_itself"]:
            continue
        if before.get(unit, {}).get("NRestarts") != after.get(unit, {}).get("NRestarts"):
            result["problems"].append(f"the unit restarted during the check; read journalctl -u {unit}")
    running = {name for name, unit in before.items() if unit.get("ActiveState") in ("active", "activating")}
    return {"checks": checks, "undeclared": sorted(running - set(declared))}


if __name__ == "__main__":
    print(json.dumps(checked(json.loads(sys.argv[1]), sys.argv[2:])))
