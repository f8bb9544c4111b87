"""Operations of the nvidia_gpu role."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyinfra import host, state
from pyinfra.api import StringCommand, operation

from roles.common.apt import NO_ARCHIVE, Archive, DistributionArchive, apt_script
from roles.common.operations import Commands, ShownCommand, TextFile, file_set, refuse
from roles.common.reboot import NOTES, Boot, BootState, content, wish
from roles.nvidia_gpu.facts import OTHERS, DriverState, DriverStates, Smi, SmiState
from roles.nvidia_gpu.plan import Driver, is_foreign

ROLE = "nvidia_gpu"
CHANGE = f"others={shlex.quote(OTHERS)}\n" + (Path(__file__).parent / "files" / "change.sh").read_text()
NON_FREE = "/etc/apt/sources.list.d/metal2model-non-free.sources"
DEBIAN_PACKAGES = ("nvidia-kernel-dkms", "nvidia-smi", "libcuda1", "nvidia-persistenced")


@operation()
def driver(
    wanted: Driver | None,
    *,
    files: Mapping[str, TextFile | None],
    codename: str,
    fabric: bool,
    hold: bool,
    secure_boot: bool,
    lock_timeout_seconds: int,
) -> Commands:
    """
    Have the driver installed: programs and a module for the kernel that runs next, of one version, and no other branch.

    + wanted: which of Ubuntu's; None for Debian's only one
    + files: what keeps others from the driver; written once it is clear that the driver can come
    + codename: of the release
    + fabric: the machine has NVSwitches, and needs the fabric manager
    + hold: keep the packages at their version
    + secure_boot: only signed modules will be loaded
    + lock_timeout_seconds: how long to wait for another package manager

    What is installed takes effect at the next boot; a note on the host asks for it.
    """
    found: DriverState = host.get_fact(DriverStates)
    missing = lacks(found, wanted, fabric)
    unheld = [name for name, package in found.packages.items() if not package.held] if hold else []
    unheld += found.free_kernels if hold else ()
    held = [] if hold else [name for name, package in found.packages.items() if package.held]
    # A driver that is whole, but not at work, waits for a boot; once is enough, the proof tells the rest.
    waits = "" if missing else unloaded(found, wanted)
    boot: BootState = host.get_fact(Boot) if waits else BootState()
    if not (missing or unheld or held or (waits and not boot.tried(waits) and waits not in boot.wanted)):
        yield from file_set._inner(files=files)
        host.noop(f"driver {version_of(found, wanted)} is installed")
        return
    steps = []
    if missing:
        steps = [f"wish={shlex.quote(wish(ROLE, f'the driver of NVIDIA was installed for {found.kernel}'))}"]
        if wanted is None:
            archive: Archive = host.get_fact(DistributionArchive)
            if state.is_executing and not archive.uri:
                yield from refuse._inner(problems=[f"nvidia_gpu/source: {NO_ARCHIVE}"])
                return
            entry = archive.entry(role=ROLE, suite=codename, components="contrib non-free non-free-firmware")
            yield from file_set._inner(files={NON_FREE: TextFile(entry)})
            steps.append(f"debian_driver {shlex.quote(found.kernel)} || exit")
        else:
            foreign = [name for name in found.packages if is_foreign(name, wanted)]
            words = [wanted.suffix, wanted.branch, found.kernel, _yes(fabric), _yes(secure_boot), _yes(hold), *foreign]
            yield apt_script(f"{CHANGE}plan_driver {shlex.join(words)}", lock_timeout_seconds=lock_timeout_seconds)
            steps.append(f"install_driver {shlex.join(words)} || exit")
    elif waits and not boot.tried(waits):
        steps = [wish(ROLE, waits)]
    if held:
        steps.insert(0, f"m2m_run apt-mark unhold {shlex.join(held)} || exit")
    if hold:
        steps.append(f"hold {shlex.join(found.free_kernels)}")
    yield from file_set._inner(files=files)
    text = apt_script(CHANGE + "\n".join(steps), lock_timeout_seconds=lock_timeout_seconds)
    yield ShownCommand(*text.bits) if missing else text


@operation()
def proven(addresses: Sequence[str], persistence: bool) -> Commands:
    """
    Fail this host unless nvidia-smi lists every declared card, each in working order.

    + addresses: of the declared cards on the PCI bus
    + persistence: they must keep the driver's state
    """
    found: SmiState = host.get_fact(Smi, note=f"{NOTES}/{ROLE}")
    if problems := problems_of(found, addresses, persistence):
        if state.is_executing:
            yield from refuse._inner(problems=problems)
    elif found.noted:
        yield StringCommand(content(ROLE))
    else:
        host.noop(f"{len(found.gpus)} cards at work with driver {found.gpus[0].driver_version if found.gpus else '-'}")


def lacks(found: DriverState, wanted: Driver | None, fabric: bool) -> list[str]:
    """Return what the driver lacks; [] when it is whole, of one version, and alone."""
    if wanted is None:
        missing = [name for name in DEBIAN_PACKAGES if not found.version(name)]
        return missing + ([] if found.module else [f"a module for {found.kernel}"])
    version = found.version(f"nvidia-utils-{wanted.branch}")
    missing = [] if version else [f"nvidia-utils-{wanted.branch}"]
    heads = [f"nvidia-headless-no-dkms-{wanted.suffix}", f"nvidia-headless-{wanted.suffix}"]
    missing += [] if any(found.version(name) == version for name in heads) else heads[:1]
    missing += [] if found.module else [f"a module for {found.kernel}"]
    if fabric and found.version(f"nvidia-fabricmanager-{wanted.number}") != version:
        missing.append(f"nvidia-fabricmanager-{wanted.number} {version}".strip())
    missing += [f"the end of {name}" for name in found.packages if is_foreign(name, wanted)]
    return missing + [f"the rest of {name}" for name, package in found.packages.items() if not package.whole]


def version_of(found: DriverState, wanted: Driver | None) -> str:
    """Return the version of the driver's programs, "" without."""
    return found.version(f"nvidia-utils-{wanted.branch}" if wanted else "nvidia-smi")


