"""Options of the models role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from roles.common.findings import Finding, Word
from roles.common.fit import gib
from roles.common.hardware import HardwareReport, mount_of
from roles.common.lock import declared_cards
from roles.common.model import (
    CatalogueEntry,
    FilePattern,
    HubName,
    Model,
    Repository,
    Revision,
    Shape,
    catalogue,
)
from roles.common.options import HttpUrl, InstanceName, OptionProblem, Options, Sha256, did_you_mean


def _plain(path: str) -> str:
    if normpath(path) != path:
        raise ValueError(f"{path!r} leads through '..', '.' or '//'; write it as {normpath(path)!r}")
    return path


AbsolutePath = Annotated[str, Field(pattern=r"^/[^\n]*[^/\n]$"), AfterValidator(_plain)]

DEFAULT_BRANCH: dict[HubName, str] = {"huggingface": "main", "modelscope": "master"}


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _once(values: list[str]) -> list[str]:
    if doubled := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"names {', '.join(doubled)} twice")
    return values


InOrder = (BeforeValidator(_listed), Field(min_length=1), AfterValidator(_once))
"""One, or several in the order in which they are asked."""


@dataclass(frozen=True)
class Place:
    """A hub that has a repository's files."""

    hub: HubName | Literal["bundle"]
    endpoint: str
    repo: str
    revision: str
    lists: bool
    """
    What it lists may be believed. False of a repository that only has the same name as the one that was declared,
    which may be somebody else's, and of a catalogued one that nothing pins: these can give what has the right digest,
    and say nothing of what that is.
    """


@dataclass(frozen=True)
class Source:
    """Where a model comes from and where it goes, with nothing left open."""

    kind: Literal["huggingface", "modelscope", "url", "path"]
    directory: str
    """Where its files go: ``MODELS/publisher/name``."""
    path: str
    """What an engine loads."""
    repo: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()
    url: str | None = None
    sha256: str | None = None
    digests: tuple[tuple[str, str], ...] = ()
    """What files/models.yaml knows: file and its sha256."""
    places: tuple[Place, ...] = ()
    """The hubs that have it, in the order in which they are asked."""


def _may_be_directory(wanted: ModelOptions) -> bool:
    """Whether a directory with config.json can come of it: not of one file, nor of GGUF files chosen by a pattern."""
    if wanted.url:
        return False
    names = [*wanted.files, wanted.repo or ""]
    return not (wanted.repo and any("gguf" in name.lower() for name in names))


