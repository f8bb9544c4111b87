"""Text of systemd units."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./-]+")


HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What ``ProtectHome=yes`` and ``PrivateTmp=yes`` hide from a unit (systemd.exec(5))."""


def hidden_from_units(path: str) -> str | None:
    """Return the directory that hides a path from a hardened unit, None when it can be seen."""
    return next((hidden for hidden in HIDDEN if f"{path}/".startswith(f"{hidden}/")), None)


def unit_path(unit: str) -> str:
    """Return where a unit of ours lies, by its full name."""
    return f"/etc/systemd/system/{unit}"


def exec_line(words: Iterable[str]) -> str:
    """Return words as an ``ExecStart=`` that hands exactly them to the program (systemd.service(5), COMMAND LINES)."""
    return " ".join(_quoted(word.replace("$", "$$")) for word in words)


def environment_word(name: str, value: str) -> str:
    """Return one assignment for ``Environment=`` (systemd.exec(5)); there a dollar sign has no meaning."""
    return _quoted(f"{name}={value}")


def _quoted(word: str) -> str:
    word = word.replace("%", "%%")
    if _PLAIN.fullmatch(word.replace("%%", "").replace("$$", "")):
        return word
    escaped = (
        word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    )
    return f'"{escaped}"'
