"""The models role without a host: options, catalogue, specification, and the program's decisions."""

from __future__ import annotations

import email.message
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import StringCommand

from roles.common.model import catalogue
from roles.common.options import OptionError
from roles.models import deploy
from roles.models.facts import Store, StoreState
from roles.models.files.store import (
    asking,
    commands,
    disk,
    environments,
    fetching,
    hubs,
    known,
    leaving,
    manifests,
    order,
    planning,
    progress,
    unwanted,
)
from roles.models.operations import unnoticed
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
        ({"x": {"repo": "a/b", "hub": "modelscop"}}, "models/wanted/x/hub/0: "),
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


def test_the_clients_are_pinned_with_hashes_and_only_the_needed_ones_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
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
    assert planning.steps(spec) == []
    assert capsys.readouterr().out.splitlines() == [
        "/opt/metal2model/huggingface_hub/2.4.0/bin/python huggingface 0",
        "/opt/metal2model/modelscope_hub/0.5.1/bin/python modelscope 0",
    ]


def test_the_program_runs_on_the_python_of_ubuntu_22_04() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-version", "3.10", "roles/models/files/store"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_state_is_read_in_one_command_and_a_bare_host_has_nothing_installed() -> None:
    fact = Store()
    command = fact.command("/opt/p", "/etc/s.json", {"/etc/s.json": ZEROS}, unless_new=None)
    assert isinstance(command, StringCommand)
    done = subprocess.run(["sh", "-c", command.get_raw_value()], capture_output=True, text=True, check=True)
    bare = fact.process(done.stdout.splitlines())
    assert bare == StoreState(installed=False, clients={}, models={})
    assert not bare.at_rest
    assert StoreState(installed=True, clients={"huggingface": None}, models={"a": None}).at_rest
    assert not StoreState(installed=True, clients={"huggingface": "is not installed"}, models={}).at_rest
    assert not StoreState(installed=True, clients={}, models={"a": "x is not there yet"}).at_rest


def test_a_host_that_never_had_models_and_wants_none_has_nothing_to_do(tmp_path: Path) -> None:
    command = Store().command("/opt/p", "/etc/s.json", {"/etc/s.json": ZEROS}, unless_new=str(tmp_path / "state"))
    for is_new in (True, False):
        done = subprocess.run(["sh", "-c", command.get_raw_value()], capture_output=True, text=True, check=True)
        assert Store().process(done.stdout.splitlines()).at_rest is is_new
        (tmp_path / "state").mkdir(exist_ok=True)


def test_the_check_says_what_is_not_as_wanted(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"<html>")
    spec = tmp_path / "spec.json"
    there, absent = {"path": str(tmp_path / "m.gguf")}, {"repo": "a/b"}
    spec.write_text(json.dumps(deploy.specification(options(there=there, absent=absent))))
    fact = Store()
    home = str(deploy.FILES)
    command = fact.command(home, str(spec), {str(spec): hashlib.sha256(spec.read_bytes()).hexdigest()}, unless_new=None)
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
    assert [item["name"] for item in planning.chosen(model(files=files), hub)] == names


def test_a_file_that_the_hub_has_not_is_refused_with_close_names() -> None:
    with pytest.raises(hubs.Refused, match=r"none is 'm-Q4_K_S.gguf' \(did you mean 'm-Q4_K_M.gguf'\?\)"):
        planning.chosen(model(files=["m-Q4_K_S.gguf"]), listed("m-Q4_K_M.gguf", "README.md"))


def test_a_split_of_which_a_part_is_missing_is_refused() -> None:
    with pytest.raises(hubs.Refused, match=r"lacks 'a-00002-of-00002.gguf'"):
        planning.chosen(model(files=["a-00001-of-00002.gguf"]), listed("a-00001-of-00002.gguf"))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_a_listing_that_leads_out_of_the_directory_is_refused(name: str) -> None:
    with pytest.raises(hubs.Refused, match="the listing is refused"):
        manifests.planned(model(), listed(name)[0])


def test_a_digest_that_the_catalogue_knows_otherwise_is_refused() -> None:
    spec = deploy.specification(options(qwen3_0_6b_q8={"repo": "a/b"}))
    entry = {**spec["models"][0], "digests": {"m.gguf": ONES}}
    with pytest.raises(hubs.Refused, match="Nothing was downloaded"):
        manifests.planned(entry, listed("m.gguf")[0])


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A specification whose paths are in a temporary directory."""
    monkeypatch.setattr(known, "STATE", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
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

    def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
        self.served.append(entry["name"])
        part.write_text(entry["name"])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A hub in the place of Hugging Face; models belong to whoever runs the tests."""
    found = FakeHub("m.gguf", "n.gguf", "o.gguf")
    monkeypatch.setattr(asking, "hub_of", lambda spec, place: found)
    monkeypatch.setattr(known, "OWNER", (os.geteuid(), os.getegid()))
    return found


