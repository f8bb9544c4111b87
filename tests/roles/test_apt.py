"""Where a host's distribution comes from, so that more of it can be taken from the same place."""

import pytest

from roles.common.apt import Archive, DistributionArchive

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.mark.parametrize(
    ("said", "archive"),
    [
        (
            [f"http://mirror.example.org/debian/ {KEYRING}", "http://other/ x"],
            Archive("http://mirror.example.org/debian/", KEYRING),
        ),
        # One-line entries of Debian 12's installer name no keyring; apt then prints the name of the field.
        (["http://mirror.example.org/debian/ $(SIGNED_BY)"], Archive("http://mirror.example.org/debian/", "")),
        ([], Archive()),
    ],
)  # fmt: skip
def test_apt_says_where_the_distribution_comes_from(said: list[str], archive: Archive) -> None:
    assert DistributionArchive().process(said) == archive


@pytest.mark.parametrize("keyring", [KEYRING, ""])
def test_more_of_the_distribution_comes_from_the_same_mirror(keyring: str) -> None:
    entry = Archive("http://mirror.example.org/debian/", keyring).entry(
        role="kernel", suite="trixie-backports", components="main"
    )
    assert entry.splitlines()[0].startswith("# Written by metal2model, role kernel")
    assert entry.splitlines()[1:] == [
        "Types: deb", "URIs: http://mirror.example.org/debian/", "Suites: trixie-backports", "Components: main",
        *([f"Signed-By: {keyring}"] if keyring else []),
    ]  # fmt: skip
