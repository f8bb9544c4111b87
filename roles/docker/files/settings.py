"""Have our keys in JSON files that others write, too: "check" or "write", then a JSON object.

The object: "files", each with "path"; "wanted", our part, or the path of a file that holds it; "record", where the part
that we wrote last is kept, so that what is no longer wanted goes, and nothing else does; "mode" of a new file;
"validate", a command that gets the path of the new text; "reload", a command that has its reader take it up; and
"restart", with "path" of a file that is written anew when other keys than the "reloadable" ones have changed. "mirrors"
are candidates for the first file's registry-mirrors, "timeout" how long each may be silent. "check" prints "as wanted"
or "differs". Nothing is printed of what stands in the files. Runs on any Python 3.10 or newer, standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


class Problem(Exception):
    """What an administrator has to see to."""


def without(present: Any, ours: Any) -> Any:
    """Return what is left when that which we wrote is taken away; a value that somebody changed since is theirs."""
    if isinstance(present, dict) and isinstance(ours, dict):
        left = {}
        for key, value in present.items():
            if key not in ours:
                left[key] = value
            elif value != ours[key]:
                rest = without(value, ours[key])
                if rest not in ({}, []):
                    left[key] = rest
        return left
    if isinstance(present, list) and isinstance(ours, list):
        return [one for one in present if one not in ours]
    return present


def merged(present: Any, ours: Any) -> Any:
    """Return both: objects key by key, of lists ours first, of all else ours."""
    if isinstance(present, dict) and isinstance(ours, dict):
        return {**present, **{key: merged(present.get(key), value) for key, value in ours.items()}}
    if isinstance(present, list) and isinstance(ours, list):
        return ours + [one for one in present if one not in ours]
    return ours


def read(path: Path) -> dict[str, Any]:
    """Return the object in a file, {} of one that is missing or empty."""
    why = ""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        found, why = None, f" ({error})"
    if not isinstance(found, dict):
        raise Problem(
            f"docker: {path} on the host is no JSON object{why}; required is one, since what others wrote into it is "
            "kept; correct it, or move it away; it was left as it is"
        )
    return found


def answers(mirror: str, timeout: float) -> bool:
    """Say whether a registry is there: 200, or 401 from one that wants a token first (distribution's spec, end-1)."""
    try:
        with urllib.request.urlopen(f"{mirror.rstrip('/')}/v2/", timeout=timeout):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except (OSError, ValueError):
        return False


def answers_again(mirror: str, timeout: float) -> bool:
    """Ask three times before one that worked is left: an answer that got lost is no reason."""
    for attempt in range(3):
        if attempt:
            time.sleep(0.5)
        if answers(mirror, timeout):
            return True
    return False


def mirror(wanted: dict[str, Any], present: dict[str, Any]) -> list[str]:
    """Return the mirror to use: the one in use if it answers, else the first that does."""
    in_use = present.get("registry-mirrors")
    used = [one for one in wanted["mirrors"] if isinstance(in_use, list) and one in in_use]
    for one in dict.fromkeys([*used, *wanted["mirrors"]]):
        if (answers_again if one in used else answers)(one, wanted["timeout"]):
            return [one]
    if wanted["mirrors"]:
        raise Problem(
            f"docker/mirrors: none of {', '.join(wanted['mirrors'])} answers at /v2/ from this host; required is one "
            "that does; name others, or leave the option out to pull from Docker Hub"
        )
    return []


def write(path: Path, text: str, mode: int) -> Path:
    """Write beside a path, and return where."""
    path.parent.mkdir(mode=0o700 if mode == 0o600 else 0o755, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return part


def validate(path: Path, part: Path, command: list[str]) -> None:
    """Have dockerd read what the file would become; one before 23 cannot."""
    try:
        result = subprocess.run([*command, str(part)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        part.unlink()
        raise Problem(
            f"docker/source: there is no {command[0]} on this host to read {path}; install the engine, or let this "
            "role do it by another source"
        ) from None
    said = (result.stderr or result.stdout).strip().splitlines()
    if result.returncode and not any("unknown flag" in line for line in said):
        part.unlink()
        raise Problem(
            f"docker/settings: dockerd refuses what {path} would become: {' '.join(said[-1:])}; the file was left as "
            "it is; correct the option, or what others wrote there"
        )


def restart_is_due(file: dict[str, Any], text: dict[str, Any]) -> str:
    """Return what the file that says so shall hold; "" when it does, and for a file whose reader needs no restart."""
    if "restart" not in file:
        return ""
    lasting = {key: value for key, value in text.items() if key not in file["restart"]["reloadable"]}
    digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest() + "\n"
    path = Path(file["restart"]["path"])
    return "" if path.exists() and path.read_text(encoding="utf-8") == digest else digest


def take_up(file: dict[str, Any], text: dict[str, Any]) -> None:
    """Have the reader take the text up: by a restart, which is left to who watches that file, or at once."""
    if digest := restart_is_due(file, text):
        path = Path(file["restart"]["path"])
        write(path, digest, 0o600).rename(path)
    elif "reload" in file:
        result = subprocess.run(file["reload"], capture_output=True, text=True, check=False)
        if result.returncode:
            raise Problem(f"docker: {' '.join(file['reload'])} failed: {result.stderr.strip()}; look at its journal")


def change(file: dict[str, Any], present: dict[str, Any], text: dict[str, Any], ours: dict[str, Any]) -> None:
    """Write the file, have it taken up, then write what of it is ours: a run that was killed is gone on with."""
    path, record, mode = Path(file["path"]).expanduser(), Path(file["record"]), int(file["mode"], 8)
    if text != present:
        if path.exists() and mode != 0o600:
            mode = path.stat().st_mode & 0o777
        part = write(path, json.dumps(text, indent=4) + "\n", mode)
        if "validate" in file:
            validate(path, part, file["validate"])
        part.rename(path)
    take_up(file, text)
    write(record, json.dumps(ours) + "\n", 0o600).rename(record)


def main(task: str, wanted: dict[str, Any]) -> None:
    """Do what was asked."""
    differs = False
    for number, file in enumerate(wanted["files"]):
        ours = file["wanted"] if isinstance(file["wanted"], dict) else read(Path(file["wanted"]))
        present, last = read(Path(file["path"]).expanduser()), read(Path(file["record"]))
        if number == 0 and (chosen := mirror(wanted, present)):
            ours = {**ours, "registry-mirrors": chosen}
        text = merged(without(present, last), ours)
        if text != present or ours != last or restart_is_due(file, text):
            differs = True
            if task == "write":
                change(file, present, text, ours)
    if task == "check":
        print("differs" if differs else "as wanted")


if __name__ == "__main__":
    try:
        main(sys.argv[1], json.loads(sys.argv[2]))
    except Problem as problem:
        if sys.argv[1] == "write":
            sys.exit(str(problem))
        print(f"problem {problem}")
