"""Operations of the models role."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from pyinfra import host
from pyinfra.api import QuoteString, StringCommand, operation

from roles.common.operations import Commands, TextFile, file_set
from roles.models.facts import Store


@operation()
def store(program: str, files: Mapping[str, str], spec: Mapping[str, Any]) -> Commands:
    """
    Have the wanted models, complete and verified, and the hubs' clients that they need.

    + program: path on the host of files/store.py
    + files: path on the host -> content, of the role's own files; the program is one of them
    + spec: what is wanted, see files/store.py

    One remote command when nothing is to do. A model that cannot be had does not keep the others from coming; the
    disk's space is compared with what all of them need together, before the first byte.
    """
    text = json.dumps(spec, ensure_ascii=False, sort_keys=True)
    digests = {path: sha256(content.encode()).hexdigest() for path, content in files.items()}
    state = host.get_fact(Store, program=program, digests=digests, spec=text)
    if state.at_rest:
        host.noop(f"{len(spec['models'])} models as wanted")
        return
    if not state.installed:
        yield from file_set._inner(files={path: TextFile(content) for path, content in files.items()})
    for name in spec["clients"]:
        if state.clients.get(name, "not known yet") is not None:
            yield _run("python3", program, "environment", text, name)
    if state.installed and not any(state.models.values()):
        return
    yield StringCommand("sh -c", QuoteString(STEPS), "store", QuoteString(program), QuoteString(text),
                        *(QuoteString(f"{name}={python}") for name, python in pythons(spec).items()))  # fmt: skip


STEPS = """
export LC_ALL=C.UTF-8
program=$1 spec=$2 failed=0
shift 2
for group; do "${group#*=}" "$program" plan "${group%%=*}" "$spec" || failed=1; done
python3 "$program" space "$spec" || exit 1
for group; do "${group#*=}" "$program" fetch "${group%%=*}" "$spec" || failed=1; done
exit $failed
"""
"""Read all listings, check the disk for all, then fetch; each hub by the Python that has its client."""


def pythons(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the groups of models that are wanted, each with the Python that fetches it."""
    groups = {name: f"{client['root']}/{client['version']}/bin/python" for name, client in spec["clients"].items()}
    if any(model["source"] in ("url", "path") for model in spec["models"]):
        groups["plain"] = "python3"
    return groups


def _run(python: str, program: str, command: str, spec: str, *group: str) -> StringCommand:
    return StringCommand("LC_ALL=C.UTF-8", python, QuoteString(program), command, *group, QuoteString(spec))
