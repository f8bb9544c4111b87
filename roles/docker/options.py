"""Options of the docker role."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roles.common.container import ImageReference
from roles.common.options import Fingerprint, HttpUrl, OptionProblem, Options, Seconds

Source = Literal["auto", "docker", "archive", "existing"]
RegistryName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$")]
"""As it stands before the first slash of an image's name: `registry.example.org:5000`; `docker.io` is Docker Hub."""

SETTINGS = {
    "registry-mirrors": "mirrors",
    "insecure-registries": "registries/NAME/insecure",
    "data-root": "data_root",
    "live-restore": "live_restore",
    "log-driver": "log_size_mib",
    "log-opts": "log_size_mib and log_files",
}
"""Keys of daemon.json that an option of this role sets -> that option."""


def text_here(path: str) -> str:
    """Return the text of a file on the controller."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(
            f"{path!r} is no file on this machine that can be read: {error.strerror}; it is read here, by who runs "
            "this, and written to the host"
        ) from None


def _authority(path: str) -> str:
    if "-----BEGIN CERTIFICATE-----" not in text_here(path):
        raise ValueError(
            f"{path!r} holds no certificate in PEM, with a line BEGIN CERTIFICATE; of one in DER, "
            f"openssl x509 -inform der -in {path} makes it"
        )
    return path


def _login(path: str) -> str:
    user, colon, password = text_here(path).strip().partition(":")
    if not (user and colon and password) or "\n" in password:
        raise ValueError(f"{path!r} must hold one line, USER:PASSWORD, as the registry knows it; a token is a password")
    return path


class RegistryOptions(Options):
    """A registry of images that is not open to everybody, or not signed by a known authority."""

    advice: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("username", "password", "login"), "write login_file, the path of a file here that holds USER:PASSWORD"
        ),
        "ca": "write ca_file, the path of the authority's certificate here",
    }

    ca_file: Annotated[str, AfterValidator(_authority)] | None = None
    """File on the controller with the certificate of the authority that signs the registry's own, in PEM."""

    login_file: Annotated[str, AfterValidator(_login)] | None = None
    """File on the controller that holds `USER:PASSWORD`. On the host it stands in root's Docker configuration (0600).
    None: a login that root made there by `docker login` is used."""

    insecure: bool = False
    """Speak plain HTTP, or TLS without looking at the certificate. Anybody in between can then give you any image."""


class DockerOptions(Options):
    """Docker's engine, where the host is to run containers: `docker: {}` is enough."""

    advice: ClassVar[dict[str, str]] = {
        "registry_mirrors": "write mirrors",
        "insecure_registries": "write registries: {NAME: {insecure: True}}",
        "daemon": "write settings",
        "users": "who may talk to Docker is root on the host; add people to the group docker yourself",
    }

    source: Source = "auto"
    """
    Where the engine comes from: `docker` is Docker's own repository, `archive` the distribution's; `existing`: you
    install it yourself. `auto`: whichever of the two is installed; else archive, but docker on Debian 12, whose own
    lacks compose and CDI. With `docker` or `archive`, packages of the other that cannot stand beside the wanted ones
    are removed; images stay.
    """

    repository_url: HttpUrl = "https://download.docker.com"
    """Docker's repository, or a mirror of it: `https://mirrors.tuna.tsinghua.edu.cn/docker-ce`."""

    repository_key: Fingerprint = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
    """Fingerprint of the key that signs it."""

    compose: bool = True
    """Install `docker compose`."""

    mirrors: list[HttpUrl] = []
    """Mirrors of Docker Hub, in order: the first that answers is used, and kept until it stops answering. They see
    which images you pull, and are asked for images of no other registry."""

    probe_timeout_seconds: Seconds = 5
    """How long a mirror may be silent."""

    registries: dict[RegistryName, RegistryOptions] = {}
    """Private registries, by the name that stands in their images'."""

    images: list[ImageReference] = []
    """Images to pull before anything needs them. Those of declared servers are pulled anyway."""

    data_root: Annotated[str, Field(pattern=r"^/[^\s:]+$")] | None = None
    """
    Directory for images and containers, on a disk with room: Docker's data lie in `docker` below it, containerd's,
    which Docker 29 and later keep images in, in `containerd`. None: /var/lib. What lies elsewhere already is not moved.
    """

    live_restore: bool = True
    """Containers go on while dockerd is restarted; those of units of this project are started anew with it."""

    log_size_mib: Annotated[int, Field(ge=1)] = 50
    """A container's log is rotated at this size."""

    log_files: Annotated[int, Field(ge=1)] = 3
    """How many of them are kept."""

    settings: dict[str, Any] = {}
    """Further keys of /etc/docker/daemon.json, such as `{"default-address-pools": [...]}`. Keys there that this role
    does not know are left alone."""

    nvidia_url: HttpUrl = "https://nvidia.github.io/libnvidia-container"
    """NVIDIA's repository of the container toolkit, or a mirror of it: `https://mirrors.ustc.edu.cn/libnvidia-container`.
    The toolkit is installed on hosts with an NVIDIA tag."""

    nvidia_key: Fingerprint = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
    """Fingerprint of the key that signs it."""

    nvidia_version: Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+~-]*$")] = "1.20.1-1"
    """Version of its four packages, which are kept at one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key in self.settings:
            if option := SETTINGS.get(key):
                raise OptionProblem("settings", f"{key!r} is set by the option {option!r}; use that")
        if self.source == "existing" and self.data_root:
            raise OptionProblem(
                "data_root",
                "with source: 'existing' the engine is yours, and where containerd keeps its data with it; move both "
                "by its own configuration and leave this out, or choose another source",
            )
        if "docker.io" in self.registries and self.registries["docker.io"].insecure:
            raise OptionProblem("registries/docker.io/insecure", "Docker Hub is only reached by TLS; leave it out")
        return self
