"""The trees that hosts boot from: as bare as a fresh server with ssh; the Debian ones barer than that.

An image is two directories, stacked by overlayfs: a base tree, made by mmdebstrap and slow, which depends on the suite
alone; and a small layer with what belongs to this bed: its keys, its certificate authority, the package sources and,
for `noble`, the name of Ubuntu.
Each is named by a hash of its recipe and appears under its name only when whole, so that a build may be killed at
any point and the next one starts again.
"""

import hashlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tests.testbed import BedError, containers, locked, machines, require_root, say, state_dir

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo", "iproute2", "ca-certificates",
    "procps", "kmod", "locales", "gnupg", "gpgv",
)  # fmt: skip
"""No python3 and no curl: the roles have to bring what they need."""

SERVER_PACKAGES = ("curl", "gpg", "pciutils", "python3", "systemd-timesyncd", "zstd")
"""What an installed Ubuntu server has of what the roles need, and so the images under its name and the machines."""

SUDO_PASSWORD = "bed"

# Runs inside the base tree, once it is unpacked.
CUSTOMIZE = f"""
echo 'zh_CN.UTF-8 UTF-8' >>/etc/locale.gen
locale-gen >/dev/null
for user in nopass withpass; do useradd --create-home --shell /bin/bash $user; done
echo 'withpass:{SUDO_PASSWORD}' | chpasswd
echo 'nopass ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/nopass
echo 'withpass ALL=(ALL) ALL' >/etc/sudoers.d/withpass
chmod 0440 /etc/sudoers.d/nopass /etc/sudoers.d/withpass
# A session that registers with logind costs each ssh command 50 ms and, in a container, fails now and then.
sed -i /pam_systemd/d /etc/pam.d/common-session
cat >/etc/ssh/sshd_config.d/bed.conf <<X
HostKey /etc/ssh/ssh_host_ed25519_key
UseDNS no
MaxStartups 200
X
rm -f /etc/ssh/ssh_host_*
# Logins of users other than root are refused until user sessions are permitted: open the port no earlier.
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Unit]\\nAfter=systemd-user-sessions.service\\n' >/etc/systemd/system/ssh.service.d/bed.conf
systemctl -q enable systemd-networkd ssh
systemctl -q mask console-getty.service getty@.service serial-getty@.service container-getty@.service getty.target \
    systemd-ask-password-console.path systemd-ask-password-wall.path systemd-networkd-wait-online.service \
    apt-daily.timer apt-daily-upgrade.timer
: >/etc/machine-id
rm -f /etc/hostname /etc/resolv.conf /etc/apt/apt.conf.d/99mmdebstrap
"""


@dataclass(frozen=True)
class Mirror:
    """Where the packages of a suite come from; the second address may equal the first."""

    archive: str
    security: str


@dataclass(frozen=True)
class Layer:
    """What belongs to this bed rather than to the suite: files, and commands run with them in place."""

    files: dict[str, bytes]
    script: str


@dataclass(frozen=True)
class Image:
    """A base tree by its suite, and how such a system states its package sources."""

    name: str
    suite: str
    sources: Callable[[Mirror], dict[str, bytes]]
    apt: tuple[str, ...] = ()
    has_boot_loader: bool = False
    """It can be a machine, see machines.py."""
    has_docker: bool = False
    """Docker is installed, as an administrator would have it; its hosts can run containers, see containers.py."""

    @property
    def is_ubuntu(self) -> bool:
        return self.sources is _ubuntu_sources


# --- How each distribution states its sources ------------------------------------------------------------------------


def _bookworm_sources(mirror: Mirror) -> dict[str, bytes]:
    """One-line form, as the installer of Debian 12 writes it."""
    part = "main non-free-firmware"
    text = f"""\
#deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - Official amd64 NETINST]/ bookworm {part}

deb {mirror.archive} bookworm {part}
deb-src {mirror.archive} bookworm {part}

deb {mirror.security} bookworm-security {part}
deb-src {mirror.security} bookworm-security {part}

# bookworm-updates, to get updates before a point release is made;
# see https://www.debian.org/doc/manuals/debian-reference/ch02.en.html#_updates_and_backports
deb {mirror.archive} bookworm-updates {part}
deb-src {mirror.archive} bookworm-updates {part}
"""
    return {"etc/apt/sources.list": text.encode()}


def _deb822(uri: str, suites: str, components: str, keyring: str) -> str:
    return f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: {components}\nSigned-By: {keyring}\n"


