# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/lan.py.
"""
Models from the other hosts of the LAN, and for them: by aria2, as BitTorrent.

A seed has the torrent of each of its files on its pages, under the file's digest. Who wants the file takes the torrent
from there, and the file from whoever has parts of it. Hosts find each other by multicast (local peer discovery) and,
where switches let none of that through, by a DHT of their own, which a seed is the way into:
https://aria2.github.io/manual/en/html/aria2c.html. What has come is compared with the digest that the hub lists, and
only then moved to its place: no host of the LAN needs to be trusted.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

from . import commands, known
from .disk import arrived, begun, lan_part, part_of
from .fetching import put_in_place, wrong_digest
from .hubs import CA_BUNDLE, address_of, at, places_of, say
from .known import Json, digest_of, listed_path, looked_into, read_json, read_manifest, shared, stat_of, torrent_path
from .manifests import sync_directory, write_manifest, write_whole
from .order import revision_at
from .progress import progress

ARIA2, MKTORRENT = known.SWARM_PROGRAMS
RUN = Path("/run/metal2model-lan")
"""What the fetching unit reads; root's."""
USER = "model-swarm"
FETCHING = "model-fetch.service"
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""A proxy is for what is outside."""
ANSWER_SECONDS = 5
TORRENT_LIMIT = 32 << 20
STALLED_SECONDS = 30
"""Without a byte. A seed decides every ten seconds to whom it gives, and the last of many hosts is served by others."""


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    path, command = arguments
    if command == "seed":
        seed(read_json(path))
    return commands.run(arguments, {"prefetch": prefetch, "publish": publish})


# Fetching


@dataclass(frozen=True)
class Wanted:
    """A file that is to come."""

    model: Json
    manifest: Json
    entry: Json
    relative: str
    """Its place in the models directory."""
    path: Path
    """Where it is as long as it is not verified; in a directory that stays as long as the file is waited for."""

    @property
    def digest(self) -> str:
        """Return what names it for all hosts."""
        return digest_of(self.entry)

    @property
    def folder(self) -> Path:
        """Return the one directory that aria2 may write to for this file."""
        return self.path.parent

    @property
    def is_whole(self) -> bool:
        """Whether aria2 says that it is: then it has removed what it keeps beside the file."""
        found = stat_of(self.path)
        return found is not None and found[0] == self.entry["size"] and not Path(f"{self.path}.aria2").exists()

    @property
    def arrived(self) -> int:
        """Bytes that are there; pieces come in any order, with holes between them."""
        return arrived(self.path)


def prefetch(spec: Json) -> list[str]:
    """Have what the LAN has of what is to come; what it has not, `fetch` brings from outside."""
    lan = spec["lan"]
    files = pending(spec) if lan and not lan["own"] else []
    if files:
        lan["seeds"] = [one for one in lan["seeds"] if answers(one)]
    torrents = {file.digest: torrent for file in files if (torrent := torrent_of(spec, file))}
    files = [file for file in files if file.digest in torrents]
    if not files:
        return []
    run("systemctl", "daemon-reload")
    run("systemctl", "stop", FETCHING)  # of a run that was killed
    shutil.rmtree(RUN, ignore_errors=True)
    for file in files:
        file.folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(file.folder, USER, USER)
    left = files
    for source, addresses in stages(spec, files):
        receive(spec, left, torrents, source, addresses)
        left = [file for file in left if not file.is_whole]
        if not left:
            break
    for file in files:
        if file.is_whole:
            place(spec, file, torrents[file.digest])
            shutil.rmtree(file.folder)
        else:
            say(f"{named(file)}: the LAN has not all of it, or gives it no more")
    shutil.rmtree(RUN)
    return []


def pending(spec: Json) -> list[Wanted]:
    """Return the files that are to come and large enough to be asked for in the LAN, each digest once."""
    found: dict[str, Wanted] = {}
    for model in spec["models"]:
        manifest = read_manifest(model) if model["source"] != "path" else None
        for entry in manifest["files"] if manifest and looked_into(model, manifest) else []:
            here = stat_of(entry["path"])
            is_there = here is not None and (here == entry["stat"] or here[0] == entry["size"])
            # What a hub has begun goes on from there: the same bytes twice may be more than the disk has room for.
            part = part_of(spec, entry)
            is_there = is_there or begun(part) > arrived(lan_part(part))
            if not is_there and (entry["size"] or 0) >= known.SHARED_BYTES:
                relative = os.path.relpath(entry["path"], spec["directory"])
                found.setdefault(digest_of(entry), Wanted(model, manifest or {}, entry, relative, lan_part(part)))
    return list(found.values())


def answers(lan_seed: Json) -> bool:
    """Tell whether a seed is there."""
    url = urlsplit(lan_seed["url"])
    try:
        socket.create_connection((url.hostname, url.port or 80), ANSWER_SECONDS).close()
    except OSError as error:
        say(f"models: the seed {lan_seed['address']} does not answer: {error}")
        return False
    return True


def torrent_of(spec: Json, file: Wanted) -> bytes | None:
    """Return the torrent of a file from the first seed that has it."""
    for lan_seed in spec["lan"]["seeds"]:
        try:
            url = f"{lan_seed['url']}/.torrents/{file.digest}.torrent"
            with DIRECTLY.open(url, timeout=ANSWER_SECONDS) as answer:
                torrent: bytes = answer.read(TORRENT_LIMIT)
        except urllib.error.HTTPError as error:
            say(f"{named(file)}: the seed {lan_seed['address']} has it not (HTTP {error.code})")
        except OSError as error:
            say(f"{named(file)}: the seed {lan_seed['address']}: {error}")
        else:
            if b"6:lengthi%de" % file.entry["size"] in torrent:
                return torrent
            say(f"{named(file)}: the seed {lan_seed['address']} has another file in its torrent")
    return None


def stages(spec: Json, files: Sequence[Wanted]) -> Iterable[tuple[str, Callable[[Wanted], list[str]]]]:
    """Return where to look, one after the other: what has come from one is kept for the next, also by the others."""

    def pages(file: Wanted) -> list[str]:
        return [f"{url}/{quote(file.relative)}" for url in urls]

    def outside(file: Wanted, rank: int) -> list[str]:
        return [
            address_of(at(file.model, place), revision_at(place, file.manifest), file.entry["name"])
            for place in places_of(file.model)[rank : rank + 1]
        ]

    yield "from hosts of the LAN", lambda file: []
    if urls := [one["url"] for one in spec["lan"]["seeds"] if answers(one)]:
        yield "from hosts of the LAN and the seeds' pages", pages
    for rank in range(max(len(places_of(file.model)) for file in files)):
        yield "from hosts of the LAN and from outside", partial(outside, rank=rank)


def receive(
    spec: Json,
    files: Sequence[Wanted],
    torrents: dict[str, bytes],
    source: str,
    addresses: Callable[[Wanted], list[str]],
) -> None:
    """Let aria2 have files until they are whole or nothing comes any more."""
    lines = []
    RUN.mkdir(exist_ok=True)
    for file in files:
        torrent = RUN / f"{file.digest}.torrent"
        torrent.write_bytes(with_web_seeds(torrents[file.digest], addresses(file)))
        lines += [f"{torrent}\n dir={file.folder}\n index-out=1={file.digest}\n"]
    (RUN / "input").write_text("".join(lines))
    settings = {
        **common(spec),
        "input-file": RUN / "input",
        "listen-port": "6882-6889",
        "dht-listen-port": "6882-6889",
        "dht-file-path": "/tmp/dht.dat",
        "file-allocation": "none",
        "check-integrity": "true",
        "allow-overwrite": "true",
        "auto-save-interval": 5,
        "seed-time": 0,
        "bt-stop-timeout": STALLED_SECONDS,
        "connect-timeout": 10,
        "timeout": STALLED_SECONDS,
        "max-tries": 3,
        "retry-wait": 2,
        "ca-certificate": CA_BUNDLE,
        "user-agent": "metal2model",
    }
    (RUN / "aria2.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    total = sum(file.entry["size"] for file in files)
    name = files[0].entry["name"] if len(files) == 1 else f"{len(files)} files"
    with progress(files[0].model, {"name": f"{name} {source}", "size": total}, lambda: sum(f.arrived for f in files)):
        run("systemctl", "start", FETCHING)


def common(spec: Json) -> dict[str, object]:
    """Return aria2's settings for whoever gives or takes. No tracker: hosts of the LAN find each other."""
    seeds = [lan_seed["address"] for lan_seed in spec["lan"]["seeds"]]
    interface = {"bt-lpd-interface": own} if (own := own_address(spec)) else {}
    # Into its own DHT, aria2 takes one way; whoever comes after knows the others from there.
    entry = {"dht-entry-point": f"{seeds[0]}:{known.SWARM_PORT}"} if seeds and ":" not in seeds[0] else {}
    return {
        "bt-enable-lpd": "true",
        **interface,
        "enable-dht": "true",
        **entry,
        "bt-exclude-tracker": "*",
        "max-concurrent-downloads": 10000,
        "summary-interval": 0,
        "show-console-readout": "false",
        "console-log-level": "warn",
        "download-result": "hide",
    }


