"""`./run bench`: a converged run against ansible-core and against a bare login, on 1 and on 10 hosts.

The tools take turns, so that whatever else the machine does disturbs all of them alike. Figures are medians; a count of
remote commands has no noise and is taken once, by the host's own sshd.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks import tools
from benchmarks.figures import Figure, Goal, Sample, commands_in_log, executions_in_log, recap, table
from tests.e2e.support import PYINFRA
from tests.testbed import BedError, artefacts, images, say, state_dir
from tests.testbed.hosts import Bed, BedHost

OURS, ANSIBLE, SSH = "full.py", "ansible-core", "ssh host true"
NAGLE, CONNECT, START = "full.py without TCP_NODELAY", "pyinfra, an empty deploy", "pyinfra --version"
NAMES = [f"f-bench{number}" for number in range(1, 11)]
QUICK_RUNS = 3
"""Runs of everything but Ansible in each round: they are short, so noise weighs more."""

Measure = Callable[[], Sample]


def main() -> int:
    """Measure, print, and leave nothing running."""
    parser = argparse.ArgumentParser(prog="./run bench", description="Measure speed on throwaway hosts.")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all figures there, too")
    parser.add_argument("--rounds", type=int, default=5, help="runs of Ansible on one host (default 5)")
    parser.add_argument("--fleet-rounds", type=int, default=3, help="runs of Ansible on ten hosts (default 3)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, and says so, as Ctrl-C does
    began = time.monotonic()
    try:
        program = tools.ansible_playbook()
        images.layers(state_dir(), "noble")
        artefacts.make_models()
        artefacts.release()
        with Bed.open(owner=os.getpid()) as bed, tempfile.TemporaryDirectory(prefix="m2m-bench-") as scratch:
            hosts = bed.up_many(NAMES)
            try:
                results = measure(hosts, Path(scratch), program, (arguments.rounds, arguments.fleet_rounds))
            finally:
                say("Taking the hosts down")
                bed.down(*NAMES)
    except (BedError, tools.BenchError, subprocess.CalledProcessError) as error:
        print(f"./run bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the hosts are taken down.", file=sys.stderr)
        return 130
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    say(f"Done in {time.monotonic() - began:.0f} s")
    return 0


def measure(hosts: list[BedHost], scratch: Path, program: Path, rounds: tuple[int, int]) -> dict[str, object]:
    """Measure everything, print it as it comes, and return what --json writes."""
    one = hosts[:1]
    for name, some in (("one", one), ("ten", hosts)):
        tools.write_pyinfra_inventory(scratch / f"{name}.py", some)
    say(f"Provisioning {len(hosts)} bare hosts with full.py")
    cold = tools.pyinfra(scratch / "ten.py", "deploys/full.py").sample
    say(f"{cold.seconds:.0f} s; now the playbook, until it finds nothing to do (it installs python3-apt for itself)")
    fleet = tools.ansible_for(program, scratch / "ansible-ten", hosts)
    single = tools.ansible_for(program, scratch / "ansible-one", one)
    fleet.run()

    counts = count(one[0], scratch / "one.py", single)
    say("Remote commands on a host at rest, as its sshd counts them: " + json.dumps(counts))
    figures = [
        *take_turns(one, scratch / "one.py", single, rounds[0]),
        *take_turns(hosts, scratch / "ten.py", fleet, rounds[1]),
    ]
    goals = judge(figures, counts)
    print("\n" + table(figures, SSH) + "\n")
    print(f"full.py on ten bare hosts: {cold.seconds:.0f} s")
    print("\n".join(str(goal) for goal in goals))
    return {
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "pyinfra": version("pyinfra"),
            "ansible": ansible_version(program),
            "load": os.getloadavg(),
        },
        "cold_ten_hosts_seconds": cold.seconds,
        "counts": counts,
        "figures": [
            {**asdict(figure), "seconds": figure.seconds, "cpu_seconds": figure.cpu_seconds} for figure in figures
        ],
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
    }


def take_turns(hosts: Sequence[BedHost], inventory: Path, ansible: tools.Ansible, rounds: int) -> list[Figure]:
    """Run every tool in turn, several rounds."""
    quick: dict[str, Measure] = {
        SSH: lambda: tools.ssh_true(hosts),
        OURS: lambda: tools.pyinfra_at_rest(inventory, "deploys/full.py", hosts),
        NAGLE: lambda: tools.pyinfra_at_rest(inventory, "benchmarks/deploys/with_nagle.py", hosts),
        CONNECT: lambda: tools.pyinfra(inventory, "benchmarks/deploys/nothing.py").sample,
    }
    if len(hosts) == 1:
        quick[START] = lambda: tools.timed([str(PYINFRA), "--version"]).sample
    samples: dict[str, list[Sample]] = {name: [] for name in (*quick, ANSIBLE)}
    for number in range(1, rounds + 1):
        for _ in range(QUICK_RUNS):
            for name, run in quick.items():
                samples[name].append(run())
        samples[ANSIBLE].append(ansible.at_rest())
        last = ", ".join(f"{name} {taken[-1].seconds:.2f}" for name, taken in samples.items())
        say(f"{len(hosts)} host(s), round {number}/{rounds}, load {os.getloadavg()[0]:.1f}, seconds: {last}")
    return [Figure(name, len(hosts), tuple(taken)) for name, taken in samples.items()]


def count(host: BedHost, inventory: Path, ansible: tools.Ansible) -> dict[str, int]:
    """Return how many remote commands each tool gives to a host at rest: as sshd says, and as the tool itself says."""
    with tools.sshd_that_tells(host):
        before = tools.started_by_sshd(host)
        ours = tools.pyinfra(inventory, "deploys/full.py", "--debug").output
        between = tools.started_by_sshd(host)
        theirs = ansible.run("-vvv").output
        after = tools.started_by_sshd(host)
    return {
        OURS: between - before - 1,
        f"{OURS}, by its own log": commands_in_log(ours, host.name),
        ANSIBLE: after - between - 1,
        f"{ANSIBLE}, by its own log": executions_in_log(theirs, host.address),
        f"{ANSIBLE}, tasks": recap(theirs)[host.name]["ok"],
    }


def judge(figures: Sequence[Figure], counts: dict[str, int]) -> list[Goal]:
    """Return the goals of the project with what was measured."""
    seconds = {(figure.tool, figure.hosts): figure.seconds for figure in figures}
    return [
        Goal("Times faster than ansible-core on 1 host", seconds[ANSIBLE, 1] / seconds[OURS, 1], 40, True),
        Goal("Times faster than ansible-core on 10 hosts", seconds[ANSIBLE, 10] / seconds[OURS, 10], 50, True),
        Goal("Times the seconds of ssh host true, 1 host", seconds[OURS, 1] / seconds[SSH, 1], 5, False),
        Goal("Remote commands on a host at rest", counts[OURS], 30, False),
    ]


def ansible_version(program: Path) -> str:
    """Return ansible-core's version."""
    return tools.timed([str(program), "--version"]).output.partition("]")[0].rpartition(" ")[2]


if __name__ == "__main__":
    sys.exit(main())
