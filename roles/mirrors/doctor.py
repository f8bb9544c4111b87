"""What the doctor asks for the mirrors role: the archives of the distribution, and the Python index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from roles.common.mirror import IN_BUNDLES, Mirror, mirror_named, presets
from roles.common.options import has_login
from roles.common.sources import PIP, Archive, Source, archive, host_of
from roles.mirrors.facts import HostSources
from roles.mirrors.operations import originals
from roles.mirrors.options import UPSTREAM, MirrorsOptions
from roles.mirrors.sources import Entry, Release, entries, is_archive, mirror_uri

PACKAGES, SECURITY, PYPI = "apt", "apt security", "pypi"


def sources(options: MirrorsOptions, state: HostSources, *, needs_pypi: bool) -> list[Source]:
    """Return what apt and pip are to use on a host, and what they could use instead; every archive by one suite."""
    return [*_apt(options, state), *_pypi(options, needs_pypi=needs_pypi)]


def originals_of(state: HostSources) -> dict[str, str]:
    """Return what the archive's addresses begin with in a host's apt sources, each with its place in a bundle."""
    release = state.release
    return {
        f"{uri.rstrip('/')}/": place
        for path, text in state.apt_files.items()
        for entry in entries(path, text)
        if is_archive(path, entry, release) and (place := mirror_uri(entry, release, IN_BUNDLES, security=True))
        for uri in _served(entry)
        # The host refuses it by itself; it is not to stand in the arguments of a program there.
        if not has_login(uri)
    }


def _apt(options: MirrorsOptions, state: HostSources) -> Iterator[Source]:
    release, before = state.release, originals(state)
    wanted = [name for name in options.apt or () if name != UPSTREAM]
    for name in dict.fromkeys((*wanted, *presets())):
        yield from _mirror(mirror_named(name), before, release, options, declared=name in wanted)
    # What an option leaves out stays on the host as it is; what it names leaves the rest where it came from.
    for entry in _own(state.apt_files if options.apt is None else before, release):
        is_moved = any(mirror_uri(entry, release, mirror_named(name), options.security) for name in wanted)
        for uri in _served(entry):
            yield archive(
                _archive(uri, entry, release), what=SECURITY if entry.security else PACKAGES, name=host_of(uri),
                option="mirrors/security" if entry.security else "mirrors/apt", value=UPSTREAM if is_moved else "",
                declared=not is_moved,
            )  # fmt: skip


def _mirror(
    mirror: Mirror, before: Mapping[str, str], release: Release, options: MirrorsOptions, *, declared: bool
) -> Iterator[Source]:
    for entry in _own(before, release):
        uri = mirror_uri(entry, release, mirror, options.security)
        if uri:
            yield archive(
                _archive(uri, entry, release), what=SECURITY if entry.security else PACKAGES, name=mirror.name,
                option="mirrors/apt", value=mirror.name, declared=declared,
            )  # fmt: skip
        elif declared and (uri := mirror_uri(entry, release, mirror, security=True)):
            # Mirrors lag behind, so security updates come from them only where they come from nowhere else.
            yield archive(
                _archive(uri, entry, release), what=SECURITY, name=mirror.name, option="mirrors/security", value=True,
                declared=False, last_resort=True,
            )  # fmt: skip


def _archive(uri: str, entry: Entry, release: Release) -> Archive:
    return Archive(uri, entry.suites[0], "main", release.architecture)


def _own(texts: Mapping[str, str], release: Release) -> list[Entry]:
    """Return the entries of the distribution's archive, one for each place and kind of updates."""
    found: dict[tuple[object, bool], Entry] = {}
    for path, text in texts.items():
        for entry in entries(path, text):
            if is_archive(path, entry, release) and "deb" in entry.types:
                found.setdefault((entry.uris, entry.security), entry)
    return list(found.values())


def _served(entry: Entry) -> list[str]:
    return [uri for uri in entry.uris if uri.startswith(("http://", "https://"))]


def _pypi(options: MirrorsOptions, *, needs_pypi: bool) -> Iterator[Source]:
    wanted = [name for name in options.pypi or () if name != UPSTREAM]
    for name in dict.fromkeys((*wanted, *presets())):
        if index := mirror_named(name).pypi:
            yield _index(f"{index}/pip/", name, value=name, declared=needs_pypi and name in wanted)
    yield _index(PIP, "pip's own", value=UPSTREAM if wanted else "", declared=needs_pypi and not wanted)


def _index(page: str, name: str, *, value: str, declared: bool) -> Source:
    """Pip's own newest wheel: an index may well have the page of a package, and its files elsewhere."""
    return Source(
        kind="pypi", what=PYPI, name=name, option="mirrors/pypi", value=value, declared=declared,
        listing=page, pattern='href="([^"#]+)', files=("*pip-*-py3-none-any.whl",),
    )  # fmt: skip
