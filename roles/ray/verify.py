"""What "works" means for the ray role."""

from __future__ import annotations

from pathlib import Path

from roles.common.endpoint import Endpoint
from roles.common.python import PythonEnvironment
from roles.ray.options import RayOptions
from roles.ray.units import ENVIRONMENT, UNIT

UNITS = UNIT
"""What the names of this role's units are like."""
NODES = Path(__file__).parent / "files" / "nodes.py"


def endpoints(options: RayOptions, environment: PythonEnvironment = ENVIRONMENT) -> list[Endpoint]:
    """Return what must answer on this host: through the head, all nodes where it is the head, else this one."""
    if not options.present:
        return []
    address = f"{options.head}:{options.port}"
    token = ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={options.token_file}"] if options.token_file else []
    # It waits by itself, for a while: to start it again and again would keep a small host from starting its node.
    seconds = str(min(15, options.ready_timeout_seconds))
    wanted = options.nodes if options.is_head else [options.node_ip_address]
    return [
        Endpoint(
            name="ray",
            unit=UNIT,
            url=f"ray://{address}",
            health_command=(
                "env",
                *token,
                environment.python_path,
                "-I",
                "-c",
                NODES.read_text(),
                seconds,
                address,
                *wanted,
            ),
            restarts_by_itself=True,
            ready_timeout_seconds=options.ready_timeout_seconds,
        )
    ]
