"""llama_cpp: options as people write them, and the unit that comes of it."""

import configparser
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from roles.common.hardware import Cpu, HardwareReport, NumaNode
from roles.common.model import Model
from roles.common.numa import NumaPolicy, numa_policy
from roles.common.options import OptionError, OptionProblem
from roles.llama_cpp.deploy import installation, needed_packages
from roles.llama_cpp.options import LlamaCppOptions
from roles.llama_cpp.units import reads, render
from roles.llama_cpp.verify import endpoints
from roles.models.options import ModelsOptions
from roles.preflight.messages import sentence
from tests.roles.test_hardware import dump
from tests.roles.test_lock import report_with

MODEL = Model(name="tiny", path="/srv/models/a/b/tiny.gguf")
MODELS = {"tiny": MODEL}
ONE_NODE = HardwareReport(architecture="amd64", cpu=Cpu(cores=6))
TWO_NODES = HardwareReport(
    architecture="amd64",
    cpu=Cpu(cores=32),
    nodes=(NumaNode(0, "0-15", 16, 1024), NumaNode(1, "16-31", 16, 1024)),
)
SHA256 = "0" * 64


def options(**given: Any) -> LlamaCppOptions:
    return LlamaCppOptions.load(given, where="h", path="llama_cpp")


def instance(**given: Any) -> LlamaCppOptions:
    return options(instances={"r1": {"model": "tiny", "port": 8000, **given}})


def unit(
    declared: LlamaCppOptions, report: HardwareReport = ONE_NODE, tags: Sequence[str] = ("cpu",)
) -> dict[str, list[str]]:
    """The [Service] section: directive -> its values."""
    policy = numa_policy(report, declared.instances["r1"].numa, tags=tags, uses_gpu=declared.uses_gpu(tags))
    text = render("r1", declared.instances["r1"], declared, MODEL, policy, uses_gpu=declared.uses_gpu(tags))
    found: dict[str, list[str]] = {}
    for line in text.split("[Service]")[1].split("[Install]")[0].splitlines():
        if "=" in line:
            found.setdefault(line.split("=", 1)[0], []).append(line.split("=", 1)[1])
    return found


def command(declared: LlamaCppOptions, report: HardwareReport = ONE_NODE) -> str:
    return unit(declared, report)["ExecStart"][0]


