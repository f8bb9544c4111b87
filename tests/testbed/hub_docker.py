"""Docker's own repository and NVIDIA's of the container toolkit, under their public names.

Docker's packages have true names and fields, and hold Debian 13's Docker, out of the base tree of the image `docker`,
with Debian 12's runc, so that they run on every image of the bed. The toolkit's are stand-ins: their `nvidia-ctk`
describes the pretended cards to a real Docker (stand_ins/nvidia-ctk.sh).
"""

import asyncio
import functools
import hashlib
import inspect
import lzma
import re
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.testbed import BedError, images, keys, locked, stand_ins
from tests.testbed.hub_drivers import DATE, DATED, _answer, _built, armoured_keys, index
from tests.testbed.hub_http import Answer, Asked, file_answer
from tests.testbed.hub_state import write_atomic
from tests.testbed.stand_ins import File, Package, script

DOCKER_HOST = "download.docker.com"
NVIDIA_HOST = "nvidia.github.io"
NVIDIA_ROOT = "/libnvidia-container/stable/deb/amd64/"
SUITES = {"ubuntu": ("noble", "24.04"), "debian": ("bookworm", "12")}
UNITS = "usr/lib/systemd/system"


def _scripts(*units: str) -> dict[str, str]:
    return {name: script(f"enabled.{name}", units=" ".join(units)) for name in ("postinst", "prerm")}


@dataclass(frozen=True)
class Repacked:
    """A package of Docker's, and the Debian packages whose files it holds."""

    name: str
    version: str
    holds: tuple[str, ...]
    fields: Mapping[str, str]
    units: tuple[str, ...] = ()

    @property
    def package(self) -> Package:
        """Give it without its files."""
        scripts = _scripts(*self.units) if self.units else {}
        return Package(self.name, self.version, self.name, "admin", "main", fields=self.fields, scripts=scripts)


# Fields: https://download.docker.com/linux/debian/dists/bookworm/stable/binary-amd64/Packages.
DOCKER = (
    Repacked(
        "docker-ce",
        "5:29.4.1-1",
        ("docker.io",),
        {
            "Depends": "containerd.io (>= 1.7.27), docker-ce-cli, iptables, libc6 (>= 2.34), libsystemd0",
            "Conflicts": "docker (<< 1.5~), docker-engine, docker.io",
            "Replaces": "docker-engine",
        },
        ("docker.socket", "docker.service"),
    ),
    Repacked(
        "docker-ce-cli",
        "5:29.4.1-1",
        ("docker-cli",),
        {"Depends": "libc6 (>= 2.34)", "Conflicts": "docker (<< 1.5~), docker-engine, docker.io"},
    ),
    Repacked(
        "containerd.io",
        "2.2.4-1",
        ("containerd",),
        {
            "Depends": "libc6 (>= 2.34), libseccomp2 (>= 2.5.0)",
            **dict.fromkeys(("Conflicts", "Replaces", "Provides"), "containerd, runc"),
        },
        ("containerd.service",),
    ),
    Repacked("docker-compose-plugin", "5.1.3-1", ("docker-compose",), {"Enhances": "docker-cli"}),
)


def _deb(tree: Path, repacked: Repacked, runc: Path, path: Path) -> None:
    """Pack files of a tree as they stand there; uncompressed, since nobody keeps it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        listed = [
            name
            for package in repacked.holds
            for name in (tree / f"var/lib/dpkg/info/{package}.list").read_text().splitlines()
            if "/share/" not in name and not name.startswith("/etc/init") and not name.startswith("/etc/default")
        ]
        files = [f".{name}" for name in listed if (tree / name[1:]).is_symlink() or (tree / name[1:]).is_file()]
        subprocess.run(["cp", "-d", "--preserve=mode,links", "--parents", "-t", work, *files], cwd=tree, check=True)
        if repacked.name == "containerd.io":
            unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" ./usr/sbin/runc ./usr/bin/runc'
            subprocess.run(["sh", "-ec", unpack, "sh", str(runc), work], check=True)
        control = Path(work) / "DEBIAN"
        control.mkdir()
        (control / "control").write_text(repacked.package.control)
        for name, text in (repacked.package.scripts or {}).items():
            (control / name).write_text(text)
            (control / name).chmod(0o755)
        Path(work).chmod(0o755)
        command = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", work, str(path)]
        subprocess.run(command, check=True, capture_output=True)


# --- NVIDIA's --------------------------------------------------------------------------------------------------------

REFRESH = {
    f"{UNITS}/nvidia-cdi-refresh.service": """\
[Unit]
Description=Refresh NVIDIA CDI specification file

[Service]
Type=oneshot
ExecStart=/usr/bin/nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml

[Install]
WantedBy=multi-user.target
""",
    f"{UNITS}/nvidia-cdi-refresh.path": """\
[Unit]
Description=Trigger CDI refresh on NVIDIA driver install / uninstall events

