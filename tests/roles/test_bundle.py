"""Bundles: what of a host goes in, where it lies there, and that nothing goes around it."""

from __future__ import annotations

import json
import subprocess
import urllib.error
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.bundle.deploy import refused, specification
from roles.bundle.files import bundle
from roles.bundle.files.bundle import Bundle, Item, Problem
from roles.bundle.options import BundleOptions
from roles.common.bundle import PREFIX, moved
from roles.common.images import PULL
from roles.common.mirror import mirror_named
from roles.common.operations import FETCH
from roles.common.options import OptionError, Options
from roles.common.sources import Source
from roles.declaration import FETCHED, Declaration
from roles.llama_cpp.deploy import archives
from roles.mirrors.doctor import originals_of
from roles.mirrors.facts import EXPIRY, PIP, HostSources
from roles.mirrors.operations import (
    Change,
    advice,
    apt_problems,
    apt_rests,
    option_of,
    plan_apt,
    pypi_problems,
    recorded,
    restore_apt,
    switch_script,
)
from roles.mirrors.options import MirrorsOptions
from roles.mirrors.sources import Release, entries, mirror_uri
from roles.models.deploy import specification as models_specification
from roles.models.files.store import hubs
from roles.sources import images_of

BASE = "http://server.lan/bundle"
SHA256 = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
"""Of "foo" and a newline."""
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["Cs", "Cc"]), min_size=1
).filter(lambda name: name not in (".", ".."))


def load(**given: Any) -> Declaration:
    return Declaration.load({"tags": ["cpu"], **given}, where="h")


def problem(**given: Any) -> str:
    with pytest.raises(OptionError) as error:
        load(**given)
    return str(error.value)


# --- Places ----------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[a-z]{1,8}\.example(:[0-9]{2,4})?", fullmatch=True), st.lists(NAMES, min_size=1, max_size=4))
def test_who_reads_a_bundle_looks_where_who_made_it_put_it(host: str, names: list[str]) -> None:
    url = f"https://{host}/{'/'.join(map(quote, names))}"
    for base in (BASE, "file:///mnt/bundle"):
        asked = moved(url, base)
        assert asked.startswith(f"{base}/")
        assert unquote(urlsplit(asked).path) == f"{urlsplit(base).path}/{Item(url).place}"


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/a/../../b", "https://h.example/%2e%2e/b", "/etc/passwd", "file:///x", "debian/../../x", "",
        "%2fetc/passwd",
    ],
)  # fmt: skip
def test_nothing_lies_outside_of_a_bundle(url: str) -> None:
    with pytest.raises(Problem, match="outside of the bundle"):
        print(Item(url).place)


@pytest.mark.parametrize(
    ("release", "uri", "suites", "place"),
    [
        (Release("ubuntu", "noble", "amd64"), "http://cn.mirror.lan/ubuntu/", "noble", "ubuntu"),
        (Release("ubuntu", "noble", "amd64"), "http://security.ubuntu.com/ubuntu/", "noble-security", "ubuntu"),
        (Release("ubuntu", "noble", "arm64"), "http://ports.ubuntu.com/", "noble-security", "ubuntu-ports"),
        (Release("debian", "trixie", "amd64"), "https://mirror.lan/debian", "trixie", "debian"),
        (Release("debian", "trixie", "amd64"), "http://security.lan/", "trixie-security", "debian-security"),
    ],
)
def test_an_archive_has_one_place_whatever_mirror_a_host_has(
    release: Release, uri: str, suites: str, place: str
) -> None:
    keyring = f"/usr/share/keyrings/{release.distribution}-archive-keyring.gpg"
    text = f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n"
    path = f"/etc/apt/sources.list.d/{release.distribution}.sources"
    made = originals_of(HostSources(release, {path: text}))
    assert made == {f"{uri.rstrip('/')}/": f"{place}/"}
    assert Item(f"{place}/pool/a%2b_1%3a2.deb").place == f"{place}/pool/a+_1:2.deb"
    (entry,) = entries(path, text)
    assert mirror_uri(entry, release, mirror_named(PREFIX + BASE), security=True) == f"{BASE}/{place}/"


