"""The card at the end of a run: what a person enters in a client to use what was proven."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from roles.common.connection import Login
from roles.common.endpoint import Endpoint


def connection(endpoint: Endpoint, login: Login | None) -> dict[str, Any]:
    """
    Return where clients find a server: its base URL, where the key lies on the host, and the tunnel it needs, if any.

    Clients of OpenAI's API want the base URL with ``/v1`` at its end; a page is opened without.
    """
    address = urlsplit(endpoint.url)
    own, port = address.hostname or "", address.port or 80
    listens = endpoint.listens or own
    tunnel = None
    if _is_loopback(listens):
        found = "127.0.0.1"
        tunnel = login.tunnel(port, f"{_bracketed(own)}:{port}") if login else None
    elif listens in ("0.0.0.0", "::"):
        found = login.address if login else own
    else:
        found = listens
    return {
        "base_url": f"{address.scheme}://{_bracketed(found)}:{port}{'/v1' if endpoint.model else ''}",
        "api_key_file": endpoint.api_key_file,
        "tunnel": tunnel,
        "context_length": endpoint.context_length or None,
    }


def lines(endpoint: Endpoint, known: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the card; ``known`` is what `connection` says."""
    said = [known["base_url"]]
    if known["api_key_file"]:
        said.append(f"key: {known['api_key_file']} on the host")
    elif endpoint.model:
        said.append("key: none is asked for; where a client wants one, any word")
    if known["context_length"]:
        said.append(f"context: {known['context_length']} tokens")
    if known["tunnel"]:
        said.append(f"first: {known['tunnel']}")
    return {"model": endpoint.model or f"({endpoint.name})", "connect": [*said, *endpoint.notes]}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
