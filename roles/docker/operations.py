"""Operations of the docker role."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyinfra import host, state
from pyinfra.api import operation

from roles.common.apt import PackageStates, apt_script
from roles.common.operations import Commands, ShownCommand, refuse
from roles.docker.facts import AS_WANTED, ProofVerdict, SettingsVerdict, proof_command, settings_command

SWAP = (Path(__file__).parent / "files" / "swap.sh").read_text()


@operation()
def engine(wanted: Sequence[str], conflicting: Sequence[str], lock_timeout_seconds: int) -> Commands:
    """
    Have the engine's packages, in one transaction with the end of those that cannot stand beside them.

    + wanted: ``name``, ``name=version``, or ``a|b`` for the first of several that this release has
    + conflicting: packages that go, if they are installed
    + lock_timeout_seconds: how long to wait for another package manager
    """
    choices = {name: name.partition("=")[0].split("|") for name in wanted}
    names = sorted({*conflicting, *(one for choice in choices.values() for one in choice)})
    versions = host.get_fact(PackageStates, names=names)
    there = [name for name in conflicting if name in versions]
    missing = [
        name
        for name, choice in choices.items()
        if not any(one in versions and name.partition("=")[2] in ("", versions[one]) for one in choice)
    ]
    if missing or there:
        script = f"{SWAP}swap {shlex.join(there)} -- {shlex.join(missing)}"
        yield ShownCommand(*apt_script(script, lock_timeout_seconds=lock_timeout_seconds).bits)
    else:
        host.noop(f"{len(wanted)} packages as wanted")


@operation()
def settings(wanted: Mapping[str, Any]) -> Commands:
    """
    Have our keys in JSON files that others write, too; their keys stay.

    + wanted: what files/settings.py takes

    One remote command when nothing is to do, which also asks whether the mirror in use answers.
    """
    verdict: str = host.get_fact(SettingsVerdict, wanted=wanted)
    if verdict == AS_WANTED:
        host.noop("daemon.json has what it shall")
    elif verdict.startswith("problem "):
        if state.is_executing:
            yield from refuse._inner(problems=[verdict.removeprefix("problem ")])
    else:
        yield settings_command("write", wanted)


@operation()
def proven(gpus: int, renderers: int) -> Commands:
    """
    Fail this host unless a container runs, and sees the cards.

    + gpus: how many of NVIDIA's
    + renderers: how many of Intel's
    """
    if host.get_fact(ProofVerdict, gpus=gpus, renderers=renderers) == AS_WANTED:
        host.noop("a container runs" + (", and sees the cards" if gpus or renderers else ""))
    else:
        yield proof_command("prove", gpus, renderers)
