"""The SSH connection under pyinfra."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from pyinfra.api import Host
from pyinfra.connectors.ssh import SSHConnector


@dataclass(frozen=True)
class Login:
    """How a person logs in to the host."""

    address: str
    user: str = ""
    port: int = 22

    def tunnel(self, local: int, target: str) -> str:
        """Spell the command that brings a ``host:port`` which only this host reaches to a port of one's own machine."""
        words = ["ssh", "-N", "-L", f"{local}:{target}"]
        if self.port != 22:
            words += ["-p", str(self.port)]
        return " ".join([*words, f"{self.user}@{self.address}" if self.user else self.address])


def login_of(host: Host) -> Login | None:
    """Return the login that pyinfra itself uses; None where it uses no SSH."""
    if not isinstance(host.connector, SSHConnector):
        return None
    data = host.connector.data
    return Login(data["ssh_hostname"] or host.name, data["ssh_user"] or "", int(data["ssh_port"] or 22))


def send_at_once(host: Host) -> None:
    """
    Set TCP_NODELAY on the host's SSH transport.

    paramiko leaves Nagle's algorithm on, which holds every small packet back until the last one is
    acknowledged: about 40 ms for each remote command on a LAN (docs/benchmarks.md). Does nothing on
    connectors without SSH. Needed again after a reconnect.
    """
    client = host.connector.client if isinstance(host.connector, SSHConnector) else None
    transport = client.get_transport() if client else None
    if transport is not None and isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
