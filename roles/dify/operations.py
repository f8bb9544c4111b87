"""Operations of the dify role."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api import FactBase, QuoteString, StringCommand, operation

from roles.common.operations import Commands, ShownCommand


class MissingImages(FactBase[list[str]]):
    """Images of a compose project that the host lacks; what they are, the compose file and its .env say together."""

    default = list

    def command(self, compose: str) -> StringCommand:
        """``compose``: command line of the project. Where it says nothing, all are missing."""
        return StringCommand(
            f"{{ {compose} config --images 2>/dev/null || echo unknown; }} | sort -u | while read -r image; do",
            'docker image inspect -- "$image" >/dev/null 2>&1 || echo "$image"; done',
        )

    def process(self, output: list[str]) -> list[str]:
        """Read one image a line."""
        return output


@operation()
def compose_images(compose: str) -> Commands:
    """
    Have the images of a compose project.

    + compose: command line of the project

    One remote command when all are there.
    """
    if host.get_fact(MissingImages, compose=compose):
        yield ShownCommand("sh -c", QuoteString(f"{PULL}{compose} pull --quiet --policy missing || explain"))
    else:
        host.noop("the images are there")


PULL = """\
explain() {
    echo "dify: an image could not be pulled; what was said stands above. Check that the host reaches the" >&2
    echo "registries of these images, or name mirrors in docker/mirrors, then run again: what has arrived is kept." >&2
    exit 1
}
"""