def wrong(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(**given)
    return str(error.value)


def test_it_listens_on_the_loopback_address_and_asks_for_a_key() -> None:
    line = command(instance())
    assert "--host 127.0.0.1 --port 8000" in line
    assert line.endswith("--api-key-file ${CREDENTIALS_DIRECTORY}/api_key")
    assert unit(instance())["LoadCredential"] == ["api_key:/etc/metal2model/llama_cpp/r1.key"]


def test_web_pages_of_others_may_not_call_it() -> None:
    assert "--cors-origins http://127.0.0.1:8000" in command(instance())


def test_without_a_key_none_is_loaded() -> None:
    assert "api-key" not in command(instance(api_key=False))
    assert "LoadCredential" not in unit(instance(api_key=False))


def test_threads_are_the_physical_cores() -> None:
    assert "--threads 6 " in command(instance())
    assert "--threads 3 " in command(instance(threads=3))


def test_a_server_bound_to_a_node_gets_its_cores_and_memory() -> None:
    declared = instance(numa=1)
    assert "--threads 16 " in command(declared, TWO_NODES)
    assert "--numa numactl" in command(declared, TWO_NODES)
    service = unit(declared, TWO_NODES)
    assert (service["NUMAPolicy"], service["NUMAMask"], service["CPUAffinity"]) == (["bind"], ["1"], ["16-31"])


def test_by_itself_a_gpu_server_runs_beside_its_cards_and_may_use_the_other_memory() -> None:
    report = dump("two-sockets-8-rtx4090")
    report = replace(report, controllers=tuple(card for card in report.controllers if card.numa_node == 0))
    cuda = LlamaCppOptions.load({**instance().model_dump(), "variant": "cuda-12.8-x64"}, where="h")
    service = unit(cuda, report, ["rtx4090", "numa"])
    assert (service["NUMAPolicy"], service["NUMAMask"], service["CPUAffinity"]) == (["preferred"], ["0"], ["0-31"])
    assert "--threads 32 " in service["ExecStart"][0] and "--numa numactl" in service["ExecStart"][0]
    assert "NUMAPolicy" not in unit(cuda, report, ["rtx4090"])


def test_by_itself_a_server_without_a_gpu_spreads_over_all_nodes() -> None:
    service = unit(instance(), TWO_NODES, ["cpu", "numa"])
    assert (service["NUMAPolicy"], service["NUMAMask"]) == (["interleave"], ["0-1"])
    assert "CPUAffinity" not in service
    assert "--threads 32 " in service["ExecStart"][0]
    assert "--numa" not in unit(instance(), TWO_NODES)["ExecStart"][0]


@pytest.mark.parametrize("choice", ["distribute", "isolate"])
def test_the_engine_itself_can_place_the_memory(choice: str) -> None:
    service = unit(instance(numa=choice), TWO_NODES, ["cpu", "numa"])
    assert f"--numa {choice}" in service["ExecStart"][0]
    assert "NUMAPolicy" not in service


def test_a_node_that_does_not_exist_is_refused() -> None:
    (finding,) = instance(numa=7).findings(TWO_NODES, ["cpu"], MODELS)
    assert sentence(finding, "en").startswith(
        "llama_cpp/instances/r1/numa: NUMA node 7 does not exist; this host has: 0, 1;"
    )
    assert instance(numa=7, present=False).findings(TWO_NODES, ["cpu"], MODELS) == []


def test_only_a_gpu_build_may_open_devices() -> None:
    assert unit(instance())["PrivateDevices"] == ["yes"]
    vulkan = LlamaCppOptions.load({**instance().model_dump(), "variant": "vulkan-x64"}, where="h")
    assert "PrivateDevices" not in unit(vulkan)


def test_locking_memory_lifts_its_limit() -> None:
    assert "LimitMEMLOCK" not in unit(instance())
    assert unit(instance(load_mode="mlock"))["LimitMEMLOCK"] == ["infinity"]


def test_a_percent_sign_in_the_environment_is_not_a_specifier() -> None:
    assert 'A=50%% $x"' in unit(instance(environment={"A": "50% $x"}))["Environment"][-1]


def test_the_unit_restarts_when_its_file_program_model_or_key_changes() -> None:
    declared = instance()
    assert set(reads("r1", declared.instances["r1"], declared, MODEL)) == {
        "/etc/systemd/system/llama-server@r1.service",
        "/opt/metal2model/llama.cpp/current",
        "/opt/metal2model/llama.cpp/current/llama-server",
        "/srv/models/a/b/tiny.gguf",
        "/etc/metal2model/llama_cpp/r1.key",
    }


def test_the_unit_says_who_wrote_it_and_where_to_change_it() -> None:
    text = render("r1", instance().instances["r1"], instance(), MODEL, NumaPolicy(), uses_gpu=False)
    assert "metal2model" in text.splitlines()[0] and "llama_cpp/instances/r1" in text.splitlines()[0]
    configparser.ConfigParser(strict=False, interpolation=None, delimiters="=").read_string(text)


def test_the_default_release_is_pinned() -> None:
    version, arguments = installation(options(), ["cpu"], "amd64")
    assert version.startswith("b11146-x64-")
    url, digest = arguments
    assert url == ("https://github.com/ggml-org/llama.cpp/releases/download/b11146/llama-b11146-bin-ubuntu-x64.tar.gz")
    assert len(digest) == 64


def test_arm64_gets_its_own_archive() -> None:
    assert installation(options(), ["cpu"], "arm64")[0].startswith("b11146-arm64-")


def test_cuda_brings_its_runtime_library() -> None:
    _, arguments = installation(options(variant="cuda-12.8-x64"), ["cpu"], "amd64")
    assert [url.rsplit("/", 1)[1] for url in arguments[::2]] == [
        "llama-b11146-bin-ubuntu-cuda-12.8-x64.tar.gz",
        "cudart-llama-b11146-bin-ubuntu-cuda-12.8-x64.tar.gz",
    ]


def test_another_version_needs_its_digest() -> None:
    assert wrong(version="b11147").startswith(
        "h: llama_cpp/sha256: required for version 'b11147', whose digest is not pinned here (did you mean 'b11146'?)"
    )
    assert installation(options(version="b11147", sha256=SHA256), ["cpu"], "amd64")[1][1] == SHA256


def test_a_variant_without_a_pinned_digest_is_refused() -> None:
    assert "llama_cpp/sha256: required for variant 'cuda-13.4-x64'" in wrong(variant="cuda-13.4-x64")


def test_another_digest_or_build_option_is_another_directory() -> None:
    """Else what was installed under the old one would pass for the new."""
    names = {installation(options(version="b2", sha256=digit * 64), ["cpu"], "amd64")[0] for digit in "01"} | {
        installation(options(source="build", sha256=SHA256, build_options=given), ["cpu"], "amd64")[0]
        for given in ([], ["-DX=1"])
    }
    assert len(names) == 4
    proxied = options(download_url="https://proxy.example.org/ggml-org/llama.cpp")
    assert installation(proxied, ["cpu"], "amd64")[0] == installation(options(), ["cpu"], "amd64")[0]


def test_an_architecture_without_a_release_is_refused_on_the_host() -> None:
    (finding,) = options().findings(HardwareReport(architecture="riscv64"), ["cpu"], {})
    said = sentence(finding, "en")
    assert said.startswith("llama_cpp/source: ") and "riscv64" in said and "amd64, arm64" in said and "'build'" in said


def test_a_build_needs_the_digest_of_its_source_and_a_compiler() -> None:
    assert "llama_cpp/sha256: required with source: 'build'" in wrong(source="build")
    declared = options(source="build", sha256=SHA256, build_backend="vulkan", build_options=["-DX=1"])
    assert {"cmake", "build-essential", "glslc"} <= set(needed_packages(declared, ["cpu"]))
    assert installation(declared, ["cpu"], "amd64")[1][1:] == [SHA256, "-DGGML_VULKAN=ON", "-DX=1"]


def test_an_existing_program_needs_its_path_and_nothing_else() -> None:
    assert "llama_cpp/binary: required with source: 'existing'" in wrong(source="existing")
    assert "llama_cpp/binary: units cannot see /home" in wrong(source="existing", binary="/home/u/llama-server")
    declared = options(source="existing", binary="/usr/local/bin/llama-server")
    assert needed_packages(declared, ["cpu"]) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": None}, "llama_cpp/instances/r1/port: this option is required"),
        ({"model": ""}, "llama_cpp/instances/r1/model: this option is required"),
        ({"prot": 1}, "llama_cpp/instances/r1/prot: unknown option (did you mean 'port'?)"),
        ({"n_gpu_layers": 9}, "llama_cpp/instances/r1/n_gpu_layers: no such option: write gpu_layers"),
        ({"extra_arguments": ["--port=9"]}, "extra_arguments: --port is set by the option 'port'"),
        (
            {"extra_arguments": ["--mlock"]},
            "extra_arguments: llama-server no longer has --mlock; write load_mode: mlock",
        ),
        ({"cache_type_v": "q4_0", "flash_attention": "off"}, "cache_type_v: 'q4_0' needs flash attention"),
        ({"cache_type_k": "q8"}, "(did you mean 'q8_0'?)"),
        ({"host": "0.0.0.0:8000"}, "host: '0.0.0.0:8000' is no IP address; write 127.0.0.1 for this host alone"),
        ({"host": "localhost"}, "host: 'localhost' is no IP address"),
        ({"context_length": 0, "parallel": 2}, "context_length: 0 stands for what the model was trained with, which 2"),
        ({"extra_arguments": ["--api_key=x"]}, "extra_arguments: --api_key is set by the option 'api_key'"),
        ({"environment": {"LLAMA_API_KEY": "x"}}, "environment: LLAMA_API_KEY would be readable by everybody"),
        ({"environment": {"A B": "x"}}, "environment/A B"),
    ],
)
def test_a_wrong_instance_is_explained(given: dict[str, Any], said: str) -> None:
    assert said in wrong(instances={"r1": {"model": "tiny", "port": 8000, **given}})


