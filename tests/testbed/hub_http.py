"""The hub's way with HTTP: ranges and validators, faults on demand, and a log of every byte of body that left.

Sites (hub_sites.py) say what is at a URL; everything here holds for all of them.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

CHUNK = 256 * 1024
CORRUPT_EVERY = 4096


@dataclass(frozen=True)
class Asked:
    """A request as the sites see it; `path` is decoded."""

    scheme: str
    host: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class Body(Protocol):
    """Something with a known length of which parts can be read."""

    @property
    def size(self) -> int:
        """Say how long the whole is."""

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Give the bytes from `start` up to `stop`, in pieces."""


@dataclass(frozen=True)
class Content:
    """A body in memory."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for offset in range(start, stop, CHUNK):
            yield self.content[offset : min(offset + CHUNK, stop)]


@dataclass(frozen=True)
class File:
    """A body on disk."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(CHUNK, stop - start))):
                start += len(piece)
                yield piece


@dataclass(frozen=True)
class Answer:
    """What a site says; `etag` without quotes."""

    body: Body = Content(b"")
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    modified: float | None = None


def file_answer(path: Path, headers: Mapping[str, str] | None = None, etag: str | None = None) -> Answer:
    """Serve a file as ordinary web servers do: dated, with a validator made of its time and size."""
    stat = path.stat()
    return Answer(
        File(path),
        headers={"Content-Type": "application/octet-stream", **(headers or {})},
        etag=etag or f"{stat.st_mtime_ns:x}-{stat.st_size:x}",
        modified=stat.st_mtime,
    )


