"""Operations of the ray role."""

from __future__ import annotations

from pyinfra import host
from pyinfra.api import operation

from roles.common.facts import Keys
from roles.common.operations import Commands, keys, refuse


@operation()
def token(path: str) -> Commands:
    """
    Have a secret that somebody else brought readable by root alone; fail this host while it is not there.

    + path: file on the host
    """
    if path in host.get_fact(Keys, paths=[path]):
        yield from keys._inner(paths={path: True})
    else:
        problem = (
            f"ray/token_file: {path} does not exist or is empty; required is the same secret on every node, which no "
            f"host can make for the others; make one (openssl rand -hex 32) and copy it to {path} on each, or remove "
            "the option"
        )
        yield from refuse._inner(problems=[problem])
