# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/disk.py.
"""What has arrived, and whether the disk has room for the rest."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from . import known
from .hubs import say
from .known import Json, read_manifest, stat_of
from .manifests import write_whole

DIGEST = re.compile("[0-9a-f]{40}([0-9a-f]{24})?")


def part_of(spec: Json, entry: Json) -> Path:
    """Return the partial file of an entry: named after its content."""
    return Path(spec["directory"], ".partial", entry["sha256"] or entry["git_sha1"])


def size_of(*paths: Path) -> int:
    """Return the size of the first of the files that exists, 0 for none; a client may rename them meanwhile."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
    return 0


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


def directory_before() -> str:
    """Return where models were kept when any were last to come; "" on a host to which none came."""
    note = Path(known.STATE, "directory")
    return note.read_text("utf-8") if note.exists() else ""


def tell_of_another_directory(spec: Json) -> None:
    """Say where downloads lie that were begun when models/directory was another one: they may be many gigabytes."""
    before, top = directory_before(), spec["directory"]
    left, here = Path(before, ".partial"), Path(top, ".partial")
    is_same = left.exists() and here.exists() and left.samefile(here)
    if before not in ("", top) and not is_same and left.is_dir() and any(left.iterdir()):
        say(
            f"models/directory: {left} has downloads that were begun when the directory was {before}. To go on from "
            f"there, move what is in it into {here} and run again; else remove it"
        )
    elif before != top:
        write_whole(Path(known.STATE, "directory"), top)


def space(spec: Json) -> list[str]:
    """Print the arithmetic of what is to come, and refuse when it does not fit: nothing has been downloaded then."""
    if not spec["models"]:
        for directory in {spec["directory"], directory_before() or spec["directory"]}:
            sweep({**spec, "directory": directory})
        return []
    tell_of_another_directory(spec)
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
        digest = path.name.split(".")[0]
        if DIGEST.fullmatch(digest) and digest not in waited_for:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with contextlib.suppress(OSError):  # something is waited for, or nothing was ever begun
        partial.rmdir()
