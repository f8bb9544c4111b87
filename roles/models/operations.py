"""Operations of the models role."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from pyinfra import host
from pyinfra.api import QuoteString, operation

from roles.common.operations import Commands, ShownCommand, TextFile, file_set
from roles.models.facts import Store


@operation()
def store(program: str, spec: str, files: Mapping[str, str], pythons: Mapping[str, str]) -> Commands:
    """
    Have the wanted models, complete and verified, and the hubs' clients that they need.

    + program: path on the host of files/store.py
    + spec: path on the host of what is wanted
    + files: path on the host -> content, of the role's own files; program and spec are two of them
    + pythons: group of models, see files/store.py -> the Python that fetches it

    One remote command when nothing is to do. A model that cannot be had does not keep the others from coming; the
    disk's space is compared with what all of them need together, before the first byte.
    """
    digests = {path: sha256(content.encode()).hexdigest() for path, content in files.items()}
    state = host.get_fact(Store, program=program, spec=spec, digests=digests)
    if state.at_rest:
        host.noop(f"{len(state.models)} models as wanted")
        return
    if not state.installed:
        yield from file_set._inner(files={path: TextFile(content) for path, content in files.items()})
    yield ShownCommand("sh -c", QuoteString(STEPS), "store", QuoteString(program), QuoteString(spec),
                       *(QuoteString(f"{group}={python}") for group, python in pythons.items()))  # fmt: skip


STEPS = """
export LC_ALL=C.UTF-8
program=$1 spec=$2 failed=0
shift 2
groups=
for group; do
    case $group in plain=*) ;; *) python3 "$program" "$spec" environment "${group%%=*}" ;; esac &&
        groups="$groups $group" || failed=1
done
for group in $groups; do "${group#*=}" "$program" "$spec" plan "${group%%=*}" || failed=1; done
python3 "$program" "$spec" space || exit 1
for group in $groups; do "${group#*=}" "$program" "$spec" fetch "${group%%=*}" || failed=1; done
exit $failed
"""
"""Have the clients, read all listings, check the disk for all, fetch; each hub by the Python that has its client."""