def _debian_sources(suite: str) -> Callable[[Mirror], dict[str, bytes]]:
    """Deb822 form, as Debian 13 ships it; sid has neither updates nor security."""
    keyring, part = "/usr/share/keyrings/debian-archive-keyring.gpg", "main non-free-firmware"

    def sources(mirror: Mirror) -> dict[str, bytes]:
        if suite == "sid":
            text = _deb822(mirror.archive, suite, part, keyring)
        else:
            text = _deb822(mirror.archive, f"{suite} {suite}-updates", part, keyring)
            text += "\n" + _deb822(mirror.security, f"{suite}-security", part, keyring)
        return {"etc/apt/sources.list.d/debian.sources": text.encode(), "etc/apt/sources.list": b""}

    return sources


def _ubuntu_sources(_: Mirror) -> dict[str, bytes]:
    """The two stanzas of a fresh Ubuntu 24.04; the hub answers for both names."""
    keyring, part = "/usr/share/keyrings/ubuntu-archive-keyring.gpg", "main universe restricted multiverse"
    archive = _deb822("http://archive.ubuntu.com/ubuntu/", "noble noble-updates noble-backports", part, keyring)
    security = _deb822("http://security.ubuntu.com/ubuntu/", "noble-security", part, keyring)
    moved = "# Ubuntu sources have moved to /etc/apt/sources.list.d/ubuntu.sources\n"
    return {
        "etc/apt/sources.list.d/ubuntu.sources": f"{archive}\n{security}".encode(),
        "etc/apt/sources.list": moved.encode(),
    }


UBUNTU_NAMES = {
    "usr/lib/os-release": b"""\
PRETTY_NAME="Ubuntu 24.04.3 LTS"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04.3 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
HOME_URL="https://www.ubuntu.com/"
SUPPORT_URL="https://help.ubuntu.com/"
BUG_REPORT_URL="https://bugs.launchpad.net/ubuntu/"
PRIVACY_POLICY_URL="https://www.ubuntu.com/legal/terms-and-policies/privacy-policy"
UBUNTU_CODENAME=noble
LOGO=ubuntu-logo
""",
    "etc/lsb-release": b"""\
DISTRIB_ID=Ubuntu
DISTRIB_RELEASE=24.04
DISTRIB_CODENAME=noble
DISTRIB_DESCRIPTION="Ubuntu 24.04.3 LTS"
""",
    "etc/debian_version": b"trixie/sid\n",
    "etc/issue": b"Ubuntu 24.04.3 LTS \\n \\l\n\n",
    "etc/issue.net": b"Ubuntu 24.04.3 LTS\n",
}


# --- What this machine's own apt knows -------------------------------------------------------------------------------


@cache
def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def mirror_of(suite: str) -> Mirror | None:
    """The mirror in this machine's own apt sources that carries the suite's distribution, or None."""
    family = ("noble", "jammy", "questing", "resolute") if suite == "noble" else ("bookworm", "trixie", "sid", "forky")
    found: dict[str, str] = {}
    for line in _lines("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"):
        uri, release = line.split()
        for name in family:
            if release in (name, f"{name}-security"):
                found.setdefault(release.removeprefix(name), uri.rstrip("/") + "/")
    if "" not in found:
        return None
    return Mirror(found[""], found.get("-security", found[""]))


def real_ubuntu() -> Mirror | None:
    """Ubuntu's own archive, when this machine is an Ubuntu that uses it; then `noble` is a true noble."""
    return mirror_of("noble")


def _apt_settings() -> list[str]:
    """The settings of this machine without which its mirror may not be usable."""
    wanted = ("Acquire::http::Proxy ", "Acquire::https::Proxy ", "Acquire::Check-Valid-Until ", "Acquire::Check-Date ")
    return [line for line in _lines("apt-config", "dump") if line.startswith(wanted)]


# --- Base trees ------------------------------------------------------------------------------------------------------

IMAGES: dict[str, Image] = {
    "bookworm": Image("bookworm", "bookworm", _bookworm_sources),
    # Debian's packages under Ubuntu's name, unless `find` sees Ubuntu itself.
    "noble": Image("noble", "bookworm", _ubuntu_sources),
    "trixie": Image("trixie", "trixie", _debian_sources("trixie")),
    # sid is not kept fresh by every mirror, and this is no place to insist.
    "sid": Image("sid", "sid", _debian_sources("sid"), ('Acquire::Check-Valid-Until "false";',)),
    "docker": Image("docker", "trixie", _debian_sources("trixie"), has_docker=True),
    "metal": Image("metal", "bookworm", _ubuntu_sources, has_boot_loader=True),
    "metal-bookworm": Image("metal-bookworm", "bookworm", _bookworm_sources, has_boot_loader=True),
    "metal-trixie": Image("metal-trixie", "trixie", _debian_sources("trixie"), has_boot_loader=True),
}


