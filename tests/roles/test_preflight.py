"""Preflight: what speaks against a host, in both languages."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from roles.common.findings import Finding
from roles.common.hardware import Cpu, HardwareReport, Mount, NumaNode, NvidiaModule, OperatingSystem
from roles.common.images import ImageStates, moved
from roles.common.report import Report
from roles.declaration import Declaration
from roles.intel_gpu.facts import RuntimeState
from roles.intel_gpu.operations import old_firmware
from roles.models.facts import Unwanted
from roles.models.operations import in_use, left
from roles.ollama.facts import Foreign, ModelsState
from roles.ollama.operations import findings as ollama_findings
from roles.ollama.operations import not_ours, undeclared
from roles.preflight import operations
from roles.preflight.findings import SYSTEMS, findings
from roles.preflight.messages import MESSAGES, Language, sentence, severity
from tests.roles.test_hardware import SEEN, dump
from tests.roles.test_lock import report_with
from tests.roles.test_probe import State

ROLES = Path(__file__).parents[2] / "roles"
LANGUAGES: tuple[Language, ...] = ("en", "zh")
NODE = NumaNode(0, "0-3", 4, 4096)
NOBLE = OperatingSystem("ubuntu", "24.04", "noble", "Ubuntu 24.04.4 LTS")
BOOKWORM = OperatingSystem("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)")
TRIXIE = OperatingSystem("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)")
GOOD = HardwareReport(
    os=NOBLE,
    architecture="amd64",
    kernel="6.8.0-87-generic",
    virtualization="none",
    uefi=True,
    secure_boot=False,
    cpu=Cpu("Test", (), 1, 4, 4),
    memory_mib=4096,
    nodes=(NODE,),
)


def said(tags: list[str], report: HardwareReport, lang: Language = "en") -> list[str]:
    return [sentence(finding, lang) for finding in findings(tags, report)]


# --- System, architecture, tags --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("system", "version"), [(s, v) for s, versions in SYSTEMS.items() for v in versions])
def test_supported_systems_pass(system: str, version: str) -> None:
    assert findings(["cpu"], replace(GOOD, os=OperatingSystem(system, version))) == []


@pytest.mark.parametrize(
    ("system", "found"),
    [
        (OperatingSystem("ubuntu", "20.04", "focal", "Ubuntu 20.04.6 LTS"), "Ubuntu 20.04.6 LTS"),
        (OperatingSystem("ubuntu", "25.10", "questing", "Ubuntu 25.10"), "Ubuntu 25.10"),
        (OperatingSystem("debian", "11", "bullseye", "Debian GNU/Linux 11"), "Debian GNU/Linux 11"),
        (OperatingSystem("arch", "", "", "Arch Linux"), "Arch Linux"),
        (OperatingSystem("openEuler"), "openEuler"),
        (OperatingSystem(), "unknown"),
    ],
)
def test_other_systems_are_refused_by_name(system: OperatingSystem, found: str) -> None:
    (problem,) = said(["cpu"], replace(GOOD, os=system))
    assert problem.startswith(f"the operating system is {found}; required: Ubuntu 22.04")


def test_other_architectures_are_refused() -> None:
    assert said(["cpu"], replace(GOOD, architecture="arm64")) == []
    (problem,) = said(["cpu"], replace(GOOD, architecture="riscv64"))
    assert problem.startswith("the architecture is riscv64; required: amd64, arm64;")


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("b580-beside-igpu", ["b580"]),
        ("b580-beside-igpu", ["cpu"]),
        ("b580-beside-igpu", ["b580", "cpu"]),
        ("b580-beside-igpu", ["intel-xe"]),
        ("two-sockets-8-rtx4090", ["rtx4090", "numa"]),
        ("virtio-gpu-vm", ["cpu"]),
        ("firecracker-container", ["cpu"]),
        ("arc-pro-b50", ["arc-pro-b50"]),
        ("two-arc-pro-b60", ["arc-pro-b60"]),
        ("a770-acer", ["a770"]),
        ("a380-beside-igpu", ["a380"]),
        ("eight-h200", ["h200", "numa"]),
        ("h800-unnamed", ["nvidia-hopper"]),
        ("rtx4090-beside-bmc", ["rtx4090"]),
        ("rtx3090-nouveau", ["rtx3090"]),
        ("p40-in-a-vm", ["p40"]),
        ("a100-80gb", ["a100", "numa"]),
        ("rtx5090-no-rebar", ["rtx5090"]),
    ],
)
def test_tags_that_fit_pass(name: str, tags: list[str]) -> None:
    assert said(tags, dump(name)) == []


@pytest.mark.parametrize(
    ("name", "tags", "keys"),
    [
        ("h20-vm", ["h20"], ["no_bar"]),
        ("rtx3090-no-address", ["rtx3090"], ["no_bar", "narrow_link"]),
        ("v100-passed-through", ["v100"], ["passed_through"]),
        ("v100-passed-through", ["cpu"], []),  # the virtual machine's business
        ("panther-lake-igpu", ["b580"], ["no_card"]),
        ("panther-lake-igpu", ["intel-xe"], ["no_card"]),
        ("b580-in-a-vm", ["b580"], ["os"]),
        ("b570-resize-refused", ["b570"], ["os", "architecture"]),
        ("two-arc-pro-b70", ["arc-pro-b70"], ["narrow_link", "narrow_link"]),
        ("two-rtx3090", ["rtx3090", "numa"], ["narrow_link"]),
        ("two-rtx3090", ["rtx4090"], ["no_card"]),
        ("t4-unnamed", ["t4"], ["narrow_link"]),
        ("rtx4090-on-a-pi", ["rtx4090"], ["narrow_link"]),
        ("eight-h200", ["h200", "h100"], ["no_card"]),
        ("arc-pro-b50", ["arc-pro-b50", "numa"], ["one_node"]),
    ],
)
def test_what_speaks_against_the_hosts_of_public_reports(name: str, tags: list[str], keys: list[str]) -> None:
    assert [finding.key for finding in findings(tags, dump(name))] == keys


def test_a_card_that_is_absent_is_told_with_what_is_there() -> None:
    (problem,) = said(["b570"], dump("b580-beside-igpu"))
    assert problem == (
        "tags: 'b570' is declared, but the display controllers on the PCI bus are: "
        "8086:a780 @ 0000:00:02.0, 8086:e20b @ 0000:03:00.0 (tag 'b580'); "
        "required (any of): 8086:e20c (Arc B570); drivers are chosen by this tag; "
        "correct the tag, or check that the card is seated, has power and is not passed through to a VM"
    )


def test_several_ids_are_any_of() -> None:
    (problem,) = said(["rtx3090"], GOOD)
    assert "the display controllers on the PCI bus are: none at all;" in problem
    assert "required (any of): 10de:2204 (GeForce RTX 3090), 10de:2203 (GeForce RTX 3090 Ti);" in problem


def test_an_absent_family_names_all_its_cards() -> None:
    (problem,) = said(["intel-xe"], GOOD)
    assert all(pci_id in problem for pci_id in ("8086:e20b", "8086:e20c", "8086:e212", "8086:e211", "8086:e223"))


def test_numa_needs_two_nodes() -> None:
    (problem,) = said(["cpu", "numa"], GOOD)
    assert "the kernel shows 1 NUMA node" in problem
    assert said(["cpu", "numa"], replace(GOOD, nodes=(NODE, replace(NODE, index=1)))) == []


def test_all_problems_are_told_at_once_and_in_chinese() -> None:
    told = said(["b580", "numa"], HardwareReport(), lang="zh")
    assert len(told) == 4
    assert told[0].startswith("操作系统是 未知；要求：Ubuntu 22.04")
    assert told[2].startswith("tags：声明了 'b580'") and "显示控制器有：无" in told[2]


def test_a_card_without_an_address_is_told_whatever_its_maker() -> None:
    for pci_id, tag in (("8086:e20b", "b580"), ("10de:2684", "rtx4090")):
        (card,) = report_with(pci_id).controllers
        registers = replace(card, bars=(16 << 20, 0, 0, 32 << 20, 0, 0), driver="xe")
        (finding,) = findings([tag], replace(GOOD, controllers=(registers,)))
        assert finding.key == "no_bar"
        # A container or a virtual machine may hide the regions; that is no region too small.
        assert findings([tag], replace(GOOD, controllers=(card,))) == []


# --- Every finding there is ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A host as its administrator declares it, and as it is."""

    report: HardwareReport
    tags: tuple[str, ...] = ("cpu",)
    options: dict[str, Any] = field(default_factory=dict)

    def findings(self) -> list[Finding]:
        return Declaration.load({"tags": list(self.tags), **self.options}, where="h").findings(self.report)