[Path]
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
""",
}


def toolkit(version: str) -> tuple[Package, ...]:
    """Give the four packages of the container toolkit, which depend on each other in this one version."""
    base = Package("", version, "nvidia-container-toolkit", "utils", "main")

    def same(*names: str) -> dict[str, str]:
        return {"Depends": ", ".join(f"{name} (= {version})" for name in names)}

    return (
        replace(
            base,
            name="nvidia-container-toolkit-base",
            files=(
                File("usr/bin/nvidia-ctk", script("nvidia-ctk", version=version), 0o755),
                *(File(path, text) for path, text in REFRESH.items()),
            ),
            scripts=_scripts("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service"),
        ),
        replace(base, name="libnvidia-container1", section="libs"),
        replace(base, name="libnvidia-container-tools", fields=same("libnvidia-container1")),
        replace(
            base,
            name="nvidia-container-toolkit",
            fields=same("nvidia-container-toolkit-base", "libnvidia-container-tools"),
        ),
    )


TOOLKITS = tuple(package for version in ("1.19.1-1", "1.20.1-1", "1.21.0-1") for package in toolkit(version))


class Docker:
    """Both repositories, each with its key."""

    names = (DOCKER_HOST, NVIDIA_HOST)

    def __init__(self, state_dir: Path, debian: Callable[[str], Awaitable[Answer]]) -> None:
        """`debian` answers for a path of Debian's own archive."""
        self.state_dir = state_dir
        self.debian = debian
        self.packed: dict[str, dict[str, bytes | Path]] = {}

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for a path of one of the hosts; None when there is no such file."""
        if asked.host == NVIDIA_HOST:
            if asked.path == "/libnvidia-container/gpgkey":
                return _answer(armoured_keys(self._signer("nvidia-toolkit")))
            content = self._toolkit.get(asked.path.removeprefix(NVIDIA_ROOT))
            return None if content is None else _answer(content)
        _, _, system, *rest = asked.path.split("/", 3)
        if system not in SUITES:
            return None
        if rest == ["gpg"]:
            return _answer(armoured_keys(self._signer("docker")))
        if system not in self.packed:
            self.packed[system] = await asyncio.to_thread(self._docker, system, await self._runc())
        found = self.packed[system].get("".join(rest))
        return None if found is None else file_answer(found) if isinstance(found, Path) else _answer(found)

    def _signer(self, name: str) -> Path:
        return stand_ins.signer(self.state_dir, name)

    def _signed(self, name: str, release: str) -> dict[str, bytes]:
        key = keys.archive_key(self._signer(name))
        return {
            "Release": release.encode(),
            "InRelease": keys.clear_sign(key, release, DATED),
            "Release.gpg": keys.detached_signature(key, release.encode(), DATED),
        }

    @functools.cached_property
    def _toolkit(self) -> dict[str, bytes]:
        """A flat repository: https://wiki.debian.org/DebianRepository/Format#Flat_Repository_Format."""
        packages = index(TOOLKITS)
        release = (
            f"Origin: NVIDIA\nDate: {DATE}\nSHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
        )
        pool = {package.pool_path: _built(package) for package in TOOLKITS}
        return {"Packages": packages, **self._signed("nvidia-toolkit", release), **pool}

    async def _runc(self) -> Path:
        path = self.state_dir / "stand-ins" / "runc.deb"
        if not path.exists():
            listed = lzma.decompress(await self._whole("dists/bookworm/main/binary-amd64/Packages.xz")).decode()
            found = re.search(r"(?ms)^Package: runc$.*?^Filename: (\S+)$", listed)
            if found is None:
                raise BedError("Debian 12 has no runc")
            write_atomic(path, await self._whole(found[1]))
        return path

    async def _whole(self, path: str) -> bytes:
        answer = await self.debian(path)
        if answer.status != 200:
            raise BedError(f"Debian's archive answers {answer.status} for {path}")
        return b"".join([piece async for piece in answer.body.read(0, answer.body.size)])

    def _packed(self, runc: Path) -> list[Path]:
        tree = images._base_tree(self.state_dir, images.find("docker"))
        recipe = f"{tree.name}{DOCKER}{inspect.getsource(_deb)}{inspect.getsource(Repacked)}"
        folder = self.state_dir / "stand-ins" / f"docker-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
        with locked(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                part = folder.with_name(f"{folder.name}.part")
                part.mkdir(exist_ok=True)
                for repacked in DOCKER:
                    _deb(tree, repacked, runc, part / repacked.package.file_name)
                part.rename(folder)
        return [folder / repacked.package.file_name for repacked in DOCKER]

    def _docker(self, system: str, runc: Path) -> dict[str, bytes | Path]:
        suite, version = SUITES[system]
        stanzas, pool = [], {}
        for repacked, path in zip(DOCKER, self._packed(runc), strict=True):
            name = f"dists/{suite}/pool/stable/amd64/{path.name}"
            pool[name] = path
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            stanzas.append(
                f"{repacked.package.control}Filename: {name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n"
            )
        packages = "\n".join(stanzas).encode()
        listed = "stable/binary-amd64/Packages"
        release = (
            f"Origin: Docker\nLabel: Docker CE\nSuite: {suite}\nVersion: {version}\nCodename: {suite}\nDate: {DATE}\n"
            f"Architectures: amd64\nComponents: stable\nSHA256:\n {hashlib.sha256(packages).hexdigest()} "
            f"{len(packages)} {listed}\n"
        )
        signed = {f"dists/{suite}/{name}": content for name, content in self._signed("docker", release).items()}
        return {**pool, **signed, f"dists/{suite}/{listed}": packages}
