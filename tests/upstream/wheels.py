"""Files of a published wheel, without the hundreds of megabytes around them."""

import io
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.testbed import BedError, locked, say, state_dir

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 18
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 17)]


def sources(requirement: str, *patterns: str) -> Path:
    """
    Return a directory with the members of a wheel that match, fetched once and kept in the bed's cache.

    ``requirement``: ``name==version``; ``patterns``: globs whose ``*`` crosses directories. The wheel is the one
    for Linux on x86_64, whatever this machine is. pip says where it is, so that its own configuration decides.
    """
    folder = f"{requirement}-{sha256(repr(sorted(patterns)).encode()).hexdigest()[:8]}"
    target = state_dir() / "upstream" / folder
    with locked(target.with_name(f".{folder}.lock")):
        if not target.is_dir():
            part = target.with_name(f".{folder}.part")
            shutil.rmtree(part, ignore_errors=True)
            say(f"Reading the command line of {requirement} from its wheel")
            try:
                _extract(_address(requirement), patterns, part)
            except (OSError, zipfile.BadZipFile, ValueError) as error:
                raise BedError(_unreachable(requirement, repr(error))) from error
            part.rename(target)
    return target


def _unreachable(requirement: str, said: str) -> str:
    return (
        f"the sources of {requirement} could not be read: {said}. This test holds our command lines against the real "
        "program's, so it needs some 1 MB of that wheel, once: let pip reach a package index that has it and answers "
        "HTTP range requests, then run again"
    )


def _address(requirement: str) -> str:
    """Ask pip where the wheel is; it reads the index's metadata only."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed",
         "--only-binary=:all:", "--python-version=3.12", *platforms, "--target=nowhere", "--report=-", requirement],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BedError(_unreachable(requirement, done.stderr.strip()[-500:] or f"pip ended with {done.returncode}"))
    (found,) = json.loads(done.stdout)["install"]
    return str(found["download_info"]["url"])


def _extract(url: str, patterns: Sequence[str], target: Path) -> None:
    with zipfile.ZipFile(io.BufferedReader(_Remote(url), CHUNK)) as wheel:
        wanted = [one for one in wheel.infolist() if any(fnmatchcase(one.filename, p) for p in patterns)]
        for pattern in patterns:
            if not any(fnmatchcase(one.filename, pattern) for one in wanted):
                raise ValueError(f"{url.rsplit('/', 1)[-1]} has no member like {pattern}")
        # In their order in the file: neighbours come with one request.
        for member in sorted(wanted, key=lambda one: one.header_offset):
            wheel.extract(member, target)


class _Remote(io.RawIOBase):
    """A file behind a URL, of which only what is read is fetched (RFC 9110, section 14)."""

    def __init__(self, url: str) -> None:
        self._url, self._position = url, 0
        first, headers = self._fetch(0, 0)
        total = re.fullmatch(r"bytes 0-0/(\d+)", headers.get("Content-Range", ""))
        if not total or len(first) != 1:
            raise OSError(f"{url.split('/')[2]} does not answer range requests")
        self._size = int(total[1])

    def _fetch(self, first: int, last: int) -> tuple[bytes, Any]:
        request = urllib.request.Request(self._url, headers={"Range": f"bytes={first}-{last}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            # A server that ignores the range sends everything: read no more of that than was asked for.
            return answer.read(last - first + 1), answer.headers

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        last = min(self._position + len(view), self._size) - 1
        if last < self._position:
            return 0
        content, _ = self._fetch(self._position, last)
        view[: len(content)] = content
        self._position += len(content)
        return len(content)