def host(*pci_ids: str, **changes: Any) -> HardwareReport:
    """A good host with these cards, at work and whole."""
    cards = tuple(
        replace(card, driver={"10de": "nvidia"}.get(card.vendor, "xe"), bars=(16 << 20, 0, 32 << 30, 0, 0, 0))
        for card in report_with(*pci_ids).controllers
    )
    return replace(GOOD, **{"controllers": cards, "kernel": "6.17.0-14-generic", **changes})


def serving(model: str = "qwen3-8b-q4", **more: Any) -> dict[str, Any]:
    """A server of a model of the catalogue; ``more`` are options of llama_cpp and of its instance."""
    instance = {"model": model, "port": 8000, **more.pop("instance", {})}
    return {"models": {"wanted": {model: {}}}, "llama_cpp": {"instances": {"r1": instance}, **more}}


def transformers(**given: Any) -> dict[str, Any]:
    """A server of a model of the catalogue, by transformers."""
    model = "deepseek-r1-distill-qwen-1.5b"
    instance = {"model": model, "port": 8000, **given}
    return {"models": {"wanted": {model: {}}}, "transformers_serve": {"instances": {"r1": instance}}}


def experts(**given: Any) -> dict[str, Any]:
    """A server of a model of the catalogue, by KTransformers."""
    model = "deepseek-r1-distill-qwen-1.5b"
    instance = {"model": model, "port": 8000, "method": "BF16", **given}
    return {"models": {"wanted": {model: {}}}, "ktransformers": {"instances": {"r1": instance}}}


