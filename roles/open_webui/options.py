"""Options of the open_webui role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from roles.common.container import ImageReference
from roles.common.findings import Finding, Word
from roles.common.hardware import HardwareReport
from roles.common.options import HttpUrl, InstanceName, OptionProblem, Options, Port, Seconds
from roles.common.secrets import SecretFile, VariableName, keep_apart

VERSION = "0.12.4"
"""Of the PyPI package that files/open-webui.txt pins, and of the image by default."""

PYTHONS = {("ubuntu", "24.04"), ("debian", "12")}
"""Systems whose own Python the package runs on: it wants 3.11 or 3.12 (its metadata's Requires-Python)."""

SET_BY_OPTIONS = {
    "OPENAI_API_BASE_URL": "backends", "OPENAI_API_BASE_URLS": "backends", "OPENAI_API_KEY": "backends",
    "OPENAI_API_KEYS": "backends", "OLLAMA_BASE_URL": "backends", "OLLAMA_BASE_URLS": "backends",
    "ENABLE_OPENAI_API": "backends", "ENABLE_OLLAMA_API": "backends", "WEBUI_ADMIN_EMAIL": "admin_email",
    "WEBUI_ADMIN_PASSWORD": "admin_email", "WEBUI_SECRET_KEY": "present", "ENABLE_SIGNUP": "signup", "PORT": "port",
    "HOST": "host", "DATA_DIR": "method", "ENABLE_PERSISTENT_CONFIG": "settings_from",
}  # fmt: skip
"""Variables of Open WebUI that an option of this role sets -> that option."""


class BackendOptions(Options):
    """A server elsewhere that speaks OpenAI's API."""

    url: HttpUrl
    """Its base URL, which ends in `/v1`."""

    api_key_file: Annotated[str, Field(pattern="^/")] | None = None
    """File on this host, root's, that holds the key for it. None: it asks for none."""


class OpenWebuiOptions(Options):
    """Open WebUI, a chat page in the browser, in the unit `open-webui.service`."""

    advice: ClassVar[dict[str, str]] = {
        "auth": "there is always a login; write signup: True where people may make accounts themselves",
        "admin_password": "it is generated on the host, in /etc/metal2model/open_webui/admin.password",
        "ollama_base_url": "servers of this host are found; write more_backends for others",
        "openai_api_base_url": "servers of this host are found; write more_backends for others",
    }

    method: Literal["native", "container"] = "native"
    """
    `native`: the PyPI package in an environment of its own, without PyTorch, which it needs for computing embeddings
    itself alone. `container`: upstream's image, under docker.
    """

    image: ImageReference = f"ghcr.io/open-webui/open-webui:v{VERSION}"
    """What `container` runs. Data are made newer by a newer version, and cannot go back."""

    python: Annotated[str, Field(pattern=r"^(3\.1[12]|/\S+)$")] | None = None
    """
    Python of `native`, 3.11 or 3.12: a version, which uv finds on the host or downloads, or a path. None: the host's.
    """

    host: str = "127.0.0.1"
    """Address to listen on. Anything but a loopback address shows the login to that network, without TLS."""

    port: Port = 3000
    """TCP port."""

    backends: list[str] | None = None
    """Servers of this host to connect, as in `llama_cpp/instances/r1`. None: all; a new one is connected by itself."""

    more_backends: Mapping[InstanceName, BackendOptions] = {}
    """Servers elsewhere, by any name."""

    admin_email: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+$")] = "admin@localhost"
    """
    Login of the first account, an administrator, made at the first start; no mail is sent. Its first password is
    generated on the host, in `/etc/metal2model/open_webui/admin.password` (root, 0600); change it in the page.
    """

    signup: bool = False
    """People may ask for an account, which an administrator has to approve."""

    settings_from: Literal["inventory", "page"] = "inventory"
    """
    What holds after a restart: what is written here, or what an administrator has changed in the page (upstream's
    ENABLE_PERSISTENT_CONFIG). With `page`, a change of backends here may have no effect.
    """

    environment: dict[str, str] = {}
    """Further environment variables (docs.openwebui.com/reference/env-configuration), such as `OFFLINE_MODE`."""

    secrets: dict[VariableName, SecretFile] = {}
    """Those that hold secrets -> the file on the host, root's, whose first word is the value."""

    ready_timeout_seconds: Seconds = 300
    """How long `verify` waits for the page. The first start makes the database."""

    present: bool = True
    """False: it is stopped and removed; accounts and chats stay in /var/lib/open-webui."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method == "container" and self.python:
            raise OptionProblem("python", "has no effect with method: 'container'; remove it")
        for name in (*self.environment, *self.secrets):
            if option := SET_BY_OPTIONS.get(name):
                raise OptionProblem(
                    "secrets" if name in self.secrets else "environment",
                    f"{name} is set by the role; use the option {option!r}",
                )
        keep_apart(self.environment, self.secrets)
        return self

    @property
    def needs_docker(self) -> str:
        """The option by which this role runs containers; "" when it does not."""
        return "method" if self.present and self.method == "container" else ""

    def listeners(self) -> list[tuple[str, int]]:
        """Return the TCP port that this takes on the host, with the path of its option below the role."""
        return [("port", self.port)] if self.present else []

    def findings(self, report: HardwareReport) -> list[Finding]:
        """Return what speaks against these options on this host."""
        system = (report.os.id, report.os.version)
        if self.present and self.method == "native" and self.python is None and system not in PYTHONS:
            words: dict[str, Word] = {"found": f"{report.os.id} {report.os.version}"}
            return [Finding("open_webui_python", "open_webui/python", words)]
        return []
