# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store.py.
"""
Have model files on this host: complete, verified, root's and read-only.

Run on the host as root by the role's one operation (roles/models/operations.py); SPEC is a file in JSON:

    store.py SPEC check               what is not as wanted, as one line of JSON; reads only, hashes nothing
    store.py SPEC environment CLIENT  have the virtual environment of a hub's client
    store.py SPEC plan GROUP          read the hub's listing of what is wanted, once, and write it down
    store.py SPEC space               compare what is to come with what is free, before the first byte
    store.py SPEC fetch GROUP         download, verify, place

GROUP is ``huggingface`` or ``modelscope``, run by the Python of that client's environment, or ``plain`` (URLs and
paths), run by the host's own. A model's manifest in STATE holds what was asked, the revision that this meant, and for
each file size and digest, and once it stands in its place what stat said of it. So a later run compares stat alone,
and a killed one goes on. A partial file is named after the digest that it shall have: it can only be continued with
the same content, whatever the hub calls it by then.

Python 3.10 and its standard library; a hub's client is imported only by the commands of its group. Exit status 1
and lines on standard error when something could not be done; what can be done for other models is done before.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import fnmatch
import hashlib
import importlib
import json
import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/metal2model/models")
OWNER = (0, 0)
"""User and group of every model: root."""
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PIECE = 1 << 20
PROGRESS_SECONDS = 10.0
TIMEOUT_SECONDS = 30
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")

Json = dict[str, Any]
Listed = tuple[str, list[Json]]
"""The revision that was meant, and the files: name, size, sha256 or git_sha1."""


class Refused(Exception):
    """Something cannot be had, and trying again would not help; the message says what to do."""


class Short(Exception):
    """A download ended before the file did."""


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    os.umask(0o022)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    path, command, *group = arguments
    spec: Json = json.loads(Path(path).read_text("utf-8"))
    if command == "check":
        print(json.dumps(check(spec)))
        return 0
    commands: dict[str, Callable[..., list[str]]] = {
        "environment": environment,
        "plan": plan,
        "space": space,
        "fetch": fetch,
    }
    with only_one():
        problems = commands[command](spec, *group)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


# What is there


def check(spec: Json) -> Json:
    """Return for each client and each model what is not as wanted, None when all is."""
    return {
        "installed": True,
        "clients": {name: client_problem(client) for name, client in spec["clients"].items()},
        "models": {model["name"]: model_problem(spec, model) for model in spec["models"]},
    }


def model_problem(spec: Json, model: Json) -> str | None:
    """Return why a model is not known to be complete and verified, None when it is."""
    if model["source"] == "path" and model["sha256"] is None:
        return path_problem(model)
    manifest = read_manifest(model)
    if manifest is None:
        return "nothing is known of it yet"
    for entry in manifest["files"]:
        if entry["stat"] is None:
            return f"{entry['name']} is not there yet"
        if entry["stat"] != stat_of(entry["path"]):
            return f"{entry['name']} changed since it was verified"
        if model["source"] != "path" and (problem := rights_problem(spec, Path(entry["path"]))):
            return problem
    return None


def path_problem(model: Json) -> str | None:
    """Return why the path that the user named is no model, None when it looks like one."""
    path = Path(model["path"])
    if path.is_dir():
        if any(path.glob("*.gguf")) or (path / "config.json").is_file():
            return None
        return f"{path} is a directory without config.json and without a .gguf file"
    if not path.is_file():
        return f"{path} does not exist on this host"
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        return f"{path} is no GGUF file: it begins with {magic!r}, not b'GGUF'"
    if match := SHARD.fullmatch(path.name):
        for name in shards(match):
            if not (path.parent / name).is_file():
                return f"{path} is one of {int(match[3])} parts, and {name} is not beside it"
    return None


def shards(match: re.Match[str]) -> list[str]:
    """Return the names of all parts of a split GGUF (llama.cpp, tools/gguf-split)."""
    return [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def stat_of(path: str | Path) -> list[int] | None:
    """Return size, mtime, ctime (nanoseconds) and inode of a regular file; ctime tells of any change, even of times."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def rights_problem(spec: Json, path: Path) -> str | None:
    """Return whose or which mode is wrong, of a file or of the directories between the models directory and it."""
    for place, mode in [(path, 0o444), *((parent, 0o755) for parent in parents_below(spec, path))]:
        if rights_of(place) != (OWNER, mode):
            return f"{place} is not root:root {mode:04o}"
    return None


def rights_of(path: Path) -> tuple[tuple[int, int], int]:
    """Return owner and mode."""
    found = path.stat()
    return (found.st_uid, found.st_gid), found.st_mode & 0o7777


