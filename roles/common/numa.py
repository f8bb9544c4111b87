"""Where a server's memory lies on a machine with several NUMA nodes, and how systemd is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from roles.common.findings import Finding, Word
from roles.common.hardware import HardwareReport, cpu_list
from roles.common.lock import declared_cards

NumaChoice = Literal["auto", "none", "interleave", "distribute", "isolate"] | Annotated[int, Field(ge=0)]
"""Where a server's memory shall lie: by the tags and the cards, wherever it falls, evenly on all nodes, where the
engine itself puts it, or on the node with this index together with the server's processors."""


@dataclass(frozen=True)
class NumaPolicy:
    """Values of a unit's directives, systemd.exec(5); "" for one that is to be left out."""

    policy: Literal["", "interleave", "bind", "preferred"] = ""
    mask: str = ""
    cpu_affinity: str = ""
    physical_cores: int = 0
    """Those that the server then has: the best number of threads."""

    @property
    def directives(self) -> list[str]:
        """Lines for the unit's [Service] section."""
        pairs = {"NUMAPolicy": self.policy, "NUMAMask": self.mask, "CPUAffinity": self.cpu_affinity}
        return [f"{name}={value}" for name, value in pairs.items() if value]


def numa_policy(
    report: HardwareReport, choice: NumaChoice, *, tags: Sequence[str] = (), uses_gpu: bool = False
) -> NumaPolicy:
    """
    Return how systemd must start a server so that its memory lies as chosen.

    "auto" does nothing without the tag `numa`. With it, a server that uses a GPU goes to the node that all declared
    cards hang on, whose memory it prefers (a large model may need the other's, too); else pages are interleaved.

    "distribute" and "isolate" are the engine's own work (llama.cpp: ``--numa distribute``), systemd leaves them
    alone; with "interleave" and a node, llama.cpp is told ``--numa numactl``. On a host with one node no directive is
    needed, and a container may be refused one: set_mempolicy(2) wants CAP_SYS_NICE there.
    A node that does not exist is `numa_findings`'s to tell.
    """
    near = _gpu_node(report, tags) if choice == "auto" and uses_gpu else None
    chosen = [node for node in report.nodes if node.index in (choice, near)]
    if chosen and len(report.nodes) > 1:
        policy: Literal["bind", "preferred"] = "bind" if near is None else "preferred"
        return NumaPolicy(policy, str(chosen[0].index), chosen[0].cpus, chosen[0].cores)
    if (choice == "interleave" or (choice == "auto" and "numa" in tags)) and len(report.nodes) > 1:
        with_memory = cpu_list(node.index for node in report.nodes if node.memory_mib)
        return NumaPolicy("interleave", with_memory, "", report.cpu.cores)
    return NumaPolicy(physical_cores=report.cpu.cores)


def _gpu_node(report: HardwareReport, tags: Sequence[str]) -> int | None:
    """Return the node that has processors and memory and that all declared cards hang on."""
    if "numa" not in tags:
        return None
    nodes = {card.controller.numa_node for card in declared_cards(tags, report)}
    whole = {node.index for node in report.nodes if node.cpus and node.memory_mib}
    return nodes.pop() if len(nodes) == 1 and nodes <= whole else None


def numa_findings(report: HardwareReport, choice: NumaChoice, option: str) -> list[Finding]:
    """Return why this host cannot place memory as ``option`` wants: the node is absent, or lacks a part."""
    if isinstance(choice, str):
        return []
    nodes = {node.index: node for node in report.nodes}
    words: dict[str, Word] = {"node": choice, "found": [str(index) for index in sorted(nodes)]}
    if choice not in nodes:
        return [Finding("no_node", option, words)]
    if not nodes[choice].cpus:
        return [Finding("node_without_processors", option, words)]
    return [] if nodes[choice].memory_mib else [Finding("node_without_memory", option, words)]
