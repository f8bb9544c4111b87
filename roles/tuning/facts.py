"""Facts of the tuning role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyinfra.api import FactBase, StringCommand


@dataclass(frozen=True)
class KernelSetting:
    """A setting that the kernel offers as a file in /proc/sys or /sys."""

    value: str
    """What is in force now; words separated by one blank."""
    writable: bool
    choices: tuple[str, ...] = ()
    """The only values that it takes; () when the kernel does not say."""


@dataclass(frozen=True)
class KernelState:
    """What is set now, and whether it will be at the next boot."""

    settings: dict[str, KernelSetting] = field(default_factory=dict)
    """Path -> setting; one that this kernel does not have has no entry."""
    enabled: bool = False


class KernelStates(FactBase[KernelState]):
    """
    Settings that the kernel offers as files, whether we may write them, and whether a unit is enabled.

    In a container /proc/sys and /sys are mostly read-only.
    """

    default = KernelState

    def command(self, patterns: Sequence[str], link: str) -> StringCommand:
        """``patterns``: paths without blanks, wildcards allowed; ``link``: the symlink that enables the unit."""
        return StringCommand(
            "[ ! -L", link, "] || echo enabled; for f in", *patterns, '; do [ -r "$f" ] || continue;',
            'w=r; [ ! -w "$f" ] || w=w;',
            r'printf "%s\t%s\t%s\t" "$f" $w "$(cat "$f" 2>/dev/null | tr "\n\t" "  ")";',
            'case $f in */scaling_governor) cat "${f%/*}/scaling_available_governors" ;; *) echo ;; esac; done; true',
        )  # fmt: skip

    def process(self, output: list[str]) -> KernelState:
        """Read path, writability, value and choices; of "always [madvise] never" the brackets tell the value."""
        settings = {}
        for line in output:
            path, mode, value, choices = [*line.split("\t"), "", "", ""][:4]
            if not mode:
                continue
            words = value.split()
            chosen = [word[1:-1] for word in words if word.startswith("[") and word.endswith("]")]
            allowed = [word.strip("[]") for word in words] if chosen else choices.split()
            settings[path] = KernelSetting(chosen[0] if chosen else " ".join(words), mode == "w", tuple(allowed))
        return KernelState(settings, "enabled" in output)
