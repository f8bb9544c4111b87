"""What the kernel role reads on a host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyinfra.api import FactBase, StringCommand

from roles.common.apt import apt_script
from roles.common.kernels import KernelRange, age

STATE = "/var/lib/metal2model/kernel"
FAILED = f"{STATE}/failed"
GRUB_WRITES_NO = ("btrfs", "cpiofs", "newc", "odc", "romfs", "squash4", "tarfs", "zfs")
"""File systems that GRUB can read but not write (util/grub.d/00_header.in): a one-shot entry would stay for good."""
READ = (Path(__file__).parent / "files" / "read.sh").read_text()


@dataclass(frozen=True)
class Trial:
    """A kernel that is to be booted once."""

    kernel: str
    previous: str
    """The one that ran when it was armed, which is the default."""
    boot_id: str
    """The boot in which it was armed."""


@dataclass(frozen=True)
class KernelState:
    """Kernels of a host, and how it would boot next."""

    running: str = ""
    boot_id: str = ""
    installed: tuple[str, ...] = ()
    trial: Trial | None = None
    failed: tuple[str, ...] = ()
    """Kernels that were tried and did not come up, or came up without the cards."""
    boot_loader: str = ""
    """"grub", "" for another."""
    environment: str = ""
    """Why GRUB cannot keep a one-shot entry to one boot; "" when it can."""

    @property
    def fell_back(self) -> bool:
        """A trial was booted, and the host runs another kernel."""
        return self.trial is not None and self.trial.boot_id != self.boot_id and self.running != self.trial.kernel

    @property
    def lost(self) -> tuple[str, ...]:
        """Kernels that are not to be tried again, that of a trial which nobody judged among them."""
        return (*self.failed, *([self.trial.kernel] if self.trial and self.fell_back else []))

    def best(self, wanted: KernelRange) -> str | None:
        """Return the newest installed kernel that will do and has not failed, None without."""
        fit = [release for release in self.installed if wanted.holds(release) and release not in self.lost]
        return max(fit, key=age, default=None)


class Kernels(FactBase[KernelState]):
    """Kernels, the trial that is under way, and the boot loader."""

    default = KernelState

    def command(self, boot_loader: bool) -> str:
        """``boot_loader``: look at it, too, which takes longer; see files/read.sh."""
        return f"state={STATE} boot_loader={'yes' if boot_loader else 'no'}\n{READ}"

    def process(self, output: list[str]) -> KernelState:
        """Read the lines; one that the script could not write means "not known"."""
        lines = [(word, rest) for line in output for word, _, rest in [line.partition(" ")]]
        one = dict(lines)
        trial = one.get("trial", "").split()
        abstraction, _, fs = one.get("grub", " ").partition(" ")
        problem = ""
        if abstraction != "-":
            problem = f"/boot/grub lies on {abstraction}"
        elif not fs or fs in GRUB_WRITES_NO:
            problem = f"/boot/grub lies on {fs or 'what grub-probe does not know'}, which GRUB cannot write"
        return KernelState(
            running=one.get("running", ""),
            boot_id=one.get("boot", ""),
            installed=tuple(rest for word, rest in lines if word == "installed"),
            trial=Trial(*trial) if len(trial) == 3 else None,
            failed=tuple(rest for word, rest in lines if word == "failed"),
            boot_loader="grub" if "grub" in one else "",
            environment=problem if "grub" in one else "",
        )


@dataclass(frozen=True)
class Brought:
    """What an installation would bring."""

    releases: tuple[str, ...] = ()
    """Of kernels."""
    errors: tuple[str, ...] = ()
    """What apt said instead."""


class Candidates(FactBase[Brought]):
    """Releases of the kernels that an installation would bring; asks apt, which fetches its lists when they are old."""

    default = Brought

    def command(self, package: str, suite: str, lock_timeout_seconds: int) -> StringCommand:
        """``package``: what brings a kernel; ``suite``: of ``-t``, "" for the distribution's choice."""
        words = " ".join([*(["-t", suite] if suite else []), "--", package])
        return apt_script(
            # A source that fails (somebody's dead PPA) must not keep the others from being used.
            "{ m2m_update || true; apt-get -s -q --no-install-recommends install " + words + "; } 2>&1 | "
            "sed -n -e 's/^Inst linux-image-\\(unsigned-\\)\\{0,1\\}\\([0-9][^ ]*\\) .*/\\2/p' "
            "-e '/^E: /p' -e '/^base\\//p'",
            lock_timeout_seconds=lock_timeout_seconds,
        )

    def process(self, output: list[str]) -> Brought:
        """Read releases and errors, one a line."""
        lines = [line.strip() for line in output]
        releases = tuple(line for line in lines if line[:1].isdecimal())
        return Brought(releases, tuple(line for line in lines if line.startswith(("E: ", "base/"))))
