"""Run one node of a server that computes on several hosts: NAME ADDRESS PORT HEAD NODE... -- COMMAND...

The server's own processes wait for ever for a node that has gone, and those of a node that comes back cannot join the
others: all have to begin anew together. So each node holds a connection to the head, the head starts when all are
there, and whatever goes takes the others with it. systemd starts them again.
"""

import array
import fcntl
import hashlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

STOP = frozenset((signal.SIGTERM, signal.SIGINT))
STOP_SECONDS = 80
"""How long the server may take to end when this is asked to; systemd's own patience is 90."""
LOST_SECONDS = 10
"""The same where it waits for a node that is gone."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3, socket.TCP_USER_TIMEOUT: 20_000}
"""A host without power says no farewell: it is missed after 20 seconds."""
GO = b"1"
SIOCGIFCONF = 0x8912
ENTRY = struct.Struct("16s4x4s16x")
"""struct ifreq on 64 bits: a name, and of a sockaddr_in the address."""


def say(text: str) -> None:
    """Tell the journal."""
    print(f"metal2model: {text}", file=sys.stderr, flush=True)


def watched(link: socket.socket) -> socket.socket:
    """Return a connection that notices when its other end is gone."""
    link.setblocking(True)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        link.setsockopt(socket.IPPROTO_TCP, option, value)
    return link


def gone(link: socket.socket) -> bool:
    """Whether a connection that can be read has ended."""
    try:
        return not link.recv(1)
    except OSError:
        return True


def readable(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """Wait until some of these can be read, and return them."""
    with selectors.DefaultSelector() as ready:
        for one in sockets:
            ready.register(one, selectors.EVENT_READ)
        return [key.fileobj for key, _ in ready.select() if isinstance(key.fileobj, socket.socket)]


@dataclass
class Calls:
    """Calls to the head: who says the server's word, from an address of its nodes, is one; others are sent away."""

    listener: socket.socket
    nodes: Sequence[str]
    word: bytes
    unheard: "dict[socket.socket, tuple[str, bytes]]" = field(default_factory=dict)
    strangers: "set[str]" = field(default_factory=set)

    @property
    def sockets(self) -> list[socket.socket]:
        """What to wait for."""
        return [self.listener, *self.unheard]

    def nodes_of(self, found: Sequence[socket.socket]) -> dict[str, socket.socket]:
        """Return the nodes that have said who they are, of the sockets that can be read."""
        nodes = {}
        if self.listener in found:
            link, (address, _) = self.listener.accept()
            link.setblocking(False)
            self.unheard[link] = (address, b"")
        for link in [one for one in self.unheard if one in found]:
            address, said = self.unheard.pop(link)
            try:
                more = link.recv(len(self.word) - len(said))
            except OSError:
                more = b""
            said += more
            if said == self.word and address in self.nodes:
                nodes[address] = watched(link)
            elif more and self.word.startswith(said):
                self.unheard[link] = (address, said)
            else:
                link.close()
                if address not in self.strangers:
                    self.strangers.add(address)
                    say(
                        f"sent {address} away: it is no node of this server, or declares another name, other nodes or "
                        "another master_port; write the same on each host"
                    )
        return nodes

    def close(self) -> None:
        """Let nobody wait for an answer that does not come."""
        for one in self.sockets:
            one.close()


def gather(calls: Calls) -> dict[str, socket.socket]:
    """Wait until all nodes have called, tell them to begin, and return their connections."""
    links: dict[str, socket.socket] = {}
    told: list[str] = []
    while missing := [node for node in calls.nodes if node not in links]:
        if missing != told:
            say(f"waiting for {', '.join(missing)}")
            told = missing
        found = readable([*calls.sockets, *links.values()])
        for node, link in list(links.items()):
            if link in found and gone(link):
                link.close()
                del links[node]
        for node, link in calls.nodes_of(found).items():
            if node in links:
                links[node].close()
            links[node] = link
    for link in links.values():
        with suppress(OSError):  # it is found to be gone in a moment
            link.sendall(GO)
    return links


def call(address: str, head: str, port: int, word: bytes) -> socket.socket:
    """Wait until the head says that all are there, and return the connection to it."""
    told = ""
    while True:
        try:
            link = socket.create_connection((head, port), timeout=10, source_address=(address, 0))
            watched(link).sendall(word)
            if link.recv(1) == GO:
                return link
            link.close()
            problem = f"it ended, or has another name, other nodes or another master_port than {address}"
        except OSError as error:
            problem = error.strerror or str(error)
        if problem != told:
            say(f"waiting for the head, {head}:{port}: {problem}")
            told = problem
        time.sleep(1)


def guard(command: Sequence[str], links: Mapping[str, socket.socket], calls: "Calls | None") -> int:
    """Run the server until it ends, or is to end, or a node is gone; return what to exit with."""
    bell, rung = socket.socketpair()
    bell.setblocking(False)
    rung.setblocking(False)
    signal.set_wakeup_fd(bell.fileno())
    for number in (*STOP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)

    def to_end() -> bool:
        """Whether this node was asked to end, since this was last asked."""
        with suppress(BlockingIOError):
            return not STOP.isdisjoint(rung.recv(64))
        return False

    def end(patience_seconds: float) -> None:
        """End the server, by force if need be. The connections go first: the others need not wait for it."""
        for link in links.values():
            link.close()
        if calls:
            calls.close()
        server.terminate()
        try:
            server.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()

    server = subprocess.Popen(command)
    while True:
        found = readable([rung, *links.values(), *(calls.sockets if calls else [])])
        asked = rung in found and to_end()
        if (code := server.poll()) is not None:
            say(f"the server ended with {code}")
            return 0 if asked else code if 0 <= code < 128 else 1
        if asked:
            end(STOP_SECONDS)
            return 0
        lost = [node for node, link in links.items() if link in found and gone(link)]
        lost += calls.nodes_of(found) if calls else []
        if lost:
            say(f"{lost[0]} has gone or began anew: so does this node; journalctl there may say why")
            end(LOST_SECONDS)
            return 0 if to_end() else 1


def interface(address: str) -> str:
    """Return the network interface that has an address, "" where none has (netdevice(7), SIOCGIFCONF)."""
    entries = array.array("B", bytes(ENTRY.size * 1024))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asked = struct.pack("iP", len(entries), entries.buffer_info()[0])
        (length, _) = struct.unpack("iP", fcntl.ioctl(asking, SIOCGIFCONF, asked))
    for label, found in ENTRY.iter_unpack(entries.tobytes()[:length]):
        if socket.inet_ntoa(found) == address:
            return str(label.split(b"\0")[0].decode().partition(":")[0])
    return ""


def main(words: Sequence[str]) -> int:
    """Run the node."""
    split = words.index("--")
    name, address, port, head, *others = words[:split]
    word = hashlib.sha256("\n".join([name, port, head, *others]).encode()).digest()
    found = interface(address)
    if not found:
        sys.exit(
            f"no network interface has {address} (yet), which node_ip_address says is this host's; it is tried again, "
            "correct node_ip_address and nodes if it is wrong"
        )
    # Left alone, Gloo takes the address of the host's name, on Ubuntu 127.0.1.1, and NCCL any interface.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", found)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={found}")
    command = words[split + 1 :]
    if address != head:
        return guard(command, {head: call(address, head, int(port), word)}, None)
    try:
        listener = socket.create_server((address, int(port)))
    except OSError as error:
        sys.exit(f"{address}:{port}, the port after master_port: {error.strerror}; write another master_port")
    calls = Calls(listener, others, word)
    return guard(command, gather(calls), calls)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
