"""The fixture hub: answers on the bed's bridge for the public names, so that hosts without a network use real URLs.

    python -m tests.testbed.hub [--state-dir DIR] [--address 10.77.0.1] [--http-port 80] [--tls-port 443]

Hosts get the names by /etc/hosts and trust the bed's certificate authority. What the hub serves is made by
artefacts.py or fetched from this machine's own registries, through a cache. The controller speaks to it over a unix
socket, which no host can see.
"""

import argparse
import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.testbed import RUN_DIR, artefacts, keys, locked
from tests.testbed import state_dir as default_state_dir
from tests.testbed.hub_http import Fault, Hub, Request
from tests.testbed.hub_sites import Sites

ADDRESS = "10.77.0.1"
START_SECONDS = 30
STOP_SECONDS = 5
# What is being sent when the hub stops is cut: no host waits for it.
SHUTDOWN_SECONDS = 0.5
# <linux/in.h>; Python 3.11 does not name it. The hub may start before the bridge has its address.
IP_FREEBIND = 15


def served_names() -> list[str]:
    """Name every public host that the hub answers for: the hosts' /etc/hosts lead these to it."""
    return sorted(Sites(default_state_dir()).by_name)


def run_dir(state_dir: Path) -> Path:
    """Say where the hub of a state directory has its pid file, socket and logs."""
    # Without root the hub still runs on other ports, for its own tests.
    base = RUN_DIR if os.geteuid() == 0 else Path(tempfile.gettempdir()) / f"metal2model-bed-{os.geteuid()}"
    return base / f"hub-{hashlib.sha256(str(state_dir.resolve()).encode()).hexdigest()[:12]}"


