"""What every model server has in common: one vocabulary, so that a model moves to another engine by one word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from roles.common.endpoint import Endpoint
from roles.common.fit import Claim, FitChoice
from roles.common.hardware import HardwareReport
from roles.common.model import Model, ModelFormat
from roles.common.options import InstanceName, OptionProblem, Options, Port, Seconds
from roles.common.systemd import environment_word, hidden_from_units

KEYS = "/etc/metal2model"


def _address(host: str) -> str:
    try:
        ip_address(host)
    except ValueError:
        raise ValueError(
            f"{host!r} is no IP address; write 127.0.0.1 for this host alone, an address of the host for one network, "
            "or 0.0.0.0 for all; the port is an option of its own"
        ) from None
    return host


ListenAddress = Annotated[str, AfterValidator(_address)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""


class InstanceOptions(Options):
    """A model that a server answers for."""

    program: ClassVar[str] = ""
    """Name of the server's program, for messages."""

    reserved_arguments: ClassVar[Mapping[str, str]] = {}
    """Flags of the program that an option already sets -> that option."""

    removed_arguments: ClassVar[Mapping[str, str]] = {}
    """Flags that the program no longer has -> what to do instead, as in "write load_mode: mmap"."""

    model: str = ""
    """Name of a model under `models/wanted`. Required while `present`."""

    port: Port | None = None
    """TCP port. Required while `present`: upstreams' own defaults collide, and have moved between releases."""

    host: ListenAddress = "127.0.0.1"
    """Address to listen on, as a number. Anything but a loopback address exposes the model to that network."""

    alias: str | None = None
    """Model name in the API (`/v1/models`). None: the instance's name."""

    context_length: Annotated[int, Field(ge=0)] = 4096
    """Tokens that one request may have, prompt and answer together. 0: what the model was trained with."""

    parallel: Annotated[int, Field(ge=1)] = 1
    """Requests that are answered at the same time."""

    api_key: bool = True
    """
    Require a key. It is generated on the host, once, in `/etc/metal2model/ENGINE/NAME.key` (root, 0600); a key
    that stands there already is kept, so that you can bring your own.
    """

    environment: dict[VariableName, str] = {}
    """Environment variables of the server, such as `CUDA_VISIBLE_DEVICES`."""

    extra_arguments: list[str] = []
    """Further arguments of the server, one word each, for what has no option here."""

    fit: FitChoice = "error"
    """
    What is done when the model does not fit into this host's memory, by the arithmetic of docs/fit.md: `error` refuses
    it where it could not work, and warns where it would be slow; `warn` only warns; `off` does not compare.
    """

    golden_prompt: str = "Say hello."
    """What `verify` asks the model; any answer that is not empty passes."""

    golden_max_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    """Tokens that `verify` lets the answer have."""

    min_tokens_per_second: Annotated[float, Field(ge=0)] = 0.0
    """`verify` fails when the golden prompt is answered more slowly. 0: any speed will do."""

    ready_timeout_seconds: Seconds = 600
    """How long `verify` waits for the model to load."""

    present: bool = True
    """False: the server is stopped and removed, its key with it; model files stay."""

    port_required: ClassVar[bool] = True
    """False for a model of a server that has one port for all of its models."""

    model_required: ClassVar[bool] = True
    """False where an engine can get a model that is not under `models/wanted`."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name, required in (("model", self.model_required), ("port", self.port_required)):
            if self.present and required and not getattr(self, name):
                raise OptionProblem(name, "this option is required and has no default")
        for argument in self.extra_arguments:
            given = argument.split("=", 1)[0]
            if option := self.reserved_arguments.get(self.flag_of(argument)):
                raise OptionProblem("extra_arguments", f"{given} is set by the option {option!r}; use that")
            if instead := self.removed_arguments.get(self.flag_of(argument)):
                raise OptionProblem("extra_arguments", f"{self.program} no longer has {given}; {instead}")
        return self

    @classmethod
    def flag_of(cls, argument: str) -> str:
        """Return the flag of an argument, as the two tables above spell it: with dashes."""
        flag = argument.split("=", 1)[0]
        # argparse of vLLM and SGLang, and llama.cpp's own parser, take underscores for dashes.
        return f"--{flag[2:].replace('_', '-')}" if flag.startswith("--") else flag

    @property
    def loads(self) -> list[str]:
        """The models whose files it loads, by their names under ``models/wanted``."""
        return [self.model]

    @property
    def environment_words(self) -> list[str]:
        """Values of ``Environment=`` for the unit, one for each variable."""
        return [environment_word(name, value) for name, value in sorted(self.environment.items())]


class EngineOptions(Options):
    """Model servers of one kind."""

    formats: ClassVar[frozenset[ModelFormat]] = frozenset()
    """Which models its servers can load."""

    hides_home: ClassVar[bool] = True
    """Its servers run in units that cannot see home directories and /tmp."""

    instances: Mapping[InstanceName, InstanceOptions] = {}
    """The servers, by name."""

    def listeners(self) -> list[tuple[str, int]]:
        """Return the TCP ports that this takes on the host, each with the path of its option below the role."""
        return [(f"instances/{name}/port", one.port) for name, one in self.present.items() if one.port]

    def exposed(self) -> list[tuple[str, str]]:
        """Return the addresses at which anybody is answered without a key: option below the role, and its value."""
        return [
            (f"instances/{name}/host", one.host)
            for name, one in self.present.items()
            if not one.api_key and not is_loopback(one.host)
        ]

    def check_tags(self, tags: Sequence[str]) -> None:
        """Raise `OptionProblem` where the options do not go with the host's tags."""

    def claims(self, report: HardwareReport, tags: Sequence[str], models: Mapping[str, Model]) -> list[Claim]:
        """Return what its servers take of the declared cards, as far as that is known."""
        return []

    @property
    def present(self) -> Mapping[str, InstanceOptions]:
        """The servers that are to run."""
        return {name: one for name, one in self.instances.items() if one.present}

    def cannot_serve(self, model: Model) -> str | None:
        """Return what is wrong with a model for this engine, as in "is /x/y, and ..."; None when nothing is."""
        if model.format not in self.formats:
            return f"is {model.path}, and {WANTED[min(self.formats)]}"
        if "safetensors" in self.formats and model.format == "safetensors" and not model.may_be_directory:
            return f"is {model.path}, and {WANTED['safetensors']}"
        if self.hides_home and (hidden := hidden_from_units(model.path)):
            return (
                f"is {model.path}, and the unit cannot see {hidden} (ProtectHome, PrivateTmp); put models below /srv "
                f"or /opt"
            )
        return None


