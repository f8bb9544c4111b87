"""Images of containers on a host: pulled once, and then what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra import host, state
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from roles.common.findings import Finding, notice
from roles.common.operations import Commands, ShownCommand

RECORD = "/var/lib/metal2model/images"
"""On the host: a line for each version that was pulled there, and the digest that it had."""
NOTE = """\
record=$1
shift
mkdir -p "${record%/*}"
{ cat "$record" 2>/dev/null; printf '%s\\n' "$@"; } >"$record.part" && mv -f "$record.part" "$record"
"""
PULL = (Path(__file__).parent / "files" / "pull.sh").read_text()


@dataclass(frozen=True)
class ImageStates:
    """The images of a host."""

    digests: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """
    Reference -> what registries call that image, ``name@sha256:...``, and then what Docker itself calls it,
    ``sha256:...``; a missing image has no entry.
    """
    recorded: Mapping[str, str] = field(default_factory=dict)
    """Reference -> what it was when it was pulled, or loaded from a bundle, which has no registry's name."""


class Images(FactBase[ImageStates]):
    """Which of the given images a host has."""

    default = ImageStates

    def command(self, references: Sequence[str]) -> StringCommand:
        """One loop: docker answers for several at once without saying which is which."""
        return StringCommand(
            "for image in", *map(QuoteString, references), "; do",
            """found=$(docker image inspect --format '{{join .RepoDigests " "}} {{.ID}}' -- "$image" 2>/dev/null) &&""",
            'echo "have $image $found"; done; sed "s/^/record /"', RECORD, "2>/dev/null; true",
        )  # fmt: skip

    def process(self, output: list[str]) -> ImageStates:
        """Read lines of a word, a reference and digests."""
        found: dict[str, dict[str, list[str]]] = {"have": {}, "record": {}}
        for line in output:
            match line.split():
                case ["have" | "record" as word, reference, *digests]:
                    found[word][reference] = digests
                case _:  # somebody's blank line in the record
                    continue
        return ImageStates(found["have"], {name: digests[0] for name, digests in found["record"].items() if digests})


@operation()
def images(references: Sequence[str], bundle: str | None = None) -> Commands:
    """
    Have images, each pulled where it is missing, and only there; loaded, where the host has everything from a bundle.

    + references: ``name:version`` or ``name@sha256:...``, as docker pull takes them
    + bundle: base of the bundle that the host has everything from

    One remote command when all are there. A version is recorded with its digest when it is pulled: should the image
    be removed, the same one comes back, wherever the version points by then.
    """
    wanted = list(dict.fromkeys(references))
    found: ImageStates = host.get_fact(Images, references=wanted)
    if state.is_executing:
        for finding in moved(found, wanted):
            notice(host.name, finding)
    missing = [reference for reference in wanted if reference not in found.digests]
    lines = unrecorded(found, wanted)
    if lines:
        yield StringCommand("sh -c", QuoteString(NOTE), "sh", RECORD, *map(QuoteString, lines))
    if missing:
        yield ShownCommand(
            "sh -c", QuoteString(PULL), "sh", RECORD, QuoteString(bundle or ""), *map(QuoteString, missing)
        )
    if not (missing or lines):
        host.noop(f"{len(wanted)} images are there")


def unrecorded(found: ImageStates, references: Sequence[str]) -> list[str]:
    """Return lines that the record lacks, of images that came from their registries: a pull was killed after it."""
    lines = []
    for reference in references:
        name = reference.rpartition(":")[0]
        if "@" not in reference and reference not in found.recorded:
            own = [one for one in found.digests.get(reference, ()) if one.startswith(f"{name}@")]
            lines += [f"{reference} {digest}" for digest in own[:1]]
    return lines


def moved(found: ImageStates, references: Sequence[str]) -> list[Finding]:
    """Return which versions are another image than the one that was pulled: somebody built or pulled it since."""
    return [
        Finding("image_moved", "", {"image": reference, "was": found.recorded[reference].rpartition("@")[2]})
        for reference in references
        if reference in found.digests
        and reference in found.recorded
        and not any(_same(found.recorded[reference], digest) for digest in found.digests[reference])
    ]


def _same(one: str, other: str) -> bool:
    return one.rpartition("@")[2] == other.rpartition("@")[2]
