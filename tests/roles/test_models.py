"""The models role without a host: options, catalogue, specification, and the program's decisions."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import StringCommand

from roles.common.options import OptionError
from roles.models import deploy
from roles.models.facts import Store, StoreState
from roles.models.files.store import commands, hubs, known
from roles.models.options import ModelsOptions
from tests.testbed import artefacts

ROOT = Path(__file__).parents[2]
ZEROS = "0" * 64
ONES = "1" * 64
COMMIT = "c" * 40


def options(**wanted: dict[str, Any]) -> ModelsOptions:
    return ModelsOptions.load({"wanted": {name.replace("_", "-"): m for name, m in wanted.items()}}, where="h")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (
            {"qwen3-4b-q5": {}},
            "models/wanted/qwen3-4b-q5: files/models.yaml has no model of this name (did you mean 'qwen3-",
        ),
        ({"x": {"repo": "a/b", "url": "https://h/f"}}, "models/wanted/x: repo and url are given, one is required"),
        ({"x": {"url": "https://h/f.gguf"}}, "models/wanted/x/sha256: is required with 'url'"),
        (
            {"x": {"path": "/srv/../home/u/m"}},
            "models/wanted/x/path: '/srv/../home/u/m' leads through '..', '.' or '//'",
        ),
        ({"x": {"path": "/srv//m"}}, "models/wanted/x/path: '/srv//m' leads through '..'"),
        ({"x": {"url": "https://h/", "sha256": ZEROS}}, "models/wanted/x/url: 'https://h/' names no file"),
        ({"x": {"repo": "a/b", "sha256": ZEROS}}, "models/wanted/x/sha256: goes with 'url' or 'path'"),
        ({"x": {"repo": "b"}}, "models/wanted/x/repo: "),
        ({"x": {"repo": "a/.."}}, "models/wanted/x/repo: "),
        ({"x": {"path": "model.gguf"}}, "models/wanted/x/path: "),
        (
            {"x": {"path": "/m.gguf", "hub": "modelscope"}},
            "models/wanted/x/hub: goes with a repository, not with 'path'",
        ),
        ({"qwen3-4b-q4": {"files": ["a.gguf"]}}, "models/wanted/qwen3-4b-q4/files: goes with 'repo'"),
        ({"x": {"repo": "a/b", "hub": "modelscop"}}, "models/wanted/x/hub: "),
        ({"x": {"repo": "a/b", "file": "c"}}, "models/wanted/x/file: no such option: write files"),
        ({"x": {"repo": "a/b", "token": "t"}}, "models/wanted/x/token: no such option: this role holds no tokens yet"),
        ({"X": {"repo": "a/b"}}, "models/wanted/X: "),
        (
            {"x": {"repo": "a/b"}, "y": {"repo": "a/b", "hub": "modelscope"}},
            "models/wanted/y: a/b from modelscope at 'master', but wanted/x has it from huggingface at 'main'",
        ),
        (
            {"deepseek-r1-distill-qwen-7b-q4-bartowski": {"hub": "modelscope"}},
            "models/wanted/deepseek-r1-distill-qwen-7b-q4-bartowski/hub: files/models.yaml does not know it on",
        ),
    ],
)
def test_a_model_that_cannot_be_meant_is_refused(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as refused:
        ModelsOptions.load({"wanted": wanted}, where="gpu-01", path="models")
    assert f"gpu-01: {said}" in str(refused.value)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ({"repo": "a/b", "files": ["q/x-00001-of-00002.gguf", "*.json"]}, "/srv/models/a/b/q/x-00001-of-00002.gguf"),
        ({"repo": "a/b", "files": ["*Q4_K_M*.gguf"]}, "/srv/models/a/b"),
        ({"repo": "a/b"}, "/srv/models/a/b"),
        ({"url": "https://h.example:8443/d/a%20b.gguf?x=1", "sha256": ZEROS}, "/srv/models/h.example/m/a b.gguf"),
        ({"path": "/data/m.gguf"}, "/data/m.gguf"),
    ],
)
def test_what_an_engine_loads_is_known_without_the_host(model: dict[str, Any], path: str) -> None:
    assert options(m=model).model("m").path == path


def test_a_model_that_is_not_wanted_is_explained() -> None:
    with pytest.raises(ValueError, match=r"'qwen3-8b' is not among models/wanted \(did you mean 'qwen3-8b-q4'\?\)"):
        options(qwen3_8b_q4={}).model("qwen3-8b")


def test_the_clients_are_pinned_with_hashes_and_only_the_needed_ones_asked_for() -> None:
    assert list(deploy.specification(options(a={"path": "/m.gguf"}))["clients"]) == []
    both = options(a={"repo": "a/b"}, b={"repo": "b/b", "hub": "modelscope"})
    spec = deploy.specification(both)
    assert {name: client["version"] for name, client in spec["clients"].items()} == {
        "huggingface": "2.4.0",
        "modelscope": "0.5.1",
    }
    for hub in deploy.CLIENTS:
        text = (deploy.FILES / f"{hub}.txt").read_text()
        assert "://" not in text, "an index is named"
        for pin in re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", text)):
            assert "==" in pin
            assert "--hash=sha256:" in pin
    assert deploy.pythons(spec) == {
        "huggingface": "/opt/metal2model/huggingface_hub/2.4.0/bin/python",
        "modelscope": "/opt/metal2model/modelscope_hub/0.5.1/bin/python",
    }


def test_the_program_runs_on_the_python_of_ubuntu_22_04() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-version", "3.10", "roles/models/files/store"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_state_is_read_in_one_command_and_a_bare_host_has_nothing_installed() -> None:
    fact = Store()
    command = fact.command("/opt/p", "/etc/s.json", {"/etc/s.json": ZEROS})
    assert isinstance(command, StringCommand)
    done = subprocess.run(["sh", "-c", command.get_raw_value()], capture_output=True, text=True, check=True)
    bare = fact.process(done.stdout.splitlines())
    assert bare == StoreState(installed=False, clients={}, models={})
    assert not bare.at_rest
    assert StoreState(installed=True, clients={"huggingface": None}, models={"a": None}).at_rest
    assert not StoreState(installed=True, clients={"huggingface": "is not installed"}, models={}).at_rest
    assert not StoreState(installed=True, clients={}, models={"a": "x is not there yet"}).at_rest


def test_the_check_says_what_is_not_as_wanted(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"<html>")
    spec = tmp_path / "spec.json"
    there, absent = {"path": str(tmp_path / "m.gguf")}, {"repo": "a/b"}
    spec.write_text(json.dumps(deploy.specification(options(there=there, absent=absent))))
    fact = Store()
    home = str(deploy.FILES)
    command = fact.command(home, str(spec), {str(spec): hashlib.sha256(spec.read_bytes()).hexdigest()})
    done = subprocess.run(["sh", "-c", command.get_raw_value()], capture_output=True, text=True, check=True)
    state = fact.process(done.stdout.splitlines())
    assert (state.installed, state.clients) == (True, {"huggingface": "is not installed"})
    assert state.models["absent"] == "nothing is known of it yet"
    assert (state.models["there"] or "").startswith(f"{tmp_path}/m.gguf is no GGUF file")


def test_the_check_of_a_host_at_rest_imports_little() -> None:
    program = "import sys; sys.path.insert(0, sys.argv[1]); import store.known; print(*sys.modules)"
    words = [sys.executable, "-I", "-S", "-c", program, str(deploy.FILES)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    heavy = {"pathlib", "typing", "hashlib", "contextlib", "subprocess", "urllib.parse", "ssl", "store.commands"}
    assert heavy & set(done.stdout.split()) == set()


# The program


def model(**given: Any) -> dict[str, Any]:
    name = given.pop("name", "m")
    spec = deploy.specification(options(**{name: {"repo": "a/b", **given}}))
    found: dict[str, Any] = spec["models"][0]
    return found


def listed(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "size": 10, "sha256": ZEROS} for name in names]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([], ["d/a-00001-of-00002.gguf", "d/a-00002-of-00002.gguf", "config.json", "m.gguf"]),
        (["m.gguf"], ["m.gguf"]),
        (["*.gguf"], ["d/a-00001-of-00002.gguf", "d/a-00002-of-00002.gguf", "m.gguf"]),
        (["d/a-00001-of-00002.gguf"], ["d/a-00001-of-00002.gguf", "d/a-00002-of-00002.gguf"]),
        (["m.gguf", "m*"], ["m.gguf"]),
    ],
)
def test_files_are_names_globs_and_whole_splits(files: list[str], names: list[str]) -> None:
    hub = listed("d/a-00001-of-00002.gguf", "d/a-00002-of-00002.gguf", "config.json", "m.gguf")
    assert [item["name"] for item in commands.chosen(model(files=files), hub)] == names


def test_a_file_that_the_hub_has_not_is_refused_with_close_names() -> None:
    with pytest.raises(hubs.Refused, match=r"none is 'm-Q4_K_S.gguf' \(did you mean 'm-Q4_K_M.gguf'\?\)"):
        commands.chosen(model(files=["m-Q4_K_S.gguf"]), listed("m-Q4_K_M.gguf", "README.md"))


def test_a_split_of_which_a_part_is_missing_is_refused() -> None:
    with pytest.raises(hubs.Refused, match=r"lacks 'a-00002-of-00002.gguf'"):
        commands.chosen(model(files=["a-00001-of-00002.gguf"]), listed("a-00001-of-00002.gguf"))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_a_listing_that_leads_out_of_the_directory_is_refused(name: str) -> None:
    with pytest.raises(hubs.Refused, match="the listing is refused"):
        commands.planned(model(), listed(name)[0])


def test_a_digest_that_the_catalogue_knows_otherwise_is_refused() -> None:
    spec = deploy.specification(options(qwen3_0_6b_q8={"repo": "a/b"}))
    entry = {**spec["models"][0], "digests": {"m.gguf": ONES}}
    with pytest.raises(hubs.Refused, match="Nothing was downloaded"):
        commands.planned(entry, listed("m.gguf")[0])


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A specification whose paths are in a temporary directory."""
    monkeypatch.setattr(known, "STATE", str(tmp_path / "state"))
    wanted = {"m": {"repo": "a/b", "files": ["m.gguf"]}}
    data = {"directory": str(tmp_path / "models"), "wanted": wanted, "keep_free_mib": 0, "retries": 1}
    return deploy.specification(ModelsOptions.load(data, where="h"))


