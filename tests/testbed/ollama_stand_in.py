#!/usr/bin/python3
"""A stand-in for Ollama, which cannot be had here: what metal2model and clients use of its command line and its API.

It keeps models as Ollama does, in manifests/ and blobs/ below OLLAMA_MODELS, pulls from registries, makes models from
Modelfiles, and answers without thinking. Written after docs/api.md, docs/modelfile.mdx, parser/parser.go and
server/create.go upstream; it runs on the host's own python3. Where it is stricter than Ollama it says so.

stand-in.json in lib/ollama tells it what to play: {"gpu": true} puts models into GPU memory that is not there,
{"create_seconds": 9} takes its time before a model is written.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = "0.0.0"  # replaced when it is packed
SPLITS = tuple(map(int, VERSION.split("."))) >= (0, 30, 0)
"""Takes split files, and writes each GGUF anew."""
REGISTRY = "registry.ollama.ai"
COMMANDS = {
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
}
ENVIRONMENT = {
    "OLLAMA_CONTEXT_LENGTH", "OLLAMA_DEBUG", "OLLAMA_FLASH_ATTENTION", "OLLAMA_GPU_OVERHEAD", "OLLAMA_HOST",
    "OLLAMA_KEEP_ALIVE", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_LLM_LIBRARY", "OLLAMA_LOAD_TIMEOUT",
    "OLLAMA_MAX_LOADED_MODELS", "OLLAMA_MAX_QUEUE", "OLLAMA_MODELS", "OLLAMA_MULTIUSER_CACHE", "OLLAMA_NOHISTORY",
    "OLLAMA_NOPRUNE", "OLLAMA_NO_CLOUD", "OLLAMA_NUM_PARALLEL", "OLLAMA_ORIGINS", "OLLAMA_REMOTES",
    "OLLAMA_SCHED_SPREAD", "OLLAMA_VULKAN",
}  # fmt: skip
"""Of ``ollama serve --help``. Ollama ignores others; the stand-in refuses them, so that a misspelt one is seen."""
PARAMETERS: dict[str, type] = {
    "num_ctx": int, "num_gpu": int, "num_thread": int, "num_predict": int, "repeat_last_n": int, "seed": int,
    "top_k": int, "repeat_penalty": float, "temperature": float, "top_p": float, "min_p": float, "stop": str,
}  # fmt: skip
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
KINDS = {"template": "template", "system": "system", "license": "license", "params": "params", "messages": "messages"}
Json = dict[str, Any]


class Failure(Exception):
    """What a person or a client is told."""


def played() -> Json:
    """Return what to play."""
    file = Path(__file__).resolve().parents[1] / "lib/ollama/stand-in.json"
    found: Json = json.loads(file.read_text()) if file.exists() else {}
    return found


# --- Modelfiles ------------------------------------------------------------------------------------------------------


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """Return the commands of a Modelfile with their values; of a parameter its name, of a message "role: content"."""
    commands: list[tuple[str, str]] = []
    while text := text.lstrip(" \t\r\n"):
        if text.startswith("#"):
            text = re.sub(r"[^\r\n]*", "", text, count=1)
            continue
        name, text = word(text)
        if name.lower() not in COMMANDS:
            raise Failure(f"command must be one of {sorted(COMMANDS)}, not {name!r}")
        name, role = name.lower(), ""
        if name == "parameter":
            name, text = word(text)
        elif name == "message":
            role, text = word(text)
            if role not in ("system", "user", "assistant"):
                raise Failure('message role must be one of "system", "user", or "assistant"')
        value, text = value_of(text)
        commands.append((name, f"{role}: {value}" if role else value))
    if not any(name == "from" for name, _ in commands):
        raise Failure("no FROM line")
    return commands


def word(text: str) -> tuple[str, str]:
    """Return a word, and what comes after the space that ends it."""
    found = re.match(r"([^ \t\r\n]+)[ \t]", text)
    if found is None:
        raise Failure("unexpected EOF")
    return found[1], text[found.end() :]


def value_of(text: str) -> tuple[str, str]:
    """Return a value, which ends with the first line at whose end its quotes are closed, and what comes after it."""
    for end in re.finditer(r"[\r\n]|\Z", text):
        kept = "".join(one for one in text[: end.start()] if one.isprintable() or one in "\t\r\n")
        value, closed = unquoted(kept.strip())
        if closed:
            return value, text[end.end() :]
    raise Failure("unexpected EOF")


def unquoted(text: str) -> tuple[str, bool]:
    """Return a value without its quotes, and whether it has an end."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return (text[len(quote) : -len(quote)], True) if closed else ("", False)
    return text, True


