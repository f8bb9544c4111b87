"""Preflight: what speaks against a host, in both languages."""

from dataclasses import replace
from string import Formatter

import pytest

from roles.common.hardware import HardwareReport, NumaNode, OperatingSystem
from roles.preflight.deploy import SYSTEMS, problems
from roles.preflight.messages import MESSAGES
from tests.roles.test_hardware import dump

NODE = NumaNode(0, "0-3", 4, 4096)
GOOD = HardwareReport(
    os=OperatingSystem("ubuntu", "24.04", "noble", "Ubuntu 24.04"), architecture="amd64", nodes=(NODE,)
)


@pytest.mark.parametrize(("system", "version"), [(s, v) for s, versions in SYSTEMS.items() for v in versions])
def test_supported_systems_pass(system: str, version: str) -> None:
    assert problems(["cpu"], replace(GOOD, os=OperatingSystem(system, version))) == []


@pytest.mark.parametrize(
    ("system", "found"),
    [
        (OperatingSystem("ubuntu", "20.04", "focal", "Ubuntu 20.04.6 LTS"), "Ubuntu 20.04.6 LTS"),
        (OperatingSystem("ubuntu", "25.10", "questing", "Ubuntu 25.10"), "Ubuntu 25.10"),
        (OperatingSystem("debian", "11", "bullseye", "Debian GNU/Linux 11"), "Debian GNU/Linux 11"),
        (OperatingSystem("arch", "", "", "Arch Linux"), "Arch Linux"),
        (OperatingSystem("openEuler"), "openEuler"),
        (OperatingSystem(), "unknown"),
    ],
)
def test_other_systems_are_refused_by_name(system: OperatingSystem, found: str) -> None:
    (problem,) = problems(["cpu"], replace(GOOD, os=system))
    assert problem.startswith(f"the operating system is {found}; required: Ubuntu 22.04")


def test_other_architectures_are_refused() -> None:
    assert problems(["cpu"], replace(GOOD, architecture="arm64")) == []
    (problem,) = problems(["cpu"], replace(GOOD, architecture="riscv64"))
    assert problem.startswith("the architecture is riscv64; required: amd64, arm64;")


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("b580-beside-igpu", ["b580"]),
        ("b580-beside-igpu", ["cpu"]),
        ("b580-beside-igpu", ["b580", "cpu"]),
        ("two-sockets-8-rtx4090", ["rtx4090", "numa"]),
        ("h20-vm", ["h20"]),
        ("virtio-gpu-vm", ["cpu"]),
        ("firecracker-container", ["cpu"]),
    ],
)
def test_tags_that_fit_pass(name: str, tags: list[str]) -> None:
    assert problems(tags, dump(name)) == []


def test_a_card_that_is_absent_is_told_with_what_is_there() -> None:
    (problem,) = problems(["b570"], dump("b580-beside-igpu"))
    assert problem == (
        "tags: 'b570' is declared, but the PCI bus has "
        "8086:a780 @ 0000:00:02.0, 8086:e20b @ 0000:03:00.0 (tag 'b580'); "
        "required: 8086:e20c (Arc B570); drivers are chosen by this tag; "
        "correct the tag, or check that the card is seated, has power and is not passed through to a VM"
    )


def test_several_ids_are_one_of() -> None:
    (problem,) = problems(["rtx3090"], GOOD)
    assert "the PCI bus has no display controller at all" in problem
    assert "required: one of 10de:2204 (GeForce RTX 3090), 10de:2203 (GeForce RTX 3090 Ti);" in problem


def test_numa_needs_two_nodes() -> None:
    (problem,) = problems(["cpu", "numa"], GOOD)
    assert "the kernel shows 1 NUMA node" in problem
    assert problems(["cpu", "numa"], replace(GOOD, nodes=(NODE, replace(NODE, index=1)))) == []


def test_all_problems_are_told_at_once_and_in_chinese() -> None:
    told = problems(["b580", "numa"], HardwareReport(), lang="zh")
    assert len(told) == 4
    assert told[0].startswith("操作系统是 未知；要求：Ubuntu 22.04")
    assert "没有任何显示控制器" in told[2]


@pytest.mark.parametrize("key", MESSAGES)
def test_both_languages_say_the_same(key: str) -> None:
    fields = {lang: sorted(f for _, f, _, _ in Formatter().parse(text) if f) for lang, text in MESSAGES[key].items()}
    assert fields["en"] == fields["zh"]
