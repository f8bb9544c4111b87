"""ollama: options as people write them, the Modelfile and the unit that come of them, what verify asks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common import operations as common
from roles.common.facts import FileStates, UnitState, UnitStates
from roles.common.findings import Finding
from roles.common.hardware import HardwareReport, NvidiaModule
from roles.common.model import Model
from roles.common.options import OptionError
from roles.declaration import Declaration
from roles.ollama import operations
from roles.ollama.deploy import installation, modelfiles, specification
from roles.ollama.facts import FILES, Foreign, ForeignOllama, OllamaModels
from roles.ollama.modelfile import render
from roles.ollama.operations import findings, undeclared
from roles.ollama.options import OllamaOptions, releases, tagged
from roles.ollama.units import COMMAND, SETTINGS_FILE, UNIT, UNIT_FILE, settings_text, unit_text
from roles.ollama.verify import endpoints
from roles.preflight.messages import sentence
from tests.roles.test_lock import report_with
from tests.testbed.ollama_stand_in import parse_modelfile

MODELS = {
    "tiny": Model(name="tiny", path="/srv/models/a/b/tiny.gguf"),
    "split": Model(name="split", path="/srv/models/a/b/big-00001-of-00003.gguf"),
}
PARTS = [f"/srv/models/a/b/big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
SHA256 = "0" * 64
OLD = {"version": "0.13.5", "sha256": SHA256}


def options(**given: Any) -> OllamaOptions:
    return OllamaOptions.load(given, where="h", path="ollama")


def instance(**given: Any) -> OllamaOptions:
    return options(instances={"r1": {"model": "tiny", **given}})


def modelfile(declared: OllamaOptions) -> list[tuple[str, str]]:
    return parse_modelfile(modelfiles(declared, MODELS)["r1"])


def wrong(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(**given)
    return str(error.value)


def variables(declared: OllamaOptions) -> dict[str, str]:
    return declared.variables()


# --- One vocabulary --------------------------------------------------------------------------------------------------


def test_a_model_moves_here_from_llama_cpp_by_one_word() -> None:
    common = {"model": "tiny", "context_length": 8192, "parallel": 2, "alias": "r1-7b", "gpu_layers": 20, "threads": 6}
    wanted = {"tiny": {"path": "/srv/models/a/b/tiny.gguf"}}
    for engine, more in (("llama_cpp", {"port": 11434}), ("ollama", {"port": 11434}), ("ollama", {})):
        inventory = {"tags": ["cpu"], "models": {"wanted": wanted}, engine: {"instances": {"r1": {**common, **more}}}}
        (endpoint,) = Declaration.load(inventory, where="h").endpoints()
        assert endpoint.url == "http://127.0.0.1:11434"
        assert endpoint.model in ("r1-7b", "r1-7b:latest")
        assert endpoint.context_length == 8192


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": ""}, "ollama/instances/r1/model: is required: a name under models/wanted; or write pull"),
        ({"pull": "qwen3:8b"}, "ollama/instances/r1/pull: goes instead of 'model', and both are given"),
        ({"api_key": True}, "ollama/instances/r1/api_key: Ollama has no authentication"),
        ({"port": 8000}, "ollama/instances/r1/port: 8000 differs from ollama/port, 11434"),
        ({"host": "0.0.0.0"}, "ollama/instances/r1/host: '0.0.0.0' differs from ollama/host"),
        ({"environment": {"A": "b"}}, "ollama/instances/r1/environment: Ollama has one for all"),
        ({"extra_arguments": ["--port=1"]}, "`ollama serve` takes no arguments; write ollama/port"),
        ({"extra_arguments": ["-x"]}, "`ollama serve` takes no arguments; write an option, or ollama/environment"),
        ({"num_ctx": 1}, "no such option: write context_length"),
        ({"num_gpu": 1}, "no such option: write gpu_layers"),
        ({"overwrite": True}, "no such option: `ollama create` needs none"),
        ({"keep_alive": "1h"}, "Ollama has one for all of its models; write ollama/keep_alive"),
        ({"alias": "a b"}, "ollama/instances/r1/alias: "),
        ({"system": 'a """ b'}, '""" ends a text in a Modelfile'),
        ({"system": "全角\u3000空格"}, "Ollama drops characters of a Modelfile that are not printable, here U+3000"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "ollama/instances/r1/messages/0/role: "),
    ],
)
def test_a_wrong_instance_is_explained(given: dict[str, Any], said: str) -> None:
    assert said in wrong(instances={"r1": {"model": "tiny", **given}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"version": "0.33.0"}, "ollama/sha256: required for version '0.33.0', whose digest is not pinned here"),
        ({"version": "v0.32.15"}, "ollama/version: "),
        ({"rocm": True}, "ollama/rocm_sha256: required with rocm: True; take it from https://github.com/"),
        ({"environment": {"OLLAMA_PORT": "1"}}, "OLLAMA_PORT does nothing: Ollama never had it; write port"),
        ({"environment": {"OLLAMA_HOST": "x"}}, "OLLAMA_HOST is set by the option 'host'; use that"),
        ({"models_directory": "/home/u/models"}, "cannot be seen by the unit, from which /home is hidden"),
        ({"kv_cache_type": "q8_0", "flash_attention": False}, "'q8_0' needs flash attention"),
        ({"kv_cache_type": "q8"}, "(did you mean 'q8_0'?)"),
        ({"keep_alive": "soon"}, "ollama/keep_alive: "),
        ({"api_key": True}, "no such option: Ollama has no authentication"),
        ({"present": False}, "no such option: write enabled: False"),
        ({"num_parallel": 4}, "no such option: write parallel, of each of the instances"),
    ],
)
def test_a_wrong_daemon_is_explained(given: dict[str, Any], said: str) -> None:
    assert said in wrong(**given)


def test_instances_must_agree_on_what_the_daemon_has_once() -> None:
    one = {"model": "tiny", "parallel": 4}
    assert "ollama/instances/b/parallel: is 1, and 4 in instances/a" in wrong(
        instances={"a": one, "b": {"model": "tiny"}}
    )
    assert variables(options(instances={"a": one, "b": one}))["OLLAMA_NUM_PARALLEL"] == "4"
    assert "ollama/instances/b/alias: 'a:latest' is instances/a's name already" in wrong(
        instances={"a": {"model": "tiny"}, "b": {"model": "tiny", "alias": "a"}}
    )
    assert "ollama/instances/qwen3/pull: 'qwen3' is the name of instances/qwen3" in wrong(
        instances={"qwen3": {"pull": "qwen3"}}
    )


def test_two_names_that_differ_in_case_or_by_what_goes_without_saying_are_one() -> None:
    """Ollama takes no notice of case, and lists its own registry's and library's models without them."""
    for alias in ("A", "library/a", "registry.ollama.ai/library/a:latest"):
        assert "'s name already; Ollama takes no notice of case" in wrong(
            instances={"a": {"model": "tiny"}, "b": {"model": "tiny", "alias": alias}}
        )
    (endpoint,) = endpoints(instance(alias="library/foo"), ["cpu"])
    assert endpoint.model == "foo:latest"
    assert tagged("hf-mirror.com/library/foo") == "hf-mirror.com/library/foo:latest", (
        "another registry's library is not"
    )
    assert "is the name of instances/qwen3" in wrong(instances={"qwen3": {"pull": "library/Qwen3"}})


@pytest.fixture
def daemon() -> Iterator[Callable[[dict[str, str]], dict[str, Any]]]:
    """What starts an Ollama that lists models, and can remove none; it hands out what files/models.py gets to know."""
    started: list[ThreadingHTTPServer] = []

    def serve(listed: dict[str, str]) -> dict[str, Any]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                models = [{"name": name, "digest": digest} for name, digest in listed.items()]
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"models": models}).encode())

            def do_DELETE(self) -> None:
                self.send_error(500, "disk is read-only")

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        started.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return {"host": "127.0.0.1", "port": server.server_port, "models": [], "gone": []}

    yield serve
    for server in started:
        server.shutdown()
        server.server_close()


def models_py(what: str, spec: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the program as the host does."""
    command = [sys.executable, "-I", "-S", str(FILES / "models.py"), what, json.dumps(spec)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_model_that_ollama_lists_in_other_letters_is_as_wanted(
    daemon: Callable[[dict[str, str]], dict[str, Any]], tmp_path: Path
) -> None:
    model = {"instance": "r1", "name": "Qwen3:8B", "pull": "", "sha256": "0", "files": []}
    asked = {"name": "Qwen3:8B", "modelfile": "0", "files": []}
    (tmp_path / "r1.json").write_text(json.dumps({"name": "Qwen3:8B", "pulled": "", "asked": asked, "digest": "d"}))
    spec = {**daemon({"qwen3:8B": "d", "Other:latest": "e"}), "records": str(tmp_path), "models": [model]}
    found = json.loads(models_py("state", spec).stdout)
    assert found == {"answers": True, "todo": {}, "gone": [], "undeclared": ["other:latest"]}


def test_a_model_that_cannot_be_removed_is_told_and_is_tried_again(
    daemon: Callable[[dict[str, str]], dict[str, Any]], tmp_path: Path
) -> None:
    record = tmp_path / "r1.json"
    record.write_text(json.dumps({"name": "r1:latest", "pulled": "", "asked": {}, "digest": "d"}))
    spec = {**daemon({"r1:latest": "d"}), "records": str(tmp_path), "gone": [{"instance": "r1", "name": "r1:latest"}]}
    done = models_py("apply", spec)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("ollama: Ollama could not remove r1:latest: /api/delete answers 500")
    assert record.exists(), "by this the next run knows of it"


def test_intels_cards_need_vulkan() -> None:
    inventory = {"tags": ["b580"], "ollama": {"vulkan": False}}
    with pytest.raises(OptionError, match="h: ollama/vulkan: is False, and tags declare a card of Intel's"):
        Declaration.load(inventory, where="h")
    Declaration.load({**inventory, "tags": ["rtx4090"]}, where="h")


def test_a_safetensors_model_is_refused_and_a_port_is_taken_once() -> None:
    wanted = {"big": {"path": "/srv/models/a/b"}}
    with pytest.raises(
        OptionError, match=r"ollama/instances/r1/model: 'big' is /srv/models/a/b, and this engine loads"
    ):
        Declaration.load(
            {"tags": ["cpu"], "models": {"wanted": wanted}, "ollama": {"instances": {"r1": {"model": "big"}}}},
            where="h",
        )
    taken = {"wanted": {"tiny": {"path": "/srv/models/a/b/tiny.gguf"}}}
    with pytest.raises(OptionError, match="port 11434 is"):
        Declaration.load(
            {
                "tags": ["cpu"],
                "models": taken,
                "ollama": {},
                "llama_cpp": {"instances": {"r1": {"model": "tiny", "port": 11434}}},
            },
            where="h",
        )


# --- Modelfiles ------------------------------------------------------------------------------------------------------


def test_the_modelfile_says_what_the_options_say() -> None:
    assert modelfile(instance()) == [("from", "/srv/models/a/b/tiny.gguf"), ("num_ctx", "4096")]
    assert modelfile(
        instance(
            context_length=0, gpu_layers="all", threads=3, temperature=0.5, top_p=0.9, top_k=40, min_p=0.05, seed=-1,
            repeat_penalty=1.1, repeat_last_n=-1, num_predict=-1, adapter="/srv/lora.gguf", stop=["a", "b"],
            system="s", template="{{ .Prompt }}", license="MIT", messages=[{"role": "user", "content": "hi: there"}],
        )
    ) == [
        ("from", "/srv/models/a/b/tiny.gguf"), ("adapter", "/srv/lora.gguf"), ("num_ctx", "1048576"),
        ("num_gpu", "999"), ("num_thread", "3"), ("num_predict", "-1"), ("repeat_last_n", "-1"),
        ("repeat_penalty", "1.1"), ("seed", "-1"), ("temperature", "0.5"), ("top_k", "40"), ("top_p", "0.9"),
        ("min_p", "0.05"), ("stop", "a"), ("stop", "b"), ("template", "{{ .Prompt }}"), ("system", "s"),
        ("license", "MIT"), ("message", "user: hi: there"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["qwen3:8b", "modelscope.cn/Qwen/Qwen3-8B-GGUF:Q4_K_M", "hf-mirror.com/o/r:Q8_0"])
def test_a_pulled_model_is_the_base_of_the_instance(name: str) -> None:
    declared = options(instances={"r1": {"pull": name}})
    assert modelfile(declared)[0] == ("from", name)
    (model,) = specification(declared, MODELS)["models"]
    assert (model["name"], model["pull"], model["files"]) == ("r1:latest", name, [])


def test_a_split_model_is_named_part_by_part_and_for_an_old_release_joined() -> None:
    split = {"instances": {"r1": {"model": "split"}}}
    assert [value for name, value in modelfile(options(**split)) if name == "from"] == PARTS
    (model,) = specification(options(**split), MODELS)["models"]
    assert (model["files"], model["merged"]) == (PARTS, "")
    (old,) = specification(options(**split, **OLD), MODELS)["models"]
    assert (old["files"], old["merged"]) == (PARTS, "/srv/ollama/.r1.gguf")
    assert modelfile(options(**split, **OLD))[0] == ("from", "/srv/ollama/.r1.gguf")


PRINTABLE = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"])
PIECES = st.sampled_from(['"', '""', "\n", "\r\n", " ", "\t", "# ", "\nFROM x\n", "\\", "{{ .System }}", "你好"])
TEXT = (
    st.lists(PIECES | st.text(PRINTABLE, max_size=3), min_size=1, max_size=8)
    .map("".join)
    .filter(lambda text: text and '"""' not in text)
)


@settings(deadline=None)
@given(TEXT, TEXT, TEXT, st.lists(TEXT, max_size=3), st.lists(TEXT, max_size=2))
def test_any_text_comes_out_of_a_modelfile_as_it_went_in(
    system: str, template: str, license: str, stop: list[str], said: list[str]
) -> None:
    declared = instance(
        system=system, template=template, license=license, stop=stop,
        messages=[{"role": "assistant", "content": text} for text in said],
    )  # fmt: skip
    commands = parse_modelfile(render("r1", declared.instances["r1"], ["/srv/x.gguf"]))
    assert commands == [
        ("from", "/srv/x.gguf"), ("num_ctx", "4096"), *(("stop", text) for text in stop), ("template", template),
        ("system", system), ("license", license), *(("message", f"assistant: {text}") for text in said),
    ]  # fmt: skip


# --- Release and unit ------------------------------------------------------------------------------------------------


def test_the_default_release_is_pinned_for_both_architectures() -> None:
    for architecture in ("amd64", "arm64"):
        version, (url, digest) = installation(options(), architecture)
        assert version.startswith(f"0.32.15-{architecture}-")
        assert url == (
            "https://github.com/ollama/ollama/releases/download/v0.32.15/"
            f"ollama-linux-{architecture}.tar.zst"
        )  # fmt: skip
        assert digest == releases()["0.32.15"][architecture][f"ollama-linux-{architecture}.tar.zst"]


def test_older_releases_are_tgz_and_amds_libraries_are_a_second_archive() -> None:
    assert installation(options(**OLD), "amd64")[1][0].endswith("/v0.13.5/ollama-linux-amd64.tgz")
    version, words = installation(options(rocm=True, rocm_sha256=SHA256), "amd64")
    assert version.startswith("0.32.15-amd64-rocm-")
    assert words[2].endswith("/ollama-linux-amd64-rocm.tar.zst") and words[3] == SHA256


def test_another_digest_is_another_directory_and_another_address_is_not() -> None:
    names = {installation(options(version="1.0.0", sha256=digit * 64), "amd64")[0] for digit in "01"}
    assert len(names) == 2
    proxied = options(download_url="https://proxy.example.org/ollama/ollama")
    assert installation(proxied, "amd64")[0] == installation(options(), "amd64")[0]


def test_only_a_host_with_a_card_opens_devices() -> None:
    assert "PrivateDevices=yes" in unit_text(options(), ["cpu"])
    assert "PrivateDevices" not in unit_text(options(), ["rtx4090"])
    assert "PrivateDevices" not in unit_text(options(rocm=True, rocm_sha256=SHA256), ["cpu"])


def test_the_unit_may_write_where_the_models_are() -> None:
    text = unit_text(options(models_directory="/data/my models"), ["cpu"])
    assert 'ReadWritePaths="-/data/my models"' in text


def test_every_option_of_the_daemon_is_a_variable() -> None:
    assert variables(options()) == {
        "OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_MODELS": "/srv/ollama", "OLLAMA_KEEP_ALIVE": "5m",
        "OLLAMA_LOAD_TIMEOUT": "5m", "OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_QUEUE": "512",
        "OLLAMA_MAX_LOADED_MODELS": "0", "OLLAMA_ORIGINS": "", "OLLAMA_DEBUG": "0", "OLLAMA_KV_CACHE_TYPE": "f16",
        "OLLAMA_GPU_OVERHEAD": "0", "OLLAMA_SCHED_SPREAD": "0", "OLLAMA_VULKAN": "1", "OLLAMA_NOPRUNE": "0",
        "OLLAMA_NO_CLOUD": "0",
    }  # fmt: skip
    changed = options(
        host="::1", port=1, keep_alive="-1", load_timeout="1h30m", max_queue=9, max_loaded_models=2, debug="trace",
        origins=["https://a.example.org", "http://b.example.org"], flash_attention=True, kv_cache_type="q8_0",
        context_length=8192, gpu_overhead_mib=512, sched_spread=True, vulkan=False, llm_library="cpu", prune=False,
        cloud=False, cuda_visible_devices="0", vulkan_visible_devices="1", rocm_visible_devices="2",
        hsa_override_gfx_version="10.3.0", environment={"HTTPS_PROXY": "http://proxy.example.org"},
    )  # fmt: skip
    assert variables(changed) == {
        "OLLAMA_HOST": "[::1]:1", "OLLAMA_MODELS": "/srv/ollama", "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_LOAD_TIMEOUT": "1h30m", "OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_QUEUE": "9",
        "OLLAMA_MAX_LOADED_MODELS": "2", "OLLAMA_ORIGINS": "https://a.example.org,http://b.example.org",
        "OLLAMA_DEBUG": "2", "OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_GPU_OVERHEAD": str(512 << 20), "OLLAMA_SCHED_SPREAD": "1",
        "OLLAMA_VULKAN": "0", "OLLAMA_LLM_LIBRARY": "cpu", "OLLAMA_NOPRUNE": "1", "OLLAMA_NO_CLOUD": "1",
        "CUDA_VISIBLE_DEVICES": "0", "GGML_VK_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "2",
        "HSA_OVERRIDE_GFX_VERSION": "10.3.0", "HTTPS_PROXY": "http://proxy.example.org",
    }  # fmt: skip
    assert "Environment=OLLAMA_KEEP_ALIVE=-1" in settings_text(changed)


# --- Hardware, verify, what is found on a host -----------------------------------------------------------------------


def told(declared: OllamaOptions, report: HardwareReport, tags: Sequence[str]) -> list[str]:
    return [sentence(finding, "en") for finding in declared.findings(report, tags, MODELS)]


def test_a_driver_that_is_too_old_is_told_with_the_one_that_the_card_needs() -> None:
    for card, tag, enough, less in (("10de:1b38", "p40", "570.1", "550.9"), ("10de:2684", "rtx4090", "550.1", "535.9")):
        report = replace(report_with(card), architecture="amd64")
        assert told(options(), replace(report, nvidia=NvidiaModule(enough, False)), [tag]) == []
        (said,) = told(options(), replace(report, nvidia=NvidiaModule(less, False)), [tag])
        assert f"NVIDIA's driver {less} runs; required: {enough[:3]} or later" in said


def test_an_architecture_without_a_pinned_archive_needs_a_digest() -> None:
    report = HardwareReport(architecture="riscv64")
    (said,) = told(options(), report, ["cpu"])
    assert said.startswith("ollama/version: the architecture is riscv64; required: amd64, arm64")
    assert told(options(sha256=SHA256), report, ["cpu"]) == []


def test_verify_asks_each_model_and_where_a_card_is_declared_whether_it_computes() -> None:
    declared = options(host="0.0.0.0", instances={"r1": {"model": "tiny"}, "cpu": {"model": "tiny", "gpu_layers": 0}})
    on_card, on_processors = endpoints(declared, ["rtx4090"])
    assert (on_card.url, on_card.model, on_card.unit, on_card.health_path) == (
        "http://127.0.0.1:11434", "r1:latest", "ollama.service", "/api/version")  # fmt: skip
    assert (on_card.device_proof, on_processors.device_proof) == ("ollama_ps", "")
    assert {one.device_proof for one in endpoints(declared, ["cpu"])} == {""}


def test_verify_asks_a_daemon_without_models_and_none_that_is_off() -> None:
    (daemon,) = endpoints(options(instances={"r1": {"present": False}}), ["cpu"])
    assert (daemon.name, daemon.model) == ("ollama", "")
    assert endpoints(options(enabled=False), ["cpu"]) == []


def test_what_is_gone_keeps_its_name_so_that_it_can_be_removed() -> None:
    declared = options(instances={"r1": {"present": False, "alias": "big:70b"}, "r2": {"present": False}})
    assert specification(declared, MODELS)["gone"] == [
        {"instance": "r1", "name": "big:70b"}, {"instance": "r2", "name": "r2:latest"}]  # fmt: skip
    assert modelfiles(declared, MODELS) == {}


def test_another_installation_is_read_and_told() -> None:
    output = [
        f"drop_ins=/etc/systemd/system/ollama.service.d/override.conf {SETTINGS_FILE}", "link=",
        "program=/usr/local/bin/ollama", "unit=/etc/systemd/system/ollama.service", "models=/data/models",
    ]  # fmt: skip
    found = ForeignOllama().process(output)
    assert (found.unit, found.models, found.link) == ("/etc/systemd/system/ollama.service", "/data/models", "")
    assert [sentence(one, "en").partition(":")[2].split()[0] for one in findings(found, SETTINGS_FILE)] == [
        "/etc/systemd/system/ollama.service,", "these"]  # fmt: skip
    assert findings(Foreign(drop_ins=(SETTINGS_FILE,)), SETTINGS_FILE) == []


@pytest.mark.parametrize(
    ("unit", "files", "stops"),
    [("", [UNIT_FILE, SETTINGS_FILE], True), ("/etc/systemd/system/ollama.service", [SETTINGS_FILE], False)],
)
def test_a_daemon_that_somebody_else_installed_is_not_stopped(
    monkeypatch: pytest.MonkeyPatch, unit: str, files: list[str], stops: bool
) -> None:
    facts: dict[Any, Any] = {
        ForeignOllama: Foreign(unit=unit),
        UnitStates: {UNIT: UnitState(exists=True, active=True, enabled=True)},
        FileStates: {UNIT_FILE: object(), SETTINGS_FILE: object()},
    }
    host = SimpleNamespace(name="h", noop=lambda *_: None, get_fact=lambda fact, **_: facts[fact])
    monkeypatch.setattr(operations, "host", host)
    monkeypatch.setattr(operations, "state", SimpleNamespace(is_executing=True))
    monkeypatch.setattr(common, "host", host)
    noticed: dict[str, list[Finding]] = {}
    monkeypatch.setattr("roles.common.findings.NOTICED", noticed)
    made = [command.get_raw_value() for command in operations.removed._inner(UNIT, UNIT_FILE, SETTINGS_FILE, COMMAND)]
    assert made == [*([f"systemctl disable --now -- {UNIT}"] if stops else []), f"rm -f -- {' '.join(files)}"]
    told = [sentence(finding, "en") for finding in noticed.get("h", [])]
    assert [text.split(";")[0] for text in told] == (
        [] if stops else [f"ollama/enabled: {unit} was left as it is, for metal2model did not write it"]
    )


def test_models_that_nobody_declared_are_told() -> None:
    state = OllamaModels().process(
        [json.dumps({"answers": True, "todo": {}, "gone": [], "undeclared": ["x:1", "y:2"]})]
    )
    (finding,) = undeclared(state)
    assert "left alone: x:1, y:2; declare them" in sentence(finding, "en")
    assert undeclared(OllamaModels().process(["{}"])) == []
