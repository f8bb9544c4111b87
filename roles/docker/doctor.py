"""What the doctor asks for the docker role: the packages of the engine, and the registries of the images."""

from __future__ import annotations

from collections.abc import Sequence

from roles.common.hardware import HardwareReport
from roles.common.sources import PUBLIC_KEY, Archive, Source, archive, host_of, images, registry_of
from roles.docker.options import DockerOptions
from roles.docker.plan import DOCKER_SOURCES, NVIDIA_SOURCES, keys
from roles.docker.plan import sources as texts_of

URL_OPTIONS = {DOCKER_SOURCES: "docker/repository_url", NVIDIA_SOURCES: "docker/nvidia_url"}


def sources(
    options: DockerOptions, tags: Sequence[str], report: HardwareReport, references: Sequence[str]
) -> list[Source]:
    """
    Return where engine and images come from; ``references``: the images that servers of the host need.

    A registry with an entry of its own is not asked: its login and its authority are dockerd's, and no business of
    another program.
    """
    texts = texts_of(options, tags, report)
    found = []
    for path, option in URL_OPTIONS.items():
        if text := texts.get(path):
            wanted = Archive.of(text.content)
            found.append(archive(wanted, what=option.rpartition("_")[0], name=host_of(wanted.uri), option=option))
    for url, _, pinned_by, _ in keys(options, tags, report):
        option = "docker/nvidia_url" if "nvidia" in pinned_by else "docker/repository_url"
        found.append(
            Source(kind="key", what=f"key of {option}", name=host_of(url), option=option, url=url, shows=PUBLIC_KEY)
        )
    first: dict[str, str] = {}
    for reference in (*options.images, *references):
        first.setdefault(registry_of(reference)[0], reference)
    for registry, reference in first.items():
        if registry not in options.registries:
            found += images(reference, option="docker/mirrors", mirrors=options.mirrors)
    return found
