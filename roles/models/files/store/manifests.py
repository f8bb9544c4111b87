# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/manifests.py.
"""What is written down of each model: of which files it consists, and which of them stand verified."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .hubs import Refused
from .known import Json, manifest_path, request_of


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