def ipex(**given: Any) -> dict[str, Any]:
    """A server of a model of the catalogue, by IPEX-LLM."""
    model = "deepseek-r1-distill-qwen-1.5b"
    instance = {"model": model, "port": 8000, **given}
    return {"docker": {}, "models": {"wanted": {model: {}}}, "ipex_llm": {"instances": {"r1": instance}}}


def ray(**given: Any) -> dict[str, Any]:
    """A cluster of two hosts."""
    return {"ray": {"node_ip_address": "10.0.0.1", "head": "10.0.0.1", "nodes": ["10.0.0.1", "10.0.0.2"], **given}}


def vllm(*, method: str = "native", model: str = "deepseek-r1-distill-qwen-7b", **instance: Any) -> dict[str, Any]:
    """A server of a model of the catalogue on cards; a container needs docker."""
    instances = {"r1": {"model": model, "port": 8000, **instance}}
    return {
        "models": {"wanted": {model: {}}},
        "vllm": {"method": method, "instances": instances},
        **({"docker": {}} if method == "container" else {}),
    }


def two_of_vllm(**instance: Any) -> dict[str, Any]:
    """Two servers on the same card, each of which wants most of it."""
    options = vllm(**instance)
    one = options["vllm"]["instances"]["r1"]
    return {**options, "vllm": {**options["vllm"], "instances": {"a": one, "b": {**one, "port": 8001}}}}


def both_engines() -> dict[str, Any]:
    """A server of llama.cpp and one of vLLM on the same card, which the second takes."""
    one, other = serving(), vllm(model="deepseek-r1-distill-qwen-1.5b")
    other["vllm"]["instances"]["r1"]["port"] = 8001
    return {**one, **other, "models": {"wanted": {**one["models"]["wanted"], **other["models"]["wanted"]}}}


