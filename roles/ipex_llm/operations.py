"""Operations of the ipex_llm role."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api import QuoteString, operation

from roles.common.images import Images
from roles.common.operations import Commands, ShownCommand

BUILD = """\
printf '%s' "$2" | DOCKER_BUILDKIT=0 docker build --network=host --tag "$1" - && exit
echo "ipex_llm/image: $1 could not be built; what was said stands above. It wants packages of Ubuntu's archive and" >&2
echo "of PyPI: check that a container of this host reaches them (docker run --network=host), then run again." >&2
exit 1
"""
"""Arguments: name, Dockerfile. Not by buildx, which is a package of its own and would be no faster for two lines."""


@operation()
def built_image(reference: str, recipe: str) -> Commands:
    """
    Have an image that is built on the host, from a recipe alone.

    + reference: name with a version that is another one for another recipe
    + recipe: a Dockerfile without context

    One remote command when it is there.
    """
    if reference in host.get_fact(Images, references=[reference]).digests:
        host.noop(f"{reference} is there")
        return
    yield ShownCommand("sh -c", QuoteString(BUILD), "sh", QuoteString(reference), QuoteString(recipe))
