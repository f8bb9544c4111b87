"""What the answers of a host's sources mean: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roles.common.sources import Source
from roles.doctor.facts import Answer
from roles.doctor.messages import NOTHING, Language, advice, instead, remarks, sentence

WORTH_IT = 2
"""How many times faster another source has to be to be recommended: networks are never the same twice."""

Asked = tuple[Source, Answer]


def of_each(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    """Return what is wanted -> its sources, in the order in which they were named."""
    found: dict[str, list[Asked]] = {}
    for one in asked:
        found.setdefault(one[0].what, []).append(one)
    return found


def fastest(some: Sequence[Asked]) -> Asked | None:
    """Return the usable source that gives most, the nearest of those that gave too little to tell; None without."""
    usable = [one for one in some if one[1].usable]
    return max(usable, key=lambda one: (one[1].kib_per_second or 0, -(one[1].connect_ms or 0)), default=None)


def row(source: Source, answer: Answer, lang: Language, *, is_fastest: bool, unmet: str) -> dict[str, Any]:
    """Return a source as a row of the report; ``unmet``: what to say when nothing that is declared can be used."""
    return {
        "for": source.what,
        "source": source.name,
        "declared": source.declared,
        "usable": answer.usable,
        "bytes from": answer.hosts[-1] if answer.hosts else "-",
        "latency ms": "-" if answer.connect_ms is None else answer.connect_ms,
        "KiB/s": "-" if answer.kib_per_second is None else answer.kib_per_second,
        "remarks": remarks(source, answer, lang),
        "fastest": is_fastest,
        "kind": source.kind,
        "option": source.option,
        "value": source.value,
        "answer": answer,
        "unmet": unmet,
    }


def rows(asked: Sequence[Asked], lang: Language) -> list[dict[str, Any]]:
    """Return a row for each source; what is for one thing stands together, declared ones first."""
    found = []
    for some in of_each(asked).values():
        best = fastest(some)
        ordered = sorted(some, key=lambda one: not one[0].declared)
        problem = unmet(some, lang)
        found += [row(*one, lang, is_fastest=one is best, unmet=problem) for one in ordered]
    return found


def summary(asked: Sequence[Asked], lang: Language) -> list[dict[str, Any]]:
    """Return a row for each thing: its fastest usable source, and what to write where that is worth it."""
    found: list[dict[str, Any]] = []
    for what, some in of_each(asked).items():
        best = fastest([one for one in some if not one[0].last_resort]) or fastest(some)
        if best is None:
            found.append({"for": what, "fastest": NOTHING[lang == "zh"], "KiB/s": "-", "write": "-"})
            continue
        source, answer = best
        used = next((answer for source, answer in some if source.declared and answer.usable), None)
        is_better = used is None or (answer.kib_per_second or 0) >= WORTH_IT * (used.kib_per_second or 0) > 0
        found.append({
            "for": what,
            "fastest": source.name,
            "KiB/s": "-" if answer.kib_per_second is None else answer.kib_per_second,
            "write": f"{source.option}: {source.value!r}" if source.value and is_better else "-",
        })  # fmt: skip
    return found


def unmet(some: Sequence[Asked], lang: Language) -> str:
    """Return that none of a thing's declared sources can be used, and what to do; "" where one can, or none is."""
    declared = [one for one in some if one[0].declared]
    if not declared or any(answer.usable for _, answer in declared):
        return ""
    first, its_answer = declared[0]
    best = fastest([one for one in some if one[0].value])
    todo = instead(*best, lang) if best else advice(first, its_answer, lang)
    return sentence(declared, todo, lang)
