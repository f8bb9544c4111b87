"""ktransformers: options as people write them, and the unit that comes of it."""

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from roles.common.hardware import Cpu, HardwareReport, NumaNode, OperatingSystem
from roles.common.model import Attention, Model
from roles.common.options import OptionError, OptionProblem
from roles.declaration import Declaration
from roles.ktransformers.options import KTransformersOptions
from roles.ktransformers.units import REQUIREMENTS, environment_of, reads, render
from roles.ktransformers.verify import endpoints
from roles.preflight.messages import sentence
from tests.roles.hardening import complaints
from tests.roles.test_hardware import dump
from tests.test_systemd import systemd_words

R1 = Model("r1", "/srv/models/deepseek-ai/DeepSeek-R1", 688_586_727_753)
Q4 = Model("q4", "/srv/models/unsloth/DeepSeek-R1-GGUF/Q4_K_M/DeepSeek-R1-Q4_K_M-00001-of-00009.gguf", 404_000_000_000)
AMX = Model("amx", "/srv/models/kt/DeepSeek-R1-AMXINT4", 380_000_000_000)
MODELS = {"r1": R1, "q4": Q4, "amx": AMX}
FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
XEON = replace(
    dump("rtx4090-beside-bmc"),
    os=OperatingSystem("ubuntu", "24.04"),
    cpu=Cpu("Xeon Gold 6430", FEATURES, 2, 64, 128),
    memory_mib=512 << 10,
    nodes=(NumaNode(0, "0-31,64-95", 32, 256 << 10), NumaNode(1, "32-63,96-127", 32, 256 << 10)),
)


def options(**given: Any) -> KTransformersOptions:
    declared = {"instances": {"one": {"model": "r1", "weights": "q4", "port": 30000, **given}}}
    return KTransformersOptions.load(declared, where="h", path="ktransformers")


def wrong(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(**given)
    return str(error.value)


def refused(**given: Any) -> str:
    with pytest.raises(OptionProblem) as error:
        options(**given).check_weights(MODELS)
    return f"{error.value.option}: {error.value}"


def unit(declared: KTransformersOptions, report: HardwareReport = XEON) -> str:
    one = declared.instances["one"]
    experts = MODELS[one.weights or one.model]
    return render("one", one, declared, model=R1, experts=experts, report=report)


def line(declared: KTransformersOptions, report: HardwareReport = XEON) -> list[str]:
    (command,) = [line for line in unit(declared, report).splitlines() if line.startswith("ExecStart=")]
    return systemd_words(command.removeprefix("ExecStart="))


def value(flag: str, declared: KTransformersOptions, report: HardwareReport = XEON) -> str:
    words = line(declared, report)
    return words[words.index(flag) + 1]


def said(declared: KTransformersOptions, report: HardwareReport = XEON, driver: str = "580.95.05") -> list[str]:
    return [sentence(one, "en") for one in declared.findings(report, ["rtx4090"], MODELS, driver)]


def test_the_slides_two_sockets_get_two_pools_of_the_physical_cores() -> None:
    assert value("--kt-cpuinfer", options()) == "64"
    assert value("--kt-threadpool-count", options()) == "2"
    assert "--kt-numa-nodes" not in line(options())
    assert value("--kt-cpuinfer", options(cpu_threads=60)) == "60"
    assert value("--kt-threadpool-count", options(), replace(XEON, nodes=())) == "1"


def test_nodes_that_are_not_counted_from_zero_are_named() -> None:
    apart = replace(XEON, nodes=(XEON.nodes[0], NumaNode(1, "", 0, 1024), replace(XEON.nodes[1], index=2)))
    words = line(options(), apart)
    assert words[words.index("--kt-numa-nodes") + 1 :][:2] == ["0", "2"]
    assert value("--kt-threadpool-count", options(), apart) == "2"


def test_a_gguf_is_loaded_from_its_directory_by_llamafile() -> None:
    assert value("--kt-method", options()) == "LLAMAFILE"
    assert value("--kt-weight-path", options()) == "/srv/models/unsloth/DeepSeek-R1-GGUF/Q4_K_M"
    assert value("--model-path", options()) == R1.path
    converted = options(weights="amx", method="AMXINT4")
    assert value("--kt-weight-path", converted) == AMX.path and value("--kt-method", converted) == "AMXINT4"
    own = options(weights=None, method="FP8")
    assert value("--kt-weight-path", own) == R1.path


def test_the_key_is_in_no_argument_and_in_no_log() -> None:
    text = unit(options())
    assert "LoadCredential=api_key:/etc/metal2model/ktransformers/one.key" in text
    assert "--api-key" not in text
    words = line(options())
    assert words[words.index("--config") + 1] == "/run/ktransformers/one/key.yaml"
    # SGLang says all its arguments at the level "info".
    assert words[words.index("--log-level") + 1] == "warning"
    assert "key.yaml" not in unit(options(api_key=False)) and "--log-level" not in line(options(api_key=False))


def test_the_unit_restarts_when_a_model_its_experts_or_the_key_change() -> None:
    declared = options()
    assert {
        R1.path,
        Q4.path,
        "/etc/metal2model/ktransformers/one.key",
        "/opt/metal2model/ktransformers/current",
    } <= set(reads("one", declared.instances["one"], R1, Q4))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"gguf_path": "/x"}, "one/gguf_path: no such option: write weights, the name of a GGUF under models/wanted"),
        ({"use_numa": True}, "one/use_numa: no such option: nothing is compiled with USE_NUMA any more"),
        ({"extra_arguments": ["--gguf_path"]}, "KTransformers no longer has --gguf_path; write weights"),
        ({"extra_arguments": ["--cpu_infer=33"]}, "KTransformers no longer has --cpu_infer; write cpu_threads"),
        ({"extra_arguments": ["--kt-method"]}, "--kt-method is set by the option 'method'"),
        ({"weights": None}, "one/weights: required with method: 'auto'"),
        ({"method": "AMXINT"}, "one/method: input should be"),
    ],
)
def test_a_wrong_instance_is_explained(given: dict[str, Any], error: str) -> None:
    assert error in wrong(**given)


