"""Archives of the stand-ins for kernels and GPU drivers (stand_ins.py), under the names that reality has for them.

Ubuntu's own is not here: hub_apt.py adds `Noble` to it. All is built in memory when it is first asked for,
which takes a tenth of a second.
"""

import functools
import gzip
import hashlib
import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import keys, stand_ins
from tests.testbed.hub_http import Answer, Asked, Content, text_answer
from tests.testbed.stand_ins import Package

PPA_HOST = "ppa.launchpadcontent.net"
# https://mirrors.ustc.edu.cn/help/launchpad.html: put in the place of the other, paths stay.
PPA_MIRROR = "launchpad.proxy.ustclug.org"
PPA_ROOT = "/kobuk-team/intel-graphics/ubuntu/"
KEY_SERVER = "keyserver.ubuntu.com"
INTEL_HOST = "repositories.intel.com"
INTEL_ROOT = "/gpu/ubuntu/"
INTEL_KEY = "/gpu/intel-graphics.key"
MAINLINE_HOST = "kernel.ubuntu.com"
# After the keys were made, before any clock of a host: 2024-05-01.
DATED = 1714521600
DATE = "Wed, 01 May 2024 00:00:00 UTC"

POCKETS = (*stand_ins.ALL_POCKETS, "noble-backports")
COMPONENTS = ("restricted", "universe", "multiverse")
"""Those of Ubuntu's archive that Debian's packages do not fill."""


@functools.cache
def _built(package: Package) -> bytes:
    return stand_ins.deb(package)


