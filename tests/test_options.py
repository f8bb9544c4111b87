"""What a person sees who writes a wrong option."""

from typing import Annotated, ClassVar

import pytest
from pydantic import Field, model_validator

from roles.common.options import HttpUrl, OptionError, OptionProblem, Options, Port


class Inner(Options):
    """Inside."""

    port: Port = 80
    """A port."""

    mode: Annotated[str, Field(pattern="^[a-z]+$")] = "plain"
    """A word."""

    api_key: bool = False
    """A secret."""

    @model_validator(mode="after")
    def _even(self) -> "Inner":
        if self.port % 2:
            raise OptionProblem("port", f"{self.port} is odd; use {self.port + 1}")
        return self


class Outer(Options):
    """Outside."""

    advice: ClassVar[dict[str, str]] = {"OLLAMA_PORT": "the port is part of host: '127.0.0.1:11434'"}

    inner: Inner = Inner()
    """One."""

    several: dict[str, Inner] = {}
    """Many."""

    url: HttpUrl = "https://hub.lan:8443/@team/x"
    """An address."""

    choice: Annotated[str | None, Field(description="x")] = None


def message(data: dict[str, object]) -> str:
    with pytest.raises(OptionError) as error:
        Outer.load(data, where="gpu-01", path="outer")
    return str(error.value)


def test_a_typo_names_the_host_the_path_and_the_remedy() -> None:
    assert message({"inner": {"prot": 1}}) == "gpu-01: outer/inner/prot: unknown option (did you mean 'port'?)"


def test_a_typo_below_a_name_is_compared_with_the_options_there() -> None:
    assert message({"several": {"r1": {"prot": 1}}}) == (
        "gpu-01: outer/several/r1/prot: unknown option (did you mean 'port'?)"
    )


def test_a_word_like_nothing_known_gets_no_guess() -> None:
    assert message({"zzzzzz": 1}) == "gpu-01: outer/zzzzzz: unknown option"


def test_an_option_that_upstream_never_had_fails_with_advice() -> None:
    assert message({"OLLAMA_PORT": 1}) == (
        "gpu-01: outer/OLLAMA_PORT: no such option: the port is part of host: '127.0.0.1:11434'"
    )


def test_a_value_out_of_range_is_shown() -> None:
    assert message({"inner": {"port": 70000}}) == (
        "gpu-01: outer/inner/port: input should be less than or equal to 65535, got 70000"
    )


def test_text_is_not_taken_for_a_number() -> None:
    assert "outer/inner/port: input should be a valid integer, got '80'" in message({"inner": {"port": "80"}})


def test_a_secret_is_not_shown() -> None:
    shown = message({"inner": {"api_key": "sk-123456"}})
    assert "sk-123456" not in shown
    assert "outer/inner/api_key: input should be a valid boolean, got a hidden value" in shown


@pytest.mark.parametrize("url", ["https://u:s3cret@hub.lan/x", "http://s3cret@hub.lan", "https://u:s3/cret@hub.lan"])
def test_a_login_in_a_url_is_refused_and_not_shown(url: str) -> None:
    said = message({"url": url})
    assert said.startswith("gpu-01: outer/url: the URL holds a login")
    assert "s3" not in said


@pytest.mark.parametrize("url", ["ftp://u:s3cret@hub.lan", "https://u:s3 cret@hub.lan", "u:s3cret@hub.lan", ["x:s3@y"]])
def test_a_login_is_not_shown_where_something_else_is_wrong_either(url: object) -> None:
    assert message({"url": url}).endswith("got a hidden value")


def test_a_rule_over_several_options_names_the_one_to_change() -> None:
    assert message({"several": {"r1": {"port": 81}}}) == "gpu-01: outer/several/r1/port: 81 is odd; use 82"


def test_all_problems_come_at_once() -> None:
    lines = message({"inner": {"prot": 1}, "several": {"a": {"port": 0}, "b": {"mode": "X"}}}).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "outer/inner/prot",
        "outer/several/a/port",
        "outer/several/b/mode",
    ]
