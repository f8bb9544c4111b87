"""Run one node of a server that computes on several hosts: ADDRESS PORT HEAD NODE... -- COMMAND...

The server's own processes wait for ever for a node that has gone, and those of a node that comes back cannot join the
others: all have to begin anew together. So each node holds a connection to the head, the head starts when all are
there, and whatever goes takes the others with it. systemd starts them again.
"""

import array
import fcntl
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

PATIENCE_SECONDS = 10
"""How long the server may take to end; its memory of a card is free only then."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
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


def gather(listener: socket.socket, nodes: Sequence[str]) -> dict[str, socket.socket]:
    """Wait until all nodes have called, tell them to begin, and return their connections."""
    links: dict[str, socket.socket] = {}
    told = None
    while True:
        missing = [node for node in nodes if node not in links]
        if not missing:
            try:
                for link in links.values():
                    link.sendall(GO)
            except OSError:
                pass  # it is found below, or by whoever watches next
            return links
        if missing != told:
            say(f"waiting for {', '.join(missing)}")
            told = missing
        with selectors.DefaultSelector() as ready:
            for one in (listener, *links.values()):
                ready.register(one, selectors.EVENT_READ)
            found = [key.fileobj for key, _ in ready.select()]
        for node, link in list(links.items()):
            if link in found and gone(link):
                link.close()
                del links[node]
        if listener in found:
            link, (node, _) = listener.accept()
            if node in nodes:
                if node in links:
                    links[node].close()
                links[node] = watched(link)
            else:
                link.close()


def call(address: str, head: str, port: int) -> socket.socket:
    """Wait until the head says that all are there, and return the connection to it."""
    told = False
    while True:
        try:
            link = watched(
                socket.create_connection((head, port), timeout=PATIENCE_SECONDS, source_address=(address, 0))
            )
            link.settimeout(None)
            if link.recv(1) == GO:
                return link
            link.close()
        except OSError as error:
            if not told:
                say(f"waiting for the head, {head}:{port}: {error.strerror or error}")
                told = True
        time.sleep(1)


def guard(command: Sequence[str], links: Mapping[str, socket.socket], listener: socket.socket | None) -> int:
    """Run the server until it ends, or is to end, or a node is gone; return what to exit with."""
    bell, rung = socket.socketpair()
    bell.setblocking(False)
    signal.set_wakeup_fd(bell.fileno())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    server = subprocess.Popen(command)
    with selectors.DefaultSelector() as ready:
        for one in (rung, *links.values(), *([listener] if listener else [])):
            ready.register(one, selectors.EVENT_READ)
        while True:
            found = [key.fileobj for key, _ in ready.select()]
            if rung in found and {signal.SIGTERM, signal.SIGINT} & set(rung.recv(64)):
                end(server)
                return 0
            if (code := server.poll()) is not None:
                say(f"the server ended with {code}")
                return code if 0 < code < 128 else 1
            lost = [node for node, link in links.items() if link in found and gone(link)]
            if listener in found and listener:
                again, (node, _) = listener.accept()
                again.close()
                lost += [node] if node in links else []
            if lost:
                say(f"{lost[0]} has gone or began anew: so does this node")
                for one in (*links.values(), *([listener] if listener else [])):
                    ready.unregister(one)
                    one.close()  # before the server, which takes its time: the others begin at once
                end(server)
                return 1


def end(server: "subprocess.Popen[bytes]") -> None:
    """End the server, by force if need be."""
    server.terminate()
    try:
        server.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


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
    address, port, head, *others = words[:split]
    found = interface(address)
    if not found:
        sys.exit(f"no network interface has {address}, this host's among nodes; correct node_ip_address")
    # Left alone, Gloo takes the address of the host's name, on Ubuntu 127.0.1.1, and NCCL any interface.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", found)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={found}")
    if address == head:
        with socket.create_server((address, int(port))) as listener:
            return guard(words[split + 1 :], gather(listener, others), listener)
    return guard(words[split + 1 :], {head: call(address, head, int(port))}, None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
