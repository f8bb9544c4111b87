"""Containers that systemd runs: their images, and the text of their units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol, runtime_checkable

from pydantic import AfterValidator

from roles.common.rendering import templates
from roles.common.systemd import environment_word, exec_line

_IMAGE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._-]*(:[0-9]+(?=/))?(/[a-z0-9][a-z0-9._-]*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def _whole_reference(image: str) -> str:
    match = _IMAGE.fullmatch(image)
    if match is None:
        raise ValueError(f"{image!r} is no image; write name:tag, or name:tag@sha256:... as docker pull takes it")
    if not match["digest"] and match["tag"] in (None, "latest"):
        raise ValueError(
            f"{image!r} is another image every week; write a version, name:tag, or pin it by name@sha256:..."
        )
    return image


ImageReference = Annotated[str, AfterValidator(_whole_reference)]
"""An image by version, or by digest. A version is pulled once: the host keeps what it meant then."""


@runtime_checkable
class ContainerUser(Protocol):
    """Options of a role that may run containers, for which the docker role must be declared."""

    @property
    def needs_docker(self) -> str:
        """Path of the option, below the role, by which it does; "" when it does not."""


TEMPLATES = templates(__file__)
DOCKER = "/usr/bin/docker"


@dataclass(frozen=True)
class Mount:
    """A directory of the host that a container sees."""

    source: str
    target: str
    writable: bool = False

    def __str__(self) -> str:
        """Spell the value of ``docker run --mount``."""
        return f"type=bind,source={self.source},target={self.target}{'' if self.writable else ',readonly'}"


def cannot_mount(path: str) -> str | None:
    """Return what is wrong with a model's path for ``docker run --mount``, whose value is a line of CSV."""
    found = next((character for character in ',"' if character in path), None)
    return f"is {path}, and docker's --mount cannot hold {found!r} in a path; rename it" if found else None


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container that a unit runs in the foreground; docker-run(1)."""

    name: str
    """What it is, such as `vllm-r1`."""
    image: str
    arguments: Sequence[str] = ()
    """Of the image's entry point."""
    publish: tuple[str, int, int] | None = None
    """Address and port on the host, port in the container; None for the host's own network."""
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: str = ""
    """File on the host with NAME=value lines, root's, 0600; "" for none."""
    mounts: Sequence[Mount] = ()
    devices: Sequence[str] = ()
    """What ``--device`` takes: a path, or a CDI name such as ``nvidia.com/gpu=all``."""
    groups: Sequence[int | str] = ()
    """Supplementary groups in the container, by number where the image does not know the name."""
    options: Sequence[str] = ()
    """Further words for ``docker run``, such as ``--shm-size=16g``."""
    run_by: Sequence[str] = ()
    """Words before ``docker run``: a program of the host that runs it."""

    @property
    def own_name(self) -> str:
        """
        Its name under docker: one that was left behind is removed at start, and nobody else may have it.

        `open-webui` alone is what upstream's quick start calls its container, whose chats would go with it.
        """
        return f"metal2model-{self.name}"


def run_line(container: Container) -> str:
    """Return the ``ExecStart=`` that runs a container until it ends or the unit is stopped."""
    words = [*container.run_by, DOCKER, "run", "--rm", "--pull=never", "--name", container.own_name]
    words += ["--log-driver=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    if container.publish:
        address, port, inside = container.publish
        words.append(f"--publish={f'[{address}]' if ':' in address else address}:{port}:{inside}")
    else:
        words.append("--network=host")
    words += [f"--env={name}={value}" for name, value in sorted(container.environment.items())]
    words += [f"--mount={mount}" for mount in container.mounts]
    words += [f"--device={device}" for device in container.devices]
    words += [f"--group-add={group}" for group in container.groups]
    words += container.options
    line = exec_line(words)
    if container.secrets:
        # Expanded by systemd itself to where LoadCredential= put the file.
        line += " --env-file=${CREDENTIALS_DIRECTORY}/environment"
    return f"{line} {exec_line([container.image, *container.arguments])}"


def container_unit(
    container: Container,
    *,
    role: str,
    option: str,
    description: str,
    documentation: str,
    settings: Sequence[str] = (),
) -> str:
    """
    Return the text of the unit that runs a container.

    ``role`` wrote it, ``option`` is the path to change in the inventory; ``settings`` are further lines of [Service].
    """
    return TEMPLATES.get_template("container.service.j2").render(
        container=container,
        command=run_line(container),
        docker=DOCKER,
        role=role,
        option=option,
        description=description,
        documentation=documentation,
        settings=settings,
        environment_word=environment_word,
    )
