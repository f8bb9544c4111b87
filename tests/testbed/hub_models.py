"""Hugging Face and ModelScope, as far as their clients and ours look, over directories of model files.

A repository OWNER/NAME is the directory models/OWNER/NAME of the state directory; it has one commit.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.testbed.hub_http import Answer, Asked, file_answer, text_answer

HUGGING_FACE = ("huggingface.co", "hf-mirror.com")
# Where the bytes of large files come from: both redirect there, which is why a mirror's name alone does not keep a
# download in China (https://github.com/padeoe/hf-mirror-site/issues/50).
HUGGING_FACE_BYTES = "cas-bridge.xethub.hf.co"
MODELSCOPE = ("modelscope.cn", "www.modelscope.cn")
LARGE = (".gguf", ".safetensors", ".bin")
LARGE_BYTES = 1 << 20
# https://huggingface.co/docs/hub/api: a page of a tree has this many entries, then `Link` names the next one.
TREE_PAGE = 1000
MADE = "2026-01-01T00:00:00.000Z"


def commit_of(repository: str) -> str:
    """Give the one commit of a repository: fixed, so that an inventory may pin it."""
    return hashlib.sha1(f"metal2model test bed: {repository}".encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class ModelFile:
    """A file of a repository, with what git and its large file storage call it."""

    name: str
    path: Path
    size: int
    sha256: str
    blob: str

    @property
    def large(self) -> bool:
        """Say whether the hubs keep it outside git."""
        return self.name.endswith(LARGE) or self.size >= LARGE_BYTES


def model_files(root: Path, repository: str) -> list[ModelFile]:
    """List the files of a repository; none when there is no such repository."""
    base = root / repository
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository) or not base.is_dir():
        return []
    return sorted(_walk(base), key=lambda file: file.name)


def _walk(base: Path) -> Iterator[ModelFile]:
    for path in base.rglob("*"):
        name = path.relative_to(base).as_posix()
        if path.is_file() and not path.name.startswith("."):
            stat = path.stat()
            sha256, blob = _digests(path, stat.st_size, stat.st_mtime_ns)
            yield ModelFile(name, path, stat.st_size, sha256, blob)


@functools.lru_cache(maxsize=1024)
def _digests(path: Path, size: int, _modified: int) -> tuple[str, str]:
    whole, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            whole.update(piece)
            blob.update(piece)
    return whole.hexdigest(), blob.hexdigest()


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    return text_answer(json.dumps(value), status, {**kind, **(headers or {})})


def _hub_error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Refuse as Hugging Face does: the client reads the headers, not the body."""
    described = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
    return _json({"error": message}, status, described)


