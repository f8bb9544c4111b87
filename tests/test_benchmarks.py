"""What the benchmark reads out of other programs' text; seconds are measured, never asserted."""

from benchmarks.figures import Figure, Goal, Sample, commands_in_log, executions_in_log, recap, table

RECAP = """\
PLAY RECAP *********************************************************************
f-1                        : ok=29   changed=0    unreachable=0    failed=0    skipped=1    rescued=0    ignored=0
f-10                       : ok=28   changed=2    unreachable=0    failed=1    skipped=1    rescued=0    ignored=0
"""


def test_the_recap_tells_hosts_apart() -> None:
    found = recap(RECAP)
    assert (found["f-1"]["changed"], found["f-10"]["changed"], found["f-10"]["failed"]) == (0, 2, 1)


def test_a_host_whose_name_begins_another_is_counted_alone() -> None:
    log = "[f-1] noise\nRunning command on f-1: (pty=False) sh -c true\nRunning command on f-10: (pty=False) sh\n"
    assert (commands_in_log(log, "f-1"), commands_in_log(log, "f-10")) == (1, 1)


def test_executions_are_those_of_the_address() -> None:
    log = "<10.0.0.1> SSH: EXEC ssh -C\n<10.0.0.11> SSH: EXEC ssh -C\n<10.0.0.1> ESTABLISH SSH CONNECTION\n"
    assert (executions_in_log(log, "10.0.0.1"), executions_in_log(log, "10.0.0.11")) == (1, 1)


def figure(tool: str, *seconds: float) -> Figure:
    return Figure(tool, 1, tuple(Sample(value, value / 2) for value in seconds))


def test_the_table_compares_medians() -> None:
    text = table([figure("ssh", 0.1, 0.3, 0.2), figure("ours", 1.0, 2.0, 9.0)], "ssh")
    assert "| 1 | ours | 3 | 2.00 | 1.00 - 9.00 | 1.00 | 10.0 |" in text


def test_a_goal_says_whether_it_was_met() -> None:
    assert Goal("x", 5.0, 5, at_least=False).met and not Goal("x", 39.9, 40, at_least=True).met
    assert "MISSED" in str(Goal("x", 39.9, 40, at_least=True))
