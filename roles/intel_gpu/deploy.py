"""Deploy of the intel_gpu role."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api import deploy

from roles.common.apt import packages as have_packages
from roles.common.hardware import HardwareReport
from roles.common.keyring import trusted_key
from roles.common.lock import DeclaredCard, declared_cards
from roles.common.operations import TextFile, file_set
from roles.intel_gpu.operations import proven, taken
from roles.intel_gpu.options import IntelGpuOptions, Source
from roles.intel_gpu.plan import packages, source_of

KEYRING = "/etc/apt/keyrings/metal2model-intel-graphics.gpg"
SOURCES = "/etc/apt/sources.list.d/metal2model-intel-graphics.sources"


@deploy("Intel GPU")
def deploy_intel_gpu(
    options: IntelGpuOptions, tags: Sequence[str], report: HardwareReport, lock_timeout_seconds: int
) -> None:
    """Have firmware and compute runtime for the declared cards."""
    cards = declared_cards(tags, report, "intel")
    source = source_of(options, report)
    if not cards or source in (None, "existing"):
        return
    assert source
    if source in ("ppa", "intel"):
        url, option, keys = key_of(options, source)
        trusted_key(name="Trust the key of Intel's packages", url=url, path=KEYRING, option=option, fingerprints=keys)
        text = sources_text(options, source, report)
        file_set(name="Name the source of Intel's packages", files={SOURCES: TextFile(text)})
    have_packages(
        name="Install the compute runtime",
        names=packages(source, report),
        lock_timeout_seconds=lock_timeout_seconds,
    )
    for driver, some in by_driver(cards).items():
        taken(name=f"See whether {driver} has taken the cards", addresses=list(some), kernel_driver=driver)


@deploy("Intel GPU")
def deploy_intel_gpu_proof(options: IntelGpuOptions, tags: Sequence[str], report: HardwareReport) -> None:
    """After the reboot: have every declared card found by the runtime."""
    vulkan = source_of(options, report) == "vulkan"
    for driver, some in by_driver(declared_cards(tags, report, "intel")).items():
        proven(name=f"Prove that {driver}'s cards compute", cards=some, kernel_driver=driver, vulkan=vulkan)


def by_driver(cards: Sequence[DeclaredCard]) -> dict[str, dict[str, str]]:
    """Return kernel driver -> addresses of its cards, and their device ids."""
    found: dict[str, dict[str, str]] = {}
    for card in cards:
        found.setdefault(str(card.family.driver), {})[card.controller.address] = card.controller.device
    return found


def key_of(options: IntelGpuOptions, source: Source) -> tuple[str, str, list[str]]:
    """Return where the source's key is published, the option that pins it, and what that says."""
    if source == "ppa":
        url = f"{options.keyserver_url}/pks/lookup?op=get&options=mr&search=0x{options.ppa_key}"
        return url, "intel_gpu/ppa_key", [options.ppa_key]
    return f"{options.intel_url}/intel-graphics.key", "intel_gpu/intel_keys", options.intel_keys


def sources_text(options: IntelGpuOptions, source: Source, report: HardwareReport) -> str:
    """Return the deb822 entry of the source."""
    url, component = (options.ppa_url, "main") if source == "ppa" else (f"{options.intel_url}/ubuntu", "unified")
    return (
        "# Written by metal2model, role intel_gpu; change the inventory's `intel_gpu` options instead.\n"
        f"Types: deb\nURIs: {url}\nSuites: {report.os.codename}\nComponents: {component}\n"
        f"Architectures: {report.architecture}\nSigned-By: {KEYRING}\n"
    )