@pytest.mark.parametrize("name", ["a b", "../x", "A", "", "x@y"])
def test_a_name_that_is_no_safe_path_is_refused(name: str) -> None:
    assert "llama_cpp/instances/" in wrong(instances={name: {"model": "tiny", "port": 1}})


def test_verify_asks_where_the_server_listens() -> None:
    (endpoint,) = endpoints(instance(host="0.0.0.0", alias="r1-7b"), ["cpu"])
    assert (endpoint.url, endpoint.model, endpoint.unit) == (
        "http://127.0.0.1:8000", "r1-7b", "llama-server@r1.service")  # fmt: skip
    assert endpoints(instance(present=False), ["cpu"]) == []


# --- Builds by tag ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "variant"),
    [
        (["cpu"], "x64"),
        (["rtx4090"], "cuda-12.8-x64"),
        (["v100", "numa"], "cuda-12.8-x64"),
        (["b580"], "vulkan-x64"),
        (["b580", "rtx4090"], "cuda-12.8-x64"),
    ],
)
def test_the_tags_choose_the_build(tags: list[str], variant: str) -> None:
    version, arguments = installation(options(), tags, "amd64")
    assert version.startswith(f"b11146-{variant}-")
    assert f"/llama-b11146-bin-ubuntu-{variant}.tar.gz" in arguments[0]
    assert len(arguments) == (4 if variant.startswith("cuda") else 2), "CUDA's runtime comes in an archive of its own"


