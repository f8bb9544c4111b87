# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/commands.py.
"""What this program is told to do, by name; one at a time on a host."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import known
from .disk import space
from .environments import environment
from .fetching import fetch
from .hubs import DiskIsFull, Refused
from .known import read_json
from .order import choose
from .planning import plan, steps


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    commands: dict[str, Callable[..., list[str]]] = {
        "environment": environment,
        "steps": steps,
        "plan": plan,
        "space": space,
        "order": choose,
        "fetch": fetch,
    }
    return run(arguments, commands)


def run(arguments: list[str], commands: dict[str, Callable[..., list[str]]]) -> int:
    """Run a command, alone; return 1 when it could not do something, 2 when the disk is full."""
    os.umask(0o022)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    path, command, *rest = arguments
    full = False
    try:
        with only_one():
            problems = commands[command](read_json(path), *rest)
    except DiskIsFull as refusal:
        problems, full = [str(refusal)], True
    except Refused as refusal:
        problems = [str(refusal)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2 if full else 1 if problems else 0


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Wait for any other run; children hold the lock too, so one that outlives a killed run is waited for."""
    state = Path(known.STATE)
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as lock:
        os.set_inheritable(lock.fileno(), True)
        waited = 0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % 30 == 0:
                    # Not to standard output, where the shell may read.
                    text = "models: another run works on the models of this host; waiting for it"
                    print(text, file=sys.stderr, flush=True)
                time.sleep(1)
                waited += 1
        yield
