# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/fetching.py.
"""Every file of the wanted models in its place, verified."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from . import known
from .asking import There, can_fetch, each, same_file, there_at, to_fetch
from .disk import free_below, lan_part, part_of, size_of, sweep
from .hubs import PIECE, Hub, Refused, Short, TooSlow, Unlike, at, attempts, places_of, say
from .known import Json, looked_into, parents_below, path_problem, read_manifest, rights_of, stat_of
from .leaving import unless_slow
from .manifests import dropped_of, sync_directory, write_manifest
from .order import ask_again, chosen_order, revision_at
from .progress import progress


def fetch(spec: Json, hub: str, rank: str) -> list[str]:
    """Have every file of the models that this hub is asked for in its place, verified."""

    def one(model: Json, place: Json, hub: Hub) -> None:
        if model["source"] == "path":
            accept(model)
            return
        manifest = read_manifest(model)
        if manifest is None or not looked_into(model, manifest):
            raise Refused("not enough is known of it; see above why")
        there = replace(there_at(spec, model, place, manifest, hub), other=other_of(model, int(rank), manifest))
        unlike: list[Unlike] = []
        for entry in manifest["files"]:
            try:
                have(spec, there, entry)
            except Unlike as refusal:
                unlike.append(refusal)
            except TooSlow:
                ask_again(model, place)
                raise
            write_manifest(model, manifest)
        if unlike:
            raise unlike[0]
        say(f"models/wanted/{model['name']}: complete, {len(manifest['files'])} files verified")

    problems = each(spec, to_fetch(spec, hub, int(rank)), one, can_fetch)
    if not problems:
        sweep(spec)
    return problems


def other_of(model: Json, rank: int, manifest: Json) -> tuple[Json, str] | None:
    """Return what a place that has become slow may be left for. One that is asked again is not left again."""
    if rank + 1 >= len(places_of(model)):
        return None
    other = chosen_order(model)[rank + 1]
    return at(model, other), revision_at(other, manifest)


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

    def size() -> int:
        return size_of(part, watched)

    def keep_on() -> None:
        attempts(spec, model, size, work, lambda error: hub.explain(model, there.revision, error))

    with progress(model, entry, size):
        unless_slow(spec, there, entry, size, keep_on)
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
