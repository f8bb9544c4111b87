"""Which public name is answered by what."""

import functools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.testbed.hub_apt import Apt, find_upstream
from tests.testbed.hub_cache import Cache
from tests.testbed.hub_docker import Docker
from tests.testbed.hub_drivers import Drivers
from tests.testbed.hub_http import Answer, Asked, file_answer, text_answer
from tests.testbed.hub_models import HuggingFace, ModelScope
from tests.testbed.hub_ollama import Registries
from tests.testbed.hub_pypi import Pypi, find_index

GITHUB = "github.com"
# https://docs.github.com/en/repositories/releasing-projects-on-github/linking-to-releases; the redirect's target was
# objects.githubusercontent.com before 2025.
GITHUB_BYTES = "release-assets.githubusercontent.com"
# https://docs.github.com/en/repositories/working-with-files/using-files/downloading-source-code-archives
GITHUB_SOURCES = "codeload.github.com"
PLAIN = "models.example.org"


def _file_below(root: Path, name: str) -> Answer:
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        return text_answer("Not Found\n", 404)
    return file_answer(path)


class Sites:
    """All vhosts of the hub; files of releases and of the plain site are whatever lies in the state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.cache = Cache(state_dir / "cache")
        self.apt = Apt(self.cache, find_upstream(state_dir), state_dir)
        self.drivers = Drivers(state_dir)
        self.docker = Docker(state_dir, functools.partial(self.apt._proxied, "debian"))
        self.pypi = Pypi(self.cache, find_index())
        self.registries = Registries(state_dir)
        self.hugging_face = HuggingFace(state_dir / "models")
        self.model_scope = ModelScope(state_dir / "models")
        self.releases = state_dir / "releases"
        self.plain = state_dir / "plain"
        self.by_name: dict[str, list[Callable[[Asked], Awaitable[Answer | None]]]] = {}
        for names, site in (
            (self.registries.names, self.registries.answer),
            (self.hugging_face.names, self.hugging_face.answer),
            (self.model_scope.names, self.model_scope.answer),
            ((GITHUB, GITHUB_BYTES, GITHUB_SOURCES), self._github),
            ((PLAIN,), self._plain),
            (self.apt.names, self.apt.answer),
            (self.drivers.names, self.drivers.answer),
            (self.docker.names, self.docker.answer),
            (self.pypi.names, self.pypi.answer),
        ):
            for name in names:
                self.by_name.setdefault(name, []).append(site)

    async def answer(self, asked: Asked) -> Answer:
        """Ask the sites of the host's name in turn."""
        for site in self.by_name.get(asked.host, []):
            if answer := await site(asked):
                return answer
        if asked.host in self.by_name:
            return text_answer("Not Found\n", 404)
        return text_answer(f"the bed's hub does not answer for {asked.host or 'a request without a name'}\n", 421)

    async def _github(self, asked: Asked) -> Answer | None:
        if asked.host == GITHUB_BYTES:
            return _file_below(self.releases, asked.path.removeprefix("/github-production-release-asset/"))
        if asked.host == GITHUB_SOURCES:
            repository, _, tag = asked.path.lstrip("/").partition("/tar.gz/refs/tags/")
            return _file_below(self.releases, f"{repository}/{tag}.tar.gz")
        if source := re.fullmatch(r"/([\w.-]+/[\w.-]+)/archive/refs/tags/([^/]+)\.tar\.gz", asked.path):
            location = f"https://{GITHUB_SOURCES}/{source[1]}/tar.gz/refs/tags/{source[2]}"
            return text_answer("", 302, {"Location": location})
        match = re.fullmatch(r"/([\w.-]+)/([\w.-]+)/releases/download/([^/]+)/([^/]+)", asked.path)
        if not match:
            return None
        name = "/".join(match.groups())
        if _file_below(self.releases, name).status != 200:
            return text_answer("Not Found\n", 404)
        location = f"https://{GITHUB_BYTES}/github-production-release-asset/{name}?sp=r"
        return text_answer("", 302, {"Location": location})

    async def _plain(self, asked: Asked) -> Answer | None:
        return _file_below(self.plain, asked.path.lstrip("/"))