class HuggingFace:
    """The model API and file paths which huggingface_hub 2.4 uses (its hf_api.py and file_download.py)."""

    names = frozenset({*HUGGING_FACE, HUGGING_FACE_BYTES})

    def __init__(self, root: Path) -> None:
        self.root = root
        self.page = TREE_PAGE

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for a path of either name, or for the bytes of a large file."""
        if asked.host == HUGGING_FACE_BYTES:
            return self._bytes(asked)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", asked.path):
            return self._checked(match[1], match[2]) or self._tree(match[1], asked, match[3] or "")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", asked.path):
            return self._checked(match[1], match[2] or "main") or self._info(match[1])
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", asked.path):
            return self._checked(match[1], match[2]) or self._resolve(match[1], match[3])
        return _json({"error": "Sorry, we can't find the page you are looking for."}, 404)

    def _checked(self, repository: str, revision: str) -> Answer | None:
        if not model_files(self.root, repository):
            # The real hub says 401 to those without a token, so that private names stay private.
            return _hub_error(401, "RepoNotFound", "Invalid username or password.")
        if revision not in ("main", commit_of(repository)):
            return _hub_error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _info(self, repository: str) -> Answer:
        siblings = [{"rfilename": file.name} for file in model_files(self.root, repository)]
        return _json(
            {
                "_id": commit_of(repository)[:24],
                "id": repository,
                "modelId": repository,
                "sha": commit_of(repository),
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": MADE,
                "createdAt": MADE,
                "siblings": siblings,
            }
        )

    def _tree(self, repository: str, asked: Asked, folder: str) -> Answer:
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        recursive = asked.query.get("recursive", "").lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for file in model_files(self.root, repository):
            if not file.name.startswith(prefix):
                continue
            parts = file.name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)) if recursive else range(1, min(2, len(parts))):
                name = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
                entries.setdefault(name, {"type": "directory", "oid": oid, "size": 0, "path": name})
            if recursive or len(parts) == 1:
                entry: dict[str, Any] = {"type": "file", "oid": file.blob, "size": file.size, "path": file.name}
                if file.large:
                    entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
                entries[file.name] = entry
        if not entries and prefix:
            return _hub_error(404, "EntryNotFound", "Entry not found")
        begin = int(asked.query.get("cursor", "0"))
        end = begin + min(self.page, int(asked.query.get("limit", self.page)))
        headers = {}
        if end < len(entries):
            query = {**asked.query, "cursor": str(end)}
            following = "&".join(f"{name}={quote(value)}" for name, value in query.items())
            headers["Link"] = f'<{asked.scheme}://{asked.headers["Host"]}{quote(asked.path)}?{following}>; rel="next"'
        return _json(list(entries.values())[begin:end], headers=headers)

    def _resolve(self, repository: str, name: str) -> Answer:
        commit = commit_of(repository)
        file = next((file for file in model_files(self.root, repository) if file.name == name), None)
        if file is None:
            return _hub_error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        if not file.large:
            return file_answer(file.path, {"X-Repo-Commit": commit}, etag=file.blob)
        shown = quote(f"inline; filename*=UTF-8''{quote(name)}; filename=\"{name}\";", safe="")
        location = (
            f"https://{HUGGING_FACE_BYTES}/xet-bridge-us/{repository}/{file.sha256}"
            f"?X-Amz-Expires=3600&response-content-disposition={shown}"
        )
        headers = {
            "Location": location,
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": f'"{file.sha256}"',
            "Accept-Ranges": "bytes",
        }
        return text_answer(f"Found. Redirecting to {location}", 302, headers)

    def _bytes(self, asked: Asked) -> Answer:
        if match := re.fullmatch(r"/xet-bridge-us/([^/]+/[^/]+)/([0-9a-f]{64})", asked.path):
            for file in model_files(self.root, match[1]):
                if file.sha256 == match[2]:
                    return file_answer(file.path, etag=file.sha256)
        return text_answer("AccessDenied\n", 403)


class ModelScope:
    """The model API which modelscope 1.40 uses (modelscope_hub/_legacy_api.py), https://modelscope.cn/docs/models/download."""

    names = frozenset(MODELSCOPE)

    def __init__(self, root: Path) -> None:
        self.root = root

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for a path of either name."""
        if match := re.fullmatch(r"/models/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", asked.path):
            return self._checked(match[1], match[2]) or self._file(match[1], match[3])
        if match := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)(?:/(revisions|repo|repo/files))?", asked.path):
            revision = asked.query.get("Revision", "master")
            return self._checked(match[1], revision) or self._api(match[1], match[2], asked)
        return _refusal(404, 10010200001, "page not found")

    def _api(self, repository: str, what: str | None, asked: Asked) -> Answer:
        if what == "revisions":
            branches = [{"Revision": "master", "CreatedAt": 1767225600}]
            return _success({"RevisionMap": {"Branches": branches, "Tags": []}})
        if what == "repo/files":
            return self._files(repository)
        if what == "repo":
            return self._file(repository, asked.query.get("FilePath", ""))
        owner, name = repository.split("/")
        return _success({"Id": 1, "Name": name, "Path": owner, "Revision": "master", "Visibility": 5})

    def _checked(self, repository: str, revision: str) -> Answer | None:
        if not model_files(self.root, repository):
            return _refusal(404, 10010205001, f"model {repository} not found")
        if revision not in ("master", commit_of(repository)):
            return _refusal(404, 10010205006, f"revision {revision} not found")
        return None

    def _files(self, repository: str) -> Answer:
        commit = commit_of(repository)
        files = [
            {
                "Name": Path(file.name).name,
                "Path": file.name,
                "Type": "blob",
                "Size": file.size,
                "Sha256": file.sha256,
                "Revision": commit,
                "CommittedDate": 1767225600,
                "Mode": "33188",
                "IsLFS": file.large,
                "InCheck": False,
            }
            for file in model_files(self.root, repository)
        ]
        return _success({"Files": files, "LatestCommitter": {"Id": commit}})

    def _file(self, repository: str, name: str) -> Answer:
        for file in model_files(self.root, repository):
            if file.name == name:
                return file_answer(file.path, etag=file.sha256)
        return _refusal(404, 10010205002, f"file {name} not found")


def _success(data: object) -> Answer:
    return _json({"Code": 200, "Data": data, "Message": "success", "RequestId": "bed", "Success": True})


def _refusal(status: int, code: int, message: str) -> Answer:
    return _json({"Code": code, "Message": message, "RequestId": "bed", "Success": False}, status)
