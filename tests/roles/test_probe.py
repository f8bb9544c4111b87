"""Probe and the report that it shares with verify."""

import json
import unicodedata
from pathlib import Path

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
        report.add(path.stem, row(dump(path.stem)))
    assert "hardware" not in report.table().splitlines()[2]
    hosts = json.loads(report.json())["hosts"]
    assert hosts["b580-beside-igpu"][0]["hardware"]["controllers"][1]["bars"][2] == 16 << 30
    assert hosts["nothing"][0]["suggested tags"] == ["cpu"]


def test_a_table_is_aligned_for_people() -> None:
    report = Report("检查")
    report.add("b", {"名称": "显卡", "ok": True, "parts": ["x", "y"]})
    report.add("a", {"名称": None, "ok": False, "parts": []})
    assert report.table().splitlines() == [
        "检查",
        "",
        "host  名称  ok   parts",
        "----  ----  ---  -----",
        "a     ?     no   -",
        "b     显卡  yes  x",
        "                 y",
    ]


def test_a_host_may_have_several_rows_and_each_counts_once() -> None:
    report = Report("Servers")
    for verdict in ("prepared", "ok"):
        for name in ("r1", "r2"):
            report.add("gpu-01", {"endpoint": name, "verdict": verdict})
    assert [dict(found) for found in report.rows("gpu-01")] == [
        {"endpoint": "r1", "verdict": "ok"},
        {"endpoint": "r2", "verdict": "ok"},
    ]


def width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


@given(st.lists(st.text(st.sampled_from("ab 主机é|"), min_size=1), min_size=1, max_size=5))
def test_columns_begin_where_their_header_does(names: list[str]) -> None:
    report = Report("t")
    for at, name in enumerate(names):
        report.add(f"h{at}", {"name": name, "last": "|"})
    header, *lines = report.table().splitlines()[2:]
    start = width(header[: header.index("last")])
    assert all(width(line) == start + 1 for line in lines[1:])


def test_nothing_is_printed_while_operations_are_only_prepared(capsys, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    class State:
        is_executing = False

    monkeypatch.setattr("roles.common.report.state", State)
    report = Report("Hosts")
    report.add("a", {"x": 1})
    report.print_once()
    assert capsys.readouterr().out == ""
    State.is_executing = True
    report.print_once(str(tmp_path / "out.json"))
    report.print_once(str(tmp_path / "never.json"))
    assert "a     1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text()) == {"title": "Hosts", "hosts": {"a": [{"x": 1}]}}
    assert not (tmp_path / "never.json").exists()


def test_json_on_stdout_replaces_the_table(capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("roles.common.report.state", type("State", (), {"is_executing": True}))
    report = Report("主机")
    report.add("a", {"x": None})
    report.print_once("-")
    assert json.loads(capsys.readouterr().out) == {"title": "主机", "hosts": {"a": [{"x": None}]}}
