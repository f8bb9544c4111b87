"""vllm: options as people write them, and the unit that comes of it."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roles.common.hardware import HardwareReport, NvidiaModule, OperatingSystem
from roles.common.model import Attention, Model
from roles.common.options import OptionError
from roles.declaration import Declaration
from roles.preflight.messages import sentence
from roles.sources import images, needs_pypi
from roles.vllm.deploy import needed_packages
from roles.vllm.options import VERSION, VllmOptions
from roles.vllm.plan import findings
from roles.vllm.units import REQUIREMENTS, environment_of, reads, render, secrets
from roles.vllm.verify import endpoints
from tests.roles.test_hardware import dump
from tests.test_systemd import systemd_words

MODEL = Model(
    "r1", "/srv/models/deepseek-ai/r1", 15_200_000_000, Attention(layers=28, heads=28, kv_heads=4, head_dim=128), 131072
)
MODELS = {"r1": MODEL}
NOBLE = OperatingSystem("ubuntu", "24.04", "noble", "Ubuntu 24.04.4 LTS")
EIGHT = replace(dump("two-sockets-8-rtx4090"), os=NOBLE)
TAGS = ["rtx4090", "numa"]
ONE = replace(EIGHT, controllers=tuple(card for card in EIGHT.controllers if card.driver == "nvidia")[:1])
NODES: dict[str, Any] = {"nodes": ["10.0.0.1", "10.0.0.2"], "pipeline_parallel": 2}


def options(*, role: dict[str, Any] | None = None, **given: Any) -> VllmOptions:
    declared = {"instances": {"one": {"model": "r1", "port": 8000, **given}}, **(role or {})}
    return VllmOptions.load(declared, where="h", path="vllm")


def wrong(*, role: dict[str, Any] | None = None, **given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(role=role, **given)
    return str(error.value)


def text(declared: VllmOptions, tags: Sequence[str] = TAGS, report: HardwareReport = EIGHT, **more: Any) -> str:
    return render("one", declared.instances["one"], declared, MODEL, tags=tags, report=report, **more)


def service(unit: str) -> dict[str, list[str]]:
    """The [Service] section: directive -> its values."""
    found: dict[str, list[str]] = {}
    section = unit.partition("[Service]")[2].partition("[Install]")[0]
    for name, _, value in (one.partition("=") for one in section.splitlines() if one[:1] not in ("", "#")):
        found.setdefault(name, []).append(value)
    return found


def line(declared: VllmOptions, tags: Sequence[str] = TAGS, report: HardwareReport = EIGHT) -> list[str]:
    command = service(text(declared, tags, report))["ExecStart"][0]
    return systemd_words(command.replace("${CREDENTIALS_DIRECTORY}", "CREDENTIALS"))


def variables(unit: str) -> dict[str, str]:
    words = [systemd_words(value)[0] for value in service(unit)["Environment"] if not value.startswith("RAY_")]
    return dict(word.split("=", 1) for word in words)


def said(declared: VllmOptions, report: HardwareReport = EIGHT, tags: Sequence[str] = TAGS) -> list[str]:
    return [sentence(finding, "en") for finding in findings(declared, tags, report, MODELS, "580")]


def test_a_model_moves_to_another_engine_by_one_word() -> None:
    instance = {"model": "m", "port": 8000, "host": "127.0.0.1", "alias": "chat", "context_length": 8192,
                "parallel": 4, "api_key": False, "golden_prompt": "Hi"}  # fmt: skip
    wanted = {"m": {"path": "/srv/m"}}
    data = {"tags": ["rtx4090"], "models": {"wanted": wanted}, "vllm": {"instances": {"one": instance}}}
    (server,) = Declaration.load(data, where="h").endpoints()
    assert (server.url, server.model, server.context_length) == ("http://127.0.0.1:8000", "chat", 8192)
    wanted["m"]["path"] += ".gguf"
    data["llama_cpp"] = data.pop("vllm")
    (moved,) = Declaration.load({**data, "tags": ["cpu"]}, where="h").endpoints()
    assert (moved.url, moved.model, moved.context_length) == (server.url, server.model, server.context_length)


def test_it_listens_on_the_loopback_address_and_the_key_is_no_argument() -> None:
    unit = text(options())
    assert " --host 127.0.0.1 --port 8000 " in unit
    assert "api-key" not in unit and "API_KEY" not in unit
    assert service(unit)["EnvironmentFile"] == ["/etc/metal2model/vllm/one.environment"]
    (file,) = secrets(options())
    assert (file.path, list(file.values)) == ("/etc/metal2model/vllm/one.environment", ["VLLM_API_KEY"])
    assert secrets(options(api_key=False)) == []
    assert "EnvironmentFile" not in service(text(options(api_key=False)))


def test_context_and_concurrency_are_what_one_request_and_all_requests_get() -> None:
    words = line(options(context_length=8192, parallel=10))
    assert words[words.index("--max-model-len") + 1] == "8192" and words[words.index("--max-num-seqs") + 1] == "10"
    assert "--max-model-len" not in line(options(context_length=0))


def test_nothing_is_sent_home_or_fetched_and_caches_lie_together() -> None:
    found = variables(text(options()))
    assert (found["VLLM_NO_USAGE_STATS"], found["HF_HUB_OFFLINE"]) == ("1", "1")
    for name in ("HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HOME"):
        assert found[name].startswith("/var/cache/vllm/one"), name
    assert service(text(options()))["CacheDirectory"] == ["vllm/one"]


def test_caches_can_lie_on_another_disk() -> None:
    unit = text(options(role={"cache_directory": "/data/cache"}))
    assert variables(unit)["VLLM_CACHE_ROOT"] == "/data/cache/one/vllm"
    found = service(unit)
    assert found["ReadWritePaths"] == ["-/data/cache/one"] and "CacheDirectory" not in found
    assert [command.split()[0] for command in found["ExecStartPre"]] == ["+/usr/bin/install", "+/usr/bin/chown"]
    assert "RequiresMountsFor=/data/cache/one" in unit


def test_large_models_may_lock_memory_and_take_their_time() -> None:
    found = service(text(options()))
    assert (found["LimitMEMLOCK"], found["TimeoutStartSec"], found["KillMode"]) == (
        ["infinity"],
        ["infinity"],
        ["mixed"],
    )


def test_cards_are_chosen_in_the_order_of_nvidia_smi() -> None:
    found = variables(text(options(cards=[2, 3], tensor_parallel=2)))
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")


def test_workers_are_bound_to_their_cards_nodes_where_these_differ() -> None:
    assert "--numa-bind" in line(options()) and "NUMAPolicy" not in service(text(options()))
    assert "--numa-bind" not in line(options(), ["rtx4090"])
    near = replace(EIGHT, controllers=tuple(card for card in EIGHT.controllers if card.numa_node == 0))
    assert service(text(options(), report=near))["NUMAPolicy"] == ["preferred"]
    assert service(text(options(numa=1)))["NUMAPolicy"] == ["bind"]
    assert "--numa-bind" not in line(options(numa="none"))


def test_two_hosts_share_a_model_and_only_the_first_answers() -> None:
    head, worker = (options(**NODES, node_ip_address=address) for address in NODES["nodes"])
    words = " ".join(line(worker))
    assert "--nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 29501 --headless" in words
    assert "--headless" not in line(head)
    assert variables(text(worker))["VLLM_HOST_IP"] == "10.0.0.2"
    (answering,), (computing,) = endpoints(head, TAGS), endpoints(worker, TAGS)
    assert (answering.model, computing.model, computing.unit) == ("one", "", "vllm@one.service")
    assert worker.listeners() == []
    meeting = [("instances/one/master_port", port) for port in (29501, 29502)]
    assert head.listeners() == [("instances/one/port", 8000), *meeting]


def test_two_servers_over_the_same_hosts_meet_on_ports_of_their_own() -> None:
    """Also on a node that only computes: there they listen to nothing that could collide."""
    both = {"model": "m", "node_ip_address": "10.0.0.2", **NODES}
    declared = {"instances": {"a": {**both, "port": 8000}, "b": {**both, "port": 8001, "master_port": 29502}}}
    with pytest.raises(OptionError, match=r"b/master_port: port 29502 of 10\.0\.0\.1 is that of instance 'a', too"):
        VllmOptions.load(declared, where="h")
    declared["instances"]["b"]["master_port"] = 29503
    assert VllmOptions.load(declared, where="h")


def test_what_runs_between_hosts_is_shown_to_no_other() -> None:
    found = service(text(options(**NODES, node_ip_address="10.0.0.1")))
    assert found["IPAddressDeny"] == ["any"]
    assert found["IPAddressAllow"] == ["localhost", "10.0.0.1", "10.0.0.2"]
    assert "IPAddressDeny" not in service(text(options()))


def test_on_ray_it_is_one_with_the_cluster() -> None:
    cluster = {"node_ip_address": "10.0.0.1", "head": "10.0.0.1", "nodes": ["10.0.0.1", "10.0.0.2"]}
    instance = {"model": "m", "port": 8000, "distributed_executor_backend": "ray", "tensor_parallel": 16}
    data = {"tags": ["rtx4090"], "models": {"wanted": {"m": {"path": "/srv/m"}}}, "ray": cluster,
            "vllm": {"instances": {"one": instance}}}  # fmt: skip
    declared = Declaration.load(data, where="h")
    assert declared.vllm and declared.ray_environment == environment_of(declared.vllm)
    unit = text(declared.vllm, cluster=declared.ray_client_settings)
    assert "After=network-online.target ray.service" in unit and "Requires=ray.service" in unit
    assert service(unit)["User"] == ["ray"]
    assert "RAY_ADDRESS=10.0.0.1:6379" in service(unit)["Environment"]
    assert "\nray==" in REQUIREMENTS.read_text()
    del data["ray"]
    with pytest.raises(OptionError, match="vllm/instances/one/distributed_executor_backend: 'ray' needs the head"):
        Declaration.load(data, where="h")


def test_the_container_sees_its_model_its_cards_and_little_else() -> None:
    declared = options(role={"method": "container"}, cards=[0, 1], tensor_parallel=2, chat_template="/srv/t.jinja")
    words = line(declared)
    assert "--device=nvidia.com/gpu=0" in words and "--device=nvidia.com/gpu=1" in words
    assert "--mount=type=bind,source=/srv/models/deepseek-ai/r1,target=/srv/models/deepseek-ai/r1,readonly" in words
    assert "--mount=type=bind,source=/srv/t.jinja,target=/srv/t.jinja,readonly" in words
    assert "--publish=127.0.0.1:8000:8000" in words and "--env-file=CREDENTIALS/environment" in words
    image = words.index(f"vllm/vllm-openai:v{VERSION}")
    assert words[image + 1 : image + 3] == ["serve", MODEL.path]
    assert not any(word.startswith("--env=CUDA_VISIBLE_DEVICES") for word in words)


@pytest.mark.parametrize(
    ("tags", "image"),
    [(["rtx4090"], "vllm-openai"), (["b580"], "vllm-openai-xpu"), (["cpu"], "vllm-openai-cpu")],
)
def test_the_tags_choose_the_image(tags: list[str], image: str) -> None:
    words = line(options(role={"method": "container"}), tags, dump("nothing"))
    assert f"vllm/{image}:v{VERSION}" in words
    assert ("--device=/dev/dri" in words) == (tags == ["b580"])


def test_another_image_can_be_named() -> None:
    declared = options(role={"method": "container", "image": "intel/llm-scaler-vllm:0.21.0-b2"})
    assert "intel/llm-scaler-vllm:0.21.0-b2" in line(declared, ["b580"])
    assert "is another image every week" in wrong(role={"method": "container", "image": "intel/llm-scaler-vllm:latest"})


def test_the_unit_restarts_when_what_it_reads_changes() -> None:
    declared = options(lora_modules={"law": "/srv/lora/law"})
    assert set(reads("one", declared.instances["one"], declared, MODEL)) == {
        "/etc/systemd/system/vllm@one.service",
        "/opt/metal2model/vllm/current",
        "/srv/models/deepseek-ai/r1",
        "/srv/lora/law",
        "/etc/metal2model/vllm/one.environment",
    }


def test_the_packages_are_pinned_by_digests_and_name_no_index() -> None:
    lines = REQUIREMENTS.read_text().splitlines()
    named = [one for one in lines if re.match(r"[a-z0-9]", one)]
    assert f"vllm=={VERSION} \\" in named
    assert all("==" in one and one.endswith("\\") for one in named)
    assert not [one for one in lines if "://" in one]


@pytest.mark.parametrize(
    ("instances", "installed"),
    [({}, True), ({"one": {"model": "r1", "port": 1}}, True), ({"one": {"present": False}}, False)],
)
def test_nothing_is_fetched_for_servers_that_only_go(instances: dict[str, Any], installed: bool) -> None:
    """10 GB: for a server, or for the workers of a cluster, whose hosts declare none."""
    data = {"tags": ["rtx4090"], "models": {"wanted": {"r1": {"path": "/srv/r1"}}}, "docker": {}}
    for method, asked in (("native", needs_pypi), ("container", images)):
        declared = Declaration.load({**data, "vllm": {"method": method, "instances": instances}}, where="h")
        assert declared.vllm and declared.vllm.installed is installed
        assert bool(asked(declared)) is installed


def test_a_model_whose_path_docker_cannot_mount_is_refused_for_containers() -> None:
    odd = replace(MODEL, path="/srv/a,b")
    assert "docker's --mount cannot hold ','" in (options(role={"method": "container"}).cannot_serve(odd) or "")
    assert options().cannot_serve(odd) is None


def test_who_listens_outside_is_told_what_a_key_does_not_guard() -> None:
    (told,) = said(options(host="10.0.0.1", tensor_parallel=4))
    assert "its key guards /v1 alone" in told
    assert said(options(host="10.0.0.1", tensor_parallel=4, api_key=False)) == [], (
        "that there is no key, is said of all"
    )
    assert said(options(host="::1", tensor_parallel=4)) == []


def test_a_rolling_debian_has_a_python_that_is_new_enough() -> None:
    sid = replace(EIGHT, os=OperatingSystem("debian", "", "sid", "Debian GNU/Linux sid"))
    assert said(options(tensor_parallel=4), sid) == []
    jammy = replace(EIGHT, os=OperatingSystem("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS"))
    assert "required for vLLM is a Python that it is published for" in said(options(tensor_parallel=4), jammy)[0]


def test_the_hosts_python_or_uvs_compiles() -> None:
    assert "python3-dev" in needed_packages(options())
    assert "python3-dev" not in needed_packages(options(role={"python": "3.12"}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tensor_parallel_size": 2}, "one/tensor_parallel_size: no such option: write tensor_parallel"),
        ({"swap_space": 4}, "one/swap_space: no such option: vLLM no longer has it: preempted requests are computed"),
        ({"enable_prompt_adapter": True}, "no such option: vLLM no longer has it: prompt adapters are gone"),
        (
            {"revision": "main"},
            "one/revision: no such option: the model is a directory of the host by now; write models/",
        ),
        ({"dtype": "float_16"}, "(did you mean 'float16'?)"),
        ({"tool_call_parser": "hermess"}, "(did you mean 'hermes'?)"),
        ({"extra_arguments": ["--swap-space=4"]}, "vllm serve no longer has --swap-space; preempted"),
        ({"extra_arguments": ["--tensor_parallel_size", "2"]}, "--tensor_parallel_size is set by the option 'tensor_p"),
        ({"extra_arguments": ["-tp=2"]}, "-tp is set by the option 'tensor_parallel'"),
        ({"environment": {"VLLM_SERVER_DEV_MODE": "1"}}, "environment: VLLM_SERVER_DEV_MODE is refused: it opens"),
        ({"environment": {"CUDA_VISIBLE_DEVICES": "1"}}, "CUDA_VISIBLE_DEVICES is refused: write cards"),
        ({"chat_template": "/home/u/t.jinja"}, "chat_template: is /home/u/t.jinja, and the unit cannot see /home"),
        ({"max_num_batched_tokens": 8, "parallel": 16}, "max_num_batched_tokens: 8 tokens in a step, and 16 requests"),
        ({"nodes": ["10.0.0.1"], "node_ip_address": "10.0.0.1"}, "nodes: write two or more addresses"),
        ({**NODES, "node_ip_address": "10.0.0.3"}, "node_ip_address: '10.0.0.3' is not among nodes"),
        ({**NODES, "nodes": ["10.0.0.1", "8.8.8.8"]}, "'8.8.8.8' cannot be a node's: vLLM encrypts nothing"),
        ({**NODES, "node_ip_address": "10.0.0.1", "pipeline_parallel": 1}, "write pipeline_parallel: 2"),
        ({"cards": [0, 0]}, "one/cards: [0, 0] name a card twice; write each once"),
        ({"block_size": 24}, "block_size"),
        ({"quantization": "bitsandbytes"}, "quantization"),
    ],
)
def test_a_wrong_instance_is_explained(given: dict[str, Any], message: str) -> None:
    assert message in wrong(**given)


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ({"image": "vllm/vllm-openai:v0.33.0"}, "vllm/image: has no effect with method: 'native'"),
        ({"gpu": "intel"}, "vllm/gpu: 'intel': PyPI's wheel is for NVIDIA; write method: 'container'"),
        ({"method": "container", "python": "3.12"}, "vllm/python: has no effect with method: 'container'"),
        ({"cache_directory": "/home/u/cache"}, "vllm/cache_directory: '/home/u/cache': the unit cannot see /home"),
        ({"cache_directory": "/etc/cache"}, "vllm/cache_directory: '/etc/cache': /etc is the system's; put it below"),
        ({"cache_directory": "/srv/../usr/lib"}, "/usr is the system's"),
        ({"cache_directory": "/srv/%t"}, "vllm/cache_directory: "),
        ({"cache_directory": "/srv/$HOME"}, "vllm/cache_directory: "),
        ({"cache_directory": '/srv/"x'}, "vllm/cache_directory: "),
        ({"version": "0.32.0"}, "vllm/version: no such option: flags are checked for 0.33.0 alone"),
    ],
)
def test_a_wrong_role_is_explained(role: dict[str, Any], message: str) -> None:
    assert message in wrong(role=role)


def test_the_wheel_is_refused_where_no_card_of_nvidia_is_declared() -> None:
    role = {"instances": {"one": {"model": "m", "port": 8000}}}
    data = {"tags": ["cpu"], "models": {"wanted": {"m": {"path": "/srv/m"}}}, "vllm": role}
    with pytest.raises(OptionError, match=r"vllm/method: 'native' is PyPI's wheel, .*write method: 'container'"):
        Declaration.load(data, where="h")
    with pytest.raises(OptionError, match="vllm/method: it runs containers, and the docker role is not declared"):
        Declaration.load({**data, "vllm": {**role, "method": "container"}}, where="h")


def test_attention_heads_divide_among_the_cards() -> None:
    (message,) = said(options(tensor_parallel=8))
    assert message.startswith("vllm/instances/one/tensor_parallel: 8 does not divide the 28 attention heads of r1")
    assert message.endswith("use one of: 1, 2, 4, 7, 14")
    assert said(options(tensor_parallel=4)) == []


def test_cards_that_are_not_there_cannot_be_used() -> None:
    (message,) = said(options(tensor_parallel=2, fit="off"), ONE)
    assert "2 cards are needed on this host (2 x 1 x 1" in message and "1 are declared" in message
    four = options(tensor_parallel=4, **NODES, node_ip_address="10.0.0.1")
    assert "4 cards are needed on this host (4 x 2 x 1 / 2" in said(four, ONE)[0]
    assert said(options(tensor_parallel=7, cards=[0])) != []


def test_a_model_that_does_not_fit_is_told_with_the_arithmetic() -> None:
    t4 = replace(dump("t4-unnamed"), os=NOBLE)
    (message,) = said(options(), t4, ["t4"])
    assert "14.2 GiB weights + 0.2 GiB KV cache + 2.0 GiB overhead" in message and "14.7 GiB" in message
    assert said(options(cpu_offload_gb=4.0), t4, ["t4"]) == []


def test_old_cards_and_old_drivers_get_the_alternative() -> None:
    v100 = replace(dump("v100-passed-through"), os=NOBLE)
    assert "serve the model by llama_cpp" in said(options(cards=[0]), v100, ["v100"])[0]
    found = findings(options(), TAGS, replace(EIGHT, nvidia=NvidiaModule("570.1", True)), MODELS, "570.172.08")
    assert [finding.key for finding in found] == ["cuda_driver"]
    assert findings(options(), TAGS, EIGHT, MODELS, None) == []


def test_what_is_to_go_is_not_judged() -> None:
    assert said(options(present=False), replace(EIGHT, architecture="arm64")) == []


UNITS: dict[str, dict[str, Any]] = {
    "native": {},
    "other-disk": {"role": {"cache_directory": "/srv/cache"}},
    "container": {"role": {"method": "container"}},
    "nodes": {**NODES, "node_ip_address": "10.0.0.1"},
}


@pytest.mark.parametrize("kind", UNITS)
def test_systemd_takes_the_unit_and_calls_it_safe(tmp_path: Path, kind: str) -> None:
    unit = tmp_path / "vllm@one.service"
    written = text(options(**UNITS[kind]))
    program = service(written)["ExecStart"][0].split()[0]
    # Neither the program nor the services that it wants are here.
    unit.write_text(written.replace(program, "/bin/true").replace("/usr/bin/docker", "/bin/true"))
    verify = ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert not [one for one in done.stderr.splitlines() if "vllm@one.service" in one], done.stderr
    rate = ["systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager", str(unit)]
    rated = subprocess.run(rate, capture_output=True, text=True, check=False)
    assert rated.returncode == 0, rated.stdout.splitlines()[-1]
