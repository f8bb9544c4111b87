"""Models once for a LAN: who is asked for them, and what becomes of what came. Hosts do it in tests/e2e."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyinfra.api import Inventory

from roles.common.options import OptionError
from roles.declaration import Declaration, lan_of
from roles.models import deploy
from roles.models.files.store import asking, disk, fetching, hubs, known, lan, manifests
from roles.models.options import ModelsOptions
from roles.models.units import FETCHING, LISTED, PROGRAMS, SEEDING, USER, Lan, Seed, lan_files
from tests.roles.hardening import complaints

CACHE = {"listen": "10.0.0.5", "models": True}
OURS = Lan([Seed("10.0.0.5", "http://10.0.0.5:8090/models")], ["10.0.0.0/8"])
CONTENT = b"weights " * (1 << 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    ("cache", "found"),
    [
        (None, "lan_cache is not declared; required: present, models: True, and the address"),
        ({**CACHE, "present": False}, "declared without what that takes"),
        ({"listen": "10.0.0.5", "images": {}}, "declared without what that takes"),
        ({**CACHE, "listen": "0.0.0.0"}, "declared without what that takes"),
    ],
)
def test_a_seed_that_nobody_could_reach_is_refused(cache: dict[str, Any] | None, found: str) -> None:
    data = {"tags": ["cpu", "seed"], **({"lan_cache": cache} if cache else {})}
    with pytest.raises(OptionError) as refused:
        Declaration.load(data, where="gpu-01")
    assert "gpu-01: tags: 'seed' is declared, and " in str(refused.value)
    assert found in str(refused.value)


def fleet(**hosts: dict[str, Any]) -> dict[str, Lan | None]:
    """What each host of an inventory knows of the others."""
    inventory = Inventory(([(name, {"tags": ["cpu"], **data}) for name, data in hosts.items()], {}))
    return {name: lan_of(inventory.get_host(name)) for name in hosts}


def test_hosts_know_the_seeds_of_their_inventory_and_a_seed_knows_the_others() -> None:
    one = {"tags": ["cpu", "seed"], "lan_cache": CACHE}
    two = {"tags": ["seed"], "lan_cache": {"listen": "fd00::6", "port": 80, "models": True, "allow": ["fd00::/8"]}}
    found = fleet(one=one, two=two, three={})
    first = Seed("10.0.0.5", "http://10.0.0.5:8090/models")
    second = Seed("fd00::6", "http://[fd00::6]:80/models")
    assert found["three"] and found["three"].own is None
    assert found["three"].seeds == [first, second]
    assert {"10.0.0.0/8", "192.168.0.0/16", "fd00::/8"} <= set(found["three"].networks)
    assert found["two"] and (found["two"].own, found["two"].seeds) == (second, [first])


def test_without_a_seed_and_in_a_place_that_services_do_not_see_nothing_is_shared() -> None:
    assert fleet(one={"lan_cache": CACHE}) == {"one": None}
    hidden = {"models": {"directory": "/home/me/models"}}
    assert fleet(one={"tags": ["cpu", "seed"], "lan_cache": CACHE}, two=hidden)["two"] is None
    elsewhere = {"models": {"lan": False}}
    assert fleet(one={"tags": ["cpu", "seed"], "lan_cache": CACHE}, two=elsewhere)["two"] is None
    with pytest.raises(OptionError, match="gpu-01: models/lan: is False on a host with the tag 'seed'"):
        Declaration.load({"tags": ["cpu", "seed"], "lan_cache": CACHE, **elsewhere}, where="gpu-01")


@pytest.mark.parametrize("name", [SEEDING, FETCHING])
def test_systemd_accepts_the_units_and_finds_them_confined(name: str, tmp_path: Path) -> None:
    text = lan_files(OURS, deploy.HOME, deploy.SPEC, "/srv/my models")[f"/etc/systemd/system/{name}"]
    assert complaints(name, text, tmp_path) == []


def test_what_is_given_is_given_to_the_lan_alone() -> None:
    text = lan_files(OURS, deploy.HOME, deploy.SPEC, "/srv/models")[f"/etc/systemd/system/{SEEDING}"]
    assert {"IPAddressDeny=any", "IPAddressAllow=localhost multicast 10.0.0.0/8"} <= set(text.splitlines())


def test_the_program_and_the_units_speak_of_the_same_places() -> None:
    assert known.listed_path() == LISTED
    assert tuple(PROGRAMS.values()) == known.SWARM_PROGRAMS
    assert (lan.USER, lan.FETCHING) == (USER, FETCHING)
    fetching = lan_files(OURS, deploy.HOME, deploy.SPEC, "/srv/models")[f"/etc/systemd/system/{FETCHING}"]
    assert f" --conf-path={lan.RUN}/aria2.conf\n" in fetching


def decoded(data: bytes) -> tuple[Any, bytes]:
    """Read one value of https://www.bittorrent.org/beps/bep_0003.html#bencoding, and what follows it."""
    if data[:1] == b"i":
        number, _, rest = data[1:].partition(b"e")
        return int(number), rest
    if data[:1] in (b"l", b"d"):
        values, rest = [], data[1:]
        while rest[:1] != b"e":
            value, rest = decoded(rest)
            values.append(value)
        pairs = zip(values[::2], values[1::2], strict=True)
        return (values if data[:1] == b"l" else dict(pairs)), rest[1:]
    length, _, rest = data.partition(b":")
    return rest[: int(length)], rest[int(length) :]


