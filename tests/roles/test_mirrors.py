"""Which entries of apt's sources are the distribution's, and that everything else survives byte for byte."""

import base64
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.mirror import mirror_named, presets
from roles.common.options import OptionError
from roles.mirrors import deploy, operations
from roles.mirrors.facts import CHOSEN, PIP, UV, HostSources, MirrorProbes, MirrorState, ProbeResult, packed
from roles.mirrors.operations import (
    Change,
    apt_problems,
    apt_rests,
    plan_apt,
    plan_pypi,
    pypi_files,
    pypi_problems,
    pypi_rests,
    recorded,
    restore_apt,
    restore_pypi,
    switch_script,
    wanted,
)
from roles.mirrors.options import MirrorsOptions
from roles.mirrors.sources import (
    Release,
    entries,
    header,
    index_urls,
    is_archive,
    mirrored,
    moved,
    original,
    probe_files,
)

NOBLE = Release("ubuntu", "noble", "amd64")
NOBLE_ARM = Release("ubuntu", "noble", "arm64")
JAMMY = Release("ubuntu", "jammy", "amd64")
BOOKWORM = Release("debian", "bookworm", "amd64")
TRIXIE = Release("debian", "trixie", "amd64")
TUNA = mirror_named("tuna")
USTC = mirror_named("ustc")

LIST = "/etc/apt/sources.list"
UBUNTU = "/etc/apt/sources.list.d/ubuntu.sources"
DEBIAN = "/etc/apt/sources.list.d/debian.sources"
DOCKER = "/etc/apt/sources.list.d/docker.list"

# As Ubuntu 24.04's server installer writes it where the location is China.
NOBLE_TEXT = """\
# See http://help.ubuntu.com/community/UpgradeNotes
#
## X-Repolib-Name: not a field
Types: deb deb-src
URIs: http://cn.archive.ubuntu.com/ubuntu/
Suites: noble noble-updates noble-backports
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

## Security
Types: deb
URIs: http://security.ubuntu.com/ubuntu/
Suites: noble-security
Components: main restricted universe multiverse
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://cn.archive.ubuntu.com/ubuntu/
Suites: noble-proposed
Components: main
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
"""
JAMMY_TEXT = """\
deb http://cn.archive.ubuntu.com/ubuntu jammy main restricted
# deb-src http://cn.archive.ubuntu.com/ubuntu jammy main restricted
deb [arch=amd64 lang=en] http://cn.archive.ubuntu.com/ubuntu jammy-updates main restricted # updates
deb http://security.ubuntu.com/ubuntu jammy-security main
deb [arch=amd64] https://download.docker.com/linux/ubuntu jammy stable
deb http://ppa.launchpad.net/deadsnakes/ppa/ubuntu jammy main
"""
BOOKWORM_TEXT = """\
#deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main
deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main non-free-firmware
deb http://deb.example/debian/ bookworm main non-free-firmware
deb-src\thttp://deb.example/debian/\tbookworm main non-free-firmware
deb http://deb.example/debian-security bookworm-security main
"""


def uris(path: str, text: str) -> list[str]:
    return [uri for entry in entries(path, text) for uri in entry.uris]


# --- Which entries ---------------------------------------------------------------------------------------------------


def test_ubuntu_stanzas_move_by_suite_and_keyring_and_the_rest_stays() -> None:
    text = mirrored(UBUNTU, NOBLE_TEXT, NOBLE, TUNA, security=False)
    assert text == header(UBUNTU) + NOBLE_TEXT.replace(
        "URIs: http://cn.archive.ubuntu.com/ubuntu/", "URIs: https://mirrors.tuna.tsinghua.edu.cn/ubuntu/", 1
    )


def test_the_security_pocket_moves_only_when_asked() -> None:
    text = mirrored(UBUNTU, NOBLE_TEXT, NOBLE, TUNA, security=True)
    assert "security.ubuntu.com" not in text
    assert text.count("https://mirrors.tuna.tsinghua.edu.cn/ubuntu/") == 2


