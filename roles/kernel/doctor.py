"""What the doctor asks for the kernel role: mainline's builds and their key; other kernels come from apt's archive."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.hardware import HardwareReport
from roles.common.sources import PUBLIC_KEY, Source, host_of
from roles.kernel.options import KernelOptions
from roles.kernel.plan import need, source_of


def sources(options: KernelOptions, tags: Sequence[str], report: HardwareReport) -> list[Source]:
    """Return where another kernel would come from; nothing while the running one will do."""
    if need(options, tags, report).met_by(report) or source_of(options, report) != "mainline":
        return []
    return [
        Source(
            kind="release", what=f"kernel {options.version}", name=host_of(options.mainline_url),
            option="kernel/mainline_url",
            url=f"{options.mainline_url}/v{options.version}/{report.architecture}/CHECKSUMS", shows="Checksums-Sha256",
        ),
        Source(
            kind="key", what="key of kernel/mainline_url", name=host_of(options.keyserver_url),
            option="kernel/keyserver_url", shows=PUBLIC_KEY,
            url=f"{options.keyserver_url}/pks/lookup?op=get&options=mr&search=0x{options.mainline_key}",
        ),
    ]  # fmt: skip