def converge(spec: dict[str, Any]) -> dict[str, str | None]:
    """Plan and fetch, later than whatever was done before; return what is not as wanted."""
    time.sleep(0.05)  # the clock of ctime has ticks of some milliseconds
    assert planning.plan(spec, "huggingface", "0") == []
    assert fetched(spec) == []
    return {model["name"]: known.model_problem(spec, model) for model in spec["models"]}


def fetched(spec: dict[str, Any], hub: str = "huggingface") -> list[str]:
    """Choose the order of the places, and ask the first."""
    assert order.choose(spec) == []
    return fetching.fetch(spec, hub, "0")


def placed(spec: dict[str, Any], content: bytes = b"GGUF") -> tuple[dict[str, Any], dict[str, Any], Path]:
    """A model whose file stands in its place and is known."""
    wanted = spec["models"][0]
    path = Path(wanted["directory"], "m.gguf")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    entry = manifests.planned(wanted, {"name": "m.gguf", "size": len(content), "sha256": ZEROS})
    entry["stat"] = known.stat_of(path)
    manifests.write_manifest(wanted, {"hub": "huggingface", "repo": "a/b", "revision": COMMIT, "files": [entry]})
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
    here = hubs.at(wanted, wanted["places"][0])
    assert planning.revision_of({**here, "files": []}, before) == COMMIT
    assert planning.revision_of({**here, "revision": "v2"}, before) == "v2"
    assert planning.revision_of(here, None) == "main"


def test_a_verified_file_is_taken_over_and_an_older_one_kept_until_the_new_is_whole(spec: dict[str, Any]) -> None:
    wanted, entry, _ = placed(spec)
    before = known.read_manifest(wanted)
    same = manifests.planned(wanted, {"name": "m.gguf", "size": 4, "sha256": ZEROS})
    newer = manifests.planned(wanted, {"name": "m.gguf", "size": 9, "sha256": ONES})
    manifests.inherit([same], before)
    manifests.inherit([newer], before)
    assert (same["stat"], same["replaces"]) == (entry["stat"], None)
    assert (newer["stat"], newer["replaces"]) == (None, entry["stat"])


def test_a_file_that_the_user_put_there_may_come_from_a_hub_later(spec: dict[str, Any], hub: FakeHub) -> None:
    path = Path(spec["models"][0]["directory"], "m.gguf")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF of the user")
    own = {"path": str(path), "sha256": hashlib.sha256(b"GGUF of the user").hexdigest()}
    assert fetched(wanting(spec, m=own), "plain") == []
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
    fetching.settle(spec, path)
    assert [place.stat().st_ctime_ns for place in places] == before
    for place, wrong in ((path, 0o644), (path.parent, 0o700)):
        place.chmod(wrong)
        assert known.model_problem(spec, spec["models"][0]) is not None
        fetching.settle(spec, path)
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
        fetching.settle(spec, path)
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
    manifests.write_manifest(wanted, {"hub": "huggingface", "repo": "a/b", "revision": COMMIT, "files": [entry]})
    part = disk.part_of(spec, entry)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"12345")
    problem = disk.space({**spec, "keep_free_bytes": 7})[0]
    assert f"{huge} - 5 there already = {huge - 5} to come: {path}" in capsys.readouterr().out
    assert f"{huge - 5} to come + 7 to stay free = {huge + 2} required" in problem
    assert problem.startswith(f"models/directory: {tmp_path}/models: ")