# --- Options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["http://server.lan/bundle/", "https://10.0.0.1:8443", "file:///mnt/usb/bundle"])
def test_a_bundle_is_on_a_web_server_or_in_a_directory(base: str) -> None:
    options = MirrorsOptions.load({"all": base}, where="h")
    assert options.all == base.rstrip("/")
    assert options.of_apt == options.of_pypi == (f"bundle+{base.rstrip('/')}",)
    assert options.moves_security


@pytest.mark.parametrize(
    "base", ["tuna", "/mnt/bundle", "file://server/bundle", "http://h/a b", "ftp://h/x", "http://h/x?y"]
)
def test_what_is_no_place_of_a_bundle_is_refused(base: str) -> None:
    assert "h: mirrors/all: " in problem(mirrors={"all": base})


def test_a_login_in_the_address_is_refused_and_not_shown() -> None:
    said = problem(mirrors={"all": "https://user:s3cret@server.lan/bundle"})
    assert "mirrors/all: the URL holds a login" in said and "s3cret" not in said


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"mirrors": {"all": BASE, "apt": ["tuna"]}}, "mirrors/apt: does not go with mirrors/all"),
        ({"mirrors": {"all": BASE, "pypi": "tuna"}}, "mirrors/pypi: does not go with mirrors/all"),
        ({"mirrors": {"all": BASE, "security": True}}, "mirrors/security: does not go with mirrors/all"),
        (
            {"mirrors": {"all": BASE}, "kernel": {"source": "mainline", "version": "6.12.3"}},
            "kernel/source: needs mainline's builds, which no bundle has",
        ),
        (
            {"mirrors": {"all": BASE}, "ollama": {"instances": {"x": {"pull": "qwen3:0.6b"}}}},
            "ollama/instances/x/pull: needs a model of Ollama's registry",
        ),
        (
            {"mirrors": {"all": BASE}, "docker": {"mirrors": ["https://hub.lan"]}},
            "docker/mirrors: fetches from outside, and with mirrors/all nothing comes from there",
        ),
        (
            {"mirrors": {"all": BASE}, "lan_cache": {"listen": "10.0.0.1", "models": True}},
            "lan_cache: fetches from outside",
        ),
    ],
)  # fmt: skip
def test_what_would_go_around_the_bundle_is_refused_before_anything_is_changed(
    given: dict[str, Any], path: str
) -> None:
    assert f"h: {path}" in problem(**given)


def test_a_host_of_which_no_bundle_can_be_whole_is_told_so() -> None:
    pulled = load(ollama={"instances": {"x": {"pull": "qwen3:0.6b"}}})
    (line,) = refused(pulled.beyond_bundles(), is_from_bundle=False)
    assert line.startswith("ollama/instances/x/pull: needs a model of Ollama's registry")
    assert refused({}, is_from_bundle=False) == []
    assert refused({}, is_from_bundle=True)[0].startswith(
        "mirrors/all: this host takes everything from a bundle itself"
    )


def test_every_address_that_a_role_fetches_from_has_a_place_in_bundles_or_is_refused() -> None:
    """Kernel's are mainline's, which is refused; Dify is; models have their own way."""
    refused_as_a_whole = {"kernel", "dify", "models", "lan_cache"}
    roles = {name: field.annotation for name, field in Declaration.model_fields.items()}
    for role, annotation in roles.items():
        for options in [one for one in (annotation, *getattr(annotation, "__args__", ())) if isinstance(one, type)]:
            if issubclass(options, Options):
                urls = {
                    name
                    for name, field in options.model_fields.items()
                    if isinstance(field.default, str) and field.default.startswith(("http://", "https://"))
                }
                assert role in refused_as_a_whole or urls == set(FETCHED.get(role, ())), role


