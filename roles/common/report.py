"""What a run found out about its hosts, shown once for all of them: a table for people, JSON for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pyinfra import state
from pyinfra.api import operation

from roles.common.operations import Commands, refuse


class Report:
    """
    Rows for each host of the fleet, shown once for all of them.

    Hosts enter their rows in one operation and show the report in the next; whichever host comes there when every
    host that is still in the run has entered, prints it.
    """

    def __init__(self, title: str, columns: Sequence[str] | None = None) -> None:
        """Begin an empty report; ``columns`` are those that the table shows, None for all. JSON has every one."""
        self.title = title
        self._columns = columns
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        self._absent: list[str] = []
        self._printed = False

    def enter(self, host: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Set the rows of a host: column -> value."""
        self._rows[host] = list(rows)

    def rows(self, host: str) -> list[Mapping[str, Any]]:
        """Return the rows of a host in the order in which they came."""
        return self._rows.get(host, [])

    @property
    def has_rows(self) -> bool:
        """Any host has entered a row."""
        return any(self._rows.values())

    def table(self) -> str:
        """Return the table for a terminal, hosts by name. A list has one line for each item, None is "?"."""
        columns = self._columns or list(dict.fromkeys(c for rows in self._rows.values() for row in rows for c in row))
        lines = [[["host"], *([column] for column in columns)]]
        for name, rows in sorted(self._rows.items()):
            lines += [[[name], *(_cell(row.get(column)) for column in columns)] for row in rows]
        widths = [max(_width(text) for line in lines for text in line[at]) for at in range(len(columns) + 1)]
        lines.insert(1, [["-" * width] for width in widths])
        text = [self.title, ""]
        for line in lines:
            for at in range(max(map(len, line))):
                parts = [cell[at] if at < len(cell) else "" for cell in line]
                padded = [part + " " * (width - _width(part)) for part, width in zip(parts, widths, strict=True)]
                text.append("  ".join(padded).rstrip())
        if self._absent:
            text += ["", f"failed before this, see above: {', '.join(self._absent)}"]
        return "\n".join(text)

    def json(self) -> str:
        """Return ``{"title": ..., "hosts": {name: [row, ...]}}``, hosts by name; dataclasses become objects."""
        hosts = dict(sorted({**self._rows, **{name: [] for name in self._absent}}.items()))
        return json.dumps({"title": self.title, "hosts": hosts}, default=_plain, ensure_ascii=False, indent=2)

    def print_once(self, json_to: str | None = None) -> list[str]:
        """
        Print the table on stdout, once, when every host that is still in the run has entered its rows.

        ``json_to``: a file that gets the JSON, too; "-" prints it on stdout instead of the table. A host that failed
        before it could enter anything is in both, without a row of its own.
        Returns what kept the file from being written.
        """
        waited_for = {host.name for host in state.active_hosts} - self._rows.keys()
        if self._printed or not state.is_executing or waited_for:
            return []
        self._printed = True
        self._absent = sorted(failed.name for failed in state.failed_hosts if failed.name not in self._rows)
        if json_to == "-":
            print(self.json(), flush=True)
            return []
        print("\n" + self.table() + "\n", flush=True)
        try:
            if json_to:
                Path(json_to).write_text(self.json() + "\n", encoding="utf-8")
        except OSError as error:
            return [f"json: the report cannot be written to {json_to}: {error.strerror}; give another path"]
        return []


@operation()
def shown(report: Report, json_to: str | None = None) -> Commands:
    """
    Show a report that the hosts filled in the operations before.

    + report: one and the same for all hosts
    + json_to: see `Report.print_once`
    """
    yield from refuse._inner(problems=report.print_once(json_to))


def _cell(value: object) -> list[str]:
    if isinstance(value, list | tuple):
        return [line for item in value for line in _cell(item)] or ["-"]
    if value is None:
        return ["?"]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return str(value).splitlines() or [""]


def _width(text: str) -> int:
    """Columns that the text takes in a terminal: two for a Chinese character, none for a combining mark."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{value!r} cannot be written as JSON")
