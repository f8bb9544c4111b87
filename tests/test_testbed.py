"""The bed itself: what a host of it is, and that it leaves nothing behind however it ends."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import MakeHost
from tests.testbed import BedError, hub, images, network, state_dir
from tests.testbed.hosts import HOSTS_DIR, Bed, BedHost, CommandFailed, Process, Record

ROOT = Path(__file__).parents[1]
PUBLIC = "huggingface.co"


@pytest.fixture(scope="module")
def noble(make_module_host: MakeHost) -> BedHost:
    return make_module_host("noble")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.02)


def bed_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.testbed", *arguments]


# --- What a host is --------------------------------------------------------------------------------------------------


def test_host_says_that_it_is_ubuntu(noble: BedHost) -> None:
    assert noble.ssh(". /etc/os-release; echo $ID $VERSION_ID $VERSION_CODENAME").stdout == "ubuntu 24.04 noble\n"
    assert "DISTRIB_CODENAME=noble" in noble.ssh("cat /etc/lsb-release").stdout
    assert noble.ssh("hostname").stdout.strip() == noble.name


def test_host_is_a_whole_system_and_bare(noble: BedHost) -> None:
    assert noble.ssh("systemctl is-system-running --wait").stdout == "running\n"
    assert noble.ssh("command -v numactl docker gcc pip", check=False).stdout == ""


@pytest.mark.parametrize("user", ["root", "nopass", "withpass"])
def test_users_become_root_their_own_way(noble: BedHost, user: str) -> None:
    command, password = {
        "root": ("id -u", None),
        "nopass": ("sudo -n id -u", None),
        "withpass": ("sudo -S -p '' id -u", f"{images.SUDO_PASSWORD}\n"),
    }[user]
    assert noble.ssh(command, user=user, input=password).stdout == "0\n"


def test_sudo_with_password_does_not_do_without(noble: BedHost) -> None:
    assert noble.ssh("sudo -n id -u", user="withpass", check=False).returncode != 0


def test_failed_command_tells_what_it_said(noble: BedHost) -> None:
    with pytest.raises(CommandFailed, match="no such luck"):
        noble.ssh("echo no such luck >&2; exit 3")


def test_package_lists_come_from_the_hub(noble: BedHost) -> None:
    noble.ssh("apt-get -qq update && apt-cache show tree >/dev/null")
    assert noble.ssh("apt-get -qq -s -t noble install tree | grep -c ^Inst").stdout.strip() != "0"


def test_host_trusts_the_hub_as_its_system_does(noble: BedHost) -> None:
    noble.ssh(f"openssl s_client -verify_return_error -verify_hostname {PUBLIC} -connect {PUBLIC}:443 </dev/null")


def test_nothing_else_is_in_reach_and_fails_at_once(noble: BedHost) -> None:
    # 2: getent found nothing; 1: bash could not connect. What does not fail at once ends with timeout's 124.
    assert noble.ssh("timeout 5 getent ahosts unknown.example.org", check=False).returncode == 2
    assert noble.ssh("timeout 5 bash -c ': </dev/tcp/192.0.2.1/80'", check=False).returncode == 1


def test_reboot_is_real_and_keeps_the_disk(noble: BedHost) -> None:
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    before = noble.ssh(boot_id).stdout
    noble.ssh("touch /run/gone /var/local/kept")
    noble.reboot()
    assert noble.ssh(boot_id).stdout != before
    assert noble.ssh("ls /run/gone /var/local/kept", check=False).stdout == "/var/local/kept\n"


def test_pyinfra_reaches_it_as_every_user(noble: BedHost, tmp_path: Path) -> None:
    hosts = [(f"{noble.name}-{user}", noble.pyinfra_data(user)) for user in ("root", "nopass", "withpass")]
    inventory = tmp_path / "inventory.py"
    inventory.write_text(f"hosts = {hosts!r}\n")
    command = [sys.executable, "-m", "pyinfra", "-y", str(inventory), "exec", "--", "id", "-u"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"\] +0\n", result.stdout + result.stderr)) == 3


def test_small_srv_and_chinese(make_host: MakeHost) -> None:
    host = make_host("bookworm", srv_mib=32, locale="zh_CN.UTF-8")
    full = host.ssh("dd if=/dev/zero of=/srv/big bs=1M count=40", check=False)
    assert full.returncode != 0
    assert "设备上没有空间" in full.stderr, "the disk is full, and dd says so in Chinese"
    assert "deb " in host.ssh("cat /etc/apt/sources.list").stdout
    host.reboot()
    assert int(host.ssh("stat -c %s /srv/big").stdout) > 20 << 20


# --- Names and addresses ---------------------------------------------------------------------------------------------


def test_name_is_used_once(bed: Bed, noble: BedHost) -> None:
    with pytest.raises(BedError, match="already up"):
        bed.up(noble.name)


@pytest.mark.parametrize("name", ["", "UPPER", "-x", "a_b", "a" * 42, "../x"])
def test_bad_name_is_refused(bed: Bed, name: str) -> None:
    with pytest.raises(BedError, match="host name"):
        bed.up(name)


def test_unknown_image_is_refused(bed: Bed) -> None:
    with pytest.raises(BedError, match="there are: bookworm"):
        bed.up("x", "windows")


def test_addresses_run_from_11_and_end() -> None:
    taken = {f"10.77.0.{number}" for number in range(11, 250)}
    assert network.free_address(()) == "10.77.0.11"
    assert network.free_address(taken) == "10.77.0.250"
    with pytest.raises(BedError, match="down --all"):
        network.free_address({*taken, "10.77.0.250"})


def test_address_keeps_its_hardware_address(noble: BedHost) -> None:
    assert noble.ssh("cat /sys/class/net/host0/address").stdout.strip() == network.mac_of(noble.address)
    assert network.mac_of("10.77.0.11") == "02:77:0a:4d:00:0b"


def test_two_processes_at_once_get_their_own(bed: Bed) -> None:
    names = [f"both{os.getpid()}-{letter}" for letter in "ab"]
    ups = [subprocess.Popen(bed_command("up", name, "--image", "bookworm"), cwd=ROOT) for name in names]
    assert [process.wait(60) for process in ups] == [0, 0]
    hosts = [bed.host(name) for name in names]
    try:
        assert hosts[0].address != hosts[1].address
        assert [host.ssh("hostname").stdout.strip() for host in hosts] == names
    finally:
        bed.down(*names)


# --- Ends ------------------------------------------------------------------------------------------------------------


def traces(name: str) -> list[str]:
    """What is left of a host on this machine."""
    found = [str(path) for path in (HOSTS_DIR / name, state_dir() / "hosts" / name) if path.exists()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if name in line]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/metal2model-bed/{name}")]
    found += [path.name for path in Path("/sys/class/net").iterdir() if path.name == f"vb-{name}"]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"--machine={name} " in line or f"supervise.sh {name} " in line:
            found.append(line)
    return found


def booting(name: str) -> bool:
    record = Record.read(name)
    return bool(record and record.supervisor())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_that_is_interrupted_leaves_nothing(bed: Bed, number: signal.Signals) -> None:
    name = f"cut{os.getpid() % 1000}"
    with subprocess.Popen(bed_command("up", name, "--image", "bookworm"), cwd=ROOT) as process:
        wait_until(lambda: booting(name), "host that boots")
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert traces(name) == []


def test_up_that_is_killed_is_cleared_by_the_next(bed: Bed) -> None:
    name = f"kill{os.getpid() % 1000}"
    with subprocess.Popen(bed_command("up", name, "--image", "bookworm"), cwd=ROOT) as process:
        wait_until(lambda: booting(name), "host that boots")
        process.kill()
    with Bed.attach():
        assert traces(name) == []


def test_host_whose_owner_ended_is_cleared_by_the_next(bed: Bed) -> None:
    name = f"own{os.getpid() % 1000}"
    script = f"import os; from tests.testbed.hosts import Bed; Bed.open(owner=os.getpid()).up({name!r}); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 9
    assert traces(name)
    with Bed.attach():
        assert traces(name) == []


def test_host_whose_supervisor_was_killed_is_cleared_by_the_next(bed: Bed) -> None:
    host = bed.up(f"sup{os.getpid() % 1000}", "bookworm")
    supervisor = host.record.supervisor()
    assert supervisor
    supervisor.kill(signal.SIGKILL)
    wait_until(lambda: not supervisor.alive, "end of the supervisor")
    assert host.name not in [other.name for other in bed.hosts()]
    with Bed.attach():
        assert traces(host.name) == []


def processes() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue


def test_poweroff_from_inside_is_an_end(bed: Bed) -> None:
    host = bed.up(f"off{os.getpid() % 1000}", "bookworm")
    host.ssh("systemctl poweroff", check=False)
    wait_until(lambda: host.record.supervisor() is None, "power-off")
    with Bed.attach():
        assert traces(host.name) == []


def test_last_host_takes_the_network_and_the_hub_along(bed: Bed, tmp_path: Path) -> None:
    """Where nobody else is: a network of its own, and a place of its own for what is running."""
    script = """
