"""Operations of the verify role. They change nothing; one fails a host on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyinfra import host, state
from pyinfra.api import operation

from roles.common.connection import login_of
from roles.common.endpoint import Endpoint
from roles.common.operations import Commands, refuse
from roles.common.report import Report
from roles.verify.card import connection, lines
from roles.verify.facts import EndpointCheck, EndpointChecks

NOT_ASKED = "python3 did not run on the host; it is there once role base has run; run deploys/full.py first"


@operation()
def asked(report: Report, card: Report, endpoints: Sequence[Endpoint], unit_patterns: Sequence[str]) -> Commands:
    """
    Ask every endpoint its golden prompt, and enter what came back in the report.

    + report: the fleet's table
    + card: the fleet's other table, of how to use what has answered
    + endpoints: what this host must serve
    + unit_patterns: names of the engines' units, to find those that nothing declares
    """
    if state.is_executing:
        serving = host.get_fact(EndpointChecks, endpoints=list(endpoints), unit_patterns=list(unit_patterns))
        checks: Sequence[EndpointCheck] = serving.checks
        if len(checks) != len(endpoints):
            checks = [EndpointCheck(endpoint.name, problems=(NOT_ASKED,)) for endpoint in endpoints]
        login = login_of(host)
        known = [connection(endpoint, login) for endpoint in endpoints]
        rows = [row(check) | where for check, where in zip(checks, known, strict=True)]
        rows += [stray(unit) for unit in serving.undeclared]
        tried = zip(checks, endpoints, known, strict=True)
        ok = [(endpoint, where) for check, endpoint, where in tried if not check.problems]
        card.enter(host.name, [lines(*one) for one in ok if one[0].url.startswith("http")])
        report.enter(host.name, rows or [{"endpoint": "none declared", "verdict": "-", "problems": []}])
    host.noop(f"{len(endpoints)} endpoints asked")
    yield from ()


@operation()
def judged(report: Report, card: Report, json_to: str | None) -> Commands:
    """
    Show the fleet's tables, then fail this host if one of its checks failed.

    + report: complete, because every host has passed `asked` before one comes here
    + card: complete by then, too; not shown where the JSON, which has all of it, takes its place
    + json_to: see `Report.print_once`
    """
    problems: list[str] = []
    if state.is_executing:
        problems = report.print_once(json_to)
        if card.has_rows and json_to != "-":
            card.print_once()
        problems += [f"{row['endpoint']}: {problem}" for row in report.rows(host.name) for problem in row["problems"]]
    yield from refuse._inner(problems=problems)


def row(check: EndpointCheck) -> dict[str, Any]:
    """Return a check as a row of the report."""
    return {
        "endpoint": check.name,
        "unit": check.unit,
        "health": check.health,
        "model": check.model,
        "tokens/s": check.tokens_per_second,
        "verdict": "failed" if check.problems else "ok",
        "answer": check.answer,
        "problems": list(check.problems),
    }


def stray(unit: str) -> dict[str, Any]:
    """Return the row of a unit that runs though nothing declares it: told, not failed."""
    return {"endpoint": unit, "unit": "running", "verdict": "not declared: write present: False", "problems": []}
