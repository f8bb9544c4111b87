"""The first thing that a newcomer types."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.support import ROOT
from tests.testbed.hosts import Bed


def test_the_demo_ends_with_the_table_and_an_answer(bed: Bed, tmp_path: Path) -> None:
    name = f"demo{os.getpid()}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.testbed.demo", name], cwd=ROOT, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, "M2M_DEMO": str(tmp_path / "demo.json")},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "llama_cpp/instances/tiny  active (running)  ok      tiny" in done.stdout
        answer = json.loads(done.stdout[done.stdout.index("\n{") : done.stdout.rindex("\n}") + 2])
        assert answer["choices"][0]["message"]["content"].strip()
        assert f"./run ssh {name}" in done.stdout and f"./run down {name}" in done.stdout
    finally:
        bed.down(name)
