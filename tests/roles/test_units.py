"""What systemd says of several units, in one answer."""

from roles.common.facts import UnitState, UnitStates

STARTED = "Sun 2026-11-22 03:32:44.123456 UTC"
STARTED_EPOCH = 1795318364.123456


def block(load: str, active: str, enabled: str, since: str = "") -> list[str]:
    return [f"LoadState={load}", f"ActiveState={active}", f"UnitFileState={enabled}", "NeedDaemonReload=no",
            f"ActiveEnterTimestamp={since}"]  # fmt: skip


def test_a_block_belongs_to_its_unit_and_files_make_it_stale() -> None:
    states = UnitStates().process(
        [
            "Unit=a.service", f"changed={STARTED_EPOCH - 9}", f"changed={STARTED_EPOCH + 1}", "Unit=b.service",
            f"changed={STARTED_EPOCH - 9}", "Unit=c.service",
            *block("loaded", "active", "enabled", STARTED), "", *block("loaded", "active", "disabled", STARTED), "",
            *block("not-found", "inactive", ""),
        ]
    )  # fmt: skip
    assert states == {
        "a.service": UnitState(exists=True, active=True, enabled=True, needs_reload=False, stale=True),
        "b.service": UnitState(exists=True, active=True, enabled=False, needs_reload=False, stale=False),
        "c.service": UnitState(exists=False, active=False, enabled=False, needs_reload=False, stale=False),
    }


def test_systemd_is_asked_once() -> None:
    command = str(UnitStates().command({"a.service": ["/a"], "b.service": []}))
    assert command.count("systemctl show") == 1
    assert "systemctl" not in str(UnitStates().command({}))


def test_without_an_answer_there_are_no_units() -> None:
    states = UnitStates().process(["Unit=a.service", "Unit=b.service"])
    assert [state.exists for state in states.values()] == [False, False]
