"""What the doctor asks for the dify role: its source archive; which images it wants stands in there."""

from __future__ import annotations

from roles.common.sources import Source, host_of
from roles.dify.options import DifyOptions
from roles.dify.units import archive_url


def sources(options: DifyOptions) -> list[Source]:
    """Return where the compose file would come from."""
    if not options.present:
        return []
    url = archive_url(options)
    return [
        Source(
            kind="release", what=f"dify {options.version}", name=host_of(url), option="dify/download_url", url=url
        )
    ]  # fmt: skip
