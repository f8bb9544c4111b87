"""What the llama_cpp role reads on a host."""

from __future__ import annotations

from pyinfra.api import FactBase, QuoteString, StringCommand


class Keys(FactBase[dict[str, str]]):
    """Mode and owner of each key file, ``600 root:root``; a missing or empty one has no entry."""

    default = dict

    def command(self, paths: list[str]) -> StringCommand:
        """One loop for any number of keys; their contents are never read."""
        return StringCommand(
            "for f in", *map(QuoteString, paths), '; do if [ -s "$f" ]; then stat -c "%a %U:%G %n" -- "$f"; fi; done'
        )

    def process(self, output: list[str]) -> dict[str, str]:
        """Read ``mode owner path`` lines."""
        lines = (line.split(" ", 2) for line in output)
        return {path: f"{mode} {owner}" for mode, owner, path in lines}