def wanting(spec: dict[str, Any], look_into: tuple[str, ...] = (), **wanted: dict[str, Any]) -> dict[str, Any]:
    """The same specification with other models."""
    data = {"directory": spec["directory"], "wanted": wanted, "keep_free_mib": 0, "retries": 1}
    return deploy.specification(ModelsOptions.load(data, where="h"), look_into)


class FakeHub(hubs.Hub):
    """A hub whose files contain their own names; it keeps a list of what was downloaded."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.served: list[str] = []

    def listing(self, model: dict[str, Any], revision: str) -> hubs.Listed:
        return COMMIT, [
            {"name": name, "size": len(name), "sha256": hashlib.sha256(name.encode()).hexdigest()}
            for name in self.names
        ]

    def get(self, model: dict[str, Any], manifest: dict[str, Any], entry: dict[str, Any], part: Path) -> None:
        self.served.append(entry["name"])
        part.write_text(entry["name"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub in the place of Hugging Face; models belong to whoever runs the tests."""
    found = FakeHub("m.gguf", "n.gguf", "o.gguf")
    monkeypatch.setattr(commands, "hub_of", lambda group, spec: found)
    monkeypatch.setattr(known, "OWNER", (os.geteuid(), os.getegid()))
    return found


def converge(spec: dict[str, Any]) -> dict[str, str | None]:
    """Plan and fetch, later than whatever was done before; return what is not as wanted."""
    time.sleep(0.05)  # the clock of ctime has ticks of some milliseconds
    assert commands.plan(spec, "huggingface") == []
    assert commands.fetch(spec, "huggingface") == []
    return {model["name"]: known.model_problem(spec, model) for model in spec["models"]}


