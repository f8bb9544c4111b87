"""What the llama_cpp role changes on a host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from pyinfra import host
from pyinfra.api import QuoteString, operation

from roles.common.operations import FETCH, Commands, ShownCommand
from roles.llama_cpp.facts import Choice, ChoiceState

MEASURE = Path(__file__).parent / "files" / "fastest.py"
RESULT = "/var/lib/metal2model/llama_cpp/fastest.json"


@operation()
def fastest(
    root: str,
    candidates: Mapping[str, Sequence[str]],
    *,
    script: str,
    model: str,
    threads: int,
    user: str,
    cards: Sequence[str],
) -> Commands:
    """
    Have several builds of llama.cpp in ``root``, and ``root/current`` point to the one that generates fastest.

    + candidates: name of the directory -> arguments of the script that fills it
    + script: as of `program`
    + model: a GGUF file to measure with
    + threads: of the processors, for what is computed there
    + user: who runs the programs
    + cards: PCI ids of the host's

    Measured once: the result is kept on the host and holds until one of these changes. llama-server's instances are
    stopped meanwhile; other engines' servers are not, and hold what they hold of the cards.
    """
    wanted = sha256(" ".join([*sorted(candidates), model, *sorted(cards)]).encode()).hexdigest()[:16]
    found: ChoiceState = host.get_fact(Choice, root=root, result=RESULT, candidates=list(candidates))
    if found.measured == wanted and found.chosen == found.current and set(found.complete) >= set(candidates):
        host.noop(f"{found.chosen} was measured to be the fastest of {len(candidates)}")
        return
    for name, arguments in candidates.items():
        if name not in found.complete:
            yield ShownCommand("sh -c", QuoteString(FETCH.read_text() + script), "sh",
                               QuoteString(f"{root}/{name}"), *map(QuoteString, arguments))  # fmt: skip
    words = [root, RESULT, wanted, model, str(threads), user, *candidates]
    yield ShownCommand("python3 -I -c", QuoteString(MEASURE.read_text()), *map(QuoteString, words))
