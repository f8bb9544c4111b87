# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/progress.py.
"""How far a download is, for whoever watches."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from .hubs import say
from .known import Json

PROGRESS_SECONDS = 10.0
OFTEN = 6
"""So many lines of progress come in this rhythm, later ones six times slower: forty hosts write into one log."""


@contextlib.contextmanager
def progress(model: Json, entry: Json, size: Callable[[], int]) -> Iterator[None]:
    """Print how far a download is, every few seconds."""
    done = threading.Event()
    total = entry["size"]

    def report() -> None:
        before, told, lines = size(), time.monotonic(), 0
        while not done.wait(PROGRESS_SECONDS if lines < OFTEN else OFTEN * PROGRESS_SECONDS):
            now, moment = size(), time.monotonic()
            if now == before:
                continue
            share = f" of {total / 1e6:.0f} MB ({100 * now // total} %)" if total else " MB"
            rate = max(now - before, 0) / (moment - told)
            left = f", {duration((total - now) / rate)} left" if total and rate else ""
            before, told, lines = now, moment, lines + 1
            text = f"{now / 1e6:.0f}{share}, {rate / 1e6:.1f} MB/s{left}"
            try:
                say(f"models/wanted/{model['name']}: {entry['name']}: {text}")
            except OSError:
                os._exit(1)  # the run that asked is gone, and with it whoever would hear of a failure

    begun, start = size(), time.monotonic()
    resumed = f", {begun} there already" if begun else ""
    say(f"models/wanted/{model['name']}: {entry['name']}: {total if total is not None else 'unknown'} bytes{resumed}")
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    if (seconds := time.monotonic() - start) > PROGRESS_SECONDS:
        rate = max(size() - begun, 0) / seconds / 1e6
        say(f"models/wanted/{model['name']}: {entry['name']}: {size()} bytes there, {rate:.1f} MB/s; verifying")


def duration(seconds: float) -> str:
    """Return a time as people say it, in two units at most."""
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
