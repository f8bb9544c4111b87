"""Bundles: directories of verbatim copies, in which every public URL has its place below one base."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from roles.common.options import has_login

PREFIX = "bundle+"
"""
Before the base of a bundle, where it stands among the names of mirrors. Scripts on the host that say why a file could
not be had find it there, in /var/lib/metal2model/mirrors/chosen.
"""


def _plain(url: str) -> str:
    if has_login(url):
        raise ValueError("the URL holds a login, which everybody on the host could read where it is written")
    # What ends up in apt's sources and in configuration files of pip and uv must be one plain word there.
    if odd := [char for char in url if not char.isascii() or not char.isprintable() or char in "\"'\\<>[]#`$|?"]:
        raise ValueError(f"{url!r} has {odd[0]!r} in it; name a directory whose path is plain letters, digits and -._~")
    return url.rstrip("/")


BundleUrl = Annotated[str, Field(pattern=r"^(https?://[^\s/]+|file:///)\S*$"), AfterValidator(_plain)]
"""Base of a bundle: on a web server, or in a directory of the host itself."""


def moved(url: str, base: str | None) -> str:
    """Return where a bundle has what a public URL has; without a bundle, the URL itself."""
    if base is None:
        return url
    parts = urlsplit(url)
    return f"{base}/{parts.netloc}{parts.path}"
