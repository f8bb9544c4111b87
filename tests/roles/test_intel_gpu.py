"""Whether an Intel card can compute on a host: its memory region, the runtime's source, what kernel and runtime say."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.hardware import HardwareReport, OperatingSystem
from roles.common.keyring import KEY, Keyring, KeyState
from roles.common.lock import declared_cards
from roles.common.options import OptionError
from roles.intel_gpu.deploy import by_driver, key_of, sources_text
from roles.intel_gpu.facts import READ, Runtime, RuntimeState
from roles.intel_gpu.operations import GOOD_GUC, old_firmware, problems_of
from roles.intel_gpu.options import IntelGpuOptions, Source
from roles.intel_gpu.plan import RUNTIME, SOURCES, findings, packages, source_of
from tests.roles.test_hardware import GIB, dump
from tests.roles.test_lock import report_with

NOBLE = OperatingSystem("ubuntu", "24.04", "noble", "Ubuntu 24.04.4 LTS")
SID = OperatingSystem("debian", "", "forky", "Debian GNU/Linux forky/sid")
B580, A770, A750 = "8086:e20b", "8086:56a0", "8086:56a1"
TAGS = ["intel-xe", "intel-dg2"]


def options(**given: Any) -> IntelGpuOptions:
    return IntelGpuOptions.load(given, where="h", path="intel_gpu")


def host(*pci_ids: str, mib: int = 16 * GIB, largest: int = 0, **more: Any) -> HardwareReport:
    """An Ubuntu 24.04 whose cards show so many MiB of their memory, and could show at most ``largest``."""
    report = report_with(*pci_ids)
    bars = (16 << 20, 0, mib << 20, 0, 0, 0)
    cards = tuple(replace(card, bars=bars, largest_bar_mib=largest) for card in report.controllers)
    return replace(report, controllers=cards, **{"os": NOBLE, "architecture": "amd64", **more})


def keys(report: HardwareReport, tags: Sequence[str] = TAGS, **given: Any) -> list[str]:
    return [finding.key for finding in findings(options(**given), tags, report)]


# --- The region ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pci_id", "mib", "small"),
    [
        (B580, 256, True),
        (B580, 8 * GIB, True),  # 12 GiB of memory
        (B580, 16 * GIB, False),
        ("8086:e20c", 16 * GIB, False),
        ("8086:e211", 16 * GIB, True),  # 24 GiB
        ("8086:e211", 32 * GIB, False),
        ("8086:e223", 32 * GIB, False),
        (A770, 256, True),
        (A770, 8 * GIB, False),  # sold with 8 and with 16 GiB
        (A770, 16 * GIB, False),
        (A750, 256, True),
        (A750, 4 * GIB, True),
        (A750, 8 * GIB, False),
        ("8086:56a5", 8 * GIB, False),  # 6 GiB, and regions are powers of two
        ("8086:56c0", 16 * GIB, False),
    ],
)
def test_the_processor_must_see_all_of_the_memory(pci_id: str, mib: int, small: bool) -> None:
    assert keys(host(pci_id, mib=mib)) == (["small_bar"] if small else [])
    assert keys(host(pci_id, mib=mib), allow_small_bar=True) == (["small_bar_allowed"] if small else [])


def test_a_card_without_a_region_is_preflights_to_tell() -> None:
    assert keys(host(B580, mib=0)) == []
    assert keys(report_with(B580)) == ["intel_source"]  # a host that tells neither regions nor its system


def test_what_is_required_is_all_of_the_memory_as_far_as_it_is_known() -> None:
    for pci_id, largest, required in ((B580, 0, 12288), (A770, 8 * GIB, 8 * GIB), (A770, 0, None)):
        (finding,) = findings(options(), TAGS, host(pci_id, mib=256, largest=largest))
        assert (finding.words["found"], finding.words["required"]) == (256, required)


def test_each_small_card_is_told() -> None:
    report = host(B580, B580, mib=256)
    assert [finding.words["card"] for finding in findings(options(), TAGS, report)] == [
        "Arc B580 (8086:e20b @ 0000:01:00.0)", "Arc B580 (8086:e20b @ 0000:02:00.0)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tags", "found"),
    [
        ("b580-beside-igpu", ["b580"], []),
        ("b580-small-bar", ["b580"], ["small_bar"]),
        ("b580-in-a-vm", ["b580"], ["small_bar", "intel_source"]),  # Ubuntu 24.10
        ("b570-resize-refused", ["b570"], ["small_bar", "intel_source"]),  # Talos
        ("arc-pro-b50", ["arc-pro-b50"], []),
        ("two-arc-pro-b60", ["arc-pro-b60"], ["intel_vulkan_only"]),  # Debian 13
        ("two-arc-pro-b70", ["intel-xe"], []),
        ("a770-acer", ["a770"], []),
        ("a750-on-a-pi", ["a750"], ["small_bar", "intel_vulkan_only"]),
        ("a380-beside-igpu", ["a380"], []),
        ("panther-lake-igpu", ["b580"], []),  # preflight says that there is no B580
        ("rtx4090-beside-bmc", ["rtx4090"], []),
    ],
)
def test_what_speaks_against_the_hosts_of_public_reports(name: str, tags: list[str], found: list[str]) -> None:
    assert keys(dump(name), tags) == found


# --- The source ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "version", "auto", "refused"),
    [
        ("ubuntu", "22.04", "intel", {"ppa", "archive"}),
        ("ubuntu", "24.04", "ppa", {"archive"}),
        ("ubuntu", "26.04", "archive", {"intel"}),
        ("debian", "12", "vulkan", {"ppa", "intel", "archive"}),
        ("debian", "13", "vulkan", {"ppa", "intel", "archive"}),
        ("debian", "", "archive", {"ppa", "intel"}),
        ("arch", "", None, {"auto", "ppa", "intel", "archive", "vulkan"}),
    ],
)
def test_each_system_has_its_sources(system: str, version: str, auto: Source | None, refused: set[Source]) -> None:
    report = host(B580, os=OperatingSystem(system, version))
    sources: tuple[Source, ...] = ("auto", "ppa", "intel", "archive", "vulkan", "existing")
    assert source_of(options(), report) == auto
    for source in sources:
        assert (source_of(options(source=source), report) is None) is (source in refused)
        assert ("intel_source" in keys(report, source=source)) is (source in refused)


def test_a_source_that_has_nothing_names_those_that_have() -> None:
    (finding,) = findings(options(source="archive"), TAGS, host(B580))
    assert (finding.key, finding.option) == ("intel_source", "intel_gpu/source")
    assert finding.words["choices"] == ("ppa", "intel", "vulkan", "existing")


def test_vulkan_alone_is_told_unless_it_was_chosen() -> None:
    report = host(B580, os=OperatingSystem("debian", "13"))
    assert keys(report) == ["intel_vulkan_only"]
    assert keys(report, source="vulkan") == []
    assert keys(host(B580), source="vulkan") == []


def test_a_container_gets_its_drivers_from_its_machine() -> None:
    assert keys(host(B580, mib=256, virtualization="lxc")) == ["driver_container"]
    assert keys(host("10de:2684", virtualization="lxc")) == []


@pytest.mark.parametrize(("system", "version"), SOURCES)
def test_every_source_has_packages_with_firmware_first(system: str, version: str) -> None:
    report = host(B580, os=OperatingSystem(system, version))
    for source in SOURCES[system, version]:
        names = packages(source, report)
        assert "firmware" in names[0] and "|" in names[0]
        assert ("mesa-vulkan-drivers" in names) is (source == "vulkan")
        assert ("clinfo" in names) is (source != "vulkan")
        assert set(RUNTIME[source]) <= set(names)


def test_the_ppas_key_is_fetched_by_its_fingerprint() -> None:
    url, option, fingerprints = key_of(options(), "ppa")
    assert url == (
        "https://keyserver.ubuntu.com/pks/lookup?op=get&options=mr&search=0x0C0E6AF955CE463C03FC51574D098D70AFBE5E1F"
    )
    assert (option, fingerprints) == ("intel_gpu/ppa_key", ["0C0E6AF955CE463C03FC51574D098D70AFBE5E1F"])


def test_intels_key_file_may_hold_both_of_its_keys() -> None:
    url, option, fingerprints = key_of(options(intel_url="https://mirror.example.org/gpu"), "intel")
    assert (url, option) == ("https://mirror.example.org/gpu/intel-graphics.key", "intel_gpu/intel_keys")
    assert len(fingerprints) == 2


def test_a_source_is_of_the_hosts_release_and_signed_by_its_own_key() -> None:
    lines = sources_text(options(), "ppa", host(B580)).splitlines()
    assert lines[0].startswith("# Written by metal2model, role intel_gpu")
    assert lines[1:] == [
        "Types: deb", "URIs: https://ppa.launchpadcontent.net/kobuk-team/intel-graphics/ubuntu", "Suites: noble",
        "Components: main", "Architectures: amd64", "Signed-By: /etc/apt/keyrings/metal2model-intel-graphics.gpg",
    ]  # fmt: skip
    lines = sources_text(options(), "intel", host(B580)).splitlines()
    assert (lines[2], lines[4]) == ("URIs: https://repositories.intel.com/gpu/ubuntu", "Components: unified")


def test_cards_are_proven_by_their_driver() -> None:
    cards = declared_cards(TAGS, report_with(B580, A770, B580, "10de:2684"))
    assert by_driver(cards) == {
        "xe": {"0000:01:00.0": "e20b", "0000:03:00.0": "e20b"}, "i915": {"0000:02:00.0": "56a0"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repository": "noble"}, "intel_gpu/repository: no such option: write source"),
        ({"source": "kobuk"}, "intel_gpu/source: "),
        ({"ppa_key": "0x4D098D70AFBE5E1F"}, "intel_gpu/ppa_key: "),
        ({"ppa_url": "https://u:p@ppa.example.org/x"}, "intel_gpu/ppa_url: the URL holds a login"),
        ({"allow_smal_bar": True}, "(did you mean 'allow_small_bar'?)"),
    ],
)
def test_a_wrong_option_is_explained(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        options(**given)
    assert said in str(caught.value)


# --- What the kernel says --------------------------------------------------------------------------------------------

# The words are the kernel's, drivers/gpu/drm/xe and drivers/gpu/drm/i915 (lxc/incus-os#891, ipex-llm#12122).
MISSING = [
    "xe 0000:0c:00.0: Direct firmware load for xe/bmg_guc_70.bin failed with error -2",
    "xe 0000:0c:00.0: [drm] Tile0: GT0: GuC firmware xe/bmg_guc_70.bin: fetch failed with error -ENOENT",
    "xe 0000:0c:00.0: [drm] *ERROR* Tile0: GT0: Failed to initialize uC (-ENOENT)",
]
TOO_OLD = [
    "xe 0000:03:00.0: [drm] GT0: GuC firmware (70.49.4) is recommended, but only (70.40.2) was found",
    "xe 0000:03:00.0: [drm] *ERROR* GT0: Failed to initialize uC (-ENXIO)",
]
I915_FAILS = ["i915 0000:03:00.0: [drm] *ERROR* GT0: GuC initialization failed -ENOEXEC"]
XE_GOOD = [
    "xe 0000:03:00.0: [drm] Tile0: GT0: Using GuC firmware from xe/bmg_guc_70.bin version 70.29.2",
    "xe 0000:03:00.0: [drm] Tile0: GT1: Using GuC firmware from xe/bmg_guc_70.bin version 70.65.0",
    "xe 0000:03:00.0: [drm] Tile0: GT1: Using HuC firmware from xe/bmg_huc.bin version 8.2.10",
]
I915_GOOD = [
    "i915 0000:03:00.0: [drm] GT0: GuC firmware i915/dg2_guc_70.bin version 70.20.0",
    "i915 0000:03:00.0: [drm] GT0: HuC firmware i915/dg2_huc_gsc.bin version 7.10.3",
]
NOT_FIRMWARE = [
    "xe 0000:03:00.0: [drm] Found battlemage (device ID e20b) discrete display version 14.01 stepping B0",
    "xe 0000:03:00.0: [drm] Small BAR device",
    "r8169 0000:05:00.0: Direct memory access mask 64",
]


def logged(*lines: str) -> RuntimeState:
    return Runtime().process([f"log {line}" for line in lines])


@pytest.mark.parametrize(
    ("lines", "lost"),
    [(MISSING, MISSING), (TOO_OLD, TOO_OLD[1:]), (I915_FAILS, I915_FAILS), (XE_GOOD, []), (I915_GOOD, [])],
)
def test_firmware_that_is_missing_or_refused_is_found(lines: list[str], lost: list[str]) -> None:
    assert logged(*lines).lost_firmware == lost


@pytest.mark.parametrize(
    ("lines", "version", "good"),
    [
        (XE_GOOD[:1], (70, 29, 2), False),
        (XE_GOOD, (70, 65, 0), True),
        (I915_GOOD, (70, 20, 0), False),
        (["xe 0000:03:00.0: [drm] GT0: Using GuC firmware from xe/bmg_guc_70.bin version 70.58.0"], (70, 58, 0), False),
        (["xe 0000:03:00.0: [drm] GT0: Using GuC firmware from xe/bmg_guc_71.bin version 71.1.0"], (71, 1, 0), True),
        (MISSING, (), False),
        (TOO_OLD, (), False),
        ([], (), False),
    ],
)
def test_the_version_of_the_guc_is_what_the_kernel_loaded(
    lines: list[str], version: tuple[int, ...], good: bool
) -> None:
    found = logged(*lines)
    assert found.guc == version
    assert (found.guc >= GOOD_GUC) is good
    assert bool(old_firmware(found)) is (bool(version) and not good)


def test_the_script_takes_the_kernels_words_on_firmware_and_no_others(tmp_path: Path) -> None:
    lines = [*MISSING, *TOO_OLD, *I915_FAILS, *XE_GOOD, *I915_GOOD]
    found = read(tmp_path, journalctl="cat <<'E'\n" + "\n".join([*NOT_FIRMWARE, *lines]) + "\nE\n")
    assert list(found.firmware) == lines


def test_the_script_asks_the_runtime_for_its_devices(tmp_path: Path) -> None:
    """clinfo --raw and vulkaninfo --summary as they print them; llvmpipe is no card."""
    clinfo = (
        "cat <<'E'\n#PLATFORMS                                            1\n"
        "[INTEL/0]   CL_DEVICE_NAME                                    Intel(R) Arc(TM) B580 Graphics\n"
        "[INTEL/0]   CL_DEVICE_PCI_BUS_INFO_KHR                        PCI-E, 0000:03:00.0\n"
        "[INTEL/1]   CL_DEVICE_PCI_BUS_INFO_KHR                        PCI-E, 0000:c4:00.0\nE\n"
    )
    found = read(tmp_path, clinfo=clinfo)
    assert (found.asked, found.devices) == (True, ("0000:03:00.0", "0000:c4:00.0"))
    vulkaninfo = (
        "cat <<'E'\nGPU0:\n\tvendorID           = 0x8086\n\tdeviceID           = 0xe20b\n"
        "\tdeviceName         = Intel(R) Arc(tm) B580 Graphics (BMG G21)\n"
        "GPU1:\n\tvendorID           = 0x10005\n\tdeviceID           = 0x0000\nE\n"
    )
    found = read(tmp_path, vulkan=True, vulkaninfo=vulkaninfo)
    assert (found.asked, found.devices) == (True, ("e20b", "0000"))
    assert not read(tmp_path, clinfo=None).asked


def read(tmp_path: Path, *, vulkan: bool = False, **programs: str | None) -> RuntimeState:
    """What the script reads where these programs answer so; None for one that is not installed."""
    (bin_ := tmp_path / "bin").mkdir(exist_ok=True)
    for name in ("clinfo", "vulkaninfo", "journalctl"):
        text = programs.get(name, "exit 1")
        (bin_ / name).unlink(missing_ok=True)
        if text is not None:
            (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
            (bin_ / name).chmod(0o755)
    script = Runtime().command(addresses=["0000:03:00.0"], vulkan=vulkan, note=str(tmp_path / "note"))
    assert READ in script
    for tool in ("cat", "grep", "readlink", "sed", "tail"):  # and nothing else that this machine may have
        if not (bin_ / tool).exists():
            (bin_ / tool).symlink_to(str(shutil.which(tool)))
    environment = {**os.environ, "PATH": str(bin_)}
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, env=environment)
    return Runtime().process(done.stdout.splitlines())


# --- The proof -------------------------------------------------------------------------------------------------------

CARDS = {"0000:03:00.0": "e20b", "0000:07:00.0": "e20b"}
GOOD = RuntimeState(
    drivers=tuple((address, "xe") for address in CARDS),
    render_nodes=tuple(CARDS),
    devices=tuple(CARDS),
    asked=True,
    firmware=tuple(XE_GOOD),
)


@pytest.mark.parametrize(
    ("found", "vulkan", "said"),
    [
        (GOOD, False, []),
        (replace(GOOD, devices=("e20b", "0000", "e20b")), True, []),
        (
            replace(GOOD, drivers=(("0000:03:00.0", ""), ("0000:07:00.0", "vfio-pci")), firmware=tuple(MISSING)),
            False,
            [
                f"the card at 0000:03:00.0 is driven by nothing; required: xe; the kernel says: {MISSING[-1]}; look at",
                "the card at 0000:07:00.0 is driven by vfio-pci; required: xe;",
            ],
        ),
        (replace(GOOD, drivers=(("0000:03:00.0", "i915"), ("0000:07:00.0", "xe"))), False,
         ["the card at 0000:03:00.0 is driven by i915; required: xe; look at journalctl -k -g xe on the host"]),
        (replace(GOOD, render_nodes=("0000:03:00.0",)), False,
         ["the card at 0000:07:00.0 has no render node in /dev/dri, though xe drives it; required to compute;"]),
        (replace(GOOD, asked=False), False, ["clinfo is not installed"]),
        (replace(GOOD, asked=False), True, ["vulkaninfo is not installed"]),
        (replace(GOOD, devices=()), False,
         [f"OpenCL does not find the card at {address}; it finds: none;" for address in CARDS]),
        (replace(GOOD, devices=("0000:03:00.0",)), False,
         ["OpenCL does not find the card at 0000:07:00.0; it finds: 0000:03:00.0;"]),
        (replace(GOOD, devices=("e20b", "0000")), True,
         ["Vulkan does not find a card of device id e20b; it finds: e20b, 0000;"]),
    ],
)  # fmt: skip
def test_a_card_that_cannot_compute_is_told(found: RuntimeState, vulkan: bool, said: list[str]) -> None:
    problems = problems_of(found, CARDS, "xe", vulkan=vulkan)
    assert len(problems) == len(said)
    for problem, beginning in zip(problems, said, strict=True):
        assert problem.startswith(f"intel_gpu: {beginning}")


LINES = [
    "card 0000:03:00.0",
    "card",
    "render 0000:03:00.0",
    "device e20b",
    "lister",
    "noted",
    "log GuC firmware",
    "x",
    "",
]


@given(st.lists(st.sampled_from(LINES)))
def test_no_output_of_the_script_is_an_error(lines: list[str]) -> None:
    found = Runtime().process(lines)
    assert isinstance(problems_of(found, CARDS, "xe", vulkan=False), list)
    assert found.noted is ("noted" in lines)


# --- Keys ------------------------------------------------------------------------------------------------------------

COLONS = """\
tru::1:1732000000:0:3:1:5
pub:-:4096:1:4D098D70AFBE5E1F:1700000000:::-:::scSC::::::23::0:
fpr:::::::::0C0E6AF955CE463C03FC51574D098D70AFBE5E1F:
uid:-::::1700000000::0123456789ABCDEF::Launchpad PPA for kobuk-team::::::::::0:
sub:-:4096:1:28DA432DAAC8BAEA:1700000000::::::e::::::23:
fpr:::::::::FEFCA31BD4A679861EB7080C28DA432DAAC8BAEA:
"""


def test_only_primary_keys_count() -> None:
    assert Keyring().process(COLONS.splitlines()) == KeyState(frozenset({"0C0E6AF955CE463C03FC51574D098D70AFBE5E1F"}))
    assert Keyring().process([]) == KeyState()


@pytest.mark.parametrize("armour", [True, False])
def test_a_key_is_taken_with_and_without_armour(tmp_path: Path, armour: bool) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    made = [*gpg, "--passphrase", "", "--quick-generate-key", "m@example.org", "ed25519", "sign"]
    subprocess.run(made, check=True, capture_output=True)
    exported = subprocess.run([*gpg, *(["--armor"] if armour else []), "--export"], check=True, capture_output=True)
    (tmp_path / "served").write_bytes(exported.stdout)
    colons = subprocess.run([*gpg, "--list-keys", "--with-colons"], check=True, capture_output=True, text=True).stdout
    (fingerprint,) = Keyring().process(colons.splitlines()).fingerprints
    (tmp_path / "curl").write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\ncp {tmp_path}/served "$2"\n')
    (tmp_path / "curl").chmod(0o755)
    target = tmp_path / "keyrings" / "k.gpg"
    script = "m2m_say() { printf '%s\\n' \"$@\"; }; m2m_log=$(mktemp)\n" + KEY
    script += f"key https://keys.example.org {target} intel_gpu/ppa_key {fingerprint}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = subprocess.run(str(Keyring().command(str(target))), shell=True, check=True, capture_output=True, text=True)
    assert Keyring().process(shown.stdout.splitlines()) == KeyState(frozenset({fingerprint}))
    assert not target.read_bytes().startswith(b"-----BEGIN"), "apt reads no armour in a .gpg file"


def test_the_key_is_refused_when_it_is_another(tmp_path: Path) -> None:
    for name, text in {"curl": "exit 0", "gpg": f"cat <<'E'\n{COLONS}E\n"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    target = tmp_path / "keyrings" / "k.gpg"
    script = "m2m_say() { printf '%s\\n' \"$@\"; }; m2m_log=$(mktemp)\n" + KEY
    script += f"key https://keys.example.org {target} intel_gpu/ppa_key {'A' * 40}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, target.exists()) == (1, False)
    assert done.stdout.startswith(
        "intel_gpu/ppa_key: https://keys.example.org serves the key 0C0E6AF955CE463C03FC51574D098D70AFBE5E1F; "
        f"required: {'A' * 40};"
    )
