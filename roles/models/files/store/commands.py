# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/commands.py.
"""What is done to have the models: the clients' environments, the plan, the disk's space, the files."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import known
from .hubs import (
    CA_BUNDLE,
    PIECE,
    DiskIsFull,
    GaveUp,
    Hub,
    Listed,
    Refused,
    Short,
    Unlike,
    at,
    attempts,
    by_status,
    hub_of,
    places_of,
    say,
)
from .known import (
    SHARD,
    Json,
    client_marker,
    client_problem,
    looked_into,
    manifest_path,
    model_problem,
    parents_below,
    path_problem,
    read_json,
    read_manifest,
    request_of,
    rights_of,
    shards,
    stat_of,
)
from .order import choose, chosen_order, print_steps, revision_at
from .shape import HEADER_FIRST, HEADER_LIMIT, Cut, Unknown, gguf_values, of_config, of_gguf

CONFIG_LIMIT = 1 << 20
PROGRESS_SECONDS = 10.0
OFTEN = 6
"""So many lines of progress come in this rhythm, later ones six times slower: forty hosts write into one log."""


def main(arguments: list[str]) -> int:
    """Run one command; return the exit status."""
    commands: dict[str, Callable[..., list[str]]] = {
        "environment": environment,
        "steps": steps,
        "plan": plan,
        "space": space,
        "order": choose,
        "fetch": fetch,
    }
    return run(arguments, commands)


def run(arguments: list[str], commands: dict[str, Callable[..., list[str]]]) -> int:
    """Run a command, alone; return 1 when it could not do something, 2 when the disk is full."""
    os.umask(0o022)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    path, command, *rest = arguments
    full = False
    try:
        with only_one():
            problems = commands[command](read_json(path), *rest)
    except DiskIsFull as refusal:
        problems, full = [str(refusal)], True
    except Refused as refusal:
        problems = [str(refusal)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2 if full else 1 if problems else 0


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Wait for any other run; children hold the lock too, so one that outlives a killed run is waited for."""
    state = Path(known.STATE)
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as lock:
        os.set_inheritable(lock.fileno(), True)
        waited = 0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % 30 == 0:
                    # Not to standard output, where the shell may read.
                    text = "models: another run works on the models of this host; waiting for it"
                    print(text, file=sys.stderr, flush=True)
                time.sleep(1)
                waited += 1
        yield


# Manifests


