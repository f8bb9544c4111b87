"""What "works" means for the dify role."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from roles.common.endpoint import Endpoint
from roles.common.engine import reachable
from roles.dify.options import DifyOptions, from_containers
from roles.dify.units import PASSWORD, UNIT

UNITS = UNIT
"""What the names of this role's units are like."""
PLUGIN = "langgenius/openai_api_compatible"


def endpoints(options: DifyOptions, servers: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the page that must answer on this host, with what is to be entered in it."""
    if not options.present:
        return []
    return [
        Endpoint(
            name="dify",
            unit=UNIT,
            url=f"http://{reachable(options.host)}:{options.port}",
            listens=options.host,
            # Answered by Dify's API behind nginx, api/controllers/console/ping.py upstream.
            health_path="/console/api/ping",
            ready_timeout_seconds=options.ready_timeout_seconds,
            notes=(f"first asked for: the password in {PASSWORD} on the host", *providers(options, servers)),
        )
    ]


def providers(options: DifyOptions, servers: Sequence[Endpoint]) -> Iterator[str]:
    """Yield the settings of a model provider for each server that containers reach."""
    for server in options.chosen(servers):
        if url := from_containers(server):
            context = f", model context size {server.context_length}" if server.context_length else ""
            secret = f", API key in {server.api_key_file}" if server.api_key_file else ""
            yield f"plugin {PLUGIN}: model {server.model}, API Base URL {url}{context}{secret}"
