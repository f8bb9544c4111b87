"""The SSH connection under pyinfra."""

from __future__ import annotations

import socket

from pyinfra.api import Host
from pyinfra.connectors.ssh import SSHConnector


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
