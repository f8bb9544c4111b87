"""What the llama_cpp role changes on a host."""

from __future__ import annotations

from collections.abc import Mapping

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.common.operations import Commands
from roles.llama_cpp.facts import Keys


@operation()
def keys(paths: Mapping[str, bool]) -> Commands:
    """
    Have a random key in each file, readable by root alone; one that stands there already is kept.

    + paths: file on the host -> whether it shall exist

    The key is made on the host and never leaves it.
    """
    states = host.get_fact(Keys, paths=list(paths))
    missing = [path for path, present in paths.items() if present and path not in states]
    gone = [path for path, present in paths.items() if not present and path in states]
    loose = [
        path for path, present in paths.items() if present and states.get(path, "600 root:root") != "600 root:root"
    ]
    for path in missing:
        final, part = QuoteString(path), QuoteString(f"{path}.part")
        random = "head -c 32 /dev/urandom | sha256sum | cut -c 1-64 >"
        yield StringCommand("install -D -m 0600 /dev/null", part, "&&", random, part, "&& mv -fT --", part, final)
    for path in loose:
        yield StringCommand("chown root:root", QuoteString(path), "&& chmod 0600", QuoteString(path))
    if gone:
        yield StringCommand("rm -f --", *map(QuoteString, gone))
    if not (missing or loose or gone):
        host.noop(f"{len(paths)} keys as wanted")
