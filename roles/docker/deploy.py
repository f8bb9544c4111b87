"""Deploy of the docker role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyinfra import host
from pyinfra.api import deploy

from roles.common.hardware import HardwareReport
from roles.common.images import images
from roles.common.keyring import trusted_key
from roles.common.lock import declared_cards, vendors_of
from roles.common.operations import Unit, file_set, refuse, units
from roles.docker.facts import Presence
from roles.docker.operations import engine, proven, settings
from roles.docker.options import DockerOptions
from roles.docker.plan import (
    CONFLICTING,
    CONTAINERD,
    DAEMON,
    LOGINS,
    RELOADABLE,
    RESTART,
    Present,
    daemon_settings,
    files,
    kept,
    keys,
    packages,
    refused,
    source_of,
    sources,
)

RECORDS = "/var/lib/metal2model/docker"


@deploy("Docker")
def deploy_docker(
    options: DockerOptions,
    tags: Sequence[str],
    report: HardwareReport,
    lock_timeout_seconds: int,
    bundle: str | None = None,
) -> None:
    """
    Have containers run on the host, and see its cards.

    ``bundle``: base of the bundle that images come from; None for their registries.
    """
    present: Present = host.get_fact(Presence)
    if problems := refused(options, tags, report, present):
        refuse(name="Keep the engine that is there", problems=problems)
        return
    source = source_of(options, report, present)
    for url, path, option, fingerprint in keys(options, tags, report, present):
        trusted_key(name=f"Trust the key of {option}", url=url, path=path, option=option, fingerprints=[fingerprint])
    file_set(name="Write the files", files={**sources(options, tags, report, present), **files(options, present)})
    if wanted := packages(options, tags, report, present):
        engine(
            name="Install the engine",
            wanted=wanted,
            conflicting=() if kept(options, present) else CONFLICTING[source],
            lock_timeout_seconds=lock_timeout_seconds,
        )
    settings(name="Write daemon.json", wanted=json_files(options, tags))
    units(name="Run the engine", units=wanted_units(options, tags, report))
    if options.images:
        images(name="Pull the images", references=options.images, bundle=bundle)
    proven(
        name="Prove that a container runs",
        gpus=len(declared_cards(tags, report, "nvidia")),
        renderers=len(declared_cards(tags, report, "intel")),
    )


def json_files(options: DockerOptions, tags: Sequence[str]) -> dict[str, Any]:
    """Return our part of JSON files that others write, too, as files/settings.py takes it."""
    return {
        "files": [
            {
                "path": DAEMON,
                "record": f"{RECORDS}/daemon.json",
                "wanted": daemon_settings(options, tags),
                "mode": "0644",
                "restart": {"path": RESTART, "reloadable": RELOADABLE},
                "reload": ["systemctl", "try-reload-or-restart", "docker.service"],
                "validate": ["dockerd", "--validate", "--config-file"],
            },
            {"path": "~root/.docker/config.json", "record": f"{RECORDS}/logins.json", "wanted": LOGINS, "mode": "0600"},
        ],
        "mirrors": options.mirrors,
        "timeout": options.probe_timeout_seconds,
    }


def wanted_units(options: DockerOptions, tags: Sequence[str], report: HardwareReport) -> list[Unit]:
    """Return the units of the engine, and what each reads at its start."""
    found = [Unit("docker.service", (RESTART, CONTAINERD))]
    if source_of(options, report) != "existing":
        found.insert(0, Unit("containerd.service", (CONTAINERD,)))
    if "nvidia" in vendors_of(tags):
        # Describes the cards to Docker anew when the driver changes.
        found.append(Unit("nvidia-cdi-refresh.path"))
    return found