def test_what_was_begun_in_another_directory_is_told_until_it_is_gone(
    spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = Path(spec["directory"], ".partial"), tmp_path / "larger"
    moved = {**spec, "directory": str(new)}
    assert disk.space(spec) == []
    (old / ("a" * 64)).parent.mkdir(parents=True)
    (old / ("a" * 64)).write_text("begun")
    assert capsys.readouterr().out == ""
    for _ in range(2):
        assert disk.space(moved) == []
        assert f"models/directory: {old} has downloads that were begun when" in capsys.readouterr().out
    new.mkdir()
    old.rename(new / ".partial")
    for directory in (moved, moved):
        assert disk.space(directory) == []
        assert capsys.readouterr().out == ""
    link = tmp_path / "link"
    link.symlink_to(new)
    assert disk.space({**spec, "directory": str(link)}) == []
    assert capsys.readouterr().out == "", "it is the same directory under another name"


def test_partial_files_go_when_no_model_is_wanted_any_more(spec: dict[str, Any]) -> None:
    partial = Path(spec["directory"], ".partial")
    partial.mkdir(parents=True)
    (partial / ("a" * 64)).write_text("begun")
    assert disk.space(spec) == []
    assert partial.exists()
    (partial / "notes.txt").write_text("of somebody else")
    assert disk.space(wanting(spec)) == []
    assert [path.name for path in partial.iterdir()] == ["notes.txt"]


def test_partial_files_go_also_when_their_directory_is_declared_no_more(spec: dict[str, Any], tmp_path: Path) -> None:
    assert disk.space(spec) == []
    partial = Path(spec["directory"], ".partial")
    partial.mkdir(parents=True)
    (partial / ("a" * 64)).write_text("begun")
    assert disk.space({**wanting(spec), "directory": str(tmp_path / "default")}) == []
    assert not partial.exists()


def test_partial_files_that_nothing_waits_for_go(spec: dict[str, Any]) -> None:
    wanted, entry, path = placed(spec)
    partial = disk.part_of(spec, entry)
    partial.parent.mkdir()
    partial.with_name(ONES).write_text("of a revision that is no longer wanted")
    partial.write_text("of a file that is in its place")
    path.unlink()
    disk.sweep(spec)
    assert [left.name for left in partial.parent.iterdir()] == [ZEROS], "the file is gone, so its part is wanted again"
    path.write_bytes(b"GGUF")
    entry["stat"] = known.stat_of(path)
    manifests.write_manifest(wanted, {"hub": "huggingface", "repo": "a/b", "revision": COMMIT, "files": [entry]})
    disk.sweep(spec)
    assert not partial.parent.exists()


def test_partial_files_of_a_model_that_is_no_longer_wanted_go(spec: dict[str, Any]) -> None:
    _, entry, path = placed(spec)
    path.unlink()
    both = wanting(spec, m={"repo": "a/b", "files": ["m.gguf"]}, n={"repo": "c/d"})
    other = manifests.planned(both["models"][1], {"name": "n.gguf", "size": 4, "sha256": ONES})
    manifests.write_manifest(
        both["models"][1], {"hub": "huggingface", "repo": "a/b", "revision": COMMIT, "files": [other]}
    )
    Path(known.manifest_path({"name": "damaged"})).write_text("{")
    part = disk.part_of(spec, entry)
    part.parent.mkdir()
    for name in (ZEROS, f"{ZEROS}.validator", ONES):
        part.with_name(name).touch()
    part.with_name(f"{ONES}.modelscope").mkdir()
    disk.sweep(both)
    assert len(list(part.parent.iterdir())) == 4, "both models are wanted"
    disk.sweep(spec)
    assert sorted(left.name for left in part.parent.iterdir()) == [ZEROS, f"{ZEROS}.validator"]


def test_partial_files_stay_while_it_is_unknown_what_a_wanted_model_needs(spec: dict[str, Any]) -> None:
    wanted, entry, path = placed(spec)
    path.unlink()
    part = disk.part_of(spec, entry)
    part.parent.mkdir()
    part.touch()
    disk.sweep(wanting(spec, m={"repo": "a/b"}))
    assert part.exists(), "other files of the model are asked for, and the listing of them failed"
    Path(known.manifest_path(wanted)).write_text("{")
    disk.sweep(spec)
    assert part.exists(), "the manifest is damaged"
    disk.sweep(wanting(spec, m={"path": str(path)}))
    assert not part.exists(), "a file of the user needs none"


def test_a_git_digest_is_that_of_git(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("hello\n")
    # git hash-object of "hello\n"
    entry = {"sha256": None, "git_sha1": "ce013625030ba8dba906f756967f9e9ca394464a"}
    assert fetching.wrong_digest(entry, file) is None
    assert fetching.wrong_digest({**entry, "git_sha1": "0" * 40}, file) == entry["git_sha1"]


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
    def damaged(spec: dict[str, Any], place: dict[str, Any]) -> hubs.Hub:
        raise hubs.Refused("models/hub: x is damaged")

    monkeypatch.setattr(asking, "hub_of", damaged)
    file = tmp_path / "models.json"
    file.write_text(json.dumps(spec))
    assert commands.main([str(file), "plan", "huggingface", "0"]) == 1
    assert capsys.readouterr().err == "models/wanted/m: models/hub: x is damaged.\n"
    assert commands.main([str(file), "space"]) == 0


# Several places


class Places:
    """Hubs by their endpoints, in the place of the real ones; what each was asked for is kept."""

    def __init__(self) -> None:
        self.hubs: dict[str, FakeHub] = {}

    def __call__(self, spec: dict[str, Any], place: dict[str, Any]) -> FakeHub:
        return self.hubs[place["endpoint"]]


class DeadHub(FakeHub):
    """A hub that lists, and gives nothing; or not even that."""

    def __init__(self, *names: str, lists: bool = True, brings: int = 0) -> None:
        super().__init__(*names)
        self.lists, self.brings = lists, brings

    def listing(self, model: dict[str, Any], revision: str) -> hubs.Listed:
        if not self.lists:
            raise hubs.Refused("it is dead")
        return super().listing(model, revision)

    def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
        self.watched(entry, part).write_text(entry["name"][: self.brings])
        raise hubs.Refused("it broke off")


class ContinuingHub(FakeHub):
    """A hub that says from where it went on."""

    begun_at = -1

    def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
        self.begun_at = disk.size_of(part)
        with part.open("a") as file:
            file.write(entry["name"][self.begun_at :])


class ScopeHub(DeadHub):
    """A hub whose client keeps partial files in a directory of its own."""

    def watched(self, entry: dict[str, Any], part: Path) -> Path:
        folder = part.with_name(part.name + ".modelscope")
        folder.mkdir(exist_ok=True)
        return folder / f"{entry['name']}.incomplete"


HF, MS, MIRROR = "https://huggingface.co", "https://modelscope.cn", "https://hf-mirror.com"


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    found = Places()
    monkeypatch.setattr(asking, "hub_of", found)
    monkeypatch.setattr(known, "OWNER", (os.geteuid(), os.getegid()))
    return found


def in_order(spec: dict[str, Any], **given: Any) -> dict[str, Any]:
    data = {"directory": spec["directory"], "keep_free_mib": 0, "retries": 0, **given}
    return deploy.specification(ModelsOptions.load(data, where="h"))


def run(spec: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the shell does: every step of planning, then of fetching, by the Python that it would take."""
    problems: list[str] = []
    for before, command in ((planning.steps, planning.plan), (order.choose, fetching.fetch)):
        capsys.readouterr()
        assert before(spec) == []
        problems = []
        for line in capsys.readouterr().out.splitlines():
            _, hub, rank = line.split()
            problems += command(spec, hub, rank)
    return problems


@pytest.mark.parametrize("first", [DeadHub, ScopeHub])
def test_a_file_goes_on_from_another_hub_where_the_first_broke_off(
    first: type[DeadHub], spec: dict[str, Any], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    other = ContinuingHub("m.gguf", "n.gguf")
    places.hubs = {MS: first("m.gguf", brings=4), HF: other}
    wanted = in_order(spec, hub=["modelscope", "huggingface"], wanted={"m": {"repo": "a/b", "files": ["m.gguf"]}})
    assert run(wanted, capsys) == []
    assert known.model_problem(wanted, wanted["models"][0]) is None
    assert other.begun_at == 4
    assert not Path(wanted["directory"], ".partial").exists()


def test_an_endpoint_that_does_not_list_is_followed_by_the_next(
    spec: dict[str, Any], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    good = FakeHub("m.gguf")
    places.hubs = {MIRROR: DeadHub(lists=False), HF: good}
    wanted = in_order(spec, huggingface_endpoint=[MIRROR, HF], wanted={"m": {"repo": "a/b", "files": ["m.gguf"]}})
    assert run(wanted, capsys) == []
    assert good.served == ["m.gguf"]


def test_a_repository_of_the_same_name_elsewhere_only_gives_what_has_the_right_digest(
    spec: dict[str, Any], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = in_order(spec, hub=["modelscope", "huggingface"], wanted={"m": {"repo": "a/b"}})
    places.hubs = {MS: DeadHub(lists=False), HF: FakeHub("m.gguf")}
    (problem,) = run(wanted, capsys)
    assert "not enough is known of it; see above why" in problem

    class Other(FakeHub):
        def listing(self, model: dict[str, Any], revision: str) -> hubs.Listed:
            return COMMIT, [{"name": "m.gguf", "size": 6, "sha256": ONES}]

    other = Other("m.gguf")
    places.hubs = {MS: DeadHub("m.gguf"), HF: other}
    (problem,) = run(wanted, capsys)
    assert "has no m.gguf with the same content in a/b" in problem
    assert other.served == []


def test_what_the_other_hub_lists_of_a_catalogued_model_counts_where_something_pins_it(spec: dict[str, Any]) -> None:
    def lists(name: str, *hub: str) -> list[bool]:
        (model,) = in_order(spec, hub=list(hub), wanted={name: {}})["models"]
        return [place["lists"] for place in model["places"]]

    pinned = next(name for name, one in catalogue().items() if one.huggingface and one.modelscope and one.sha256)
    assert lists(pinned, "huggingface", "modelscope") == [True, True]
    loose = next(
        name
        for name, one in catalogue().items()
        if one.huggingface and one.modelscope and not one.sha256 and not one.modelscope.revision
    )
    assert lists(loose, "huggingface", "modelscope") == [True, False], "its main branch may be anything by then"


def test_a_spare_hubs_client_is_only_installed_when_it_is_asked(
    spec: dict[str, Any], places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[str] = []

    def fails(words: list[str], **_: object) -> Failed:
        installed.append(words[-1])
        return Failed()

    monkeypatch.setattr("subprocess.run", fails)
    wanted = in_order(spec, hub=["modelscope", "huggingface"], wanted={"m": {"repo": "a/b"}})
    assert known.check(wanted)["clients"].keys() == {"modelscope"}
    assert environments.environment(wanted, "huggingface", "1", "plan") == []
    assert installed == [], "what it lists does not count"
    (model,) = wanted["models"]
    entry = manifests.planned(model, {"name": "m.gguf", "size": 6, "sha256": ZEROS})
    manifests.write_manifest(model, {"hub": "modelscope", "repo": "a/b", "revision": "master", "files": [entry]})
    order.choose(wanted)
    assert "could not be installed" in environments.environment(wanted, "huggingface", "1", "fetch")[1]
    assert installed != []


def test_a_spare_hubs_client_that_cannot_be_had_is_no_problem_while_another_hub_is_left(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: Failed())
    wanted = in_order(spec, hub=["modelscope", "huggingface"], wanted={"m": {"repo": "a/b"}})
    (model,) = wanted["models"]
    entry = manifests.planned(model, {"name": "m.gguf", "size": 6, "sha256": ZEROS})
    manifests.write_manifest(model, {"hub": "modelscope", "repo": "a/b", "revision": "master", "files": [entry]})
    order.choose(wanted)
    order.ask_again(model, model["places"][0])
    assert environments.environment(wanted, "huggingface", "1", "fetch") == []
    assert "could not be installed" in (said := capsys.readouterr().err)
    assert f"Meanwhile, {MS} is asked." in said


class Failed:
    """A program that ended with an error."""

    returncode, stdout = 1, b"no index"


def test_files_that_differ_between_hubs_do_not_keep_the_others_from_coming(
    spec: dict[str, Any], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoWeights(FakeHub):
        def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
            if entry["name"].endswith(".gguf"):
                raise hubs.Refused("it sends no weights")
            super().get(model, revision, entry, part)

    class OtherReadme(FakeHub):
        def listing(self, model: dict[str, Any], revision: str) -> hubs.Listed:
            commit, files = super().listing(model, revision)
            return commit, [{**one, "size": 99} if one["name"] == "README.md" else one for one in files]

    first, second = NoWeights("README.md", "m.gguf"), OtherReadme("README.md", "m.gguf")
    places.hubs = {HF: first, MS: second}
    wanted = in_order(spec, hub=["huggingface", "modelscope"], wanted={"m": {"repo": "a/b"}})
    assert run(wanted, capsys) == []
    assert (first.served, second.served) == (["README.md"], ["m.gguf"])


def test_a_file_is_read_for_its_shape_from_the_next_hub_too(
    spec: dict[str, Any], places: Places, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoBytes(FakeHub):
        def begin(self, model: dict[str, Any], revision: str, name: str, count: int) -> bytes:
            raise hubs.Refused("it sends nothing")

        def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
            raise hubs.Refused("it sends nothing")

    library = Library(artefacts.tiny_gguf().parent, "tiny-random-F32.gguf")
    first = NoBytes()
    monkeypatch.setattr(first, "listing", library.listing)
    places.hubs = {HF: first, MS: library}
    data = {"directory": spec["directory"], "keep_free_mib": 0, "retries": 0, "hub": ["huggingface", "modelscope"],
            "wanted": {"m": {"repo": "a/b", "files": ["tiny-random-F32.gguf"]}}}  # fmt: skip
    wanted = deploy.specification(ModelsOptions.load(data, where="h"), ["m"])
    assert run(wanted, capsys) == []
    assert known.check(wanted)["shapes"]["m"]["attention"]["layers"] == 2


def test_a_hub_that_answers_nobody_is_asked_for_one_model_only(
    spec: dict[str, Any], places: Places, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    class Silent(FakeHub):
        def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
            asked.append(entry["name"])
            raise hubs.GaveUp("it is silent")

    good = FakeHub("m.gguf", "n.gguf")
    places.hubs = {HF: Silent("m.gguf", "n.gguf"), MS: good}
    both = {name: {"repo": "a/b", "files": [f"{name}.gguf"]} for name in ("m", "n")}
    assert run(in_order(spec, hub=["huggingface", "modelscope"], wanted=both), capsys) == []
    assert (asked, good.served) == (["m.gguf"], ["m.gguf", "n.gguf"])


def test_a_verified_file_stays_until_the_new_one_of_the_same_size_is_whole(
    spec: dict[str, Any], hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert converge(spec) == {"m": None}
    path = Path(spec["models"][0]["directory"], "m.gguf")

    def newer(model: dict[str, Any], revision: str) -> hubs.Listed:
        return ONES[:40], [{"name": "m.gguf", "size": 6, "sha256": hashlib.sha256(b"M.GGUF").hexdigest()}]

    def breaks(*_: object) -> None:
        raise hubs.Refused("it broke off")

    monkeypatch.setattr(hub, "listing", newer)
    monkeypatch.setattr(hub, "get", breaks)
    new = wanting(spec, m={"repo": "a/b", "files": ["m.gguf"], "revision": "v2"})
    assert planning.plan(new, "huggingface", "0") == []
    assert fetched(new) == ["models/wanted/m: it broke off."]
    assert path.read_text() == "m.gguf"


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        ({MS: (1 << 30, ""), HF: (1 << 30, "")}, [MS, HF, MIRROR]),
        ({MS: (1 << 10, ""), HF: (1 << 30, "")}, [HF, MIRROR, MS]),
        ({MS: (None, "silent"), HF: (1 << 10, ""), MIRROR: (1 << 30, "")}, [MIRROR, HF, MS]),
        ({MS: (1 << 10, ""), HF: (None, "x"), MIRROR: (2 << 10, "")}, [MS, MIRROR, HF]),
    ],
)
def test_places_that_are_silent_or_slow_are_asked_last(
    found: dict[str, tuple[int | None, str]], asked: list[str], spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "look_at", lambda place, url, dead: found[place["endpoint"]])
    wanted = in_order(
        spec, hub=["modelscope", "huggingface"], huggingface_endpoint=[HF, MIRROR], wanted={"m": {"repo": "a/b"}}
    )
    (model,) = wanted["models"]
    entry = manifests.planned(model, {"name": "m.gguf", "size": 1 << 30, "sha256": ZEROS})
    manifests.write_manifest(model, {"hub": "modelscope", "repo": "a/b", "revision": "master", "files": [entry]})
    assert [place["endpoint"] for place in order.preferred(wanted, model, {})] == asked
    entry["size"] = 1 << 20
    manifests.write_manifest(model, {"hub": "modelscope", "repo": "a/b", "revision": "master", "files": [entry]})
    assert [place["endpoint"] for place in order.preferred(wanted, model, {})] == [MS, HF, MIRROR], "not worth a look"


LONG = f"{'m' * 200}.gguf"
"""Its content is as long as its name."""


class SlowHub(ContinuingHub):
    """A hub that sends a byte now and then, and whose client takes any error for one that it can mend."""

    def __init__(self, *names: str, ends: bool = False) -> None:
        super().__init__(*names)
        self.ends = ends
        self.letters: list[str] = []

    def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
        for letter in entry["name"][disk.size_of(part) :]:
            try:
                with part.open("a") as file:
                    file.write(letter)
                self.letters.append(letter)
                time.sleep(0.005 if self.ends else 0.02)
            except Exception:
                continue


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[int]]]:
    """How fast the other places are, endpoint -> bytes a second each time that they are looked at; which is soon."""
    found: dict[str, list[int]] = {}
    monkeypatch.setattr(leaving, "WINDOW_SECONDS", 0.05)
    monkeypatch.setattr(leaving, "look_at", lambda place, url, dead: (found[place["endpoint"]].pop(0), ""))
    yield found
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def several(spec: dict[str, Any], *hubs: str, **more: Any) -> dict[str, Any]:
    return in_order(spec, hub=list(hubs), wanted={"m": {"repo": "a/b", "files": [LONG]}}, **more)


def test_a_hub_that_becomes_slow_is_left_for_one_that_is_faster_then(
    spec: dict[str, Any], places: Places, rates: dict[str, list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    slow, other = SlowHub(LONG), ContinuingHub(LONG)
    places.hubs = {MS: slow, HF: other}
    rates[HF] = [0, 1 << 10, 1 << 30]
    assert run(several(spec, "modelscope", "huggingface"), capfd) == []
    assert rates[HF] == [], "left while the other was no faster"
    assert 0 < other.begun_at == len(slow.letters) < len(LONG)


def test_a_hub_that_was_left_is_asked_again_where_the_other_has_not_the_file(
    spec: dict[str, Any], places: Places, rates: dict[str, list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    slow = SlowHub(LONG, ends=True)
    places.hubs = {MS: slow, HF: DeadHub("n.gguf")}
    rates[HF] = [1 << 30]
    wanted = several(spec, "modelscope", "huggingface")
    assert run(wanted, capfd) == []
    assert known.model_problem(wanted, wanted["models"][0]) is None
    assert rates[HF] == [], "it was left once"
    assert "".join(slow.letters) == LONG, "bytes came twice"


def test_one_of_three_that_was_left_is_asked_again_where_the_first_is_dead_and_the_last_breaks_off(
    spec: dict[str, Any], places: Places, rates: dict[str, list[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    slow = SlowHub(LONG, ends=True)
    places.hubs = {MS: DeadHub(LONG), HF: slow, MIRROR: DeadHub(LONG, lists=False)}
    rates[MIRROR] = [1 << 30]
    wanted = several(spec, "modelscope", "huggingface", huggingface_endpoint=[HF, MIRROR])
    assert run(wanted, capfd) == []
    assert known.model_problem(wanted, wanted["models"][0]) is None
    assert (rates[MIRROR], "".join(slow.letters)) == ([], LONG)


def test_what_nobody_brought_and_nobody_complained_of_is_no_success() -> None:
    (problem,) = unnoticed({"m": "nothing is known of it yet", "n": None})
    assert problem.startswith(
        "models/wanted/m: nothing is known of it yet, though no step of this run failed. Required"
    )


@pytest.mark.parametrize("hubs", [["huggingface"], ["huggingface", "modelscope"]], ids=["alone", "any speed will do"])
def test_a_hub_is_not_left_without_a_reason(
    hubs: list[str],
    spec: dict[str, Any],
    places: Places,
    rates: dict[str, list[int]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    places.hubs = {HF: SlowHub(LONG, ends=True), MS: DeadHub()}
    rates[MS] = [1 << 30]
    assert run(several(spec, *hubs, slow_kib_per_second=256 if len(hubs) == 1 else 0), capfd) == []
    assert rates[MS] == [1 << 30], "the other was looked at"


def test_a_server_that_wants_to_be_left_alone_is(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    headers = email.message.Message()
    headers["Retry-After"] = "45"
    of_urllib = urllib.error.HTTPError("https://h/", 429, "Too Many Requests", headers, None)
    answers: Iterator[Exception | None]

    def work() -> str:
        if error := next(answers):
            raise ConnectionError("the client's own") from error
        return "done"

    for error in (of_urllib, OfModelScope(45.0), OfHuggingFace(headers)):
        answers = iter([error, None])
        assert hubs.attempts(spec, spec["models"][0], lambda: 0, work, str) == "done"
    assert slept == [45, 45, 45]
    answers = iter([OfModelScope(3600)])
    with pytest.raises(hubs.GaveUp, match="It wants to be left alone for 3600 s"):
        hubs.attempts(spec, spec["models"][0], lambda: 0, work, str)
    assert slept == [45, 45, 45]


class OfModelScope(Exception):
    """modelscope_hub.errors.RateLimitError has the number alone."""

    def __init__(self, seconds: float) -> None:
        super().__init__("429")
        self.retry_after = seconds


class OfHuggingFace(Exception):
    """The client's error has the response, which may be false."""

    def __init__(self, headers: email.message.Message) -> None:
        super().__init__("429")
        self.response = Answer(headers)


class Answer:
    """A response of an HTTP library, false as an error's may be."""

    def __init__(self, headers: email.message.Message) -> None:
        self.headers = headers

    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (75, "1 min 15 s"), (3600 * 5 + 61, "5 h 1 min")])
def test_the_time_that_is_left_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


# Models that nobody wants any more


def test_what_is_not_wanted_any_more_is_known_and_files_of_others_are_not(spec: dict[str, Any], hub: FakeHub) -> None:
    both: dict[str, Any] = {
        "m": {"repo": "a/b", "files": ["m.gguf", "n.gguf"]},
        "n": {"repo": "a/b", "files": ["n.gguf"]},
    }
    assert converge(wanting(spec, **both)) == {"m": None, "n": None}
    top = Path(spec["directory"], "a/b")
    (top / "own.gguf").write_text("of the user")
    assert known.unwanted(wanting(spec, **both)) == {}
    only = wanting(spec, n=both["n"])
    assert known.unwanted(only) == {"m": [f"{top}/m.gguf"]}, "n.gguf is shared with a model that is wanted"
    # The user goes on with the file by its path.
    by_path = wanting(spec, n=both["n"], x={"path": f"{top}/m.gguf"})
    assert known.unwanted(by_path) == {}
    (top / "m.gguf").chmod(0o644)
    (top / "m.gguf").write_text("changed by somebody")
    assert known.unwanted(only) == {}, "it is not what this role put there"


def test_a_file_that_a_model_has_no_more_is_unwanted(spec: dict[str, Any], hub: FakeHub) -> None:
    assert converge(wanting(spec, m={"repo": "a/b", "files": ["m.gguf", "n.gguf"]})) == {"m": None}
    less = wanting(spec, m={"repo": "a/b", "files": ["n.gguf"]})
    assert converge(less) == {"m": None}
    path = f"{spec['directory']}/a/b/m.gguf"
    assert known.unwanted(less) == {"m": [path]}
    unwanted.remove("m", [path])
    assert known.unwanted(less) == {}
    assert known.model_problem(less, less["models"][0]) is None


def removed(spec: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run the program as the role does; return what it says."""
    file = Path(known.STATE, "spec")
    file.write_text(json.dumps(spec))
    capsys.readouterr()
    unwanted.main([str(file), "[]", "remove"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_two_names_of_one_file_go_together_and_are_forgotten(
    spec: dict[str, Any], hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "new"):
        one: dict[str, Any] = {name: {"repo": "a/b", "files": ["m.gguf"]}}
        assert converge(wanting(spec, **one)) == {name: None}
    nothing = wanting(spec)
    found = removed(nothing, capsys)
    assert sum(one["bytes"] for one in found.values()) == 6
    assert list(known.all_manifests()) == []
    assert removed(nothing, capsys) == {}


def test_what_the_user_goes_on_with_by_its_path_stays(spec: dict[str, Any], hub: FakeHub, tmp_path: Path) -> None:
    names = [f"q-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.names = tuple(names)
    assert converge(wanting(spec, q={"repo": "a/b", "files": [names[0]]})) == {"q": None}
    top = Path(spec["directory"], "a/b")
    link = tmp_path / "mine"
    link.symlink_to(top)
    for path in (top / names[0], link / names[0], link, tmp_path / "mine" / names[1]):
        assert known.unwanted(wanting(spec, x={"path": str(path)})) == {}, path
    assert known.unwanted(wanting(spec, q={"path": "/srv/other.gguf"})) == {"q": [str(top / name) for name in names]}


def test_a_directory_that_the_models_had_before_is_left_clean(
    spec: dict[str, Any], hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert converge(spec) == {"m": None}
    moved = in_order({"directory": str(tmp_path / "new")}, wanted={"m": {"repo": "a/b", "files": ["m.gguf"]}})
    assert converge(moved) == {"m": None}
    removed(moved, capsys)
    assert list(Path(spec["directory"]).iterdir()) == []
    assert known.model_problem(moved, moved["models"][0]) is None


def test_what_goes_takes_its_empty_directories_along(spec: dict[str, Any], hub: FakeHub) -> None:
    assert converge(wanting(spec, m={"repo": "a/b", "files": ["m.gguf"]})) == {"m": None}
    nothing = wanting(spec)
    for name, paths in known.unwanted(nothing).items():
        unwanted.remove(name, paths)
    assert list(Path(spec["directory"]).iterdir()) == []
    assert known.unwanted(nothing) == {}


HOLD = {
    "open": "f = open(sys.argv[1], 'rb')",
    "mapped": "f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); f.close()",
    "named": "pass",
}


@pytest.mark.parametrize("how", HOLD)
def test_who_uses_a_file_is_found(how: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" * 4096)
    assert unwanted.users([str(path)], [str(tmp_path / "none")]) == []
    link = tmp_path / "link"
    if how != "named":
        link.symlink_to(path)  # so that the command line does not tell
    program = f"import mmap, sys; {HOLD[how]}; print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, "link" if how != "named" else f"--model={path}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path) as holder:
        assert holder.stdout
        holder.stdout.readline()
        (user,) = unwanted.users([str(path)], [])
        holder.communicate()
    assert user.endswith(f" ({holder.pid})")
    assert unwanted.users([str(path)], []) == []


def test_a_link_in_ollamas_store_counts(tmp_path: Path) -> None:
    path, blob = tmp_path / "m.gguf", tmp_path / "blobs" / "sha256-0"
    path.touch()
    blob.parent.mkdir()
    blob.symlink_to(path)
    assert unwanted.users([str(path)], [str(blob.parent)]) == [str(blob)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"llama-server\0--model\0/m/a\0", True),
        (b"docker\0run\0--mount=type=bind,source=/m/a,target=/m\0", True),
        (b"docker\0run\0-v\0/m/a:/m\0", True),
        (b"transformers\0serve\0/m/a/\0", True),
        (b"llama-server\0--model\0/m/a/x.gguf\0", False),
        (b"llama-server\0--model\0/m/ab\0", False),
        (b"", False),
    ],
)
def test_a_path_on_a_command_line_is_one_that_ends_there(line: bytes, found: bool) -> None:
    assert unwanted.names(line, b"/m/a") is found


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

    def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
        self.served.append(entry["name"])
        part.write_bytes((self.folder / entry["name"]).read_bytes())


@pytest.fixture
def library(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A hub with a model in transformers' layout."""
    found = Library(artefacts.tiny_safetensors(), "model.safetensors", "config.json")
    monkeypatch.setattr(asking, "hub_of", lambda spec, place: found)
    return found


def test_a_model_is_looked_into_before_any_of_its_weights_are_fetched_and_once(
    spec: dict[str, Any], library: Library
) -> None:
    library.folder, library.names = artefacts.tiny_gguf().parent, ("tiny-random-F32.gguf", "tiny-random-Q8_0.gguf")
    model = {"repo": "a/b", "files": ["tiny-random-F32.gguf"]}
    wanted = wanting(spec, ("m",), m=model)
    assert planning.plan(wanted, "huggingface", "0") == []
    assert library.served == []
    assert library.read == [("tiny-random-F32.gguf", 4096)]
    size = artefacts.tiny_gguf().stat().st_size
    attention = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "value_dim": 16}
    assert known.check(wanted)["shapes"] == {"m": {"size_bytes": size, "attention": attention, "context_length": 2048}}
    assert converge(wanted) == {"m": None}
    assert library.read == [("tiny-random-F32.gguf", 4096)]


def test_what_transformers_loads_is_looked_into_by_its_config(spec: dict[str, Any], library: Library) -> None:
    wanted = wanting(spec, ("m",), m={"repo": "a/b"})
    assert planning.plan(wanted, "huggingface", "0") == []
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
    (problem,) = planning.plan(wanted, "huggingface", "0")
    assert problem.startswith("models/wanted/m: m.gguf ended after 0 of its first 6 bytes. Gave up after 2 attempts")
    assert fetched(wanted) == ["models/wanted/m: not enough is known of it; see above why."]
    assert hub.served == []


def test_the_parts_of_a_split_model_count_together(spec: dict[str, Any], library: Library, tmp_path: Path) -> None:
    whole = artefacts.tiny_gguf().read_bytes()
    library.folder, library.names = tmp_path, ("q-00001-of-00002.gguf", "q-00002-of-00002.gguf", "mmproj.gguf")
    for name in library.names:
        (tmp_path / name).write_bytes(whole)
    wanted = wanting(spec, ("m",), m={"repo": "a/b", "files": ["q-00001-of-00002.gguf", "mmproj.gguf"]})
    assert planning.plan(wanted, "huggingface", "0") == []
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
    assert planning.weights_in([{"name": name, "size": size} for name, size in sizes.items()]) == total


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
