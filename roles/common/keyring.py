"""Keys of package sources: fetched on the host, and trusted only if an option pins them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyinfra import host
from pyinfra.api import FactBase, operation

from roles.common.apt import apt_script
from roles.common.operations import Commands

KEY = (Path(__file__).parent / "files" / "key.sh").read_text()


@dataclass(frozen=True)
class KeyState:
    """A package source's key on the host."""

    fingerprints: frozenset[str] = frozenset()
    """Of the primary keys in the file; none when there is no file."""


class Keyring(FactBase[KeyState]):
    """Fingerprints of the keys in a file that apt trusts."""

    default = KeyState

    def command(self, path: str) -> str:
        """``path``: of the keyring. gpg is there once base has run."""
        return f"[ ! -e {path} ] || gpg --show-keys --with-colons {path} 2>/dev/null"

    def process(self, output: list[str]) -> KeyState:
        """Read gpg's colons (doc/DETAILS): ``fpr`` after ``pub`` is a primary key's."""
        found, primary = set(), False
        for line in output:
            words = line.split(":")
            if words[0] in ("pub", "sub"):
                primary = words[0] == "pub"
            elif words[0] == "fpr" and primary:
                found.add(words[9])
        return KeyState(frozenset(found))


@operation()
def trusted_key(url: str, path: str, option: str, fingerprints: Sequence[str]) -> Commands:
    """
    Have a package source's keys where apt finds them, and no others than the pinned ones.

    + url: where they are published
    + path: of the keyring
    + option: the option that pins them
    + fingerprints: of the keys that may be there
    """
    found: KeyState = host.get_fact(Keyring, path=path)
    if found.fingerprints and found.fingerprints <= set(fingerprints):
        host.noop("the key is there")
        return
    yield apt_script(f"{KEY}key {shlex.join([url, path, option, *fingerprints])}")
