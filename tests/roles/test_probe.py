"""Probe and the report that it shares with verify."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.report import Report
from roles.probe.operations import COLUMNS, row
from tests.roles.test_hardware import DUMPS, dump


def test_a_row_says_what_an_administrator_asks_first() -> None:
    shown = row(dump("two-sockets-8-rtx4090"))
    assert shown["system"] == ["Ubuntu 22.04.5 LTS", "6.8.0-87-generic"]
    assert shown["cpu"] == [
        "AMD EPYC 9375F 32-Core Processor", "2 x 32 cores, 64 threads", "avx2 avx512f avx512_vnni avx512_bf16",
    ]  # fmt: skip
    assert shown["numa"] == ["0: 0-31 755 GiB", "1: 32-63 755 GiB"]
    assert shown["GPUs"] == [
        "8 x 10de:2684 GeForce RTX 4090, BAR 32768 MiB, driver nvidia", "1 x 1a03:2000, driver ast",
    ]  # fmt: skip
    assert shown["suggested tags"] == ["rtx4090", "numa"]


def test_each_file_system_is_told_once() -> None:
    assert row(dump("b580-beside-igpu"))["free GiB"] == ["/ 668", "/srv 7350"]


def test_every_dump_makes_a_table_and_json() -> None:
    report = Report("Hosts", columns=COLUMNS)
    for path in sorted(DUMPS.glob("*.txt")):
        report.enter(path.stem, [row(dump(path.stem))])
    assert "hardware" not in report.table().splitlines()[2]
    hosts = json.loads(report.json())["hosts"]
    assert hosts["b580-beside-igpu"][0]["hardware"]["controllers"][1]["bars"][2] == 16 << 30
    assert hosts["nothing"][0]["suggested tags"] == ["cpu"]


def test_a_table_is_aligned_for_people() -> None:
    report = Report("检查")
    report.enter("b", [{"名称": "显卡", "ok": True, "parts": ["x", "y"]}])
    report.enter("a", [{"名称": None, "ok": False, "parts": []}])
    assert report.table().splitlines() == [
        "检查",
        "",
        "host  名称  ok   parts",
        "----  ----  ---  -----",
        "a     ?     no   -",
        "b     显卡  yes  x",
        "                 y",
    ]


def test_a_host_has_the_rows_that_it_entered_last() -> None:
    report = Report("Servers")
    for verdict in ("prepared", "ok"):
        report.enter("gpu-01", [{"endpoint": name, "verdict": verdict} for name in ("r1", "r2")])
    assert [dict(found) for found in report.rows("gpu-01")] == [
        {"endpoint": "r1", "verdict": "ok"},
        {"endpoint": "r2", "verdict": "ok"},
    ]


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


class State:
    """What pyinfra knows of a run."""

    def __init__(self, active: str = "", failed: str = "", executing: bool = True) -> None:
        self.active_hosts = {Named(name) for name in active.split()}
        self.failed_hosts = {Named(name) for name in failed.split()}
        self.is_executing = executing


@pytest.fixture
def in_state(monkeypatch: pytest.MonkeyPatch) -> Callable[[State], None]:
    return lambda state: monkeypatch.setattr("roles.common.report.state", state)


def test_it_is_printed_when_the_last_host_of_the_run_has_entered(
    in_state: Callable[[State], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With ``pyinfra --serial`` one host ends before the next begins."""
    in_state(State(active="a b"))
    report = Report("Hosts")
    report.enter("a", [{"x": 1}])
    report.print_once()
    assert capsys.readouterr().out == ""
    report.enter("b", [{"x": 2}])
    report.print_once()
    report.print_once()
    assert capsys.readouterr().out.rstrip().splitlines()[-2:] == ["a     1", "b     2"]


def test_a_host_that_failed_earlier_is_not_forgotten(
    in_state: Callable[[State], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    in_state(State(active="a", failed="b"))
    report = Report("Hosts")
    report.enter("a", [{"x": 1}])
    report.print_once(str(tmp_path / "out.json"))
    assert "failed before this, see above: b" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["hosts"] == {"a": [{"x": 1}], "b": []}


def width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


@given(st.lists(st.text(st.sampled_from("ab 主机é|"), min_size=1), min_size=1, max_size=5))
def test_columns_begin_where_their_header_does(names: list[str]) -> None:
    report = Report("t")
    for at, name in enumerate(names):
        report.enter(f"h{at}", [{"name": name, "last": "|"}])
    header, *lines = report.table().splitlines()[2:]
    start = width(header[: header.index("last")])
    assert all(width(line) == start + 1 for line in lines[1:])


def test_nothing_is_printed_while_operations_are_only_prepared(
    in_state: Callable[[State], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    in_state(State(executing=False))
    report = Report("Hosts")
    report.enter("a", [{"x": 1}])
    report.print_once()
    assert capsys.readouterr().out == ""
    in_state(State())
    report.print_once(str(tmp_path / "out.json"))
    report.print_once(str(tmp_path / "never.json"))
    assert "a     1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text()) == {"title": "Hosts", "hosts": {"a": [{"x": 1}]}}
    assert not (tmp_path / "never.json").exists()


def test_json_on_stdout_replaces_the_table(
    in_state: Callable[[State], None], capsys: pytest.CaptureFixture[str]
) -> None:
    in_state(State())
    report = Report("主机")
    report.enter("a", [{"x": None}])
    report.print_once("-")
    assert json.loads(capsys.readouterr().out) == {"title": "主机", "hosts": {"a": [{"x": None}]}}