def test_ports_have_an_archive_of_their_own_and_all_pockets_move_together() -> None:
    text = NOBLE_TEXT.replace("cn.archive.ubuntu.com/ubuntu", "ports.ubuntu.com/ubuntu-ports")
    moved_text = mirrored(UBUNTU, text, NOBLE_ARM, USTC, security=False)
    assert moved_text.count("https://mirrors.ustc.edu.cn/ubuntu-ports/") == 2


def test_a_stanza_of_all_pockets_moves_as_one() -> None:
    text = NOBLE_TEXT.replace("noble-backports", "noble-security")
    assert uris(UBUNTU, mirrored(UBUNTU, text, NOBLE, TUNA, security=False))[0].startswith("https://mirrors.tuna")


def test_one_line_entries_keep_options_comments_and_strangers() -> None:
    text = mirrored(LIST, JAMMY_TEXT, JAMMY, TUNA, security=False)
    new = "https://mirrors.tuna.tsinghua.edu.cn/ubuntu/"
    assert text == header(LIST) + (
        f"deb {new} jammy main restricted\n"
        "# deb-src http://cn.archive.ubuntu.com/ubuntu jammy main restricted\n"
        f"deb [arch=amd64 lang=en] {new} jammy-updates main restricted # updates\n"
        "deb http://security.ubuntu.com/ubuntu jammy-security main\n"
        "deb [arch=amd64] https://download.docker.com/linux/ubuntu jammy stable\n"
        "deb http://ppa.launchpad.net/deadsnakes/ppa/ubuntu jammy main\n"
    )


def test_debian_sources_and_security_have_two_archives() -> None:
    text = mirrored(LIST, BOOKWORM_TEXT, BOOKWORM, TUNA, security=True)
    assert "deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main non-free-firmware\n" in text
    assert "deb-src\thttps://mirrors.tuna.tsinghua.edu.cn/debian/\tbookworm main" in text
    assert "deb https://mirrors.tuna.tsinghua.edu.cn/debian-security/ bookworm-security main\n" in text
    assert "deb.example" not in text


def test_a_cloud_image_that_lists_its_mirrors_in_a_file_moves() -> None:
    text = (
        "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie trixie-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.pgp\n"
    )
    assert uris(DEBIAN, mirrored(DEBIAN, text, TRIXIE, TUNA, False)) == ["https://mirrors.tuna.tsinghua.edu.cn/debian/"]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (DOCKER, "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] https://download.docker.com/u noble stable"),
        (DOCKER, "deb http://archive.ubuntu.com/ubuntu noble main"),
        (LIST, "deb [signed-by=/etc/apt/keyrings/x.gpg] http://archive.ubuntu.com/ubuntu noble main"),
        (LIST, "deb http://archive.ubuntu.com/ubuntu jammy main"),
        (LIST, "deb http://archive.ubuntu.com/ubuntu noble/ main"),
        (LIST, "deb file:/srv/ubuntu noble main"),
        (LIST, "deb https://nvidia.github.io/stable/deb/amd64 /"),
        (LIST, "debug http://archive.ubuntu.com/ubuntu noble main"),
    ],
)
def test_a_strangers_entry_is_left_alone(path: str, line: str) -> None:
    assert mirrored(path, f"{line}\n", NOBLE, TUNA, security=True) == f"{line}\n"


def test_an_entry_anywhere_counts_when_the_archives_key_signs_it() -> None:
    line = "deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://x.lan/u noble-proposed main\n"
    assert "mirrors.tuna" in mirrored("/etc/apt/sources.list.d/proposed.list", line, NOBLE, TUNA, security=False)


def test_folded_uris_become_one() -> None:
    text = NOBLE_TEXT.replace(
        "URIs: http://cn.archive.ubuntu.com/ubuntu/\nS", "URIs:\n http://a/u\n# c\n http://b/u\nS", 1
    )
    first = next(entries(UBUNTU, mirrored(UBUNTU, text, NOBLE, TUNA, security=False)))
    assert first.uris == ("https://mirrors.tuna.tsinghua.edu.cn/ubuntu/",)
    assert first.suites == ("noble", "noble-updates", "noble-backports")


