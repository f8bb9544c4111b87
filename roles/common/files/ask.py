"""Ask sources for their first megabyte, on the host that would use them; reads only, and leaves nothing behind.

Runs on any Python 3.10 or newer, standard library alone. Argument: a JSON object with "sources", as
roles/common/sources.py describes them, "silence_seconds" and "total_seconds". Output: a JSON list in the same order.

All sources are asked for one byte at the same time. Those that give it are then asked for a megabyte one after the
other, since downloads side by side would measure each other.
"""

from __future__ import annotations

import base64
import functools
import http.client
import json
import os
import queue
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, parse_http_list, parse_keqv_list, proxy_bypass

MEGABYTE = 1 << 20
MEASURE_SECONDS = 5.0
"""At most; a source that sends nothing in the second half has stalled."""
REDIRECTS = 10
FEW_BYTES = 65536
"""Fewer come with the first round trip, and say nothing of the speed."""

Json = dict[str, Any]

PIP_INDEX = """
import glob, sys
try:
    import pip
except ImportError:  # Debian has it as a wheel, for new environments
    sys.path.append(sorted(glob.glob("/usr/share/python-wheels/pip-*.whl"))[-1])
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
settings = Configuration(isolated=False)
settings.load()
chosen = dict(settings.items())
for key in (":env:.index-url", "install.index-url", "global.index-url"):
    if key in chosen:
        found = chosen[key]
        print(found if isinstance(found, str) else found[-1])
        break
else:
    print(PyPI.simple_url)
"""


class Failed(Exception):
    """A source cannot be used."""

    def __init__(self, problem: str, detail: object = "") -> None:
        """``problem``: a key of roles/doctor/messages.py."""
        super().__init__(problem)
        self.problem, self.detail = problem, " ".join(str(detail).split())[:200]