def test_a_program_comes_from_the_bundle_and_is_the_same_program() -> None:
    given = {"llama_cpp": {"instances": {}}, "docker": {"images": ["x/y:1"]}, "ollama": {}}
    outside = load(**given)
    assert outside.from_bundle() is outside
    for base in (BASE, "file:///mnt/bundle"):
        inside = load(**given, mirrors={"all": base}).from_bundle()
        assert inside.llama_cpp and outside.llama_cpp and inside.docker and inside.ollama
        name, words = archives(inside.llama_cpp, "x64")
        assert name == archives(outside.llama_cpp, "x64")[0]
        assert words[0].startswith(f"{base}/github.com/ggml-org/llama.cpp/releases/download/")
        assert inside.docker.repository_url == f"{base}/download.docker.com"
        assert inside.ollama.download_url == f"{base}/github.com/ollama/ollama"
        assert images_of(inside) == ["x/y:1"]


def test_what_is_collected_is_what_roles_fetch_by_its_address() -> None:
    sources = [
        Source(kind="release", what="x", name="x", option="x", url="https://x/a.tar.gz", sha256=SHA256),
        Source(kind="key", what="k", name="k", option="k", url="https://x/key"),
        Source(kind="apt", what="a", name="a", option="a", url="https://x/dists/", listing="https://x/dists/InRelease"),
    ]
    spec = specification(BundleOptions(), {"a": "b"}, sources, images=["i:1", "i:1"], models=["m"], made={})
    assert spec["files"] == [
        {"url": "https://x/a.tar.gz", "sha256": SHA256},
        {"url": "https://x/key", "sha256": ""},
    ]
    assert (spec["sources"], spec["images"], spec["models"]) == ([["a", "b"]], ["i:1"], ["m"])
    assert mirror_named(PREFIX + BASE).pypi == f"{BASE}/{spec['index']}"


# --- Packages --------------------------------------------------------------------------------------------------------

RELEASE = f"""\
Origin: Somebody
Acquire-By-Hash: yes
MD5Sum:
 0123 5 main/binary-amd64/Packages.xz
SHA256:
 {SHA256} 5 main/binary-amd64/Packages.xz
 {SHA256[::-1]} 9 main/binary-amd64/Packages
"""


def test_a_list_is_fetched_as_apt_will_ask_for_it() -> None:
    base, key, kinds = "http://h/dists/noble/", "main/binary-amd64/Packages", ["xz", "gz", "uncompressed"]
    found = bundle.index(RELEASE, base, key, kinds)
    assert found.url == f"{base}main/binary-amd64/by-hash/SHA256/{SHA256}"
    assert (found.size, found.digest) == (5, f"SHA256:{SHA256}")
    plain = bundle.index(RELEASE.replace("Acquire-By-Hash: yes", "Acquire-By-Hash: no"), base, key, kinds)
    assert plain.url == f"{base}{key}.xz"
    assert bundle.index(RELEASE, base, key, ["uncompressed"]).digest == f"SHA256:{SHA256[::-1]}"
    stronger = RELEASE + f"SHA512:\n {SHA256 * 2} 5 {key}.xz\n"
    assert bundle.index(stronger, base, key, kinds).url.endswith(f"/by-hash/SHA512/{SHA256 * 2}")


def test_a_list_without_a_digest_is_not_taken() -> None:
    with pytest.raises(Problem, match="cannot be proven"):
        bundle.index(RELEASE, "http://h/dists/noble/", "contrib/binary-amd64/Packages", ["xz"])


POLICY = """\
bash:
  Installed: 5.2.15-2+b13
  Candidate: 5.2.15-2+b13
  Version table:
 *** 5.2.15-2+b13 500
        500 http://deb.example/debian trixie/main amd64 Packages
        100 /var/lib/dpkg/status
ours:
  Installed: 1
  Candidate: 1
  Version table:
 *** 1 100
        100 /var/lib/dpkg/status
held:i386:
  Installed: 1:1.1
  Candidate: 1:1.2
  Version table:
     1:1.2 500 (phased 20%)
        500 http://archive.ubuntu.com/ubuntu noble-updates/main i386 Packages
 *** 1:1.1 100
        500 http://archive.ubuntu.com/ubuntu noble/main i386 Packages
        100 /var/lib/dpkg/status
     1:1.0 500
        500 http://archive.ubuntu.com/ubuntu noble/universe i386 Packages
newer:
  Installed: 3
  Candidate: 3
  Version table:
 *** 3 100
        100 /var/lib/dpkg/status
     2 500
        500 http://deb.example/debian trixie/main amd64 Packages
pinned:
  Installed: 2
  Candidate: 2
  Version table:
 *** 2 -1
         -1 https://repository.lan/x ./ Packages
        100 /var/lib/dpkg/status
"""
"""As apt 3.0 says it."""


