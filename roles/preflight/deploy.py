"""Deploy of the preflight role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.findings import Finding
from roles.common.report import Report
from roles.preflight.messages import Language
from roles.preflight.operations import compared, judged, listed, warnings_shown

COLUMNS = ("severity", "finding")
REPORT = Report("Preflight: what speaks against the hosts?", COLUMNS)
WARNINGS = Report("Warnings", COLUMNS)
"""One of each for all hosts of a run: pyinfra runs a deploy once for each host, and this module is loaded once."""


@deploy("Preflight")
def deploy_preflight(findings: Sequence[Finding], lang: Language) -> None:
    """Refuse this host if it does not fit its declaration; other hosts go on. Its warnings are kept for the end."""
    compared(name="Compare the host with its declaration", warnings=WARNINGS, findings=findings, lang=lang)


@deploy("Preflight")
def deploy_preflight_report(findings: Sequence[Finding], lang: Language, json_to: str | None) -> None:
    """Show all findings of all hosts in one table, then fail the hosts that have errors."""
    listed(name="Compare the host with its declaration", report=REPORT, findings=findings, lang=lang)
    judged(name="Judge the findings", report=REPORT, json_to=json_to, findings=findings, lang=lang)


@deploy("Preflight")
def deploy_warnings(lang: Language) -> None:
    """List the warnings of all hosts, if there are any."""
    warnings_shown(name="List the warnings", warnings=WARNINGS, lang=lang)
