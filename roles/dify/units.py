"""Text of Dify's unit and of what it reads: pure functions of the options."""

from __future__ import annotations

from hashlib import sha256

from roles.common.container import DOCKER
from roles.common.rendering import templates
from roles.common.secrets import EnvironmentFile, KeyIn, Parts
from roles.common.systemd import exec_line
from roles.dify.options import DifyOptions

UNIT = "dify.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
ROOT = "/opt/metal2model/dify"
PROJECT = "metal2model-dify"
"""Its containers are ours to remove: somebody's own Dify has another name."""
STATE = "/var/lib/dify"
SECRETS = "/etc/metal2model/dify"
ENVIRONMENT = f"{SECRETS}/environment"
OVERRIDE = f"{SECRETS}/override.yaml"
CLOSED = f"{ROOT}/current/metal2model-ports.yaml"
"""What the release's own compose file publishes, taken back; made with the release, by files/release.sh."""
PASSWORD = f"{SECRETS}/init.password"
TEMPLATES = templates(__file__)
KEYS = {
    "secret": ["SECRET_KEY"],
    "database": ["DB_PASSWORD"],
    "redis": ["REDIS_PASSWORD"],
    "sandbox": ["SANDBOX_API_KEY", "CODE_EXECUTION_API_KEY"],
    "plugin-daemon": ["PLUGIN_DAEMON_KEY"],
    "plugin": ["PLUGIN_DIFY_INNER_API_KEY"],
    "weaviate": ["WEAVIATE_API_KEY", "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"],
    # Since 1.16. The sandbox of agents has had several names for its token (dify-agent's README upstream).
    "agent": ["DIFY_AGENT_API_TOKEN", "AGENT_BACKEND_API_TOKEN"],
    "agent-server": ["DIFY_AGENT_SERVER_SECRET_KEY"],
    "agent-sandbox": ["DIFY_AGENT_LOCAL_SANDBOX_AUTH_TOKEN", "DIFY_AGENT_SHELLCTL_AUTH_TOKEN", "SHELLCTL_AUTH_TOKEN"],
}
"""Name of a key -> the variables of upstream's docker/.env.example that hold it; the example has one for everybody."""


def version_directory(options: DifyOptions) -> str:
    """Return the name of a version's directory: another archive of it is another one."""
    return f"{options.version}-{sha256(str(options.sha256).encode()).hexdigest()[:8]}"


def archive_url(options: DifyOptions) -> str:
    """Return where a tag's source is; what compose needs is its directory docker."""
    return f"{options.download_url}/archive/refs/tags/{options.version}.tar.gz"


def key_paths() -> dict[str, bool]:
    """Return the files with secrets."""
    return {PASSWORD: True, **{f"{SECRETS}/{name}.key": True for name in KEYS}}


def environment(options: DifyOptions) -> EnvironmentFile:
    """Return upstream's .env: its example, with secrets of this host's own."""
    values: dict[str, Parts] = {name: [value] for name, value in options.environment.items()}
    values |= {name: [KeyIn(file)] for name, file in options.secrets.items()}
    for key, names in KEYS.items():
        values |= {name: [KeyIn(f"{SECRETS}/{key}.key")] for name in names}
    # Asked for before the first account can be made; the page takes no more than 30 characters.
    values["INIT_PASSWORD"] = [KeyIn(PASSWORD)]
    for name, database in (("CELERY_BROKER_URL", 1), ("DIFY_AGENT_REDIS_URL", 2)):
        values[name] = ["redis://:", KeyIn(f"{SECRETS}/redis.key"), f"@redis:6379/{database}"]
    # It wants 32 bytes, spelt like that.
    values["DIFY_AGENT_SERVER_SECRET_KEY"] = [KeyIn(f"{SECRETS}/agent-server.key", "base64url")]
    return EnvironmentFile(path=ENVIRONMENT, base=f"{ROOT}/current/.env.example", values=values, owner="dify")


def override(options: DifyOptions) -> str:
    """Return what is laid over upstream's compose file."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    return TEMPLATES.get_template("override.yaml.j2").render(publish=f"{host}:{options.port}:80")


def compose(*words: str) -> str:
    """Return a command line of docker compose for this project."""
    files = ["-f", f"{ROOT}/current/docker-compose.yaml", "-f", CLOSED, "-f", OVERRIDE]
    return exec_line(
        [DOCKER, "compose", "-p", PROJECT, "--project-directory", f"{ROOT}/current", *files,
         "--env-file", ENVIRONMENT, *words]
    )  # fmt: skip


def render() -> str:
    """Return the text of the unit."""
    return TEMPLATES.get_template("dify.service.j2").render(
        up=compose("up", "--detach", "--pull=never", "--remove-orphans"), down=compose("down", "--remove-orphans")
    )