def test_packages_are_taken_as_they_are_and_as_they_would_be_but_none_that_came_from_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle, "output_of", lambda *_: POLICY)
    assert bundle.on_offer(["bash", "held:i386", "newer", "ours", "pinned"]) == [
        "bash=5.2.15-2+b13", "held:i386=1:1.2", "held:i386=1:1.1", "pinned=2",
    ]  # fmt: skip


# What ``apt-get --print-uris`` says where sources.list has a login: apt.conf(5) and apt_auth.conf(5) know better.
SOURCES = """\
'http://user:s3cret@repository.lan/debian/dists/trixie/InRelease' repository.lan_debian_dists_trixie_InRelease 0
"""


def test_a_login_in_apts_sources_does_not_get_into_a_bundle_nor_into_what_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "repository.lan_debian_dists_trixie_InRelease").write_text(RELEASE)
    monkeypatch.setattr(bundle, "output_of", lambda *words: SOURCES if words[-1] == "update" else "")
    monkeypatch.setattr(bundle, "lists_directory", lambda: tmp_path)
    with pytest.raises(Problem, match=r"a login in the address of repository\.lan.*/etc/apt/auth\.conf\.d") as error:
        list(bundle.from_apt({"sources": []}))
    assert "s3cret" not in str(error.value) and "user:" not in str(error.value)
    text = "deb http://user:s3cret@repository.lan/debian trixie main\ndeb http://mirror.lan/debian trixie main\n"
    made = originals_of(HostSources(Release("debian", "trixie", "amd64"), {"/etc/apt/sources.list": text}))
    assert made == {"http://mirror.lan/debian/": "debian/"}


# --- The directory ---------------------------------------------------------------------------------------------------


def put(directory: Path, url: str, text: str) -> Item:
    item = bundle.written(url, text)
    path = directory / item.place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return item


def test_a_file_is_there_as_long_as_it_is_as_it_came(tmp_path: Path) -> None:
    made = Bundle(str(tmp_path))
    item = put(tmp_path, "https://h.example/a/file", "foo\n")
    assert not made.has(item)
    bundle.adopt(item, made)
    made.write({"made_by": "test"})
    again = Bundle(str(tmp_path))
    assert again.has(item) and again.has(Item(item.url))
    assert not again.has(bundle.written(item.url, "bar\n")), "upstream has another one by now"
    (tmp_path / item.place).write_text("bar\n")
    assert not again.has(item)
    bundle.adopt(item, again)
    assert not again.has(item), "it is not what is wanted"


def test_the_sums_are_read_by_sha256sum(tmp_path: Path) -> None:
    made = Bundle(str(tmp_path))
    for name in ("a", "b%20c/d", "e%2Bf~1"):
        bundle.adopt(put(tmp_path, f"https://h.example/{name}", "foo\n"), made)
    made.write({})
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    said = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["h.example/a: OK", "h.example/b c/d: OK", "h.example/e+f~1: OK"]
    assert {entry["sha256"] for entry in json.loads((tmp_path / "manifest.json").read_text())["files"].values()} == {
        SHA256
    }


def test_only_what_was_collected_is_removed(tmp_path: Path) -> None:
    made = Bundle(str(tmp_path))
    item = put(tmp_path, "https://h.example/file", "foo\n")
    bundle.adopt(item, made)
    (tmp_path / "h.example/somebody's").write_text("keep")
    made.remove([item.place])
    assert [path.name for path in (tmp_path / "h.example").iterdir()] == ["somebody's"]


