"""Options of the dify role."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from roles.common.endpoint import Endpoint
from roles.common.findings import Finding, Word
from roles.common.options import HttpUrl, OptionProblem, Options, Port, Seconds, Sha256
from roles.common.secrets import SecretFile, VariableName, keep_apart

SET_BY_ROLE = {
    "SECRET_KEY", "INIT_PASSWORD", "DB_PASSWORD", "REDIS_PASSWORD", "CELERY_BROKER_URL", "SANDBOX_API_KEY",
    "CODE_EXECUTION_API_KEY", "PLUGIN_DAEMON_KEY", "PLUGIN_DIFY_INNER_API_KEY", "WEAVIATE_API_KEY",
    "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS", "DIFY_AGENT_API_TOKEN", "AGENT_BACKEND_API_TOKEN",
    "DIFY_AGENT_SERVER_SECRET_KEY", "DIFY_AGENT_REDIS_URL", "DIFY_AGENT_LOCAL_SANDBOX_AUTH_TOKEN",
    "DIFY_AGENT_SHELLCTL_AUTH_TOKEN", "SHELLCTL_AUTH_TOKEN",
}  # fmt: skip
"""Variables that hold secrets, which are made on the host."""


class DifyOptions(Options):
    """Dify by docker compose, as one unit: `dify.service`."""

    advice: ClassVar[dict[str, str]] = {
        "image": "upstream's compose file names its images, each by version; write version",
        "password": "it is generated on the host, in /etc/metal2model/dify/init.password",
    }

    version: Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9._-]*$")] | None = None
    """Upstream's tag, `1.17.1`. Required: the database goes along with a newer one, and not back."""

    sha256: Sha256 | None = None
    """Digest of the tag's source archive. Required: upstream publishes none that could be pinned here."""

    download_url: HttpUrl = "https://github.com/langgenius/dify"
    """Where the project's `archive/refs/tags/` is served; a proxy of it works as well."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address shows the login to that network, without TLS."""

    port: Port = 8080
    """TCP port."""

    backends: list[str] | None = None
    """
    Servers of this host whose settings the card at the end of a run gives, as in `llama_cpp/instances/r1`. None: all.
    Dify keeps its model providers in its own database; they are entered in its page.
    """

    environment: dict[str, Annotated[str, Field(pattern=r"^[^\n]*$")]] = {}
    """Lines of upstream's `.env` that shall be others than in `.env.example`."""

    secrets: dict[VariableName, SecretFile] = {}
    """Those of them that hold secrets -> the file on the host, root's, whose first word is the value."""

    ready_timeout_seconds: Seconds = 600
    """How long `verify` waits for the page. The first start makes the database."""

    present: bool = True
    """False: the containers are stopped and removed; their data stay in /var/lib/dify."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.present and self.version is None:
            raise OptionProblem(
                "version", f"this option is required and has no default; choose one of {self.download_url}/releases"
            )
        if self.present and self.sha256 is None:
            raise OptionProblem(
                "sha256",
                "this option is required, for upstream publishes no digests; fetch "
                f"{self.download_url}/archive/refs/tags/{self.version}.tar.gz twice, by two ways if you can, and give "
                "what sha256sum says of both",
            )
        if secrets := sorted(SET_BY_ROLE & {*self.environment, *self.secrets}):
            raise OptionProblem(
                "environment" if secrets[0] in self.environment else "secrets",
                f"{', '.join(secrets)}: made on the host, so that no inventory holds it; bring your own as a file in "
                "/etc/metal2model/dify before the first run",
            )
        keep_apart(self.environment, self.secrets)
        return self

    @property
    def needs_docker(self) -> str:
        """The option by which this role runs containers; "" when it does not."""
        return "present" if self.present else ""

    def listeners(self) -> list[tuple[str, int]]:
        """Return the TCP port that this takes on the host, with the path of its option below the role."""
        return [("port", self.port)] if self.present else []

    def chosen(self, servers: Sequence[Endpoint]) -> list[Endpoint]:
        """Return the servers of this host that Dify shall use."""
        return [one for one in servers if self.backends is None or one.name in self.backends]

    def findings(self, servers: Sequence[Endpoint]) -> list[Finding]:
        """Return which of the servers cannot be reached from a container."""
        if not self.present:
            return []
        unreachable = [one.name for one in self.chosen(servers) if from_containers(one) is None]
        words: dict[str, Word] = {"found": unreachable}
        return [Finding("dify_unreachable", "dify/backends", words)] if unreachable else []


def from_containers(server: Endpoint) -> str | None:
    """Return the base URL by which a container reaches a server of its host; None where it does not."""
    address = urlsplit(server.url)
    listens = server.listens or address.hostname or ""
    if listens in ("0.0.0.0", "::"):
        return f"http://host.docker.internal:{address.port}/v1"
    try:
        loopback = ip_address(listens).is_loopback
    except ValueError:
        loopback = listens == "localhost"
    return None if loopback else f"{server.url}/v1"
