"""Python package indexes: this machine's own index through a cache, under the names and paths of the public ones."""

import html
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from tests.testbed.hub_cache import Cache
from tests.testbed.hub_http import Answer, Asked, text_answer

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
PAGE_FRESH_SECONDS = 600
FILES = "packages-of/"
# Where the mirrors have their simple index: https://mirrors.tuna.tsinghua.edu.cn/help/pypi/ and the others' like it.
MIRROR_PATHS = {
    "pypi.tuna.tsinghua.edu.cn": "/simple",
    "mirrors.tuna.tsinghua.edu.cn": "/pypi/web/simple",
    "mirrors.ustc.edu.cn": "/pypi/simple",
    "mirrors.aliyun.com": "/pypi/simple",
    "mirrors.huaweicloud.com": "/repository/pypi/simple",
}


@dataclass(frozen=True)
class Index:
    """This machine's index, and the public one whose name the hosts of the bed use."""

    simple_url: str
    public_host: str
    files_host: str


def find_index() -> Index:
    """Ask pip which index is the default; its sources carry the public names."""
    from pip._internal.configuration import Configuration
    from pip._internal.models.index import PyPI

    configuration = Configuration(isolated=False)
    configuration.load()
    chosen = dict(configuration.items())
    url = chosen.get(":env:.index-url") or chosen.get("install.index-url") or chosen.get("global.index-url")
    return Index(str(url or PyPI.simple_url).rstrip("/"), PyPI.netloc, PyPI.file_storage_domain)


class Pypi:
    """Simple pages (PEP 503 and PEP 691) whose links lead back to the hub."""

    def __init__(self, cache: Cache, index: Index) -> None:
        self.cache = cache
        self.index = index

    @property
    def names(self) -> set[str]:
        """Name the hosts that have an index."""
        return {self.index.public_host, self.index.files_host, *MIRROR_PATHS}

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer for a path of an index; None when the path is none."""
        if asked.host == self.index.files_host:
            return await self._file(self.index.files_host, asked.path.lstrip("/"))
        root = "/simple" if asked.host == self.index.public_host else MIRROR_PATHS.get(asked.host)
        if root is None:
            return None
        beside = f"{root.rpartition('/')[0]}/{FILES}"
        if asked.path.startswith(beside):
            host, _, path = asked.path.removeprefix(beside).partition("/")
            return await self._file(host, path)
        match = re.fullmatch(re.escape(root) + r"/([A-Za-z0-9._-]+)(/?)", asked.path)
        if not match:
            return None
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        if name != match[1] or not match[2]:
            return text_answer("", 301, {"Location": f"{root}/{name}/"})
        return await self._page(name, asked.headers.get("Accept", ""), asked.host)

    async def _file(self, host: str, path: str) -> Answer:
        index_host = urlsplit(self.index.simple_url).netloc
        if host not in (index_host, self.index.files_host):
            return text_answer("not a host of this index\n", 404)
        scheme = urlsplit(self.index.simple_url).scheme if host == index_host else "https"
        return await self.cache.get(f"{scheme}://{host}/{path}", f"pypi/files/{path}")

    async def _page(self, name: str, accept: str, asked_host: str) -> Answer:
        url = f"{self.index.simple_url}/{name}/"
        answer = await self.cache.get(url, f"pypi/simple/{name}.json", PAGE_FRESH_SECONDS, {"Accept": JSON_TYPE})
        if answer.status != 200:
            return answer
        content = b"".join([piece async for piece in answer.body.read(0, answer.body.size)])
        try:
            page: dict[str, Any] = json.loads(content)
        except ValueError:
            return text_answer(f"{url} does not answer in {JSON_TYPE}\n", 502)
        kept = []
        for file in page["files"]:
            parts = urlsplit(urljoin(url, file["url"]))
            if parts.netloc in (urlsplit(self.index.simple_url).netloc, self.index.files_host):
                # As the real ones: mirrors lead to files beside the pages (bandersnatch's "../../packages/"), the
                # public index to a host for files.
                link = f"../../{FILES}{parts.netloc}{parts.path}"
                if (asked_host, parts.netloc) == (self.index.public_host, self.index.files_host):
                    link = f"https://{parts.netloc}{parts.path}"
                kept.append({**file, "url": link})
        page["files"] = kept
        if JSON_TYPE in accept:
            return text_answer(json.dumps(page), headers={"Content-Type": JSON_TYPE})
        kind = HTML_TYPE if HTML_TYPE in accept else "text/html"
        return text_answer(simple_html(page), headers={"Content-Type": kind})


def simple_html(page: dict[str, Any]) -> str:
    """Write a page of the JSON index as PEP 503 wants it."""
    links = []
    for file in page["files"]:
        fragment = next((f"#{name}={value}" for name, value in file.get("hashes", {}).items()), "")
        attributes = {"href": file["url"] + fragment}
        if file.get("requires-python"):
            attributes["data-requires-python"] = file["requires-python"]
        if file.get("yanked"):
            attributes["data-yanked"] = file["yanked"] if isinstance(file["yanked"], str) else ""
        metadata = file.get("core-metadata")
        if metadata:
            attributes["data-core-metadata"] = (
                "true" if metadata is True else next(f"{name}={value}" for name, value in metadata.items())
            )
        text = " ".join(f'{name}="{html.escape(str(value))}"' for name, value in attributes.items())
        links.append(f"<a {text}>{html.escape(file['filename'])}</a><br>")
    head = '<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.0"></head><body>'
    return "\n".join([head, *links, "</body></html>\n"])