def test_what_points_there_already_is_not_touched() -> None:
    text = NOBLE_TEXT.replace("http://cn.archive.ubuntu.com/ubuntu/", "https://mirrors.tuna.tsinghua.edu.cn/ubuntu")
    assert mirrored(UBUNTU, text, NOBLE, TUNA, security=False) == text


def test_a_probe_has_the_moved_entries_and_nothing_else() -> None:
    probes = probe_files({UBUNTU: NOBLE_TEXT, LIST: ""}, NOBLE, TUNA, security=False)
    assert list(probes) == ["probe.sources"]
    assert [e.suites for e in entries("x.sources", probes["probe.sources"])] == [
        ("noble", "noble-updates", "noble-backports")
    ]
    assert "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg" in probes["probe.sources"]
    assert index_urls("/etc/apt/sources.list.d/ubuntu.sources", probes["probe.sources"], NOBLE)[0] == (
        "https://mirrors.tuna.tsinghua.edu.cn/ubuntu/dists/noble/InRelease"
    )


# --- There and back --------------------------------------------------------------------------------------------------

WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=8)
NOISE = st.one_of(
    st.just(""),
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30).map(lambda text: f"# {text}"),
    WORD.map(lambda word: f"deb [signed-by=/etc/apt/keyrings/{word}] https://other.example/u noble main"),
)
SUITE = st.sampled_from(["noble", "noble-updates", "noble-security", "noble-backports", "jammy", "/"])
GAP = st.sampled_from([" ", "\t", "   "])
LINE = st.builds(
    lambda kind, options, gap, uri, suite, rest: f"{kind}{gap}{options}{uri}{gap}{suite}{rest}",
    st.sampled_from(["deb", "deb-src", "  deb"]),
    st.sampled_from(["", "[arch=amd64] ", "[ signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg arch=amd64 ]  "]),
    GAP,
    st.sampled_from(["http://a.example/u", "https://b.example/ubuntu/", "ftp://c/x", "cdrom:[x", "file:/srv/u"]),
    SUITE,
    st.sampled_from([" main", "  main universe # because", "\tmain\t", " stable"]),
)
STANZA = st.builds(
    lambda head, uris, suites, tail, noise: "\n".join(
        [head, f"URIs:{uris}", f"Suites: {' '.join(suites)}", *([f"# {noise}"] if noise else []), tail]
    ),
    st.sampled_from(
        ["Types: deb", "Types: deb deb-src\nEnabled: yes", "# c\nTypes: deb\nEnabled: no", "X-Note: a\n b"]
    ),
    st.sampled_from(
        [" http://a.example/u", "http://b/u/  ", "\n http://c/u\n\thttp://d/u", "  https://e/u http://f/u"]
    ),
    st.lists(SUITE, min_size=1, max_size=3),
    st.sampled_from(
        [
            "Components: main\nSigned-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg",
            "signed-by:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\nComponents: main",
            "Components: main universe",
        ]
    ),
    st.text("abc:#", max_size=5),
)
ENDING = st.sampled_from(["", "\n", "\n\n"])
LISTS = st.builds(lambda lines, end: "\n".join(lines) + end, st.lists(st.one_of(LINE, NOISE), max_size=8), ENDING)
STANZAS = st.builds(lambda parts, end: "\n\n".join(parts) + end, st.lists(STANZA, max_size=4), ENDING)
FILES = st.one_of(st.tuples(st.just(LIST), LISTS), st.tuples(st.just(UBUNTU), STANZAS))


@given(FILES)
def test_entries_stand_where_they_say(file: tuple[str, str]) -> None:
    path, text = file
    for entry in entries(path, text):
        value = text[entry.start : entry.end]
        assert (
            tuple(word for line in value.split("\n") if not line.startswith("#") for word in line.split()) == entry.uris
        )
        assert entry.block[0] <= entry.start <= entry.end <= entry.block[1]


