"""The network of the bed: one bridge without a way out, and who has which address on it."""

import ipaddress
import json
import shutil
import socket
import subprocess
from collections.abc import Collection
from pathlib import Path

from tests.testbed import RUN_DIR, BedError

BRIDGE = "m2m0"
GATEWAY = "10.77.0.1"
NETWORK = ipaddress.IPv4Network("10.77.0.0/24")
FIRST, LAST = 11, 250

INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_WANTED = 8192
"""The usual 128 is used up by thirty systemds."""

# Docker and ufw on the machine drop what crosses or enters a bridge they do not know.
RULES = (
    ("FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT"),
    ("INPUT", "-i", BRIDGE, "-j", "ACCEPT"),
)


def up() -> None:
    """Make the bridge, unless it is there."""
    if not _exists():
        _refuse_overlap()
        # Its own: else it takes that of a port, which changes as hosts come and go.
        _ip("link", "add", BRIDGE, "address", mac_of(GATEWAY), "type", "bridge")
        _ip("address", "add", f"{GATEWAY}/{NETWORK.prefixlen}", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
    if shutil.which("iptables"):
        for rule in RULES:
            if not _iptables("-C", *rule):
                _iptables("-I", *rule)
    found = INOTIFY.read_text().strip()
    if int(found) < INOTIFY_WANTED:
        (RUN_DIR / "inotify").write_text(found)
        INOTIFY.write_text(str(INOTIFY_WANTED))


def down() -> None:
    """Remove the bridge and put back what was changed for it."""
    if _exists():
        _ip("link", "delete", BRIDGE)
    if shutil.which("iptables"):
        for rule in RULES:
            _iptables("-D", *rule)
    before = RUN_DIR / "inotify"
    if before.exists():
        INOTIFY.write_text(before.read_text())
        before.unlink()


def free_address(taken: Collection[str]) -> str:
    """The first address that no host has."""
    for number in range(FIRST, LAST + 1):
        address = str(NETWORK[number])
        if address not in taken:
            return address
    raise BedError(f"All {LAST - FIRST + 1} addresses of the bed are in use. Take hosts down: ./run down --all")


def mac_of(address: str) -> str:
    """The hardware address to go with an address.

    It must not change when another host gets the address: who remembers the former one would be deaf for ten seconds.
    """
    return "02:77:" + ipaddress.IPv4Address(address).packed.hex(":")


def _exists() -> bool:
    # Not by /sys/class/net, which may show another network namespace.
    try:
        socket.if_nametoindex(BRIDGE)
    except OSError:
        return False
    return True


def _refuse_overlap() -> None:
    """The addresses are fixed, so a machine that already uses them elsewhere would lose its way there."""
    routes = json.loads(_ip("-json", "-4", "route", "show", "table", "main"))
    for route in routes:
        if route["dst"] != "default" and NETWORK.overlaps(ipaddress.IPv4Network(route["dst"], strict=False)):
            raise BedError(
                f"This machine reaches {route['dst']} by {route.get('dev', 'another route')}, and the test bed needs "
                f"{NETWORK} for its own bridge. Remove that route, or use another machine."
            )


def _ip(*arguments: str) -> str:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BedError(f"`ip {' '.join(arguments)}` failed: {result.stderr.strip()}")
    return result.stdout


def _iptables(action: str, chain: str, *rule: str) -> bool:
    comment = ("-m", "comment", "--comment", "metal2model test bed")
    command = ["iptables", "-w", action, chain, *rule, *comment]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