def find(name: str) -> Image:
    """The image of that name, as this machine can make it."""
    if name not in IMAGES:
        raise BedError(f"There is no image {name!r}; there are: {', '.join(IMAGES)}.")
    image = IMAGES[name]
    return replace(image, suite="noble") if image.is_ubuntu and real_ubuntu() else image


def _mmdebstrap(image: Image) -> list[str]:
    """The command up to the target, which comes last."""
    # Without manuals, and without waiting for the disk: this system is thrown away.
    dpkg = ("force-unsafe-io", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*")
    apt = ('Acquire::Languages "none";', 'Acquire::Retries "3";', *_apt_settings(), *image.apt)
    packages = PACKAGES + (machines.PACKAGES if image.has_boot_loader else ())
    packages += SERVER_PACKAGES if image.is_ubuntu or image.has_boot_loader else ()
    packages += containers.PACKAGES if image.has_docker else ()
    components = "main,universe,restricted,multiverse" if image.suite == "noble" else "main"
    return [
        "mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase",
        f"--components={components}", f"--include={','.join(packages)}",
        *(f"--dpkgopt={line}" for line in dpkg), *(f"--aptopt={line}" for line in apt),
        f'--customize-hook=chroot "$1" sh -ec {shlex.quote(CUSTOMIZE)}',
        image.suite,
    ]  # fmt: skip


def _mirror_arguments(image: Image) -> list[str]:
    """Sources for mmdebstrap; none where this machine names none, then mmdebstrap's own choice holds."""
    mirror = mirror_of(image.suite)
    if mirror is None:
        return []
    part = "main universe restricted multiverse" if image.suite == "noble" else "main"
    lines = [f"deb {mirror.archive} {image.suite} {part}"]
    if image.suite != "sid":
        lines.append(f"deb {mirror.archive} {image.suite}-updates {part}")
        lines.append(f"deb {mirror.security} {image.suite}-security {part}")
    return lines


def _base_tree(state: Path, image: Image) -> Path:
    """The tree of a suite; built when it is missing."""
    command, mirror = _mmdebstrap(image), _mirror_arguments(image)
    tree = state / "images" / f"{image.suite}-{_digest(*command, *mirror)}"

    def build(part: Path) -> None:
        say(f"Building the {image.suite} base tree (once; about half a minute)")
        _contained([*command, str(part), *mirror], log=state / "logs" / f"{image.suite}.log")

    return _built(state, tree, build)


def _built(state: Path, final: Path, build: Callable[[Path], None]) -> Path:
    """`final`, made by `build` under another name and renamed when whole."""
    if final.is_dir():
        return final
    require_root(f"Building {final.name}")
    with locked(state / "locks" / final.name):
        if not final.is_dir():
            part = final.with_name(f"{final.name}.part")
            _remove(part)
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                build(part)
            except BaseException:
                _remove(part)
                raise
            part.rename(final)
    return final


def _remove(tree: Path) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(tree)], check=True)


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def _contained(command: Sequence[str], *, log: Path, stdin: str = "") -> None:
    """Run a builder whose processes and mounts end with it, and which ends with us, even when killed outright."""
    log.parent.mkdir(parents=True, exist_ok=True)
    wrapper = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with log.open("w") as output:
        # Its own session: Ctrl-C reaches us alone, and we end it.
        process = subprocess.Popen(
            [*wrapper, *command], stdin=subprocess.PIPE, stdout=output, stderr=output, text=True, start_new_session=True
        )
        try:
            process.communicate(stdin)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BedError(f"Building stopped with exit status {process.returncode}; the end of {log} says:\n{tail}")


# --- The bed's own layer ---------------------------------------------------------------------------------------------


def _mirror_in(tree: Path, suite: str) -> Mirror:
    """The mirror that the tree was made from, in the words of mmdebstrap."""
    archive = security = ""
    for line in (tree / "etc/apt/sources.list").read_text().splitlines():
        words = [word for word in line.split() if not word.startswith("[") and not word.endswith("]")]
        if words[:1] == ["deb"] and words[2] == suite:
            archive = words[1]
        elif words[:1] == ["deb"] and words[2] == f"{suite}-security":
            security = words[1]
    return Mirror(archive, security or archive)


