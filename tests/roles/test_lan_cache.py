"""What the cache is told to fetch from where, for whom; whether it does so is seen on hosts (tests/e2e)."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.options import OptionError, OptionProblem
from roles.common.systemd import unit_path
from roles.declaration import Declaration
from roles.lan_cache.deploy import files
from roles.lan_cache.options import LanCacheOptions, check_models_directory
from roles.lan_cache.units import (
    CONFIG,
    IMAGES,
    PREPARE,
    REFRESH,
    TIMER,
    UNIT,
    nginx_config,
    registry_config,
    unit,
)
from roles.lan_cache.upstreams import groups, lookups, upstreams
from roles.lan_cache.verify import UNITS, endpoints

UBUNTU = {"apt": {"upstreams": {"ubuntu": ["tuna", "http://archive.example.org/ubuntu"]}}}
EVERYTHING: dict[str, Any] = {
    "apt": {"upstreams": {"ubuntu": "tuna", "cuda": "https://cards.example.org/repos"}},
    "pypi": {"upstreams": ["https://index.example.org/simple"], "files_urls": ["https://files.example.org"]},
    "images": {},
    "models": True,
}
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True)
PATHS = st.lists(st.from_regex(r"[A-Za-z0-9._~+-]{1,8}", fullmatch=True), max_size=3)
URLS = st.builds(
    lambda scheme, name, port, path: f"{scheme}://{name}{port}{''.join(f'/{part}' for part in path)}",
    st.sampled_from(["http", "https"]), NAMES, st.sampled_from(["", ":8081"]), PATHS,
)  # fmt: skip


def options(**given: Any) -> LanCacheOptions:
    return LanCacheOptions.load({"listen": "10.0.0.5", **given}, where="hub-01", path="lan_cache")


def refused(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        options(**given)
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "lan_cache: nothing is to be cached; write one or more of apt, pypi, images and models"),
        ({"listen": "hub-01", "models": True}, "lan_cache/listen: 'hub-01' does not appear to be an IPv4 or IPv6"),
        ({"allow": ["10.0.0.5/24"], "models": True}, "lan_cache/allow/0: 10.0.0.5/24 has host bits set"),
        ({"apt": {}}, "lan_cache/apt/upstreams: this option is required"),
        ({"apt": {"upstreams": {"ubuntu": "tunna"}}}, "apt/upstreams/ubuntu: 'tunna' is no known mirror (did you me"),
        ({"apt": {"upstreams": {"cuda": "tuna"}}}, "apt/upstreams/cuda: 'tuna' has no such archive"),
        ({"apt": {"upstreams": {"v2": "http://x/y"}}}, "apt/upstreams/v2: the cache has other things under this name"),
        ({"apt": {"upstreams": {"x": "http://x/a;b"}}}, "apt/upstreams/x: 'http://x/a;b' is no plain http(s) URL"),
        ({"pypi": {"upstreams": "https://u:p@x/simple"}}, "pypi/upstreams: an address with a login is no plain"),
        ({"pypi": {}}, "lan_cache/pypi/upstreams: this option is required"),
        ({"models": True, "directory": "/home/cache"}, "lan_cache/directory: /home is hidden from services"),
        ({"models": True, "size": 5}, "lan_cache/size: no such option: write max_gib in each of apt and pypi"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_its_path(given: dict[str, Any], said: str) -> None:
    assert said in refused(**given)


def test_the_address_has_no_default() -> None:
    with pytest.raises(OptionError, match="lan_cache/listen: this option is required"):
        LanCacheOptions.load({"models": True}, where="hub-01", path="lan_cache")


def test_its_port_is_taken_for_other_servers_of_the_host() -> None:
    page = {"tags": ["cpu"], "lan_cache": {"listen": "10.0.0.5", "models": True}, "open_webui": {"port": 8090}}
    with pytest.raises(OptionError, match="port 8090 is"):
        Declaration.load(page, where="hub-01")


def test_of_several_upstreams_the_first_is_asked_and_the_others_wait() -> None:
    first, second = upstreams(options(**UBUNTU))
    assert (first.group, second.group) == ("archive-ubuntu", "archive-ubuntu")
    assert (first.name, first.port, second.name, second.port) == (
        "mirrors.tuna.tsinghua.edu.cn", 443, "archive.example.org", 80
    )  # fmt: skip
    text = nginx_config(options(**UBUNTU), "/srv/models")
    assert f"server unix:{first.socket};" in text
    assert f"server unix:{second.socket} backup;" in text


def test_files_beside_the_pages_of_an_index_are_found_there_and_others_at_their_own_host() -> None:
    index, others = upstreams(options(**EVERYTHING))[-2:]
    assert index.paths == (("/pypi/simple/", "/simple/"), ("/pypi/", "/"))
    assert others.paths == (("/pypi/files/0/", "/"),)
    text = nginx_config(options(**EVERYTHING), "/srv/models")
    assert 'sub_filter "https://files.example.org/" "/pypi/files/0/";' in text


@given(st.lists(URLS, min_size=1, max_size=5))
def test_every_upstream_has_a_place_of_its_own_and_every_name_is_looked_up_once(urls: list[str]) -> None:
    given = options(apt={"upstreams": {"ubuntu": urls[:2]}}, pypi={"upstreams": urls[1:] or urls, "files_urls": urls})
    found = upstreams(given)
    assert len({one.socket for one in found}) == len(found)
    assert [one for members in groups(found).values() for one in members] == found
    names = [lookup.partition("=")[0] for lookup in lookups(found)]
    assert len(set(names)) == len(names)
    text = nginx_config(given, "/srv/models")
    assert text.count("{") == text.count("}")
    for one in found:
        assert one.addresses in names
        assert text.count(f"listen unix:{one.socket};") == 1
        for ours, theirs in one.paths:
            assert ours.endswith("/") and theirs.startswith("/") and theirs.endswith("/")
            assert f"proxy_pass {one.scheme}://{one.addresses}{theirs};" in text


def test_what_is_not_asked_for_is_not_offered() -> None:
    text = nginx_config(options(**UBUNTU), "/srv/models")
    assert not any(word in text for word in ("/srv/models", "/v2/", "/pypi/", "blobs"))


def test_only_the_named_networks_may_ask() -> None:
    text = nginx_config(options(models=True, allow=["10.0.0.0/24"]), "/srv/models")
    allowed = [line.split()[1] for line in text.splitlines() if line.strip().startswith("allow ")]
    assert allowed == ["127.0.0.0/8;", "::1;", "10.0.0.5;", "10.0.0.0/24;"]
    assert text.index("allow 10.0.0.0/24;") < text.index("deny all;")


def test_an_address_of_version_6_stands_in_brackets() -> None:
    assert "listen [fd00::5]:8090;" in nginx_config(options(listen="fd00::5", models=True), "/srv/models")


def test_what_is_taken_out_is_removed() -> None:
    there = files(options(**EVERYTHING), "/srv/models")
    assert None not in there.values()
    assert {path for path, text in files(options(**UBUNTU), "/srv/models").items() if text is None} == {
        unit_path(IMAGES), "/etc/metal2model/lan_cache/registry.yml"
    }  # fmt: skip
    gone = files(options(**EVERYTHING, present=False), "/srv/models")
    assert gone.keys() == there.keys() and set(gone.values()) == {None}
    assert endpoints(options(**EVERYTHING, present=False)) == []


def test_verify_asks_for_the_cache_and_for_its_registry() -> None:
    assert [(one.unit, one.url, one.health_path) for one in endpoints(options(**EVERYTHING))] == [
        (UNIT, "http://10.0.0.5:8090", "/"),
        (UNIT, "http://10.0.0.5:8090", "/models/"),
        (IMAGES, "http://10.0.0.5:8090", "/v2/"),
    ]
    assert UNITS == UNIT


@pytest.mark.parametrize(("port", "may"), [(80, "CAP_NET_BIND_SERVICE"), (8090, "")])
def test_a_port_of_root_takes_the_right_to_it_and_no_other_port_does(port: int, may: str) -> None:
    given = options(**EVERYTHING, port=port)
    lines = unit(UNIT, given, "/srv/models").splitlines()
    assert f"AmbientCapabilities={may}" in lines and f"CapabilityBoundingSet={may}" in lines
    assert "AmbientCapabilities=" in unit(REFRESH, given, "/srv/models").splitlines()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/home/me/models", "models/directory: /home is hidden from services, and lan_cache/models serves it"),
        ('/srv/a";b', "has signs that mean something to nginx"),
        ("/srv/$host", "has signs that mean something to nginx"),
        ("/srv/mo dels", "has signs that mean something to nginx"),
    ],
)
def test_a_place_of_models_that_cannot_be_served_is_refused(path: str, said: str) -> None:
    with pytest.raises(OptionProblem) as error:
        check_models_directory(path)
    assert said in f"{error.value.option}: {error.value}"
    check_models_directory("/srv/models")


def test_a_whole_answer_to_a_question_for_a_part_is_not_kept_for_long() -> None:
    """A portal that wants a login answers everything so."""
    kept = re.findall(r"proxy_cache_valid (.*) (\w+);", nginx_config(options(**UBUNTU), "/srv/models"))
    assert ("206", "10y") in kept
    assert {time for codes, time in kept if "200" in codes.split()} == {"10s", "1m"}


def test_the_same_addresses_in_another_order_are_no_change(tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    programs = {"getent": 'cat "$TOLD"', "kill": "", "sync": ""}
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    run = tmp_path / "run"
    run.mkdir()
    (run / "nginx.pid").write_text("1\n")
    script = PREPARE.replace("/run/lan-cache", str(run)).replace("kill -HUP", f"echo hup >>{asked} #")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TOLD": str(tmp_path / "told")}
    for mode, order in (("start", "21"), ("refresh", "12"), ("refresh", "13")):
        lines = [f"192.0.2.{number}       STREAM\n192.0.2.{number}       DGRAM\n" for number in order]
        (tmp_path / "told").write_text("".join(lines))
        words = ["sh", "-c", script, "sh", mode, str(tmp_path), "a_80=a:80"]
        subprocess.run(words, check=True, env=environment)
        assert asked.exists() is (order == "13"), order


def test_the_registry_is_reached_through_nginx_alone() -> None:
    text = registry_config(options(**EVERYTHING))
    assert "net: unix" in text and "remoteurl: https://registry-1.docker.io" in text
    assert "/run/lan-cache-images/registry.sock" in nginx_config(options(**EVERYTHING), "/srv/models")


@pytest.mark.parametrize("port", [80, 8090])
@pytest.mark.parametrize("name", [UNIT, REFRESH, TIMER, IMAGES])
def test_systemd_accepts_the_units_and_finds_them_confined(tmp_path: Path, name: str, port: int) -> None:
    # Paths of programs that the machine of the tests need not have.
    text = unit(name, options(**{**EVERYTHING, "port": port}), "/srv/models").replace("/usr/sbin/nginx", "/bin/true")
    path = tmp_path / name
    path.write_text(text.replace("/usr/bin/docker-registry", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(path)], capture_output=True, text=True, check=False
    )
    assert [line for line in verified.stderr.splitlines() if name in line] == []
    if name != TIMER:
        words = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=40", str(path)]
        rated = subprocess.run(words, capture_output=True, text=True, check=False)
        assert rated.returncode == 0, rated.stdout[-300:]


def test_what_the_unit_reads_is_what_is_written() -> None:
    written = files(options(**EVERYTHING), "/srv/models")
    text = unit(UNIT, options(**EVERYTHING), "/srv/models")
    assert CONFIG in written and f"-c {CONFIG}" in text
    assert all(path in written for path in text.split() if path.startswith(("/opt/", "/etc/")))
