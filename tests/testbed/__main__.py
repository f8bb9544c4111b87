"""The bed by hand: `python -m tests.testbed up NAME`, see `./run help`."""

import argparse
import os
import signal
import sys
import time

from tests.testbed import BedError, images, say
from tests.testbed.hosts import Bed


def main() -> int:
    """Do one thing with the bed and say what came of it."""
    parser = argparse.ArgumentParser(prog="./run", description="Throwaway hosts on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="boot hosts")
    up.add_argument("names", nargs="+", metavar="NAME")
    up.add_argument("--image", default="noble", choices=sorted(images.IMAGES))
    ssh = commands.add_parser("ssh", help="log in to a host, or run a command there")
    ssh.add_argument("--user", default="root", choices=("root", "nopass", "withpass"))
    ssh.add_argument("name", metavar="NAME")
    ssh.add_argument("line", nargs=argparse.REMAINDER, metavar="COMMAND")
    down = commands.add_parser("down", help="power hosts off and remove them")
    down.add_argument("names", nargs="*", metavar="NAME")
    down.add_argument("--all", action="store_true", help="every host")
    commands.add_parser("hosts", help="list the hosts that are up")
    arguments = parser.parse_args()
    # An end by TERM cleans up as one by Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell starts what it puts into the background deaf to SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return _do(arguments)
    except BedError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; what was half up is taken down.", file=sys.stderr)
        return 130


def _do(arguments: argparse.Namespace) -> int:
    if arguments.command == "up":
        with Bed.open() as bed:
            began = time.monotonic()
            hosts = bed.up_many(arguments.names, arguments.image)
            for host in hosts:
                say(f"{host.name} is up at {host.address}: ./run ssh {host.name}")
            say(f"{len(hosts)} up in {time.monotonic() - began:.1f} s; ./run down --all removes every trace")
        return 0
    with Bed.attach() as bed:
        if arguments.command == "down":
            if arguments.all:
                bed.down_all()
            elif arguments.names:
                bed.down(*arguments.names)
            else:
                raise BedError("Which host? Name it, or say --all.")
        elif arguments.command == "hosts":
            for host in bed.hosts():
                print(f"{host.name:20} {host.address:12} {host.image}")
        else:
            host = bed.host(arguments.name)
            line = arguments.line[1:] if arguments.line[:1] == ["--"] else arguments.line
            terminal = ("-t",) if sys.stdin.isatty() and not line else ()
            command = host.ssh_command(*line, user=arguments.user, options=terminal)
            bed.close()
            os.execvp(command[0], command)
    return 0


if __name__ == "__main__":
    sys.exit(main())
