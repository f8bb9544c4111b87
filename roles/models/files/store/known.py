# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/known.py.
"""What is there of what is wanted; writes nothing."""

from __future__ import annotations

# Every host waits for these imports in every run: pathlib, typing and hashlib would each add a fifth to it.
import json
import os
import re
import stat
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

STATE = "/var/lib/metal2model/models"
OWNER = (0, 0)
"""User and group of every model: root."""
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
SHARED_BYTES = 1 << 20
"""Smaller files come from outside for each host: to find others who have them would take longer."""
SWARM_PORT = 6881
"""TCP and UDP, where a host gives its models to others."""
SWARM_PROGRAMS = ("/usr/bin/aria2c", "/usr/bin/mktorrent")

Json: TypeAlias = "dict[str, Any]"


def main(arguments: list[str]) -> None:
    """Print what is not as wanted of the specification in a file."""
    (path,) = arguments
    print(json.dumps(check(read_json(path))))


def read_json(path: str) -> Any:
    """Return what a file in JSON says."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def check(spec: Json) -> Json:
    """Return for each client and each model what is not as wanted, None when all is."""
    return {
        "installed": True,
        "clients": {name: client_problem(client) for name, client in spec["clients"].items() if client["needed"]},
        "models": {model["name"]: model_problem(spec, model) for model in spec["models"]},
        "shapes": {model["name"]: shape for model in spec["models"] if (shape := shape_of(model))},
        "unwanted": {name: sum(map(os.path.getsize, paths)) for name, paths in unwanted(spec).items()},
        "lan": lan_problem(spec),
        "gives": bool(listed_text()),
    }


def model_problem(spec: Json, model: Json) -> str | None:
    """Return why a model is not known to be complete and verified, None when it is."""
    if model["source"] == "path" and model["sha256"] is None:
        return path_problem(model)
    manifest = read_manifest(model)
    if manifest is None or not looked_into(model, manifest):
        return "nothing is known of it yet" if manifest is None else "nobody has looked into it yet"
    for entry in manifest["files"]:
        if entry["stat"] is None:
            return f"{entry['name']} is not there yet"
        if entry["stat"] != stat_of(entry["path"]):
            return f"{entry['name']} changed since it was verified"
        if model["source"] != "path" and (problem := rights_problem(spec, entry["path"])):
            return problem
    return None


def looked_into(model: Json, manifest: Json) -> bool:
    """Tell whether what its files say of its memory was read, and be it nothing, or nobody wants to know."""
    return not model["look_into"] or "shape" in manifest


def shape_of(model: Json) -> Json | None:
    """Return what its files said of the memory that it takes, where somebody wants to know."""
    manifest = read_manifest(model) if model["look_into"] else None
    shape: Json | None = manifest.get("shape") if manifest else None
    return shape


def unwanted(spec: Json) -> dict[str, list[str]]:
    """Return what stands here as this role put it, and belongs to no wanted model: name that it had -> paths."""
    manifests = all_manifests()
    kept = {path for model in spec["models"] if model["path"] for path in used_by_path(model["path"])}
    for model in spec["models"]:
        if model["source"] != "path" and model["name"] in manifests:
            kept |= {os.path.realpath(entry["path"]) for entry in manifests[model["name"]]["files"]}
    names = {model["name"] for model in spec["models"] if model["source"] != "path"}
    found: dict[str, list[str]] = {}
    for name, manifest in manifests.items():
        entries = list(manifest.get("dropped", ()))
        if name not in names and manifest["request"]["source"] != "path":
            entries += manifest["files"]
        for entry in entries:
            path = os.path.realpath(entry["path"])
            is_ours = entry["stat"] is not None and entry["stat"] == stat_of(entry["path"])
            if is_ours and not any(path == one or path.startswith(f"{one}/") for one in kept):
                found.setdefault(name, []).append(entry["path"])
                kept.add(path)  # two models may have had it
    return found


def all_manifests() -> dict[str, Json]:
    """Return the manifests of all models that this host ever had, by name."""
    found = {}
    for file in sorted(os.listdir(STATE)) if os.path.isdir(STATE) else ():
        if file.endswith(".json"):
            try:
                found[file.removesuffix(".json")] = read_json(f"{STATE}/{file}")
            except (OSError, ValueError):
                continue
    return found


def used_by_path(path: str) -> list[str]:
    """Return the files or the directory that a path of the user's means, wherever links lead."""
    match = SHARD.fullmatch(os.path.basename(path))
    names = [os.path.join(os.path.dirname(path), name) for name in shards(match)] if match else [path]
    return [os.path.realpath(name) for name in names]


def path_problem(model: Json) -> str | None:
    """Return why the path that the user named is no model, None when it looks like one."""
    path: str = model["path"]
    if os.path.isdir(path):
        if any(name.endswith(".gguf") for name in os.listdir(path)) or os.path.isfile(f"{path}/config.json"):
            return None
        return f"{path} is a directory without config.json and without a .gguf file"
    if not os.path.isfile(path):
        return f"{path} does not exist on this host"
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        return f"{path} is no GGUF file: it begins with {magic!r}, not b'GGUF'"
    folder, name = os.path.split(path)
    if match := SHARD.fullmatch(name):
        for name in shards(match):
            if not os.path.isfile(f"{folder}/{name}"):
                return f"{path} is one of {int(match[3])} parts, and {name} is not beside it"
    return None