def unloaded(found: DriverState, wanted: Driver | None) -> str:
    """Return why a driver that is installed is not at work; "" when it is."""
    version = version_of(found, wanted)
    if found.loaded == version:
        return ""
    if not found.loaded:
        return f"NVIDIA's driver {version} is installed and not loaded"
    return f"NVIDIA's module {found.loaded} is loaded, its programs are {version}"


ADVICE = {
    6: "no card answers to the driver; look at journalctl -k -g NVRM: a branch that is too new or modules of the wrong "
    "kind ignore a card; check nvidia_gpu/branch and nvidia_gpu/modules",
    8: "a card's power cable is not plugged in, or too weak",
    9: "the driver is not loaded; look at journalctl -k -g NVRM and mokutil --sb-state: under Secure Boot only signed "
    "modules load; was the host rebooted since the driver came?",
    12: "the library of the driver is missing (libnvidia-ml); another package took it away: run deploys/full.py again",
    14: "the memory that describes a card (infoROM) is damaged; it has to be replaced",
    15: "a card has fallen off the bus: power the host off and on; check the slot, the riser, power and temperature",
    16: "a card needs a reset; reboot the host",
    18: "the loaded module and the programs are of two versions, since the driver was upgraded without a reboot; "
    "reboot the host, then run deploys/full.py again, which holds the packages",
    127: "nvidia-smi is not installed; run deploys/full.py",
}
"""Exit status of nvidia-smi, which is NVML's return code -> what to do (docs.nvidia.com/deploy/nvml-api)."""


def problems_of(found: SmiState, addresses: Sequence[str], persistence: bool) -> list[str]:
    """Return why the cards are not in working order: what was found, what is required, what to do."""
    if found.status != 0:
        advice = ADVICE.get(found.status, "look at journalctl -k -g NVRM on the host")
        return [f"nvidia_gpu: nvidia-smi ended with {found.status}: {found.message[:300] or 'no text'}; {advice}"]
    listed = {gpu.address: gpu for gpu in found.gpus}
    problems = [
        f"nvidia_gpu: the card at {address} is on the PCI bus, but nvidia-smi does not list it; {ADVICE[6]}"
        for address in addresses
        if address not in listed
    ]
    for address, gpu in listed.items():
        if gpu.broken:
            problems.append(
                f"nvidia_gpu: {gpu.name} at {address} shows {gpu.broken}; required is an answer; {ADVICE[15]}"
            )
        if gpu.uncorrected_errors:
            problems.append(
                f"nvidia_gpu: {gpu.name} at {address} has {gpu.uncorrected_errors} uncorrected memory errors; required "
                "are none, results would be wrong; reset or replace the card (nvidia-smi -q -d ECC)"
            )
        if persistence and address in addresses and not gpu.persistence:
            problems.append(
                f"nvidia_gpu/persistence: {gpu.name} at {address} is not in persistence mode, though "
                "nvidia-persistenced is to see to it; look at journalctl -u nvidia-persistenced"
            )
    return problems


def _yes(value: bool) -> str:
    return "yes" if value else "no"
