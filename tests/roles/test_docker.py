"""The docker role: what a host gets, and what becomes of JSON files that others write, too."""

import base64
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.hardware import HardwareReport, OperatingSystem
from roles.common.options import OptionError
from roles.declaration import Declaration
from roles.docker.deploy import json_files, wanted_units
from roles.docker.facts import PROOF, SETTINGS, Presence, SettingsVerdict
from roles.docker.files.settings import merged, without
from roles.docker.operations import SWAP
from roles.docker.options import SETTINGS as OWN_SETTINGS
from roles.docker.options import DockerOptions
from roles.docker.plan import (
    CONFLICTING,
    CONTAINERD,
    DAEMON,
    DOCKER_SOURCES,
    LOGINS,
    NVIDIA_PIN,
    NVIDIA_SOURCES,
    RELOADABLE,
    RESTART,
    Present,
    daemon_settings,
    files,
    findings,
    kept,
    keys,
    packages,
    refused,
    source_of,
    sources,
)
from tests.roles.test_lock import report_with

SYSTEMS = {
    "jammy": OperatingSystem("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS"),
    "noble": OperatingSystem("ubuntu", "24.04", "noble", "Ubuntu 24.04.4 LTS"),
    "bookworm": OperatingSystem("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)"),
    "trixie": OperatingSystem("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)"),
    "sid": OperatingSystem("debian", "", "sid", "Debian GNU/Linux sid"),
}
TOOLKIT = {
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
}


def options(**given: Any) -> DockerOptions:
    return DockerOptions.load(given, where="h", path="docker")


def host(system: str, **more: Any) -> HardwareReport:
    return replace(report_with(), os=SYSTEMS[system], architecture="amd64", **{"virtualization": "none", **more})


