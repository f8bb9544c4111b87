"""Options of the mirrors role."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from roles.common.bundle import PREFIX, BundleUrl
from roles.common.mirror import presets
from roles.common.options import OptionProblem, Options, Seconds, did_you_mean, has_login

UPSTREAM = "upstream"


def _listed(value: Any) -> Any:
    """Accept a single name for a list of one; YAML and Python inventories have lists where strict wants a tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names no mirror; leave the option out to keep what the host has, or write 'upstream'")
    if any(map(has_login, names)):
        raise ValueError(
            "a URL holds a login, which everybody on the host could read where it is written, and logs would show; "
            "write it without, and put the login on the host, readable by root only: into a file in "
            "/etc/apt/auth.conf.d (apt's, which probes pypi, too), and for pypi also into ~/.netrc of root (pip, uv)"
        )
    for name in names:
        if name == UPSTREAM and len(names) > 1:
            raise ValueError("'upstream' stands alone: it restores what the host had, and needs no other candidate")
        if name != UPSTREAM and name not in presets() and not _is_url(name):
            known = ", ".join(presets())
            hint = did_you_mean(name, [*presets(), UPSTREAM])
            raise ValueError(f"{name!r} is no known mirror{hint}; write {known}, upstream, or an http(s) URL")
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"names {', '.join(sorted(doubled))} twice")
    return names


def _is_url(name: str) -> bool:
    scheme, separator, rest = name.partition("://")
    # What ends up in apt's sources and in configuration files of pip and uv must be one plain word there.
    plain = all(char.isascii() and char.isprintable() and char not in " \"'\\<>[]#`$|" for char in name)
    return scheme in ("http", "https") and bool(separator) and plain and bool(rest.strip("/"))


Candidates = Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_known)]
"""Mirrors in order of preference: names of files/mirrors.yaml or URLs; or ``upstream`` alone."""


class MirrorsOptions(Options):
    """Where packages come from. What is left out stays on the host as it is."""

    all: BundleUrl | None = None
    """Base of a bundle that deploys/bundle.py made: ``http://server.lan/bundle``, or ``file:///mnt/bundle`` for a
    directory of the host. Everything that roles fetch is then taken from there, and nothing from anywhere else. It
    is taken as it is, however old. Packages and programs are proven by signatures and digests; images of containers,
    and models without a digest, by nothing but the server that they come from: where others could pose as that, use
    ``https://`` or ``file://``."""

    apt: Candidates | None = None
    """Mirrors of the distribution's archive, in order of preference: ``tuna``, ``ustc``, ``aliyun``, ``huaweicloud``
    (files/mirrors.yaml) or the URL of an archive such as ``http://mirror.lan/ubuntu``. The first that answers on the
    host with a signed index is written; the choice is kept until it stops answering or this list changes.
    ``upstream`` puts the original sources back. Entries of other repositories are never touched."""

    security: bool = False
    """Take the security pocket from the mirror, too. A mirror lags behind by hours, so updates that matter come late;
    leave it off unless the hosts cannot reach the origin. It moves in any case on Ubuntu's ports architectures and
    in a stanza that lists it together with other suites."""

    pypi: Candidates | None = None
    """Mirrors of the Python package index for pip (/etc/pip.conf) and uv (/etc/uv/uv.toml), in order of preference:
    names as for ``apt``, or the URL of a simple index. ``upstream`` removes both files, if they are ours."""

    probe_timeout_seconds: Seconds = 10
    """How long a candidate may be silent before the next is tried."""

    @model_validator(mode="after")
    def _all_or_each(self) -> Self:
        for option, given in (("apt", self.apt), ("pypi", self.pypi), ("security", self.security or None)):
            if self.all and given is not None:
                raise OptionProblem(
                    option, "does not go with mirrors/all, which has one place for everything; remove this or that"
                )
        return self

    @property
    def of_apt(self) -> tuple[str, ...] | None:
        """The candidates for the distribution's archive, the bundle alone where there is one."""
        return (PREFIX + self.all,) if self.all else self.apt

    @property
    def of_pypi(self) -> tuple[str, ...] | None:
        """The same for the Python package index."""
        return (PREFIX + self.all,) if self.all else self.pypi

    @property
    def moves_security(self) -> bool:
        """Whether the security pocket comes from there, too."""
        return self.security or self.all is not None