def placed(spec: dict[str, Any], content: bytes = b"GGUF") -> tuple[dict[str, Any], dict[str, Any], Path]:
    """A model whose file stands in its place and is known."""
    wanted = spec["models"][0]
    path = Path(wanted["directory"], "m.gguf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    entry = commands.planned(wanted, {"name": "m.gguf", "size": len(content), "sha256": ZEROS})
    entry["stat"] = known.stat_of(path)
    commands.write_manifest(wanted, {"revision": COMMIT, "files": [entry]})
    return wanted, entry, path


def test_any_change_of_a_file_is_seen_by_stat_alone(spec: dict[str, Any]) -> None:
    wanted, _, path = placed(spec)
    assert known.model_problem(spec, wanted) == f"{path} is not root:root 0444"
    path.write_bytes(b"GGUF")
    assert known.model_problem(spec, wanted) == "m.gguf changed since it was verified"
    path.unlink()
    assert known.model_problem(spec, wanted) == "m.gguf changed since it was verified"
    assert known.model_problem(spec, {**wanted, "files": ["n.gguf"]}) == "nothing is known of it yet"


def test_a_branch_means_what_it_meant_first_also_for_other_files(spec: dict[str, Any]) -> None:
    wanted, _, _ = placed(spec)
    before = known.read_manifest(wanted, of_any_request=True)
    assert commands.revision_of({**wanted, "files": []}, before) == COMMIT
    assert commands.revision_of({**wanted, "revision": "v2"}, before) == "v2"
    assert commands.revision_of(wanted, None) == "main"


def test_a_verified_file_is_taken_over_and_an_older_one_kept_until_the_new_is_whole(spec: dict[str, Any]) -> None:
    wanted, entry, _ = placed(spec)
    before = known.read_manifest(wanted)
    same = commands.planned(wanted, {"name": "m.gguf", "size": 4, "sha256": ZEROS})
    newer = commands.planned(wanted, {"name": "m.gguf", "size": 9, "sha256": ONES})
    commands.inherit([same], before)
    commands.inherit([newer], before)
    assert (same["stat"], same["replaces"]) == (entry["stat"], None)
    assert (newer["stat"], newer["replaces"]) == (None, entry["stat"])


def test_a_file_that_the_user_put_there_may_come_from_a_hub_later(spec: dict[str, Any], hub: FakeHub) -> None:
    path = Path(spec["models"][0]["directory"], "m.gguf")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF of the user")
    own = {"path": str(path), "sha256": hashlib.sha256(b"GGUF of the user").hexdigest()}
    assert commands.fetch(wanting(spec, m=own), "plain") == []
    assert converge(spec) == {"m": None}
    assert (path.read_text(), hub.served) == ("m.gguf", ["m.gguf"])


def test_models_that_share_a_file_do_not_invalidate_each_other(spec: dict[str, Any], hub: FakeHub) -> None:
    one, two = {"repo": "a/b", "files": ["m.gguf"]}, {"repo": "a/b", "files": ["m.gguf", "n.gguf"]}
    shared = Path(spec["models"][0]["directory"], "m.gguf")
    assert converge(wanting(spec, m=one)) == {"m": None}
    before = known.stat_of(shared)
    assert converge(wanting(spec, m=one, n=two)) == {"m": None, "n": None}
    assert known.stat_of(shared) == before, "a second model of the file changed it"
    assert converge(wanting(spec, m={"repo": "a/b", "files": ["m.gguf", "o.gguf"]}, n=two)) == {"m": None, "n": None}
    assert known.stat_of(shared) == before, "another file of the model changed it"
    assert hub.served == ["m.gguf", "n.gguf", "o.gguf"]


def test_rights_are_mended_where_they_are_wrong_and_else_left_alone(spec: dict[str, Any], hub: FakeHub) -> None:
    assert converge(spec) == {"m": None}
    path = Path(spec["models"][0]["directory"], "m.gguf")
    places = [path, path.parent, path.parent.parent]
    before = [place.stat().st_ctime_ns for place in places]
    time.sleep(0.05)
    commands.settle(spec, path)
    assert [place.stat().st_ctime_ns for place in places] == before
    for place, wrong in ((path, 0o644), (path.parent, 0o700)):
        place.chmod(wrong)
        assert known.model_problem(spec, spec["models"][0]) is not None
        commands.settle(spec, path)
        assert known.rights_problem(spec, str(path)) is None


def test_a_file_of_another_owner_is_given_to_root(
    spec: dict[str, Any], hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert converge(spec) == {"m": None}
    path = Path(spec["models"][0]["directory"], "m.gguf")
    given: list[tuple[Path, int, int]] = []
    monkeypatch.setattr("os.chown", lambda *arguments: given.append(arguments))
    for owner in ((os.geteuid() + 1, os.getegid()), (os.geteuid(), os.getegid() + 1)):
        monkeypatch.setattr(known, "OWNER", owner)
        given.clear()
        commands.settle(spec, path)
        assert given == [(place, *owner) for place in (path, path.parent.parent, path.parent)]


@pytest.mark.parametrize(
    ("directory", "path", "parents"),
    [
        ("/srv/models", "/srv/models/a/b/d/m.gguf", ["/srv/models/a", "/srv/models/a/b", "/srv/models/a/b/d"]),
        ("/srv//./models", "/srv/models/a/m.gguf", ["/srv/models/a"]),
        ("/srv/models", "/srv/models/m.gguf", []),
        ("/srv/models", "/srv/models2/a/m.gguf", []),
        ("/.", "/a/b/m.gguf", ["/a", "/a/b"]),
    ],
)
def test_only_directories_below_that_of_the_models_are_ours(directory: str, path: str, parents: list[str]) -> None:
    assert known.parents_below({"directory": directory}, path) == parents


def test_the_arithmetic_counts_what_is_there(
    spec: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wanted, entry, path = placed(spec)
    path.unlink()
    huge = 1 << 60
    entry.update(size=huge, stat=None)
    commands.write_manifest(wanted, {"revision": COMMIT, "files": [entry]})
    part = commands.part_of(spec, entry)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"12345")
    problem = commands.space({**spec, "keep_free_bytes": 7})[0]
    assert f"{huge} - 5 there already = {huge - 5} to come: {path}" in capsys.readouterr().out
    assert f"{huge - 5} to come + 7 to stay free = {huge + 2} required" in problem
    assert problem.startswith(f"models/directory: {tmp_path}/models: ")


def test_partial_files_that_nothing_waits_for_go(spec: dict[str, Any]) -> None:
    wanted, entry, path = placed(spec)
    partial = commands.part_of(spec, entry)
    partial.parent.mkdir()
    partial.with_name(ONES).write_text("of a revision that is no longer wanted")
    partial.write_text("of a file that is in its place")
    path.unlink()
    commands.sweep(spec)
    assert [left.name for left in partial.parent.iterdir()] == [ZEROS], "the file is gone, so its part is wanted again"
    path.write_bytes(b"GGUF")
    entry["stat"] = known.stat_of(path)
    commands.write_manifest(wanted, {"revision": COMMIT, "files": [entry]})
    commands.sweep(spec)
    assert not partial.parent.exists()


def test_partial_files_of_a_model_that_is_no_longer_wanted_go(spec: dict[str, Any]) -> None:
    _, entry, path = placed(spec)
    path.unlink()
    both = wanting(spec, m={"repo": "a/b", "files": ["m.gguf"]}, n={"repo": "c/d"})
    other = commands.planned(both["models"][1], {"name": "n.gguf", "size": 4, "sha256": ONES})
    commands.write_manifest(both["models"][1], {"revision": COMMIT, "files": [other]})
    Path(known.manifest_path({"name": "damaged"})).write_text("{")
    part = commands.part_of(spec, entry)
    part.parent.mkdir()
    for name in (ZEROS, f"{ZEROS}.validator", ONES):
        part.with_name(name).touch()
    part.with_name(f"{ONES}.modelscope").mkdir()
    commands.sweep(both)
    assert len(list(part.parent.iterdir())) == 4, "both models are wanted"
    commands.sweep(spec)
    assert sorted(left.name for left in part.parent.iterdir()) == [ZEROS, f"{ZEROS}.validator"]


def test_partial_files_stay_while_it_is_unknown_what_a_wanted_model_needs(spec: dict[str, Any]) -> None:
    wanted, entry, path = placed(spec)
    path.unlink()
    part = commands.part_of(spec, entry)
    part.parent.mkdir()
    part.touch()
    commands.sweep(wanting(spec, m={"repo": "a/b"}))
    assert part.exists(), "other files of the model are asked for, and the listing of them failed"
    Path(known.manifest_path(wanted)).write_text("{")
    commands.sweep(spec)
    assert part.exists(), "the manifest is damaged"
    commands.sweep(wanting(spec, m={"path": str(path)}))
    assert not part.exists(), "a file of the user needs none"


def test_a_git_digest_is_that_of_git(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("hello\n")
    # git hash-object of "hello\n"
    entry = {"sha256": None, "git_sha1": "ce013625030ba8dba906f756967f9e9ca394464a"}
    assert commands.wrong_digest(entry, file) is None
    assert commands.wrong_digest({**entry, "git_sha1": "0" * 40}, file) == entry["git_sha1"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("m.gguf", b"GGUF....", None),
        ("m.gguf", b"<html>", "is no GGUF file: it begins with b'<htm'"),
        ("m-00001-of-00002.gguf", b"GGUF", "m-00002-of-00002.gguf is not beside it"),
        (None, b"", "does not exist on this host"),
    ],
)
def test_a_path_on_the_host_must_look_like_a_model(
    name: str | None, content: bytes, problem: str | None, tmp_path: Path
) -> None:
    path = tmp_path / (name or "none")
    if name:
        path.write_bytes(content)
    found = known.path_problem({"path": str(path)})
    assert (problem in (found or "")) if problem else found is None


def test_a_directory_must_hold_a_model(tmp_path: Path) -> None:
    assert "without config.json" in (known.path_problem({"path": str(tmp_path)}) or "")
    (tmp_path / "config.json").touch()
    assert known.path_problem({"path": str(tmp_path)}) is None


def test_a_download_is_given_up_only_when_nothing_comes_any_more(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    sizes = iter([0, 0, 5, 5, 5])
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise ConnectionResetError("reset")

    with pytest.raises(hubs.Refused, match=r"reset\. Gave up after 2 attempts in a row that brought nothing"):
        hubs.attempts({**spec, "retries": 1}, spec["models"][0], lambda: next(sizes), work, str)
    assert len(calls) == 4, "nothing, 5 bytes, nothing, nothing"

    full = OSError(28, "No space left on device")
    wrapped = RuntimeError("a client's own")
    wrapped.__cause__ = full
    assert hubs.disk_is_full(wrapped)


def test_a_command_ends_with_what_could_not_be_had(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(group: str, spec: dict[str, Any]) -> hubs.Hub:
        raise hubs.Refused("models/hub: x is damaged")

    monkeypatch.setattr(commands, "hub_of", damaged)
    file = tmp_path / "models.json"
    file.write_text(json.dumps(spec))
    assert commands.main([str(file), "plan", "huggingface"]) == 1
    assert capsys.readouterr().err == "models/hub: x is damaged\n"
    assert commands.main([str(file), "space"]) == 0


# What a model's files say of its memory


class Library(FakeHub):
    """A hub with real files, which counts what is read of their beginnings."""

    def __init__(self, folder: Path, *names: str) -> None:
        super().__init__(*names)
        self.folder = folder
        self.read: list[tuple[str, int]] = []

    def listing(self, model: dict[str, Any], revision: str) -> hubs.Listed:
        contents = {name: (self.folder / name).read_bytes() for name in self.names}
        return COMMIT, [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        ]

    def begin(self, model: dict[str, Any], revision: str, name: str, count: int) -> bytes:
        assert revision == COMMIT
        self.read.append((name, count))
        return (self.folder / name).read_bytes()[:count]

    def get(self, model: dict[str, Any], manifest: dict[str, Any], entry: dict[str, Any], part: Path) -> None:
        self.served.append(entry["name"])
        part.write_bytes((self.folder / entry["name"]).read_bytes())


@pytest.fixture
def library(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A hub with a model in transformers' layout."""
    found = Library(artefacts.tiny_safetensors(), "model.safetensors", "config.json")
    monkeypatch.setattr(commands, "hub_of", lambda group, spec: found)
    return found


def test_a_model_is_looked_into_before_any_of_its_weights_are_fetched_and_once(
    spec: dict[str, Any], library: Library
) -> None:
    library.folder, library.names = artefacts.tiny_gguf().parent, ("tiny-random-F32.gguf", "tiny-random-Q8_0.gguf")
    model = {"repo": "a/b", "files": ["tiny-random-F32.gguf"]}
    wanted = wanting(spec, ("m",), m=model)
    assert commands.plan(wanted, "huggingface") == []
    assert library.served == []
    assert library.read == [("tiny-random-F32.gguf", 4096)]
    size = artefacts.tiny_gguf().stat().st_size
    attention = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "value_dim": 16}
    assert known.check(wanted)["shapes"] == {"m": {"size_bytes": size, "attention": attention, "context_length": 2048}}
    assert converge(wanted) == {"m": None}
    assert library.read == [("tiny-random-F32.gguf", 4096)]


def test_what_transformers_loads_is_looked_into_by_its_config(spec: dict[str, Any], library: Library) -> None:
    wanted = wanting(spec, ("m",), m={"repo": "a/b"})
    assert commands.plan(wanted, "huggingface") == []
    shape = known.check(wanted)["shapes"]["m"]
    assert shape["size_bytes"] == (library.folder / "model.safetensors").stat().st_size
    assert (shape["attention"]["layers"], shape["attention"]["kv_heads"]) == (2, 1)
    assert [name for name, _ in library.read] == ["config.json"]


def test_a_model_that_is_there_is_looked_into_where_it_stands(spec: dict[str, Any], library: Library) -> None:
    model = {"repo": "a/b"}
    assert converge(wanting(spec, m=model)) == {"m": None}
    assert known.check(wanting(spec, m=model))["shapes"] == {}, "nobody wants to know"
    served = wanting(spec, ("m",), m=model)
    assert known.check(served)["models"] == {"m": "nobody has looked into it yet"}
    before = list(library.served)
    assert converge(served) == {"m": None}
    assert known.check(served)["shapes"]["m"]["attention"]["layers"] == 2
    assert (library.read, library.served) == ([], before), "neither asked for nor fetched again"


def test_a_model_that_says_nothing_is_fetched_all_the_same(
    spec: dict[str, Any], hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = wanting(spec, ("m", "n"), m={"repo": "a/b", "files": ["m.gguf"]}, n={"repo": "a/c", "files": ["n.gguf"]})
    monkeypatch.setattr(hub, "begin", lambda model, revision, name, count: name.encode())
    assert converge(wanted) == {"m": None, "n": None}
    assert known.check(wanted)["shapes"] == {}
    assert "models/wanted/m: whether it fits into memory is not known: it is no GGUF file" in capsys.readouterr().out


def test_a_model_that_cannot_be_looked_into_is_not_fetched(
    spec: dict[str, Any], hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> bytes:
        raise hubs.Short("m.gguf ended after 0 of its first 6 bytes")

    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(hub, "begin", cut)
    wanted = wanting(spec, ("m",), m={"repo": "a/b", "files": ["m.gguf"]})
    (problem,) = commands.plan(wanted, "huggingface")
    assert problem.startswith("models/wanted/m: m.gguf ended after 0 of its first 6 bytes. Gave up after 2 attempts")
    assert commands.fetch(wanted, "huggingface") == ["models/wanted/m: nothing is known of it; see above why."]
    assert hub.served == []


def test_the_parts_of_a_split_model_count_together(spec: dict[str, Any], library: Library, tmp_path: Path) -> None:
    whole = artefacts.tiny_gguf().read_bytes()
    library.folder, library.names = tmp_path, ("q-00001-of-00002.gguf", "q-00002-of-00002.gguf", "mmproj.gguf")
    for name in library.names:
        (tmp_path / name).write_bytes(whole)
    wanted = wanting(spec, ("m",), m={"repo": "a/b", "files": ["q-00001-of-00002.gguf", "mmproj.gguf"]})
    assert commands.plan(wanted, "huggingface") == []
    assert known.check(wanted)["shapes"]["m"]["size_bytes"] == 2 * len(whole)


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        ({"model-00001-of-00002.safetensors": 5, "model-00002-of-00002.safetensors": 3, "config.json": 1}, 8),
        # The same weights once more, in their maker's layout: mistralai's and openai's repositories.
        ({"model-00001-of-00001.safetensors": 8, "consolidated.safetensors": 8}, 8),
        ({"model.safetensors": 8, "original/model.safetensors": 8, "metal/model.bin": 8}, 8),
        ({"consolidated.safetensors": 8}, 8),
        ({"pytorch_model.bin": 8, "tokenizer.json": 2}, 8),
    ],
)
def test_weights_that_a_repository_has_twice_count_once(sizes: dict[str, int], total: int) -> None:
    assert commands.weights_in([{"name": name, "size": size} for name, size in sizes.items()]) == total


@pytest.mark.parametrize(
    ("model", "may_be"),
    [
        ({"repo": "Qwen/Qwen3-8B"}, True),
        ({"repo": "unsloth/Qwen3-8B-GGUF", "files": ["*Q4_K_M*"]}, False),
        ({"repo": "a/b", "files": ["*.gguf"]}, False),
        ({"url": "https://h/model.safetensors", "sha256": ZEROS}, False),
        ({"path": "/srv/m"}, True),
    ],
)
def test_what_can_be_no_directory_of_transformers_is_told_before_it_is_fetched(
    model: dict[str, Any], may_be: bool
) -> None:
    assert options(x=model).model("x").may_be_directory is may_be
