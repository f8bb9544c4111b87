"""The card at the end of a run says what works when it is typed into a client."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.connection import Login
from roles.common.endpoint import Endpoint
from roles.verify.card import connection, lines

LOGIN = Login("192.0.2.10", "admin")


def endpoint(**given: Any) -> Endpoint:
    standard: dict[str, Any] = {
        "name": "llama_cpp/instances/r1", "unit": "llama-server@r1.service", "url": "http://127.0.0.1:8000",
        "ready_timeout_seconds": 60, "model": "r1", "api_key_file": "/etc/metal2model/llama_cpp/r1.key",
    }  # fmt: skip
    return Endpoint(**{**standard, **given})


def test_a_server_on_the_loopback_is_reached_through_a_tunnel() -> None:
    known = connection(endpoint(listens="127.0.0.1"), LOGIN)
    assert known["base_url"] == "http://127.0.0.1:8000/v1"
    assert known["tunnel"] == "ssh -N -L 8000:127.0.0.1:8000 admin@192.0.2.10"


@pytest.mark.parametrize(
    ("listens", "url", "base_url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000", "http://192.0.2.10:8000/v1"),
        ("::", "http://[::1]:8000", "http://192.0.2.10:8000/v1"),
        ("198.51.100.7", "http://198.51.100.7:8000", "http://198.51.100.7:8000/v1"),
        ("2001:db8::7", "http://[2001:db8::7]:8000", "http://[2001:db8::7]:8000/v1"),
    ],
)
def test_a_server_that_listens_outside_needs_none(listens: str, url: str, base_url: str) -> None:
    known = connection(endpoint(listens=listens, url=url), LOGIN)
    assert (known["base_url"], known["tunnel"]) == (base_url, None)


def test_the_tunnel_ends_where_the_server_listens() -> None:
    known = connection(endpoint(url="http://127.0.0.2:8002"), Login("gpu-01", port=2222))
    assert known["tunnel"] == "ssh -N -L 8002:127.0.0.2:8002 -p 2222 gpu-01"
    known = connection(endpoint(url="http://[::1]:8002"), Login("gpu-01"))
    assert known["tunnel"] == "ssh -N -L 8002:[::1]:8002 gpu-01"


def test_without_ssh_nothing_is_said_of_it() -> None:
    assert connection(endpoint(), None)["tunnel"] is None
    assert connection(endpoint(listens="0.0.0.0"), None)["base_url"] == "http://127.0.0.1:8000/v1"


def test_a_page_is_no_api() -> None:
    page = endpoint(name="open_webui", url="http://127.0.0.1:3000", model="", api_key_file=None, notes=("log in",))
    known = connection(page, LOGIN)
    assert known["base_url"] == "http://127.0.0.1:3000"
    assert lines(page, known) == {
        "model": "(open_webui)",
        "connect": ["http://127.0.0.1:3000", "first: ssh -N -L 3000:127.0.0.1:3000 admin@192.0.2.10", "log in"],
    }


def test_the_card_says_where_the_key_lies_or_that_there_is_none() -> None:
    with_key = endpoint(context_length=4096)
    said = lines(with_key, connection(with_key, LOGIN))["connect"]
    assert said[1:3] == ["key: /etc/metal2model/llama_cpp/r1.key on the host", "context: 4096 tokens"]
    without = endpoint(api_key_file=None)
    assert "key: none is asked for" in lines(without, connection(without, LOGIN))["connect"][1]


@given(port=st.integers(1, 65535), listens=st.ip_addresses().map(str), ssh_port=st.integers(1, 65535))
def test_nobody_is_sent_to_a_port_that_is_not_the_servers(port: int, listens: str, ssh_port: int) -> None:
    own = f"[{listens}]" if ":" in listens else listens
    server = endpoint(url=f"http://{own}:{port}", listens=listens)
    known = connection(server, Login("gpu-01", "admin", ssh_port))
    assert known["base_url"].endswith(f":{port}/v1")
    if known["tunnel"]:
        words = shlex.split(known["tunnel"])
        assert words[words.index("-L") + 1] == f"{port}:{own}:{port}"
        assert words[-1] == "admin@gpu-01"
