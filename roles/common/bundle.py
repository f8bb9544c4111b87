"""Bundles: directories of verbatim copies, in which every public URL has its place below one base."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from roles.common.options import has_login

PREFIX = "bundle+"
"""
Before the base of a bundle, where it stands among the names of mirrors. Scripts on the host that say why a file could
not be had find it there, in /var/lib/metal2model/mirrors/chosen.
"""


def _plain(url: str) -> str:
    if not re.match(r"https?://[^\s/]|file:///", url):
        raise ValueError(
            f"{url!r} is no base of a bundle; apt, pip and the roles read http://, https:// and file:/// alone; write "
            f"http://SERVER/bundle, or file:///mnt/bundle for a directory of the host"
        )
    if has_login(url):
        raise ValueError("the URL holds a login, which everybody on the host could read where it is written")
    # What ends up in apt's sources and in configuration files of pip and uv must be one plain word there.
    if odd := [char for char in url if not char.isascii() or not char.isprintable() or char in " \"'\\<>[]#`$|?"]:
        raise ValueError(f"{url!r} has {odd[0]!r} in it; name a directory whose path is plain letters, digits and -._~")
    return url.rstrip("/")


BundleUrl = Annotated[str, AfterValidator(_plain)]
"""Base of a bundle: on a web server, or in a directory of the host itself."""


def moved(url: str, base: str | None) -> str:
    """Return where a bundle has what a public URL has; without a bundle, the URL itself."""
    if base is None:
        return url
    parts = urlsplit(url)
    return f"{base}/{parts.netloc}{parts.path}"