def test_a_manifest_that_is_none_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(Problem, match="no manifest of a bundle"):
        Bundle(str(tmp_path))


@pytest.mark.parametrize("place", ["/etc/passwd", "../../etc/passwd", "h.example/../../x"])
def test_a_manifest_that_names_what_lies_outside_is_refused_before_anything_is_removed(
    tmp_path: Path, place: str
) -> None:
    entry = {"url": "", "size": 0, "sha256": "", "digest": "", "mtime_ns": 0}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {place: entry}, "wheels": {}}))
    with pytest.raises(Problem, match=r"no manifest of a bundle .*lies outside"):
        Bundle(str(tmp_path))


def test_a_token_in_an_address_is_not_written_down(tmp_path: Path) -> None:
    made = Bundle(str(tmp_path))
    bundle.adopt(put(tmp_path, "https://h.example/m.gguf?token=s3cret", "foo\n"), made)
    made.write({})
    assert '"https://h.example/m.gguf"' in (tmp_path / "manifest.json").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "s3cret" in path.read_text()]


def failed(monkeypatch: pytest.MonkeyPatch, error: OSError) -> str:
    """Return what the program says where the system fails it like this."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(bundle, "collect", fail)
    with pytest.raises(SystemExit) as end:
        bundle.main("collect", json.dumps({"directory": "/srv/bundle"}))
    return str(end.value.code)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(30, "Read-only file system", "/srv/bundle"), "bundle/directory: /srv/bundle: Read-only file system; "),
        (OSError(13, "Permission denied", "/srv/bundle/a/b"), "bundle/directory: /srv/bundle/a/b: Permission denied; "),
        (OSError(20, "Not a directory", "/srv"), "bundle/directory: /srv: Not a directory; "),
        (OSError(28, "No space left on device"), "bundle/directory: /srv/bundle: No space left on device; "),
        (OSError(2, "No such file or directory", "docker"), "docker: No such file or directory; "),
        (OSError(5, "Input/output error", "/srv/bundles/x"), "/srv/bundles/x: Input/output error; "),
    ],
)
def test_the_directory_is_to_blame_only_for_what_fails_there(
    monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    assert failed(monkeypatch, error).startswith(said)


def test_two_addresses_never_share_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [Item("https://keys.example/lookup?search=A"), Item("https://keys.example/lookup?search=B")]
    monkeypatch.setattr(bundle, "wanted", lambda _: both)
    monkeypatch.setattr(bundle, "environments", dict)
    with pytest.raises(Problem, match="would be one file"):
        bundle.Survey.of({}, Bundle(str(tmp_path)))


def test_the_index_of_python_is_static_pages(tmp_path: Path) -> None:
    place = "pypi/simple/typing-extensions/typing_extensions-4.15.0-py3-none-any.whl"
    top, page = bundle.index_pages("pypi/simple", [place], {place: {"sha256": SHA256}})
    assert (top.place, page.place) == ("pypi/simple/index.html", "pypi/simple/typing-extensions/index.html")
    name = place.rpartition("/")[2]
    assert f'<a href="{name}#sha256={SHA256}">{name}</a>' in page.text
    assert 'href="typing-extensions/index.html"' in top.text
    assert [item.place for item in bundle.index_pages("x", [], {})] == ["x/index.html"], "there is always one"


def test_a_disk_that_is_too_small_is_found_before_the_first_byte(tmp_path: Path) -> None:
    made = Bundle(str(tmp_path))
    bundle.fits(1 << 20, made)
    with pytest.raises(
        Problem, match=r"^bundle/directory: .* has [0-9]+ MiB free; required are 1073742080, .*nothing was"
    ):
        bundle.fits(1 << 50, made)


def test_what_does_not_come_is_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"^http://127\.0\.0\.1:9/llama\.tar\.gz could not be fetched: curl: \(7\)"):
        bundle.download(Item("http://127.0.0.1:9/llama.tar.gz"), tmp_path / "part")


# --- Models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_a_model_comes_out_of_a_bundle_as_it_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: str) -> None:
    """Collected by one program on one host, listed and read by the other on another; only the directory in between."""
    wanted = {"tiny": {"repo": "maker/tiny", "hub": hub, "files": ["*.gguf"]}}
    spec = models_specification(load(models={"wanted": wanted}).models)
    store, model = tmp_path / "store", tmp_path / "with space.gguf"
    store.mkdir()
    model.write_text("foo\n")
    files = [{"name": "Q4/with space.gguf", "path": str(model), "size": 4, "sha256": None}]
    manifest = {"hub": hub, "repo": "maker/tiny", "revision": "c0ffee", "files": files}
    (store / "tiny.json").write_text(json.dumps(manifest))
    (tmp_path / "models.json").write_text(json.dumps(spec))
    monkeypatch.setattr(bundle, "STORE", store)
    directory = tmp_path / "bundle"
    made = Bundle(str(directory))
    made.partial.mkdir(parents=True)
    bundle.fetch(list(bundle.models({"models": ["tiny"], "models_known": str(tmp_path / "models.json")})), made)

    base = f"file://{directory}"
    there = models_specification(load(models={"wanted": wanted}).models, bundle=base)
    assert there["clients"] == {}, "no package of Python is needed"
    (entry,) = there["models"]
    (place,) = entry["places"]
    found = hubs.hub_of(there, place)
    here = hubs.at(entry, place)
    revision, listed = found.listing(here, here["revision"])
    assert (revision, listed) == ("c0ffee", [{"name": "Q4/with space.gguf", "size": 4, "sha256": SHA256}])
    part = tmp_path / "part"
    found.get(here, revision, listed[0], part)
    assert part.read_text() == "foo\n"
    assert found.begin(here, revision, "Q4/with space.gguf", 2) == b"fo"


@pytest.mark.parametrize("lacks", ["model", "manifest", "file", "everything"])
def test_a_wanted_model_that_the_host_has_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    names = ["other"] if lacks == "model" else ["tiny"]
    wanted = {name: {"url": f"https://h.example/{name}.gguf?token=s3cret", "sha256": SHA256} for name in names}
    (tmp_path / "tiny.gguf").write_text("foo\n")
    files = [{"name": "tiny.gguf", "path": str(tmp_path / "tiny.gguf"), "size": 4, "sha256": SHA256}]
    (tmp_path / "tiny.json").write_text(json.dumps({"hub": None, "repo": None, "revision": None, "files": files}))
    spec = {"models": ["tiny"], "models_known": str(tmp_path / "models.json")}
    (tmp_path / "models.json").write_text(json.dumps(models_specification(load(models={"wanted": wanted}).models)))
    monkeypatch.setattr(bundle, "STORE", tmp_path)
    gone = {"manifest": "tiny.json", "file": "tiny.gguf", "everything": "models.json"}
    if lacks in gone:
        assert [item.place for item in bundle.models(spec)] == ["h.example/tiny.gguf"]
        (tmp_path / gone[lacks]).unlink()
    with pytest.raises(Problem, match=r"^models/wanted/tiny: not on this host; run deploys/full\.py first$"):
        list(bundle.models(spec))


def test_a_file_that_is_not_what_it_should_be_is_not_taken(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_text("bar\n")
    made = Bundle(str(tmp_path / "bundle"))
    made.partial.mkdir(parents=True)
    with pytest.raises(Problem, match=rf"model\.gguf has sha256 [0-9a-f]+; required is SHA256:{SHA256}"):
        bundle.fetch([Item("https://h.example/m", str(model), "copy", 4, f"SHA256:{SHA256}")], made)
    assert made.files == {} and [path.name for path in made.top.rglob("*")] == [".partial"]


def test_a_model_that_a_bundle_lacks_is_named_with_what_to_do(tmp_path: Path) -> None:
    here = {"hub": "bundle", "endpoint": f"file://{tmp_path}/huggingface.co", "repo": "maker/tiny", "revision": "main"}
    found = hubs.hub_of({"clients": {}}, here)
    with pytest.raises(urllib.error.URLError) as error:
        found.listing(here, "main")
    with pytest.raises(hubs.Refused, match=r"^mirrors/all: .* has no whole copy of maker/tiny .*deploys/bundle\.py"):
        found.explain(here, "main", error.value)


# --- What a host says when something is missing ----------------------------------------------------------------------


def test_a_download_that_the_bundle_lacks_is_not_blamed_on_upstream(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    chosen.write_text(f"apt.wanted bundle+{BASE} +security\napt.mirror bundle+{BASE}\n")
    (tmp_path / "curl").write_text("#!/bin/sh\nexit 22\n")
    (tmp_path / "curl").chmod(0o755)
    script = FETCH.read_text().replace("/var/lib/metal2model/mirrors/chosen", str(chosen))

    def said(url: str) -> str:
        words = ["sh", "-c", f'{script}\nfetch "$@"', "sh", url, SHA256, str(tmp_path / "file"), "llama_cpp"]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
        )
        assert done.returncode == 1
        return done.stderr

    assert said(f"{BASE}/github.com/x").startswith(f"mirrors/all: {BASE}/github.com/x could not be had from the bundle")
    assert "deploys/bundle.py" in said(f"{BASE}/github.com/x")
    assert said("https://github.com/x").startswith("llama_cpp/download_url: ")
    chosen.unlink()
    assert said(f"{BASE}/github.com/x").startswith("llama_cpp/download_url: ")


def said_by(script: str, words: list[str], directory: Path) -> str:
    """Run a script of a host that has everything from a bundle; it fails, and this is what it says."""
    (directory / "chosen").write_text(f"apt.mirror bundle+{BASE}\npypi.mirror bundle+{BASE}\n")
    script = script.replace("/var/lib/metal2model/mirrors/chosen", str(directory / "chosen"))
    script = script.replace("/opt/metal2model", str(directory / "opt"))
    environment = {"PATH": f"{directory}:/usr/bin:/bin"}
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_a_package_of_python_that_the_bundle_lacks_is_said(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    (tmp_path / "uv.txt").write_text("uv==1.0\n")
    script = f"set -eu\n{(FETCH.parent / 'environment.sh').read_text()}"
    words = [f"{tmp_path}/vllm/1", f"{tmp_path}/r.txt", f"{tmp_path}/uv.txt", "vllm", "", ""]
    said = said_by(script, words, tmp_path)
    assert said.startswith("vllm: python3 could not make an environment")
    assert "mirrors/all: a bundle has the packages of the host that it was made on" in said


def test_an_image_by_its_digest_is_not_looked_for_in_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "docker").chmod(0o755)
    said = said_by(PULL, [str(tmp_path / "record"), BASE, f"x/y@sha256:{SHA256}"], tmp_path)
    assert said.startswith(f"mirrors/all: x/y@sha256:{SHA256} names a digest")
    assert not (tmp_path / "record").exists()


def test_a_bundle_that_cannot_be_used_is_named_as_the_inventory_does() -> None:
    assert option_of("apt", [PREFIX + BASE]) == option_of("pypi", [PREFIX + BASE]) == "mirrors/all"
    assert option_of("apt", ["tuna"]) == "mirrors/apt"
    assert "deploys/bundle.py" in advice(["404  Not Found"], [PREFIX + BASE])
    assert "deploys/bundle.py" not in advice(["404  Not Found"], ["tuna"])
    assert "the host's clock is behind" in advice(["Release file is not valid yet"], [PREFIX + BASE])


DOCKER = """#!/bin/sh
case "$1 $2" in
    "load --quiet") cat >"$HAVE.tar"; grep -q . "$RECORD" && cp "$HAVE.tar" "$HAVE" ;;
    "image inspect") cat "$HAVE" 2>/dev/null ;;
    "image rm") rm "$HAVE" ;;
