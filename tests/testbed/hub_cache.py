"""A disk cache in front of the registries that this machine may use: each file crosses the uplink once."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import aiohttp

from tests.testbed.hub_http import CHUNK, Answer, file_answer, text_answer


class Growing:
    """A body of known length that is still coming in; readers follow the writer."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        # One descriptor for writer and readers: the name changes when the file is complete.
        self.file = path.open("w+b", buffering=0)
        self.written = 0
        self.failed = False
        self.more = asyncio.Condition()

    async def write(self, piece: bytes) -> None:
        """Append, and wake the readers."""
        self.file.write(piece)
        async with self.more:
            self.written += len(piece)
            self.more.notify_all()

    async def fail(self) -> None:
        """Tell the readers that no more is to come."""
        async with self.more:
            self.failed = True
            self.more.notify_all()

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        while start < stop:
            async with self.more:
                while self.written <= start and not self.failed:
                    await self.more.wait()
            if self.written <= start:
                # The client must see a broken transfer, not a short file.
                raise ConnectionError("the upstream registry broke off")
            piece = os.pread(self.file.fileno(), min(CHUNK, stop - start, self.written - start), start)
            start += len(piece)
            yield piece


class Cache:
    """Fetches from upstream, at most one fetch per file at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.session: aiohttp.ClientSession | None = None
        self.checked: dict[Path, float] = {}
        self.coming: dict[Path, asyncio.Task[Answer]] = {}
        self.background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of upstream."""
        if self.session:
            await self.session.close()

    async def get(
        self, url: str, name: str, fresh_seconds: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Answer what is at `url`, from the file `name` of the cache when it is there.

        Without `fresh_seconds` the content of `url` never changes; with it, upstream is asked again after that
        time, and an upstream that does not answer leaves the old content in use.
        """
        path = self.root / name
        if not path.resolve().is_relative_to(self.root.resolve()):
            return text_answer("no such path\n", 400)
        if path.is_file():
            age = time.monotonic() - self.checked.get(path, float("-inf"))
            if fresh_seconds is None or age < fresh_seconds:
                return file_answer(path)
        task = self.coming.get(path)
        if task is None:
            task = asyncio.create_task(self._fetch(url, path, dict(headers or {})))
            self.coming[path] = task
            task.add_done_callback(lambda done: self._over(path, done))
        # One client that leaves must not end the fetch for the others.
        return await asyncio.shield(task)

    async def whole(
        self, url: str, name: str, fresh_seconds: float | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes | None:
        """Give the content at `url` once it is all there; None when upstream has no such file."""
        answer = await self.get(url, name, fresh_seconds, headers)
        if answer.status != 200:
            return None
        return b"".join([piece async for piece in answer.body.read(0, answer.body.size)])

    def _over(self, path: Path, task: asyncio.Task[Answer]) -> None:
        answer = None if task.cancelled() or task.exception() else task.result()
        if answer is None or not isinstance(answer.body, Growing):
            self.coming.pop(path, None)

    async def _fetch(self, url: str, path: Path, headers: dict[str, str]) -> Answer:
        if self.session is None:
            # trust_env: a user's machine may reach its registries by a proxy only.
            timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=60)
            self.session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=True)
        headers["Accept-Encoding"] = "identity"
        if path.is_file():
            headers["If-Modified-Since"] = formatdate(path.stat().st_mtime, usegmt=True)
        try:
            response = await self.session.get(url, headers=headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            if path.is_file():
                return file_answer(path)
            return text_answer(f"{url}: {error!r}\n", 502)
        if response.status == 304 or (response.status >= 500 and path.is_file()):
            response.release()
            if response.status == 304:
                self.checked[path] = time.monotonic()
            return file_answer(path)
        if response.status != 200:
            response.release()
            return text_answer(f"{url}: upstream answers {response.status}\n", response.status)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
        os.close(handle)
        # Without a length only the end of the transfer says how long the body is.
        growing = Growing(Path(name), response.content_length or 0)
        store = asyncio.create_task(self._store(response, growing, path))
        self.background.add(store)
        store.add_done_callback(self.background.discard)
        modified = _modified(response)
        if response.content_length is None:
            await store
            return text_answer(f"{url}: broken off\n", 502) if growing.failed else file_answer(path)
        etag = f"{int(modified) * 10**9:x}-{growing.size:x}"
        return Answer(growing, headers={"Content-Type": "application/octet-stream"}, etag=etag, modified=modified)

    async def _store(self, response: aiohttp.ClientResponse, growing: Growing, path: Path) -> None:
        try:
            async for piece in response.content.iter_chunked(CHUNK):
                await growing.write(piece)
            if response.content_length is not None and growing.written != response.content_length:
                raise ConnectionError("short")
            modified = int(_modified(response))
            os.utime(growing.path, ns=(modified * 10**9, modified * 10**9))
            growing.path.chmod(0o644)
            growing.path.replace(path)
            self.checked[path] = time.monotonic()
        except (OSError, aiohttp.ClientError, TimeoutError):
            await growing.fail()
            growing.path.unlink(missing_ok=True)
        finally:
            response.release()
            self.coming.pop(path, None)


def _modified(response: aiohttp.ClientResponse) -> float:
    try:
        return parsedate_to_datetime(response.headers["Last-Modified"]).timestamp()
    except (KeyError, ValueError):
        return float(int(time.time()))
