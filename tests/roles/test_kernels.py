"""Versions of Linux as distributions spell them, and ranges of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.kernels import KernelRange, age, common_range, version_of
from roles.common.options import OptionError

RELEASES = {
    "6.8.0-45-generic": (6, 8, 0),  # Ubuntu 24.04
    "6.17.0-14-generic": (6, 17, 0),  # its HWE
    "5.15.0-161-lowlatency": (5, 15, 0),
    "6.14.0-1011-intel": (6, 14, 0),
    "6.8.0-1041-raspi": (6, 8, 0),
    "6.14.0-33-generic-64k": (6, 14, 0),
    "6.1.0-41-amd64": (6, 1, 0),  # Debian 12
    "6.1.0-41-cloud-amd64": (6, 1, 0),
    "6.12.9+bpo-amd64": (6, 12, 9),  # its backports
    "6.12.57+deb13-amd64": (6, 12, 57),  # Debian 13
    "6.12.57+deb13-rt-arm64": (6, 12, 57),
    "6.17.8+deb13-amd64": (6, 17, 8),
    "6.19.14+deb14-amd64": (6, 19, 14),
    "6.19.10-061910-generic": (6, 19, 10),  # Ubuntu's mainline builds
    "7.0.0-070000rc3-generic": (7, 0, 0),
    "7.0.0-30-generic": (7, 0, 0),
    "6.19-rc1": (6, 19, 0),
    "6.12.47+rpt-rpi-2712": (6, 12, 47),
    "6.1.21-v8+": (6, 1, 21),
    "6.18.44-fc-v657": (6, 18, 44),
    "5.15.167.4-microsoft-standard-WSL2": (5, 15, 167),
    "7": (7, 0, 0),
    "": (0, 0, 0),
    "linux": (0, 0, 0),
}


@pytest.mark.parametrize(("release", "version"), RELEASES.items())
def test_a_release_is_read_as_its_distribution_spells_it(release: str, version: tuple[int, int, int]) -> None:
    assert version_of(release) == version


def test_releases_are_sorted_by_their_numbers() -> None:
    newest_last = [
        "6.1.0-41-amd64", "6.8.0-9-generic", "6.8.0-87-generic", "6.8.0-101-generic", "6.12.9+bpo-amd64",
        "6.12.57+deb13-amd64", "6.17.0-14-generic", "6.19.10-061910-generic", "7.0.0-9-generic", "7.0.0-30-generic",
    ]  # fmt: skip
    assert sorted(sorted(newest_last), key=age) == newest_last


@pytest.mark.parametrize(
    ("given_range", "release", "holds"),
    [
        ({}, "2.6.32-754.el6", True),
        ({"min": "6.12"}, "6.12.0-1-generic", True),
        ({"min": "6.12"}, "6.11.0-29-generic", False),
        ({"min": "6"}, "6.0.0", True),
        ({"min": "6"}, "5.19.17", False),
        ({"min": "6.12.26"}, "6.12.25-amd64", False),
        ({"min": "6.12.26"}, "6.12.26-amd64", True),
        ({"min": "6.12.26"}, "6.13.0-amd64", True),
        ({"max": "7"}, "7.4.0-3-generic", True),
        ({"max": "7"}, "8.0.0-3-generic", False),
        ({"max": "6.17"}, "6.17.13-amd64", True),
        ({"max": "6.17"}, "6.18.0-amd64", False),
        ({"max": "6.17.2"}, "6.17.2-amd64", True),
        ({"max": "6.17.2"}, "6.17.3-amd64", False),
        ({"bad": ["6.18"]}, "6.18.9-amd64", False),
        ({"bad": ["6.18"]}, "6.1.8-amd64", True),
        ({"bad": ["6.18.2"]}, "6.18.2-amd64", False),
        ({"bad": ["6.18.2"]}, "6.18.20-amd64", True),
        ({"bad": ["6"]}, "6.19.0-amd64", False),
        ({"min": "6.12", "max": "7", "bad": ["6.18"]}, "", False),
    ],
)
def test_a_bound_stands_for_all_that_begin_with_it(given_range: dict[str, Any], release: str, holds: bool) -> None:
    assert KernelRange(**given_range).holds(release) is holds


@pytest.mark.parametrize(
    ("given_range", "empty"),
    [
        ({}, False),
        ({"min": "6.12"}, False),
        ({"min": "6.12", "max": "6.12"}, False),
        ({"min": "6.12.5", "max": "6.12"}, False),
        ({"min": "7", "max": "6.19"}, True),
        ({"min": "7", "max": "7"}, False),
        ({"min": "7"}, False),
        ({"min": "6.12", "max": "6.12", "bad": ["6.12"]}, True),
        ({"min": "6.12", "max": "6.18", "bad": ["6.12", "6.18"]}, False),  # 6.13 will do
        ({"min": "6.12", "max": "6.13", "bad": ["6.12", "6.13"]}, True),
        ({"min": "6.12", "bad": ["6", "7"]}, False),
        ({"min": "6.12", "max": "7", "bad": ["6", "7"]}, True),
        ({"max": "6", "bad": ["6"]}, False),
    ],
)
def test_a_range_is_empty_when_no_kernel_can_lie_in_it(given_range: dict[str, Any], empty: bool) -> None:
    assert KernelRange(**given_range).is_empty is empty


def test_a_range_reads_as_a_person_writes_it() -> None:
    assert str(KernelRange(min="6.12", max="7", bad=["6.18"])) == ">= 6.12, <= 7, not 6.18"
    assert str(KernelRange(bad=["6.13", "6.18"])) == "not 6.13, not 6.18"
    assert str(KernelRange()) == "any"


@pytest.mark.parametrize("version", ["6.12-rc1", "v6.12", "6.12.3.1", "six", "", "6.", "6.12.x", " 6.12"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(OptionError) as caught:
        KernelRange.load({"min": version}, where="h")
    assert str(caught.value).startswith("h: min: ")


def test_a_number_in_yaml_is_no_version() -> None:
    """6.10 would be read as 6.1."""
    with pytest.raises(OptionError):
        KernelRange.load({"max": 6.1}, where="h")


# Few numbers, so that bounds meet each other and the releases.
NUMBERS = st.integers(0, 4)
VERSIONS = st.lists(NUMBERS, min_size=1, max_size=3).map(lambda numbers: ".".join(map(str, numbers)))
BOUNDS = st.none() | VERSIONS
RANGES = st.builds(KernelRange, min=BOUNDS, max=BOUNDS, bad=st.lists(VERSIONS, max_size=3))
ALL = [f"{major}.{minor}.{patch}-1-generic" for major in range(6) for minor in range(6) for patch in range(6)]


@given(st.lists(RANGES, max_size=4))
def test_a_kernel_is_common_to_ranges_that_all_hold_it(ranges: list[KernelRange]) -> None:
    common = common_range(ranges)
    assert [release for release in ALL if common.holds(release)] == [
        release for release in ALL if all(one.holds(release) for one in ranges)
    ]


@given(RANGES)
def test_an_empty_range_holds_nothing_and_another_something(wanted: KernelRange) -> None:
    assert any(wanted.holds(release) for release in ALL) is not wanted.is_empty


@given(RANGES)
def test_a_range_is_told_whole(wanted: KernelRange) -> None:
    words = str(wanted).split(", ")
    assert [word.removeprefix("not ") for word in words if word.startswith("not ")] == wanted.bad
    assert (f">= {wanted.min}" in words) is (wanted.min is not None)
    assert (f"<= {wanted.max}" in words) is (wanted.max is not None)


@given(st.text())
def test_no_release_is_an_error(release: str) -> None:
    assert version_of(release) >= (0, 0, 0)
    assert KernelRange().holds(release)
