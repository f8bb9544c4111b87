"""Hosts: systemd in containers, each with a disk, an address and an sshd of its own.

    bed = Bed.open()
    host = bed.up("node1", image="noble")
    host.ssh("systemctl is-system-running").stdout
    bed.down("node1")

A host outlives the process that made it. What is known of it lies in RUN_DIR/hosts/NAME, what it writes to its disk in
STATE/hosts/NAME; every call looks there, so any number of processes may use the bed. A host whose making was cut short,
or whose owner ended without taking it down, is taken down by whoever opens the bed next.
"""

import atexit
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

from tests.testbed import RUN_DIR, BedError, containers, hub, images, locked, machines, network, require_root, state_dir

HOSTS_DIR = RUN_DIR / "hosts"
SUPERVISE = Path(__file__).with_name("supervise.sh")
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP = "metal2model-bed"
SYSTEMD = Path("/run/systemd/system")
"""There when the init of this machine is systemd; then cgroups are systemd's, and it lends us some."""

BOOT_SECONDS = 60.0
POWER_OFF_SECONDS = 25.0
POLL_SECONDS = 0.1


class CommandFailed(subprocess.CalledProcessError):
    """A command on a host failed; unlike its base, this says what the command said."""

    def __str__(self) -> str:
        return f"{super().__str__()}\nstdout: {self.stdout}\nstderr: {self.stderr}"


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same number by its start."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The living process of this number."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # one of ours would stay as a zombie
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] == "Z" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, if it is still the same process."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True)
class Record:
    """What is written down about a host, in RUN_DIR/hosts/NAME/host.json."""

    name: str
    address: str
    image: str
    disk: str
    keys: str
    owner: Process | None
    """Whose end is the host's end; while it boots, the process that makes it."""
    ready: bool = False

    @property
    def run(self) -> Path:
        return HOSTS_DIR / self.name

    def write(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        part = self.run / "host.part"
        part.write_text(json.dumps(asdict(self)))
        part.rename(self.run / "host.json")

    @classmethod
    def read(cls, name: str) -> Self | None:
        try:
            data = json.loads((HOSTS_DIR / name / "host.json").read_text())
        except FileNotFoundError:
            return None
        owner = data.pop("owner")
        return cls(**data, owner=Process(**owner) if owner else None)

    def supervisor(self) -> Process | None:
        """The process that is the host, seen from outside; None when it has not started or has ended."""
        try:
            pid, start = (self.run / "pid").read_text().split()
        except FileNotFoundError:
            return None
        process = Process(int(pid), int(start))
        return process if process.alive else None

    def boots(self) -> int:
        try:
            return int((self.run / "boots").read_text() or 0)
        except FileNotFoundError:
            return 0


@dataclass(frozen=True)
class BedHost:
    """A host that is up, and the ways into it."""

    record: Record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def address(self) -> str:
        return self.record.address

    @property
    def image(self) -> str:
        return self.record.image

    @property
    def disk(self) -> Path:
        """The directory on this machine that holds what the host writes; it goes when the host goes."""
        return Path(self.record.disk)

    def ssh_command(self, *command: str, user: str = "root", options: Sequence[str] = ()) -> list[str]:
        """The command line of an OpenSSH that reads nobody's settings."""
        keys = Path(self.record.keys)
        settings = (
            f"UserKnownHostsFile={keys / 'known_hosts'}",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "ControlPath=none",
            "ConnectTimeout=5",
            "LogLevel=ERROR",
        )
        words = [word for setting in settings for word in ("-o", setting)]
        return ["ssh", "-F", "none", *words, *options, "-i", str(keys / "id"), f"{user}@{self.address}", *command]

    def ssh(
        self, command: str, *, user: str = "root", check: bool = True, input: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as an administrator would, in a shell that is not a login shell."""
        line = self.ssh_command(command, user=user, options=("-o", "BatchMode=yes"))
        result = subprocess.run(
            line, input=input or "", capture_output=True, text=True, timeout=timeout, check=False, errors="replace"
        )
        if check and result.returncode != 0:
            raise CommandFailed(result.returncode, f"[{self.name}] {command}", result.stdout, result.stderr)
        return result

    def reboot(self) -> None:
        """Reboot from inside, and wait for sshd."""
        before = self.record.boots()
        self.ssh("systemctl reboot", check=False)
        wait(lambda: self.record.boots() > before, POWER_OFF_SECONDS, f"{self.name} to go down for its reboot")
        wait_for_ssh(self.record)

    def pyinfra_data(self, user: str = "root") -> dict[str, Any]:
        """The host data by which pyinfra reaches the host as this user and becomes root."""
        keys = Path(self.record.keys)
        data: dict[str, Any] = {
            "ssh_hostname": self.address,
            "ssh_user": user,
            "ssh_key": str(keys / "id"),
            "ssh_known_hosts_file": str(keys / "known_hosts"),
            "ssh_strict_host_key_checking": "yes",
        }
        if user != "root":
            data["_sudo"] = True
        if user == "withpass":
            data["_sudo_password"] = images.SUDO_PASSWORD
        return data

    def console(self) -> str:
        """What the host printed since it was first started."""
        return _console(self.record)


@dataclass
class Bed:
    """The bed, as one process sees it."""

    state: Path
    owner: Process | None
    """Whose end ends the hosts that this Bed makes; None where they are to outlive it."""
    _in_use: IO[str] | None = field(default=None, repr=False)

    @classmethod
    def open(cls, *, owner: int | None = None) -> Self:
        """Make the network, the keys and the hub, and clear away what others left behind."""
        bed = cls.attach(owner=owner)
        with locked(RUN_DIR / "lock"):
            bed._infrastructure()
        return bed

    @classmethod
    def attach(cls, *, owner: int | None = None) -> Self:
        """See the bed as it is, and start nothing."""
        require_root("The test bed")
        bed = cls(state_dir(), Process.of(owner) if owner else None)
        with locked(RUN_DIR / "lock"):
            bed._in_use = (RUN_DIR / "in-use").open("a")
            fcntl.flock(bed._in_use, fcntl.LOCK_SH)
        _clear_leftovers()
        atexit.register(bed.close)
        return bed

    def close(self) -> None:
        """Leave the bed; the last one to leave an empty bed takes the hub and the network down."""
        if self._in_use is None:
            return
        atexit.unregister(self.close)
        with locked(RUN_DIR / "lock"):
            self._in_use.close()
            self._in_use = None
            with (RUN_DIR / "in-use").open("a") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return
                if not _records():
                    hub.stop(self.state)
                    network.down()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def up(
        self,
        name: str,
        image: str = "noble",
        *,
        srv_mib: int | None = None,
        locale: str | None = None,
        extra_nspawn: Sequence[str] = (),
        machine: machines.Machine | None = None,
    ) -> BedHost:
        """Boot a host and wait for its sshd.

        `srv_mib` gives it a filesystem of that size at /srv, `locale` the language of its users. In `extra_nspawn`,
        {disk} stands for the directory with the host's disk. A `machine` is what the host pretends to be.
        """
        if machine and not images.find(image).has_boot_loader:
            able = ", ".join(name for name, known in images.IMAGES.items() if known.has_boot_loader)
            raise BedError(f"A {image} host has no boot loader, which a machine needs; these have: {able}.")
        (host,) = self._up([name], image, srv_mib, locale, extra_nspawn, machine=machine)
        return host

    def up_many(self, names: Iterable[str], image: str = "noble") -> list[BedHost]:
        """Boot several hosts at once."""
        return self._up(list(names), image, None, None)

    def down(self, *names: str) -> None:
        """Power hosts off in order, all at once; those that do not obey in time are killed."""
        unknown = [name for name in names if Record.read(name) is None]
        if unknown:
            raise BedError(f"There is no host {', '.join(unknown)}; up are: {', '.join(_records()) or 'none'}.")
        _take_down([record for name in names if (record := Record.read(name))])

    def down_all(self) -> None:
        """Take every host down, whoever made it."""
        _take_down(_records().values())

    def hosts(self) -> list[BedHost]:
        """The hosts that are up, by address."""
        up = [record for record in _records().values() if record.ready and record.supervisor()]
        return [BedHost(record) for record in sorted(up, key=lambda record: int(record.address.rpartition(".")[2]))]

    def host(self, name: str) -> BedHost:
        """The host of that name."""
        for host in self.hosts():
            if host.name == name:
                return host
        raise BedError(f"There is no host {name!r}; up are: {', '.join(host.name for host in self.hosts()) or 'none'}.")

    def _infrastructure(self) -> None:
        network.up()
        images.ssh_keys(self.state)
        hub.ensure_running(self.state, network.GATEWAY)

    def _up(
        self,
        names: Sequence[str],
        image: str,
        srv_mib: int | None,
        locale: str | None,
        extra_nspawn: Sequence[str] = (),
        *,
        machine: machines.Machine | None = None,
    ) -> list[BedHost]:
        for name in names:
            check_name(name)
        tree = images.layers(self.state, image)
        served = hub.served_names()
        options = (*extra_nspawn, *(machines.NSPAWN if machine else ()))
        options += containers.NSPAWN if images.find(image).has_docker else ()

        def start(record: Record) -> None:
            _write_disk(record, served, srv_mib, locale)
            if machine:
                machines.install(machine, Path(record.disk), tree)
            _power_on(record, tree, srv_mib, options)

        return [BedHost(record) for record in self.admit(names, image, start, wait_for_ssh)]

    def admit(
        self,
        names: Sequence[str],
        image: str,
        start: Callable[[Record], None],
        settle: Callable[[Record], None],
    ) -> list[Record]:
        """Give hosts their addresses, start each, wait for each; all of them are up in the end, or none.

        What `start` starts is to note itself in the file `pid` of the record's directory.
        """
        started: list[str] = []
        try:
            with locked(RUN_DIR / "lock"):
                self._infrastructure()
                known = _records()
                if taken := [name for name in names if name in known]:
                    raise BedError(f"{', '.join(taken)} is already up. Choose another name, or: ./run down {taken[0]}")
                addresses = [record.address for record in known.values()]
                for name in names:
                    address = network.free_address(addresses)
                    addresses.append(address)
                    record = Record(
                        name=name,
                        address=address,
                        image=image,
                        disk=str(self.state / "hosts" / name),
                        keys=str(images.ssh_keys(self.state)),
                        owner=Process.of(os.getpid()),
                    )
                    started.append(name)
                    record.write()
                    start(record)
            return [self._settled(name, settle) for name in names]
        except BaseException:
            _take_down([left for name in started if (left := Record.read(name))])
            raise

    def _settled(self, name: str, settle: Callable[[Record], None]) -> Record:
        """Wait for a host that is booting, and hand it to its owner."""
        record = Record.read(name)
        if record is None:
            raise BedError(f"{name} was taken down while it booted.")
        settle(record)
        settled = replace(record, owner=self.owner, ready=True)
        settled.write()
        return settled


# --- Making ----------------------------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
        raise BedError(f"{name!r} cannot be a host name: use up to 41 small letters, digits and '-', a letter first.")


def names_of(record: Record, served: Sequence[str]) -> str:
    """The host's /etc/hosts, which leads the public names to the hub."""
    names = "".join(f"{network.GATEWAY} {name}\n" for name in served)
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{record.address} {record.name}\n{names}"


def _write_disk(record: Record, served: Sequence[str], srv_mib: int | None, locale: str | None) -> None:
    """What tells this host from others of its image."""
    disk = Path(record.disk)
    _discard(disk)
    for name in ("upper", "work", "root", "docker"):
        (disk / name).mkdir(parents=True)
    files = {
        "etc/hostname": f"{record.name}\n",
        "etc/hosts": names_of(record, served),
        # Nothing answers there: an unknown name fails at once.
        "etc/resolv.conf": f"nameserver {network.GATEWAY}\noptions timeout:1 attempts:1\n",
        "etc/systemd/network/10-host0.network": (
            f"[Match]\nName=host0\n\n[Link]\nMACAddress={network.mac_of(record.address)}\n\n"
            f"[Network]\nAddress={record.address}/{network.NETWORK.prefixlen}\nLinkLocalAddressing=no\n"
        ),
    }
    if locale:
        files["etc/default/locale"] = f"LANG={locale}\n"
    for path, text in files.items():
        target = disk / "upper" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    if srv_mib:
        (disk / "srv").mkdir()
        with (disk / "srv.img").open("wb") as image:
            image.truncate(srv_mib << 20)
        command = ["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(disk / "srv.img")]
        subprocess.run(command, check=True, capture_output=True)


def _power_on(record: Record, tree: Sequence[Path], srv_mib: int | None, extra_nspawn: Sequence[str]) -> None:
    if not shutil.which("systemd-nspawn"):
        raise BedError(
            "systemd-nspawn is missing, and hosts are its containers. Install the package systemd-container."
        )
    options = [f"--network-bridge={network.BRIDGE}"]
    options += [option.replace("{disk}", record.disk) for option in extra_nspawn]
    if srv_mib:
        options.append(f"--bind={record.disk}/srv:/srv")
    command = ["unshare", "--mount", "--propagation=private", "--", str(SUPERVISE)]
    command += [record.name, record.disk, str(record.run), ":".join(str(layer) for layer in tree)]
    if SYSTEMD.is_dir():
        scope = ["systemd-run", "--scope", "--quiet", "--collect", "--slice=system.slice", "--property=Delegate=yes"]
        command = [*scope, f"--unit={CGROUP}-{record.name}", "--", *command, ""]
    else:
        for path in _cgroups(record.name):
            path.mkdir(parents=True, exist_ok=True)
        command.append(" ".join(str(path) for path in _cgroups(record.name)))
    with (record.run / "console.log").open("wb") as console:
        subprocess.Popen(
            [*command, *options], stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        )


def _cgroups(name: str) -> list[Path]:
    """The host's own cgroup in each hierarchy of this machine."""
    unified = (CGROUP_ROOT / "cgroup.controllers").exists()
    if SYSTEMD.is_dir():
        return [CGROUP_ROOT / ("" if unified else "systemd") / "system.slice" / f"{CGROUP}-{name}.scope"]
    usable = ("systemd", "unified", "memory", "pids", "cpu", "cpuacct", "blkio", "freezer")
    hierarchies = [CGROUP_ROOT] if unified else [CGROUP_ROOT / hierarchy for hierarchy in usable]
    return [path / CGROUP / name for path in hierarchies if (path / "cgroup.procs").exists()]


def _console(record: Record) -> str:
    return (record.run / "console.log").read_text(errors="replace")


def wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BedError(f"Waited {seconds:.0f} s for {what}, in vain.")
        time.sleep(POLL_SECONDS)


def wait_for_ssh(record: Record, seconds: float = BOOT_SECONDS) -> None:
    """Wait until sshd greets; that costs the host less than a login does."""
    started = time.monotonic()

    def greeted() -> bool:
        # The supervisor notes its number first of all.
        if record.supervisor() is None and time.monotonic() - started > 2:
            tail = "\n".join(_console(record).splitlines()[-15:])
            raise BedError(f"{record.name} stopped while it booted; the end of its console says:\n{tail}")
        try:
            with socket.create_connection((record.address, 22), timeout=0.5) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    try:
        wait(greeted, seconds, f"sshd of {record.name} at {record.address}")
    except BedError as error:
        if record.supervisor() is None:
            raise
        tail = "\n".join(_console(record).splitlines()[-15:])
        raise BedError(f"{error} The end of its console says:\n{tail}") from None


# --- Unmaking --------------------------------------------------------------------------------------------------------


def _records() -> dict[str, Record]:
    if not HOSTS_DIR.is_dir():
        return {}
    found = (Record.read(path.name) for path in sorted(HOSTS_DIR.iterdir()))
    return {record.name: record for record in found if record}


def _clear_leftovers() -> None:
    """Take down hosts that ended by themselves, and hosts whose owner did."""
    with locked(RUN_DIR / "lock"):
        left = [
            record
            for record in _records().values()
            if (record.owner and not record.owner.alive) or (record.ready and record.supervisor() is None)
        ]
    _take_down(left, orderly=False)  # nobody is left to whom their disks would matter


def _take_down(records: Iterable[Record], *, orderly: bool = True) -> None:
    """Power off in order what is up, kill what is not yet or does not obey, and remove every trace."""
    hosts = [(record, record.supervisor()) for record in records]
    for record, process in hosts:
        if process:
            # An init that is still starting may miss the power button.
            process.kill(signal.SIGTERM if orderly and record.ready else signal.SIGKILL)
    deadline = time.monotonic() + POWER_OFF_SECONDS
    for record, process in hosts:
        while process and process.alive:
            if time.monotonic() > deadline:
                process.kill(signal.SIGKILL)
            time.sleep(POLL_SECONDS / 2)
        _forget(record)


def _forget(record: Record) -> None:
    for cgroup in _cgroups(record.name):
        _remove_cgroup(cgroup)
    _discard(Path(record.disk))
    _discard(record.run)


def _remove_cgroup(cgroup: Path) -> None:
    """Remove a host's cgroup, and kill what is left in it: an init outlives its nspawn when that is killed."""
    deadline = time.monotonic() + 10
    while cgroup.is_dir():
        try:
            for path in sorted(cgroup.glob("**/"), reverse=True):
                for pid in (path / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                path.rmdir()
        except OSError as error:
            if time.monotonic() > deadline:
                raise BedError(f"{cgroup} cannot be removed: {error.strerror}; see its cgroup.procs.") from error
            time.sleep(POLL_SECONDS)
    with contextlib.suppress(OSError):
        if cgroup.parent.name == CGROUP:
            cgroup.parent.rmdir()  # when this was the last host


def _discard(tree: Path) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(tree)], check=True)
