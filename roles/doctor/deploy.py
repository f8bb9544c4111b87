"""Deploy of the doctor role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.report import Report
from roles.common.sources import Source
from roles.doctor.messages import Language
from roles.doctor.operations import asked, judged

COLUMNS = ("for", "source", "declared", "usable", "bytes from", "latency ms", "KiB/s", "remarks")
REPORT = Report("Doctor: can the hosts fetch what they need?", COLUMNS)
FASTEST = Report("The fastest that can be used, and what to write to have it")
"""One of each for all hosts of the run: pyinfra runs a deploy once for each host, and this module is loaded once."""


@deploy("Doctor")
def deploy_doctor(sources: Sequence[Source], silence_seconds: int, lang: Language, json_to: str | None = None) -> None:
    """Show what the hosts would fetch from and what comes of it; a host that cannot have what it needs is failed."""
    asked(name="Ask the sources", report=REPORT, fastest=FASTEST, sources=sources, silence_seconds=silence_seconds,
          lang=lang)  # fmt: skip
    judged(name="Judge the answers", report=REPORT, fastest=FASTEST, json_to=json_to)
