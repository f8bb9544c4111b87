"""Deploy of the probe role."""

from __future__ import annotations

from pyinfra.api import deploy

from roles.common.report import Report, shown
from roles.probe.operations import COLUMNS, look

REPORT = Report("Hardware of the hosts", columns=COLUMNS)
"""One for all hosts of a run: a deploy file is executed once for each."""


@deploy("Probe")
def deploy_probe(report: Report, json_to: str | None = None) -> None:
    """Show what the hosts are made of; ``json_to``: see `Report.print_once`."""
    look(name="Look at the host", report=report)
    shown(name="Show all hosts", report=report, json_to=json_to)