def write_manifest(model: Json, manifest: Json) -> None:
    """Replace a manifest, whole or not at all."""
    whole = {
        **manifest,
        "written_by": "metal2model, role models",
        "request": request_of(model),
        "places": model["places"],
    }
    write_whole(Path(manifest_path(model)), json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Have a file with this text even after a power cut, or the one that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The clients' environments


def environment(spec: Json, name: str, rank: str, command: str) -> list[str]:
    """
    Have the virtual environment of a hub's client; it counts only once its marker stands, so a killed one is redone.

    That of a hub that is only asked when others fail, once it is. pip uses the host's own configuration (the mirrors
    role writes it) and takes only what the hashes allow.
    """
    client = spec["clients"].get(name)
    if client is None or client_problem(client) is None:
        return []
    if not client["needed"] and not (to_plan if command == "plan" else to_fetch)(spec, name, int(rank)):
        return []
    home = Path(client["root"], client["version"])
    say(f"models: installing {client['package']} {client['version']} into {home}")
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off"]
    only = ["--require-hashes", "--no-deps", "--only-binary=:all:", "-r", client["requirements"]]
    steps = [
        [sys.executable, "-m", "venv", str(home)],
        [str(home / "bin/python"), "-m", "pip", "install", *quiet, *only],
        [str(home / "bin/python"), "-c", f"import {client['module']}"],
    ]
    # An older pip brings its own list of authorities; the host's has the company's. pip.conf's `cert` goes before it.
    settings = {**os.environ, "REQUESTS_CA_BUNDLE": CA_BUNDLE} if Path(CA_BUNDLE).exists() else dict(os.environ)
    for step in steps:
        done = subprocess.run(
            step, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, close_fds=False
        )
        if done.returncode:
            output = done.stdout.decode("utf-8", "replace").strip()
            return [
                output,
                f"models/hub: the client {client['package']} {client['version']} could not be installed into {home}: "
                f"{' '.join(step[:4])} ... ended with {done.returncode}, see above. It is needed to read what the hub "
                f"lists. Check that python3-venv is installed and that pip reaches an index (mirrors), then run again.",
            ]
    write_whole(home / ".complete", json.dumps(client_marker(client)))
    link = home.parent / "current.part"
    link.unlink(missing_ok=True)
    link.symlink_to(client["version"])
    link.replace(home.parent / "current")
    return []


# Planning


@dataclass(frozen=True)
class There:
    """A place while it is asked for one model's files."""

    model: Json
    """As the place has it."""
    revision: str
    hub: Hub
    listed: dict[str, Json] | None = None
    """Name -> what it lists, where that is not what was written down: the same name may be another file."""


Due = tuple[Json, Json, "Json | None"]
"""A model, a place to ask for it, and the next one if that fails."""


def due(spec: Json, hub: str, rank: int, orders: list[list[Json]]) -> list[Due]:
    """Return the models that are not as wanted, and whose place of this rank is such a hub."""
    found: list[Due] = []
    for model, places in zip(spec["models"], orders, strict=True):
        if rank < len(places) and places[rank]["hub"] == hub and model_problem(spec, model) is not None:
            found.append((model, places[rank], places[rank + 1] if rank + 1 < len(places) else None))
    return found


def to_plan(spec: Json, hub: str, rank: int) -> list[Due]:
    """Return what is to be listed, or only looked into, by such a hub."""
    found = due(spec, hub, rank, [places_of(model) for model in spec["models"]])
    return [one for one in found if one[0]["source"] != "path" and not is_planned(one[0]) and can_plan(*one[:2])]


def can_plan(model: Json, place: Json) -> bool:
    """Tell whether a place can bring a plan further: its listing counts, or what the model consists of is known."""
    return bool(place["lists"]) or read_manifest(model) is not None


def to_fetch(spec: Json, hub: str, rank: int) -> list[Due]:
    """Return what is to come from such a hub; of what could not be planned, only the first place shall say so."""
    found = due(spec, hub, rank, [chosen_order(model) for model in spec["models"]])
    return [one for one in found if rank == 0 or can_fetch(*one[:2])]


def can_fetch(model: Json, place: Json) -> bool:
    """Tell whether it is known what to ask a place for."""
    return model["source"] == "path" or is_planned(model)


def steps(spec: Json) -> list[str]:
    """Print the steps in which listings are asked for."""
    print_steps(spec, [places_of(model) for model in spec["models"]])
    return []


def plan(spec: Json, hub: str, rank: str) -> list[str]:
    """
    Write down what each model consists of: once, so that a branch that moves on does not move the host.

    And, where somebody wants to know, what its files say of the memory that it takes.
    """

    def one(model: Json, place: Json, hub: Hub) -> None:
        manifest = read_manifest(model)
        if manifest is None:
            manifest = listing_of(spec, model, place, hub)
            write_manifest(model, manifest)
        if not looked_into(model, manifest):
            manifest["shape"] = look_into(spec, there_at(spec, model, place, manifest, hub), manifest)
            write_manifest(model, manifest)

    return each(spec, to_plan(spec, hub, int(rank)), one, can_plan)


def each(
    spec: Json,
    dues: list[Due],
    work: Callable[[Json, Json, Hub], None],
    can_do: Callable[[Json, Json], bool],
) -> list[str]:
    """Do the work for each model; return what went wrong, and cannot be done by another place."""
    problems = []
    hubs: dict[str, Hub] = {}
    silent: set[str] = set()
    for model, place, other in dues:
        endpoint = place["endpoint"]
        try:
            if endpoint in silent and other is not None and can_do(model, other):
                raise Refused(f"{endpoint} has just not answered for another model")
            if endpoint not in hubs:
                hubs[endpoint] = hub_of(spec, place)
            work(model, place, hubs[endpoint])
        except DiskIsFull as refusal:
            raise DiskIsFull(f"models/wanted/{model['name']}: {refusal}.") from refusal
        except Refused as refusal:
            if isinstance(refusal, GaveUp):
                silent.add(endpoint)
            if other is not None and can_do(model, other):
                text = f"{refusal}. Now {other['endpoint']} is asked"
                print(f"models/wanted/{model['name']}: {text}.", file=sys.stderr, flush=True)
                continue
            others = ". That was the last place; above stands why the others could not"
            text = f"{refusal}{others if len(places_of(model)) > 1 else ''}"
            problems.append(f"models/wanted/{model['name']}: {text}.")
    return problems


def there_at(spec: Json, model: Json, place: Json, manifest: Json, hub: Hub) -> There:
    """Return a place as it is to be asked for what the manifest names."""
    there = There(at(model, place), revision_at(place, manifest), hub)
    if (place["hub"], place["repo"]) == (manifest["hub"], manifest["repo"]):
        return there
    revision, listed = ask(spec, there)
    return There(there.model, revision, hub, {item["name"]: item for item in listed})


def is_planned(model: Json) -> bool:
    """Tell whether all that is to be written down of a model is."""
    manifest = read_manifest(model)
    return manifest is not None and looked_into(model, manifest)


def listing_of(spec: Json, model: Json, place: Json, hub: Hub) -> Json:
    """Return a new manifest: the files that are wanted of what the hub lists."""
    before = read_manifest(model, of_any_request=True)
    here = at(model, place)
    revision, listed = ask(spec, There(here, revision_of(here, before), hub))
    files = [planned(model, item) for item in chosen(here, listed)]
    inherit(files, before)
    dropped = dropped_of(files, before)
    where = f" at {revision}" if revision else ""
    total = sum(item["size"] or 0 for item in files)
    say(f"models/wanted/{model['name']}: {here['repo'] or here['url']}{where}: {len(files)} files, {total} bytes")
    return {"hub": place["hub"], "repo": place["repo"], "revision": revision, "files": files, "dropped": dropped}


def look_into(spec: Json, there: There, manifest: Json) -> Json | None:
    """Return the shape of a model by its own files, of which only the beginning of one is read; None for no shape."""
    model = there.model
    by_name = {entry["name"]: entry for entry in manifest["files"]}
    name = model["look_into"]

    def begin(count: int) -> bytes:
        return beginning(spec, there, by_name[name], count=count)

    try:
        if name not in by_name:
            raise Unknown(f"{name} is not among the files that are wanted")
        if name.endswith(".gguf"):
            match = SHARD.fullmatch(name)
            parts = shards(match) if match else [name]
            found = of_gguf(header(begin), sum(by_name[part]["size"] or 0 for part in parts))
        else:
            found = of_config(begin(CONFIG_LIMIT).decode("utf-8", "replace"), weights_in(manifest["files"]))
    except Unknown as unknown:
        say(f"models/wanted/{model['name']}: whether it fits into memory is not known: {unknown}")
        return None
    told = ", ".join(f"{key} {value}" for key, value in found["attention"].items() if value is not None)
    say(f"models/wanted/{model['name']}: {name}: {told}; {found['size_bytes']} bytes of weights")
    return found


def weights_in(files: list[Json]) -> int:
    """
    Return the size of the weights in transformers' layout: safetensors, else what torch wrote.

    Some repositories have them once more, in their maker's own layout: in a directory, or as consolidated.*.
    """
    for ending in (".safetensors", ".bin"):
        sizes = {entry["name"]: int(entry["size"] or 0) for entry in files if entry["name"].endswith(ending)}
        usual = [size for name, size in sizes.items() if "/" not in name and not name.startswith("consolidated")]
        if usual or sizes:
            return sum(usual or sizes.values())
    raise Unknown("there are no safetensors among the files that are wanted")


def header(begin: Callable[[int], bytes]) -> Json:
    """Return the values of a GGUF's header, reading as little of the file as that takes."""
    count = HEADER_FIRST
    while True:
        data = begin(count)
        try:
            return gguf_values(data)
        except Cut:
            if len(data) < count or count >= HEADER_LIMIT:
                raise Unknown(f"its header does not end within {len(data)} bytes") from None
        count = min(count * 8, HEADER_LIMIT)


def beginning(spec: Json, there: There, entry: Json, *, count: int) -> bytes:
    """Return the first bytes of a file: of the one that stands on the host, else of the hub's."""
    if entry["stat"] is not None and entry["stat"] == stat_of(entry["path"]):
        with Path(entry["path"]).open("rb") as file:
            return file.read(count)
    count = count if entry["size"] is None else min(count, entry["size"])

    def explain(error: Exception) -> str:
        if isinstance(error, urllib.error.HTTPError) and there.model["repo"]:
            return by_status(error.code, there.model["repo"], there.hub.endpoint, str(error))
        return there.hub.explain(there.model, there.revision, error)

    same_file(there, entry)
    data: bytes = attempts(
        spec,
        there.model,
        lambda: 0,
        lambda: there.hub.begin(there.model, there.revision, entry["name"], count),
        explain,
    )
    return data


def revision_of(here: Json, before: Json | None) -> str:
    """Return the revision to list: what the same name meant when this host first asked, also for other files of it."""
    if before is None or (before["hub"], before["repo"]) != (here["hub"], here["repo"]):
        return str(here["revision"])
    asked = [
        place["revision"] for place in before["places"] if (place["hub"], place["repo"]) == (here["hub"], here["repo"])
    ]
    return str(before["revision"] if here["revision"] in asked else here["revision"])


def ask(spec: Json, there: There) -> Listed:
    """Return a hub's listing of a repository."""
    listed: Listed = attempts(
        spec,
        there.model,
        lambda: 0,
        lambda: there.hub.listing(there.model, there.revision),
        lambda error: there.hub.explain(there.model, there.revision, error),
    )
    return listed


def chosen(model: Json, listed: list[Json]) -> list[Json]:
    """Return the files that are wanted: exact names, globs (`*` crosses directories), and all parts of a split GGUF."""
    by_name = {item["name"]: item for item in listed}
    names: dict[str, None] = {}
    for pattern in model["files"] or ["*"]:
        found = [name for name in by_name if name == pattern or fnmatch.fnmatchcase(name, pattern)]
        if not found:
            close = difflib.get_close_matches(pattern, by_name, n=3, cutoff=0.4)
            hint = f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
            raise Refused(
                f"files: {model['repo']} has {len(by_name)} files, and none is {pattern!r}{hint}. Write one of them, "
                f"or a glob such as '*Q4_K_M*'"
            )
        names.update(dict.fromkeys(found))
    for name in list(names):
        if match := SHARD.fullmatch(name):
            names.update(dict.fromkeys(shards(match)))
    if lost := [name for name in names if name not in by_name]:
        raise Refused(f"files: {model['repo']} lacks {lost[0]!r}, which is a part of a file that is wanted")
    return [by_name[name] for name in names]


def planned(model: Json, item: Json) -> Json:
    """Return the manifest's entry of a listed file."""
    path = Path(model["directory"], item["name"])
    if ".." in path.parts or not path.is_relative_to(model["directory"]):
        raise Refused(f"{item['name']!r} in the hub's listing would leave {model['directory']}; the listing is refused")
    known = (model["digests"] or {}).get(item["name"])
    if known and item.get("sha256", known) != known:
        raise Refused(
            f"the hub lists {item['name']} with sha256 {item['sha256']}, files/models.yaml knows it with {known}: it "
            f"was replaced, or this is not the hub that you think. Nothing was downloaded. Compare both with the "
            f"publisher's page; correct files/models.yaml when the new file is meant"
        )
    return {
        "name": item["name"],
        "path": str(path),
        "size": item["size"],
        "sha256": item.get("sha256") or known,
        "git_sha1": item.get("git_sha1"),
        "stat": None,
        "replaces": None,
    }


def inherit(files: list[Json], before: Json | None) -> None:
    """Take over what is verified already; and keep a verified older file in its place until the new one is whole."""
    known = {entry["path"]: entry for entry in before["files"]} if before else {}
    for entry in files:
        if old := known.get(entry["path"]):
            # A file that the user put there (`accept`) was written down without what a hub lists.
            same = all(old.get(key) == entry[key] for key in ("size", "sha256", "git_sha1"))
            entry["stat" if same else "replaces"] = old["stat"]


def dropped_of(files: list[Json], before: Json | None) -> list[Json]:
    """Return the files that the model had before and has no more; a file of the user's own is none of them."""
    paths = {entry["path"] for entry in files}
    if before is None:
        return []
    had = [*before.get("dropped", ())]
    if before["request"]["source"] != "path":
        folder = before["request"]["directory"]
        had += [{"path": one["path"], "stat": one["stat"], "directory": folder} for one in before["files"]]
    return [entry for entry in had if entry["path"] not in paths]


# Space


def part_of(spec: Json, entry: Json) -> Path:
    """Return the partial file of an entry: named after its content."""
    return Path(spec["directory"], ".partial", entry["sha256"] or entry["git_sha1"])


def size_of(*paths: Path) -> int:
    """Return the size of the first of the files that exists, 0 for none."""
    return next((path.stat().st_size for path in paths if path.exists()), 0)


def begun(part: Path) -> int:
    """Return the bytes that hubs have sent of a file."""
    return size_of(part, *Path(f"{part}.modelscope").rglob("*.incomplete"))


def free_below(top: Path) -> int:
    """Return the bytes that are free on the file system of a directory."""
    found = os.statvfs(top)
    return found.f_bavail * found.f_frsize


def lan_part(part: Path) -> Path:
    """Return where a file is as long as hosts of the LAN send it: under its digest, in a directory of its own."""
    return part.with_name(f"{part.name}.lan") / part.name


def arrived(path: Path) -> int:
    """Return the bytes that are there of a file with holes."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return min(found.st_blocks * 512, found.st_size)


def space(spec: Json) -> list[str]:
    """Print the arithmetic of what is to come, and refuse when it does not fit: nothing has been downloaded then."""
    pending: dict[str, Json] = {}
    for model in spec["models"]:
        manifest = read_manifest(model)
        for entry in manifest["files"] if manifest and model["source"] != "path" else []:
            if entry["stat"] is None or entry["stat"] != stat_of(entry["path"]):
                pending.setdefault(entry["path"], entry)
    if not pending:
        return []
    top = Path(spec["directory"])
    top.mkdir(parents=True, exist_ok=True)
    to_come = 0
    say(f"models: disk space under {top}, in bytes:")
    for path, entry in pending.items():
        part = part_of(spec, entry)
        there = size_of(Path(path)) if entry["replaces"] is None else 0
        if there != entry["size"]:
            there = max(begun(part), arrived(lan_part(part)))
        missing = max((entry["size"] or 0) - there, 0)
        to_come += missing
        say(f"  {entry['size'] or 'unknown'} - {there} there already = {missing} to come: {path}")
    have, keep = free_below(top), spec["keep_free_bytes"]
    sum_text = f"{to_come} to come + {keep} to stay free = {to_come + keep} required, {have} free"
    if to_come == 0 or to_come + keep <= have:
        say(f"  {sum_text}: enough")
        return []
    return [
        f"models/directory: {top}: {sum_text}: {to_come + keep - have} bytes short, so nothing was downloaded. "
        f"Make room, set models/directory to a larger disk, want fewer or smaller models, or lower "
        f"models/keep_free_mib (now {keep >> 20})."
    ]


# Fetching


def fetch(spec: Json, hub: str, rank: str) -> list[str]:
    """Have every file of the models that this hub is asked for in its place, verified."""

    def one(model: Json, place: Json, hub: Hub) -> None:
        if model["source"] == "path":
            accept(model)
            return
        manifest = read_manifest(model)
        if manifest is None or not looked_into(model, manifest):
            raise Refused("not enough is known of it; see above why")
        there = there_at(spec, model, place, manifest, hub)
        unlike: list[Unlike] = []
        for entry in manifest["files"]:
            try:
                have(spec, there, entry)
            except Unlike as refusal:
                unlike.append(refusal)
            write_manifest(model, manifest)
        if unlike:
            raise unlike[0]
        say(f"models/wanted/{model['name']}: complete, {len(manifest['files'])} files verified")

    problems = each(spec, to_fetch(spec, hub, int(rank)), one, can_fetch)
    if not problems:
        sweep(spec)
    return problems


def accept(model: Json) -> None:
    """Verify a file that the user put there; it stays as it is."""
    if problem := path_problem(model):
        raise Refused(f"path: {problem}. Put the model there, or correct the path")
    if model["sha256"] is None:
        return
    had = read_manifest(model, of_any_request=True)
    before = stat_of(model["path"])
    found = digest(Path(model["path"]), "sha256")
    if found != model["sha256"]:
        raise Refused(
            f"sha256: {model['path']} has {found}, required is {model['sha256']}. It is not the file that is meant, "
            f"and was left as it is. Replace it, or correct sha256"
        )
    entry = {"name": Path(model["path"]).name, "path": model["path"], "stat": before}
    dropped = dropped_of([entry], had)
    write_manifest(model, {"hub": "plain", "repo": None, "revision": "", "files": [entry], "dropped": dropped})


def have(spec: Json, there: There, entry: Json) -> None:
    """Have one file in its place: as it is, after another look at its content, or downloaded."""
    final, part = Path(entry["path"]), part_of(spec, entry)
    found = stat_of(final)
    name = there.model["name"]
    is_right = found is not None and found == entry["stat"]
    if found is not None and not is_right and found[0] == entry["size"]:
        say(f"models/wanted/{name}: {final} is there and not known to be right; reading it")
        is_right = wrong_digest(entry, final) is None
    if is_right:
        accepted(spec, entry)
        return
    if os.path.lexists(final) and (found is None or found != entry["replaces"]):
        say(f"models/wanted/{name}: {final} is not the file that the hub lists; removed")
        final.unlink()
    download(spec, there, entry)
    put_in_place(spec, part, entry)
    discard(part)


def put_in_place(spec: Json, part: Path, entry: Json) -> None:
    """Give a verified file its name, durably."""
    final = Path(entry["path"])
    with part.open("rb") as file:
        os.fsync(file.fileno())
    for parent in map(Path, parents_below(spec, str(final))):
        parent.mkdir(exist_ok=True)
    settle(spec, part)
    part.replace(final)
    sync_directory(final.parent)
    accepted(spec, entry)


def accepted(spec: Json, entry: Json) -> None:
    """Write down that the file that stands in its place is right."""
    settle(spec, Path(entry["path"]))
    entry.update(stat=stat_of(entry["path"]), replaces=None)


def settle(spec: Json, path: Path) -> None:
    """
    Give a file, and the directories above it, to root: read-only, and readable by the engines' users.

    What is so already is not touched: that alone would change its ctime, and another model's manifest may have that.
    """
    partial = Path(spec["directory"], ".partial")
    parents = [parent for parent in map(Path, parents_below(spec, str(path))) if parent != partial]
    for place, mode in [(path, 0o444), *((parent, 0o755) for parent in parents)]:
        if rights_of(place) != (known.OWNER, mode):
            os.chown(place, *known.OWNER)
            place.chmod(mode)


def same_file(there: There, entry: Json) -> None:
    """Refuse a place that has another file of this name, as far as its listing tells, before the first byte of it."""
    if there.listed is None:
        return
    item = there.listed.get(entry["name"])
    alike = item is not None and item["size"] == entry["size"] and all(
        item.get(kind) == entry[kind] for kind in ("sha256", "git_sha1") if item.get(kind) and entry[kind]
    )  # fmt: skip
    if not alike:
        raise Unlike(
            f"{there.hub.endpoint} has no {entry['name']} with the same content in {there.model['repo']} at "
            f"{there.revision}, so it cannot give the rest of it"
        )


def take_over(part: Path, watched: Path, name: str) -> None:
    """Let a hub's client go on with what another one has brought: they leave their partial files in other places."""
    whole = Path(f"{part}.modelscope", name)
    found = [path for path in (part, whole, whole.with_name(f"{whole.name}.incomplete")) if path.exists()]
    longest = max(found, key=size_of, default=watched)
    if longest != watched:
        watched.parent.mkdir(parents=True, exist_ok=True)
        longest.replace(watched)


def download(spec: Json, there: There, entry: Json) -> None:
    """Have the partial file complete and verified; one that is wrong is deleted."""
    model, hub = there.model, there.hub
    part = part_of(spec, entry)
    part.parent.mkdir(parents=True, exist_ok=True)
    watched = hub.watched(entry, part)
    if entry["size"] is None or size_of(part) != entry["size"]:
        same_file(there, entry)
        take_over(part, watched, entry["name"])
        missing = (entry["size"] or 0) - size_of(watched)
        # What the LAN sent of it has holes, and a hub's client could not go on there. It is of use to a later run if
        # this one ends badly, but not worth the room that was reckoned with.
        if missing + spec["keep_free_bytes"] > free_below(part.parent):
            shutil.rmtree(lan_part(part).parent, ignore_errors=True)

    def work() -> None:
        if entry["size"] is not None and size_of(part) == entry["size"] > 0:
            return
        hub.get(model, there.revision, entry, part)
        if entry["size"] is not None and size_of(part) < entry["size"]:
            raise Short(f"{entry['name']} ended after {size_of(part)} of {entry['size']} bytes")

    with progress(model, entry, lambda: size_of(part, watched)):
        attempts(spec, model, lambda: size_of(part, watched), work,
                 lambda error: hub.explain(model, there.revision, error))  # fmt: skip
    arrived = size_of(part)
    if entry["size"] is not None and arrived != entry["size"]:
        discard(part)
        raise Refused(
            f"{entry['name']} has {arrived} bytes, the hub lists {entry['size']}. It was deleted. Run again; if it "
            f"happens again the hub or mirror serves another file than it lists: use another one"
        )
    if found := wrong_digest(entry, part):
        discard(part)
        required = entry["sha256"] or entry["git_sha1"]
        raise Refused(
            f"sha256: {entry['name']} came with {found}, required is {required}. A changed file must not be "
            f"loaded, so it was deleted. Run again; if it happens again, "
            + (
                "compare sha256 with what the publisher says"
                if model["source"] == "url"
                else "the hub or mirror serves another file than it lists: use another one"
            )
        )


def discard(part: Path) -> None:
    """Remove a partial file and what is kept beside it."""
    for path in (part, part.with_name(part.name + ".validator")):
        path.unlink(missing_ok=True)


def wrong_digest(entry: Json, path: Path) -> str | None:
    """Return the digest of a file when it is not the listed one; git's for small files, which the hub lists only so."""
    if entry["sha256"]:
        found = digest(path, "sha256")
        return None if found == entry["sha256"] else found
    found = digest(path, "sha1", b"blob %d\0" % path.stat().st_size)
    return None if found == entry["git_sha1"] else found


def digest(path: Path, kind: str, prefix: bytes = b"") -> str:
    """Return the hexadecimal digest of a file, after a prefix."""
    value = hashlib.new(kind, prefix, usedforsecurity=kind != "sha1")
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            value.update(piece)
    return value.hexdigest()


@contextlib.contextmanager
def progress(model: Json, entry: Json, size: Callable[[], int]) -> Iterator[None]:
    """Print how far a download is, every few seconds."""
    done = threading.Event()
    total = entry["size"]

    def report() -> None:
        before, told, lines = size(), time.monotonic(), 0
        while not done.wait(PROGRESS_SECONDS if lines < OFTEN else OFTEN * PROGRESS_SECONDS):
            now, moment = size(), time.monotonic()
            if now == before:
                continue
            share = f" of {total / 1e6:.0f} MB ({100 * now // total} %)" if total else " MB"
            rate = max(now - before, 0) / (moment - told)
            left = f", {duration((total - now) / rate)} left" if total and rate else ""
            before, told, lines = now, moment, lines + 1
            text = f"{now / 1e6:.0f}{share}, {rate / 1e6:.1f} MB/s{left}"
            try:
                say(f"models/wanted/{model['name']}: {entry['name']}: {text}")
            except OSError:
                os._exit(1)  # the run that asked is gone, and with it whoever would hear of a failure

    begun, start = size(), time.monotonic()
    resumed = f", {begun} there already" if begun else ""
    say(f"models/wanted/{model['name']}: {entry['name']}: {total if total is not None else 'unknown'} bytes{resumed}")
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        done.set()
        reporter.join()
    if (seconds := time.monotonic() - start) > PROGRESS_SECONDS:
        rate = max(size() - begun, 0) / seconds / 1e6
        say(f"models/wanted/{model['name']}: {entry['name']}: {size()} bytes there, {rate:.1f} MB/s; verifying")


def duration(seconds: float) -> str:
    """Return a time as people say it, in two units at most."""
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def sweep(spec: Json) -> None:
    """
    Remove partial files that nothing waits for: of a revision or a model that is no longer wanted.

    Manifests outlive their models, so only those of wanted models count. While one of these is not planned, any
    partial file may turn out to be its own, and all are kept.
    """
    waited_for = set()
    for model in spec["models"]:
        if model["source"] == "path":
            continue
        manifest = read_manifest(model)
        if manifest is None:
            return
        for entry in manifest["files"]:
            if entry["stat"] is None or entry["stat"] != stat_of(entry["path"]):
                waited_for.add(entry["sha256"] or entry["git_sha1"])
    partial = Path(spec["directory"], ".partial")
    for path in partial.iterdir() if partial.is_dir() else ():
        if path.name.split(".")[0] not in waited_for:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):  # something is waited for, or nothing was ever begun
        partial.rmdir()
