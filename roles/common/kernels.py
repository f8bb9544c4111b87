"""Versions of Linux, and ranges of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf
from typing import Annotated

from pydantic import Field

from roles.common.options import Options

TRIAL = "/var/lib/metal2model/kernel/trial"
"""File on the host: a kernel that is to be booted once, the one that ran then, and the boot in which it was armed."""

NEXT = f"""\
kernel=$(cat /proc/sys/kernel/osrelease)
if [ -f {TRIAL} ] && [ "$(sed -n 3p {TRIAL})" = "$(cat /proc/sys/kernel/random/boot_id)" ]; then
  kernel=$(sed -n 1p {TRIAL})
fi
"""
"""sh text that sets ``kernel`` to the one that runs next: that on trial, if it is armed, else the running one."""

KernelVersion = Annotated[str, Field(pattern=r"^[0-9]{1,3}(\.[0-9]{1,4}){0,2}$")]
"""``7``, ``6.12`` or ``6.12.3``; a shorter one stands for all that begin with it."""


def version_of(release: str) -> tuple[int, int, int]:
    """Return the version in a kernel's release: "6.8.0-45-generic" -> (6, 8, 0); (0, 0, 0) for what is none."""
    found = re.match(r"(\d+)(?:\.(\d+)(?:\.(\d+))?)?", release)
    return (int(found[1]), int(found[2] or 0), int(found[3] or 0)) if found else (0, 0, 0)


def age(release: str) -> tuple[list[int], str]:
    """Return what releases are sorted by, the newest last: 6.8.0-101 comes after 6.8.0-87."""
    return list(map(int, re.findall(r"\d+", release))), release


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _last(version: str) -> tuple[float, ...]:
    """The end of all that begin with a version: 7 reaches further than 7.0."""
    return (*_numbers(version), inf)


def _after(version: str) -> str:
    """The first version that does not begin with this one any more."""
    *head, last = _numbers(version)
    return ".".join(map(str, [*head, last + 1]))


class KernelRange(Options):
    """Which kernels are known to drive something."""

    min: KernelVersion | None = None
    """The first that does."""

    max: KernelVersion | None = None
    """The last that is known to: with `7`, every 7.x."""

    bad: list[KernelVersion] = []
    """Those between that do not: with `6.18`, every 6.18.x."""

    def holds(self, release: str) -> bool:
        """
        Whether a kernel lies in the range.

        Ubuntu's releases hide the stable number (6.14.0-33 may be 6.14.11), so a bound within a series, as 6.12.26, is
        exact only where the release shows it, as Debian's do.
        """
        version = version_of(release)
        if self.min is not None and version < _numbers(self.min):
            return False
        if self.max is not None and version[: len(_numbers(self.max))] > _numbers(self.max):
            return False
        return not any(version[: len(_numbers(bad))] == _numbers(bad) for bad in self.bad)

    @property
    def is_empty(self) -> bool:
        """Whether no kernel can lie in it: what is first in a range is its minimum, or comes after a bad one."""
        return not any(self.holds(first) for first in (self.min or "0", *map(_after, self.bad)))

    def __str__(self) -> str:
        """Spell the range as a person does: ``>= 6.12, <= 7, not 6.18``."""
        parts = [f">= {self.min}"] if self.min else []
        parts += [f"<= {self.max}"] if self.max else []
        return ", ".join([*parts, *(f"not {bad}" for bad in self.bad)]) or "any"


def common_range(ranges: Iterable[KernelRange]) -> KernelRange:
    """Return what lies in all of the ranges; it may be empty."""
    known = list(ranges)
    return KernelRange(
        min=max((r.min for r in known if r.min), key=_numbers, default=None),
        max=min((r.max for r in known if r.max), key=_last, default=None),
        bad=sorted({bad for r in known for bad in r.bad}, key=_numbers),
    )
