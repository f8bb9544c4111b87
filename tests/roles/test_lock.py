"""files/hardware.yaml, the compatibility lock: what it knows of cards, and what it refuses to be told."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from roles.common.hardware import DisplayController, HardwareReport
from roles.common.kernels import KernelRange
from roles.common.lock import (
    HARDWARE,
    KNOWN_TAGS,
    Tag,
    cards_of,
    declared_cards,
    family_of,
    load_hardware,
    suggested_tags,
    tag_of,
    vendors_of,
)
from roles.common.options import OptionError, Options
from tests.roles.test_hardware import dump

TEXT = (Path(__file__).parents[2] / "files" / "hardware.yaml").read_text(encoding="utf-8")
INTEL = {"b580", "b570", "arc-pro-b50", "arc-pro-b60", "arc-pro-b70", "a770", "a750", "a380", "flex"}
GEFORCE = {"rtx3090", "rtx4090", "rtx5090"}
DATA_CENTRE = {"t4", "v100", "p40", "a100", "l40s", "h20", "h100", "h800", "h200"}
CARD_TAGS = sorted(INTEL | GEFORCE | DATA_CENTRE)
FAMILIES = {
    "intel-xe", "intel-dg2", "nvidia-pascal", "nvidia-volta", "nvidia-turing", "nvidia-ampere", "nvidia-ada",
    "nvidia-hopper", "nvidia-blackwell",
}  # fmt: skip


def report_with(*pci_ids: str) -> HardwareReport:
    """A host with these cards, at 01:00.0, 02:00.0, ..."""
    ids = [pci_id.split(":") for pci_id in pci_ids]
    return HardwareReport(
        controllers=tuple(
            DisplayController(f"0000:{at:02x}:00.0", vendor, device) for at, (vendor, device) in enumerate(ids, start=1)
        )
    )


# --- The file --------------------------------------------------------------------------------------------------------


def test_every_tag_that_we_promise_is_there() -> None:
    assert set(KNOWN_TAGS) == {*CARD_TAGS, *FAMILIES, "cpu", "numa", "seed"}


def test_no_card_has_two_tags() -> None:
    ids = [pci_id for entry in HARDWARE.values() for pci_id in entry.cards]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("tag", CARD_TAGS)
def test_a_card_says_what_it_needs_and_where_that_was_read(tag: str) -> None:
    entry, family = HARDWARE[tag], family_of(tag)
    assert entry.source
    assert entry.family in FAMILIES
    assert family.vendor == entry.vendor == ("intel" if tag in INTEL else "nvidia")
    assert entry.cards
    for pci_id, card in entry.cards.items():
        assert pci_id.startswith({"intel": "8086:", "nvidia": "10de:"}[entry.vendor])
        assert card.name
        assert card.vram_mib is None or 4096 <= card.vram_mib <= 288 * 1024


def test_every_family_names_its_driver_and_has_a_card() -> None:
    for tag in FAMILIES:
        entry = HARDWARE[tag]
        assert entry.driver == {"intel-xe": "xe", "intel-dg2": "i915"}.get(tag, "nvidia")
        assert entry.source
        assert {entry.family for entry in HARDWARE.values() if entry.family == tag} == {tag}


def test_a_tag_that_is_no_card_has_no_vendor() -> None:
    for tag in ("cpu", "numa"):
        assert (HARDWARE[tag].vendor, HARDWARE[tag].family, HARDWARE[tag].cards) == (None, None, {})


def test_compute_capabilities_are_nvidias_table() -> None:
    """developer.nvidia.com/cuda-gpus and cuda-legacy-gpus; H20 and H800 have the die of the H100."""
    assert {tag: HARDWARE[tag].compute_capability for tag in CARD_TAGS} == {
        **dict.fromkeys(INTEL),
        "p40": "6.1", "v100": "7.0", "t4": "7.5", "a100": "8.0", "rtx3090": "8.6", "rtx4090": "8.9", "l40s": "8.9",
        "h20": "9.0", "h100": "9.0", "h800": "9.0", "h200": "9.0", "rtx5090": "12.0",
    }  # fmt: skip


@pytest.mark.parametrize("tag", sorted(GEFORCE | DATA_CENTRE))
def test_nvidia_modules_follow_the_generation(tag: str) -> None:
    """NVIDIA's driver installation guide, kernel modules: open from Turing on, and nothing else for Blackwell."""
    support = family_of(tag).nvidia
    assert support is not None
    major, minor = (int(number) for number in str(HARDWARE[tag].compute_capability).split("."))
    if (major, minor) < (7, 5):
        assert (support.modules, support.branches) == (["proprietary"], ["580-server"])
    elif major >= 10:
        assert support.modules == ["open"]
    else:
        assert set(support.modules) == {"open", "proprietary"}


