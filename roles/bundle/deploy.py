"""Deploy of the bundle role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra import host
from pyinfra.api import deploy

from roles.bundle.operations import collected
from roles.bundle.options import BundleOptions
from roles.common.mirror import IN_BUNDLES
from roles.common.operations import refuse
from roles.common.sources import Source

MODELS = "/etc/metal2model/models.json"
"""Where role models has written what it wants on the host."""
PROVISIONED = "/etc/apt/apt.conf.d/90metal2model"
"""What role base writes when it has its packages."""


@deploy("Bundle")
def deploy_bundle(
    options: BundleOptions,
    archives: Mapping[str, str],
    sources: Sequence[Source],
    *,
    images: Sequence[str],
    models: Sequence[str],
    is_from_bundle: bool,
    beyond: Mapping[str, str],
    made_for: str,
    lock_timeout_seconds: int,
) -> None:
    """
    Collect what this host was made from.

    ``archives``: what apt's addresses of an archive begin with on the host -> where a bundle has that archive.

    ``sources``: what the roles fetch.

    ``images``: what servers run in, by the names that docker takes.

    ``models``: names of ``models/wanted``.

    ``beyond``: option -> what it needs and this does not collect.

    ``made_for``: distribution, release and architecture.
    """
    problems = refused(beyond, is_from_bundle=is_from_bundle)
    refuse(name="See whether a bundle can have all of it", problems=problems)
    if not problems:
        made = {"made_by": "metal2model, deploys/bundle.py", "made_from": host.name, "made_for": made_for}
        collected(
            name="Collect what the host was made from",
            spec=specification(options, archives, sources, images=images, models=models, made=made),
            lock_timeout_seconds=lock_timeout_seconds,
        )


def refused(beyond: Mapping[str, str], *, is_from_bundle: bool) -> list[str]:
    """Return why a bundle of a host would not be whole."""
    if is_from_bundle:
        return [
            "mirrors/all: this host takes everything from a bundle itself; copy that one, or run this on a host that "
            "reaches the sources"
        ]
    return [
        f"{option}: needs {what}, which a bundle does not hold, and the host that takes everything from one could not "
        "be made; leave it out for the hosts that this bundle is for, and for this one"
        for option, what in beyond.items()
    ]


def specification(
    options: BundleOptions,
    archives: Mapping[str, str],
    sources: Sequence[Source],
    *,
    images: Sequence[str],
    models: Sequence[str],
    made: Mapping[str, str],
) -> dict[str, Any]:
    """Return what files/bundle.py is to collect."""
    return {
        "directory": options.directory,
        "provisioned": PROVISIONED,
        "made": dict(made),
        "sources": [[here, place] for here, place in archives.items()],
        "index": IN_BUNDLES.pypi,
        "files": [
            {"url": source.url, "sha256": source.sha256} for source in sources if source.kind in ("release", "key")
        ],
        "images": list(dict.fromkeys(images)),
        "models": list(models),
        "models_known": MODELS,
    }
