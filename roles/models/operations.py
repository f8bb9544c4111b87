"""Operations of the models role."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from pyinfra import host
from pyinfra.api import QuoteString, operation

from roles.common.operations import Commands, ShownCommand, TextFile, file_set
from roles.models.facts import RUN, Store


@operation()
def store(home: str, spec: str, files: Mapping[str, str], pythons: Mapping[str, str]) -> Commands:
    """
    Have the wanted models, complete and verified, and the hubs' clients that they need.

    + home: directory on the host that holds the package files/store
    + spec: path on the host of what is wanted
    + files: path on the host -> content, of the role's own files; the package and spec are among them
    + pythons: group of models, see files/store/__init__.py -> the Python that fetches it

    One remote command when nothing is to do. A model that cannot be had does not keep the others from coming; the
    disk's space is compared with what all of them need together, before the first byte.
    """
    digests = {path: sha256(content.encode()).hexdigest() for path, content in files.items()}
    state = host.get_fact(Store, home=home, spec=spec, digests=digests)
    if state.at_rest:
        host.noop(f"{len(state.models)} models as wanted")
        return
    if not state.installed:
        yield from file_set._inner(files={path: TextFile(content) for path, content in files.items()})
    words = (STEPS, "store", RUN.format("commands"), home, spec)
    yield ShownCommand("sh -c", *map(QuoteString, words),
                       *(QuoteString(f"{group}={python}") for group, python in pythons.items()))  # fmt: skip


STEPS = """
export LC_ALL=C.UTF-8
umask 022
run=$1 home=$2 spec=$3 failed=0
shift 3
# A power cut can damage what Python compiled, and Python would not compile it again.
rm -rf -- "$home/store/__pycache__"
store() {
    python=$1
    shift
    "$python" -I -c "$run" "$home" "$spec" "$@"
}
groups=
for group; do
    case $group in plain=*) ;; *) store python3 environment "${group%%=*}" ;; esac &&
        groups="$groups $group" || failed=1
done
for group in $groups; do store "${group#*=}" plan "${group%%=*}" || failed=1; done
store python3 space || exit 1
for group in $groups; do store "${group#*=}" fetch "${group%%=*}" || failed=1; done
exit $failed
"""
"""Have the clients, read all listings, check the disk for all, fetch; each hub by the Python that has its client."""