class Source:
    """A source, and what is found out about it while it is asked."""

    def __init__(self, wanted: Json, silence: float) -> None:
        """``silence``: seconds that a step may take."""
        self.wanted = wanted
        self.silence = silence
        self.headers: dict[str, str] = {}
        self.url = ""
        """Where the bytes are, once that is known; it may hold a signature, and is never shown."""
        self.found: Json = {
            "problem": "late", "detail": "", "hosts": [], "proxy": "", "address": "", "resolve_ms": None,
            "connect_ms": None, "tls_ms": None, "answer_ms": None, "status": None, "retry_after": "", "bytes": 0,
            "kib_per_second": None, "unverified": False,
        }  # fmt: skip

    def reach(self) -> None:
        """Follow a source to where its bytes are, and have one of them."""
        wanted = self.wanted
        url = wanted["url"]
        if wanted["listing"]:
            url = self.listed()
        elif wanted["is_manifest"]:
            url = self.layer()
        self.url = url
        response = self.ask(url, "bytes=0-0")
        self.close(response)

    def measure(self, deadline: float) -> None:
        """Fetch the first megabyte, and look whether it is what it should be."""
        response = self.send(self.url, f"bytes=0-{MEGABYTE - 1}")
        if response.status not in (200, 206):
            self.refused(response)
        size = int(response.headers.get("Content-Length") or MEGABYTE)
        began = last = time.monotonic()
        enough = min(MEASURE_SECONDS, self.silence)
        until = min(began + enough, deadline)
        content = bytearray()
        while len(content) < min(size, MEGABYTE):
            now = time.monotonic()
            if now >= until:
                break
            self.socket.settimeout(until - now)
            try:
                piece = response.read1(min(65536, MEGABYTE - len(content)))
            except TimeoutError:
                break
            except (OSError, http.client.HTTPException) as error:
                raise Failed("cut", f"{len(content) >> 10} KiB") from error
            if not piece and "Content-Length" in response.headers:
                raise Failed("cut", f"{len(content) >> 10} KiB")
            if not piece:
                break
            content += piece
            last = time.monotonic()
        self.close(response)
        self.found["bytes"] = len(content)
        if len(content) < min(size, MEGABYTE) and time.monotonic() - last > enough / 2:
            raise Failed("stalled", f"{len(content) >> 10} KiB")
        kind = response.headers.get("Content-Type", "")
        shows = b"" if self.wanted["listing"] else self.wanted["shows"].encode()
        if shows not in content or (not shows and kind.startswith("text/html")):
            raise Failed("content", kind)
        seconds = time.monotonic() - began
        if len(content) >= FEW_BYTES or seconds >= enough:
            self.found["kib_per_second"] = round(len(content) / 1024 / max(seconds, 0.001))

    def listed(self) -> str:
        """Look up the file's name in the page that has it."""
        wanted = self.wanted
        page = wanted["listing"]
        if page == "pip:":
            page = f"{pip_index().rstrip('/')}/pip/"
        self.url = page
        text = self.read(self.ask(page, f"bytes=0-{MEGABYTE - 1}")).decode(errors="replace")
        if wanted["shows"] not in text:
            raise Failed("content", "InRelease" if wanted["kind"] == "apt" else "")
        names = re.findall(wanted["pattern"], text)
        fit = [name for name in names if any(fnmatchcase(name, glob) for glob in wanted["files"])]
        if not fit:
            raise Failed("listing", ", ".join(wanted["files"]))
        return str(wanted["url"]) + quote(fit[-1]) if wanted["url"] else urljoin(self.url, fit[-1])

    def layer(self) -> str:
        """
        Go from an image's manifest to its largest layer.

        https://distribution.github.io/distribution/spec/api/ and .../spec/auth/token/, without an account.
        """
        url = self.wanted["url"]
        accepted = ("docker.distribution.manifest.list.v2", "docker.distribution.manifest.v2",
                    "oci.image.index.v1", "oci.image.manifest.v1")  # fmt: skip
        self.headers = {"Accept": ", ".join(f"application/vnd.{kind}+json" for kind in accepted)}
        for _ in range(4):
            response = self.ask(url, "", allowed=(401,))
            if response.status == 401:
                self.token(response)
                continue
            try:
                manifest = json.loads(self.read(response))
                if "manifests" in manifest:
                    digest = platform(manifest["manifests"])["digest"]
                    url = f"{url.rpartition('/')[0]}/{digest}"
                    continue
                largest = str(max(manifest["layers"], key=lambda layer: layer["size"])["digest"])
            except (ValueError, KeyError, TypeError) as error:
                raise Failed("content", f"{type(error).__name__} {error}") from error
            self.headers.pop("Accept")
            return f"{url.rpartition('/manifests/')[0]}/blobs/{largest}"
        raise Failed("login", "HTTP 401")

    def token(self, response: http.client.HTTPResponse) -> None:
        """Have the registry's token server give what lets everybody read."""
        self.close(response)
        scheme, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        fields = parse_keqv_list(parse_http_list(rest)) if rest else {}
        if scheme.lower() != "bearer" or "realm" not in fields or "Authorization" in self.headers:
            raise Failed("login", "HTTP 401")
        query = "&".join(f"{key}={quote(fields[key])}" for key in ("service", "scope") if key in fields)
        kept, self.headers = self.headers, {}
        hosts = list(self.found["hosts"])
        answer = json.loads(self.read(self.ask(f"{fields['realm']}?{query}", "")))
        self.found["hosts"] = hosts  # who gives tokens does not send the bytes
        self.headers = {**kept, "Authorization": f"Bearer {answer.get('token') or answer.get('access_token')}"}

    def ask(self, url: str, part: str, allowed: tuple[int, ...] = ()) -> http.client.HTTPResponse:
        """GET with all redirects; what is not shown to another host than the first is left out there."""
        for _ in range(REDIRECTS):
            response = self.send(url, part)
            location = response.headers.get("Location", "")
            if response.status in (301, 302, 303, 307, 308) and location:
                self.close(response)
                following = urljoin(url, location)
                if urlsplit(following).netloc != urlsplit(url).netloc:
                    self.headers.pop("Authorization", None)
                self.url = url = following
                continue
            if response.status not in (200, 206, *allowed):
                self.refused(response)
            return response
        raise Failed("redirects")

    def refused(self, response: http.client.HTTPResponse) -> None:
        """Raise what a status means."""
        self.found["retry_after"] = response.headers.get("Retry-After", "")
        self.close(response)
        meanings = {401: "login", 403: "login", 404: "missing", 410: "missing", 429: "busy", 503: "busy"}
        raise Failed(meanings.get(response.status, "status"), f"HTTP {response.status} {response.reason}")

    def send(self, url: str, part: str) -> http.client.HTTPResponse:
        """Send one GET; say in which step it failed."""
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        if parts.scheme not in ("http", "https") or not host:
            raise Failed("redirects", f"{parts.scheme or 'no scheme'}")
        if not self.found["hosts"] or self.found["hosts"][-1] != host:
            self.found["hosts"].append(host)
        port = parts.port or (443 if secure else 80)
        proxy = proxy_for(url, self.wanted["client"])
        headers = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": "metal2model", "Accept-Encoding": "identity",
                   "Connection": "close", **self.headers}  # fmt: skip
        if part:
            headers["Range"] = part
        if parts.username:
            headers["Authorization"] = basic(parts.username, parts.password)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # The error's own words may name a proxy with its password: only ours are shown.
        if proxy is None:
            self.socket = self.connected(host, port)
        else:
            login = self.to_proxy(proxy)
            if secure:
                self.tunnel(host, port, login)
            else:
                headers.update(login)
                target = f"http://{headers['Host']}{target}"
        if secure:
            self.secured(host)
        response = self.answer(target, headers)
        if proxy and response.status == 407:
            raise Failed("proxy", "HTTP 407")
        return response

    def to_proxy(self, proxy: Any) -> dict[str, str]:
        """Connect to a proxy, and return the header with the login that it may want."""
        name, port = proxy.hostname or "", proxy.port or 80
        self.found["proxy"] = f"{name}:{port}"
        self.socket = self.connected(name, port)
        return {"Proxy-Authorization": basic(proxy.username, proxy.password)} if proxy.username else {}

    def answer(self, target: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Ask over the connection, and wait for the answer."""
        began = time.monotonic()
        try:
            connection = http.client.HTTPConnection("")
            connection.sock = self.socket
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
        except TimeoutError as error:
            raise Failed("silent", f"{self.silence:g} s") from error
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLError) as error:
            raise Failed("cut", "0 KiB") from error
        except http.client.HTTPException as error:
            raise Failed("content", type(error).__name__) from error
        self.found["answer_ms"] = since(began)
        self.found["status"] = response.status
        return response

    def connected(self, host: str, port: int) -> socket.socket:
        """Resolve a name, and connect to the first of its addresses that answers."""
        try:
            known, self.found["resolve_ms"] = addresses(host, port)
        except (OSError, UnicodeError) as error:
            raise Failed("resolve", getattr(error, "strerror", None) or error) from error
        why: list[str] = []
        for family, address in known:
            began = time.monotonic()
            attempt = socket.socket(family, socket.SOCK_STREAM)
            attempt.settimeout(self.silence)
            try:
                attempt.connect(address)
            except TimeoutError:
                why.append(f"{address[0]}: no answer in {self.silence:g} s")
            except OSError as error:
                why.append(f"{address[0]}: {error.strerror or error}")
            else:
                self.found.update(address=address[0], connect_ms=since(began))
                return attempt
            attempt.close()
        raise Failed("connect", "; ".join(why))

    def tunnel(self, host: str, port: int, login: dict[str, str]) -> None:
        """Have the proxy connect: https://www.rfc-editor.org/rfc/rfc9110#name-connect."""
        lines = [f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}", *(f"{k}: {v}" for k, v in login.items())]
        try:
            self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
            answer = http.client.HTTPResponse(self.socket, method="CONNECT")
            answer.begin()
        except (OSError, http.client.HTTPException) as error:
            raise Failed("proxy", type(error).__name__) from error
        if answer.status != 200:
            raise Failed("proxy", f"HTTP {answer.status}")

    def secured(self, host: str) -> None:
        """Begin TLS. Where the host has no authorities yet, others than apt will have them when their turn comes."""
        context, has_authorities = authorities()
        if not has_authorities:
            if self.wanted["client"] == "apt":
                raise Failed("authorities")
            self.found["unverified"] = True
        began = time.monotonic()
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        except TimeoutError as error:
            raise Failed("tls", f"no answer in {self.silence:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise Failed("certificate", error.verify_message) from error
        except OSError as error:  # ssl.SSLError is one
            raise Failed("tls", getattr(error, "reason", None) or error.strerror or type(error).__name__) from error
        self.found["tls_ms"] = since(began)

    def read(self, response: http.client.HTTPResponse) -> bytes:
        """Return a page of at most a megabyte."""
        try:
            content = response.read(MEGABYTE)
        except TimeoutError as error:
            raise Failed("stalled", "0 KiB") from error
        except (OSError, http.client.HTTPException) as error:
            raise Failed("cut", "0 KiB") from error
        self.close(response)
        return content

    def close(self, response: http.client.HTTPResponse) -> None:
        """End the connection, whatever is still on its way."""
        response.close()
        self.socket.close()

    def give_up(self) -> None:
        """Leave no server waiting on a connection for the rest of a question: it may serve one after the other."""
        if hasattr(self, "socket"):
            self.socket.close()


def since(began: float) -> float:
    """Return milliseconds."""
    return round((time.monotonic() - began) * 1000, 1)


def basic(user: str, password: str | None) -> str:
    """Spell a login as https://www.rfc-editor.org/rfc/rfc7617 has it."""
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


@functools.cache
def addresses(host: str, port: int) -> tuple[list[tuple[int, Any]], float]:
    """Resolve a name, once; return what it is, and the milliseconds that it took."""
    began = time.monotonic()
    found: list[tuple[int, Any]] = [(one[0], one[4]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    return found, since(began)


@functools.cache
def authorities() -> tuple[ssl.SSLContext, bool]:
    """Return how to begin TLS, and whether the host has certificates of authorities at all."""
    paths = ssl.get_default_verify_paths()
    context = ssl.create_default_context()
    if paths.cafile or (paths.capath and any(os.scandir(paths.capath))):
        return context, True
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context, False


def platform(manifests: list[Json]) -> Json:
    """Return the manifest of an image for this machine; the first one, where none says so."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    fit = [one for one in manifests if one.get("platform", {}).get("architecture") == machine]
    return (fit or manifests)[0]


@functools.cache
def pip_index() -> str:
    """Return the index that pip on this host would use."""
    asked = subprocess.run([sys.executable, "-B", "-c", PIP_INDEX], capture_output=True, text=True, check=False)
    if asked.returncode != 0 or not asked.stdout.strip():
        raise Failed("pip")
    return asked.stdout.strip()


@functools.cache
def apt_settings() -> dict[str, str]:
    """Return what apt is told about proxies (apt-transport-http(1)): key, lower case -> value."""
    asked = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False)
    lines = re.findall(r'^Acquire::(https?::proxy\S*) "(.*)";$', asked.stdout, re.MULTILINE | re.IGNORECASE)
    return {key.lower(): value for key, value in lines}


def proxy_for(url: str, client: str) -> Any:
    """Return the proxy that a program on this host would use, None for none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    chosen = apt_proxy(url, parts.scheme, host) if client == "apt" else ""
    if not chosen and not proxy_bypass(host):
        chosen = getproxies().get(parts.scheme, "") or getproxies().get("all", "")
    if not chosen or chosen.upper() == "DIRECT":
        return None
    proxy = urlsplit(chosen if "://" in chosen else f"http://{chosen}")
    if proxy.scheme != "http":
        raise Failed("proxy_kind", proxy.scheme)
    return proxy


def apt_proxy(url: str, scheme: str, host: str) -> str:
    """Return apt's own proxy, "DIRECT" or "": that of the host, then the detected one, then the general one."""
    settings = apt_settings()
    for kind in dict.fromkeys((scheme, "http")):
        if found := settings.get(f"{kind}::proxy::{host}"):
            return found
    for kind in dict.fromkeys((scheme, "http")):
        program = settings.get(f"{kind}::proxy-auto-detect") or settings.get(f"{kind}::proxyautodetect")
        if program:
            said = subprocess.run(
                [program, url], capture_output=True, text=True, timeout=10, check=False
            ).stdout.strip()
            if said:
                return said
        if found := settings.get(f"{kind}::proxy"):
            return found
    return ""


def attempt(source: Source, step: Any, *arguments: Any) -> bool:
    """Do a step; what goes wrong is the source's finding."""
    try:
        step(*arguments)
    except Failed as error:
        source.found.update(problem=error.problem, detail=error.detail)
    except Exception as error:
        # One source that does what nobody foresaw must not cost the findings of the others.
        source.found.update(problem="unforeseen", detail=type(error).__name__)
    else:
        return True
    source.give_up()
    return False


def main() -> None:
    """Ask all sources, until the time is up."""
    wanted = json.loads(sys.argv[1])
    sources = [Source(one, wanted["silence_seconds"]) for one in wanted["sources"]]
    deadline = time.monotonic() + wanted["total_seconds"]
    reached: queue.SimpleQueue[tuple[bool, Source]] = queue.SimpleQueue()
    for source in sources:
        # Daemons: a name server that is silent holds a thread for longer than anybody waits.
        threading.Thread(target=lambda s: reached.put((attempt(s, s.reach), s)), args=(source,), daemon=True).start()
    waiting = len(sources)
    ready: list[Source] = []
    while (waiting or ready) and time.monotonic() < deadline:
        try:
            while waiting:
                good, source = reached.get(block=not ready, timeout=max(deadline - time.monotonic(), 0.01))
                waiting -= 1
                if good:
                    source.found["problem"] = "unmeasured"
                    ready.append(source)
        except queue.Empty:
            pass
        if ready:
            # What the declaration uses comes first, should the time not suffice.
            ready.sort(key=lambda one: not one.wanted["declared"])
            source = ready.pop(0)
            if attempt(source, source.measure, deadline):
                source.found["problem"] = ""
    print(json.dumps([source.found for source in sources]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
