"""Throwaway hosts on this machine: real systemd, apt and sshd, without a network outside.

`hosts.py` boots them, `images.py` makes the trees that they boot from, `network.py` joins them by a bridge, and
`hub.py` answers on that bridge for every public server that the roles would ask. Only the standard library is
imported by the first three, so that the trees can be built before the project's own environment is.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUN_DIR = Path(os.environ.get("M2M_RUN_DIR", "/run/metal2model-bed"))
"""What is running now; the next boot of the machine forgets it."""


class BedError(Exception):
    """The test bed cannot do what was asked; the text says what was found, why it matters and what to do."""


def state_dir() -> Path:
    """Where images and keys are kept between runs."""
    chosen = os.environ.get("M2M_BED_DIR")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "metal2model" / "bed"


def require_root(purpose: str) -> None:
    """Fail early, and say why, where root is needed."""
    if os.geteuid() != 0:
        raise BedError(
            f"{purpose} needs root and this is uid {os.geteuid()}: the hosts are containers with their own init, "
            "mounts and network. Run the same command with sudo."
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the kernel releases it however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Waiting for another use of the test bed to end ({path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    """One line for the person who waits."""
    print(f"==> {text}", flush=True)