@given(FILES, st.booleans())
def test_only_uris_of_the_archive_change(file: tuple[str, str], security: bool) -> None:
    path, text = file
    new = mirrored(path, text, NOBLE, TUNA, security).removeprefix(header(path))
    before, after = list(entries(path, text)), list(entries(path, new))
    assert len(before) == len(after)
    rest_before, rest_after, at, now = "", "", 0, 0
    for one, two in zip(before, after, strict=True):
        rest_before, rest_after = rest_before + text[at : one.start], rest_after + new[now : two.start]
        at, now = one.end, two.end
        if not is_archive(path, one, NOBLE):
            assert one.uris == two.uris
    assert rest_before + text[at:] == rest_after + new[now:]


@given(FILES, st.booleans(), st.booleans())
def test_upstream_restores_byte_for_byte(file: tuple[str, str], security: bool, then: bool) -> None:
    path, text = file
    written = {uri for mirror in (TUNA, USTC) for _, uri in moved(path, text, NOBLE, mirror, True)}
    first = mirrored(path, text, NOBLE, TUNA, security)
    assert original(path, first, text, written) == text
    second = mirrored(path, original(path, first, text, written), NOBLE, USTC, then)
    assert original(path, second, text, written) == text


@given(FILES, st.booleans())
def test_pointing_to_a_mirror_twice_changes_nothing(file: tuple[str, str], security: bool) -> None:
    path, text = file
    once = mirrored(path, text, NOBLE, TUNA, security)
    written = {uri for _, uri in moved(path, text, NOBLE, TUNA, security)}
    assert mirrored(path, original(path, once, text, written), NOBLE, TUNA, security) == once


def test_what_somebody_changed_since_is_kept_and_only_our_uris_go_back() -> None:
    mirror_text = mirrored(LIST, JAMMY_TEXT, JAMMY, TUNA, security=False)
    edited = mirror_text.replace("jammy", "noble") + "deb http://x.lan/u noble main\n"
    back = original(LIST, edited, JAMMY_TEXT, {"https://mirrors.tuna.tsinghua.edu.cn/ubuntu/"})
    assert back == JAMMY_TEXT.replace("jammy", "noble") + "deb http://x.lan/u noble main\n"


# --- What is decided -------------------------------------------------------------------------------------------------


def at_rest(names: tuple[str, ...] = ("tuna",)) -> HostSources:
    """A host after a run that chose the first name."""
    state = HostSources(NOBLE, {UBUNTU: NOBLE_TEXT})
    change = Change()
    plan_apt(state, mirror_named(names[0]), names, False, change)
    plan_pypi(state, mirror_named(names[0]), names, change)
    files = {**state.files, **change.sources} | {path: text for path, text in change.files.items() if text is not None}
    return HostSources(NOBLE, files, change.keep, tuple(recorded(state, change)))


def test_a_run_that_wrote_leaves_the_next_at_rest() -> None:
    state = at_rest(("tuna", "ustc"))
    assert apt_rests(state, ("tuna", "ustc"), False)
    assert pypi_rests(state, ("tuna", "ustc"))


def test_other_candidates_another_pocket_or_silence_end_the_rest() -> None:
    state = at_rest(("tuna", "ustc"))
    assert not apt_rests(state, ("ustc", "tuna"), False)
    assert not apt_rests(state, ("tuna", "ustc"), True)
    dead = HostSources(state.release, state.files, state.kept, state.chosen, {"apt": "no answer", "pypi": "no answer"})
    assert not apt_rests(dead, ("tuna", "ustc"), False)
    assert not pypi_rests(dead, ("tuna", "ustc"))


def test_a_changed_file_ends_the_rest() -> None:
    state = at_rest()
    changed = HostSources(state.release, {**state.files, UBUNTU: NOBLE_TEXT}, state.kept, state.chosen)
    assert not apt_rests(changed, ("tuna",), False)


def test_after_a_switch_the_first_original_is_still_kept() -> None:
    state = at_rest(("tuna", "ustc"))
    change = Change()
    plan_apt(state, USTC, ("tuna", "ustc"), False, change)
    assert change.keep == {UBUNTU: NOBLE_TEXT}
    assert "mirrors.ustc.edu.cn" in change.sources[UBUNTU]
    assert [value for key, value in change.chosen["apt"] if key == "apt.written"] == [
        "https://mirrors.tuna.tsinghua.edu.cn/ubuntu/",
        "https://mirrors.ustc.edu.cn/ubuntu/",
    ]
    assert change.indexes == [
        f"https://mirrors.ustc.edu.cn/ubuntu/dists/{suite}/InRelease"
        for suite in ("noble", "noble-updates", "noble-backports")
    ]


