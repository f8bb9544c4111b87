# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/unwanted.py.
"""Models that nobody wants any more: who still uses them, and their removal."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from . import known
from .commands import only_one
from .known import Json, read_json, stat_of

PROC = Path("/proc")


def main(arguments: list[str]) -> None:
    """
    Print, as JSON, name -> paths, bytes, and who uses them; with "remove", those that nobody uses are removed before.

    Arguments: path of the specification, JSON list of directories whose links lead to models in use; and "remove".
    """
    path, links, *rest = arguments
    spec: Json = read_json(path)
    if rest == ["remove"]:
        with only_one():
            found = look(spec, json.loads(links))
            for name, one in found.items():
                if not one["users"]:
                    remove(name, one["paths"])
            forget(spec)
    else:
        found = look(spec, json.loads(links))
    print(json.dumps(found))


def look(spec: Json, links: list[str]) -> dict[str, Json]:
    """Return the models that nobody wants, and who uses them."""
    return {
        name: {"paths": paths, "bytes": sum(map(os.path.getsize, paths)), "users": users(paths, links)}
        for name, paths in known.unwanted(spec).items()
    }


def users(paths: list[str], links: list[str]) -> list[str]:
    """
    Return who has one of the files open or mapped, or on the command line: a server may have closed what it loaded.

    A container's servers are found by the unit's `docker run`, which names the directory.
    """
    files = {identity(Path(path).stat()) for path in paths}
    words = {os.fsencode(word) for path in paths for word in (path, os.path.realpath(path), str(Path(path).parent))}
    found = [who for one in PROC.iterdir() if one.name.isdigit() and (who := user(one, files, words))]
    for directory in links:
        with contextlib.suppress(FileNotFoundError):
            found += [str(e) for e in Path(directory).iterdir() if e.is_symlink() and opened(e) in files]
    return sorted(found)


def user(process: Path, files: set[tuple[int, int]], words: set[bytes]) -> str:
    """Return what a process is called, if it uses one of the files; else "". It may end meanwhile."""
    if process.name == str(os.getpid()):
        return ""
    with contextlib.suppress(OSError):
        line = (process / "cmdline").read_bytes()
        if any(names(line, word) for word in words) or any(opened(entry) in files for entry in held(process)):
            return f"{(process / 'comm').read_text('utf-8').strip()} ({process.name})"
    return ""


def held(process: Path) -> list[Path]:
    """Return links to what a process has open or mapped: proc_pid_fd(5), proc_pid_map_files(5)."""
    found: list[Path] = []
    for kind in ("fd", "map_files"):
        with contextlib.suppress(OSError):
            found += (process / kind).iterdir()
    return found


def opened(link: Path) -> tuple[int, int] | None:
    """Return which file a link in /proc leads to, even one that has another name where the process is."""
    with contextlib.suppress(OSError):
        return identity(link.stat())
    return None


def names(line: bytes, word: bytes) -> bool:
    """Tell whether a path ends in a command line, and is not the beginning of a longer one."""
    ends = (b"", b"\0", b":", b",", b" ", b'"', b"'")
    return any(part.removeprefix(b"/")[:1] in ends for part in line.split(word)[1:])


def identity(found: os.stat_result) -> tuple[int, int]:
    """Return what two names of one file have in common."""
    return found.st_dev, found.st_ino


def remove(name: str, paths: list[str]) -> None:
    """Remove the files, and the directories that are empty then."""
    manifest = known.all_manifests()[name]
    folders = {entry["path"]: entry["directory"] for entry in manifest.get("dropped", ())}
    for path in paths:
        Path(path).unlink(missing_ok=True)
        # Below the models directory of then: DIRECTORY/publisher/name.
        top = Path(folders.get(path) or manifest["request"]["directory"]).parents[1]
        with contextlib.suppress(OSError):  # not empty
            for folder in Path(path).parents:
                if top not in folder.parents:
                    break
                folder.rmdir()


def forget(spec: Json) -> None:
    """Forget the models that nobody wants and of which nothing is left."""
    wanted = {model["name"] for model in spec["models"]}
    for name, manifest in known.all_manifests().items():
        entries = [*manifest["files"], *manifest.get("dropped", ())]
        stands = any(entry["stat"] is not None and entry["stat"] == stat_of(entry["path"]) for entry in entries)
        if name not in wanted and not stands:
            Path(known.STATE, f"{name}.json").unlink()