esac
"""


def loaded(directory: Path, image: str, wanted: str) -> subprocess.CompletedProcess[str]:
    """Load an image by a docker that calls it by what its archive says, if the record stood before."""
    (directory / "docker").write_text(DOCKER)
    (directory / "docker").chmod(0o755)
    place = directory / "bundle/docker.io/x"
    place.mkdir(parents=True, exist_ok=True)
    (place / "y:1.tar").write_text(f"{image}\n")
    (place / "y:1.tar.id").write_text(f"{wanted}\n")
    record = str(directory / "record")
    return subprocess.run(
        ["sh", "-c", PULL, "sh", record, f"file://{directory}/bundle", "x/y:1"], capture_output=True, text=True,
        env={"PATH": f"{directory}:/usr/bin:/bin", "HAVE": f"{directory}/have", "RECORD": record,
             "TMPDIR": str(directory / "tmp")},
        check=False,
    )  # fmt: skip


def test_an_image_is_known_before_it_is_loaded_and_removed_where_it_is_another(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    assert loaded(tmp_path, "sha256:aa", "sha256:aa").returncode == 0
    assert (tmp_path / "record").read_text() == "x/y:1 sha256:aa\n"
    done = loaded(tmp_path, "sha256:bb", "sha256:aa")
    assert done.returncode == 1 and done.stderr.startswith("mirrors/all: x/y:1 came from file://")
    assert not (tmp_path / "have").exists()
    (tmp_path / "bundle/docker.io/x/y:1.tar.id").unlink()
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left behind"


# --- apt -------------------------------------------------------------------------------------------------------------

UBUNTU = "/etc/apt/sources.list.d/ubuntu.sources"
NOBLE = Release("ubuntu", "noble", "amd64")
SOURCE = """\
Types: deb
URIs: http://archive.lan/ubuntu/
Suites: noble
Components: main
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""