def test_upstream_after_a_mirror_restores_and_forgets() -> None:
    state = at_rest()
    change = Change()
    restore_apt(state, change)
    restore_pypi(state, change)
    assert change.sources == {UBUNTU: NOBLE_TEXT}
    assert change.files == {PIP: None, UV: None}
    assert recorded(state, change) == []
    script = switch_script(state, change)
    assert f"rm -f {CHOSEN}" in script
    assert "rm -rf /var/lib/metal2model/mirrors/original" in script


def test_upstream_on_an_untouched_host_is_nothing() -> None:
    state = HostSources(NOBLE, {UBUNTU: NOBLE_TEXT})
    change = Change()
    restore_apt(state, change)
    restore_pypi(state, change)
    assert change == Change()


def test_pip_takes_an_index_without_tls_because_it_is_told_to_trust_it_and_no_other() -> None:
    plain = pypi_files("http://10.0.0.5:8090/pypi/simple")
    assert plain[PIP].endswith("index-url = http://10.0.0.5:8090/pypi/simple\ntrusted-host = 10.0.0.5:8090\n")
    assert not any("trusted" in text for text in pypi_files("https://index.example.org/simple").values())


def test_a_foreign_pip_conf_is_refused_and_ours_is_not() -> None:
    foreign = HostSources(NOBLE, {PIP: "[global]\nproxy = http://proxy.lan\n"})
    (problem,) = pypi_problems(foreign, ("tuna",))
    assert problem.startswith("mirrors/pypi: /etc/pip.conf exists and is not ours")
    assert not pypi_problems(HostSources(NOBLE, pypi_files("https://x/simple")), ("tuna",))
    change = Change()
    restore_pypi(foreign, change)
    assert change == Change()


def test_a_host_without_entries_of_the_archive_is_told_so() -> None:
    (problem,) = apt_problems(HostSources(NOBLE, {LIST: "# moved\n"}), ("tuna",))
    assert problem.startswith("mirrors/apt: found no enabled entry of the archive of ubuntu noble")
    (problem,) = apt_problems(HostSources(Release("fedora", "", "x86_64")), ("tuna",))
    assert "fedora" in problem


def test_a_lock_is_waited_for_as_long_as_the_deploy_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    state = at_rest()
    made: list[Any] = []
    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=lambda *_, **__: state, name="node1"))

    def carry_out(name: str, **arguments: Any) -> None:
        assert name
        made.extend(operations.mirrors_in_use._inner(**arguments))

    monkeypatch.setattr(deploy, "mirrors_in_use", carry_out)
    inspect.unwrap(deploy.deploy_mirrors)(options=load(apt="upstream"), lock_timeout_seconds=9)
    (command,) = made
    assert "\nm2m_set_patience '9'\n" in command.get_raw_value()


def test_the_full_deploy_hands_the_lock_timeout_down() -> None:
    text = (Path(__file__).parents[2] / "deploys" / "full.py").read_text()
    assert "patience = declared.tags, declared.base.lock_timeout_seconds" in text
    assert "deploy_mirrors(options=declared.mirrors, lock_timeout_seconds=patience)" in text


# --- Facts -----------------------------------------------------------------------------------------------------------


def test_texts_come_over_byte_for_byte() -> None:
    odd = "deb x\r\n\udcff\u4e2d \n\n"
    state = MirrorState().process(
        [
            "release ubuntu noble amd64",
            f"file {packed(odd)} {LIST}",
            f"kept {packed('')} {LIST}",
            "chosen apt.mirror tuna",
            "chosen apt.written https://a/",
            "chosen apt.written https://b/",
            "dead apt Connection failed [IP: 10.0.0.1 443]",
        ]
    )
    assert state.release == NOBLE
    assert state.files == {LIST: odd}
    assert state.kept == {LIST: ""}
    assert (state.value("apt.mirror"), state.values("apt.written")) == ("tuna", ["https://a/", "https://b/"])
    assert state.dead == {"apt": "Connection failed [IP: 10.0.0.1 443]"}


