"""Have files of NAME=value lines whose values hold keys of this host: "check" or "write", then a JSON list.

An object for each: "path" of the file; "base", a file with lines to begin with, or ""; "values", name -> parts, each
a text or {"path": a file whose first word is the key, "form": "" or "base64url" for a key of 64 hexadecimal digits};
"owner", the role to name. "check" says "as wanted" or "differs" for each and never a value. Runs on any Python 3.10 or
newer, standard library alone.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from typing import Any

PLAIN = re.compile(r"[A-Za-z0-9._~+/=:@-]+")
"""What systemd, docker and compose all read as it stands, and no list is parted at."""


def key(path: str, form: str = "") -> str:
    """Return the key in a file, in the form that its reader wants."""
    with open(path, encoding="utf-8", errors="replace") as file:
        words = file.read().split()
    if not words or not PLAIN.fullmatch(words[0]):
        raise ValueError(f"{path} holds no key that can be handed on; required is one word of letters, digits and "
                         "._~+/=:@- alone; put another key there")  # fmt: skip
    if form != "base64url":
        return words[0]
    if not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise ValueError(f"{path} holds no key of 64 hexadecimal digits, as this one has to be; put such a key there, "
                         "or remove the file to have one made")  # fmt: skip
    return base64.urlsafe_b64encode(bytes.fromhex(words[0])).decode().rstrip("=")


def filled(wanted: dict[str, Any]) -> str:
    """Return the text of the file: the base with its values replaced, then what the base does not name."""
    values = {
        name: "".join(part if isinstance(part, str) else key(**part) for part in parts)
        for name, parts in wanted["values"].items()
    }
    lines, named = [], set()
    if wanted["base"]:
        with open(wanted["base"], encoding="utf-8") as file:
            for line in file.read().splitlines():
                name = line.split("=", 1)[0].strip()
                # Every one of them: who reads the file takes the last.
                lines.append(f"{name}={values[name]}" if "=" in line and name in values else line)
                named.add(name)
    return "\n".join([*lines, *(f"{name}={value}" for name, value in values.items() if name not in named), ""])


def is_as_wanted(path: str, text: str) -> bool:
    """Say whether the file stands there with this text, and is root's alone."""
    try:
        state = os.lstat(path)
        with open(path, encoding="utf-8") as file:
            return (state.st_mode & 0o7777, state.st_uid) == (0o600, 0) and file.read() == text
    except (OSError, ValueError):
        return False


def main(mode: str, wanted: dict[str, Any]) -> int:
    """Do what was asked; a key that is missing is told when the file shall be written."""
    path = wanted["path"]
    try:
        text = filled(wanted)
    except (OSError, ValueError) as error:
        print("differs")
        if mode == "check":
            return 0
        print(f"{wanted['owner']}: {path} cannot be written: {error}", file=sys.stderr)
        return 1
    if mode == "check":
        print("as wanted" if is_as_wanted(path, text) else "differs")
        return 0
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = os.open(f"{path}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    os.fchmod(part, 0o600)
    with os.fdopen(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.part", path)
    return 0


if __name__ == "__main__":
    sys.exit(max((main(sys.argv[1], one) for one in json.loads(sys.argv[2])), default=0))