def own_address(spec: Json) -> str | None:
    """Return the address by which the other hosts reach this one: a seed's is declared, else the way to a seed says."""
    lan = spec["lan"]
    if lan["own"]:
        address: str = lan["own"]["address"]
        return address
    for lan_seed in lan["seeds"]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            try:
                way.connect((lan_seed["address"], known.SWARM_PORT))
            except OSError:
                continue
            return str(way.getsockname()[0])
    return None


def with_web_seeds(torrent: bytes, addresses: Sequence[str]) -> bytes:
    """
    Return a torrent that also names addresses of the file.

    ``url-list`` is the last of the keys, which stand in order: https://www.bittorrent.org/beps/bep_0019.html.
    """
    if not addresses:
        return torrent
    words = b"".join(b"%d:%s" % (len(address.encode()), address.encode()) for address in addresses)
    return torrent[:-1] + b"8:url-listl" + words + b"ee"


def place(spec: Json, file: Wanted, torrent: bytes) -> None:
    """Move a file to its place if it is the one that the hub lists, and keep its torrent, to give it to others."""
    if found := wrong_digest(file.entry, file.path):
        say(f"{named(file)}: what came from the LAN has {found}, required is {file.digest}; removed")
        return
    put_in_place(spec, file.path, file.entry)
    write_manifest(file.model, file.manifest)
    keep = Path(torrent_path(spec, file.digest))
    keep.parent.mkdir(exist_ok=True)
    part = keep.with_suffix(".part")
    part.write_bytes(torrent)
    rename(part, keep)