@pytest.mark.parametrize(
    ("pci_id", "kernel", "holds"),
    [
        ("8086:e20b", "6.11.0-29-generic", False),  # behind xe.force_probe
        ("8086:e20b", "6.12.57+deb13-amd64", True),
        ("8086:e20b", "6.17.0-14-generic", True),
        ("8086:e20b", "6.18.2-061802-generic", False),  # intel/compute-runtime#875
        ("8086:e20b", "6.19.10-061910-generic", True),
        ("8086:e20b", "7.0.0-30-generic", True),
        ("8086:e20b", "8.0.0-3-generic", False),
        ("8086:e211", "6.12.12-amd64", False),
        ("8086:e211", "6.12.57+deb13-amd64", True),
        ("8086:e211", "6.13.0-061300-generic", False),
        ("8086:e211", "6.14.0-33-generic", True),
        ("8086:e223", "6.17.0-14-generic", False),
        ("8086:e223", "7.0.0-30-generic", True),
        ("8086:56a0", "6.1.0-41-amd64", False),
        ("8086:56a0", "6.2.0-39-generic", True),
        ("8086:56a0", "6.18.2-061802-generic", True),
        ("10de:2684", "5.15.0-161-generic", True),
    ],
)
def test_a_card_knows_its_kernels(pci_id: str, kernel: str, holds: bool) -> None:
    (card,) = declared_cards(["intel-xe", "intel-dg2", "rtx4090"], report_with(pci_id))
    assert card.kernel.holds(kernel) is holds


# --- Tags and hosts --------------------------------------------------------------------------------------------------


def test_a_family_is_a_tag_for_all_its_cards() -> None:
    report = report_with("8086:e20b", "8086:56a0", "8086:e211", "10de:2684")
    assert [str(card) for card in declared_cards(["intel-xe"], report)] == [
        "Arc B580 (8086:e20b @ 0000:01:00.0)", "Arc Pro B60 (8086:e211 @ 0000:03:00.0)",
    ]  # fmt: skip
    assert [card.tag for card in declared_cards(["intel-xe"], report)] == ["b580", "arc-pro-b60"]
    assert set(cards_of("intel-xe")) == {"8086:e20b", "8086:e20c", "8086:e212", "8086:e211", "8086:e223"}
    assert set(cards_of("b580")) == {"8086:e20b"}
    assert cards_of("cpu") == {}


def test_cards_that_no_tag_speaks_of_are_none_of_our_business() -> None:
    report = report_with("8086:e20b", "10de:2684", "1a03:2000")
    assert [card.tag for card in declared_cards(["b580", "rtx4090", "cpu"], report)] == ["b580", "rtx4090"]
    assert [card.tag for card in declared_cards(["b580", "rtx4090"], report, "nvidia")] == ["rtx4090"]
    assert declared_cards(["cpu", "a770"], report) == []


def test_tags_say_whose_drivers_are_needed() -> None:
    assert vendors_of(["cpu", "numa"]) == set()
    assert vendors_of(["intel-dg2", "h20", "numa"]) == {"intel", "nvidia"}


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("panther-lake-igpu", ["cpu"]),
        ("a380-beside-igpu", ["a380"]),
        ("eight-h200", ["h200", "numa"]),
        ("h800-unnamed", ["h800", "numa"]),
        ("rtx4090-beside-bmc", ["rtx4090"]),
        ("two-arc-pro-b70", ["arc-pro-b70"]),
        ("p40-in-a-vm", ["p40"]),
    ],
)
def test_tags_are_suggested_by_id_and_not_by_name(name: str, tags: list[str]) -> None:
    assert suggested_tags(dump(name)) == tags


class Host(Options):
    tags: list[Tag]


def test_an_unknown_tag_is_explained() -> None:
    assert Host.load({"tags": ["rtx4090", "numa"]}, where="gpu-01").tags == ["rtx4090", "numa"]
    with pytest.raises(OptionError) as caught:
        Host.load({"tags": ["rtx409"]}, where="gpu-01")
    assert str(caught.value) == "gpu-01: tags/0: unknown hardware tag 'rtx409' (did you mean 'rtx4090'?)"


# --- Changing it -----------------------------------------------------------------------------------------------------


def test_adding_a_card_is_adding_one_entry() -> None:
    entry = (
        "\nrtx5080:\n  vendor: nvidia\n  family: nvidia-blackwell\n  compute_capability: '12.0'\n  cards:\n"
        "    '10de:2c02': {name: GeForce RTX 5080, vram_mib: 16384, min_driver: '570'}\n  source: pci.ids\n"
    )
    hardware = load_hardware(TEXT + entry)
    assert hardware.keys() - HARDWARE.keys() == {"rtx5080"}
    assert hardware["rtx5080"].cards["10de:2c02"].vram_mib == 16384


