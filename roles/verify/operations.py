"""Operations of the verify role. They change nothing; one fails a host on purpose."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import host, state
from pyinfra.api import operation

from roles.common.endpoint import Endpoint
from roles.common.operations import Commands, refuse
from roles.common.report import Report
from roles.verify.facts import EndpointCheck, EndpointChecks

NOT_ASKED = "python3 did not run on the host; it is there once role base has run; run deploys/full.py first"


@operation()
def asked(report: Report, endpoints: Sequence[Endpoint]) -> Commands:
    """
    Ask every endpoint its golden prompt, and enter what came back in the report.

    + report: the fleet's table
    + endpoints: what this host must serve
    """
    if state.is_executing:
        checks = host.get_fact(EndpointChecks, endpoints=list(endpoints)) if endpoints else []
        if len(checks) != len(endpoints):
            checks = [EndpointCheck(endpoint.name, problems=(NOT_ASKED,)) for endpoint in endpoints]
        report.add(host.name, row(checks), checks)
    host.noop(f"{len(endpoints)} endpoints asked")
    yield from ()


@operation()
def judged(report: Report, json_to: str | None) -> Commands:
    """
    Show the fleet's table, then fail this host if one of its checks failed.

    + report: complete, because every host has passed `asked` before one comes here
    + json_to: see `Report.print_once`
    """
    problems: list[str] = []
    if state.is_executing:
        report.print_once(json_to)
        problems = [f"{check.name}: {problem}" for check in report.data(host.name) for problem in check.problems]
    yield from refuse._inner(problems=problems)


def row(checks: Sequence[EndpointCheck]) -> dict[str, object]:
    """Return a host's line of the table; its JSON has all that is known of the checks."""
    return {
        "endpoint": [check.name for check in checks],
        "unit": [check.unit for check in checks],
        "health": [check.health for check in checks],
        "model": [check.model for check in checks],
        "tokens/s": ["-" if check.tokens_per_second is None else str(check.tokens_per_second) for check in checks],
        "verdict": ["failed" if check.problems else "ok" for check in checks],
    }