def _layer(state: Path, image: Image, base: Path) -> Layer:
    # Imported late: it needs the project's environment, the base trees do not.
    from tests.testbed import keys

    secrets = ssh_keys(state)
    public = (secrets / "id.pub").read_bytes()
    files = {
        "etc/ssh/ssh_host_ed25519_key": (secrets / "host").read_bytes(),
        "etc/ssh/ssh_host_ed25519_key.pub": (secrets / "host.pub").read_bytes(),
        # As where an administrator inspects TLS: the authority is the system's, not some program's.
        "usr/local/share/ca-certificates/bed.crt": keys.ca_certificate(state).read_bytes(),
        "root/.ssh/authorized_keys": public,
        "home/nopass/.ssh/authorized_keys": public,
        "home/withpass/.ssh/authorized_keys": public,
        "etc/apt/apt.conf.d/90bed": "\n".join(
            line for line in ('Acquire::Languages "none";', *_apt_settings(), *image.apt) if "::Proxy" not in line
        ).encode()
        + b"\n",
        **image.sources(_mirror_in(base, image.suite)),
    }
    if image.is_ubuntu:
        # Two keyrings in a row are a keyring: a true noble keeps Ubuntu's keys beside the bed's.
        keyring = Path("usr/share/keyrings/ubuntu-archive-keyring.gpg")
        genuine = (base / keyring).read_bytes() if (base / keyring).exists() else b""
        files[str(keyring)] = genuine + keys.archive_keyring(state).read_bytes()
        if image.suite != "noble":
            files |= UBUNTU_NAMES
    script = """
chmod 0600 /etc/ssh/ssh_host_ed25519_key
for home in /root /home/nopass /home/withpass; do
    chmod 0700 $home/.ssh; chmod 0600 $home/.ssh/authorized_keys; chown -R --reference=$home $home/.ssh
done
update-ca-certificates >/dev/null
"""
    if image.has_boot_loader:
        files |= {path: text.encode() for path, text in machines.IMAGE_FILES.items()}
        script += machines.IMAGE_SCRIPT
    if image.has_docker:
        files |= {path: text.encode() for path, text in containers.IMAGE_FILES.items()}
        script += containers.IMAGE_SCRIPT
    return Layer(files, script)


def layers(state: Path, name: str) -> tuple[Path, ...]:
    """The directories of an image, topmost first; built when they are missing."""
    image = find(name)
    base = _base_tree(state, image)
    layer = _layer(state, image, base)
    identity = [part for path, content in sorted(layer.files.items()) for part in (path.encode(), content)]
    final = state / "images" / f"{name}-layer-{_digest(base.name, layer.script, *identity)}"

    def build(part: Path) -> None:
        upper = part.with_name(f"{part.name}-work")
        _remove(upper)
        try:
            _assemble(state, image, layer, base, upper)
            (upper / "upper").rename(part)
        finally:
            _remove(upper)

    return _built(state, final, build), base


def _assemble(state: Path, image: Image, layer: Layer, base: Path, work: Path) -> None:
    """Put the files in place over the base, run the script there; what changed is in `work`/upper."""
    for name in ("upper", "work", "root"):
        (work / name).mkdir(parents=True)
    staged = work / "files"
    for path, content in layer.files.items():
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    # Not cp -a: directories that exist keep their owner and mode.
    script = """
cd "$1"
mount -t overlay overlay -o "lowerdir=$2,upperdir=upper,workdir=work" root
cd files; find . -type f | while read -r file; do
    mkdir -p "../root"/"${file%/*}"; cat "$file" >"../root"/"$file"
done
cd ..; chroot root sh -e
"""
    log = state / "logs" / f"{image.name}-layer.log"
    _contained(["sh", "-ec", script, "sh", str(work), str(base)], log=log, stdin=layer.script)


# --- Keys ------------------------------------------------------------------------------------------------------------


def ssh_keys(state: Path) -> Path:
    """A folder with the key of the bed's user (`id`), the one of all its hosts (`host`), and `known_hosts`."""
    final = state / "ssh"

    def build(part: Path) -> None:
        part.mkdir(mode=0o700)
        for name in ("id", "host"):
            options = ["-t", "ed25519", "-N", "", "-C", f"metal2model-bed-{name}", "-f", str(part / name)]
            subprocess.run(["ssh-keygen", "-q", *options], check=True)
        key = " ".join((part / "host.pub").read_text().split()[:2])
        # Every address by name, not a pattern: not every ssh client knows patterns here. On one line, since paramiko
        # compares each line of the file with all before it.
        addresses = ",".join(f"10.77.0.{number}" for number in range(2, 255))
        (part / "known_hosts").write_text(f"{addresses} {key}\n")

    return _built(state, final, build)


def main() -> None:
    """Build the base trees of the images named on the command line; needs the standard library only."""
    # An end by TERM cleans up as one by Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in sys.argv[1:]:
        try:
            _base_tree(state_dir(), find(name))
        except BedError as error:
            sys.exit(f"./run: {error}")


if __name__ == "__main__":
    main()
