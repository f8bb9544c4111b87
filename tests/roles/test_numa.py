"""Where a server's memory lies on a machine with several nodes."""

from dataclasses import replace

import pytest

from roles.common.hardware import HardwareReport, NumaNode
from roles.common.numa import NumaChoice, NumaPolicy, numa_findings, numa_policy
from tests.roles.test_hardware import dump

TWO = dump("two-sockets-8-rtx4090")
H200 = ["h200", "numa"]


def without(report: HardwareReport, node: int) -> HardwareReport:
    """The same host without the cards of a node."""
    return replace(report, controllers=tuple(card for card in report.controllers if card.numa_node != node))


@pytest.mark.parametrize(
    ("choice", "policy"),
    [
        ("auto", NumaPolicy(physical_cores=64)),
        ("none", NumaPolicy(physical_cores=64)),
        ("distribute", NumaPolicy(physical_cores=64)),
        ("isolate", NumaPolicy(physical_cores=64)),
        ("interleave", NumaPolicy("interleave", "0-1", "", 64)),
        (1, NumaPolicy("bind", "1", "32-63", 32)),
        (7, NumaPolicy(physical_cores=64)),
    ],
)
def test_a_server_is_placed_as_chosen(choice: NumaChoice, policy: NumaPolicy) -> None:
    assert numa_policy(TWO, choice) == policy


def test_directives_are_those_of_systemd() -> None:
    assert numa_policy(TWO, 1).directives == ["NUMAPolicy=bind", "NUMAMask=1", "CPUAffinity=32-63"]
    assert numa_policy(TWO, "interleave").directives == ["NUMAPolicy=interleave", "NUMAMask=0-1"]
    assert numa_policy(TWO, "none").directives == []


@pytest.mark.parametrize("choice", ["auto", "none", "interleave", "distribute", 0])
def test_one_node_needs_no_directive(choice: NumaChoice) -> None:
    report = dump("firecracker-container")
    assert numa_policy(report, choice, tags=["cpu"], uses_gpu=True).directives == []
    assert numa_policy(report, choice).physical_cores == 2
    assert numa_findings(report, choice, "numa") == []


# --- auto ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("node", "cpus"), [(0, "0-31"), (1, "32-63")])
def test_by_itself_a_server_goes_to_the_node_of_its_cards(node: int, cpus: str) -> None:
    report = without(TWO, 1 - node)
    policy = numa_policy(report, "auto", tags=["rtx4090", "numa"], uses_gpu=True)
    assert policy.directives == ["NUMAPolicy=preferred", f"NUMAMask={node}", f"CPUAffinity={cpus}"]
    assert policy.physical_cores == 32


def test_cards_on_two_nodes_leave_nothing_but_to_interleave() -> None:
    for report, tags in ((TWO, ["rtx4090", "numa"]), (dump("eight-h200"), H200)):
        policy = numa_policy(report, "auto", tags=tags, uses_gpu=True)
        assert policy.directives == ["NUMAPolicy=interleave", "NUMAMask=0-1"]
        assert policy.physical_cores == report.cpu.cores


def test_only_declared_cards_count() -> None:
    """The BMC hangs on node 1, and so may a card that another program uses."""
    report = without(TWO, 1)
    other = replace(TWO.controllers[-1], device="1eb8", numa_node=1)
    report = replace(report, controllers=(*report.controllers, other))
    assert numa_policy(report, "auto", tags=["rtx4090", "numa"], uses_gpu=True).mask == "0"
    assert numa_policy(report, "auto", tags=["rtx4090", "t4", "numa"], uses_gpu=True).mask == "0-1"


def test_a_family_counts_as_its_cards_do() -> None:
    assert numa_policy(without(TWO, 0), "auto", tags=["nvidia-ada", "numa"], uses_gpu=True).mask == "1"


def test_a_server_without_a_gpu_is_spread() -> None:
    report = without(TWO, 1)
    assert numa_policy(report, "auto", tags=["rtx4090", "numa"]).policy == "interleave"
    assert numa_policy(report, "auto", tags=["cpu", "numa"], uses_gpu=True).policy == "interleave"


def test_without_the_tag_nothing_is_done() -> None:
    assert numa_policy(without(TWO, 1), "auto", tags=["rtx4090"], uses_gpu=True) == NumaPolicy(physical_cores=64)


def test_a_card_whose_node_is_unknown_binds_nobody() -> None:
    cards = tuple(replace(card, numa_node=None) for card in TWO.controllers)
    policy = numa_policy(replace(TWO, controllers=cards), "auto", tags=["rtx4090", "numa"], uses_gpu=True)
    assert policy.policy == "interleave"


@pytest.mark.parametrize(
    "nodes", [(NumaNode(0, "", 0, 8192), TWO.nodes[1]), (NumaNode(0, "0-31", 32, 0), TWO.nodes[1])]
)
def test_a_node_that_lacks_a_part_takes_no_server(nodes: tuple[NumaNode, ...]) -> None:
    report = replace(without(TWO, 1), nodes=nodes)
    assert numa_policy(report, "auto", tags=["rtx4090", "numa"], uses_gpu=True).policy == "interleave"


def test_a_choice_by_hand_is_kept() -> None:
    report = without(TWO, 1)
    assert numa_policy(report, 1, tags=["rtx4090", "numa"], uses_gpu=True).directives[0] == "NUMAPolicy=bind"
    assert numa_policy(report, "none", tags=["rtx4090", "numa"], uses_gpu=True).directives == []


# --- What cannot be --------------------------------------------------------------------------------------------------


def test_a_node_that_does_not_exist_is_told() -> None:
    assert numa_findings(TWO, 0, "llama_cpp/instances/r1/numa") == []
    (finding,) = numa_findings(TWO, 2, "llama_cpp/instances/r1/numa")
    assert (finding.key, finding.option) == ("no_node", "llama_cpp/instances/r1/numa")
    assert finding.words == {"node": 2, "found": ["0", "1"]}


def test_a_node_without_processors_takes_no_server_but_memory() -> None:
    report = HardwareReport(nodes=(NumaNode(0, "0-3", 4, 2048), NumaNode(1, "", 0, 8192), NumaNode(2, "4-7", 4, 0)))
    assert [finding.key for finding in numa_findings(report, 1, "numa")] == ["node_without_processors"]
    assert [finding.key for finding in numa_findings(report, 2, "numa")] == ["node_without_memory"]
    assert numa_policy(report, "interleave").mask == "0-1"
