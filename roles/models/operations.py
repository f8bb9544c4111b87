"""Operations of the models role."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from pyinfra import host, state
from pyinfra.api import QuoteString, operation

from roles.common.apt import packages
from roles.common.findings import Finding, Word, notice
from roles.common.model import Shape
from roles.common.operations import Commands, ShownCommand, TextFile, Unit, file_set, refuse, units
from roles.models.facts import RUN, Store, Unwanted, UnwantedModels, removal

Judge = Callable[[Mapping[str, Shape]], tuple[Sequence[str], Sequence[Finding]]]
"""What speaks against models whose files say this, as sentences, and of what the user is to be warned."""


@operation()
def store(
    home: str,
    spec: str,
    files: Mapping[str, str],
    *,
    giving: Unit,
    of_sharing: Sequence[str],
    programs: Sequence[str],
    judge: Judge | None = None,
    unless_new: str | None = None,
    tells_unwanted: bool = True,
    lock_timeout_seconds: int | None = None,
) -> Commands:
    """
    Have the wanted models, complete and verified, and the hubs' clients that they need.

    + home: directory on the host that holds the package files/store
    + spec: path on the host of what is wanted
    + files: path on the host -> content, of the role's own files; the package and spec are among them
    + giving: the unit that gives them to other hosts, while there is something to give; not present on a host that
      shares nothing
    + of_sharing: paths of files that a host has only for that
    + programs: packages that sharing takes
    + judge: what it speaks against is not fetched, nor anything else
    + unless_new: path that a host has that ever had models, where none are wanted: another one needs nothing
    + tells_unwanted: list models that nobody wants any more with the warnings at the run's end
    + lock_timeout_seconds: how long to wait for another package manager; None for what the host's apt is set to

    One remote command when nothing is to do, and one for the unit. A model that cannot be had does not keep the others
    from coming; the disk's space is compared with what all of them need together, before the first byte.
    """
    digests = {path: sha256(content.encode()).hexdigest() for path, content in files.items()}
    asked: dict[str, Any] = {"home": home, "spec": spec, "digests": digests, "unless_new": unless_new}
    before = found = host.get_fact(Store, **asked)
    words = tuple(map(QuoteString, ("store", RUN.format("commands"), RUN.format("lan"), home, spec)))
    if not before.at_rest:
        if giving.present:
            yield from packages._inner(names=programs, lock_timeout_seconds=lock_timeout_seconds)
        if not before.installed:
            yield from file_set._inner(files={path: TextFile(content) for path, content in files.items()})
        yield ShownCommand("sh -c", QuoteString(HEAD + PLAN), *words)
        found = host.get_fact(Store, **asked)
    errors, warnings = judge(found.shapes) if judge else ((), ())
    tell(warnings)
    if errors:
        yield from refuse._inner(problems=errors)
    if before.at_rest:
        host.noop(f"{len(before.models)} models as wanted")
    else:
        if found.lan and not giving.present:
            # Before `FETCH`, which ends with the list of what is given: that says that there is something to remove.
            yield from units._inner(units=[giving])
            yield from file_set._inner(files=dict.fromkeys(of_sharing))
        yield ShownCommand("sh -c", QuoteString(HEAD + FETCH), *words)
        found = host.get_fact(Store, **asked)
        if state.is_executing and (problems := unnoticed(found.models)):
            yield from refuse._inner(problems=problems)
    if giving.present:
        yield from units._inner(units=[replace(giving, present=found.gives)])
    if tells_unwanted:
        tell(left(found.unwanted))


def tell(findings: Iterable[Finding]) -> None:
    """Have something told at the run's end, once: what an operation is made of runs before that, too."""
    for finding in findings if state.is_executing else ():
        notice(host.name, finding)


def unnoticed(models: Mapping[str, str | None]) -> list[str]:
    """Return what is not as wanted at the end of a run that says it is well: that must not pass for success."""
    return [
        f"models/wanted/{name}: {problem}, though no step of this run failed. Required is the whole model, verified: "
        "run again, and if it is the same then, report it with what -vvv prints"
        for name, problem in models.items()
        if problem
    ]


def left(unwanted: Mapping[str, int]) -> list[Finding]:
    """Return that models are there, name -> bytes, which nobody wants any more."""
    found = [f"{name} ({size(count)})" for name, count in unwanted.items()]
    return [Finding("models_unwanted", "models/remove_unwanted", {"found": found})] if found else []


def in_use(unwanted: Mapping[str, Unwanted]) -> list[Finding]:
    """Return which of the unwanted models stay."""
    found: list[Finding] = []
    for name, one in unwanted.items():
        words: dict[str, Word] = {"name": name, "size": size(one.bytes), "users": one.users}
        if one.users:
            found.append(Finding("model_in_use", "models/remove_unwanted", words))
    return found


def size(count: int) -> str:
    """Return bytes as people say them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


@operation()
def unwanted_removed(home: str, spec: str, links: Sequence[str]) -> Commands:
    """
    Remove the models that nobody wants any more, except those in use.

    + home, spec: as for `store`
    + links: directories whose symbolic links mean that what they lead to is used
    """
    found = host.get_fact(UnwantedModels, home=home, spec=spec, links=links)
    tell(in_use(found))
    if all(one.users for one in found.values()):
        host.noop("no model is there that nobody wants and nobody uses")
        return
    gone = ", ".join(f"{name} ({size(one.bytes)})" for name, one in found.items() if not one.users)
    yield ShownCommand("echo", QuoteString(f"models: removing {gone}"), "&&", removal(home, spec, links, "remove"))


HEAD = """
export LC_ALL=C.UTF-8
umask 022
run=$1 run_lan=$2 home=$3 spec=$4 failed=0
store() {
    with=$1
    shift
    "$with" -I -c "$run" "$home" "$spec" "$@"
}
lan() {
    python3 -I -c "$run_lan" "$home" "$spec" "$1"
}
# Each hub by the Python that has its client, in the order that the program says: a later one is asked for what the
# earlier ones did not bring.
each() {
    while read -r python hub rank; do
        # Only a hub's client has a Python of its own.
        [ "$python" = python3 ] || store python3 environment "$hub" "$rank" "$1" </dev/null || failed=1
        command -v "$python" >/dev/null || continue
        store "$python" "$1" "$hub" "$rank" </dev/null
        case $? in 0) ;; 2) return 1 ;; *) failed=1 ;; esac  # 2: the disk is full, and would be for the next
    done
    return $failed
}
"""
PLAN = """
# A power cut can damage what Python compiled, and Python would not compile it again.
rm -rf -- "$home/store/__pycache__"
[ ! -e /etc/sysusers.d/metal2model-models.conf ] || systemd-sysusers metal2model-models.conf
store python3 steps | each plan
exit 0
"""
"""Have the clients, read all listings, each hub by the Python that has its client. Where it fails, `FETCH` does."""
FETCH = """
store python3 space || exit 1
lan prefetch
steps=$(store python3 order) || exit 1
printf '%s\n' "$steps" | each fetch || failed=1
lan publish || failed=1
exit $failed
"""
"""Check the disk for all; fetch from hosts of the LAN, and what these have not from outside; give it to others."""
