# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/environments.py.
"""The virtual environments of the hubs' clients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .asking import can_fetch, can_plan, to_fetch, to_plan
from .hubs import CA_BUNDLE, say
from .known import Json, client_marker, client_problem
from .manifests import write_whole


def environment(spec: Json, name: str, rank: str, command: str) -> list[str]:
    """
    Have the virtual environment of a hub's client; it counts only once its marker stands, so a killed one is redone.

    That of a hub that is only asked when others fail, once it is; and then it is no problem if it cannot be had, as
    long as yet another one is left to ask. pip uses the host's own configuration (the mirrors role writes it) and takes
    only what the hashes allow.
    """
    client = spec["clients"].get(name)
    if client is None or client_problem(client) is None:
        return []
    ask, can_ask = (to_plan, can_plan) if command == "plan" else (to_fetch, can_fetch)
    dues = ask(spec, name, int(rank))
    if not dues and not (client["needed"] and rank == "0"):
        return []
    home = Path(client["root"], client["version"])
    say(f"models: installing {client['package']} {client['version']} into {home}")
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off"]
    only = ["--require-hashes", "--no-deps", "--only-binary=:all:", "-r", client["requirements"]]
    steps = [
        [sys.executable, "-m", "venv", str(home)],
        [str(home / "bin/python"), "-m", "pip", "install", *quiet, *only],
        [str(home / "bin/python"), "-c", f"import {client['module']}"],
    ]
    # An older pip brings its own list of authorities; the host's has the company's. pip.conf's `cert` goes before it.
    settings = {**os.environ, "REQUESTS_CA_BUNDLE": CA_BUNDLE} if Path(CA_BUNDLE).exists() else dict(os.environ)
    for step in steps:
        done = subprocess.run(
            step, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, close_fds=False
        )
        if done.returncode:
            output = done.stdout.decode("utf-8", "replace").strip()
            problem = (
                f"models/hub: the client {client['package']} {client['version']} could not be installed into {home}: "
                f"{' '.join(step[:4])} ... ended with {done.returncode}, see above. It is needed to read what the hub "
                f"lists. Check that python3-venv is installed and that pip reaches an index (mirrors), then run again."
            )
            if client["needed"] or not all(other and can_ask(model, other) for model, _, other in dues):
                return [output, problem]
            others = " and ".join(sorted({other["endpoint"] for _, _, other in dues if other}))
            print(f"{output}\n{problem} Meanwhile, {others} is asked.", file=sys.stderr, flush=True)
            return []
    write_whole(home / ".complete", json.dumps(client_marker(client)))
    link = home.parent / "current.part"
    link.unlink(missing_ok=True)
    link.symlink_to(client["version"])
    link.replace(home.parent / "current")
    return []
