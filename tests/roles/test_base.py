"""How apt is called, and what the base role writes and decides."""

import inspect
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import StringCommand

from roles.base import deploy, operations
from roles.base.facts import HostServices, Services
from roles.base.operations import JOURNALD, TIME_DAEMONS, TIMESYNCD
from roles.base.options import BaseOptions
from roles.common import apt
from roles.common.apt import LOCKED, PackageStates, apt_script
from roles.common.facts import UnitState
from roles.common.options import OptionError

# --- The shell around apt, with programs that only pretend -----------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A directory on PATH in which a test puts its own apt-get."""
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(fake: Path, script: str, seconds: int = 2) -> subprocess.CompletedProcess[str]:
    text = apt_script(script, lock_timeout_seconds=seconds).get_raw_value()
    for ours in ("/var/lib/metal2model", "/var/log/metal2model"):
        text = text.replace(ours, f"{fake.parent}/state")
    path = f"{fake}:{os.environ['PATH']}"
    return subprocess.run(["sh", "-c", text], env={"PATH": path}, capture_output=True, text=True, check=False)


LOCK = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 4711 (unattended-upgr)"


def test_a_held_lock_is_waited_for(fake: Path) -> None:
    program(
        fake / "apt-get",
        f'n=$(cat {fake}/n || echo 0); echo $((n+1)) >{fake}/n\n[ "$n" -gt 0 ] && exit; echo "{LOCK}" >&2; exit 100',
    )
    done = run(fake, "m2m_apt_get install x")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_lock_held_too_long_names_its_holder(fake: Path) -> None:
    program(fake / "apt-get", f'echo "{LOCK}" >&2; exit 100')
    began = time.monotonic()
    done = run(fake, "m2m_apt_get install x", seconds=1)
    assert done.returncode == LOCKED
    assert time.monotonic() - began < 5
    said = done.stderr.splitlines()
    assert said[0] == ("base/lock_timeout_seconds: /var/lib/dpkg/lock-frontend is held by unattended-upgr (pid 4711)")
    assert said[1].startswith("waited 1 s")
    assert said[2].startswith("what to do: ")


def test_an_interrupted_dpkg_is_repaired_once(fake: Path) -> None:
    program(fake / "dpkg", f'echo "dpkg $*" >>{fake}/calls')
    program(
        fake / "apt-get",
        f'echo "apt-get $*" >>{fake}/calls\ngrep -q configure {fake}/calls || '
        "{ echo \"E: dpkg was interrupted, you must manually run 'dpkg --configure -a'\" >&2; exit 100; }",
    )
    assert run(fake, "m2m_apt_get install x").returncode == 0
    calls = (fake / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["apt-get", "dpkg", "apt-get", "apt-get"]
    assert calls[1].endswith("--configure -a")


def test_a_dpkg_beyond_repair_is_not_repaired_for_ever(fake: Path) -> None:
    program(fake / "dpkg", "exit 2")
    program(fake / "apt-get", "echo 'E: dpkg was interrupted, you must manually run it' >&2; exit 100")
    assert run(fake, "m2m_apt_get install x").returncode == 100


def test_a_repair_writes_to_the_log_and_its_failure_is_explained(fake: Path) -> None:
    program(fake / "dpkg", f"readlink /proc/self/fd/1 /proc/self/fd/2 >>{fake}/outputs; exit 2")
    program(
        fake / "apt-get",
        f'readlink /proc/self/fd/1 /proc/self/fd/2 >>{fake}/outputs; echo "$*" >>{fake}/calls\n'
        "case $* in *fix-broken*) echo 'E: post-installation script failed' >&2; exit 7;; esac\n"
        "echo 'E: dpkg was interrupted, you must manually run it' >&2; exit 100",
    )
    done = run(fake, "m2m_apt_get install x")
    assert done.returncode == 7
    assert len((fake / "calls").read_text().splitlines()) == 2
    assert "completing it failed\nwhat to do: run 'dpkg --configure -a'" in done.stderr
    assert "E: post-installation script failed" in done.stderr
    assert "pipe:" not in (fake / "outputs").read_text()


def test_a_repair_that_meets_a_lock_waits_and_is_done_again(fake: Path) -> None:
    program(fake / "dpkg", "exit 0")
    program(
        fake / "apt-get",
        f"case $* in *fix-broken*) [ -e {fake}/tried ] && {{ : >{fake}/whole; exit 0; }}\n"
        f'  : >{fake}/tried; echo "{LOCK}" >&2; exit 100;; esac\n'
        f"[ -e {fake}/whole ] || {{ echo 'E: dpkg was interrupted' >&2; exit 100; }}",
    )
    done = run(fake, "m2m_apt_get install x", seconds=9)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("apt_said", "we_say"),
    [
        ("E: Unable to locate package nosuch", "no package source of this host has: nosuch"),
        ("E: Package 'vllm' has no installation candidate", "no package source of this host has: vllm"),
        ("E: Failed to fetch http://x/ Could not resolve 'x'", "does not reach a package source"),
        ("E: Write error - write (28: No space left on device)", "make room"),
        ("E: Packages need to be removed but remove is disabled.", "nobody asked for"),
        ("E: Release file for http://x is not valid yet (invalid for another 3d)", "clock is behind"),
    ],
)
def test_a_failure_is_explained(fake: Path, apt_said: str, we_say: str) -> None:
    program(fake / "apt-get", f'echo "Get:1 http://x y"; echo "{apt_said}" >&2; exit 100')
    done = run(fake, "m2m_apt_get install x")
    assert done.returncode == 100
    assert apt_said in done.stderr
    assert we_say in done.stderr
    assert "Get:1" not in done.stderr
    assert "Get:1" in (fake.parent / "state" / "apt-failed.log").read_text()


