"""deploys/full.py with paramiko's own setting of the socket: what `send_at_once` is worth."""

from pyinfra import local
from pyinfra.api import Host

from roles.common import connection


def leave_as_it_is(host: Host) -> None:
    pass


connection.send_at_once = leave_as_it_is
local.include("deploys/full.py")
