"""Figures: what a repeated measurement says, and what the tools print of themselves. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Sample:
    """One run of one tool."""

    seconds: float
    cpu_seconds: float
    """Of the tool and its children on the controller, which other work on the machine disturbs less."""


@dataclass(frozen=True)
class Figure:
    """What one tool needed for some hosts, in repeated runs."""

    tool: str
    hosts: int
    samples: tuple[Sample, ...]

    @property
    def seconds(self) -> float:
        return median(sample.seconds for sample in self.samples)

    @property
    def cpu_seconds(self) -> float:
        return median(sample.cpu_seconds for sample in self.samples)

    @property
    def span(self) -> tuple[float, float]:
        """The fastest and the slowest run."""
        seconds = [sample.seconds for sample in self.samples]
        return min(seconds), max(seconds)


@dataclass(frozen=True)
class Goal:
    """What the project promises, and what was measured."""

    text: str
    measured: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.text}: {self.measured:.1f}, wanted {sign} {self.bound:g}: {'met' if self.met else 'MISSED'}"


def table(figures: Sequence[Figure], base: str) -> str:
    """Return a table in Markdown, one row a figure; the last column compares with ``base`` on as many hosts."""
    bases = {figure.hosts: figure.seconds for figure in figures if figure.tool == base}
    lines = [
        f"| hosts | what | runs | seconds (median) | fastest - slowest | CPU seconds here | times {base} |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for figure in figures:
        low, high = figure.span
        ratio = f"{figure.seconds / bases[figure.hosts]:.1f}" if figure.hosts in bases else "-"
        lines.append(
            f"| {figure.hosts} | {figure.tool} | {len(figure.samples)} | {figure.seconds:.2f} | {low:.2f} - {high:.2f} "
            f"| {figure.cpu_seconds:.2f} | {ratio} |"
        )
    return "\n".join(lines)


def commands_in_log(log: str, host: str) -> int:
    """Count the remote commands for a host in what ``pyinfra --debug`` printed."""
    return len(re.findall(rf"Running command on {re.escape(host)}\b", log))


def executions_in_log(log: str, address: str) -> int:
    """Count the commands for an address in what ``ansible-playbook -vvv`` printed."""
    return len(re.findall(rf"^<{re.escape(address)}> SSH: EXEC ", log, re.MULTILINE))


def recap(log: str) -> dict[str, dict[str, int]]:
    """Return host -> ok, changed, failed, ... of ansible-playbook's last lines."""
    lines = re.findall(r"^(\S+)\s+: ((?:\w+=\d+\s*)+)$", log, re.MULTILINE)
    return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", rest)} for host, rest in lines}
