# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/hubs.py.
"""Where models come from: each hub by its own client, and what its errors mean for a person."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import known
from .known import Json

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
PIECE = 1 << 20
TIMEOUT_SECONDS = 30
LONGEST_WAIT_SECONDS = 300
"""That a server may ask for; longer, the next place is asked, or the person who watches is told."""

Listed = tuple[str, list[Json]]
"""The revision that was meant, and the files: name, size, sha256 or git_sha1."""


class Refused(Exception):
    """Something cannot be had, and trying again would not help; the message says what to do."""


class DiskIsFull(Refused):
    """Another place would not help either."""


class GaveUp(Refused):
    """Nobody answered for so long that asking for the next thing would end the same way."""


class TooSlow(Refused):
    """A place still sends, but another one is faster; it is asked again if that one cannot bring it to an end."""


class Unlike(Refused):
    """A place has other content under a file's name; its other files may be the right ones."""


class Short(Exception):
    """A download ended before the file did."""


def say(text: str) -> None:
    """Print a line of progress. It fails when nobody listens any more, and that ends the run: the next one goes on."""
    print(text, flush=True)


class Hub:
    """
    Where models come from: lists a repository, and continues a partial file.

    ``model`` is what `at` makes of one: its repository there.
    """

    endpoint = ""

    def listing(self, model: Json, revision: str) -> Listed:
        """Return the revision that is meant and the files of the repository."""
        raise NotImplementedError

    def get(self, model: Json, revision: str, entry: Json, part: Path) -> None:
        """Continue ``part`` until it has all bytes; raise on any interruption."""
        raise NotImplementedError

    def begin(self, model: Json, revision: str, name: str, count: int) -> bytes:
        """Return the first bytes of a file, so many; raise on any interruption."""
        with opened(address_of(model, revision, name), {"Range": f"bytes=0-{count - 1}"}) as answer:
            found: bytes = answer.read(count)  # no more, even where the server knows no ranges
        if len(found) < count:
            raise Short(f"{name} ended after {len(found)} of its first {count} bytes")
        return found

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

    def __init__(self, endpoint: str) -> None:
        """Set what the client reads from its environment when it is imported."""
        self.endpoint = endpoint
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
        self.http = client_of("huggingface_hub.utils._http")
        self.http.set_client_factory(self.impatient)
        self.api = client_of("huggingface_hub").HfApi(endpoint=self.endpoint, token=False, library_name="metal2model")

    def impatient(self) -> Any:
        """Return the client's own HTTP client, which would wait for a silent listing for ever."""
        session = self.http.default_client_factory()

        def limited(request: Any) -> None:
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT_SECONDS)

        hooks = session.event_hooks
        session.event_hooks = {**hooks, "request": [*hooks["request"], limited]}
        return session

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

    def get(self, model: Json, revision: str, entry: Json, part: Path) -> None:
        """Ask where the bytes are, say so when that is another host, and continue there."""
        url = self.files.hf_hub_url(model["repo"], entry["name"], revision=revision, endpoint=self.endpoint)
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

    def __init__(self, endpoint: str) -> None:
        """Set what the client reads from its environment when it is imported: one attempt, no bars, no deadline."""
        self.endpoint = endpoint
        os.environ.update(
            MODELSCOPE_CACHE=f"{known.STATE}/modelscope",
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

    def get(self, model: Json, revision: str, entry: Json, part: Path) -> None:
        """Let the client continue in a directory of its own, then take the file."""
        folder = self._folder(part)
        self.api.download_file(
            model["repo"],
            "model",
            entry["name"],
            revision=revision,
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
        with opened(model["url"], {"Range": "bytes=0-0"}) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status == 200:
                total = answer.headers.get("Content-Length", "")
        size = int(total) if total.isdigit() else None
        return "", [{"name": model["file"], "size": size, "sha256": model["sha256"]}]

    def get(self, model: Json, revision: str, entry: Json, part: Path) -> None:
        """Continue while the server's validator is the same; begin anew when it is not, or ranges are not served."""
        validator = part.with_name(part.name + ".validator")
        offset = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and validator.exists():
            headers["If-Range"] = validator.read_text("utf-8")
        if offset and offset == entry["size"]:
            return
        with opened(model["url"], headers) as answer:
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


class Bundle(Plain):
    """
    What a hub has, below the base of a bundle (role bundle): files under their public addresses, and a listing.

    On a web server, or in a directory of this host: to urllib, ``file:`` is a server that knows no ranges.
    """

    def __init__(self, endpoint: str) -> None:
        """``endpoint``: what is the hub's there."""
        self.endpoint = endpoint

    def listing(self, model: Json, revision: str) -> Listed:
        """Return what the host had that the bundle was made on."""
        with opened(address_of(model, revision, "metal2model.json"), {}) as answer:
            found = json.loads(answer.read())
        return found["revision"], found["files"]

    def get(self, model: Json, revision: str, entry: Json, part: Path) -> None:
        """Continue as from any other address."""
        super().get({**model, "url": address_of(model, revision, entry["name"])}, revision, entry, part)

    def explain(self, model: Json, revision: str, error: Exception) -> str:
        """Tell what the bundle lacks from what the network lost."""
        lacks = isinstance(getattr(error, "reason", None), FileNotFoundError)
        if lacks or (isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)):
            raise Refused(
                f"mirrors/all: {self.endpoint}, in the bundle, has no whole copy of {model['repo']} at {revision!r}: "
                f"{cause_of(error)}. Make it again by deploys/bundle.py on a host that wants this model, too"
            ) from error
        return f"{self.endpoint}: {cause_of(error)}"


def opened(url: str, headers: dict[str, str]) -> Any:
    """Return the answer to a GET by the standard library, to be closed."""
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


def places_of(model: Json) -> list[Json]:
    """Return where a model can be had, in the order that was given; what is no repository has one place."""
    plain = {"hub": "plain", "endpoint": "", "repo": None, "revision": "", "lists": True}
    return model["places"] or [plain]


def at(model: Json, place: Json) -> Json:
    """Return a model as this place has it: under a name and a revision of its own."""
    return {**model, **{key: place[key] for key in ("hub", "endpoint", "repo", "revision")}}


def address_of(model: Json, revision: str, name: str) -> str:
    """
    Return where a place has a file, without the hub's client; it may send on to where the bytes are.

    https://huggingface.co/docs/hub/models-downloading; ModelScope's is what its client asks.
    """
    if model["hub"] in ("huggingface", "bundle"):
        return f"{model['endpoint']}/{model['repo']}/resolve/{revision}/{urllib.parse.quote(name)}"
    if model["hub"] == "modelscope":
        query = urllib.parse.urlencode({"Revision": revision, "FilePath": name})
        return f"{model['endpoint']}/api/v1/models/{model['repo']}/repo?{query}"
    return str(model["url"])


def hub_of(spec: Json, place: Json) -> Hub:
    """Return who speaks to a place; an environment that cannot import its client is marked for repair."""
    if place["hub"] == "plain":
        return Plain()
    if place["hub"] == "bundle":
        return Bundle(place["endpoint"])
    client = spec["clients"][place["hub"]]
    try:
        return {"huggingface": HuggingFace, "modelscope": ModelScope}[place["hub"]](place["endpoint"])
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
                raise DiskIsFull(
                    f"the disk of {spec['directory']} is full. Make room; what has arrived is kept"
                ) from error
            text = str(error) if isinstance(error, Short) else explain(error)
            asked_for = seconds_to_wait(error)
        now = size()
        failures = failures + 1 if now <= before else 0
        before = now
        if asked_for > LONGEST_WAIT_SECONDS:
            raise GaveUp(f"{text}. It wants to be left alone for {asked_for} s. Run again later, or use another hub")
        if failures > spec["retries"]:
            raise GaveUp(
                f"{text}. Gave up after {failures} attempts in a row that brought nothing; what has arrived is kept. "
                f"Check the network and the hub, then run again; a download goes on where it stopped"
            )
        delay = max(min(2 ** max(failures - 1, 0), 30), asked_for)
        say(f"models/wanted/{model['name']}: {text}; going on from byte {now} in {delay} s")
        time.sleep(delay)


def seconds_to_wait(error: BaseException | None) -> int:
    """Return how long a server wants to be left alone (https://www.rfc-editor.org/rfc/rfc9110#field.retry-after)."""
    while error is not None:
        # A response of requests is false when it is an error; modelscope_hub keeps the number alone.
        response = getattr(error, "response", None)
        headers = getattr(error if response is None else response, "headers", None) or {}
        for wanted in (getattr(error, "retry_after", None), headers.get("Retry-After")):
            if str(wanted).removesuffix(".0").isdigit():
                return int(float(str(wanted)))
        error = error.__cause__ or error.__context__
    return 0


def disk_is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came from, says so."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