def test_adding_an_id_is_adding_one_line() -> None:
    known = '    "8086:e20b": {name: Arc B580, vram_mib: 12288}\n'
    assert known in TEXT
    more = '    "8086:e20d": {name: Arc B580 again, kernel: {min: "6.14"}}\n'
    cards = load_hardware(TEXT.replace(known, known + more))["b580"].cards
    assert list(cards) == ["8086:e20b", "8086:e20d"]
    assert cards["8086:e20d"].kernel == KernelRange(min="6.14")


FAMILY = "f: {source: s, vendor: intel, driver: xe}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: {}", "source"),
        ('x: {source: ""}', "source"),
        ("x: {source: s, vendor: amd}", "'intel' or 'nvidia'"),
        (FAMILY + 'x: {source: s, vendor: intel, family: f, cards: {"8086:E20B": {name: n}}}', "8086:E20B"),
        (FAMILY + 'x: {source: s, vendor: intel, family: f, cards: {"e20b": {name: n}}}', "e20b"),
        (FAMILY + 'x: {source: s, vendor: intel, family: f, cards: {"8086:e20b": {name: n, vram: 1}}}', "vram"),
        (FAMILY + 'x: {source: s, vendor: intel, family: f, cards: {"8086:e20b": {name: n, vram_mib: 0}}}', "vram_mib"),
        (FAMILY + 'x: {source: s, vendor: intel, family: f, cards: {"8086:e20b": {}}}', "name"),
        ('x: {source: s, vendor: intel, cards: {"8086:e20b": {name: n}}}', "a tag with cards names its family"),
        ("x: {source: s, vendor: intel}", "a vendor's tag has cards, or is a family and names their driver"),
        (FAMILY + "x: {source: s, vendor: intel, family: f}", "a vendor's tag has cards"),
        (
            FAMILY + 'x: {source: s, vendor: intel, family: f, driver: xe, cards: {"8086:e20b": {name: n}}}',
            "driver, kernel and nvidia stand in the family's entry",
        ),
        (
            FAMILY + 'x: {source: s, vendor: intel, family: f, kernel: {min: "7"}, cards: {"8086:e20b": {name: n}}}',
            "driver, kernel and nvidia stand in the family's entry, or in a card's",
        ),
        ("f: {source: s, vendor: nvidia, driver: nvidia}", "`nvidia` goes with `driver: nvidia`"),
        ("f: {source: s, vendor: nvidia, driver: nvidia, nvidia: {branches: [], modules: [open]}}", "branches"),
        (
            "f: {source: s, vendor: nvidia, driver: nvidia, nvidia: {branches: [580-sever], modules: [open]}}",
            "580-server",
        ),
        ("f: {source: s, vendor: intel, driver: xe, kernel: {min: 6.12}}", "min"),  # YAML reads 6.10 as 6.1
        ('f: {source: s, vendor: intel, driver: xe, kernel: {mim: "6.12"}}', "mim"),
        ("x: {source: s, compute_capability: 7.5}", "compute_capability"),
    ],
)
def test_a_wrong_entry_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        load_hardware(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            FAMILY + 'x: {source: s, vendor: intel, family: ff, cards: {"8086:e20b": {name: n}}}',
            "x: family 'ff' is no family (did you mean 'f'?)",
        ),
        (
            FAMILY + "c: {source: s}\n" + 'x: {source: s, vendor: intel, family: c, cards: {"8086:e20b": {name: n}}}',
            "x: family 'c' is no family",
        ),
        (
            FAMILY + 'x: {source: s, vendor: nvidia, family: f, cards: {"10de:2684": {name: n}}}',
            "x: vendor 'nvidia', but its family's is 'intel'",
        ),
        (
            FAMILY
            + 'x: {source: s, vendor: intel, family: f, cards: {"8086:e20b": {name: n}}}\n'
            + 'y: {source: s, vendor: intel, family: f, cards: {"8086:e20b": {name: n}}}',
            "y: 8086:e20b is 'x' already; one id belongs to one tag",
        ),
    ],
)
def test_entries_that_do_not_fit_together_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        load_hardware(text)


def test_a_card_that_is_not_in_the_lock_has_no_tag() -> None:
    assert tag_of(DisplayController("0000:00:02.0", "8086", "b080")) is None
    assert suggested_tags(report_with("10de:ffff")) == ["cpu"]
