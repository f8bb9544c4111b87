"""Where a host fetches something from: what roles say of it for the doctor, who asks each whether it can be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

SIGNED = "BEGIN PGP SIGNED MESSAGE"
"""Stands at the top of an InRelease file: https://wiki.debian.org/DebianRepository/Format."""
PUBLIC_KEY = "BEGIN PGP PUBLIC KEY BLOCK"
PIP = "pip:"
"""As a listing: the index that pip on the host is set to, which only the host knows."""
DOCKER_HUB = "docker.io"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place for one thing, and the file that shows whether the host gets it there."""

    kind: Literal["apt", "pypi", "key", "release", "model", "image"]
    what: str
    """What comes from there: "model r1". Sources of the same are alternatives: one that can be used is enough."""
    name: str
    """The place, as the inventory spells it where it can: "tuna"."""
    option: str
    """Path of the option that chooses the place."""
    value: str | bool = ""
    """What to write there to have this one; "" where no word would do."""
    url: str = ""
    """A file that is fetched from there. With `listing`, its address up to its name, or "" when the listing has whole
    addresses."""
    sha256: str = ""
    """What the file must be, where the role knows that."""
    is_manifest: bool = False
    """The file is the largest layer of what this manifest of a registry describes."""
    listing: str = ""
    """A page that names the file, where only it does."""
    pattern: str = ""
    """Regular expression for names in the listing, its first group."""
    files: tuple[str, ...] = ()
    """Globs, one of which the name must fit; the last such name in the listing is taken."""
    shows: str = ""
    """Stands in the listing, or without one in the first megabyte of the file, if it is the right one; "" where
    anything but a page for people will do."""
    declared: bool = True
    """The declaration would use it. False: it could, with another `option`."""
    last_resort: bool = False
    """Not to be preferred for its speed."""
    client: Literal["apt", "other"] = "other"
    """Whose proxy counts: apt has settings of its own, the others read the environment."""


@dataclass(frozen=True)
class Archive:
    """A suite of an archive of packages, as a source of apt names it."""

    uri: str
    suite: str
    """Ends in a slash where the packages lie in a directory without components (sources.list(5))."""
    component: str
    architecture: str

    @classmethod
    def of(cls, text: str) -> Archive:
        """Read a deb822 source as our roles write them, one stanza with one of each."""
        fields = dict(re.findall(r"(?m)^(\w+): (.*)$", text))
        return cls(fields["URIs"], fields["Suites"], fields.get("Components", ""), fields["Architectures"])


def archive(
    wanted: Archive, *, what: str, name: str, option: str, value: str | bool = "", declared: bool = True,
    last_resort: bool = False,
) -> Source:  # fmt: skip
    """Return an archive; what is asked for is the list of packages that its signed index names."""
    uri = wanted.uri.rstrip("/")
    if wanted.suite.endswith("/"):
        base, packages = f"{uri}/{wanted.suite.lstrip('/')}", "*Packages"
    else:
        base, packages = f"{uri}/dists/{wanted.suite}/", f"{wanted.component}/binary-{wanted.architecture}/Packages"
    return Source(
        kind="apt", what=what, name=name, option=option, value=value, declared=declared, last_resort=last_resort,
        client="apt", url=base, listing=f"{base}InRelease", shows=SIGNED, pattern=r"(?m) (\S+)$",
        files=(*((packages,) if wanted.suite.endswith("/") else ()), f"{packages}.gz", f"{packages}.xz"),
    )  # fmt: skip


def registry_of(reference: str) -> tuple[str, str, str]:
    """
    Return whose image a reference means: registry, repository there, and tag or digest.

    https://github.com/distribution/reference/blob/main/normalize.go
    """
    path, _, digest = reference.partition("@")
    first, _, rest = path.partition("/")
    is_host = bool(rest) and (re.search(r"[.:]", first) is not None or first == "localhost")
    registry, path = (first, rest) if is_host else (DOCKER_HUB, path)
    repository, _, tag = path.partition(":")
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository, digest or tag or "latest"


def images(reference: str, *, option: str, mirrors: Sequence[str] = ()) -> list[Source]:
    """
    Return a registry, by the largest layer of one image there, and the mirrors that stand before it.

    One image for each registry is enough, and each that is asked for counts as a pull:
    https://docs.docker.com/docker-hub/usage/pulls/
    """
    registry, repository, version = registry_of(reference)
    # Docker Hub's registry has another name than its images: github.com/moby/moby, registry/config.go.
    places = [f"https://{'registry-1.docker.io' if registry == DOCKER_HUB else registry}"]
    if registry == DOCKER_HUB:
        places = [*(mirror.rstrip("/") for mirror in mirrors), *places]
    return [
        Source(
            kind="image", what=f"images of {registry}", name=host_of(place), option=option, is_manifest=True,
            url=f"{place}/v2/{repository}/manifests/{version}",
        )
        for place in places
    ]  # fmt: skip


def host_of(url: str) -> str:
    """Return whom a URL asks: the name of a place that has no other."""
    return urlsplit(url).hostname or url