def text_answer(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """Answer a text; its validator is its content."""
    content = text.encode()
    etag = hashlib.sha256(content).hexdigest()[:32]
    return Answer(Content(content), status, {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}, etag)


@dataclass
class Fault:
    """Something to do wrong; `times` counts down, None is for ever."""

    match: str
    kind: str
    times: int | None = 1
    after: int = 0
    status: int = 503
    retry_after: int | None = None
    rate: int = 65536
    clients: list[str] = field(default_factory=list)
    """Addresses of those who suffer it; none for all."""

    KINDS = ("cut", "corrupt", "status", "stall", "slow", "dead")

    def __post_init__(self) -> None:
        """Refuse what would never happen."""
        if self.kind not in self.KINDS:
            raise ValueError(f"unknown kind of fault {self.kind!r}; there are: {', '.join(self.KINDS)}")
        re.compile(self.match)

    @property
    def of_body(self) -> bool:
        """Say whether it needs a body to show."""
        return self.kind not in ("status", "dead")


@dataclass
class Request:
    """A line of the log: written when the request comes, completed while it is answered; `path` has the query."""

    time: float
    scheme: str
    host: str
    method: str
    path: str
    range: str | None
    status: int
    bytes_sent: int
    client: str
    user_agent: str


class Gone(web.StreamResponse):
    """No answer at all: what aiohttp is given when the connection is already closed."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class Hub:
    """Answers requests from its sites, does wrong what it was told to, and remembers."""

    def __init__(self, site: Callable[[Asked], Awaitable[Answer]]) -> None:
        self.site = site
        self.records: list[Request] = []
        self.faults: list[Fault] = []

    def log(self) -> list[dict[str, Any]]:
        """Give the log for the controller."""
        return [asdict(record) for record in self.records]

    def _fault(self, where: str, client: str, *, of_body: bool, length: int = 0) -> Fault | None:
        """Take the first fault that applies, and count it."""
        for fault in self.faults:
            if fault.clients and client not in fault.clients:
                continue
            if fault.of_body != of_body or fault.times == 0 or not re.search(fault.match, where):
                continue
            if of_body and length <= fault.after:
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of a host of the bed."""
        host = (request.host or "").rsplit(":", 1)[0].lower()
        url = request.rel_url
        path_and_query = url.path + (f"?{url.query_string}" if url.query_string else "")
        record = Request(
            time=time.time(),
            scheme="https" if request.secure else "http",
            host=host,
            method=request.method,
            path=path_and_query,
            range=request.headers.get("Range"),
            status=0,
            bytes_sent=0,
            client=request.remote or "",
            user_agent=request.headers.get("User-Agent", ""),
        )
        self.records.append(record)
        where = f"{host}{path_and_query}"
        fault = self._fault(where, record.client, of_body=False)
        if fault and fault.kind == "dead":
            if request.transport is not None:
                request.transport.close()
            return Gone()
        if fault:
            headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
            answer = text_answer(f"the test bed was told to answer {fault.status} here\n", fault.status, headers)
        elif request.method not in ("GET", "HEAD"):
            answer = text_answer("this hub only reads\n", 405)
        else:
            asked = Asked(record.scheme, host, request.method, url.path, url.query, request.headers)
            answer = await self.site(asked)
        return await self._respond(request, answer, record, where)

    async def _respond(
        self, request: web.BaseRequest, answer: Answer, record: Request, where: str
    ) -> web.StreamResponse:
        status, start, stop = select(answer, request.headers)
        response = web.StreamResponse(status=status, headers=dict(answer.headers))
        if answer.etag:
            response.headers["ETag"] = f'"{answer.etag}"'
        if answer.modified is not None:
            response.headers["Last-Modified"] = formatdate(answer.modified, usegmt=True)
        if answer.status == 200:
            response.headers["Accept-Ranges"] = "bytes"
        if status == 206:
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{answer.body.size}"
        elif status == 416:
            response.headers["Content-Range"] = f"bytes */{answer.body.size}"
        if status != 304:
            response.content_length = stop - start
        record.status = status
        await response.prepare(request)
        if request.method == "HEAD" or stop == start:
            return response
        fault = self._fault(where, record.client, of_body=True, length=stop - start)
        async for piece in _spoilt(answer.body, start, stop, fault):
            if fault and fault.kind == "slow":
                await asyncio.sleep(len(piece) / fault.rate)
            await response.write(piece)
            record.bytes_sent += len(piece)
        if fault and fault.kind == "stall":
            # Until the client has enough: aiohttp cancels the handler when it leaves.
            await asyncio.sleep(86400)
        if fault and fault.kind == "cut":
            if request.transport is not None:
                request.transport.close()
            return Gone()
        return response


async def _spoilt(body: Body, start: int, stop: int, fault: Fault | None) -> AsyncIterator[bytes]:
    """Give the bytes that go out, which a fault may shorten, change or divide."""
    offset = start
    end = min(stop, start + fault.after) if fault and fault.kind in ("cut", "stall") else stop
    async for whole in body.read(start, end):
        step = max(1, fault.rate // 10) if fault and fault.kind == "slow" else len(whole)
        for at in range(0, len(whole), step):
            piece = whole[at : at + step]
            if fault and fault.kind == "corrupt":
                piece = _corrupted(piece, offset, start + fault.after)
            offset += len(piece)
            yield piece


def _corrupted(piece: bytes, offset: int, first: int) -> bytes:
    """Flip a byte every so often, at the same places however the body is divided."""
    changed = bytearray(piece)
    begin = max(offset, first)
    for at in range(begin + (first - begin) % CORRUPT_EVERY, offset + len(piece), CORRUPT_EVERY):
        changed[at - offset] ^= 0xFF
    return bytes(changed)


def select(answer: Answer, headers: Mapping[str, str]) -> tuple[int, int, int]:
    """Choose status and part of the body (RFC 9110 sections 13 and 14); several ranges at once get the whole."""
    size = answer.body.size
    if answer.status != 200:
        return answer.status, 0, size
    if _unchanged(answer, headers):
        return 304, 0, 0
    matched = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", "").strip())
    if not matched or not any(matched.groups()) or not _range_still_valid(answer, headers):
        return 200, 0, size
    first, last = matched.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    return (206, start, stop) if start < stop else (416, 0, 0)


def _unchanged(answer: Answer, headers: Mapping[str, str]) -> bool:
    if (tags := headers.get("If-None-Match")) is not None:
        return answer.etag is not None and (answer.etag in re.findall(r'"([^"]*)"', tags) or tags.strip() == "*")
    since = headers.get("If-Modified-Since")
    return bool(since) and answer.modified is not None and int(answer.modified) <= _seconds(since)


def _range_still_valid(answer: Answer, headers: Mapping[str, str]) -> bool:
    condition = headers.get("If-Range")
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return condition == f'"{answer.etag}"'
    return answer.modified is not None and int(answer.modified) == _seconds(condition)


def _seconds(date: str | None) -> float:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return 0.0