# --- The client ------------------------------------------------------------------------------------------------------


def address() -> tuple[str, int]:
    """Return where OLLAMA_HOST says that the server is."""
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    return host.strip("[]"), int(port)


def ask(method: str, path: str, body: Json | Path | None = None) -> Iterator[Json]:
    """Give the objects of an answer; a file is sent as it is."""
    connection = http.client.HTTPConnection(*address())
    try:
        if isinstance(body, Path):
            with body.open("rb") as file:
                connection.request(method, path, file, {"Content-Length": str(body.stat().st_size)})
        else:
            connection.request(method, path, json.dumps(body))
        response = connection.getresponse()
        if response.status >= 400 and method != "HEAD":
            raise Failure(json.loads(response.read()).get("error", response.reason))
        if method == "HEAD":
            yield {"status": response.status}
        for line in response:
            if line.strip():
                event: Json = json.loads(line)
                if "error" in event:
                    raise Failure(event["error"])
                yield event
    except OSError:
        raise Failure("could not connect to ollama server, run 'ollama serve' to start it") from None
    finally:
        connection.close()


def create(name: str, modelfile: str) -> None:
    """Make a model: send what the server does not have yet, then what to make of it."""
    request: Json = {"model": name, "parameters": {}, "files": {}, "adapters": {}, "messages": [], "license": []}
    for command, value in parse_modelfile(Path(modelfile).read_text("utf-8")):
        if command in ("from", "adapter"):
            path = Path(value)
            if path.is_file():
                request["files" if command == "from" else "adapters"][path.name] = send(path)
            elif command == "adapter" or value.startswith("/"):
                raise Failure(f"{value}: no such file or directory")
            else:
                request["from"] = value
        elif command == "message":
            role, _, content = value.partition(": ")
            request["messages"].append({"role": role, "content": content})
        elif command == "license":
            request["license"].append(value)
        elif command in ("template", "system"):
            request[command] = value
        elif command not in PARAMETERS:
            raise Failure(f"unknown parameter '{command}'")
        elif command == "stop":
            request["parameters"].setdefault("stop", []).append(value)
        else:
            request["parameters"][command] = PARAMETERS[command](value)
    for event in ask("POST", "/api/create", request):
        print(f"\x1b[2K\x1b[1G{event['status']}\x1b[K", file=sys.stderr)


def send(path: Path) -> str:
    """Have a file on the server, and return its digest."""
    digest = f"sha256:{file_digest(path)}"
    if next(ask("HEAD", f"/api/blobs/{digest}"))["status"] != 200:
        list(ask("POST", f"/api/blobs/{digest}", path))
    return digest