def test_weights_must_be_declared_and_of_the_method_s_format() -> None:
    assert refused(weights="q8").startswith("instances/one/weights: 'q8' is not among models/wanted")
    assert "'auto' knows a GGUF, and 'amx' is /srv/models/kt/DeepSeek-R1-AMXINT4" in refused(weights="amx")
    assert "a GGUF, and nothing else, is for 'LLAMAFILE'" in refused(method="AMXINT8")
    assert "a GGUF, and nothing else, is for 'LLAMAFILE'" in refused(weights="amx", method="LLAMAFILE")
    options(weights="amx", method="AMXINT8").check_weights(MODELS)


def test_a_host_without_a_card_is_told_what_serves_there() -> None:
    model = "deepseek-r1-distill-qwen-1.5b"
    with pytest.raises(OptionError, match="h: ktransformers/instances: KTransformers needs one of NVIDIA's cards"):
        Declaration.load(
            {
                "tags": ["cpu"],
                "models": {"wanted": {model: {}}},
                "ktransformers": {"instances": {"one": {"model": model, "method": "BF16", "port": 1}}},
            },
            where="h",
        )


def test_the_slides_host_passes() -> None:
    assert said(options()) == []


def test_a_processor_without_the_instructions_is_refused() -> None:
    epyc = replace(XEON, cpu=Cpu("EPYC 9654", ("avx2", "avx512f", "avx512_bf16"), 2, 192, 384))
    assert said(options(), epyc) == []
    (problem,) = said(options(weights="amx", method="AMXINT4", fit="off"), epyc)
    assert problem.startswith(
        "ktransformers/instances/one/method: the processors lack amx_tile, amx_int8; required for AMXINT4: amx_tile, "
    )
    old = replace(XEON, cpu=Cpu("Xeon E5-2690 v2", ("sse4_2",), 2, 20, 40))
    assert "lack avx2; required for LLAMAFILE: avx2" in said(options(), old)[0]


def test_382_gb_of_experts_need_as_much_memory() -> None:
    (problem,) = said(options(), replace(XEON, memory_mib=256 << 10))
    assert "ktransformers/instances/one" in problem and "376.3 GiB weights" in problem and "256.0 GiB" in problem