WANTED: Mapping[ModelFormat, str] = {
    "gguf": (
        "this engine loads one .gguf file; write the exact name of that file first in models/wanted/NAME/files, of a "
        "split model its first part"
    ),
    "safetensors": (
        "this engine loads a directory with config.json and safetensors; declare the repository of the original "
        "model, not one with .gguf files (llama_cpp and ollama load those)"
    ),
}


def key_file(engine: str, instance: str) -> str:
    """Return the path of an instance's API key on the host."""
    return f"{KEYS}/{engine}/{instance}.key"


def key_files(engine: str, instances: Mapping[str, InstanceOptions]) -> dict[str, bool]:
    """Return the paths of the keys of all instances -> whether each shall exist."""
    return {key_file(engine, name): one.present and one.api_key for name, one in instances.items()}


def reachable(host: str) -> str:
    """Return an address that reaches a server which listens on ``host``, from its own machine."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def endpoint(role: str, name: str, one: InstanceOptions, unit: str, **more: Any) -> Endpoint:
    """Return what an instance must prove; ``more`` are fields of `Endpoint` in which its engine differs."""
    usual: dict[str, Any] = {
        "url": f"http://{reachable(one.host)}:{one.port}",
        "listens": one.host,
        "model": one.alias or name,
        "context_length": one.context_length,
        "api_key_file": key_file(role, name) if one.api_key else None,
        "prompt": one.golden_prompt,
        "max_tokens": one.golden_max_tokens,
        "min_tokens_per_second": one.min_tokens_per_second,
        "ready_timeout_seconds": one.ready_timeout_seconds,
    }
    return Endpoint(name=f"{role}/instances/{name}", unit=unit, **{**usual, **more})


def is_loopback(host: str) -> bool:
    """Whether only this very machine reaches a server that listens on ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def port_collisions(listeners: Iterable[tuple[str, int]]) -> list[tuple[str, str, int]]:
    """Return, for each option whose port an earlier one has, its path, that of the earlier one, and the port."""
    first: dict[int, str] = {}
    found = []
    for path, port in listeners:
        if port in first:
            found.append((path, first[port], port))
        first.setdefault(port, path)
    return found


Gpu = Literal["none", "nvidia", "intel"]
"""Whose cards a server computes on."""
