"""Operations that more than one role uses: few, fat, converging."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from pyinfra import host
from pyinfra.api import FileUploadCommand, Host, QuoteString, State, StringCommand, operation
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.command import PyinfraCommand
from pyinfra.connectors.util import CommandOutput

from roles.common.facts import FileStates, Keys, Program, UnitState, UnitStates

Commands = Generator[PyinfraCommand, None, None]
"""What an operation yields: commands for the host, none when it is as wanted."""


RESTART = """\
# What was started by hand or by an earlier run a moment ago does not count against this start.
systemctl reset-failed -- "$@" 2>/dev/null
systemctl restart -- "$@" && exit
for unit in "$@"; do
    systemctl is-active --quiet -- "$unit" && continue
    echo "$unit did not start; its last words, of journalctl -u $unit:" >&2
    journalctl --unit "$unit" --lines 10 --output cat --no-pager >&2
done
exit 1
"""
FETCH = Path(__file__).parent / "files" / "fetch.sh"


@dataclass(frozen=True)
class TextFile:
    """What a file on the host shall be."""

    content: str
    mode: str = "0644"
    """A text that only its owner may read ends in a newline."""
    owner: str = "root:root"


@dataclass(frozen=True)
class Unit:
    """What a systemd unit shall be."""

    name: str
    """Its full name, ``llama-server@r1.service``."""
    reads: tuple[str, ...] = ()
    """Files that it reads only at start, its own unit file among them: it restarts when one is newer than its start."""
    present: bool = True
    """False: stopped, disabled."""


class ShownCommand(StringCommand):
    """A command that takes long: a person sees its output as it comes, and not only with ``pyinfra -vvv``."""

    def execute(self, state: State, host: Host, connector_arguments: ConnectorArguments) -> tuple[bool, CommandOutput]:
        """Run it; what was shown is not handed back, or pyinfra would print it again when the command fails."""
        status, _ = host.run_shell_command(self, print_output=True, **connector_arguments)
        return status, CommandOutput([])


@operation()
def refuse(problems: Sequence[str]) -> Commands:
    """
    Fail this host, and no other, when there are problems.

    + problems: what was found, what is required, why and what to do, one line each

    A command that fails on the host, not an exception: an exception would abort the whole fleet.
    """
    if problems:
        lines = [QuoteString(f"{host.name}: {problem}") for problem in problems]
        yield StringCommand(r"printf '%s\n'", *lines, ">&2; exit 1")
    else:
        host.noop("nothing speaks against it")


@operation()
def file_set(files: Mapping[str, TextFile | None]) -> Commands:
    """
    Have these files, whole or not at all.

    + files: path on the host -> what shall stand there; None for nothing

    All files are compared in one remote command. One that differs is uploaded beside its place
    and renamed, so a reader or a power cut never sees half of it.
    """
    states = host.get_fact(FileStates, paths=list(files))
    gone = [path for path, wanted in files.items() if wanted is None and path in states]
    if gone:
        yield StringCommand("rm -f --", *map(QuoteString, gone))
    changed = len(gone)
    for path, wanted in files.items():
        if wanted is None:
            continue
        body = wanted.content.encode()
        state = states.get(path)
        if state and (state.sha256, state.mode, state.owner) == (sha256(body).hexdigest(), wanted.mode, wanted.owner):
            continue
        changed += 1
        part = QuoteString(f"{path}.part")
        yield StringCommand("install -D -m 0600 /dev/null", part)
        if int(wanted.mode, 8) & 0o077 == 0:
            # With sudo, an upload goes through a file in /tmp that everybody can read.
            yield StringCommand("cat >", part, _stdin=wanted.content.removesuffix("\n").split("\n"))
        else:
            # A random name: others on the host could wait in /tmp for one that they can foresee.
            yield FileUploadCommand(BytesIO(body), f"{path}.part", remote_temp_filename=host.get_temp_filename())
        yield StringCommand("chown", wanted.owner, part, "&& chmod", wanted.mode, part,
                            "&& mv -fT", part, QuoteString(path))  # fmt: skip
    if not changed:
        host.noop(f"{len(files)} files as wanted")


@operation()
def units(units: Sequence[Unit]) -> Commands:
    """
    Have systemd units as wanted: loaded as written, enabled, active and started after all that they read; or gone.

    + units: what each shall be

    One remote command when nothing is to do.
    """
    found = host.get_fact(UnitStates, units={unit.name: list(unit.reads) for unit in units})
    # A host that does not answer is failed by pyinfra, which then goes on here all the same.
    states = {unit.name: found.get(unit.name, UnitState()) for unit in units}
    steps: list[StringCommand] = []
    if any(states[unit.name].needs_reload or not states[unit.name].exists for unit in units if unit.present):
        steps.append(StringCommand("systemctl daemon-reload"))
    gone = [u.name for u in units if not u.present and (states[u.name].active or states[u.name].enabled)]
    if gone:
        steps.append(StringCommand("systemctl disable --now --", *map(QuoteString, gone)))
    wanted = [(unit.name, states[unit.name]) for unit in units if unit.present]
    if to_enable := [name for name, state in wanted if not state.enabled]:
        steps.append(StringCommand("systemctl enable --", *map(QuoteString, to_enable)))
    if to_restart := [name for name, state in wanted if state.stale or state.needs_reload or not state.active]:
        steps.append(StringCommand("sh -c", QuoteString(RESTART), "sh", *map(QuoteString, to_restart)))
    yield from steps
    if not steps:
        host.noop(f"{len(units)} units run as written")


@operation()
def program(
    root: str,
    version: str,
    script: str,
    arguments: Sequence[str],
    *,
    files: Mapping[str, TextFile] | None = None,
    test: str = "true",
) -> Commands:
    """
    Have a version of a program in ``root/version``, with ``root/current`` pointing to it.

    + root: the program's directory
    + version: name of the wanted subdirectory
    + script: sh text that fills ``$1`` from ``$2``..., with ``fetch`` at hand; it runs only when the version is missing
    + arguments: ``$2``... of the script
    + files: what the script reads on the host: path -> what shall stand there
    + test: sh command that a whole version, in the directory ``$d``, passes as long as it can be used

    The version's directory is filled under another name and renamed when it is whole, so a run that was
    killed half-way leaves nothing that looks installed, and a rollback is one link.
    """
    state = host.get_fact(Program, root=root, version=version, test=test)
    target = f"{root}/{version}"
    if not state.complete:
        if files:
            yield from file_set._inner(files=files)
        yield ShownCommand("sh -c", QuoteString(FETCH.read_text() + script), "sh",
                           QuoteString(target), *map(QuoteString, arguments))  # fmt: skip
    if state.current != version:
        link = f"{root}/current"
        yield StringCommand("ln -sfn --", QuoteString(version), QuoteString(f"{link}.part"),
                            "&& mv -fT --", QuoteString(f"{link}.part"), QuoteString(link))  # fmt: skip
    if state.complete and state.current == version:
        host.noop(f"{version} is installed and current")


@operation()
def keys(paths: Mapping[str, bool], lengths: Mapping[str, int] | None = None) -> Commands:
    """
    Have a random key in each file, readable by root alone; one that stands there already is kept.

    + paths: file on the host -> whether it shall exist
    + lengths: file -> hexadecimal digits, where 64 are too many, as of a password that people type

    The key is made on the host and never leaves it.
    """
    states = host.get_fact(Keys, paths=list(paths))
    missing = [path for path, present in paths.items() if present and path not in states]
    gone = [path for path, present in paths.items() if not present and path in states]
    loose = [
        path for path, present in paths.items() if present and states.get(path, "600 root:root") != "600 root:root"
    ]
    for path in missing:
        final, part = QuoteString(path), QuoteString(f"{path}.part")
        random = f"head -c 32 /dev/urandom | sha256sum | cut -c 1-{(lengths or {}).get(path, 64)} >"
        yield StringCommand("install -D -m 0600 /dev/null", part, "&&", random, part, "&& mv -fT --", part, final)
    for path in loose:
        yield StringCommand("chown root:root", QuoteString(path), "&& chmod 0600", QuoteString(path))
    if gone:
        yield StringCommand("rm -f --", *map(QuoteString, gone))
    if not (missing or loose or gone):
        host.noop(f"{len(paths)} keys as wanted")