def host_with(names: tuple[str, ...], state: HostSources) -> HostSources:
    """Return a host after a run that pointed apt to these names."""
    change = Change()
    plan_apt(state, mirror_named(names[0]), names, True, change)
    files = {**state.files, **change.sources, **change.files}
    texts = {path: text for path, text in files.items() if text is not None}
    return HostSources(state.release, texts, {**state.kept, **change.keep}, tuple(recorded(state, change)))


def test_lists_of_a_bundle_may_expire_and_no_others() -> None:
    names = (PREFIX + BASE,)
    inside = host_with(names, HostSources(NOBLE, {UBUNTU: SOURCE}))
    assert inside.files[EXPIRY].splitlines()[-1] == 'Acquire::Check-Valid-Until "false";'
    assert apt_rests(inside, names, True)
    touched = HostSources(NOBLE, {UBUNTU: inside.files[UBUNTU]}, inside.kept, inside.chosen)
    assert not apt_rests(touched, names, True), "it is written again"
    outside = host_with(("tuna",), inside)
    assert EXPIRY not in outside.files and apt_rests(outside, ("tuna",), True)
    assert not apt_rests(HostSources(NOBLE, {**outside.files, EXPIRY: ""}, {}, outside.chosen), ("tuna",), True)
    change = Change()
    restore_apt(inside, change)
    assert change.sources == {UBUNTU: SOURCE} and change.files == {EXPIRY: None}
    assert f"rm -f '{EXPIRY}'" in switch_script(inside, change)


def test_what_a_host_cannot_take_from_a_bundle_is_said_of_the_option_that_was_written() -> None:
    names = (PREFIX + BASE,)
    (problem,) = apt_problems(HostSources(NOBLE, {UBUNTU: "# none\n"}), names)
    assert problem.startswith("mirrors/all: found no enabled entry of the archive")
    (problem,) = apt_problems(HostSources(Release("fedora", "", "x86_64")), names)
    assert problem.startswith("mirrors/all: the host runs fedora")
    (problem,) = pypi_problems(HostSources(NOBLE, {PIP: "[global]\n"}), names)
    assert problem.startswith("mirrors/all: /etc/pip.conf exists and is not ours")