set -e
ip link set lo up
python() { "$PYTHON" -m tests.testbed "$@"; }
python up lonely --image bookworm >/dev/null
python ssh lonely true
ip -o link show m2m0 >/dev/null
python down lonely
ip -br link
"""
    environment = {**os.environ, "PYTHON": sys.executable, "M2M_RUN_DIR": str(tmp_path)}
    result = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "m2m0" not in result.stdout
    assert traces("lonely") == []
    assert not any(str(tmp_path) in line for line in processes())
    assert not list((tmp_path / "hosts").iterdir())


# --- Images ----------------------------------------------------------------------------------------------------------

BUILD = """
import sys
from pathlib import Path
from tests.testbed import images

def build(part):
    part.mkdir()
    script = 'mount -t tmpfs inner "$1"; echo begun >"$1/../begun"; exec sleep "$2"'
    images._contained(["sh", "-c", script, "sh", str(part), sys.argv[2]], log=part.parent / "log")

images._built(Path(sys.argv[1]), Path(sys.argv[1]) / "tree", build)
"""


def test_image_build_that_is_killed_starts_again(bed: Bed, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    lasting = "6.1234"  # a length of sleep by which we know it
    with subprocess.Popen([*command, lasting], cwd=ROOT) as process:
        wait_until((tmp_path / "begun").exists, "build that has begun")
        process.kill()
    wait_until(lambda: not any(f"sleep\0{lasting}" in line for line in processes()), "end of the builder", seconds=3)
    assert not (tmp_path / "tree").exists()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert subprocess.run([*command, "0"], cwd=ROOT, check=False).returncode == 0
    assert (tmp_path / "tree").is_dir()
    assert not (tmp_path / "tree.part").exists()


def test_image_build_that_fails_shows_the_end_of_its_log(bed: Bed, tmp_path: Path) -> None:
    def build(part: Path) -> None:
        part.mkdir()
        images._contained(["sh", "-c", "echo the mirror is away; exit 100"], log=tmp_path / "log")

    with pytest.raises(BedError, match=r"status 100[\s\S]*the mirror is away"):
        images._built(tmp_path, tmp_path / "tree", build)
    assert not (tmp_path / "tree.part").exists()


def test_image_is_built_once_for_all_who_ask(bed: Bed, tmp_path: Path) -> None:
    built = []

    def build(part: Path) -> None:
        built.append(part)
        time.sleep(0.1)
        part.mkdir()

    threads = [threading.Thread(target=images._built, args=(tmp_path, tmp_path / "tree", build)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_mirror_is_read_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["http://mirror.example/debian/ bookworm", "http://mirror.example/secure bookworm-security"]
    monkeypatch.setattr(images, "_lines", lambda *_: lines)
    assert images.mirror_of("sid") == images.Mirror("http://mirror.example/debian/", "http://mirror.example/secure/")
    assert images.mirror_of("noble") is None
    assert images.find("noble").suite == "bookworm"


def test_true_noble_where_ubuntu_is_in_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["http://mirror.example/ubuntu/ noble", "http://mirror.example/ubuntu/ noble-security"]
    monkeypatch.setattr(images, "_lines", lambda *_: lines)
    assert images.find("noble").suite == "noble"
    assert images.mirror_of("bookworm") is None


# --- Odds and ends ---------------------------------------------------------------------------------------------------


def test_process_is_told_from_its_successor() -> None:
    me = Process.of(os.getpid())
    assert me is not None
    assert me.alive
    assert not Process(me.pid, me.start - 1).alive
    with subprocess.Popen(["true"]) as child:
        wait_until(lambda: Process.of(child.pid) is None, "end of the child")


def test_without_root_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BedError, match=r"uid 1000.*sudo"):
        Bed.open()


def test_hosts_find_every_name_that_the_hub_serves(noble: BedHost) -> None:
    table = noble.ssh("cat /etc/hosts").stdout
    assert all(f"{network.GATEWAY} {name}\n" in table for name in hub.served_names())


# --- ./run -----------------------------------------------------------------------------------------------------------


def run(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(
        [ROOT / "run", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_run_without_arguments_says_what_there_is() -> None:
    result = run()
    assert (result.returncode, result.stderr) == (0, "")
    assert all(f"./run {name} " in result.stdout for name in ("demo", "test", "bench", "docs", "up", "ssh", "down"))


def test_run_knows_what_was_meant() -> None:
    result = run("dmeo")
    assert result.returncode == 2
    assert "no command 'dmeo'.\nDid you mean: ./run demo\n" in result.stderr


@pytest.mark.parametrize("command", ["demo", "test", "bench", "up", "ssh", "down", "hosts"])
def test_run_without_root_gives_the_reason_and_the_way(tmp_path: Path, command: str) -> None:
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    result = run(command, "one two", path=str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert "needs root: it boots throwaway hosts" in result.stderr
    assert f"/run {command} one\\ two\n" in result.stderr
