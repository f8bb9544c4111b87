"""Measure builds of llama.cpp on the host and have `current` point to the fastest. Standard library alone.

Arguments: ROOT RESULT KEY MODEL THREADS USER NAME... RESULT gets what was measured, and KEY, which says for what
(roles/llama_cpp/operations.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROMPT_TOKENS, ANSWER_TOKENS, REPETITIONS = 256, 64, 2
TIMEOUT_SECONDS = 900


def measure(root: Path, name: str, model: str, threads: str, user: str) -> dict[str, Any]:
    """Return the speeds of one build in tokens per second, or why there are none (tools/llama-bench/README.md)."""
    command = [
        *("runuser", "-u", user, "--", str(root / name / "llama-bench")),
        *("--model", model, "--threads", threads, "--output", "json"),
        *("--n-prompt", str(PROMPT_TOKENS), "--n-gen", str(ANSWER_TOKENS), "--repetitions", str(REPETITIONS)),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
        if done.returncode:
            return {"name": name, "problem": (done.stderr.strip() or f"status {done.returncode}")[-300:]}
        tests = json.loads(done.stdout)
        (prompt,) = [test for test in tests if test["n_gen"] == 0]
        (answer,) = [test for test in tests if test["n_prompt"] == 0]
        return {
            "name": name,
            "prompt_tokens_per_second": round(prompt["avg_ts"], 2),
            "answer_tokens_per_second": round(answer["avg_ts"], 2),
            "backends": answer["backends"],
            "gpu": answer["gpu_info"],
        }
    except subprocess.TimeoutExpired:
        return {"name": name, "problem": f"not done within {TIMEOUT_SECONDS} s"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"name": name, "problem": repr(error)}


def main(arguments: list[str]) -> str:
    """Measure, write down, switch; return "" or what to tell."""
    # What they hold of a card's memory would be missing; the role starts them again, changed or not.
    subprocess.run(["systemctl", "stop", "llama-server@*.service"], check=False)
    root, result, (key, model, threads, user, *names) = Path(arguments[0]), Path(arguments[1]), arguments[2:]
    measured = []
    for name in names:
        measured.append(measure(root, name, model, threads, user))
        speed = measured[-1].get("answer_tokens_per_second")
        print(f"{name}: {measured[-1].get('problem') or f'{speed} tokens/s'}", flush=True)
    able = [one for one in measured if "problem" not in one]
    if not able:
        return (
            f"llama_cpp/variant: none of {', '.join(names)} could be measured with {model}, see above; required is one "
            "that can load it; choose a variant instead of 'fastest', and look at what its llama-bench says"
        )
    chosen = max(able, key=lambda one: one["answer_tokens_per_second"])["name"]
    link = root / "current.part"
    link.unlink(missing_ok=True)
    link.symlink_to(chosen)
    link.replace(root / "current")
    result.parent.mkdir(parents=True, exist_ok=True)
    part = result.with_name(f"{result.name}.part")
    part.write_text(
        json.dumps({"measured": key, "chosen": chosen, "model": model, "results": measured}, indent=1) + "\n"
    )
    part.replace(result)
    print(f"{chosen} is the fastest")
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) or 0)