def test_lists_that_turn_out_to_be_stale_are_fetched_again(fake: Path) -> None:
    program(
        fake / "apt-get",
        f"echo $* | grep -o -e install -e update >>{fake}/calls\ncase $* in *update*) exit 0;; esac\n"
        f"grep -q update {fake}/calls || {{ echo 'E: Failed to fetch http://x/y.deb  404  Not Found' >&2; exit 100; }}",
    )
    assert run(fake, "m2m_install -- x").returncode == 0
    assert (fake / "calls").read_text().split() == ["install", "update", "install"]


def test_the_hosts_own_timeout_holds_where_none_is_given(fake: Path) -> None:
    program(fake / "apt-config", "echo \"m2m_patience='7'\"")
    text = apt_script('echo "$m2m_patience"').get_raw_value()
    path = f"{fake}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", text], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout == "7\n"


# --- Packages --------------------------------------------------------------------------------------------------------


def test_only_whole_packages_count() -> None:
    lines = ["curl\t7.88\tii ", "kept\t1\thi ", "gone\t1\trc ", "half\t1\tiU ", "broken\t1\tiFR"]
    assert PackageStates().process(lines) == {"curl": "7.88", "kept": "1"}


def commands(
    monkeypatch: pytest.MonkeyPatch, module: Any, operation: Any, fact: Any, *args: Any, **kwargs: Any
) -> list[str]:
    """What an operation would run on a host of which the fact says this."""
    host = SimpleNamespace(get_fact=lambda *_, **__: fact, noop=lambda *_: None, name="node1")
    monkeypatch.setattr(module, "host", host)
    made = list(operation._inner(*args, **kwargs))
    assert all(isinstance(command, StringCommand) for command in made)
    return [command.get_raw_value().removeprefix(apt.SHELL) for command in made]


CURL = {"curl": "7.88"}


@pytest.mark.parametrize(
    ("version", "required", "is_older"),
    [
        ("23.43.27642.40-1ubuntu3", "24.48", True),
        ("24.48.31907.7-1~24.04~ppa1", "24.48", False),
        ("1:25.18.33578.6-0ubuntu1~24.04", "24.48", False),
        ("24.48", "24.48.1", True),
        ("unknown", "24.48", True),
        ("9", "10", True),
    ],
)
def test_a_version_that_would_not_do_is_told_from_one_that_does(version: str, required: str, is_older: bool) -> None:
    assert apt.older(version, required) is is_older


def test_a_package_that_is_too_old_is_installed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands(monkeypatch, apt, apt.packages, CURL, ["curl>=7.88"]) == []
    (command,) = commands(monkeypatch, apt, apt.packages, CURL, ["curl>=8"])
    assert command.endswith("m2m_install --no-install-recommends --no-remove -- curl")


def test_installed_packages_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands(monkeypatch, apt, apt.packages, CURL, ["curl", "nosuch|curl", "curl=7.88"]) == []


def test_missing_ones_are_installed_in_one_call_and_none_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = commands(monkeypatch, apt, apt.packages, CURL, ["curl", "zstd", "b|c"], lock_timeout_seconds=9)
    assert script.startswith("m2m_set_patience '9'\n")
    assert script.endswith('m2m_install --no-install-recommends --no-remove -- zstd "$(m2m_known b c)"')


def test_a_wrong_version_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    (install,) = commands(monkeypatch, apt, apt.packages, CURL, ["curl=8.0"])
    assert install.endswith("--no-remove --allow-downgrades -- curl=8.0")


# --- Options and files -----------------------------------------------------------------------------------------------


def test_the_drop_ins_say_who_wrote_them_and_where_to_change_them() -> None:
    options = BaseOptions(never_upgrade=["nvidia-"], time_servers=["ntp.lan", "10.0.0.1"])
    assert deploy.apt_conf(options) == (
        "// Written by metal2model, role base. Change base/lock_timeout_seconds and base/never_upgrade\n"
        "// in the inventory, not this file.\n"
        'DPkg::Lock::Timeout "120";\n'
        'Unattended-Upgrade::Package-Blacklist {\n    "nvidia-";\n};\n'
    )
    assert "SystemMaxUse=1024M\nMaxRetentionSec=30day\n" in deploy.journal_conf(options)
    assert deploy.time_conf(options).endswith("[Time]\nNTP=ntp.lan 10.0.0.1\n")
    assert "Blacklist" not in deploy.apt_conf(BaseOptions())