# --- What a host gets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "source", "wanted"),
    [
        ("noble", "archive", ["docker.io", "docker-compose-v2", "apparmor"]),
        ("trixie", "archive", ["docker.io", "docker-cli|docker.io", "docker-compose", "apparmor"]),
        ("sid", "archive", ["docker.io", "docker-cli|docker.io", "docker-compose", "apparmor"]),
        ("bookworm", "docker", ["docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "apparmor"]),
    ],
)
def test_every_system_has_its_engine(system: str, source: str, wanted: list[str]) -> None:
    assert source_of(options(), host(system)) == source
    assert packages(options(), ["cpu"], host(system)) == wanted
    assert findings(options(), ["cpu"], host(system)) == []


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("source", ["docker", "archive", "existing"])
def test_no_wanted_package_is_one_that_has_to_go(system: str, source: str) -> None:
    wanted = {
        one.partition("=")[0]
        for name in packages(options(source=source), ["cpu", "h20"], host(system))
        for one in name.split("|")
    }
    assert not wanted & set(CONFLICTING[source])
    assert source == "existing" or len(wanted) > len(TOOLKIT)
    assert wanted >= TOOLKIT


def test_an_nvidia_tag_brings_the_toolkit_as_a_set_of_one_version() -> None:
    report = host("noble")
    chosen = options(nvidia_version="1.19.1-1", nvidia_url="https://mirror.example.org/libnvidia-container/")
    toolkit = [name for name in packages(chosen, ["rtx4090"], report) if "nvidia" in name]
    assert sorted(toolkit) == sorted(f"{name}=1.19.1-1" for name in TOOLKIT)
    found = sources(chosen, ["rtx4090"], report)
    pin, entry = found[NVIDIA_PIN], found[NVIDIA_SOURCES]
    assert pin and entry
    assert set(pin.content.splitlines()[1].removeprefix("Package: ").split()) == TOOLKIT
    assert "Pin: version 1.19.1-1" in pin.content
    assert "URIs: https://mirror.example.org/libnvidia-container/stable/deb/amd64\nSuites: /\n" in entry.content
    assert daemon_settings(chosen, ["rtx4090"])["features"] == {"cdi": True}
    assert [unit.name for unit in wanted_units(chosen, ["rtx4090"], report)][-1] == "nvidia-cdi-refresh.path"
    assert sources(chosen, ["b580"], report)[NVIDIA_SOURCES] is None
    assert "features" not in daemon_settings(chosen, ["b580"])


def test_dockers_repository_is_of_the_hosts_release_and_signed_by_its_own_key() -> None:
    chosen = options(source="docker", repository_url="https://mirrors.tuna.tsinghua.edu.cn/docker-ce/")
    entry = sources(chosen, ["cpu"], host("noble"))[DOCKER_SOURCES]
    assert entry
    assert entry.content.splitlines()[1:] == [
        "Types: deb", "URIs: https://mirrors.tuna.tsinghua.edu.cn/docker-ce/linux/ubuntu", "Suites: noble",
        "Components: stable", "Architectures: amd64", "Signed-By: /etc/apt/keyrings/metal2model-docker.gpg",
    ]  # fmt: skip
    ((url, _, option, fingerprint),) = keys(chosen, ["cpu"], host("noble"))
    assert url == "https://mirrors.tuna.tsinghua.edu.cn/docker-ce/linux/ubuntu/gpg"
    assert (option, fingerprint) == ("docker/repository_key", "9DC858229FC7DD38854AE2D88D81803C0EBFCD88")
    assert sources(options(), ["cpu"], host("noble"))[DOCKER_SOURCES] is None
    assert keys(options(), ["cpu"], host("noble")) == []


@pytest.mark.parametrize(
    ("system", "given", "tags", "found"),
    [
        ("sid", {"source": "docker"}, ["cpu"], [("docker_source", "docker/source")]),
        ("bookworm", {"source": "archive"}, ["cpu"], [("docker_no_compose", "docker/compose")]),
        ("bookworm", {"source": "archive", "compose": False}, ["cpu"], []),
        ("bookworm", {"source": "archive", "compose": False}, ["p40"], [("docker_no_cdi", "docker/source")]),
        ("bookworm", {}, ["p40"], []),
    ],
)
def test_what_a_source_has_not_is_found(
    system: str, given: dict[str, Any], tags: Sequence[str], found: list[tuple[str, str]]
) -> None:
    assert [(one.key, one.option) for one in findings(options(**given), tags, host(system))] == found


@pytest.mark.parametrize("system", ["noble", "trixie", "bookworm"])
@pytest.mark.parametrize("engine", ["docker", "archive"])
def test_an_engine_that_is_there_stays_whose_it_is(system: str, engine: Literal["docker", "archive"]) -> None:
    there = Present(engine)
    assert source_of(options(compose=False), host(system), there) == engine
    found = sources(options(compose=False), ["cpu"], host(system), there)
    assert found[DOCKER_SOURCES] is None, "a second entry of the same repository stops apt"
    assert keys(options(compose=False), ["cpu"], host(system), there) == []
    assert kept(options(), there) and refused(options(compose=False), ["cpu"], host(system), there) == []
    for source in ("docker", "archive"):
        assert source_of(options(source=source), host(system), there) == source
        assert not kept(options(source=source), there)
    ours = Present(engine, repository=True)
    assert (sources(options(), ["cpu"], host(system), ours)[DOCKER_SOURCES] is None) is (engine == "archive")


def test_an_engine_that_will_not_do_is_not_taken_away_unasked() -> None:
    there = Present("archive")
    (said,) = refused(options(), ["cpu"], host("bookworm"), there)
    assert "no docker compose" in said and "write source: 'docker'" in said and "compose: False" in said
    (said,) = refused(options(compose=False), ["p40"], host("bookworm"), there)
    assert "CDI" in said
    assert refused(options(source="docker"), ["cpu"], host("bookworm"), there) == []
    assert refused(options(), ["cpu"], host("bookworm"), Present()) == []


def test_a_host_says_whose_engine_it_has(tmp_path: Path) -> None:
    said = ["installed docker-ce", "not-installed docker.io", "repository", "/etc/docker/certs.d/r:1/ca.crt"]
    assert Presence().process(said) == Present("docker", True, ["/etc/docker/certs.d/r:1/ca.crt"])
    assert Presence().process(["config-files docker-ce", "installed docker.io"]).engine == "archive"
    subprocess.run(["sh", "-n", "-c", str(Presence().command())], check=True)
    # What it looks for is what stands in the files.
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "r:1").mkdir()
    written = files(options(registries={"r:1": {"ca_file": str(tmp_path / "ca.pem")}}))
    file = written["/etc/docker/certs.d/r:1/ca.crt"]
    assert file and file.content.endswith("\n-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "r:1" / "ca.crt").write_text(file.content)
    command = str(Presence().command()).replace("/etc/docker/certs.d", str(tmp_path))
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert f"{tmp_path}/r:1/ca.crt" in found.splitlines()


def test_the_authority_of_a_registry_that_left_goes_with_it_and_nobody_elses() -> None:
    ours = "/etc/docker/certs.d/old.example.org/ca.crt"
    wanted = files(options(registries={"r.example.org": {}}), Present(authorities=[ours]))
    assert {path: text for path, text in wanted.items() if "certs.d" in path} == {ours: None}


@pytest.mark.parametrize("kind", ["ca_file", "login_file"])
def test_a_file_that_cannot_be_read_here_is_told(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"\x30\x82\xff\xfe")
    path = f"docker/registries/r.example.org/{kind}: "
    with pytest.raises(OptionError, match=f"{path}.*(BEGIN CERTIFICATE|must hold one line)"):
        options(registries={"r.example.org": {kind: str(tmp_path / "x")}})

    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(OptionError, match=f"{path}.*can be read: Permission denied"):
        options(registries={"r.example.org": {kind: str(tmp_path / "x")}})


def test_both_stores_of_images_move_together() -> None:
    wanted = files(options(data_root="/srv/containers"))[CONTAINERD]
    assert wanted and wanted.content.endswith(
        "ExecStart=\nExecStart=/usr/bin/containerd --root /srv/containers/containerd\n"
    )
    assert daemon_settings(options(data_root="/srv/containers"), [])["data-root"] == "/srv/containers/docker"
    assert files(options())[CONTAINERD] is None
    docker = next(unit for unit in wanted_units(options(), ["cpu"], host("noble")) if unit.name == "docker.service")
    assert CONTAINERD in docker.reads


def test_a_login_is_readable_by_root_alone_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("me:secret:with:colons\n")
    chosen = options(registries={"docker.io": {"login_file": str(tmp_path / "hub")}, "r.example.org:5000": {}})
    file = files(chosen)[LOGINS]
    assert file and file.mode == "0600"
    auth = json.loads(file.content)["auths"]["https://index.docker.io/v1/"]["auth"]
    assert base64.b64decode(auth) == b"me:secret:with:colons"
    assert "secret" not in repr(chosen) and auth not in json.dumps(json_files(chosen, ["cpu"]))
    assert files(options())[LOGINS] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"registries": {"r.example.org": {"ca_file": "/nowhere"}}}, "/ca_file: '/nowhere' is no file on this machine"),
        ({"registries": {"r.example.org": {"password": "x"}}}, "password: no such option: write login_file"),
        ({"registries": {"https://r.example.org": {}}}, "docker/registries/https://r.example.org"),
        ({"registries": {"docker.io": {"insecure": True}}}, "docker/registries/docker.io/insecure: "),
        ({"settings": {"data-root": "/x"}}, "docker/settings: 'data-root' is set by the option 'data_root'"),
        ({"images": ["x"]}, "docker/images/0: 'x' is another image every week"),
        ({"mirrors": ["https://me:pw@mirror.example.org"]}, "docker/mirrors/0: the URL holds a login"),
        ({"registry_mirrors": []}, "docker/registry_mirrors: no such option: write mirrors"),
        ({"data_root": "srv"}, "docker/data_root: "),
        ({"data_root": "/srv/x", "source": "existing"}, "docker/data_root: with source: 'existing' the"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_used_says_what_to_write(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        options(**given)
    assert message in str(error.value)
    assert "me:pw" not in str(error.value)


def test_a_login_file_holds_one_line(tmp_path: Path) -> None:
    for text in ("", "token\n", "user:\n", "user:a\nuser:b\n"):
        (tmp_path / "login").write_text(text)
        with pytest.raises(OptionError, match="must hold one line, USER:PASSWORD"):
            options(registries={"r.example.org": {"login_file": str(tmp_path / "login")}})


def test_a_host_that_is_to_run_containers_declares_docker() -> None:
    declared = {"tags": ["cpu"], "open_webui": {"method": "container"}}
    with pytest.raises(
        OptionError, match="h: open_webui/method: it runs containers, and the docker role is not declared"
    ):
        Declaration.load(declared, where="h")
    assert Declaration.load({**declared, "docker": {}}, where="h")
    assert Declaration.load({"tags": ["cpu"], "open_webui": {"method": "native"}}, where="h")


# --- JSON files that others write, too -------------------------------------------------------------------------------

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
KEYS = st.text("abcd", min_size=1, max_size=2)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(LEAVES, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)
OURS = OBJECTS.filter(lambda ours: {} not in leaves(ours).values())
"""An empty object says nothing."""


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is no object, by its path."""
    if isinstance(value, dict) and value:
        return {key: one for name, inner in value.items() for key, one in leaves(inner, (*path, name)).items()}
    return {path: value}


@given(OBJECTS, OURS)
def test_both_parts_are_there_and_ours_counts(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    found = leaves(merged(theirs, ours))
    for path, value in leaves(ours).items():
        if isinstance(value, list):
            assert found[path][: len(value)] == value
        else:
            assert found[path] == value
    for path, value in leaves(theirs).items():
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in leaves(ours)):
            assert found[path] == value


@given(OBJECTS, OBJECTS)
def test_a_second_run_changes_nothing(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    once = merged(theirs, ours)
    assert merged(without(once, ours), ours) == once


@given(OBJECTS, OBJECTS)
def test_what_is_no_longer_wanted_goes_and_nothing_else(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    apart = {f"x{key}": value for key, value in ours.items()}
    assert without(merged(theirs, apart), apart) == theirs


def test_what_somebody_changed_since_is_theirs() -> None:
    assert without({"a": 2, "b": {"c": 1, "d": 1}, "l": ["x", "y"]}, {"a": 1, "b": {"c": 1}, "l": ["x"]}) == {
        "a": 2, "b": {"d": 1}, "l": ["y"],
    }  # fmt: skip


class Daemon:
    """settings.py, run as on a host, on files of a test."""

    def __init__(self, folder: Path) -> None:
        self.path, self.record = folder / "etc/daemon.json", folder / "var/daemon.json"
        self.path.parent.mkdir()
        self.validate = ["true"]
        self.mirrors: list[str] = []
        self.restart, self.reloads = folder / "var/restart", folder / "reloads"

    def run(self, task: str, wanted: dict[str, Any] | str) -> subprocess.CompletedProcess[str]:
        file: dict[str, Any] = {"path": str(self.path), "record": str(self.record), "wanted": wanted, "mode": "0644",
                "validate": self.validate}  # fmt: skip
        if isinstance(wanted, dict):
            file["restart"] = {"path": str(self.restart), "reloadable": RELOADABLE}
            file["reload"] = ["sh", "-c", f"echo reload >>{self.reloads}"]
        whole = {"files": [file], "mirrors": self.mirrors, "timeout": 5}
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", SETTINGS, task, json.dumps(whole)],
            capture_output=True,
            text=True,
            check=False,
        )

    def verdict(self, wanted: dict[str, Any] | str) -> str:
        return SettingsVerdict().process(self.run("check", wanted).stdout.splitlines())

    @property
    def content(self) -> Any:
        return json.loads(self.path.read_text())


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def test_a_file_gets_our_keys_and_loses_them(daemon: Daemon) -> None:
    daemon.path.write_text('{"runtimes": {"nvidia": {"path": "n"}}}')
    daemon.path.chmod(0o640)
    assert daemon.verdict({"a": 1}) == "differs"
    assert daemon.run("write", {"a": 1}).returncode == 0
    assert daemon.content == {"runtimes": {"nvidia": {"path": "n"}}, "a": 1}
    assert daemon.path.stat().st_mode & 0o777 == 0o640
    assert daemon.record.stat().st_mode & 0o777 == 0o600
    before = daemon.path.stat()
    assert daemon.verdict({"a": 1}) == "as wanted"
    daemon.run("write", {"a": 1})
    assert daemon.path.stat() == before
    daemon.run("write", {"b": 2})
    assert daemon.content == {"runtimes": {"nvidia": {"path": "n"}}, "b": 2}


def test_dockerd_is_restarted_for_what_it_takes_up_in_no_other_way(daemon: Daemon) -> None:
    """Servers in containers restart with it, and take minutes."""
    daemon.run("write", {"data-root": "/a", "registry-mirrors": ["x"]})
    restart = daemon.restart.stat().st_ctime_ns
    assert not daemon.reloads.exists(), "at its start it reads all"
    record = daemon.record.read_text()
    daemon.run("write", {"data-root": "/a", "registry-mirrors": ["y"], "live-restore": True})
    assert (daemon.reloads.read_text(), daemon.restart.stat().st_ctime_ns) == ("reload\n", restart)
    # Killed before the reload.
    daemon.record.write_text(record)
    assert daemon.verdict({"data-root": "/a", "registry-mirrors": ["y"], "live-restore": True}) == "differs"
    daemon.run("write", {"data-root": "/a", "registry-mirrors": ["y"], "live-restore": True})
    assert (daemon.reloads.read_text(), daemon.restart.stat().st_ctime_ns) == ("reload\n" * 2, restart)
    daemon.run("write", {"data-root": "/b", "registry-mirrors": ["y"]})
    assert daemon.restart.stat().st_ctime_ns != restart
    # By hand.
    daemon.path.write_text(daemon.path.read_text().replace("{", '{"icc": false,', 1))
    assert daemon.verdict({"data-root": "/b", "registry-mirrors": ["y"]}) == "differs"
    docker = next(unit for unit in wanted_units(options(), ["cpu"], host("noble")) if unit.name == "docker.service")
    assert RESTART in docker.reads and DAEMON not in docker.reads


def test_a_run_that_was_killed_between_the_two_files_is_mended(daemon: Daemon) -> None:
    daemon.run("write", {"l": ["old"]})
    old = daemon.record.read_text()
    daemon.run("write", {"l": ["new"]})
    daemon.record.write_text(old)
    assert daemon.verdict({"l": ["new"]}) == "differs"
    daemon.run("write", {"l": ["new"]})
    assert (daemon.content, daemon.verdict({"l": ["new"]})) == ({"l": ["new"]}, "as wanted")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "// a comment\n{}", "\x00"])
def test_what_is_no_json_object_is_left_and_told(daemon: Daemon, text: str) -> None:
    daemon.path.write_text(text)
    assert daemon.verdict({"a": 1}).startswith(f"problem docker: {daemon.path} on the host is no JSON object")
    refused = daemon.run("write", {"a": 1})
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert daemon.path.read_text() == text


@pytest.mark.parametrize("text", ["", "\n", "{}"])
def test_an_empty_file_is_an_empty_object(daemon: Daemon, text: str) -> None:
    daemon.path.write_text(text)
    daemon.run("write", {"a": 1})
    assert daemon.content == {"a": 1}


def test_what_dockerd_refuses_is_not_written(daemon: Daemon) -> None:
    daemon.path.write_text('{"a": 1}')
    daemon.validate = ["sh", "-c", "echo unable to configure: no such key >&2; exit 1"]
    refused = daemon.run("write", {"nonsense": 1})
    assert (refused.returncode, refused.stderr.count("no such key")) == (1, 1)
    assert daemon.content == {"a": 1}
    assert [path.name for path in daemon.path.parent.iterdir()] == ["daemon.json"]
    # Docker 20.10 has no such check.
    daemon.validate = ["sh", "-c", "echo unknown flag: --validate >&2; exit 125"]
    assert daemon.run("write", {"b": 1}).returncode == 0
    daemon.validate = ["no-dockerd-here"]
    assert "docker/source: there is no no-dockerd-here" in daemon.run("write", {"c": 1}).stderr


Registry = tuple[str, dict[str, int], dict[str, int]]


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that answers /v2/ as told, with a status for each path before it; and one for the next time alone."""
    answers: dict[str, int] = {}
    once: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removesuffix("/v2/")
            self.send_response(once.pop(path, answers.get(path, 404)))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answers, once
        server.shutdown()
        thread.join()


def test_a_mirror_is_not_left_for_an_answer_that_got_lost(daemon: Daemon, registry: Registry) -> None:
    base, answers, once = registry
    daemon.mirrors = [f"{base}/a", f"{base}/b"]
    answers.update({"/a": 200, "/b": 200})
    daemon.run("write", {})
    once["/a"] = 503
    assert daemon.verdict({}) == "as wanted"
    assert not once


def test_the_first_mirror_that_answers_is_kept_until_it_is_silent(daemon: Daemon, registry: Registry) -> None:
    base, answers, _ = registry
    daemon.path.write_text('{"registry-mirrors": ["https://somebodys.example.org"]}')
    daemon.mirrors = ["http://127.0.0.1:1", f"{base}/a", f"{base}/b/"]
    answers.update({"/a": 503, "/b": 401})
    daemon.run("write", {})
    assert daemon.content["registry-mirrors"] == [f"{base}/b/", "https://somebodys.example.org"]
    answers["/a"] = 200
    assert daemon.verdict({}) == "as wanted", "one that works is not given up for another"
    answers["/b"] = 404
    assert daemon.verdict({}) == "differs"
    daemon.run("write", {})
    assert daemon.content["registry-mirrors"] == [f"{base}/a", "https://somebodys.example.org"]
    answers.clear()
    assert daemon.verdict({}).startswith(f"problem docker/mirrors: none of http://127.0.0.1:1, {base}/a")
    daemon.mirrors = []
    daemon.run("write", {})
    assert daemon.content == {"registry-mirrors": ["https://somebodys.example.org"]}


def test_a_part_with_secrets_comes_from_a_file_and_is_never_shown(daemon: Daemon, tmp_path: Path) -> None:
    part = tmp_path / "logins.json"
    assert daemon.verdict(str(part)) == "as wanted", "no login was ever wanted"
    part.write_text('{"auths": {"r": {"auth": "c2VjcmV0"}}}')
    done = daemon.run("write", str(part))
    assert daemon.content["auths"]["r"]["auth"] == "c2VjcmV0"
    assert "c2VjcmV0" not in done.stdout + done.stderr + daemon.run("check", str(part)).stdout
    part.unlink()
    daemon.run("write", str(part))
    assert daemon.content == {}


def test_our_keys_are_those_that_options_set() -> None:
    everything = options(data_root="/x", registries={"r.example.org": {"insecure": True}})
    assert daemon_settings(everything, ["cpu"]).keys() | {"registry-mirrors"} == OWN_SETTINGS.keys()


DOCKER = """#!/bin/sh
case "$1 $2" in
    "image inspect") grep -qxF "$3" "$IMAGES" ;;
    "image rm") shift 2; [ "$1" != --force ] || shift
        for one; do sed -i "\\|^$one\\$|d" "$IMAGES"; done ;;
    "image ls") cat "$IMAGES" ;;
    "import "*) if [ "$2" = - ]; then cat >/dev/null; fi; echo "$3" >>"$IMAGES" ;;
    "run "*) if [ -e "$BROKEN" ]; then echo broken; else echo 'it runs'; fi ;;
esac
"""


class Proof:
    """proof.sh with a docker that keeps names of images."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.images, self.broken = folder, folder / "images", folder / "broken"
        self.images.touch()
        self.program("docker", DOCKER)

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run(self, task: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.folder}:/usr/sbin:/usr/bin:/sbin:/bin", "IMAGES": str(self.images),
                       "BROKEN": str(self.broken)}  # fmt: skip
        words = ["sh", "-c", PROOF, "sh", task, "0", "0"]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_a_card_that_came_later_gets_an_image_with_what_it_needs(tmp_path: Path) -> None:
    proof = Proof(tmp_path)
    assert proof.run("check").stdout == "there is no image of the proof yet\n"
    assert proof.run("prove").returncode == 0
    first = proof.images.read_text()
    assert proof.run("check").stdout == "as wanted\n"
    proof.program("nvidia-smi", "#!/bin/sh\n")
    proof.program("ldd", "#!/bin/sh\n/usr/bin/ldd /bin/sh\n/usr/bin/ldd /usr/bin/env\n/usr/bin/ldd /usr/bin/tar\n")
    assert proof.run("check").stdout == "there is no image of the proof yet\n"
    assert proof.run("prove").returncode == 0
    assert len(proof.images.read_text().splitlines()) == 1 and proof.images.read_text() != first


@pytest.mark.parametrize("program", ["cp", "tar"])
def test_half_an_image_gets_no_name(tmp_path: Path, program: str) -> None:
    proof = Proof(tmp_path)
    proof.program(program, "#!/bin/sh\nexit 1\n")
    assert proof.run("prove").returncode != 0
    assert proof.images.read_text() == ""


def test_an_image_that_did_not_prove_anything_is_made_anew(tmp_path: Path) -> None:
    proof = Proof(tmp_path)
    proof.broken.touch()
    failed = proof.run("prove")
    assert (failed.returncode, proof.images.read_text()) == (1, "")
    assert "docker: no container runs on this host; docker says: broken" in failed.stderr


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([SWAP, PROOF]))
def test_scripts_are_sound(script: str) -> None:
    subprocess.run(["sh", "-n", "-c", script], check=True)
