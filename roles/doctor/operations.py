"""Operations of the doctor role. They change nothing; one fails a host on purpose."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra import host, state
from pyinfra.api import operation

from roles.common.operations import Commands, refuse
from roles.common.report import Report
from roles.common.sources import Source
from roles.doctor.facts import Answer, Answers
from roles.doctor.messages import Language
from roles.doctor.plan import rows, summary

TOTAL_SECONDS = 90
"""When the program on the host gives up on what is left; a source that is measured takes five seconds at most."""


@operation()
def asked(
    report: Report, fastest: Report, *, sources: Sequence[Source], silence_seconds: int, lang: Language
) -> Commands:  # fmt: skip
    """
    Ask every source, and enter what came back in the reports.

    + report: the fleet's table of sources
    + fastest: the fleet's table of the best ones
    + sources: what this host would fetch from
    + silence_seconds: how long a source may be silent
    + lang: language of the sentences
    """
    if state.is_executing:
        found = host.get_fact(
            Answers, sources=list(sources), silence_seconds=silence_seconds, total_seconds=TOTAL_SECONDS
        )
        answers: Sequence[Answer] = found if len(found) == len(sources) else [Answer()] * len(sources)
        both = list(zip(sources, answers, strict=True))
        report.enter(host.name, rows(both, lang))
        fastest.enter(host.name, summary(both, lang))
    host.noop(f"{len(sources)} sources asked")
    yield from ()


@operation()
def judged(report: Report, fastest: Report, json_to: str | None) -> Commands:
    """
    Show the fleet's tables, then fail this host if it cannot have what it needs.

    + report: complete, because every host has passed `asked` before one comes here
    + fastest: complete by then, too; not shown where the JSON, which has all of it, takes its place
    + json_to: see `Report.print_once`
    """
    found: list[str] = []
    if state.is_executing:
        found = report.print_once(json_to)
        if json_to != "-":
            fastest.print_once()
        found += dict.fromkeys(row["unmet"] for row in report.rows(host.name) if row["unmet"])
    yield from refuse._inner(problems=found)
