"""What the doctor asks for the intel_gpu role: the archive of the compute runtime, and its key."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.hardware import HardwareReport
from roles.common.lock import declared_cards
from roles.common.sources import PUBLIC_KEY, Archive, Source, archive, host_of
from roles.intel_gpu.deploy import key_of, sources_text
from roles.intel_gpu.options import IntelGpuOptions
from roles.intel_gpu.plan import source_of


def sources(options: IntelGpuOptions, tags: Sequence[str], report: HardwareReport) -> list[Source]:
    """Return where the runtime would come from; nothing without a card, or from the distribution's archive."""
    source = source_of(options, report)
    if source not in ("ppa", "intel") or not declared_cards(tags, report, "intel"):
        return []
    option = f"intel_gpu/{source}_url"
    wanted = Archive.of(sources_text(options, source, report))
    key, _, _ = key_of(options, source)
    return [
        archive(wanted, what="intel_gpu", name=host_of(wanted.uri), option=option),
        Source(
            kind="key", what=f"key of {option}", name=host_of(key), url=key, shows=PUBLIC_KEY,
            option="intel_gpu/keyserver_url" if source == "ppa" else option,
        ),
    ]  # fmt: skip