def ensure_running(state_dir: Path, address: str = ADDRESS, http_port: int = 80, tls_port: int = 443) -> None:
    """Start the hub unless it already answers there; one with older code or other names is replaced."""
    here = run_dir(state_dir)
    wanted = {
        "address": [address, http_port, tls_port],
        "code": _code_digest(),
        # Which registries this machine uses may become known, or change, after the start.
        "names": sorted(Sites(state_dir).by_name),
    }
    with locked(here.parent / "hub.lock"):
        here.mkdir(parents=True, exist_ok=True)
        if (status := Client(state_dir).status()) is not None:
            if {name: status.get(name) for name in wanted} == wanted:
                return
            _stop(state_dir)
        command = [sys.executable, "-m", "tests.testbed.hub", "--state-dir", str(state_dir), "--address", address]
        command += ["--http-port", str(http_port), "--tls-port", str(tls_port)]
        with (here / "hub.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (here / "pid").write_text(f"{process.pid}\n")
        deadline = time.monotonic() + START_SECONDS
        while Client(state_dir).status() is None:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                tail = (here / "hub.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the bed's hub does not start on {address}:{http_port} and :{tls_port}:\n{tail}")
            time.sleep(0.05)


def stop(state_dir: Path) -> None:
    """Stop the hub of a state directory; nothing to do when there is none."""
    here = run_dir(state_dir)
    with locked(here.parent / "hub.lock"):
        _stop(state_dir)
        shutil.rmtree(here, ignore_errors=True)


def _stop(state_dir: Path) -> None:
    # The pid comes from the hub itself: a file may outlive its process, and another get its number.
    status = Client(state_dir).status()
    if status is None:
        return
    pid = int(status["pid"])
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # when it is ours, it would stay a zombie
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _code_digest() -> str:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    others = [here / name for name in ("keys.py", "artefacts.py", "stand_ins.py")]
    for path in sorted([*here.glob("hub*.py"), *others, *here.glob("stand_ins/*.sh")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("hub", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """What a test tells the hub and asks it: of its own hosts, where it names them, as other tests run beside it."""

    def __init__(self, state_dir: Path, clients: Sequence[str] = ()) -> None:
        self._socket = run_dir(state_dir) / "admin.sock"
        self.clients = list(clients)

    def log(self) -> list[Request]:
        """Give every request since the start or the last `clear_log`, oldest first."""
        entries = [Request(**entry) for entry in self._ask("GET", "/log")]
        return [entry for entry in entries if not self.clients or entry.client in self.clients]

    def clear_log(self) -> None:
        """Forget the requests so far."""
        self._ask("DELETE", "/log", self.clients)

    def fault(
        self,
        match: str,
        kind: str,
        *,
        times: int | None = 1,
        after: int = 0,
        status: int = 503,
        retry_after: int | None = None,
        rate: int = 65536,
    ) -> None:
        """Make the hub do wrong where the regular expression `match` finds something in "host/path?query".

        cut      close the connection after `after` bytes of the body
        stall    send `after` bytes of the body, then nothing
        corrupt  flip a bit pattern in the body from byte `after` on; its length stays
        slow     send the body at `rate` bytes a second
        status   answer `status`, with `retry_after` seconds when given
        dead     close the connection without an answer

        It happens `times` times (None: until cleared). The first four count only answers to GET with a body longer
        than `after`, so that a redirect or a HEAD before the download does not use them up.
        """
        settings = {"match": match, "kind": kind, "times": times, "after": after, "status": status}
        more = {"retry_after": retry_after, "rate": rate, "clients": self.clients}
        self._ask("POST", "/faults", settings | more)

    def clear_faults(self) -> None:
        """Do everything right again."""
        self._ask("DELETE", "/faults", self.clients)

    def tree_page(self, entries: int) -> None:
        """Set how many entries a page of a Hugging Face tree has (1000 on the real hub)."""
        self._ask("POST", "/tree-page", {"entries": entries})

    def status(self) -> dict[str, Any] | None:
        """Say what runs, or None."""
        try:
            status: dict[str, Any] = self._ask("GET", "/status")
        except (OSError, http.client.HTTPException):
            return None
        return status

    def _ask(self, method: str, path: str, content: object = None) -> Any:
        connection = _UnixConnection(self._socket)
        try:
            connection.request(method, path, json.dumps(content))
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"the hub refuses {method} {path}: {body.decode()}")
        return json.loads(body)


async def serve(state_dir: Path, address: str, http_port: int, tls_port: int) -> None:
    """Answer until told to stop."""
    artefacts.make_models(state_dir)
    keys.archive_keyring(state_dir)
    sites = Sites(state_dir)
    hub = Hub(sites.answer)
    here = run_dir(state_dir)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(keys.server_certificate(state_dir, sites.by_name))
    tls.set_alpn_protocols(["http/1.1"])

    async def administer(request: web.BaseRequest) -> web.StreamResponse:
        asked = json.loads(await request.read() or b"null")
        answer: Any = None
        match request.method, request.path:
            case "GET", "/status":
                answer = {"pid": os.getpid(), "address": [address, http_port, tls_port], "code": code, "names": names}
            case "GET", "/log":
                answer = hub.log()
            case "DELETE", "/log":
                hub.records = [record for record in hub.records if asked and record.client not in asked]
            case "POST", "/faults":
                try:
                    hub.faults.append(Fault(**asked))
                except Exception as error:
                    return web.Response(status=400, text=str(error))
            case "DELETE", "/faults":
                hub.faults = [fault for fault in hub.faults if asked and fault.clients != asked]
            case "POST", "/tree-page":
                sites.hugging_face.page = asked["entries"]
            case _:
                return web.Response(status=404, text="no such thing")
        return web.json_response(answer)

    code, names = _code_digest(), sorted(sites.by_name)
    # handler_cancellation: a client that leaves ends what was being sent to it.
    public = web.ServerRunner(
        web.Server(hub.handle, handler_cancellation=True, access_log=None), shutdown_timeout=SHUTDOWN_SECONDS
    )
    private = web.ServerRunner(web.Server(administer, access_log=None), shutdown_timeout=SHUTDOWN_SECONDS)
    await public.setup()
    await private.setup()
    for port, context in ((http_port, None), (tls_port, tls)):
        await web.SockSite(public, _listen(address, port), ssl_context=context).start()
    # Last: who can ask for the status finds the rest at work.
    here.mkdir(parents=True, exist_ok=True)
    (here / "admin.sock").unlink(missing_ok=True)
    await web.UnixSite(private, str(here / "admin.sock")).start()
    (here / "admin.sock").chmod(0o600)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    (here / "admin.sock").unlink(missing_ok=True)
    for runner in (public, private):
        await runner.cleanup()
    await sites.cache.close()


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    listener.bind((address, port))
    return listener


def main() -> None:
    """Run in the foreground."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed.hub", description="The fixture hub of the bed.")
    parser.add_argument("--state-dir", type=Path, default=default_state_dir())
    parser.add_argument("--address", default=ADDRESS)
    parser.add_argument("--http-port", type=int, default=80)
    parser.add_argument("--tls-port", type=int, default=443)
    asked = parser.parse_args()
    asyncio.run(serve(asked.state_dir, asked.address, asked.http_port, asked.tls_port))


if __name__ == "__main__":
    main()
