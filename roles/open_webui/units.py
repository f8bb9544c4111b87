"""Text of Open WebUI's unit and of what it reads: pure functions of the options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from roles.common.container import Container, Mount, container_unit
from roles.common.endpoint import Endpoint
from roles.common.python import PythonEnvironment
from roles.common.rendering import templates
from roles.common.secrets import EnvironmentFile, KeyIn, Parts
from roles.common.systemd import environment_word, exec_line
from roles.open_webui.options import VERSION, OpenWebuiOptions

UNIT = "open-webui.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
ROOT = "/opt/metal2model/open_webui"
SECRETS = "/etc/metal2model/open_webui"
ENVIRONMENT = f"{SECRETS}/environment"
SECRET_KEY = f"{SECRETS}/secret.key"
PASSWORD = f"{SECRETS}/admin.password"
DATA = "/var/lib/open-webui"
DOCUMENTATION = "https://docs.openwebui.com"
REQUIREMENTS = Path(__file__).parent / "files" / "open-webui.txt"
TEMPLATES = templates(__file__)

QUIET = {
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "true",
    "SCARF_NO_ANALYTICS": "true",
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    # Nothing here computes embeddings: a document goes to the model as it is.
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
    "RAG_EMBEDDING_ENGINE": "openai",
}
"""It asks nobody but its backends, and downloads no models (docs.openwebui.com/reference/env-configuration)."""


def python_of(options: OpenWebuiOptions) -> PythonEnvironment:
    """Return the environment of the PyPI package."""
    return PythonEnvironment(
        root=ROOT,
        version=VERSION,
        requirements=REQUIREMENTS.read_text(),
        role="open_webui",
        python=options.python or "",
        module="uvicorn, open_webui",
    )


def chosen(options: OpenWebuiOptions, servers: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the servers of this host that the page offers, each once: one may serve several models."""
    wanted = [one for one in servers if options.backends is None or one.name in options.backends]
    return list({one.url: one for one in wanted}.values())


def environment(options: OpenWebuiOptions, servers: Sequence[Endpoint]) -> EnvironmentFile:
    """Return the file with all that depends on keys; the page takes the keys of several backends as one variable."""
    found = chosen(options, servers)
    # Ollama's own API lets administrators see and load its models, which OpenAI's does not.
    ollama = [one for one in found if one.name.startswith("ollama/")]
    backends = [(f"{one.url}/v1", one.api_key_file) for one in found if one not in ollama]
    backends += [(one.url, one.api_key_file) for one in options.more_backends.values()]
    keys: list[str | KeyIn] = []
    for _, file in backends:
        keys += [*([";"] if keys else []), KeyIn(file) if file else "none"]
    values: dict[str, Parts] = {
        **{name: [KeyIn(file)] for name, file in options.secrets.items()},
        "WEBUI_SECRET_KEY": [KeyIn(SECRET_KEY)],
        "WEBUI_ADMIN_EMAIL": [options.admin_email],
        "WEBUI_ADMIN_PASSWORD": [KeyIn(PASSWORD)],
        "ENABLE_SIGNUP": [_word(options.signup)],
        "ENABLE_PERSISTENT_CONFIG": [_word(options.settings_from == "page")],
        "ENABLE_OLLAMA_API": [_word(bool(ollama))],
        "ENABLE_OPENAI_API": [_word(bool(backends))],
    }
    if ollama:
        values["OLLAMA_BASE_URLS"] = [";".join(one.url for one in ollama)]
    if backends:
        values["OPENAI_API_BASE_URLS"] = [";".join(url for url, _ in backends)]
        values["OPENAI_API_KEYS"] = keys
    return EnvironmentFile(path=ENVIRONMENT, values=values, owner="open_webui")


def render(options: OpenWebuiOptions) -> str:
    """Return the text of the unit."""
    variables = {**QUIET, **options.environment}
    privileged = options.port < 1024  # capabilities(7)
    if options.method == "container":
        variables |= {"HOST": options.host, "PORT": str(options.port)}
        container = Container(
            name="open-webui",
            image=options.image,
            environment=variables,
            secrets=ENVIRONMENT,
            mounts=[Mount(DATA, "/app/backend/data", writable=True)],
            options=["--cap-add=NET_BIND_SERVICE"] if privileged else [],
        )
        # The image's root has no capability to write what another owns, such as what the native unit left.
        data = (f"install -d -m 0700 {DATA}", f"chown -R -H root:root {DATA}")
        return container_unit(
            container,
            role="open_webui",
            option="open_webui",
            description="Open WebUI",
            documentation=DOCUMENTATION,
            settings=[f"ExecStartPre=+/usr/bin/{command}" for command in data],
        )
    words = [f"{ROOT}/current/bin/open-webui", "serve", "--host", options.host, "--port", str(options.port)]
    return TEMPLATES.get_template("open-webui.service.j2").render(
        command=exec_line(words),
        data=DATA,
        environment_file=ENVIRONMENT,
        environment=[environment_word(name, value) for name, value in sorted(variables.items())],
        documentation=DOCUMENTATION,
        capabilities="CAP_NET_BIND_SERVICE" if privileged else "",
    )


def reads(options: OpenWebuiOptions) -> tuple[str, ...]:
    """Return what the unit reads at its start, so that a change of any of it restarts it."""
    return (UNIT_FILE, ENVIRONMENT, *([f"{ROOT}/current"] if options.method == "native" else []))


def _word(value: bool) -> str:
    return "true" if value else "false"