def rename(part: Path, final: Path) -> None:
    """Give a file its name, durably, once its content is on the disk."""
    with part.open("rb") as content:
        os.fsync(content.fileno())
    part.replace(final)
    sync_directory(final.parent)


def named(file: Wanted) -> str:
    """Return how a person knows the file."""
    return f"models/wanted/{file.model['name']}: {file.entry['name']}"


# Giving


def publish(spec: Json) -> list[str]:
    """Have a torrent of each verified file, and the list of them; or none of this where the host takes no part."""
    listed, folder = Path(listed_path()), Path(spec["directory"], ".torrents")
    if not spec["lan"]:
        shutil.rmtree(folder, ignore_errors=True)
        listed.unlink(missing_ok=True)  # last: it says that there is something to remove
        return []
    files = shared(spec)
    folder.mkdir(parents=True, exist_ok=True)
    for digest, path in files.items():
        torrent = Path(torrent_path(spec, digest))
        if torrent.exists():
            continue
        say(f"models: a torrent for {path}")
        part = torrent.with_suffix(".part")
        part.unlink(missing_ok=True)
        # From 16 GiB on larger pieces: a torrent has twenty bytes for each.
        length = min(max((Path(path).stat().st_size >> 14).bit_length(), 20), 24)
        # No date: all who make it make the same.
        made = run(MKTORRENT, "-d", "-l", str(length), "-n", digest, "-o", str(part), path)
        if made.returncode:
            return [f"models: {MKTORRENT} cannot read {path}: {made.stdout.strip()}"]
        rename(part, torrent)
    for left in folder.iterdir():
        if left.name.partition(".")[0] not in files or left.suffix != ".torrent":
            left.unlink()
    text = known.listing(spec, files)
    if not listed.exists() or listed.read_text("utf-8") != text:
        write_whole(listed, text)
    return []


def seed(spec: Json) -> None:
    """Become aria2, which gives what is listed. The files are read where they lie, and not compared again."""
    settings = {
        **common(spec),
        "no-conf": "true",
        "input-file": listed_path(),
        "listen-port": known.SWARM_PORT,
        "dht-listen-port": known.SWARM_PORT,
        "dht-file-path": f"{os.environ['STATE_DIRECTORY']}/dht.dat",
        "bt-seed-unverified": "true",
        "seed-ratio": "0.0",
    }
    os.execv(ARIA2, [ARIA2, *(f"--{name}={value}" for name, value in settings.items())])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, close_fds=False
    )