@pytest.mark.parametrize("servers", [[], ["ntp.lan"]])
def test_the_clocks_drop_in_stays_when_its_servers_go_so_that_its_reader_sees_a_newer_file(
    monkeypatch: pytest.MonkeyPatch, servers: list[str]
) -> None:
    written: dict[str, Any] = {}
    monkeypatch.setattr(deploy, "packages", lambda **_: None)
    monkeypatch.setattr(deploy, "services", lambda **_: None)
    monkeypatch.setattr(deploy, "file_set", lambda files, **_: written.update(files))
    inspect.unwrap(deploy.deploy_base)(options=BaseOptions(time_servers=servers))
    assert written[deploy.TIME].content.startswith("# Written by metal2model")
    assert ("[Time]" in written[deploy.TIME].content) == bool(servers)


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"lock_timeout_seconds": 0}, "base/lock_timeout_seconds"),
        ({"extra_packages": ["vim; rm"]}, "base/extra_packages/0"),
        ({"never_upgrade": ['a"b']}, "base/never_upgrade/0"),
        ({"time_servers": ["a\nb"]}, "base/time_servers/0"),
        ({"journal_max_mb": 5}, "base/journal_max_mb: unknown option (did you mean 'journal_max_mib'?)"),
    ],
)
def test_a_wrong_option_is_named(data: dict[str, Any], path: str) -> None:
    with pytest.raises(OptionError, match=r"^node1: ") as error:
        BaseOptions.load(data, where="node1", path="base")
    assert path in str(error.value)


# --- Services --------------------------------------------------------------------------------------------------------

RUNS = UnitState(exists=True, active=True, enabled=True, needs_reload=False, stale=False)
STOPPED = UnitState(exists=True, active=False, enabled=False, needs_reload=False, stale=False)
STALE = UnitState(exists=True, active=True, enabled=True, needs_reload=False, stale=True)
NONE = UnitState(exists=False, active=False, enabled=False, needs_reload=False, stale=False)


def services(monkeypatch: pytest.MonkeyPatch, state: HostServices) -> list[str]:
    accounts = {"llama-server": ("render", "video")}
    return commands(monkeypatch, operations, operations.services, state, reads={}, accounts=accounts)


def host_with(container: bool = False, **units: UnitState) -> HostServices:
    found = {JOURNALD: RUNS, **dict.fromkeys(TIME_DAEMONS, NONE), TIMESYNCD: RUNS}
    found |= {
        {"chrony": "chrony.service", "timesyncd": TIMESYNCD, "journald": JOURNALD}[n]: u for n, u in units.items()
    }
    groups = frozenset({"render", "video"})
    return HostServices(found, container, groups, {"llama-server": groups | {"llama-server"}})


def test_a_host_as_wanted_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert services(monkeypatch, host_with()) == []


def test_a_running_chrony_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert services(monkeypatch, host_with(chrony=RUNS, timesyncd=NONE)) == []


def test_a_clock_that_nobody_keeps_gets_a_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    assert services(monkeypatch, host_with(timesyncd=STOPPED)) == [f"systemctl enable --now {TIMESYNCD}"]
    assert services(monkeypatch, host_with(chrony=STOPPED, timesyncd=NONE)) == ["systemctl enable --now chrony.service"]


def test_a_containers_clock_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert services(monkeypatch, host_with(container=True, timesyncd=STOPPED)) == []


def test_readers_of_changed_files_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert services(monkeypatch, host_with(journald=STALE, timesyncd=STALE)) == [
        f"systemctl restart {JOURNALD}",
        f"systemctl restart {TIMESYNCD}",
    ]


def test_an_account_gets_its_groups_and_those_that_no_package_made(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = HostServices(host_with().units, False, frozenset({"video"}), {})
    group, made = services(monkeypatch, bare)
    assert group == "groupadd --system render"
    assert made.startswith("useradd --system")
    assert made.endswith("--groups render,video llama-server")
    later = HostServices(bare.units, False, frozenset({"video", "render"}), {"llama-server": frozenset({"video"})})
    assert services(monkeypatch, later) == ["usermod --append --groups render llama-server"]


def test_units_and_accounts_come_in_one_answer() -> None:
    state = Services().process(
        [
            f"Unit={TIMESYNCD}",
            "Id=systemd-timesyncd.service",
            "LoadState=loaded",
            "ActiveState=inactive",
            "UnitFileState=enabled",
            "NeedDaemonReload=no",
            "ActiveEnterTimestamp=",
            "container=yes",
            "group=video",
            "user=llama-server llama-server video",
        ]
    )
    assert state.container
    assert state.groups == {"video"}
    assert state.accounts == {"llama-server": frozenset({"llama-server", "video"})}
    assert state.units[TIMESYNCD] == UnitState(True, False, True, False, False)
