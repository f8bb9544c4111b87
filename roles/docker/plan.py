"""What a host gets: pure functions of options, tags and report."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from roles.common.findings import Finding
from roles.common.hardware import HardwareReport
from roles.common.lock import vendors_of
from roles.common.operations import TextFile
from roles.docker.options import DockerOptions, text_here

HEADER = "# Written by metal2model, role docker; change the inventory's `docker` options instead.\n"
DOCKER_KEYRING = "/etc/apt/keyrings/metal2model-docker.gpg"
DOCKER_SOURCES = "/etc/apt/sources.list.d/metal2model-docker.sources"
NVIDIA_KEYRING = "/etc/apt/keyrings/metal2model-nvidia-container-toolkit.gpg"
NVIDIA_SOURCES = "/etc/apt/sources.list.d/metal2model-nvidia-container-toolkit.sources"
NVIDIA_PIN = "/etc/apt/preferences.d/metal2model-nvidia-container-toolkit"
DAEMON = "/etc/docker/daemon.json"
RESTART = "/var/lib/metal2model/docker/restart"
"""Written anew when daemon.json has changed in a way that dockerd only takes up at its start."""
LOGINS = "/etc/metal2model/docker/logins.json"
CONTAINERD = "/etc/systemd/system/containerd.service.d/50-metal2model.conf"
HUB_LOGIN = "https://index.docker.io/v1/"
"""Docker Hub's name among logins: https://github.com/docker/cli/blob/master/cli/config/configfile/file.go"""

DOCKERS = ("docker-ce", "docker-ce-cli", "containerd.io")
NVIDIA = ("nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools",
          "libnvidia-container1")  # fmt: skip
"""Of one version: docs.nvidia.com/datacenter/cloud-native/container-toolkit, install-guide."""

CONFLICTING: dict[str, tuple[str, ...]] = {
    # https://docs.docker.com/engine/install/ubuntu/#uninstall-old-versions; those that have files of the same names.
    "docker": ("docker.io", "docker-cli", "docker-compose", "docker-compose-v2", "docker-buildx", "podman-docker",
               "containerd", "runc"),
    "archive": ("docker-ce", "docker-ce-cli", "docker-ce-rootless-extras", "containerd.io", "docker-buildx-plugin",
                "docker-compose-plugin", "docker-model-plugin", "podman-docker"),
    "existing": (),
}  # fmt: skip
"""Source -> packages that cannot stand beside its own."""

RELOADABLE = ("registry-mirrors", "insecure-registries", "live-restore", "debug", "labels", "shutdown-timeout",
              "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts")  # fmt: skip
"""Keys of daemon.json that a running dockerd takes up: docs.docker.com/reference/cli/dockerd, reload behavior."""

PUBLISHED = {("ubuntu", "22.04"), ("ubuntu", "24.04"), ("ubuntu", "26.04"), ("debian", "12"), ("debian", "13")}
"""What Docker publishes packages for, of the systems that this is for."""


@dataclass(frozen=True)
class Present:
    """What stands on a host already."""

    engine: Literal["", "docker", "archive"] = ""
    """Whose packages of the engine are installed; "" for none, and where nobody asked."""
    repository: bool = False
    """Our entry of Docker's repository."""
    authorities: Collection[str] = ()
    """Files of registries' authorities that we wrote."""


NOTHING = Present()


def source_of(
    options: DockerOptions, report: HardwareReport, present: Present = NOTHING
) -> Literal["docker", "archive", "existing"]:
    """Return where the engine comes from."""
    if options.source == "auto":
        if present.engine:
            return present.engine
        return "docker" if (report.os.id, report.os.version) == ("debian", "12") else "archive"
    return options.source


def findings(options: DockerOptions, tags: Sequence[str], report: HardwareReport) -> list[Finding]:
    """Return why containers cannot run on this host, or not with its cards."""
    system = report.os.name or report.os.id or None
    source = source_of(options, report)
    found = []
    if source == "docker" and (report.os.id, report.os.version) not in PUBLISHED:
        found.append(Finding("docker_source", "docker/source", {"system": system}))
    if source == "archive" and (report.os.id, report.os.version) == ("debian", "12"):
        # 20.10; CDI came with 25, and its docker-compose is the former program, in Python.
        if options.compose:
            found.append(Finding("docker_no_compose", "docker/compose", {"system": system}))
        if "nvidia" in vendors_of(tags):
            found.append(Finding("docker_no_cdi", "docker/source", {"system": system}))
    if report.is_container:
        found.append(Finding("docker_in_container", "", {"virtualization": report.virtualization}))
    return found


def kept(options: DockerOptions, present: Present) -> bool:
    """Whether the engine stays whose it is, because nobody said whose it shall be."""
    return options.source == "auto" and present.engine != ""


def refused(options: DockerOptions, tags: Sequence[str], report: HardwareReport, present: Present) -> list[str]:
    """Return why an engine that nobody chose cannot be kept; what an option says is judged before, by findings()."""
    former = source_of(options, report, present) == "archive" and (report.os.id, report.os.version) == ("debian", "12")
    if not (kept(options, present) and former and (options.compose or "nvidia" in vendors_of(tags))):
        return []
    lacks = "CDI, by which containers use NVIDIA's cards" if "nvidia" in vendors_of(tags) else "docker compose"
    instead = "" if "nvidia" in vendors_of(tags) else "; to keep it, write compose: False"
    return [
        f"docker/source: docker.io of Debian 12 is installed, and has no {lacks}; Docker's own packages would have to "
        f"take its place, which restarts its containers; write source: 'docker' for that{instead}; nothing was changed"
    ]