B580, RTX4090, RTX5090, V100 = "8086:e20b", "10de:2684", "10de:2b85", "10de:1db6"
P40 = "10de:1b38"
OLD = "6.8.0-87-generic"
NODES = (NODE, NumaNode(1, "", 0, 4096), NumaNode(2, "4-7", 4, 0))
MAINLINE = {"source": "mainline", "version": "6.14.3"}
SMALL = tuple(replace(card, bars=(16 << 20, 0, 256 << 20, 0, 0, 0)) for card in host(B580).controllers)
FREE = tuple(replace(card, driver=None) for card in host(B580).controllers)
NARROW = tuple(replace(card, link_width=1, max_link_width=8) for card in host(B580).controllers)

GUC = ("xe 0000:03:00.0: [drm] GT0: Using GuC firmware from xe/bmg_guc_70.bin version 70.49.4",)

CASES: dict[str, Case] = {
    "os": Case(replace(GOOD, os=OperatingSystem("arch", name="Arch Linux"))),
    "architecture": Case(replace(GOOD, architecture="riscv64")),
    "no_card": Case(dump("panther-lake-igpu"), ("b580",)),
    "one_node": Case(GOOD, ("cpu", "numa")),
    "no_node": Case(GOOD, options=serving(instance={"numa": 7})),
    "node_without_processors": Case(replace(GOOD, nodes=NODES), options=serving(instance={"numa": 1})),
    "node_without_memory": Case(replace(GOOD, nodes=NODES), options=serving(instance={"numa": 2})),
    "no_release": Case(replace(GOOD, architecture="riscv64"), options=serving()),
    "open_webui_python": Case(replace(GOOD, os=TRIXIE), options={"open_webui": {}}),
    "ollama_no_release": Case(replace(GOOD, architecture="riscv64"), options={"ollama": {}}),
    "ollama_old_driver": Case(host(P40, nvidia=NvidiaModule("550.163.01", False)), ("p40",), {"ollama": {}}),
    "dify_unreachable": Case(
        GOOD, options={**serving(), "docker": {}, "dify": {"version": "1.17.1", "sha256": "0" * 64}}
    ),
    "small_bar": Case(host(controllers=SMALL), ("b580",)),
    "small_bar_allowed": Case(host(controllers=SMALL), ("b580",), {"intel_gpu": {"allow_small_bar": True}}),
    "no_bar": Case(dump("h20-vm"), ("h20",)),
    "passed_through": Case(dump("v100-passed-through"), ("v100",)),
    "unbound": Case(host(controllers=FREE), ("b580",)),
    "narrow_link": Case(host(controllers=NARROW), ("b580",)),
    "kernel_container": Case(host(B580, kernel=OLD, virtualization="lxc"), ("b580",)),
    "kernel_keep": Case(host(B580, kernel=OLD), ("b580",), {"kernel": {"source": "keep"}}),
    "kernel_source": Case(host(B580, kernel=OLD), ("b580",), {"kernel": {"source": "backports"}}),
    "kernel_empty_range": Case(host(B580, kernel=OLD), ("b580",), {"kernel": {"min": "8"}}),
    "kernel_mainline_version": Case(
        host(B580, kernel=OLD), ("b580",), {"kernel": {**MAINLINE, "version": "6.18.3"}}
    ),
    "kernel_unsigned": Case(host(B580, kernel=OLD, secure_boot=True), ("b580",), {"kernel": MAINLINE}),
    "kernel_not_for_card": Case(host(B580, kernel=OLD), ("b580",)),
    "docker_source": Case(replace(GOOD, os=replace(TRIXIE, version="")), options={"docker": {"source": "docker"}}),
    "docker_no_compose": Case(replace(GOOD, os=BOOKWORM), options={"docker": {"source": "archive"}}),
    "docker_no_cdi": Case(host(RTX4090, os=BOOKWORM), ("rtx4090",), {"docker": {"source": "archive"}}),
    "docker_in_container": Case(replace(GOOD, virtualization="lxc"), options={"docker": {}}),
    "driver_container": Case(host(RTX4090, virtualization="docker"), ("rtx4090",)),
    "nvidia_no_driver": Case(host(V100, RTX5090), ("v100", "rtx5090")),
    "nvidia_branch": Case(host(V100), ("v100",), {"nvidia_gpu": {"branch": "595-server"}}),
    "nvidia_modules": Case(host(RTX5090), ("rtx5090",), {"nvidia_gpu": {"modules": "proprietary"}}),
    "nvidia_debian": Case(host(RTX5090, os=TRIXIE), ("rtx5090",)),
    "nvidia_system": Case(host(RTX4090, os=OperatingSystem("debian", name="Debian sid")), ("rtx4090",)),
    "nvidia_secure_boot": Case(host(RTX4090, os=TRIXIE, secure_boot=True), ("rtx4090",)),
    "intel_source": Case(host(B580), ("b580",), {"intel_gpu": {"source": "archive"}}),
    "intel_no_firmware": Case(host(B580, os=BOOKWORM), ("b580",)),
    "intel_vulkan_only": Case(host(B580, os=TRIXIE), ("b580",)),
    "exposed": Case(GOOD, options=serving(instance={"host": "0.0.0.0", "api_key": False})),
    "fit_memory": Case(replace(GOOD, memory_mib=4096), options=serving()),
    "fit_beside_cards": Case(
        host("8086:56a5"), ("a380",), serving(variant="vulkan-x64", instance={"gpu_layers": 0})
    ),
    "fit_vram": Case(
        host("8086:56a5", memory_mib=65536),
        ("a380",),
        serving(variant="vulkan-x64", instance={"context_length": 40960}),
    ),
    "fit_no_memory": Case(replace(GOOD, memory_mib=4096), options=serving(instance={"context_length": 40960})),
    "fit_no_memory_allowed": Case(
        replace(GOOD, memory_mib=4096), options=serving(instance={"context_length": 40960, "fit": "warn"})
    ),
    "fit_no_vram": Case(
        host("8086:56a5", memory_mib=65536),
        ("a380",),
        serving(variant="vulkan-x64", instance={"context_length": 40960, "gpu_layers": "all"}),
    ),
    "fit_no_vram_allowed": Case(
        host("8086:56a5", memory_mib=65536),
        ("a380",),
        serving(variant="vulkan-x64", instance={"context_length": 40960, "gpu_layers": 36, "fit": "warn"}),
    ),
    "fit_together": Case(host(RTX4090), ("rtx4090",), two_of_vllm()),
    "fit_together_allowed": Case(host(RTX4090), ("rtx4090",), two_of_vllm(fit="warn")),
    "fit_memory_together": Case(GOOD, options=two_of_vllm(method="container")),
    "fit_memory_together_allowed": Case(GOOD, options=two_of_vllm(method="container", fit="warn")),
    "fit_beside": Case(host(RTX4090), ("rtx4090",), both_engines()),
    "fit_cards": Case(host("10de:1eb8"), ("t4",), vllm()),
    "fit_cards_allowed": Case(host("10de:1eb8"), ("t4",), vllm(fit="warn")),
    "sizing_minimum": Case(GOOD, options={"models": {"wanted": {"deepseek-r1-distill-qwen-14b-q4": {}}}}),
    "ray_without_token": Case(GOOD, options=ray()),
    "cuda_capability": Case(host(V100), ("v100",), transformers()),
    "cuda_driver": Case(
        host(RTX4090, nvidia=NvidiaModule("570.172.08", True)),
        ("rtx4090",),
        {**transformers(), "nvidia_gpu": {"source": "existing"}},
    ),
    "kt_architecture": Case(host(RTX4090, architecture="arm64"), ("rtx4090",), experts()),
    "kt_processor": Case(
        host(RTX4090, cpu=Cpu("Test", ("avx2", "avx512f"), 2, 64, 128)), ("rtx4090",), experts(method="FP8")
    ),
    "other_python": Case(
        replace(GOOD, os=OperatingSystem("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS")), options=transformers()
    ),
    "ipex_archived": Case(host(B580), ("b580",), ipex()),
    "ipex_no_card": Case(GOOD, options=ipex()),
    "ray_public": Case(GOOD, options=ray(nodes=["10.0.0.1", "8.8.8.8"], allow_public_addresses=True)),
    "vllm_architecture": Case(host(RTX4090, architecture="arm64"), ("rtx4090",), vllm()),
    "vllm_capability": Case(host(V100), ("v100",), vllm()),
    "vllm_bfloat16": Case(host("10de:1eb8"), ("t4",), vllm(dtype="bfloat16")),
    "vllm_heads": Case(host(RTX4090), ("rtx4090",), vllm(tensor_parallel=3)),
    "vllm_cards": Case(host(RTX4090), ("rtx4090",), vllm(tensor_parallel=2)),
    "vllm_exposed": Case(GOOD, options=vllm(method="container", host="0.0.0.0")),
    "fit_disk": Case(
        replace(GOOD, memory_mib=65536, mounts=(Mount("/srv/models", "/srv", "ext4", 1024, 512),)), options=serving()
    ),
}  # fmt: skip
"""Finding -> a host that has it."""