def file_digest(path: Path) -> str:
    """Return a file's sha256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# --- What is on disk -------------------------------------------------------------------------------------------------


class Store:
    """Models as Ollama keeps them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "manifests").mkdir(exist_ok=True)

    def blob(self, digest: str) -> Path:
        """Return where a blob is."""
        if not re.fullmatch(r"sha256[:-][0-9a-f]{64}", digest):
            raise Failure("invalid digest format")
        return self.root / "blobs" / digest.replace(":", "-")

    def manifest(self, name: str) -> Path:
        """Return where the manifest of a model is."""
        return self.root / "manifests" / Path(*parts(name))

    def names(self) -> list[str]:
        """Return the names of all models, as Ollama lists them."""
        found = (path.relative_to(self.root / "manifests").parts for path in self.root.glob("manifests/*/*/*/*"))
        return sorted(spelt(*path) for path in found if len(path) == 4)

    def read(self, name: str) -> Json:
        """Return a manifest."""
        try:
            found: Json = json.loads(self.manifest(name).read_text())
        except FileNotFoundError:
            raise Failure(f"model '{name}' not found") from None
        return found

    def layer(self, kind: str, content: bytes) -> Json:
        """Store a blob, and return the layer that names it."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if not self.blob(digest).exists():
            partial = self.blob(digest).with_name(f"new-{os.getpid()}-{threading.get_ident()}")
            partial.write_bytes(content)
            partial.rename(self.blob(digest))
        return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": len(content)}

    def write(self, name: str, layers: list[Json]) -> None:
        """Write a manifest, and drop what only its predecessor had."""
        config = self.layer("config", json.dumps({"model_format": "gguf", "layers": len(layers)}).encode())
        config["mediaType"] = "application/vnd.docker.container.image.v1+json"
        path = self.manifest(name)
        before = self.read(name) if path.exists() else {"layers": []}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}))
        self.drop(before["layers"])

    def delete(self, name: str) -> None:
        """Forget a model."""
        before = self.read(name)
        self.manifest(name).unlink()
        self.drop([*before["layers"], before["config"]])

    def drop(self, layers: list[Json]) -> None:
        """Remove those blobs of layers that no manifest names."""
        used = self.used()
        for layer in layers:
            if layer["digest"] not in used:
                self.blob(layer["digest"]).unlink(missing_ok=True)

    def used(self) -> set[str]:
        """Return the digests that manifests name."""
        return {
            layer["digest"]
            for name in self.names()
            for manifest in [self.read(name)]
            for layer in [*manifest["layers"], manifest["config"]]
        }

    def prune(self) -> None:
        """Remove all blobs that no manifest names."""
        used = {digest.replace(":", "-") for digest in self.used()}
        for path in (self.root / "blobs").iterdir():
            if path.name not in used:
                path.unlink()


def parts(name: str) -> tuple[str, str, str, str]:
    """Return registry, namespace, model and tag of a name."""
    path, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    words = path.split("/")
    if not 1 <= len(words) <= 3 or not all(re.fullmatch(r"[\w.:-]+", word, re.ASCII) for word in [*words, tag]):
        raise Failure(f"invalid model name: {name}")
    host, namespace, model = [REGISTRY, "library"][: 3 - len(words)] + words
    return host, namespace, model, tag


def spelt(host: str, namespace: str, model: str, tag: str) -> str:
    """Return a name without what goes without saying."""
    words = [
        *([host] if host != REGISTRY else []),
        *([namespace] if (host, namespace) != (REGISTRY, "library") else []),
    ]
    return "/".join([*words, f"{model}:{tag}"])


def made(store: Store, request: Json) -> Iterator[Json]:
    """Make a model, as server/create.go does."""
    name = request["model"]
    parts(name)
    layers: list[Json] = []
    if origin := request.get("from"):
        layers += store.read(origin)["layers"]
    elif request.get("files"):
        yield {"status": "parsing GGUF"}
        layers.append(store.layer("model", gguf(store, request["files"])))
    else:
        raise Failure("neither 'from' or 'files' was specified")
    for digest in request.get("adapters", {}).values():
        layers.append(store.layer("adapter", gguf(store, {"adapter.gguf": digest})))
    texts = {kind: request[kind].encode() for kind in ("template", "system") if request.get(kind)}
    if request.get("license"):
        texts["license"] = "\n".join(request["license"]).encode()
    if request.get("messages"):
        texts["messages"] = json.dumps(request["messages"]).encode()
    before = next((one for one in layers if one["mediaType"].endswith(".params")), None)
    given = json.loads(store.blob(before["digest"]).read_bytes()) if before else {}
    if given | request.get("parameters", {}):
        texts["params"] = json.dumps(given | request.get("parameters", {})).encode()
    for kind, content in texts.items():
        layers = [one for one in layers if not one["mediaType"].endswith(f".{kind}")]
        layers.append(store.layer(kind, content))
    deadline = time.monotonic() + played().get("create_seconds", 0)
    while time.monotonic() < deadline:
        yield {"status": "validating GGUF model"}
        time.sleep(0.05)
    yield {"status": "writing manifest"}
    store.write(name, layers)
    yield {"status": "success"}


def gguf(store: Store, files: dict[str, str]) -> bytes:
    """Return the one GGUF file that comes of some."""
    contents = {}
    for name, digest in sorted(files.items()):
        if not store.blob(digest).exists():
            raise Failure(f"blob {digest} not found")
        contents[name] = store.blob(digest).read_bytes()
        if not contents[name].startswith(b"GGUF"):
            raise Failure("only GGUF supported")
    shards = [SHARD.fullmatch(name) for name in contents]
    if len(contents) > 1 or any(shards):
        if not SPLITS:
            raise Failure("invalid file magic: split GGUF files are not supported")
        if not all(shard and int(shard[3]) == len(contents) for shard in shards):
            raise Failure(f"split GGUF has {len(contents)} shards: {', '.join(contents)}")
    # llama-quantize copies the file, with some metadata of its own.
    return b"".join(contents.values()) + (b"\0" * 32 if SPLITS else b"")


def pulled(store: Store, name: str) -> Iterator[Json]:
    """Pull a model from its registry; what has arrived of a blob is kept."""
    host, namespace, model, tag = parts(name)
    base = f"https://{host}/v2/{namespace}/{model}"
    yield {"status": "pulling manifest"}
    try:
        with urllib.request.urlopen(f"{base}/manifests/{tag}") as response:
            manifest = json.load(response)
        for layer in [*manifest["layers"], manifest["config"]]:
            blob = store.blob(layer["digest"])
            partial = blob.with_name(f"{blob.name}-partial")
            while not blob.exists():
                have = partial.stat().st_size if partial.exists() else 0
                request = urllib.request.Request(f"{base}/blobs/{layer['digest']}", headers={"Range": f"bytes={have}-"})
                with urllib.request.urlopen(request) as response, partial.open("ab") as file:
                    while piece := response.read(1 << 16):
                        file.write(piece)
                        have += len(piece)
                        yield {"status": f"pulling {layer['digest'][7:19]}", "digest": layer["digest"],
                               "total": layer["size"], "completed": have}  # fmt: skip
                if have < layer["size"]:
                    continue
                if f"sha256:{file_digest(partial)}" != layer["digest"]:
                    partial.unlink()
                    raise Failure("digest mismatch, file must be downloaded again")
                partial.rename(blob)
    except urllib.error.HTTPError as error:
        raise Failure(f"pull model manifest: {error.code}: file does not exist") from None
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"pull model manifest: {error}") from None
    yield {"status": "writing manifest"}
    store.write(name, manifest["layers"])
    yield {"status": "success"}


# --- The server ------------------------------------------------------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """The daemon."""

    daemon_threads = True

    def __init__(self, store: Store) -> None:
        host, port = address()
        self.address_family = 10 if ":" in host else 2  # AF_INET6, AF_INET
        self.store = store
        self.loaded: dict[str, int] = {}
        super().__init__((host, port), Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """The API."""

    server: Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def do_HEAD(self) -> None:
        exists = self.server.store.blob(self.path.rpartition("/")[2]).exists()
        self.send_response(200 if exists else 404)
        self.end_headers()

    def _answer(self, how: Any) -> None:
        try:
            result = how()
        except Failure as failure:
            self._json({"error": str(failure)}, 404 if "not found" in str(failure) else 400)
            return
        if isinstance(result, dict):
            self._json(result)

    def _json(self, content: Json, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: Iterator[Json]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        try:
            for event in events:
                self.wfile.write(json.dumps(event).encode() + b"\n")
        except Failure as failure:
            self.wfile.write(json.dumps({"error": str(failure)}).encode() + b"\n")

    def _body(self) -> Json:
        found: Json = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"{}")
        return found

    def _get(self) -> Json:
        store = self.server.store
        if self.path == "/api/version":
            return {"version": VERSION}
        if self.path == "/api/tags":
            return {"models": [self._listed(name) for name in store.names()]}
        if self.path == "/api/ps":
            on_gpu = played().get("gpu", False)
            loaded = self.server.loaded.items()
            return {"models": [{"name": name, "model": name, "size": size, "size_vram": size if on_gpu else 0}
                               for name, size in loaded]}  # fmt: skip
        if self.path == "/v1/models":
            return {"object": "list", "data": [{"id": name, "object": "model"} for name in store.names()]}
        raise Failure("404 page not found")

    def _listed(self, name: str) -> Json:
        store = self.server.store
        return {
            "name": name,
            "model": name,
            "size": sum(layer["size"] for layer in store.read(name)["layers"]),
            "digest": file_digest(store.manifest(name)),
        }

    def _post(self) -> Json | None:
        store = self.server.store
        if self.path.startswith("/api/blobs/"):
            digest = self.path.rpartition("/")[2]
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if hashlib.sha256(content).hexdigest() != digest.removeprefix("sha256:"):
                raise Failure("digest mismatch")
            store.layer("blob", content)
            self.send_response(201)
            self.end_headers()
            return None
        body = self._body()
        if self.path == "/api/create":
            self._stream(made(store, body))
            return None
        if self.path == "/api/pull":
            self._stream(pulled(store, body["model"]))
            return None
        if self.path == "/api/show":
            return self._shown(body["model"])
        if self.path in ("/api/chat", "/api/generate", "/v1/chat/completions"):
            return self._said(body)
        raise Failure("404 page not found")

    def _shown(self, name: str) -> Json:
        found: Json = {}
        for layer in self.server.store.read(name)["layers"]:
            kind = layer["mediaType"].rpartition(".")[2]
            if kind in KINDS:
                found[kind] = self.server.store.blob(layer["digest"]).read_text()
        parameters = json.loads(found.pop("params", "{}"))
        messages = json.loads(found.pop("messages", "[]"))
        return {**found, "messages": messages, "parameters": json.dumps(parameters)}

    def _said(self, body: Json) -> Json:
        name = body["model"]
        known = self._listed(spelt(*parts(name)))
        self.server.loaded[known["name"]] = known["size"]
        most = body.get("max_tokens") or body.get("options", {}).get("num_predict") or 8
        words = ["hello,", "this", "is", "a", "stand-in", "for", "Ollama", VERSION][:most]
        message = {"role": "assistant", "content": " ".join(words)}
        if self.path == "/api/generate":
            return {"model": name, "response": message["content"], "done": True, "eval_count": len(words)}
        if self.path == "/api/chat":
            return {"model": name, "message": message, "done": True, "eval_count": len(words)}
        usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": 1 + len(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"object": "chat.completion", "model": name, "choices": [choice], "usage": usage}

    def _delete(self) -> Json:
        self.server.store.delete(self._body()["model"])
        return {}


def serve() -> None:
    """Run the daemon."""
    unknown = sorted(name for name in os.environ if name.startswith("OLLAMA_") and name not in ENVIRONMENT)
    if unknown:
        raise Failure(f"the stand-in, unlike Ollama, refuses variables that Ollama does not have: {unknown}")
    home = Path(os.environ["HOME"])
    (home / ".ollama").mkdir(exist_ok=True)
    (home / ".ollama/id_ed25519").touch()
    store = Store(Path(os.environ.get("OLLAMA_MODELS") or home / ".ollama/models"))
    if os.environ.get("OLLAMA_NOPRUNE", "0") == "0":
        store.prune()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = Server(store)
    print(f"Listening on {os.environ.get('OLLAMA_HOST')} (version {VERSION}, a stand-in)", flush=True)
    server.serve_forever()


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    flags = [word for word in arguments if word.startswith("-") and word not in ("-f", "-v", "--version")]
    if flags:
        raise Failure(f"unknown flag: {flags[0]}")
    match arguments:
        case ["serve"]:
            serve()
        case ["create", name, "-f", modelfile]:
            create(name, modelfile)
        case ["pull", name]:
            list(ask("POST", "/api/pull", {"model": name}))
        case ["rm", *names]:
            for name in names:
                list(ask("DELETE", "/api/delete", {"model": name}))
        case ["list" | "ls"]:
            for model in next(ask("GET", "/api/tags"))["models"]:
                print(f"{model['name']}\t{model['digest'][:12]}\t{model['size']}")
        case ["-v" | "--version"]:
            print(f"ollama version is {VERSION}")
        case _:
            raise Failure(f"unknown command {arguments!r}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        sys.exit(f"Error: {failure}")
