"""Options of the ray role."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from roles.common.findings import Finding
from roles.common.options import OptionProblem, Options, Port, Seconds

PORTS = (
    "--port", "--node-manager-port", "--object-manager-port", "--runtime-env-agent-port", "--dashboard-agent-grpc-port",
    "--dashboard-agent-listen-port", "--metrics-export-port",
)  # fmt: skip
"""
Flags of ``ray start`` for what listens (https://docs.ray.io/en/latest/ray-core/configure.html#ports-configurations);
they take successive ports, so that a firewall has one range to let through. The first is the head's alone.
"""


def _address(text: str) -> str:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise ValueError(f"{text!r} is no IPv4 address; write the one of a network card, as in '10.0.0.1'") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(
            f"{text!r} is not the address of one network card; whoever reaches a node can run programs on it, so "
            "write the address in the network that only the cluster's nodes share"
        )
    return text


Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+(/[0-9]+)?$")]
NO_DASHBOARD = (
    "Ray's dashboard is not installed, for it lets whoever opens it run programs; ask ray status on the head instead"
)


class RayOptions(Options):
    """
    A node of a Ray cluster: the head, or a worker that joins it; ``ray.service`` on each.

    Ray encrypts nothing and, without a token, does not ask who calls; and whoever calls can run programs on every node
    (https://docs.ray.io/en/latest/ray-security/index.html). So the unit lets a node talk with the others alone.
    """

    advice: ClassVar[dict[str, str]] = {
        "role": "the node whose node_ip_address is head is the head, all others are workers",
        "address": "write head, the address of the head node, and port",
        "num_nodes": "write nodes, the addresses of all nodes",
        "dashboard": NO_DASHBOARD,
        "dashboard_host": NO_DASHBOARD,
        "include_dashboard": NO_DASHBOARD,
        "redis_password": "Ray no longer has passwords; write token_file",
        "token": "write token_file, the path of a file on the host that holds it",
        "object_store_memory": "write object_store_memory_mib",
    }

    node_ip_address: Address
    """This node's address, in a network that only the cluster's nodes share."""

    head: Address
    """Address of the head node."""

    nodes: Annotated[list[Address], Field(min_length=1)]
    """Addresses of all nodes, the head's and this one's among them. `verify` fails while one is missing."""

    port: Annotated[int, Field(ge=1024, le=65535 - len(PORTS))] = 6379
    """First of the seven ports, one after the other, that a node listens on."""

    worker_ports: Annotated[list[Port], Field(min_length=2, max_length=2)] = [10002, 10999]
    """First and last port of the processes that compute; each takes one."""

    allowed_networks: list[Network] = []
    """
    Further addresses or networks, as in `10.1.0.0/16`, that the node's processes may talk with: those of cards that
    NCCL uses beside `node_ip_address`, or of storage. From all others they are cut off.
    """

    allow_public_addresses: bool = False
    """Accept nodes with addresses of the Internet."""

    token_file: Annotated[str, Field(pattern="^/[^ ]+$")] | None = None
    """
    File with a secret that callers must then know: the same on all nodes, root's, 0600. Bring it yourself, as in
    `openssl rand -hex 32`; one host cannot make it for all. None: who reaches a node can use it.
    """

    object_store_memory_mib: Annotated[int, Field(ge=80)] = 1024
    """Shared memory for objects. vLLM puts nothing large there."""

    num_cpus: Annotated[int, Field(ge=0)] | None = None
    """Processors that the node offers. None: all."""

    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """Cards that the node offers. None: those that Ray finds. 0: none, and its unit cannot open any."""

    environment: dict[str, str] = {}
    """Environment variables of all that runs on the node, such as `NCCL_SOCKET_IFNAME`."""

    ready_timeout_seconds: Seconds = 120
    """How long `verify` waits for the nodes."""

    present: bool = True
    """False: the node leaves the cluster, and its unit is removed."""

    @model_validator(mode="after")
    def _one_cluster(self) -> Self:
        for option in ("head", "node_ip_address"):
            if (address := getattr(self, option)) not in self.nodes:
                raise OptionProblem("nodes", f"{address!r}, the {option}, is missing; write the address of every node")
        if len(self.nodes) > len(set(self.nodes)):
            raise OptionProblem("nodes", "an address stands there twice; write each node once")
        for address in self.nodes:
            if IPv4Address(address).is_loopback and len(self.nodes) > 1:
                raise OptionProblem("nodes", f"other nodes cannot reach {address!r}; write an address that they can")
            if IPv4Address(address).is_global and not self.allow_public_addresses:
                raise OptionProblem(
                    "nodes",
                    f"{address!r} is an address of the Internet, and Ray encrypts nothing; write addresses of a "
                    "private network, or allow_public_addresses: True where a tunnel or a firewall stands between",
                )
        return self

    @model_validator(mode="after")
    def _ports_are_apart(self) -> Self:
        first, last = self.worker_ports
        if first > last:
            raise OptionProblem("worker_ports", f"{first} is behind {last}; write the first port, then the last")
        if first < self.port + len(PORTS) and self.port <= last:
            raise OptionProblem("worker_ports", f"{first} to {last} meet port and the six after it; move one of them")
        return self

    @property
    def is_head(self) -> bool:
        """Whether this node is the head."""
        return self.node_ip_address == self.head

    @property
    def ports(self) -> Mapping[str, int]:
        """Flag of ``ray start`` -> port of this node."""
        ports = {flag: self.port + index for index, flag in enumerate(PORTS)}
        return {flag: port for flag, port in ports.items() if self.is_head or flag != "--port"}

    def listeners(self) -> list[tuple[str, int]]:
        """Return the TCP ports that this takes on the host, each with the path of its option below the role."""
        if not self.present:
            return []
        first, last = self.worker_ports
        workers = [("worker_ports", port) for port in range(first, last + 1)]
        return [*(("port", port) for port in self.ports.values()), *workers]

    def findings(self) -> list[Finding]:
        """Return what should be known of this node."""
        if not self.present or len(self.nodes) == 1:
            return []
        found = [] if self.token_file else [Finding("ray_without_token", "ray/token_file", {"found": self.nodes})]
        public = [address for address in self.nodes if IPv4Address(address).is_global]
        return [*found, Finding("ray_public", "ray/nodes", {"found": public})] if public else found
