"""Deploy of the verify role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.endpoint import Endpoint
from roles.common.report import Report
from roles.verify.operations import asked, judged

COLUMNS = ("endpoint", "unit", "health", "model", "tokens/s", "verdict")
REPORT = Report("Verify: do the declared servers answer?", COLUMNS)
CARD = Report("Where clients connect (docs/clients.md)", ("model", "connect"))
"""One of each for all hosts of the run: pyinfra runs a deploy once for each host, and this module is loaded once."""


@deploy("Verify")
def deploy_verify(endpoints: Sequence[Endpoint], unit_patterns: Sequence[str], json_to: str | None) -> None:
    """Prove that every declared server answers; a host whose check fails is a failed host."""
    asked(name="Ask the golden prompts", report=REPORT, card=CARD, endpoints=endpoints, unit_patterns=unit_patterns)
    judged(name="Judge the answers", report=REPORT, card=CARD, json_to=json_to)
