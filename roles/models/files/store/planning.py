# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/planning.py.
"""What each model consists of, as a hub lists it, and what its files say of the memory that it takes."""

from __future__ import annotations

import difflib
import fnmatch
import urllib.error
from collections.abc import Callable
from pathlib import Path

from .asking import There, ask, can_plan, each, same_file, there_at, to_plan
from .hubs import Hub, Refused, at, attempts, by_status, places_of, say
from .known import SHARD, Json, looked_into, read_manifest, shards, stat_of
from .manifests import dropped_of, inherit, planned, write_manifest
from .order import print_steps
from .shape import HEADER_FIRST, HEADER_LIMIT, Cut, Unknown, gguf_values, of_config, of_gguf

CONFIG_LIMIT = 1 << 20


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
