"""Chromium without a screen on a host of the bed, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.e2e.support import tunnel
from tests.testbed.hosts import BedHost

PORT = 9222
UNIT = "browser"
# Polls in the page itself, so that nothing here waits longer than the page needs.
WAIT = """new Promise((found, missed) => {
    const deadline = Date.now() + %d
    const look = () => {
        let value
        try { value = %s } catch (error) { value = undefined }
        if (value) return found(typeof value == 'object' ? true : value)
        if (Date.now() > deadline) return missed(document.body.innerText)
        setTimeout(look, 50)
    }
    look()
})"""


class Page:
    """A tab; each method is one thing that a person does or sees."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop = loop
        self._socket = socket
        self._last = 0

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """Return an expression of the page once it is true of it; fail with the page's text when it never is."""
        answer = self._call(
            "Runtime.evaluate", expression=WAIT % (seconds * 1000, expression), awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            said = answer["result"].get("value") or answer["exceptionDetails"]
            raise AssertionError(f"the page never showed: {expression}\nit says: {said}")
        return answer["result"]["value"]

    def type(self, selector: str, text: str) -> None:
        """Type into a field as a keyboard does, so that the page's own code sees it."""
        self.wait(
            f"(document.querySelector({selector!r}).focus(), document.querySelector({selector!r}).matches(':focus'))"
        )
        self._call("Input.insertText", text=text)

    def click(self, words: str) -> None:
        """Click the button that has these words on it."""
        button = f"[...document.querySelectorAll('button')].find(one => one.innerText.trim() === {json.dumps(words)})"
        self.wait(f"{button} && !{button}.click()")

    def enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
            self._call("Input.dispatchKeyEvent", type=kind, **key)

    def screenshot(self) -> bytes:
        """Return a picture of the page, a PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **parameters: Any) -> Any:
        return self._loop.run_until_complete(self._ask(method, parameters))

    async def _ask(self, method: str, parameters: dict[str, Any]) -> Any:
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters})
        async with asyncio.timeout(120):
            async for message in self._socket:
                answer = json.loads(message.data)
                if answer.get("id") == self._last:
                    assert "error" not in answer, f"{method}: {answer['error']}"
                    return answer["result"]
        raise AssertionError(f"the browser went away during {method}")


@contextmanager
def browser(host: BedHost, size: tuple[int, int] = (1280, 800)) -> Iterator[Page]:
    """Start Chromium on a host, as a service that ends with the test, and open an empty tab."""
    install = "apt-get -qq install -y --no-install-recommends chromium-headless-shell fonts-liberation >/dev/null"
    host.ssh(f"command -v chromium-headless-shell >/dev/null || DEBIAN_FRONTEND=noninteractive {install}", timeout=300)
    host.ssh(
        f"systemd-run --quiet --unit {UNIT} --property=PrivateTmp=yes chromium-headless-shell --no-sandbox "
        f"--disable-gpu --disable-dev-shm-usage --hide-scrollbars --window-size={size[0]},{size[1]} "
        f"--remote-debugging-port={PORT} about:blank"
    )
    loop = asyncio.new_event_loop()
    try:
        # It listens on the loopback address alone, whatever it is told.
        with tunnel(host, f"127.0.0.1:{PORT}") as port:
            session, socket = loop.run_until_complete(_connect(port))
            try:
                yield Page(loop, socket)
            finally:
                loop.run_until_complete(session.close())
    finally:
        loop.close()
        host.ssh(f"systemctl stop {UNIT}", check=False)


async def _connect(port: int) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                        tabs = [tab for tab in await answer.json(content_type=None) if tab["type"] == "page"]
                        # By this machine's port, not by the one that the browser believes to be reached at.
                        path = urlsplit(tabs[0]["webSocketDebuggerUrl"]).path
                        return session, await session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0)
                except aiohttp.ClientError:  # it is still starting
                    await asyncio.sleep(0.1)
    except BaseException:
        await session.close()
        raise