def shards(match: re.Match[str]) -> list[str]:
    """Return the names of all parts of a split GGUF (llama.cpp, tools/gguf-split)."""
    return [f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1)]


def stat_of(path: str | os.PathLike[str]) -> list[int] | None:
    """Return size, mtime, ctime (nanoseconds) and inode of a regular file; ctime tells of any change, even of times."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def rights_problem(spec: Json, path: str) -> str | None:
    """Return whose or which mode is wrong, of a file or of the directories between the models directory and it."""
    for place, mode in [(path, 0o444), *((parent, 0o755) for parent in parents_below(spec, path))]:
        if rights_of(place) != (OWNER, mode):
            return f"{place} is not root:root {mode:04o}"
    return None


def rights_of(path: str | os.PathLike[str]) -> tuple[tuple[int, int], int]:
    """Return owner and mode."""
    found = os.stat(path)
    return (found.st_uid, found.st_gid), found.st_mode & 0o7777


def parents_below(spec: Json, path: str) -> list[str]:
    """Return the directories above a path that lie in the models directory, outermost first."""
    top = os.path.normpath(spec["directory"])
    parents: list[str] = []
    parent = os.path.dirname(path)
    while parent != top and parent.startswith(os.path.join(top, "")):
        parents.insert(0, parent)
        parent = os.path.dirname(parent)
    return parents


def manifest_path(model: Json) -> str:
    """Return where the manifest of a model stands."""
    return f"{STATE}/{model['name']}.json"


def read_manifest(model: Json, *, of_any_request: bool = False) -> Json | None:
    """Return the manifest of what is asked now; with ``of_any_request`` also one of what was asked before."""
    try:
        manifest: Json = read_json(manifest_path(model))
    except (OSError, ValueError):
        return None
    return manifest if of_any_request or manifest["request"] == request_of(model) else None


def request_of(model: Json) -> Json:
    """
    Return what identifies a request: what is set, so that a later version with more options asks for the same.

    Whether its files are looked into does not, nor who else is asked for them: they are the same files.
    """
    return {key: value for key, value in model.items() if value and key not in ("look_into", "places")}


def lan_problem(spec: Json) -> str | None:
    """Return what is missing for giving this host's models to others, or left of it; None where all is as wanted."""
    if not spec["lan"]:
        return "is not shared any more" if listed_text() is not None else None
    for program in SWARM_PROGRAMS:
        if not os.access(program, os.X_OK):
            return f"{program} is missing"
    files = shared(spec)
    for digest, path in files.items():
        if not os.path.exists(torrent_path(spec, digest)):
            return f"{path} has no torrent yet"
    return None if listed_text() == listing(spec, files) else "the list of what is given is not up to date"


def shared(spec: Json) -> dict[str, str]:
    """Return the verified files that are given to others, digest -> path."""
    found: dict[str, str] = {}
    for model in spec["models"]:
        manifest = read_manifest(model) if model["source"] != "path" else None
        for entry in manifest["files"] if manifest else []:
            is_right = entry["stat"] is not None and entry["stat"] == stat_of(entry["path"])
            # In aria2's list a tab or a new line ends a name.
            if is_right and entry["stat"][0] >= SHARED_BYTES and not {"\t", "\n"} & set(entry["path"]):
                found.setdefault(digest_of(entry), entry["path"])
    return found


def listing(spec: Json, files: dict[str, str]) -> str:
    """Return aria2's list of files and torrents (aria2c(1), Input File)."""
    top = spec["directory"]
    return "".join(
        f"{torrent_path(spec, digest)}\n dir={top}\n index-out=1={os.path.relpath(path, top)}\n"
        for digest, path in files.items()
    )


def listed_path() -> str:
    """Return where the list of what is given to others stands."""
    return f"{STATE}/seeding"


def listed_text() -> str | None:
    """Return the list of what is given to others, None where there is none."""
    try:
        with open(listed_path(), encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def torrent_path(spec: Json, digest: str) -> str:
    """Return where the torrent of a file is, for this host's own use and for others."""
    return f"{spec['directory']}/.torrents/{digest}.torrent"


def digest_of(entry: Json) -> str:
    """Return the digest that names a file."""
    digest: str = entry["sha256"] or entry["git_sha1"]
    return digest


def client_problem(client: Json) -> str | None:
    """Return why the environment of a client cannot be used, None when it can."""
    home = f"{client['root']}/{client['version']}"
    try:
        marker = read_json(f"{home}/.complete")
    except (OSError, ValueError):
        return "is not installed"
    if marker != client_marker(client):
        return "was made by another Python or from other requirements"
    if not os.access(f"{home}/bin/python", os.X_OK):
        return "has no Python"
    current = f"{client['root']}/current"
    if not os.path.islink(current) or os.readlink(current) != client["version"]:
        return "is not current"
    return None


def client_marker(client: Json) -> Json:
    """Return what a complete environment says of itself: it is bound to the minor version of the host's Python."""
    return {"requirements": client["requirements_sha256"], "python": host_python()}


def host_python() -> str:
    """Return the minor version of the host's own python3, "3.12"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"
