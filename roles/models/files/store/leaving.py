# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/leaving.py.
"""Leaving a place that has become slow in the middle of a file, for one that is seen to be faster."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from .asking import There
from .hubs import TooSlow, address_of
from .known import Json
from .order import look_at

WINDOW_SECONDS = 15.0
"""In which a place must send at the required rate, on average."""
SLOW_WINDOWS = 2
"""In a row: in a first one, a client may have been hashing what was there already."""
LONGEST_WINDOW_SECONDS = 3600.0
"""Where the other place is no faster, each look at it comes after twice the time: it takes of the line that is slow."""
MUCH_FASTER = 2
"""Times; the first megabyte often comes faster than those after it."""


class _Leave(BaseException):
    """Ends whatever a hub's client does; no client takes this for an error that it could mend by trying again."""


class _Watch:
    """Looks at how fast a file comes, beside the thread that downloads it."""

    def __init__(self, limit: int, size: Callable[[], int], whole: int, look: Callable[[], int]) -> None:
        """``limit``: bytes a second. ``whole``: bytes of the file. ``look``: bytes a second of the other place."""
        self.limit, self.size, self.whole, self.look = limit, size, whole, look
        self.done, self.lock, self.is_on = threading.Event(), threading.Lock(), True
        self.rate = 0
        """Bytes a second, when the place is left."""

    def run(self) -> None:
        """Watch until the download is done or is to be left."""
        window, slow, before, began = WINDOW_SECONDS, 0, self.size(), time.monotonic()
        while not self.done.wait(window):
            now = self.size()
            self.rate = int((now - before) / (time.monotonic() - began))
            # What will be there soon is not worth a change. Nothing at all says nothing: a client may be hashing, or
            # waiting as it was told to, and where nothing comes any more it notices by itself.
            if self.rate >= self.limit or self.whole - now < self.rate * window:
                window, slow = WINDOW_SECONDS, 0
            elif self.rate > 0:
                slow += 1
            if self.rate > 0 and slow >= SLOW_WINDOWS:
                if self.look() >= max(self.limit, MUCH_FASTER * self.rate):
                    self.tell()
                    return
                window = min(2 * window, LONGEST_WINDOW_SECONDS)
            before, began = self.size(), time.monotonic()

    def tell(self) -> None:
        """Have the downloading thread leave; more than once, as Python may be where it drops an exception."""
        while not self.done.is_set():
            with self.lock:
                if self.is_on:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            self.done.wait(1)

    def leave(self, *_: object) -> None:
        """Handle the signal, in the thread that downloads."""
        if self.is_on:
            raise _Leave

    def end(self) -> None:
        """Let no signal come any more. The thread is not waited for: it may be looking at the other place."""
        self.is_on = False
        self.done.set()
        with self.lock:
            pass


def unless_slow(spec: Json, there: There, entry: Json, size: Callable[[], int], work: Callable[[], object]) -> None:
    """
    Download a file; raise `TooSlow` out of it, wherever it is, once it comes slowly and the other place is faster.

    ``size``: bytes that have arrived. ``work``: the download.
    """
    limit = spec["slow_bytes_per_second"]
    if there.other is None or not entry["size"]:
        work()
        return
    model, revision = there.other

    def look() -> int:
        rate, _ = look_at(model, address_of(model, revision, entry["name"]), {})
        return rate or 0

    watch = _Watch(limit, size, entry["size"], look)
    before = signal.signal(signal.SIGUSR1, watch.leave)
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        try:
            work()
        finally:
            watch.end()
    except _Leave:
        watch.end()  # the signal may have come in the moment before
        raise TooSlow(
            f"{there.model['endpoint']} now sends only {watch.rate >> 10} KiB/s, less than "
            f"models/slow_kib_per_second, and {model['endpoint']} sends more"
        ) from None
    finally:
        signal.signal(signal.SIGUSR1, before)
