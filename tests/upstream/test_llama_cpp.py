"""What role llama_cpp writes behind `llama-server`, read by the real program as the bed builds it."""

import shlex
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from roles.common.model import Model
from roles.common.numa import NumaPolicy
from roles.llama_cpp.options import REMOVED_ARGUMENTS, RESERVED_ARGUMENTS, CacheType, LlamaCppOptions
from roles.llama_cpp.units import command
from tests.upstream import llama_server
from tests.upstream.arguments import Rejected

MODEL = Model(name="tiny", path="/srv/models/tiny.gguf")
POLICIES = st.sampled_from([NumaPolicy(physical_cores=4), NumaPolicy("bind", "1", "16-31", 16)])
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "host": st.sampled_from(["127.0.0.1", "0.0.0.0", "::"]),
    "alias": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,20}", fullmatch=True),
    "context_length": st.integers(0, 1 << 17),
    "parallel": st.integers(1, 16),
    "threads": st.integers(1, 512),
    "gpu_layers": st.integers(0, 200) | st.sampled_from(["auto", "all"]),
    "flash_attention": st.sampled_from(["on", "auto"]),
    "cache_type_k": st.sampled_from(get_args(CacheType)),
    "cache_type_v": st.sampled_from(get_args(CacheType)),
    "load_mode": st.sampled_from(["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"]),
    "numa": st.sampled_from(["auto", "none", "interleave", "distribute", "isolate", 1]),
    "metrics": st.booleans(),
    "api_key": st.booleans(),
    "cors_origins": st.lists(st.sampled_from(["https://chat.example.org", "http://10.0.0.9:3000"])),
}


@cache
def server() -> Path:
    return llama_server.program()


def words(options: dict[str, Any], policy: NumaPolicy, key: Path) -> list[str]:
    """The words that systemd hands to the program (systemd.service(5))."""
    declared = LlamaCppOptions.load({"instances": {"one": {"model": "tiny", "port": 8000, **options}}}, where="h")
    line = command("one", declared.instances["one"], declared, MODEL, policy)
    line = line.replace("${CREDENTIALS_DIRECTORY}/api_key", str(key)).replace("$$", "$").replace("%%", "%")
    return shlex.split(line)[1:]


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=OPTIONS), POLICIES)
def test_llama_server_accepts_every_command_line_that_the_role_can_write(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any], policy: NumaPolicy
) -> None:
    assume(options.get("context_length") != 0 or options.get("parallel", 1) == 1)
    key = tmp_path_factory.getbasetemp() / "key"
    key.write_text("secret\n")
    llama_server.parse(server(), words(options, policy, key))


def test_flags_that_are_said_to_be_set_by_options_exist() -> None:
    known = llama_server.names(server())
    assert set(RESERVED_ARGUMENTS) - known == set()


@pytest.mark.parametrize("flag", REMOVED_ARGUMENTS)
def test_a_flag_that_is_said_to_be_gone_is_gone(flag: str) -> None:
    with pytest.raises(Rejected):
        llama_server.parse(server(), [flag, "1"])


def test_a_wrong_value_is_noticed(tmp_path: Path) -> None:
    line = words({"cache_type_k": "q8_0"}, NumaPolicy(), tmp_path)
    assert "q8_0" in line
    with pytest.raises(Rejected):
        llama_server.parse(server(), [word.replace("q8_0", "q9_0") for word in line])
