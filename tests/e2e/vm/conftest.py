"""Virtual machines for tests."""

import os
from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

import pytest

from tests.testbed import vm
from tests.testbed.hosts import Bed

_numbers = count(1)
TIMEOUT_SECONDS = 1500
"""The first test has the disk made, and what takes seconds elsewhere takes minutes where the processor is emulated."""


class MakeVM(Protocol):
    """Start one more machine, with a name of its own; the options are those of `vm.up`."""

    def __call__(self, **options: Any) -> vm.BedVM: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "make_vm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.fixture
def make_vm(bed: Bed) -> Iterator[MakeVM]:
    """Machines that live as long as the test."""
    made: list[str] = []

    def make(**options: Any) -> vm.BedVM:
        machine = vm.up(bed, f"vm{os.getpid()}-{next(_numbers)}", **options)
        made.append(machine.name)
        return machine

    try:
        yield make
    finally:
        bed.down(*made)
