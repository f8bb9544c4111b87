"""ipex_llm: options as people write them, the image and the unit that come of it."""

from dataclasses import replace
from typing import Any

import pytest

from roles.common.model import Model
from roles.common.options import OptionError
from roles.declaration import Declaration
from roles.ipex_llm.options import IpexLlmOptions
from roles.ipex_llm.units import image, recipe, render
from roles.ipex_llm.verify import endpoints
from roles.preflight.messages import sentence
from tests.roles.test_hardware import dump
from tests.test_systemd import systemd_words

MODEL = Model("r1", "/srv/models/deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 15_231_233_024)
DIGEST = "sha256:" + "0" * 64


def options(*, role: dict[str, Any] | None = None, **given: Any) -> IpexLlmOptions:
    declared = {"instances": {"one": {"model": "r1", "port": 8000, **given}}, **(role or {})}
    return IpexLlmOptions.load(declared, where="h", path="ipex_llm")


def wrong(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(**given)
    return str(error.value)


def command(declared: IpexLlmOptions) -> list[str]:
    text = render("one", declared.instances["one"], declared, MODEL)
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    return systemd_words(line.removeprefix("ExecStart="))


def test_the_container_of_the_blog_post() -> None:
    words = command(options())
    assert {"--memory=16g", "--shm-size=16g", "--device=/dev/dri", "--cap-drop=ALL", "--pull=never"} <= set(words)
    assert f"--mount=type=bind,source={MODEL.path},target=/llm/models/one,readonly" in words
    assert words[-7:] == [
        image(options()), "--repo-id-or-model-path", "/llm/models/one", "--low-bit", "sym_int4", "--port", "8000",
    ]  # fmt: skip
    assert command(options(low_bit="fp8"))[-3] == "fp8"


def test_a_server_that_listens_everywhere_is_shown_to_this_host_alone() -> None:
    words = command(options(port=9000))
    assert "--publish=127.0.0.1:9000:8000" in words and "--network=host" not in words


def test_its_name_is_that_of_the_directory_that_it_sees() -> None:
    assert "/llm/models/r1-7b" in command(options(alias="r1-7b"))
    (endpoint,) = endpoints(options(alias="r1-7b"))
    assert (endpoint.model, endpoint.api, endpoint.health_path) == ("r1-7b", "completions", "/openapi.json")
    assert endpoint.attempts > 1


def test_the_image_is_named_by_what_it_is_made_of() -> None:
    pinned = options(role={"image": f"intelanalytics/ipex-llm-xpu@{DIGEST}"})
    assert recipe(pinned).splitlines()[1] == f"FROM intelanalytics/ipex-llm-xpu@{DIGEST}"
    assert {"libaio-dev", "libjpeg-turbo8", "libpng16-16"} <= set(recipe(pinned).split())
    assert image(pinned) != image(options()) and image(options()).startswith("metal2model/ipex-llm:")


def test_one_card_of_several_can_be_chosen() -> None:
    words = command(options(role={"devices": ["/dev/dri/renderD129"]}))
    assert "--device=/dev/dri/renderD129" in words and "--device=/dev/dri" not in words


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"api_key": True}, "one/api_key: lightweight_serving.py cannot ask for a key; leave it False"),
        ({"host": "192.168.1.2"}, "one/host: '192.168.1.2' would let everybody there use the model"),
        ({"parallel": 2}, "one/parallel: "),
        ({"min_tokens_per_second": 5.0}, "one/min_tokens_per_second: "),
        ({"quantization": "fp8"}, "one/quantization: no such option: write low_bit"),
        ({"low_bit": "int4"}, "(did you mean"),
        ({"alias": "a,source=/etc"}, "one/alias: "),
        ({"extra_arguments": ["--low-bit=fp8"]}, "--low-bit is set by the option 'low_bit'"),
    ],
)
def test_a_wrong_instance_is_explained(given: dict[str, Any], error: str) -> None:
    assert error in wrong(**given)


def test_it_needs_docker() -> None:
    model = "deepseek-r1-distill-qwen-1.5b"
    with pytest.raises(OptionError, match="h: ipex_llm/image: it runs containers, and the docker role is not declared"):
        Declaration.load(
            {
                "tags": ["b580"],
                "models": {"wanted": {model: {}}},
                "ipex_llm": {"instances": {"one": {"model": model, "port": 1}}},
            },
            where="h",
        )


def test_a_path_that_docker_would_read_as_options_is_refused() -> None:
    assert "docker's --mount cannot hold ','" in (
        options().cannot_serve(replace(MODEL, path="/srv/a,source=/etc")) or ""
    )
    assert options().cannot_serve(MODEL) is None


def said(declared: IpexLlmOptions, tags: list[str]) -> list[str]:
    return [sentence(one, "en") for one in declared.findings(dump("b580-beside-igpu"), tags, {"r1": MODEL})]


def test_whoever_uses_it_is_told_what_comes_after_it() -> None:
    (warning,) = said(options(fit="off"), ["b580"])
    assert warning.startswith(
        "ipex_llm: intelanalytics/ipex-llm-xpu:2.2.0-SNAPSHOT is of a project that Intel archived"
    )
    assert "vulkan-x64" in warning and "vllm" in warning
    assert said(IpexLlmOptions.load({"instances": {"one": {"present": False}}}, where="h"), ["b580"]) == []


def test_a_host_without_the_tag_of_a_card_is_told() -> None:
    assert "the tags are cpu, none of them of an Intel card" in said(options(fit="off"), ["cpu"])[1]


def test_a_model_that_the_card_cannot_hold_in_16_bit_is_refused() -> None:
    assert "needs 16.2 GiB on each of its cards" in said(options(low_bit="fp16"), ["b580"])[1]
