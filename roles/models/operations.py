"""Operations of the models role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

from pyinfra import host, state
from pyinfra.api import QuoteString, operation

from roles.common.findings import Finding, notice
from roles.common.model import Shape
from roles.common.operations import Commands, ShownCommand, TextFile, file_set, refuse
from roles.models.facts import RUN, Store

Judge = Callable[[Mapping[str, Shape]], tuple[Sequence[str], Sequence[Finding]]]
"""What speaks against models whose files say this, as sentences, and of what the user is to be warned."""


@operation()
def store(
    home: str, spec: str, files: Mapping[str, str], pythons: Mapping[str, str], judge: Judge | None = None
) -> Commands:
    """
    Have the wanted models, complete and verified, and the hubs' clients that they need.

    + home: directory on the host that holds the package files/store
    + spec: path on the host of what is wanted
    + files: path on the host -> content, of the role's own files; the package and spec are among them
    + pythons: group of models, see files/store/__init__.py -> the Python that fetches it
    + judge: what it speaks against is not fetched, nor anything else

    One remote command when nothing is to do. A model that cannot be had does not keep the others from coming; the
    disk's space is compared with what all of them need together, before the first byte.
    """
    digests = {path: sha256(content.encode()).hexdigest() for path, content in files.items()}
    before = found = host.get_fact(Store, home=home, spec=spec, digests=digests)
    words = ("store", RUN.format("commands"), home, spec)
    groups = [QuoteString(f"{group}={python}") for group, python in pythons.items()]
    if not before.at_rest:
        if not before.installed:
            yield from file_set._inner(files={path: TextFile(content) for path, content in files.items()})
        yield ShownCommand("sh -c", *map(QuoteString, (HEAD + PLAN, *words)), *groups)
        found = host.get_fact(Store, home=home, spec=spec, digests=digests)
    errors, warnings = judge(found.shapes) if judge else ((), ())
    if state.is_executing:
        for warning in warnings:
            notice(host.name, warning)
    if errors:
        yield from refuse._inner(problems=errors)
    if before.at_rest:
        host.noop(f"{len(before.models)} models as wanted")
    else:
        yield ShownCommand("sh -c", *map(QuoteString, (HEAD + FETCH, *words)), *groups)


HEAD = """
export LC_ALL=C.UTF-8
umask 022
run=$1 home=$2 spec=$3 failed=0
shift 3
store() {
    python=$1
    shift
    "$python" -I -c "$run" "$home" "$spec" "$@"
}
"""
PLAN = """
# A power cut can damage what Python compiled, and Python would not compile it again.
rm -rf -- "$home/store/__pycache__"
for group; do
    case $group in plain=*) ;; *) store python3 environment "${group%%=*}" || continue ;; esac
    store "${group#*=}" plan "${group%%=*}"
done
exit 0
"""
"""Have the clients, read all listings, each hub by the Python that has its client. Where it fails, `FETCH` does."""
FETCH = """
store python3 space || exit 1
for group; do
    command -v "${group#*=}" >/dev/null && store "${group#*=}" fetch "${group%%=*}" || failed=1
done
exit $failed
"""
"""Check the disk for all, fetch."""
