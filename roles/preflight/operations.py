"""Operations of the preflight role. They change nothing; two fail a host on purpose."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import host, state
from pyinfra.api import operation

from roles.common.findings import NOTICED, Finding
from roles.common.operations import Commands, refuse
from roles.common.report import Report
from roles.preflight.messages import Language, sentence, severity


@operation()
def compared(warnings: Report, findings: Sequence[Finding], lang: Language) -> Commands:
    """
    Fail this host, and no other, if it has errors; keep its warnings for the end of the run.

    + warnings: the fleet's report of them
    + findings: of this host
    + lang: language of the sentences
    """
    warnings.enter(host.name, [_row(finding, lang) for finding in findings if severity(finding) == "warning"])
    yield from refuse._inner(problems=_errors(findings, lang))


@operation()
def listed(report: Report, findings: Sequence[Finding], lang: Language) -> Commands:
    """
    Enter all findings in the fleet's report.

    + report: one and the same for all hosts
    + findings: of this host
    + lang: language of the sentences
    """
    fits = {"severity": "ok", "finding": "nothing speaks against it"}
    report.enter(host.name, [_row(finding, lang) for finding in findings] or [fits])
    host.noop(f"{len(findings)} findings")
    yield from ()


@operation()
def judged(report: Report, json_to: str | None, findings: Sequence[Finding], lang: Language) -> Commands:
    """
    Show the fleet's report, then fail this host if it has errors.

    + report: complete, because every host has passed `listed` before one comes here
    + json_to: see `Report.print_once`
    + findings: of this host
    + lang: language of the sentences
    """
    yield from refuse._inner(problems=[*report.print_once(json_to), *_errors(findings, lang)])


@operation()
def warnings_shown(warnings: Report, lang: Language) -> Commands:
    """
    List the warnings of all hosts, with what roles noticed since; nothing is printed when there are none.

    + warnings: the fleet's report of them
    + lang: language of the sentences
    """
    if state.is_executing:
        while NOTICED:
            name, findings = NOTICED.popitem()
            warnings.enter(name, [*warnings.rows(name), *(_row(finding, lang) for finding in findings)])
        if warnings.has_rows:
            warnings.print_once()
    host.noop("warnings are listed")
    yield from ()


def _row(finding: Finding, lang: Language) -> dict[str, str]:
    return {"severity": severity(finding), "finding": sentence(finding, lang)}


def _errors(findings: Sequence[Finding], lang: Language) -> list[str]:
    return [sentence(finding, lang) for finding in findings if severity(finding) == "error"]