def parents_below(spec: Json, path: Path) -> list[Path]:
    """Return the directories above a path that lie in the models directory, outermost first."""
    top = Path(spec["directory"])
    return [parent for parent in reversed(path.parents) if top in parent.parents]


# Manifests


def manifest_path(model: Json) -> Path:
    """Return where the manifest of a model stands."""
    return STATE / f"{model['name']}.json"


def read_manifest(model: Json, *, of_any_request: bool = False) -> Json | None:
    """Return the manifest of what is asked now; with ``of_any_request`` also one of what was asked before."""
    try:
        manifest: Json = json.loads(manifest_path(model).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if of_any_request or manifest["request"] == request_of(model) else None


def request_of(model: Json) -> Json:
    """Return what identifies a request: what is set, so that a later version with more options asks for the same."""
    return {key: value for key, value in model.items() if value}


def write_manifest(model: Json, manifest: Json) -> None:
    """Replace a manifest, whole or not at all."""
    whole = {**manifest, "written_by": "metal2model, role models", "request": request_of(model)}
    write_whole(manifest_path(model), json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Have a file with this text even after a power cut, or the one that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Wait for any other run; children hold the lock too, so one that outlives a killed run is waited for."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("a+") as lock:
        os.set_inheritable(lock.fileno(), True)
        waited = 0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % 30 == 0:
                    say("models: another run works on the models of this host; waiting for it")
                time.sleep(1)
                waited += 1
        yield


def say(text: str) -> None:
    """Print a line of progress. It fails when nobody listens any more, and that ends the run: the next one goes on."""
    print(text, flush=True)


# The clients' environments


def client_problem(client: Json) -> str | None:
    """Return why the environment of a client cannot be used, None when it can."""
    home = Path(client["root"], client["version"])
    try:
        marker = json.loads((home / ".complete").read_text("utf-8"))
    except (OSError, ValueError):
        return "is not installed"
    if marker != client_marker(client):
        return "was made by another Python or from other requirements"
    if not os.access(home / "bin/python", os.X_OK):
        return "has no Python"
    current = Path(client["root"], "current")
    if not current.is_symlink() or current.readlink() != Path(client["version"]):
        return "is not current"
    return None


def client_marker(client: Json) -> Json:
    """Return what a complete environment says of itself: it is bound to the minor version of the host's Python."""
    requirements = hashlib.sha256(Path(client["requirements"]).read_bytes()).hexdigest()
    return {"requirements": requirements, "python": host_python()}


def host_python() -> str:
    """Return the minor version of the host's own python3, "3.12"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def environment(spec: Json, name: str) -> list[str]:
    """
    Have the virtual environment of a hub's client; it counts only once its marker stands, so a killed one is redone.

    pip uses the host's own configuration (the mirrors role writes it) and takes only what the hashes allow.
    """
    client = spec["clients"][name]
    if client_problem(client) is None:
        return []
    home = Path(client["root"], client["version"])
    say(f"models: installing {client['package']} {client['version']} into {home}")
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off"]
    only = ["--require-hashes", "--no-deps", "--only-binary=:all:", "-r", client["requirements"]]
    steps = [
        [sys.executable, "-m", "venv", str(home)],
        [str(home / "bin/python"), "-m", "pip", "install", *quiet, *only],
        [str(home / "bin/python"), "-c", f"import {client['module']}"],
    ]
    # An older pip brings its own list of authorities; the host's has the company's. pip.conf's `cert` goes before it.
    settings = {**os.environ, "REQUESTS_CA_BUNDLE": CA_BUNDLE} if Path(CA_BUNDLE).exists() else dict(os.environ)
    for step in steps:
        done = subprocess.run(
            step, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, close_fds=False
        )
        if done.returncode:
            output = done.stdout.decode("utf-8", "replace").strip()
            return [
                output,
                f"models/hub: the client {client['package']} {client['version']} could not be installed into {home}: "
                f"{' '.join(step[:4])} ... ended with {done.returncode}, see above. It is needed to read what the hub "
                f"lists. Check that python3-venv is installed and that pip reaches an index (mirrors), then run again.",
            ]
    write_whole(home / ".complete", json.dumps(client_marker(client)))
    link = home.parent / "current.part"
    link.unlink(missing_ok=True)
    link.symlink_to(client["version"])
    link.replace(home.parent / "current")
    return []


# The hubs


class Hub:
    """Where models come from: lists a repository, and continues a partial file."""

    def listing(self, model: Json, revision: str) -> Listed:
        """Return the revision that is meant and the files of the repository."""
        raise NotImplementedError

    def get(self, model: Json, manifest: Json, entry: Json, part: Path) -> None:
        """Continue ``part`` until it has all bytes; raise on any interruption."""
        raise NotImplementedError

    def watched(self, entry: Json, part: Path) -> Path:
        """Return the file that grows during `get`."""
        return part

    def explain(self, model: Json, revision: str, error: Exception) -> str:
        """Return what went wrong, when another attempt may help; else raise `Refused`."""
        raise NotImplementedError


class HuggingFace(Hub):
    """
    Hugging Face and its mirrors, by huggingface_hub 2.4.

    Since 1.0 `hf_hub_download` begins every file anew after a kill (its temporary name is random), so this calls the
    client's own `http_get` with our file and offset. Xet is off: it keeps no file that could be continued.
    """

    def __init__(self, client: Json) -> None:
        """Set what the client reads from its environment when it is imported."""
        self.endpoint = client["endpoint"]
        self.told: set[str] = set()
        os.environ.update(
            HF_ENDPOINT=self.endpoint,
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HUB_DISABLE_IMPLICIT_TOKEN="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            HF_HUB_VERBOSITY="warning",
            HF_HUB_DOWNLOAD_TIMEOUT=str(TIMEOUT_SECONDS),
            HF_HUB_ETAG_TIMEOUT=str(TIMEOUT_SECONDS),
        )
        client_of = importlib.import_module
        self.errors, self.utils = client_of("huggingface_hub.errors"), client_of("huggingface_hub.utils")
        self.files = client_of("huggingface_hub.file_download")
        constants: Any = client_of("huggingface_hub.constants")
        constants.DOWNLOAD_CHUNK_SIZE = PIECE  # 10 MiB at first: a cut loses the piece that it falls into
        self.api = client_of("huggingface_hub").HfApi(endpoint=self.endpoint, token=False, library_name="metal2model")

    def listing(self, model: Json, revision: str) -> Listed:
        """Resolve the revision to a commit; the listing has sha256 for large files, git's own digest for small ones."""
        commit: str = self.api.model_info(model["repo"], revision=revision).sha
        files = []
        for item in self.api.list_repo_tree(model["repo"], recursive=True, revision=commit):
            if not hasattr(item, "blob_id"):
                continue  # a folder
            digest = {"sha256": item.lfs.sha256} if item.lfs else {"git_sha1": item.blob_id}
            files.append({"name": item.path, "size": item.size, **digest})
        return commit, files

    def get(self, model: Json, manifest: Json, entry: Json, part: Path) -> None:
        """Ask where the bytes are, say so when that is another host, and continue there."""
        url = self.files.hf_hub_url(model["repo"], entry["name"], revision=manifest["revision"], endpoint=self.endpoint)
        found = self.files.get_hf_file_metadata(url, token=False, timeout=TIMEOUT_SECONDS, endpoint=self.endpoint)
        host = urllib.parse.urlsplit(found.location).netloc
        if host != urllib.parse.urlsplit(self.endpoint).netloc and host not in self.told:
            self.told.add(host)
            say(f"models: {self.endpoint} sends downloads to {host}")
        with part.open("ab") as file:
            try:
                self.files.http_get(
                    found.location,
                    file,
                    resume_size=file.tell(),
                    headers=self.utils.build_hf_headers(token=False, library_name="metal2model"),
                    expected_size=entry["size"],
                    _nb_retries=0,
                )
            except (OSError, ValueError, self.errors.HfHubHTTPError):
                raise
            except Exception as error:  # the network's, by the HTTP library under the client
                raise ConnectionError(f"{host}: {cause_of(error)}") from error

    def explain(self, model: Json, revision: str, error: Exception) -> str:
        """Tell what the hub refused from what the network lost."""
        repo = model["repo"]
        if isinstance(error, self.errors.GatedRepoError):
            raise Refused(gated(repo, self.endpoint)) from error
        if isinstance(error, self.errors.RepositoryNotFoundError):
            raise Refused(no_repository(repo, self.endpoint)) from error
        if isinstance(error, self.errors.RevisionNotFoundError):
            raise Refused(no_revision(model, revision, self.endpoint, "main")) from error
        if isinstance(error, self.errors.HfHubHTTPError):
            return by_status(error.response.status_code, repo, self.endpoint, cause_of(error))
        if isinstance(error, ConnectionError) and self.told and str(error).split(":")[0] in self.told:
            return (
                f"{error}. The bytes come from there, not from {self.endpoint}: where only the latter can be "
                f"reached, use hub: 'modelscope' or an endpoint that mirrors the files too"
            )
        return f"{self.endpoint}: {cause_of(error)}"


class ModelScope(Hub):
    """
    ModelScope, by modelscope_hub 0.5 (what the package modelscope 1.40 calls).

    It continues its own ``.incomplete`` file, in one stream (its default; with several, a kill while it joins the
    parts loses them), and walks the directories where the hub cuts a listing at 3000 files.
    """

    def __init__(self, client: Json) -> None:
        """Set what the client reads from its environment when it is imported: one attempt, no bars, no deadline."""
        self.endpoint = client["endpoint"]
        os.environ.update(
            MODELSCOPE_CACHE=str(STATE / "modelscope"),
            MODELSCOPE_DOWNLOAD_PARALLEL_WORKERS="1",
            MODELSCOPE_DOWNLOAD_MAX_RETRIES="0",
            MODELSCOPE_DOWNLOAD_TIMEOUT=str(TIMEOUT_SECONDS),
            MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT=str(30 * 86400),
            TQDM_DISABLE="1",
        )
        if Path(CA_BUNDLE).exists():
            os.environ.setdefault("REQUESTS_CA_BUNDLE", CA_BUNDLE)
        self.errors = importlib.import_module("modelscope_hub.errors")
        self.api = importlib.import_module("modelscope_hub").HubApi(endpoint=self.endpoint)

    def listing(self, model: Json, revision: str) -> Listed:
        """The hub names no commit for a branch: the digests that are written down pin the content."""
        files = []
        for item in self.api.list_repo_files(model["repo"], "model", revision=revision):
            if item.type == "tree":
                continue
            if not item.sha256:
                raise Refused(
                    f"{self.endpoint} lists no sha256 for {item.path} of {model['repo']}. It is required, because "
                    f"what cannot be verified is not installed. Take another repository or hub"
                )
            files.append({"name": item.path, "size": item.size, "sha256": item.sha256})
        return revision, files

    def get(self, model: Json, manifest: Json, entry: Json, part: Path) -> None:
        """Let the client continue in a directory of its own, then take the file."""
        folder = self._folder(part)
        self.api.download_file(
            model["repo"],
            "model",
            entry["name"],
            revision=manifest["revision"],
            local_dir=folder,
            file_size=entry["size"],
        )
        (folder / entry["name"]).replace(part)
        shutil.rmtree(folder)

    def watched(self, entry: Json, part: Path) -> Path:
        """Return the client's own partial file."""
        place = Path(self._folder(part), entry["name"])
        return place.with_suffix(place.suffix + ".incomplete")

    @staticmethod
    def _folder(part: Path) -> Path:
        return part.with_name(part.name + ".modelscope")

    def explain(self, model: Json, revision: str, error: Exception) -> str:
        """Tell what the hub refused from what the network lost."""
        repo = model["repo"]
        if isinstance(error, self.errors.NotExistError):  # of the repository or of the revision, it does not say
            text = no_repository(repo, self.endpoint)
            raise Refused(f"{text}. Or {no_revision(model, revision, self.endpoint, 'master')}") from error
        if isinstance(error, (self.errors.AuthenticationError, self.errors.PermissionDeniedError)):
            raise Refused(gated(repo, self.endpoint)) from error
        status = getattr(error, "status_code", None)
        return by_status(int(status or 0), repo, self.endpoint, cause_of(error))


class Plain(Hub):
    """One file at a URL, by the standard library: https://www.rfc-editor.org/rfc/rfc9110#name-range-requests."""

    def listing(self, model: Json, revision: str) -> Listed:
        """Ask for one byte to learn the size; the digest is the option's."""
        with self._open(model["url"], {"Range": "bytes=0-0"}) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status == 200:
                total = answer.headers.get("Content-Length", "")
        size = int(total) if total.isdigit() else None
        return "", [{"name": model["file"], "size": size, "sha256": model["sha256"]}]

    def get(self, model: Json, manifest: Json, entry: Json, part: Path) -> None:
        """Continue while the server's validator is the same; begin anew when it is not, or ranges are not served."""
        validator = part.with_name(part.name + ".validator")
        offset = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and validator.exists():
            headers["If-Range"] = validator.read_text("utf-8")
        if offset and offset == entry["size"]:
            return
        with self._open(model["url"], headers) as answer:
            begin = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            resumed = answer.status == 206 and begin == str(offset)
            if offset and not resumed:
                say(f"models/wanted/{model['name']}: the server begins anew (HTTP {answer.status})")
            tag = answer.headers.get("ETag", "")
            validator.write_text(tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", ""))
            if not validator.stat().st_size:
                validator.unlink()
            with part.open("ab" if resumed else "wb") as file:
                while piece := answer.read(PIECE):
                    file.write(piece)

    def explain(self, model: Json, revision: str, error: Exception) -> str:
        """Tell what the server refused from what the network lost."""
        if isinstance(error, urllib.error.HTTPError):
            if error.code in (401, 403, 404, 410):
                raise Refused(
                    f"{model['url']} answers HTTP {error.code} ({error.reason}). Check the address in a browser; it "
                    f"must be readable without an account"
                ) from error
            return f"{model['url']}: HTTP {error.code} {error.reason}"
        return f"{model['url']}: {cause_of(error)}"

    @staticmethod
    def _open(url: str, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(url, headers={"User-Agent": "metal2model", **headers})
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)


def cause_of(error: BaseException) -> str:
    """Return an error in one line, with what lies under it."""
    while lower := error.__cause__ or getattr(error, "reason", None):
        if not isinstance(lower, BaseException):
            break
        error = lower
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in text:
        text += f" (authorities of this host: {CA_BUNDLE}; a company's own belongs there, update-ca-certificates)"
    return text


def by_status(status: int, repo: str, endpoint: str, text: str) -> str:
    """Return the error of an HTTP status that may pass; raise `Refused` for one that will not."""
    if status in (401, 403):
        raise Refused(gated(repo, endpoint))
    if status in (404, 410):
        raise Refused(
            f"{endpoint} has not what its listing of {repo} names: {text}. Pin another revision or use another hub"
        )
    return f"{endpoint}: {text}"


def gated(repo: str, endpoint: str) -> str:
    """Return what to do about a repository that wants an account."""
    return (
        f"{endpoint} does not give {repo} to everyone (HTTP 401 or 403): it is gated or private. This role holds no "
        f"tokens yet. Use a copy that is not gated, or download it where you have access, put it on the host and "
        f"name it with 'path'"
    )


def no_repository(repo: str, endpoint: str) -> str:
    """Return what to do about a repository that is not there."""
    return (
        f"{endpoint} has no repository {repo} that everyone may read. Names are publisher/name, exactly as in the "
        f"address of the model's page; check it there, or choose another hub"
    )


def no_revision(model: Json, revision: str, endpoint: str, branch: str) -> str:
    """Return what to do about a revision that is not there."""
    text = f"revision: {endpoint} has no revision {revision!r} of {model['repo']}"
    if revision != model["revision"]:
        text += f", which was what {model['revision']!r} meant when this host first asked"
    return f"{text}. Name a commit of the repository's history, or {branch!r}"


def hub_of(group: str, spec: Json) -> Hub:
    """Return the hub of a group; an environment that cannot import its client is marked for repair."""
    if group == "plain":
        return Plain()
    client = spec["clients"][group]
    try:
        return {"huggingface": HuggingFace, "modelscope": ModelScope}[group](client)
    except ImportError as error:
        Path(client["root"], client["version"], ".complete").unlink(missing_ok=True)
        raise Refused(f"models/hub: {client['root']}/{client['version']} is damaged ({error}); run again to have it "
                      f"rebuilt") from error  # fmt: skip


def attempts(
    spec: Json, model: Json, size: Callable[[], int], work: Callable[[], Any], explain: Callable[[Exception], str]
) -> Any:
    """Do the work; again after a failure that may pass, as long as bytes arrive or attempts are left."""
    failures, before = 0, size()
    while True:
        try:
            return work()
        except Refused:
            raise
        except Exception as error:
            if disk_is_full(error):
                raise Refused(
                    f"the disk of {spec['directory']} is full. Make room; what has arrived is kept"
                ) from error
            text = str(error) if isinstance(error, Short) else explain(error)
        now = size()
        failures = failures + 1 if now <= before else 0
        before = now
        if failures > spec["retries"]:
            raise Refused(
                f"{text}. Gave up after {failures} attempts in a row that brought nothing; what has arrived is kept. "
                f"Check the network and the hub, then run again; a download goes on where it stopped"
            )
        delay = min(2 ** max(failures - 1, 0), 30)
        say(f"models/wanted/{model['name']}: {text}; going on from byte {now} in {delay} s")
        time.sleep(delay)


def disk_is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came from, says so."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


# Planning


def wanted_in(spec: Json, group: str) -> list[Json]:
    """Return the models of a group that are not known to be as wanted."""
    members = ("url", "path") if group == "plain" else (group,)
    models = [model for model in spec["models"] if model["source"] in members]
    return [model for model in models if model_problem(spec, model) is not None]


def plan(spec: Json, group: str) -> list[str]:
    """Write down what each model consists of: once, so that a branch that moves on does not move the host."""
    problems = []
    missing = [m for m in wanted_in(spec, group) if m["source"] != "path" and read_manifest(m) is None]
    if not missing:
        return []
    hub = hub_of(group, spec)
    for model in missing:
        try:
            before = read_manifest(model, of_any_request=True)
            revision, listed = ask(spec, model, revision_of(model, before), hub)
            files = [planned(model, item) for item in chosen(model, listed)]
        except Refused as refusal:
            problems.append(f"models/wanted/{model['name']}: {refusal}.")
            continue
        inherit(files, before)
        write_manifest(model, {"revision": revision, "files": files})
        at = f" at {revision}" if revision else ""
        total = sum(item["size"] or 0 for item in files)
        say(f"models/wanted/{model['name']}: {model['repo'] or model['url']}{at}: {len(files)} files, {total} bytes")
    return problems


def revision_of(model: Json, before: Json | None) -> str:
    """Return the revision to list: what the same name meant when this host first asked, also for other files of it."""
    asked = before["request"] if before else {}
    same = before is not None and all(asked.get(key) == model[key] for key in ("source", "repo", "revision"))
    return (before["revision"] if before and same else model["revision"]) or ""


def ask(spec: Json, model: Json, revision: str, hub: Hub) -> Listed:
    """Return a hub's listing of a repository."""
    listed: Listed = attempts(
        spec,
        model,
        lambda: 0,
        lambda: hub.listing(model, revision),
        lambda error: hub.explain(model, revision, error),
    )
    return listed


def chosen(model: Json, listed: list[Json]) -> list[Json]:
    """Return the files that are wanted: exact names, globs (`*` crosses directories), and all parts of a split GGUF."""
    by_name = {item["name"]: item for item in listed}
    names: dict[str, None] = {}
    for pattern in model["files"] or ["*"]:
        found = [name for name in by_name if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not found:
            close = difflib.get_close_matches(pattern, by_name, n=3, cutoff=0.4)
            hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
            raise Refused(
                f"files: {model['repo']} has {len(by_name)} files, and none is {pattern!r}{hint}. Write one of them, "
                f"or a glob such as '*Q4_K_M*'"
            )
        names.update(dict.fromkeys(found))
    for name in list(names):
        if match := SHARD.fullmatch(name):
            names.update(dict.fromkeys(shards(match)))
    if lost := [name for name in names if name not in by_name]:
        raise Refused(f"files: {model['repo']} lacks {lost[0]!r}, which is a part of a file that is wanted")
    return [by_name[name] for name in names]


def planned(model: Json, item: Json) -> Json:
    """Return the manifest's entry of a listed file."""
    path = Path(model["directory"], item["name"])
    if ".." in path.parts or not path.is_relative_to(model["directory"]):
        raise Refused(f"{item['name']!r} in the hub's listing would leave {model['directory']}; the listing is refused")
    known = (model["digests"] or {}).get(item["name"])
    if known and item.get("sha256", known) != known:
        raise Refused(
            f"the hub lists {item['name']} with sha256 {item['sha256']}, files/models.yaml knows it with {known}: it "
            f"was replaced, or this is not the hub that you think. Nothing was downloaded. Compare both with the "
            f"publisher's page; correct files/models.yaml when the new file is meant"
        )
    return {
        "name": item["name"],
        "path": str(path),
        "size": item["size"],
        "sha256": item.get("sha256") or known,
        "git_sha1": item.get("git_sha1"),
        "stat": None,
        "replaces": None,
    }


def inherit(files: list[Json], before: Json | None) -> None:
    """Take over what is verified already; and keep a verified older file in its place until the new one is whole."""
    known = {entry["path"]: entry for entry in before["files"]} if before else {}
    for entry in files:
        if old := known.get(entry["path"]):
            # A file that the user put there (`accept`) was written down without what a hub lists.
            same = all(old.get(key) == entry[key] for key in ("size", "sha256", "git_sha1"))
            entry["stat" if same else "replaces"] = old["stat"]


# Space


def part_of(spec: Json, entry: Json) -> Path:
    """Return the partial file of an entry: named after its content."""
    return Path(spec["directory"], ".partial", entry["sha256"] or entry["git_sha1"])


def size_of(*paths: Path) -> int:
    """Return the size of the first of the files that exists, 0 for none."""
    return next((path.stat().st_size for path in paths if path.exists()), 0)


def space(spec: Json) -> list[str]:
    """Print the arithmetic of what is to come, and refuse when it does not fit: nothing has been downloaded then."""
    pending: dict[str, Json] = {}
    for model in spec["models"]:
        manifest = read_manifest(model)
        for entry in manifest["files"] if manifest and model["source"] != "path" else []:
            if entry["stat"] is None or entry["stat"] != stat_of(entry["path"]):
                pending.setdefault(entry["path"], entry)
    if not pending:
        return []
    top = Path(spec["directory"])
    top.mkdir(parents=True, exist_ok=True)
    to_come = 0
    say(f"models: disk space under {top}, in bytes:")
    for path, entry in pending.items():
        part = part_of(spec, entry)
        there = size_of(Path(path)) if entry["replaces"] is None else 0
        there = there if there == entry["size"] else size_of(part, *Path(f"{part}.modelscope").rglob("*.incomplete"))
        missing = max((entry["size"] or 0) - there, 0)
        to_come += missing
        say(f"  {entry['size'] or 'unknown'} - {there} there already = {missing} to come: {path}")
    free = os.statvfs(top)
    have, keep = free.f_bavail * free.f_frsize, spec["keep_free_bytes"]
    sum_text = f"{to_come} to come + {keep} to stay free = {to_come + keep} required, {have} free"
    if to_come == 0 or to_come + keep <= have:
        say(f"  {sum_text}: enough")
        return []
    return [
        f"models/directory: {top}: {sum_text}: {to_come + keep - have} bytes short, so nothing was downloaded. "
        f"Make room, set models/directory to a larger disk, want fewer or smaller models, or lower "
        f"models/keep_free_mib (now {keep >> 20})."
    ]


# Fetching


def fetch(spec: Json, group: str) -> list[str]:
    """Have every file of the group's models in its place, verified."""
    problems = []
    models = wanted_in(spec, group)
    hub = hub_of(group, spec) if any(model["source"] != "path" for model in models) else None
    for model in models:
        try:
            if hub is None or model["source"] == "path":
                accept(model)
            elif manifest := read_manifest(model):
                for entry in manifest["files"]:
                    have(spec, model, manifest, entry, hub)
                    write_manifest(model, manifest)
                say(f"models/wanted/{model['name']}: complete, {len(manifest['files'])} files verified")
        except Refused as refusal:
            problems.append(f"models/wanted/{model['name']}: {refusal}.")
    if not problems:
        sweep(spec)
    return problems


def accept(model: Json) -> None:
    """Verify a file that the user put there; it stays as it is."""
    if problem := path_problem(model):
        raise Refused(f"path: {problem}. Put the model there, or correct the path")
    if model["sha256"] is None:
        return
    before = stat_of(model["path"])
    found = digest(Path(model["path"]), "sha256")
    if found != model["sha256"]:
        raise Refused(
            f"sha256: {model['path']} has {found}, required is {model['sha256']}. It is not the file that is meant, "
            f"and was left as it is. Replace it, or correct sha256"
        )
    entry = {"name": Path(model["path"]).name, "path": model["path"], "stat": before}
    write_manifest(model, {"revision": "", "files": [entry]})


def have(spec: Json, model: Json, manifest: Json, entry: Json, hub: Hub) -> None:
    """Have one file in its place: as it is, after another look at its content, or downloaded."""
    final, part = Path(entry["path"]), part_of(spec, entry)
    found = stat_of(final)
    if found is None or found != entry["stat"]:
        if found and found[0] == entry["size"]:
            say(f"models/wanted/{model['name']}: {final} is there and not known to be right; reading it")
            if wrong_digest(entry, final) is None:
                found = None
                settle(spec, final)
                entry.update(stat=stat_of(final), replaces=None)
                return
        if os.path.lexists(final) and (found is None or found != entry["replaces"]):
            say(f"models/wanted/{model['name']}: {final} is not the file that the hub lists; removed")
            final.unlink()
        download(spec, model, manifest, entry, hub)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        for parent in parents_below(spec, final):
            parent.mkdir(exist_ok=True)
        settle(spec, part)
        part.replace(final)
        sync_directory(final.parent)
        discard(part)
    settle(spec, final)
    entry.update(stat=stat_of(final), replaces=None)


def settle(spec: Json, path: Path) -> None:
    """
    Give a file, and the directories above it, to root: read-only, and readable by the engines' users.

    What is so already is not touched: that alone would change its ctime, and another model's manifest may have that.
    """
    partial = Path(spec["directory"], ".partial")
    parents = [parent for parent in parents_below(spec, path) if parent != partial]
    for place, mode in [(path, 0o444), *((parent, 0o755) for parent in parents)]:
        if rights_of(place) != (OWNER, mode):
            os.chown(place, *OWNER)
            place.chmod(mode)


def download(spec: Json, model: Json, manifest: Json, entry: Json, hub: Hub) -> None:
    """Have the partial file complete and verified; one that is wrong is deleted."""
    part = part_of(spec, entry)
    part.parent.mkdir(parents=True, exist_ok=True)
    watched = hub.watched(entry, part)

    def work() -> None:
        if entry["size"] is not None and size_of(part) == entry["size"] > 0:
            return
        hub.get(model, manifest, entry, part)
        if entry["size"] is not None and size_of(part) < entry["size"]:
            raise Short(f"{entry['name']} ended after {size_of(part)} of {entry['size']} bytes")

    with progress(model, entry, lambda: size_of(part, watched)):
        attempts(spec, model, lambda: size_of(part, watched), work,
                 lambda error: hub.explain(model, manifest["revision"], error))  # fmt: skip
    arrived = size_of(part)
    if entry["size"] is not None and arrived != entry["size"]:
        discard(part)
        raise Refused(
            f"{entry['name']} has {arrived} bytes, the hub lists {entry['size']}. It was deleted. Run again; if it "
            f"happens again the hub or mirror serves another file than it lists: use another one"
        )
    if found := wrong_digest(entry, part):
        discard(part)
        required = entry["sha256"] or entry["git_sha1"]
        raise Refused(
            f"sha256: {entry['name']} came with {found}, required is {required}. A changed file must not be "
            f"loaded, so it was deleted. Run again; if it happens again, "
            + (
                "compare sha256 with what the publisher says"
                if model["source"] == "url"
                else "the hub or mirror serves another file than it lists: use another one"
            )
        )


def discard(part: Path) -> None:
    """Remove a partial file and what is kept beside it."""
    for path in (part, part.with_name(part.name + ".validator")):
        path.unlink(missing_ok=True)


def wrong_digest(entry: Json, path: Path) -> str | None:
    """Return the digest of a file when it is not the listed one; git's for small files, which the hub lists only so."""
    if entry["sha256"]:
        found = digest(path, "sha256")
        return None if found == entry["sha256"] else found
    found = digest(path, "sha1", b"blob %d\0" % path.stat().st_size)
    return None if found == entry["git_sha1"] else found


def digest(path: Path, kind: str, prefix: bytes = b"") -> str:
    """Return the hexadecimal digest of a file, after a prefix."""
    value = hashlib.new(kind, prefix, usedforsecurity=kind != "sha1")
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            value.update(piece)
    return value.hexdigest()


@contextlib.contextmanager
def progress(model: Json, entry: Json, size: Callable[[], int]) -> Iterator[None]:
    """Print how far a download is, every few seconds."""
    done = threading.Event()
    total = entry["size"]

    def report() -> None:
        before = size()
        while not done.wait(PROGRESS_SECONDS):
            now = size()
            if now == before:
                continue
            share = f" of {total / 1e6:.0f} MB ({100 * now // total} %)" if total else " MB"
            rate = max(now - before, 0) / PROGRESS_SECONDS / 1e6
            before = now
            try:
                say(f"models/wanted/{model['name']}: {entry['name']}: {now / 1e6:.0f}{share}, {rate:.1f} MB/s")
            except OSError:
                os._exit(1)  # the run that asked is gone, and with it whoever would hear of a failure

    begun, start = size(), time.monotonic()
    resumed = f", {begun} there already" if begun else ""
    say(f"models/wanted/{model['name']}: {entry['name']}: {total if total is not None else 'unknown'} bytes{resumed}")
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    if (seconds := time.monotonic() - start) > PROGRESS_SECONDS:
        rate = max(size() - begun, 0) / seconds / 1e6
        say(f"models/wanted/{model['name']}: {entry['name']}: {size()} bytes there, {rate:.1f} MB/s; verifying")


def sweep(spec: Json) -> None:
    """
    Remove partial files that nothing waits for: of a revision or a model that is no longer wanted.

    Manifests outlive their models, so only those of wanted models count. While one of these is not planned, any
    partial file may turn out to be its own, and all are kept.
    """
    waited_for = set()
    for model in spec["models"]:
        if model["source"] == "path":
            continue
        manifest = read_manifest(model)
        if manifest is None:
            return
        for entry in manifest["files"]:
            if entry["stat"] is None or entry["stat"] != stat_of(entry["path"]):
                waited_for.add(entry["sha256"] or entry["git_sha1"])
    partial = Path(spec["directory"], ".partial")
    for path in partial.iterdir() if partial.is_dir() else ():
        if path.name.split(".")[0] not in waited_for:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):  # something is waited for, or nothing was ever begun
        partial.rmdir()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        sys.exit(1)
