"""Text of a node's unit, and what a program on the node needs in order to use the cluster."""

from __future__ import annotations

from pathlib import Path

from roles.common.python import PythonEnvironment
from roles.common.rendering import templates
from roles.common.systemd import environment_word, exec_line
from roles.ray.options import RayOptions

UNIT = "ray.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
USER = "ray"
"""systemd makes it while a unit needs it; units that name the same one share it (systemd.exec(5), DynamicUser=)."""
SESSIONS = "/run/ray"
"""Sockets and logs. Short, since the address of a socket has 107 bytes at most (unix(7))."""
SPILLED = "/var/cache/ray"
ENVIRONMENT = PythonEnvironment(
    root="/opt/metal2model/ray",
    version="2.60.0",
    requirements=(Path(__file__).parent / "files" / "requirements.txt").read_text(),
    role="ray",
    module="ray",
)
TEMPLATES = templates(__file__)


def command(options: RayOptions, environment: PythonEnvironment) -> str:
    """Return the unit's ``ExecStart=`` (https://docs.ray.io/en/latest/cluster/cli.html#ray-start)."""
    words = [f"{environment.root}/current/bin/ray", "start", "--block", "--disable-usage-stats"]
    if options.is_head:
        words += ["--head", "--include-dashboard", "false"]
    else:
        words += ["--address", f"{options.head}:{options.port}"]
    words += ["--node-ip-address", options.node_ip_address]
    words += [word for flag, port in options.ports.items() for word in (flag, str(port))]
    first, last = options.worker_ports
    words += ["--min-worker-port", str(first), "--max-worker-port", str(last),
              "--object-store-memory", str(options.object_store_memory_mib << 20),
              "--temp-dir", SESSIONS, "--object-spilling-directory", SPILLED]  # fmt: skip
    for flag, count in (("--num-cpus", options.num_cpus), ("--num-gpus", options.num_gpus)):
        words += [] if count is None else [flag, str(count)]
    return exec_line(words)


def render(options: RayOptions, environment: PythonEnvironment) -> str:
    """Return the text of the unit."""
    return TEMPLATES.get_template("ray.service.j2").render(
        options=options,
        command=command(options, environment),
        user=USER,
        home=SPILLED,
        token_settings=token_settings(options),
        environment=[environment_word(name, value) for name, value in sorted(options.environment.items())],
        peers=[*options.nodes, *options.allowed_networks],
    )


def token_settings(options: RayOptions) -> list[str]:
    """Return the lines of [Service] that hand a unit the token."""
    if not options.token_file:
        return []
    return [
        f"LoadCredential=token:{options.token_file}",
        "Environment=RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=%d/token",
    ]


def client_settings(options: RayOptions) -> list[str]:
    """Return the lines of [Service] with which the unit of a server on this node computes on the cluster."""
    return [
        "DynamicUser=yes",
        f"User={USER}",
        f"ReadWritePaths=-{SESSIONS}",
        f"Environment=RAY_ADDRESS={options.head}:{options.port}",
        *token_settings(options),
    ]
