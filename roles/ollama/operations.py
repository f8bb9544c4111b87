"""Operations of the ollama role."""

from __future__ import annotations

import json
from typing import Any

from pyinfra import host, state
from pyinfra.api import QuoteString, StringCommand, operation

from roles.common.findings import Finding, notice
from roles.common.operations import Commands, ShownCommand, Unit, file_set, refuse, units
from roles.ollama.facts import FILES, Foreign, ForeignOllama, ModelsState, OllamaModels

OWN = "! -user {user} -exec chown --no-dereference {user}:{user} {{}} +"
"""For find: what links lead to stays its owner's."""
ASIDE = ".before-metal2model"


@operation()
def taken_over(directory: str, user: str, link: str, target: str, settings: str) -> Commands:
    """
    Take over what another installation left, and have the program where people's shells find it.

    + directory: where Ollama shall have its models
    + user: whose they shall be
    + link, target: the program's link, and what it shall point to
    + settings: the role's own drop-in

    Its unit is overwritten later, by this role's own. Its models stay where they are: a run that would lose them ends
    here, and their Ollama runs on. Its program is put aside; until the unit is ours, the link stands in for it.
    """
    found = host.get_fact(ForeignOllama, link=link)
    if found.models not in ("", directory):
        yield from refuse._inner(
            problems=[
                f"ollama/models_directory: {found.unit}, which metal2model did not write, keeps models in "
                f"{found.models}, and {directory} is declared; they would be lost from sight; write "
                f"models_directory: {found.models!r} to take them over, or move them to {directory} yourself, or "
                f"remove that unit"
            ]
        )
        return
    steps: list[StringCommand] = []
    if found.models:
        steps.append(StringCommand("find", QuoteString(directory), OWN.format(user=user)))
    if found.program:
        steps.append(StringCommand("mv -fT --", found.program, f"{found.program}{ASIDE}"))
    if found.link != target:
        steps.append(StringCommand("ln -sfn --", target, f"{link}.part && mv -fT -- {link}.part", link))
    if state.is_executing:
        for finding in findings(found, settings):
            notice(host.name, finding)
    yield from steps
    if not steps:
        host.noop("nothing of another installation is in the way")


@operation()
def removed(unit: str, unit_file: str, settings: str, link: str) -> Commands:
    """
    Stop the daemon and remove its unit. Another installation's is left as it is, and that is told.

    + unit, unit_file: its name and place
    + settings: the role's own drop-in
    + link: where this role has its link to the program
    """
    found = host.get_fact(ForeignOllama, link=link)
    if found.unit:
        if state.is_executing:
            notice(host.name, not_ours(found))
        yield from file_set._inner(files={settings: None})
        return
    yield from units._inner(units=[Unit(unit, present=False)])
    yield from file_set._inner(files={unit_file: None, settings: None})


def not_ours(found: Foreign) -> Finding:
    """Return that a daemon runs on, which this role did not install."""
    return Finding("ollama_not_ours", "ollama/enabled", {"unit": found.unit})


def findings(found: Foreign, settings: str) -> list[Finding]:
    """Return what is to be known of another installation."""
    noticed = []
    if found.unit:
        words = {"unit": found.unit, "program": f"{found.program}{ASIDE}" if found.program else "-"}
        noticed.append(Finding("ollama_taken_over", "ollama", words))
    others = [path for path in found.drop_ins if path != settings]
    if others:
        noticed.append(Finding("ollama_drop_ins", "ollama", {"found": others}))
    return noticed


@operation()
def models(spec: dict[str, Any]) -> Commands:
    """
    Have the declared models in Ollama, as their Modelfiles say, and those that are not wanted any more removed.

    + spec: what is wanted, see roles/ollama/files/models.py

    One remote command when nothing is to do. Models that nobody declared are left alone, and told.
    """
    text = json.dumps(spec)
    found = host.get_fact(OllamaModels, spec=text)
    if state.is_executing:
        for finding in undeclared(found):
            notice(host.name, finding)
    if found.answers and not found.todo and not found.gone:
        host.noop(f"{len(spec['models'])} models as wanted")
        return
    yield ShownCommand("export LC_ALL=C.UTF-8; umask 022; python3 -I -S -c",
                       QuoteString((FILES / "models.py").read_text()), "apply", QuoteString(text))  # fmt: skip


def undeclared(found: ModelsState) -> list[Finding]:
    """Return whether Ollama has models that the inventory does not know."""
    if not found.undeclared:
        return []
    return [Finding("ollama_undeclared", "ollama/instances", {"found": list(found.undeclared)})]