def test_a_build_that_the_tags_choose_needs_all_its_digests() -> None:
    with pytest.raises(OptionProblem) as caught:
        options(version="b2", sha256=SHA256).check_tags(["rtx4090"])
    assert caught.value.option == "cudart_sha256"
    assert "cudart-llama-b2-bin-ubuntu-cuda-12.8-x64.tar.gz, which the tags rtx4090 choose" in str(caught.value)
    options(version="b2", sha256=SHA256).check_tags(["b580"])
    options(version="b2", sha256=SHA256, cudart_sha256=SHA256).check_tags(["rtx4090"])


@pytest.mark.parametrize(
    ("given", "tags", "proof"),
    [
        ({}, ["cpu"], ""),
        ({}, ["rtx4090"], "gpu_memory"),
        ({"variant": "x64"}, ["rtx4090"], ""),
        ({"source": "existing", "binary": "/opt/x/llama-server"}, ["b580"], "gpu_memory"),
    ],
)
def test_verify_looks_for_the_card_where_it_must_compute(given: dict[str, Any], tags: list[str], proof: str) -> None:
    declared = options(**given, instances={"r1": {"model": "tiny", "port": 8000}})
    assert endpoints(declared, tags)[0].device_proof == proof
    none = options(**given, instances={"r1": {"model": "tiny", "port": 8000, "gpu_layers": 0}})
    assert endpoints(none, tags)[0].device_proof == ""


def test_the_fastest_is_looked_for_among_what_the_host_can_run() -> None:
    one = {"r1": {"model": "tiny", "port": 8000}}
    assert options(variant="fastest", instances=one).variants(["b580"]) == ["vulkan-x64", "x64"]
    assert options(variant="fastest", instances=one).variants(["rtx4090"]) == ["cuda-12.8-x64", "vulkan-x64", "x64"]
    sycl = {"llama-b11146-bin-ubuntu-sycl-fp16-x64.tar.gz": SHA256}
    assert options(variant="fastest", instances=one, digests=sycl).variants(["b580"]) == [
        "vulkan-x64", "sycl-fp16-x64", "x64"]  # fmt: skip
    assert "digests: of llama-b11146-bin-ubuntu-sycl-fp16-x64.tar.gz required" in wrong(
        variant="fastest", candidates=["sycl-fp16-x64"], instances=one
    )
    assert "'fastest' measures with the model of an instance" in wrong(variant="fastest")
    assert "'fastest' compares release archives" in wrong(
        variant="fastest", source="existing", binary="/opt/x/s", instances=one
    )


def test_a_context_is_each_requests_own() -> None:
    """One vocabulary: vLLM and Ollama count it for one request, llama-server for all of its slots."""
    (line,) = unit(instance(context_length=2048, parallel=4))["ExecStart"]
    assert "--ctx-size 8192 --parallel 4" in line


def fit_keys(report: HardwareReport, tags: list[str], **given: Any) -> set[str]:
    """What preflight finds of one large model with all its layers on the card."""
    one = {"model": "big", "port": 8000, "gpu_layers": "all", **given.pop("instance", {})}
    declared = LlamaCppOptions.load({"instances": {"r1": one}, **given}, where="h")
    big = ModelsOptions.load({"wanted": {"qwen3-32b-q4": {}}}, where="h").model("qwen3-32b-q4")
    return {finding.key for finding in declared.findings(report, tags, {"big": big})}


def test_only_cards_that_the_build_sees_count() -> None:
    """27 GB: more than the 24 of a 4090, less than those and the 12 of a B580 together."""
    mixed = replace(report_with("10de:2684", "8086:e20b"), memory_mib=128 << 10)
    long = {"context_length": 32768}
    assert "fit_no_vram" in fit_keys(mixed, ["rtx4090", "b580"], instance=long)
    assert "fit_no_vram" not in fit_keys(mixed, ["rtx4090", "b580"], variant="vulkan-x64", instance=long)


def test_experts_that_stay_with_the_processors_do_not_count_for_the_card() -> None:
    small = replace(report_with("8086:e20b"), memory_mib=128 << 10)
    assert "fit_no_vram" in fit_keys(small, ["b580"])
    assert "fit_no_vram" not in fit_keys(small, ["b580"], instance={"extra_arguments": ["--cpu-moe"]})