OLLAMA = Foreign("/etc/systemd/system/ollama.service", program="/usr/local/bin/ollama", drop_ins=("/etc/x.conf",))

NOTICED = {
    finding.key: finding
    for finding in (
        *old_firmware(RuntimeState(firmware=GUC)),
        *ollama_findings(OLLAMA, settings=""),
        not_ours(OLLAMA),
        *left({"old": 4 << 30}),
        *in_use({"old": Unwanted(("/srv/models/a/b/m.gguf",), 4 << 30, ("llama-server (1)",))}),
        *undeclared(ModelsState(undeclared=["other:latest"])),
        *moved(ImageStates({"x:1": ["x@sha256:new"]}, {"x:1": "x@sha256:old"}), ["x:1"]),
    )
}
"""What roles notice in the run, after preflight."""
SPECIMENS = [*NOTICED.items()] + [(key, finding) for key, case in CASES.items() for finding in case.findings()]


def test_every_message_has_a_host_that_gets_it() -> None:
    assert CASES.keys() | NOTICED.keys() == MESSAGES.keys()
    assert [key for key, case in CASES.items() if key not in {finding.key for finding in case.findings()}] == []


def used_keys() -> Iterator[str]:
    """Every constant that code hands to Finding as its key, or lets a variable of the name ``key`` have."""
    for path in ROLES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                yield from constants(node.args[0])
            elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["key"]:
                yield from constants(node.value)