@given(st.lists(st.text(min_size=1), max_size=4))
def test_a_torrent_names_the_addresses_that_it_is_given_and_stays_the_same_torrent(addresses: list[str]) -> None:
    info = b"d6:lengthi5e4:name1:a12:piece lengthi1048576e6:pieces0:e"
    torrent = b"d10:created by4:some4:info" + info + b"e"
    after = lan.with_web_seeds(torrent, addresses)
    assert after.startswith(torrent[:-1])
    found, rest = decoded(after)
    assert rest == b""
    assert found.pop(b"url-list", []) == [address.encode() for address in addresses]
    assert found == decoded(torrent)[0]


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A host that wants one file, and whose models are whoever's that runs the tests."""
    monkeypatch.setattr(known, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(known, "OWNER", (os.geteuid(), os.getegid()))
    wanted = {"m": {"url": "https://models.example.org/m.gguf", "sha256": SHA256}}
    options = ModelsOptions.load({"directory": str(tmp_path / "models"), "wanted": wanted}, where="h")
    spec = deploy.specification(options, lan=OURS)
    (model,) = spec["models"]
    entry = manifests.planned(model, {"name": "m.gguf", "size": len(CONTENT), "sha256": SHA256})
    manifests.write_manifest(model, {"hub": "plain", "repo": None, "revision": "", "files": [entry]})
    return spec


def came(spec: dict[str, Any], content: bytes) -> lan.Wanted:
    """A file as aria2 leaves it when it is through."""
    (file,) = lan.pending(spec)
    file.folder.mkdir(parents=True)
    file.path.write_bytes(content)
    return file


def test_what_came_gets_its_name_and_its_torrent_stays(spec: dict[str, Any]) -> None:
    file = came(spec, CONTENT)
    assert file.is_whole
    lan.place(spec, file, b"torrent")
    final = Path(spec["directory"], "models.example.org/m/m.gguf")
    assert final.read_bytes() == CONTENT
    assert final.stat().st_mode & 0o777 == 0o444
    assert known.model_problem(spec, spec["models"][0]) is None
    assert Path(spec["directory"], ".torrents", f"{SHA256}.torrent").read_bytes() == b"torrent"
    assert lan.pending(spec) == []


def test_a_wrong_file_from_the_lan_never_gets_its_name(
    spec: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = came(spec, CONTENT[:-1] + b"X")
    lan.place(spec, file, b"torrent")
    assert "what came from the LAN has " in capsys.readouterr().out
    assert list(Path(spec["directory"]).glob("[!.]*")) == []
    assert not Path(spec["directory"], ".torrents").exists()


def test_what_aria2_has_not_ended_with_is_not_whole_however_long_it_is(spec: dict[str, Any]) -> None:
    file = came(spec, CONTENT)
    Path(f"{file.path}.aria2").touch()
    assert not file.is_whole
    with file.path.open("wb") as hole:
        hole.truncate(len(CONTENT))
    assert file.arrived < len(CONTENT)


def test_what_a_hub_has_begun_goes_on_from_there(spec: dict[str, Any]) -> None:
    (file,) = lan.pending(spec)
    part = disk.part_of(spec, file.entry)
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:5000])
    assert lan.pending(spec) == []
    file.folder.mkdir()
    file.path.write_bytes(CONTENT[: len(CONTENT) // 2])
    assert lan.pending(spec) == [file], "the LAN has sent more of it"


@pytest.mark.parametrize(("free", "stays"), [(1 << 40, True), (1 << 20, False)])
def test_what_the_lan_sent_in_vain_stays_where_the_disk_has_room(
    free: int, stays: bool, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = came(spec, CONTENT[:100_000])
    monkeypatch.setattr(fetching, "free_below", lambda top: free)

    class Breaks(hubs.Plain):
        def get(self, model: dict[str, Any], revision: str, entry: dict[str, Any], part: Path) -> None:
            raise hubs.Refused("it broke off")

    model = hubs.at(file.model, hubs.places_of(file.model)[0])
    with pytest.raises(hubs.Refused):
        fetching.download(spec, asking.There(model, "", Breaks()), file.entry)
    assert file.path.exists() is stays


def test_a_torrent_of_another_file_is_not_taken(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = lan.pending(spec)
    right = b"d4:infod6:lengthi%de4:name1:xee" % len(CONTENT)
    torrents = [b"d4:infod6:lengthi99999999999e4:name1:xee", right]

    class Opener:
        def open(self, url: str, timeout: float) -> io.BytesIO:
            return io.BytesIO(torrents.pop(0))

    monkeypatch.setattr(lan, "DIRECTLY", Opener())
    spec["lan"]["seeds"] = [{"address": f"10.0.0.{n}", "url": f"http://10.0.0.{n}/models"} for n in (1, 2)]
    assert lan.torrent_of(spec, file) == right
    assert "the seed 10.0.0.1 has another file in its torrent" in capsys.readouterr().out


def test_small_files_and_those_that_are_there_are_not_asked_for(spec: dict[str, Any]) -> None:
    (model,) = spec["models"]
    (file,) = lan.pending(spec)
    small = {**file.entry, "size": known.SHARED_BYTES - 1}
    manifests.write_manifest(model, {**file.manifest, "files": [small]})
    assert lan.pending(spec) == []
    manifests.write_manifest(model, {**file.manifest, "files": [file.entry]})
    final = Path(file.entry["path"])
    final.parent.mkdir(parents=True)
    final.write_bytes(CONTENT)
    assert lan.pending(spec) == [], "fetch looks at its content first"


def test_what_is_not_shared_yet_or_any_more_is_seen(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known.lan_problem({**spec, "lan": None}) is None
    monkeypatch.setattr(known, "SWARM_PROGRAMS", (str(tmp_path / "aria2c"),))
    assert known.lan_problem(spec) == f"{tmp_path / 'aria2c'} is missing"
    (tmp_path / "aria2c").touch(mode=0o755)
    lan.place(spec, came(spec, CONTENT), b"torrent")
    assert known.lan_problem(spec) == "the list of what is given is not up to date"
    assert lan.publish(spec) == []
    assert known.lan_problem(spec) is None
    assert Path(known.listed_path()).read_text() == (
        f"{spec['directory']}/.torrents/{SHA256}.torrent\n dir={spec['directory']}\n"
        " index-out=1=models.example.org/m/m.gguf\n"
    )
    Path(spec["directory"], ".torrents", f"{SHA256}.torrent").unlink()
    assert "has no torrent yet" in str(known.lan_problem(spec))
    alone = {**spec, "lan": None}
    assert known.lan_problem(alone) == "is not shared any more"
    assert lan.publish(alone) == []
    assert known.lan_problem(alone) is None
    assert not Path(spec["directory"], ".torrents").exists()


def test_the_torrent_of_a_model_that_is_gone_goes(spec: dict[str, Any]) -> None:
    lan.place(spec, came(spec, CONTENT), b"torrent")
    lan.publish(spec)
    lan.publish({**spec, "models": []})
    assert list(Path(spec["directory"], ".torrents").iterdir()) == []
    assert known.listed_text() == ""