def test_a_release_without_codename_is_no_codename() -> None:
    assert MirrorState().process(["release debian  amd64"]).release == Release("debian", "", "amd64")


def test_probe_results_have_a_reason_or_none() -> None:
    assert MirrorProbes().process(["apt tuna no answer in time", "apt ustc ", "pypi https://x/simple"]) == [
        ProbeResult("apt", "tuna", "no answer in time"),
        ProbeResult("apt", "ustc", ""),
        ProbeResult("pypi", "https://x/simple", ""),
    ]


def test_probing_stops_at_the_first_good_one() -> None:
    command = str(
        MirrorProbes().command(
            apt={"tuna": {"probe.list": "a b"}, "ustc": {"probe.list": "c"}},
            pypi={"x": ("https://x/simple/pip/", "pip-[0-9]")},
            architecture="amd64",
            timeout_seconds=3,
        )
    )
    text = base64.b64encode(b"a b").decode()
    assert f"try_apt tuna probe.list ={text} || try_apt ustc" in command
    assert "try_pypi x https://x/simple/pip/ 'pip-[0-9]' || true" in command


# --- Options ---------------------------------------------------------------------------------------------------------


def load(**data: object) -> MirrorsOptions:
    return MirrorsOptions.load(data, where="node1", path="mirrors")


def test_a_name_a_list_and_a_url_are_accepted() -> None:
    assert load().apt is None
    assert load(apt="upstream").apt == ("upstream",)
    assert load(apt=["tuna", "http://mirror.lan/ubuntu"]).apt == ("tuna", "http://mirror.lan/ubuntu")
    assert mirror_named("http://mirror.lan/debian/").debian_security == "http://mirror.lan/debian-security"


@pytest.mark.parametrize(
    ("apt", "said"),
    [
        ("tunna", "node1: mirrors/apt: 'tunna' is no known mirror (did you mean 'tuna'?)"),
        (["tuna", "upstream"], "'upstream' stands alone"),
        ([], "names no mirror"),
        (["tuna", "tuna"], "names tuna twice"),
        ("ftp://mirror.lan/ubuntu", "is no known mirror"),
        ("https://mirror.lan/a b", "is no known mirror"),
        ("https://mirror.lan/$(id)", "is no known mirror"),
        (7, "node1: mirrors/apt: "),
    ],
)
def test_a_wrong_candidate_is_explained(apt: object, said: str) -> None:
    with pytest.raises(OptionError) as error:
        load(apt=apt)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://u:s3cret@nexus.lan/simple",
        "http://s3cret@nexus.lan",
        "ftp://u:s3cret@nexus.lan",
        "u:s3cret@nexus.lan",
        "https://u:s3/cr3t@nexus.lan",
    ],
)
@pytest.mark.parametrize("option", ["apt", "pypi"])
def test_a_login_in_a_url_is_refused_and_not_shown(option: str, url: str) -> None:
    with pytest.raises(OptionError) as error:
        load(**{option: ["tuna", url]})
    said = str(error.value)
    assert said.startswith(f"node1: mirrors/{option}: ")
    assert "/etc/apt/auth.conf.d" in said
    assert "~/.netrc" in said
    assert "s3" not in said


def test_an_at_sign_in_a_path_is_no_login() -> None:
    assert load(pypi="https://mirror.lan:8443/@team/simple").pypi == ("https://mirror.lan:8443/@team/simple",)


def test_every_preset_is_whole_and_https() -> None:
    text = (Path(__file__).parents[2] / "files" / "mirrors.yaml").read_text()
    assert text.count("\n  source:") == len(presets())
    for mirror in presets().values():
        urls = (mirror.ubuntu, mirror.ubuntu_ports, mirror.debian, mirror.debian_security, mirror.pypi)
        assert all(url and url.startswith("https://") and not url.endswith("/") for url in urls)


def test_the_record_of_candidates_tells_the_security_pocket_apart() -> None:
    assert wanted(("tuna",), True) != wanted(("tuna",), False)