def packages(
    options: DockerOptions, tags: Sequence[str], report: HardwareReport, present: Present = NOTHING
) -> list[str]:
    """Return the wanted packages: the engine's, and NVIDIA's toolkit where there is a card of theirs."""
    source = source_of(options, report, present)
    toolkit = [f"{name}={options.nvidia_version}" for name in NVIDIA] if "nvidia" in vendors_of(tags) else []
    if source == "existing":
        return toolkit
    # Without its parser, a kernel with AppArmor lets no container start.
    if source == "docker":
        return [*DOCKERS, *(["docker-compose-plugin"] if options.compose else []), "apparmor", *toolkit]
    client = "docker-cli|docker.io" if report.os.id == "debian" else "docker.io"  # a package of its own since Debian 13
    compose = ["docker-compose-v2" if report.os.id == "ubuntu" else "docker-compose"] if options.compose else []
    return ["docker.io", *([client] if client != "docker.io" else []), *compose, "apparmor", *toolkit]


def _has_repository(options: DockerOptions, report: HardwareReport, present: Present) -> bool:
    """Whether Docker's repository is to have an entry of ours: a second one beside somebody's own stops apt."""
    return source_of(options, report, present) == "docker" and (not kept(options, present) or present.repository)


def sources(
    options: DockerOptions, tags: Sequence[str], report: HardwareReport, present: Present = NOTHING
) -> dict[str, TextFile | None]:
    """Return apt's sources of the packages, and what keeps the toolkit's at one version."""
    docker = nvidia = pin = None
    if _has_repository(options, report, present):
        docker = (
            f"{HEADER}Types: deb\nURIs: {options.repository_url.rstrip('/')}/linux/{report.os.id}\n"
            f"Suites: {report.os.codename}\nComponents: stable\nArchitectures: {report.architecture}\n"
            f"Signed-By: {DOCKER_KEYRING}\n"
        )
    if "nvidia" in vendors_of(tags):
        nvidia = (
            f"{HEADER}Types: deb\nURIs: {options.nvidia_url.rstrip('/')}/stable/deb/{report.architecture}\nSuites: /\n"
            f"Architectures: {report.architecture}\nSigned-By: {NVIDIA_KEYRING}\n"
        )
        # The CUDA repository has the same packages, in other versions.
        pin = f"{HEADER}Package: {' '.join(NVIDIA)}\nPin: version {options.nvidia_version}\nPin-Priority: 990\n"
    texts = {DOCKER_SOURCES: docker, NVIDIA_SOURCES: nvidia, NVIDIA_PIN: pin}
    return {path: None if text is None else TextFile(text) for path, text in texts.items()}


def keys(
    options: DockerOptions, tags: Sequence[str], report: HardwareReport, present: Present = NOTHING
) -> list[tuple[str, str, str, str]]:
    """Return the keys of the sources: URL, keyring, the option that pins it, and the fingerprint."""
    found = []
    if _has_repository(options, report, present):
        url = f"{options.repository_url.rstrip('/')}/linux/{report.os.id}/gpg"
        found.append((url, DOCKER_KEYRING, "docker/repository_key", options.repository_key))
    if "nvidia" in vendors_of(tags):
        url = f"{options.nvidia_url.rstrip('/')}/gpgkey"
        found.append((url, NVIDIA_KEYRING, "docker/nvidia_key", options.nvidia_key))
    return found


def daemon_settings(options: DockerOptions, tags: Sequence[str]) -> dict[str, Any]:
    """Return our part of daemon.json, mirrors excepted (docs.docker.com/reference/cli/dockerd)."""
    settings: dict[str, Any] = {
        "live-restore": options.live_restore,
        "log-driver": "json-file",
        "log-opts": {"max-size": f"{options.log_size_mib}m", "max-file": str(options.log_files)},
    }
    if options.data_root:
        settings["data-root"] = f"{options.data_root}/docker"
    if insecure := [name for name, registry in options.registries.items() if registry.insecure]:
        settings["insecure-registries"] = insecure
    if "nvidia" in vendors_of(tags):
        settings["features"] = {"cdi": True}  # the default since 28.3
    return {**settings, **options.settings}


def files(options: DockerOptions, present: Present = NOTHING) -> dict[str, TextFile | None]:
    """Return the files that are ours alone: registries' authorities, logins, and where containerd's data lie."""
    wanted: dict[str, TextFile | None] = dict.fromkeys(present.authorities)
    wanted |= {
        # What stands before a certificate in PEM is nobody's business, and says here that the file is ours.
        f"/etc/docker/certs.d/{name}/ca.crt": TextFile(HEADER + text_here(registry.ca_file))
        for name, registry in options.registries.items()
        if registry.ca_file
    }
    logins = {
        HUB_LOGIN if name == "docker.io" else name: {"auth": _auth(registry.login_file)}
        for name, registry in options.registries.items()
        if registry.login_file
    }
    wanted[LOGINS] = TextFile(json.dumps({"auths": logins}, indent=2) + "\n", "0600") if logins else None
    # Not in config.toml, which is the package's and the administrator's: containerd(8), --root.
    unit = f"{HEADER}[Service]\nExecStart=\nExecStart=/usr/bin/containerd --root {options.data_root}/containerd\n"
    wanted[CONTAINERD] = TextFile(unit) if options.data_root else None
    return wanted


def _auth(path: str) -> str:
    return base64.b64encode(text_here(path).strip().encode()).decode()