def constants(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from (*constants(node.body), *constants(node.orelse))


def test_messages_are_those_that_the_code_finds() -> None:
    assert set(used_keys()) == MESSAGES.keys()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(("key", "finding"), SPECIMENS, ids=[f"{key}-{finding.key}" for key, finding in SPECIMENS])
def test_a_finding_is_a_sentence_without_holes(key: str, finding: Finding, lang: Language) -> None:
    assert key in MESSAGES
    text = sentence(finding, lang)
    assert text.startswith(finding.option)
    assert not re.search(r"\bNone\b|[{}]\w|  |: ;|\(\)|：；|（）|\[|''", text.replace("{'allow", "")), text
    for word in finding.words.values():
        if isinstance(word, list | tuple):
            assert all(part in text for part in word) or "{why}" not in MESSAGES[finding.key].en


@pytest.mark.parametrize(("key", "finding"), SPECIMENS, ids=[f"{key}-{finding.key}" for key, finding in SPECIMENS])
def test_no_english_is_put_into_a_chinese_sentence(key: str, finding: Finding) -> None:
    assert key in MESSAGES
    text = sentence(finding, "zh")
    assert re.search(r"[\u4e00-\u9fff]{4}", text)
    assert not re.search(r"\b[a-z]{2,} [a-z]{2,} [a-z]{2,}\b", text.replace("Secure Boot", "")), text


def test_a_host_that_tells_nothing_still_gets_sentences() -> None:
    for tags in (["b580"], ["rtx5090"], ["cpu", "numa"]):
        declared = Declaration.load({"tags": tags, "kernel": {"min": "6.12"}, **serving()}, where="h")
        for report in (
            HardwareReport(),
            replace(host(B580, RTX5090), os=OperatingSystem(), kernel="", architecture=""),
        ):
            for finding in declared.findings(report):
                for lang in LANGUAGES:
                    assert not re.search(r"  |: ;|：；|None", sentence(finding, lang)), sentence(finding, lang)


@pytest.mark.parametrize("key", MESSAGES)
def test_both_languages_say_the_same(key: str) -> None:
    message = MESSAGES[key]
    fields = [sorted(f for _, f, _, _ in Formatter().parse(text) if f) for text in (message.en, message.zh)]
    assert fields[0] == fields[1]


DO = re.compile(
    r"\b(install|use|correct|remove|choose|write|switch|change|take|leave|look at|check|update|give|set|expect)\b"
)


@pytest.mark.parametrize("key", MESSAGES)
def test_a_message_says_what_was_found_and_what_to_do(key: str) -> None:
    message = MESSAGES[key]
    assert any(name for _, name, _, _ in Formatter().parse(message.en))
    if message.severity == "error":
        found, *_, remedy = message.en.split("; ")
        assert found != remedy
        assert DO.search(remedy), remedy
        assert "请" in message.zh.split("；")[-1] or "请" in message.zh


def test_an_error_names_what_is_required_where_there_is_one() -> None:
    plain = {key for key, message in MESSAGES.items() if message.severity == "error" and "requir" not in message.en}
    # They say what there is to choose from, or what the sum is.
    assert plain == {"no_node", "driver_container", "nvidia_no_driver", "intel_source", "fit_disk"}


# --- Telling ---------------------------------------------------------------------------------------------------------


class Host:
    """What operations use of pyinfra's host."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.noops: list[str] = []

    def noop(self, said: str) -> None:
        self.noops.append(said)


ERROR = CASES["no_card"].findings()[0]
WARNING = CASES["narrow_link"].findings()[0]


@pytest.fixture
def at_host(monkeypatch: pytest.MonkeyPatch) -> Host:
    fake = Host("gpu-01")
    monkeypatch.setattr(operations, "host", fake)
    monkeypatch.setattr("roles.common.operations.host", fake)
    monkeypatch.setattr("roles.common.report.state", State(executing=False))
    return fake


@pytest.mark.usefixtures("at_host")
def test_errors_fail_the_host_and_warnings_wait_for_the_end() -> None:
    warnings = Report("Warnings", ("severity", "finding"))
    (command,) = operations.compared._inner(warnings=warnings, findings=[WARNING, ERROR], lang="en")
    text = command.get_raw_value()
    assert "gpu-01: tags: " in text and text.endswith("exit 1")
    assert "PCIe lanes" not in text
    assert [dict(row) for row in warnings.rows("gpu-01")] == [
        {"severity": "warning", "finding": sentence(WARNING, "en")}
    ]


def test_a_host_with_warnings_goes_on(at_host: Host) -> None:
    warnings = Report("Warnings")
    assert list(operations.compared._inner(warnings=warnings, findings=[WARNING], lang="zh")) == []
    assert at_host.noops == ["nothing speaks against it"]
    assert "PCIe" in warnings.table()


@pytest.mark.usefixtures("at_host")
def test_the_report_has_a_row_for_each_finding_and_for_a_host_without() -> None:
    report = Report("Preflight", ("severity", "finding"))
    assert list(operations.listed._inner(report=report, findings=[], lang="en")) == []
    assert [row["severity"] for row in report.rows("gpu-01")] == ["ok"]
    assert list(operations.listed._inner(report=report, findings=[ERROR, WARNING], lang="en")) == []
    assert [row["severity"] for row in report.rows("gpu-01")] == ["error", "warning"]


@pytest.mark.usefixtures("at_host")
@pytest.mark.parametrize(("found", "commands"), [([], 0), ([WARNING], 0), ([ERROR], 1), ([WARNING, ERROR, ERROR], 1)])
def test_only_errors_fail_the_judgement(found: list[Finding], commands: int) -> None:
    judged = operations.judged._inner(report=Report("x"), json_to=None, findings=found, lang="en")
    assert len(list(judged)) == commands


def test_severities_are_those_of_the_messages() -> None:
    assert (severity(ERROR), severity(WARNING)) == ("error", "warning")


def test_dumps_and_findings_go_together() -> None:
    """Whatever public reports show, preflight has a sentence for it, in both languages."""
    tags = ["b580", "a770", "rtx4090", "h200", "numa", "intel-xe", "intel-dg2", "nvidia-ampere"]
    for name in SEEN:
        for finding in Declaration.load({"tags": tags}, where="h").findings(dump(name)):
            assert all(sentence(finding, lang) for lang in LANGUAGES)
