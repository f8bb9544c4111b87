"""ray: options as people write them, and the unit that comes of it."""

from pathlib import Path
from typing import Any

import pytest

from roles.common.options import OptionError
from roles.common.python import PythonEnvironment
from roles.declaration import Declaration
from roles.ray.options import PORTS, RayOptions
from roles.ray.units import ENVIRONMENT, client_settings, command, render
from roles.ray.verify import endpoints
from tests.roles.hardening import complaints

HEAD = {"node_ip_address": "10.0.0.1", "head": "10.0.0.1", "nodes": ["10.0.0.1", "10.0.0.2"]}
WORKER = {**HEAD, "node_ip_address": "10.0.0.2"}
VLLM = PythonEnvironment(root="/opt/metal2model/vllm", version="1", requirements="", role="vllm")


def options(node: dict[str, Any] = HEAD, **given: Any) -> RayOptions:
    return RayOptions.load({**node, **given}, where="h", path="ray")


def wrong(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(**given)
    return str(error.value)


def test_the_node_whose_address_is_head_is_the_head() -> None:
    assert " --head " in command(options(), ENVIRONMENT)
    assert "--address" not in command(options(), ENVIRONMENT).replace("--node-ip-address", "")
    worker = command(options(WORKER), ENVIRONMENT)
    assert " --address 10.0.0.1:6379 --node-ip-address 10.0.0.2 " in worker and "--head" not in worker


def test_no_port_is_left_to_chance() -> None:
    words = command(options(port=7000), ENVIRONMENT).split()
    assert [words[words.index(flag) + 1] for flag in PORTS] == [str(port) for port in range(7000, 7007)]
    assert "--min-worker-port 10002 --max-worker-port 10999" in " ".join(words)
    assert " --port " not in command(options(WORKER, port=7000), ENVIRONMENT)


def test_there_is_no_dashboard() -> None:
    assert "--include-dashboard false" in command(options(), ENVIRONMENT)
    assert wrong(dashboard=True).startswith("h: ray/dashboard: no such option: Ray's dashboard is not installed")


def test_a_node_talks_with_the_others_alone() -> None:
    unit = render(options(allowed_networks=["10.9.0.0/16"]), ENVIRONMENT)
    assert "IPAddressDeny=any\nIPAddressAllow=localhost 10.0.0.1 10.0.0.2 10.9.0.0/16\n" in unit


def test_only_a_node_with_cards_may_open_devices() -> None:
    assert "PrivateDevices=yes" in render(options(num_gpus=0), ENVIRONMENT)
    assert "PrivateDevices" not in render(options(), ENVIRONMENT)
    assert "--num-gpus 2" in command(options(num_gpus=2), ENVIRONMENT)
    assert "--num-gpus" not in command(options(), ENVIRONMENT)


def test_the_token_is_in_no_argument() -> None:
    declared = options(token_file="/etc/metal2model/ray/token")
    assert "token" not in command(declared, ENVIRONMENT)
    unit = render(declared, ENVIRONMENT)
    assert "LoadCredential=token:/etc/metal2model/ray/token\n" in unit
    assert "RAY_AUTH_MODE" not in render(options(), ENVIRONMENT)
    assert "LoadCredential=token:/etc/metal2model/ray/token" in client_settings(declared)


def test_a_node_can_run_in_the_environment_of_the_engine() -> None:
    assert command(options(), VLLM).startswith("/opt/metal2model/vllm/current/bin/ray start ")
    (endpoint,) = endpoints(options(), VLLM)
    assert "/opt/metal2model/vllm/current/bin/python" in endpoint.health_command


def test_verify_asks_the_head_for_all_and_a_worker_for_itself() -> None:
    (head,), (worker,) = endpoints(options()), endpoints(options(WORKER))
    assert head.health_command[-3:] == ("10.0.0.1:6379", "10.0.0.1", "10.0.0.2")
    assert worker.health_command[-2:] == ("10.0.0.1:6379", "10.0.0.2")
    assert endpoints(options(present=False)) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"node_ip_address": "0.0.0.0"}, "h: ray/node_ip_address: '0.0.0.0' is not the address of one network card"),
        ({"node_ip_address": "gpu-01"}, "h: ray/node_ip_address: 'gpu-01' is no IPv4 address"),
        ({"node_ip_address": "10.0.0.3"}, "h: ray/nodes: '10.0.0.3', the node_ip_address, is missing"),
        ({"head": "10.0.0.9"}, "h: ray/nodes: '10.0.0.9', the head, is missing"),
        ({"nodes": []}, "h: ray/nodes: "),
        ({"nodes": ["10.0.0.1", "10.0.0.1"]}, "h: ray/nodes: an address stands there twice"),
        ({"nodes": ["10.0.0.1", "127.0.0.1"]}, "h: ray/nodes: other nodes cannot reach '127.0.0.1'"),
        ({"nodes": ["10.0.0.1", "8.8.8.8"]}, "h: ray/nodes: '8.8.8.8' is an address of the Internet"),
        ({"worker_ports": [20000, 10000]}, "h: ray/worker_ports: 20000 is behind 10000"),
        ({"worker_ports": [6300, 6400]}, "h: ray/worker_ports: 6300 to 6400 meet port and the six after it"),
        ({"worker_ports": [6385, 6400]}, "h: ray/worker_ports: 6385 to 6400 meet port"),
        ({"allowed_networks": ["everywhere"]}, "h: ray/allowed_networks/0: "),
        ({"role": "head"}, "h: ray/role: no such option: the node whose node_ip_address is head is the head"),
        ({"redis_password": "x"}, "h: ray/redis_password: no such option: Ray no longer has passwords"),
    ],
)
def test_a_wrong_node_is_explained(given: dict[str, Any], said: str) -> None:
    assert wrong(**given).startswith(said)


def test_a_required_address_has_no_default() -> None:
    with pytest.raises(OptionError, match="h: ray/node_ip_address: this option is required and has no default"):
        RayOptions.load({"head": "10.0.0.1", "nodes": ["10.0.0.1"]}, where="h", path="ray")


def test_one_host_may_be_a_cluster_on_its_own_loopback() -> None:
    alone = {"node_ip_address": "127.0.0.1", "head": "127.0.0.1", "nodes": ["127.0.0.1"]}
    assert options(alone).findings() == []


def test_a_server_in_rays_ports_is_refused() -> None:
    server = {"models": {"wanted": {"qwen3-8b-q4": {}}}, "tags": ["cpu"], "ray": HEAD}
    for port, option in ((6380, "port"), (10500, "worker_ports")):
        llama = {"instances": {"r1": {"model": "qwen3-8b-q4", "port": port}}}
        with pytest.raises(OptionError) as error:
            Declaration.load({**server, "llama_cpp": llama}, where="h")
        assert str(error.value).startswith(f"h: llama_cpp/instances/r1/port: port {port} is ray/{option}'s already")


@pytest.mark.parametrize("given", [{}, {"num_gpus": 0}, {"token_file": "/etc/metal2model/ray/token"}])
def test_systemd_has_nothing_against_the_unit(given: dict[str, Any], tmp_path: Path) -> None:
    assert complaints("ray.service", render(options(**given), ENVIRONMENT), tmp_path) == []
