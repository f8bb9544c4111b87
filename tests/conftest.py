"""Hosts for tests. A test that asks for one is e2e by that and needs root: without, it fails; none is skipped."""

import os
from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

import pytest
from hypothesis import settings

from tests.testbed.hosts import Bed, BedHost

_numbers = count(1)

# How long an example takes says more of the machine than of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


class MakeHost(Protocol):
    """Boot one more host, with a name of its own; the options are those of `Bed.up`."""

    def __call__(self, image: str = "noble", **options: Any) -> BedHost: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "bed" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """The bed; whatever this run makes there ends with it, however it ends."""
    with Bed.open(owner=os.getpid()) as opened:
        yield opened


@pytest.fixture
def make_host(bed: Bed) -> Iterator[MakeHost]:
    """Hosts that live as long as the test."""
    yield from _maker(bed)


@pytest.fixture(scope="module")
def make_module_host(bed: Bed) -> Iterator[MakeHost]:
    """Hosts that live as long as the module's tests; they see what earlier tests left there."""
    yield from _maker(bed)


def _maker(bed: Bed) -> Iterator[MakeHost]:
    made: list[str] = []

    def make(image: str = "noble", **options: Any) -> BedHost:
        host = bed.up(f"test{os.getpid()}-{next(_numbers)}", image, **options)
        made.append(host.name)
        return host

    try:
        yield make
    finally:
        bed.down(*made)
