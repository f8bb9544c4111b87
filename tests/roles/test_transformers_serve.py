"""transformers_serve: options as people write them, and the unit that comes of it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roles.common.hardware import HardwareReport, OperatingSystem
from roles.common.model import Model
from roles.common.options import OptionError
from roles.declaration import Declaration
from roles.preflight.messages import sentence
from roles.transformers_serve.options import TransformersServeOptions
from roles.transformers_serve.units import REQUIREMENTS, environment_of, reads, render
from roles.transformers_serve.verify import endpoints
from tests.roles.hardening import complaints
from tests.roles.test_hardware import dump
from tests.test_systemd import systemd_words

MODEL = Model("r1", "/srv/models/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 3_554_214_621)
CARD = replace(dump("rtx4090-beside-bmc"), os=OperatingSystem("ubuntu", "24.04"))
SMALL = HardwareReport(os=OperatingSystem("ubuntu", "24.04"), memory_mib=3000)


def options(*, role: dict[str, Any] | None = None, **given: Any) -> TransformersServeOptions:
    declared = {"instances": {"one": {"model": "r1", "port": 6006, **given}}, **(role or {})}
    return TransformersServeOptions.load(declared, where="h", path="transformers_serve")


def wrong(*, role: dict[str, Any] | None = None, **given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(role=role, **given)
    return str(error.value)


def service(declared: TransformersServeOptions, tags: Sequence[str] = ("rtx4090",)) -> dict[str, list[str]]:
    """The [Service] section: directive -> its values."""
    text = render("one", declared.instances["one"], declared, MODEL, tags)
    found: dict[str, list[str]] = {}
    for line in text.split("[Service]")[1].split("[Install]")[0].splitlines():
        if "=" in line and not line.startswith("#"):
            found.setdefault(line.split("=", 1)[0], []).append(line.split("=", 1)[1])
    return found


def line(declared: TransformersServeOptions) -> list[str]:
    return systemd_words(service(declared)["ExecStart"][0])


def said(declared: TransformersServeOptions, report: HardwareReport, tags: list[str], driver: str | None) -> list[str]:
    return [sentence(one, "en") for one in declared.findings(report, tags, {"r1": MODEL}, driver)]


def test_the_page_of_the_slides_becomes_a_server_in_8_bit() -> None:
    words = line(options(quantization="bnb-8bit"))
    assert words[:7] == [
        "/opt/metal2model/transformers/current/bin/transformers",
        "serve", "one", "--host", "127.0.0.1", "--port", "6006",
    ]  # fmt: skip
    assert words[-2:] == ["--quantization", "bnb-8bit"]


@pytest.mark.parametrize("alias", ["one", "r1-1.5b", "deepseek/r1"])
def test_its_name_is_that_of_a_directory_in_which_the_model_lies(alias: str) -> None:
    unit = service(options(alias=alias))
    assert unit["WorkingDirectory"] == ["/run/transformers-serve/one"]
    assert unit["BindReadOnlyPaths"] == [f"{MODEL.path}:/run/transformers-serve/one/{alias}"]
    assert unit["RuntimeDirectory"] == ["transformers-serve/one"]
    (endpoint,) = endpoints(options(alias=alias), ["cpu"])
    assert endpoint.model == alias


def test_nothing_is_asked_of_a_hub() -> None:
    assert "HF_HUB_OFFLINE=1" in service(options())["Environment"]


def test_only_a_server_that_computes_on_cards_may_open_devices() -> None:
    assert "PrivateDevices" not in service(options())
    assert service(options(device="cpu"))["PrivateDevices"] == ["yes"]
    assert service(options(), ["cpu"])["PrivateDevices"] == ["yes"]
    proofs = [endpoints(options(device=device), ["rtx4090"])[0].device_proof for device in ("auto", "cpu", "cuda:1")]
    assert proofs == ["gpu_memory", "", "gpu_memory"]


def test_another_environment_can_have_another_pytorch() -> None:
    declared = options(role={"existing": "/opt/torch-cpu"})
    assert line(declared)[0] == "/opt/torch-cpu/bin/transformers"
    assert not declared.needs_pypi and options().needs_pypi
    assert "/opt/torch-cpu/bin/transformers" in reads("one", declared, MODEL)
    assert "/opt/metal2model/transformers/current" in reads("one", options(), MODEL)
    assert "existing: units cannot see /home" in wrong(role={"existing": "/home/u/venv"})
    assert "python: has no effect with existing" in wrong(role={"existing": "/opt/x", "python": "3.12"})


def test_the_packages_are_pinned_to_the_version_that_is_written() -> None:
    lines = REQUIREMENTS.read_text().splitlines()
    assert f"transformers=={environment_of(options()).version} \\" in lines
    assert all(line.startswith(("#", "    --hash=sha256:")) or "==" in line for line in lines)
    assert "http" not in REQUIREMENTS.read_text().replace("httpx", "").replace("httpcore", "").replace("httptools", "")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"api_key": True}, "one/api_key: transformers serve cannot ask for a key; leave it False and put a proxy"),
        ({"host": "0.0.0.0"}, "one/host: '0.0.0.0' would let everybody there use the model"),
        ({"parallel": 4}, "one/parallel: 4 need continuous_batching: True"),
        ({"load_in_8bit": True}, "one/load_in_8bit: no such option: write quantization: 'bnb-8bit'"),
        ({"quantization": "bnb-8bits"}, "(did you mean 'bnb-8bit'?)"),
        ({"alias": "../x"}, "one/alias: "),
        ({"extra_arguments": ["--load-in-8bit"]}, "no longer has --load-in-8bit; write quantization: 'bnb-8bit'"),
        ({"extra_arguments": ["--port=1"]}, "--port is set by the option 'port'"),
    ],
)
def test_a_wrong_instance_is_explained(given: dict[str, Any], error: str) -> None:
    assert error in wrong(**given)


@pytest.mark.parametrize("path", ["/srv/a:b", "/srv/$x", "/srv/it's", "/srv/a\\b", '/srv/"a"'])
def test_a_path_that_systemd_would_read_otherwise_is_refused(path: str) -> None:
    assert "systemd cannot bind a path with" in (options().cannot_serve(replace(MODEL, path=path)) or "")
    assert options().cannot_serve(replace(MODEL, path="/srv/my models/100%")) is None


def test_a_gguf_is_for_other_engines() -> None:
    with pytest.raises(
        OptionError, match=r"transformers_serve/instances/one/model: .*declare the repository of the original"
    ):
        Declaration.load(
            {
                "tags": ["cpu"],
                "models": {"wanted": {"qwen3-8b-q4": {}}},
                "transformers_serve": {"instances": {"one": {"model": "qwen3-8b-q4", "port": 1}}},
            },
            where="h",
        )


def test_cards_and_drivers_that_the_pinned_pytorch_cannot_use_are_refused() -> None:
    v100 = replace(dump("v100-passed-through"), os=OperatingSystem("ubuntu", "24.04"))
    (capability, driver) = said(options(fit="off"), v100, ["v100"], "570.172.08")
    assert "has compute capability 7.0; required for PyTorch: one of 7.5, 8.0" in capability
    assert driver.startswith("nvidia_gpu/branch: NVIDIA's driver is 570.172.08; required for PyTorch: 580 or newer")
    assert said(options(fit="off"), CARD, ["rtx4090"], "580.95.05") == []
    assert said(options(fit="off", device="cpu"), v100, ["v100"], "570.172.08") == []
    assert said(options(fit="off", role={"existing": "/opt/torch"}), v100, ["v100"], "570.172.08") == []


def test_an_old_python_is_refused_or_another_one_brought() -> None:
    jammy = replace(CARD, os=OperatingSystem("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS"))
    (problem,) = said(options(fit="off"), jammy, ["cpu"], None)
    assert problem.startswith(
        "transformers_serve/python: the system is Ubuntu 22.04.5 LTS; required for transformers is"
    )
    assert said(options(fit="off", role={"python": "3.12"}), jammy, ["cpu"], None) == []
    assert environment_of(options(role={"python": "3.12"})).python == "3.12"


def test_a_model_larger_than_memory_is_told() -> None:
    assert "needs 4.3 GiB of memory" in said(options(), SMALL, ["cpu"], None)[0]
    assert said(options(), replace(SMALL, memory_mib=8000), ["cpu"], None) == []


def test_one_that_is_to_go_needs_only_its_name() -> None:
    declared = TransformersServeOptions.load({"instances": {"one": {"present": False}}}, where="h")
    assert endpoints(declared, ["cpu"]) == [] and not declared.needs_pypi


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_systemd_has_nothing_against_the_unit(device: str, tmp_path: Path) -> None:
    declared = options(device=device)
    text = render("one", declared.instances["one"], declared, MODEL, ["rtx4090"])
    assert complaints("transformers-serve@one.service", text, tmp_path) == []