R1_ON_CARD = replace(R1, attention=Attention(layers=61, heads=128, kv_heads=1, head_dim=576, value_dim=0))


def test_the_cache_is_that_of_the_served_model_and_lies_on_the_card() -> None:
    """A GGUF made before llama.cpp knew latent attention has fifty times the cache: SGLang never makes that one."""
    declared = {
        "tags": ["rtx4090"],
        "models": {"wanted": {"deepseek-r1": {}, "deepseek-r1-ud-q2-k-xl": {}}},
        "ktransformers": {
            "instances": {
                "one": {
                    "model": "deepseek-r1", "weights": "deepseek-r1-ud-q2-k-xl", "port": 1, "context_length": 16384
                }
            }
        },
    }  # fmt: skip
    report = replace(XEON, memory_mib=256 << 10)
    assert [one for one in Declaration.load(declared, where="h").findings(report) if one.key.startswith("fit")] == []
    small = Declaration.load(declared, where="h").findings(replace(XEON, memory_mib=192 << 10))
    (text,) = [sentence(one, "en") for one in small if one.key.startswith("fit")]
    assert "one: 211.4 GiB weights + 1.0 GiB overhead)" in text
    assert "what would fit here: weights: deepseek-r1-ud-iq2-xxs;" in text

    found = options(context_length=163840, gpu_memory_utilization=0.4).findings(
        XEON, ["rtx4090"], {**MODELS, "r1": R1_ON_CARD}, None
    )
    assert "0.0 GiB weights + 10.7 GiB KV cache + 2.0 GiB overhead" in sentence(found[0], "en")


def test_cards_before_ampere_are_refused() -> None:
    t4 = replace(dump("t4-unnamed"), os=XEON.os, cpu=XEON.cpu, memory_mib=XEON.memory_mib)
    (problem,) = [sentence(one, "en") for one in options().findings(t4, ["t4"], MODELS, None)]
    assert "has compute capability 7.5; required for KTransformers: one of 8.0, 8.6, 8.9, 9.0" in problem


def test_only_pythons_that_it_is_published_for_are_used() -> None:
    trixie = replace(XEON, os=OperatingSystem("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)"))
    (problem,) = said(options(), trixie)
    assert problem.startswith(
        "ktransformers/python: the system is Debian GNU/Linux 13 (trixie); required for KTransformers"
    )
    declared = KTransformersOptions.load({**options().model_dump(), "python": "3.12"}, where="h")
    assert said(declared, trixie) == [] and environment_of(declared).python == "3.12"


def test_the_packages_are_pinned_to_the_version_that_is_written() -> None:
    lines = REQUIREMENTS.read_text().splitlines()
    assert {f"{name}==0.7.2 \\" for name in ("ktransformers", "kt-kernel", "sglang-kt")} <= set(lines)
    assert environment_of(options()).version == "0.7.2"


def test_verify_asks_for_the_card() -> None:
    (endpoint,) = endpoints(options(alias="deepseek-r1"))
    assert (endpoint.model, endpoint.device_proof, endpoint.unit) == (
        "deepseek-r1", "gpu_memory", "ktransformers@one.service")  # fmt: skip


@pytest.mark.parametrize("api_key", [True, False])
def test_systemd_has_nothing_against_the_unit(api_key: bool, tmp_path: Path) -> None:
    assert complaints("ktransformers@one.service", unit(options(api_key=api_key)), tmp_path) == []


def test_the_key_comes_out_of_the_file_as_it_went_in(tmp_path: Path) -> None:
    (line,) = [line for line in unit(options()).splitlines() if line.startswith("ExecStartPre=/bin/sh -c ")]
    script = (
        line.removeprefix("ExecStartPre=/bin/sh -c ")
        .strip("'")
        .replace("%%", "%")
        .replace("/run/ktransformers/one", ".")
    )
    (tmp_path / "api_key").write_text("0123456789abcdef\n")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path), "PATH": "/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert yaml.safe_load((tmp_path / "key.yaml").read_text()) == {"api-key": "0123456789abcdef"}