def index(packages: Iterable[Package]) -> bytes:
    """Write a Packages file (https://wiki.debian.org/DebianRepository/Format#A.22Packages.22_Indices)."""
    stanzas = []
    for package in packages:
        content = _built(package)
        stanzas.append(
            f"{package.control}Filename: {package.pool_path}\nSize: {len(content)}\n"
            f"MD5sum: {hashlib.md5(content, usedforsecurity=False).hexdigest()}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    return "\n".join(stanzas).encode()


def _indexes(component: str, packages: Iterable[Package]) -> dict[str, bytes]:
    """Give the files of a component, by their paths in a Release file."""
    content = index(packages)
    path = f"{component}/binary-amd64/Packages"
    files = {path: content}
    if content:
        files[f"{path}.gz"] = gzip.compress(content, mtime=0)
    return files


def _answer(content: bytes, modified: float = DATED) -> Answer:
    etag = hashlib.sha256(content).hexdigest()[:32]
    return Answer(Content(content), headers={"Content-Type": "application/octet-stream"}, etag=etag, modified=modified)


def _find(name: str, files: Mapping[str, bytes]) -> bytes | None:
    """Find a file by its path, or by its hash beside where that would be."""
    if found := re.fullmatch(r"(.+)/by-hash/SHA256/([0-9a-f]{64})", name):
        for path, content in files.items():
            if path.startswith(f"{found[1]}/Packages") and hashlib.sha256(content).hexdigest() == found[2]:
                return content
    return files.get(name)


class Noble:
    """What Ubuntu's archive has beside Debian's packages: components of its pockets, and files of its pool."""

    @functools.cached_property
    def pool(self) -> dict[str, Package]:
        """Give the packages by their paths."""
        return {package.pool_path: package for package in stand_ins.noble()}

    @functools.cached_property
    def indexes(self) -> dict[str, dict[str, bytes]]:
        """Give each pocket's indexes, by their paths in its Release file; a component may well be empty."""
        indexes: dict[str, dict[str, bytes]] = {}
        for pocket in POCKETS:
            packages = [package for package in stand_ins.noble() if pocket in package.pockets]
            indexes[pocket] = {}
            for component in COMPONENTS:
                indexes[pocket] |= _indexes(component, (one for one in packages if one.component == component))
        return indexes

    def answer(self, rest: str) -> Answer | None:
        """Answer for a path below the archive's root; None when it is not ours."""
        if package := self.pool.get(rest):
            return _answer(_built(package))
        match = re.fullmatch(r"dists/([\w-]+)/(.+)", rest)
        if match and (content := _find(match[2], self.indexes.get(match[1], {}))) is not None:
            return _answer(content)
        return None


@dataclass(frozen=True)
class Archive:
    """An archive of its own; suites are codename -> packages."""

    origin: str
    label: str
    component: str
    suites: Mapping[str, tuple[Package, ...]]
    signer: Path

    @functools.cached_property
    def files(self) -> dict[str, bytes]:
        """Give all files by their paths below the root."""
        files: dict[str, bytes] = {}
        key = keys.archive_key(self.signer)
        for suite, packages in self.suites.items():
            indexes = _indexes(self.component, packages)
            version = {"noble": "24.04", "jammy": "22.04"}[suite]
            lines = [
                f"Origin: {self.origin}",
                f"Label: {self.label}",
                f"Suite: {suite}",
                f"Version: {version}",
                f"Codename: {suite}",
                f"Date: {DATE}",
                "Architectures: amd64",
                f"Components: {self.component}",
                "Description: stand-ins of the metal2model test bed",
                "SHA256:",
            ]
            lines += [
                f" {hashlib.sha256(content).hexdigest()} {len(content):>10} {path}" for path, content in indexes.items()
            ]
            release = "\n".join(lines) + "\n"
            below = f"dists/{suite}/"
            files |= {below + path: content for path, content in indexes.items()}
            files[f"{below}Release"] = release.encode()
            files[f"{below}InRelease"] = keys.clear_sign(key, release, DATED)
            files[f"{below}Release.gpg"] = keys.detached_signature(key, release.encode(), DATED)
            files |= {package.pool_path: _built(package) for package in packages}
        return files


def armoured_keys(*signers: Path) -> bytes:
    """Give the public keys of signers as one armoured text, as key servers and `.key` files have them."""
    rings = b"".join(keys.archive_keyring(signer).read_bytes() for signer in signers)
    return keys._armoured(rings).replace(b"PGP SIGNATURE", b"PGP PUBLIC KEY BLOCK")


class Drivers:
    """Every archive but Ubuntu's, and the key server."""

    names = (PPA_HOST, PPA_MIRROR, KEY_SERVER, INTEL_HOST, MAINLINE_HOST)

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def _signer(self, name: str) -> Path:
        return stand_ins.signer(self.state_dir, name)

    @functools.cached_property
    def _ppa(self) -> Archive:
        origin = "LP-PPA-kobuk-team-intel-graphics"
        return Archive(origin, "intel-graphics", "main", {"noble": stand_ins.ppa()}, self._signer("ppa"))

    @functools.cached_property
    def _intel(self) -> Archive:
        suites = {suite: stand_ins.intel(suite) for suite in stand_ins.INTEL_VERSIONS}
        return Archive("Intel", "Intel GPU", "unified", suites, self._signer("intel"))

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for a path of one of the hosts; None when there is no such file."""
        content = None
        if asked.host in (PPA_HOST, PPA_MIRROR) and asked.path.startswith(PPA_ROOT):
            content = _find(asked.path.removeprefix(PPA_ROOT), self._ppa.files)
        elif asked.host == INTEL_HOST and asked.path == INTEL_KEY:
            content = armoured_keys(self._signer("intel"), self._signer("intel-2024"))
        elif asked.host == INTEL_HOST and asked.path.startswith(INTEL_ROOT):
            content = _find(asked.path.removeprefix(INTEL_ROOT), self._intel.files)
        elif asked.host == MAINLINE_HOST:
            return self._mainline(asked.path)
        elif asked.host == KEY_SERVER and asked.path == "/pks/lookup":
            return self._key(asked.query)
        return None if content is None else _answer(content)

    def _key(self, query: Mapping[str, str]) -> Answer:
        """Answer as Hockeypuck does (https://github.com/hockeypuck/hockeypuck): by fingerprint or long key id."""
        wanted = query.get("search", "").upper()
        found = [
            name
            for name, fingerprint in stand_ins.fingerprints(self.state_dir).items()
            if wanted in (f"0X{fingerprint}", f"0X{fingerprint[-16:]}")
        ]
        if query.get("op") != "get" or not found:
            return text_answer("Not Found\n", 404)
        content = armoured_keys(self._signer(found[0])).decode()
        return text_answer(content, headers={"Content-Type": "application/pgp-keys"})

    def _mainline(self, path: str) -> Answer | None:
        """Answer for the builds of mainline kernels; a directory is a page that lists it."""
        files: dict[str, bytes] = {}
        for build in stand_ins.MAINLINE:
            below = f"/mainline/{build.tag}/amd64/"
            if path.startswith(below) or below.startswith(f"{path.rstrip('/')}/"):
                found = _mainline_files(build, self._signer("mainline"))
                files |= {below + name: content for name, content in found.items()}
        if path in files:
            return _answer(files[path])
        folder = f"{path.rstrip('/')}/"
        names = sorted({name.removeprefix(folder).split("/")[0] for name in files if name.startswith(folder)})
        if not names:
            return None
        if path != folder:
            return text_answer("", 301, {"Location": f"https://{MAINLINE_HOST}{folder}"})
        listed = [name if folder + name in files else f"{name}/" for name in names]
        rows = "".join(f'<tr><td><a href="{html.escape(name)}">{html.escape(name)}</a></td></tr>\n' for name in listed)
        title = f"Index of {path}"
        page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1><table>\n{rows}</table></body></html>\n"
        return text_answer(page, headers={"Content-Type": "text/html;charset=UTF-8"})


@functools.cache
def _mainline_files(build: stand_ins.Mainline, signer: Path) -> dict[str, bytes]:
    """Give the files of a build's directory."""
    files = {package.file_name: _built(package) for package in stand_ins.mainline(build)}

    def sums(kind: str) -> str:
        return "".join(f"{hashlib.new(kind, content).hexdigest()}  {name}\n" for name, content in files.items())

    checksums = (
        f"# Checksums for {build.tag}, check with the command below:\n#     shasum -c CHECKSUMS\n#\n"
        f"# Checksums-Sha1:\n{sums('sha1')}#\n# Checksums-Sha256:\n{sums('sha256')}"
    ).encode()
    key = keys.archive_key(signer)
    signature = keys.detached_signature(key, checksums, DATED)
    return {**files, "CHECKSUMS": checksums, "CHECKSUMS.gpg": signature}