class ModelOptions(Options):
    """
    One model, from one source: an entry of files/models.yaml (`{}`), a hub's repository, a URL, or a path on the host.

    A name of files/models.yaml with `repo`, `url` or `path` is that source, not the entry.
    """

    advice: ClassVar[dict[str, str]] = {
        "file": "write files: ['NAME.gguf']",
        "include": "write files, names or globs",
        "allow_patterns": "write files, names or globs",
        "model": "write repo: 'publisher/name'",
        "repo_id": "write repo: 'publisher/name'",
        "checksum": "write sha256",
        "branch": "write revision",
        "commit": "write revision",
        "endpoint": "write models/huggingface_endpoint or models/modelscope_endpoint, one for all models",
        "token": "this role holds no tokens yet; put a gated model on the host yourself and write path",
    }

    repo: Repository | None = None
    """Repository `publisher/name` of a hub."""

    hub: Annotated[list[HubName], *InOrder] | None = None
    """Hub to take a repository or a catalogued model from, or several in order. None: `models/hub`."""

    revision: Revision | None = None
    """
    Commit, tag or branch of the repository. None: what files/models.yaml pins, else the hub's main branch. Anything
    but a commit is looked up once, when the host first wants the model, and what it meant (on Hugging Face the commit,
    on both hubs the digest of each file) is written down on the host: a branch that moves on does not move the host.
    To take what is new, name another revision.
    """

    files: list[FilePattern] = []
    """
    Files of the repository: names or globs such as `*UD-IQ1_S*`, whose `*` crosses directories. Empty: all. When the
    first one is the exact name of a `.gguf` file, that file is what engines load; of a split one, name the first
    part, the others come with it. Else engines load the directory.
    """

    url: HttpUrl | None = None
    """Address of one file. Needs `sha256`, as there is no listing to compare with."""

    path: AbsolutePath | None = None
    """A GGUF file, or a directory with `config.json` or GGUF files, that is on the host already; used where it lies."""

    sha256: Sha256 | None = None
    """Digest of the file at `url` (required) or `path` (optional)."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("repo", "url", "path") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, one is required; keep the one that is meant")
        if not self.repo:
            for name in ("revision", "files"):
                if getattr(self, name):
                    raise OptionProblem(name, "goes with 'repo', which is not given; add it, or remove this")
        if (self.url or self.path) and self.hub:
            raise OptionProblem("hub", f"goes with a repository, not with {given[0]!r}; remove it")
        if self.url and not self.sha256:
            raise OptionProblem(
                "sha256",
                "is required with 'url': there is no listing that the file could be compared with. Take it from the "
                "publisher, or from sha256sum of a copy that you trust",
            )
        if self.url and not PurePosixPath(unquote(urlsplit(self.url).path)).name:
            raise OptionProblem("url", f"{self.url!r} names no file; it must end in one, such as .../model.gguf")
        if self.sha256 and not (self.url or self.path):
            raise OptionProblem(
                "sha256", "goes with 'url' or 'path'; for a repository the hub's listing has the digests"
            )
        return self


class ModelsOptions(Options):
    """Model files: fetched once, verified, owned by root and read-only, in `publisher/name` under one directory."""

    advice: ClassVar[dict[str, str]] = {
        "endpoint": "write huggingface_endpoint or modelscope_endpoint",
        "hf_endpoint": "write huggingface_endpoint",
        "models": "write wanted",
    }

    directory: AbsolutePath = "/srv/models"
    """Where models are kept, as `DIRECTORY/publisher/name/file`. Partial downloads lie in `DIRECTORY/.partial`."""

    hub: Annotated[list[HubName], *InOrder] = ["huggingface"]
    """
    Hub of the models that name none; or several, in the order in which they are asked. The next one is asked when one
    does not answer, sends nothing or too slowly, and when one breaks off for good in the middle of a file: the same
    file goes on from there, by its digest. In China `["modelscope", "huggingface"]`: mirrors of Hugging Face often
    have the listing only, and send downloads to hosts that cannot be reached. Of a `repo` that you name, the first
    hub says what it consists of; others give files of the same name and digest.
    """

    huggingface_endpoint: Annotated[list[HttpUrl], *InOrder] = ["https://huggingface.co"]
    """
    Hugging Face or a mirror of it, what its own tools call HF_ENDPOINT: `https://hf-mirror.com`; or several, in the
    order in which they are asked.
    """

    modelscope_endpoint: Annotated[list[HttpUrl], *InOrder] = ["https://modelscope.cn"]
    """ModelScope or a mirror of it; or several, in order."""

    slow_kib_per_second: Annotated[int, Field(ge=0)] = 256
    """
    A hub whose first megabyte comes slower than this, in KiB/s, is asked after the others.
    One that becomes slower than this in the middle of a file is left for the next one, if that is at least twice as
    fast by then, and asked again if that one cannot bring the file to an end. 0: any speed will do.
    """

    keep_free_mib: Annotated[int, Field(ge=0)] = 1024
    """Space that downloads leave free on the file system of `directory`, in MiB."""

    retries: Annotated[int, Field(ge=0, le=100)] = 5
    """Further attempts in a row that may bring no byte before a download is given up (the next run goes on there)."""

    lan: bool = True
    """
    Where the inventory has hosts with the tag `seed`: have models from them and from the other hosts, and give them
    to these. False: this host is elsewhere, and has them from outside.
    """

    remove_unwanted: bool = False
    """
    Remove files of models that are no longer `wanted`, as far as this role had put them there, at the end of a run.
    Those that a process has open or names on its command line stay, and are listed. False: they are only listed.
    """

    wanted: dict[InstanceName, ModelOptions] = {}
    """Models that the host shall have. `{}` for the entry of that name in files/models.yaml."""

    @model_validator(mode="after")
    def _every_source_is_known(self) -> Self:
        places: dict[str, tuple[str, Source]] = {}
        for name in self.wanted:
            source = self.source(name)
            if source.kind == "path":
                continue
            other, before = places.setdefault(source.directory, (name, source))
            if (before.kind, before.revision) != (source.kind, source.revision):
                raise OptionProblem(
                    f"wanted/{name}",
                    f"{source.repo} from {source.kind} at {source.revision!r}, but wanted/{other} has it from "
                    f"{before.kind} at {before.revision!r}: both go to {source.directory}, which can hold one. Use the "
                    f"same hub and revision",
                )
        return self

    def source(self, name: str) -> Source:
        """Return where a wanted model comes from and goes."""
        wanted = self.wanted[name]
        if wanted.path:
            return Source(kind="path", directory=str(PurePosixPath(wanted.path).parent), path=wanted.path,
                          sha256=wanted.sha256)  # fmt: skip
        if wanted.url:
            parts = urlsplit(wanted.url)
            file = PurePosixPath(unquote(parts.path)).name
            directory = f"{self.directory}/{parts.hostname}/{name}"
            return Source(kind="url", directory=directory, path=f"{directory}/{file}", url=wanted.url, files=(file,),
                          sha256=wanted.sha256)  # fmt: skip
        hubs = wanted.hub or self.hub
        if wanted.repo:
            # A revision is one of the first hub's; on another one, the digests find the same files.
            of_hub = {hub: (wanted.repo, wanted.revision if hub == hubs[0] else None) for hub in hubs}
            return self._from_hubs(of_hub, wanted.files, {}, known_alike=False)
        return self._from_catalogue(name, hubs)

    def _from_catalogue(self, name: str, hubs: Sequence[HubName]) -> Source:
        entry = catalogue().get(name)
        if entry is None:
            raise OptionProblem(
                f"wanted/{name}",
                f"files/models.yaml has no model of this name{did_you_mean(name, catalogue())}. Use one of its names, "
                f"or say where the model comes from with 'repo', 'url' or 'path'",
            )
        sources = {"huggingface": entry.huggingface, "modelscope": entry.modelscope}
        found = {hub: (place.repo, place.revision) for hub in hubs if (place := sources[hub])}
        if not found:
            known = next(name for name, source in sources.items() if source)
            raise OptionProblem(
                f"wanted/{name}/hub",
                f"files/models.yaml does not know it on {' or '.join(hubs)}; write hub: {known!r}, or give 'repo'",
            )
        return self._from_hubs(found, entry.files, entry.sha256, known_alike=True)

    def _from_hubs(
        self,
        found: dict[HubName, tuple[str, str | None]],
        files: list[str],
        digests: dict[str, str],
        *,
        known_alike: bool,
    ) -> Source:
        endpoints = {"huggingface": self.huggingface_endpoint, "modelscope": self.modelscope_endpoint}
        hub, (repo, revision) = next(iter(found.items()))
        places = [
            Place(name, endpoint.rstrip("/"), its_repo, its_revision or DEFAULT_BRANCH[name],
                  lists=name == hub or (known_alike and bool(digests or its_revision)))
            for name, (its_repo, its_revision) in found.items()
            for endpoint in endpoints[name]
        ]  # fmt: skip
        directory = f"{self.directory}/{repo}"
        first = files[0] if files else ""
        exact = first.endswith(".gguf") and not set("*?[") & set(first)
        return Source(
            kind=hub,
            directory=directory,
            path=f"{directory}/{first}" if exact else directory,
            repo=repo,
            revision=revision or DEFAULT_BRANCH[hub],
            files=tuple(files),
            digests=tuple(digests.items()),
            places=tuple(places),
        )

    def model(self, name: str, shape: Shape | None = None) -> Model:
        """
        Return what an engine is to load for ``models/wanted/NAME``; raise `ValueError` for a name not wanted.

        ``shape``: what the host read of its files; without, what files/models.yaml knows.
        """
        if name not in self.wanted:
            raise ValueError(f"{name!r} is not among models/wanted{did_you_mean(name, self.wanted)}; declare it there")
        entry = self.entry(name)
        known: Shape | CatalogueEntry | None = shape or entry
        return Model(
            name=name,
            path=self.source(name).path,
            size_bytes=known.size_bytes if known else None,
            attention=known.attention if known else None,
            context_length=known.context_length if known else None,
            entry=entry,
            may_be_directory=_may_be_directory(self.wanted[name]),
        )

    def entry(self, name: str) -> CatalogueEntry | None:
        """Return what files/models.yaml has of a wanted model; None of one that comes from elsewhere."""
        wanted = self.wanted[name]
        return None if wanted.repo or wanted.url or wanted.path else catalogue()[name]

    def known_places(self, name: str) -> tuple[Place, ...]:
        """Return every place that files/models.yaml knows of a wanted model, whichever hubs are declared."""
        entry = self.entry(name)
        hubs = [hub for hub in get_args(HubName) if entry and getattr(entry, hub)]
        return self._from_catalogue(name, hubs).places if hubs else ()

    def findings(self, report: HardwareReport, tags: Sequence[str]) -> list[Finding]:
        """Return why the disk can never hold the models whose sizes are known, and which are too large for the host."""
        return [*self._disk(report), *(f for name in self.wanted for f in self._sizing(name, report, tags))]

    def _disk(self, report: HardwareReport) -> list[Finding]:
        """What is free now, the role looks at."""
        sizes = {name: size for name in self.wanted if (size := self.model(name).size_bytes)}
        mount = mount_of(report, self.directory)
        if mount is None or sum(sizes.values()) <= mount.size_mib << 20:
            return []
        words: dict[str, Word] = {
            "need": gib(sum(sizes.values())),
            "arithmetic": " + ".join(f"{name} {gib(size)}" for name, size in sizes.items()),
            "path": mount.mount_point,
            "have": gib(mount.size_mib << 20),
        }
        return [Finding("fit_disk", "models/wanted", words)]

    def _sizing(self, name: str, report: HardwareReport, tags: Sequence[str]) -> list[Finding]:
        """Compare the host with the minimum of the sizing table, where there is a row for the model."""
        entry = self.entry(name)
        if entry is None or entry.sizing is None:
            return []
        sizes = [card.card.vram_mib for card in declared_cards(tags, report)]
        mount = mount_of(report, self.directory)
        row = entry.sizing.minimum
        # What a machine calls 16 GB shows the kernel a little less than 16 GiB, and that is more than 16 * 10^9 bytes.
        compared = {
            "{:g} cores": (report.cpu.cores or None, row.cores),
            "{:.3g} GB RAM": (_gb(report.memory_mib) or None, row.memory_gb),
            "{:.3g} GB VRAM": (None if None in sizes else _gb(sum(size or 0 for size in sizes)), row.vram_gb),
            "{:.3g} GB disk": (_gb(mount.size_mib) if mount else None, row.disk_gb),
        }
        short = {text: pair for text, pair in compared.items() if pair[0] is not None and pair[0] < pair[1]}
        if not short:
            return []
        words: dict[str, Word] = {
            "row": entry.sizing.row,
            "found": [text.format(found) for text, (found, _) in short.items()],
            "required": [text.format(required) for text, (_, required) in short.items()],
        }
        return [Finding("sizing_minimum", f"models/wanted/{name}", words)]


def _gb(mib: int) -> float:
    return (mib << 20) / 1e9
