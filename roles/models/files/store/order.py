# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/order.py.
"""In which order places are asked: as given, but first those that send, and not too slowly."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from . import ask, known
from .hubs import address_of, at, places_of
from .known import Json, model_problem, read_json, read_manifest, stat_of
from .manifests import write_whole

SILENCE_SECONDS = 10
MEGABYTE_SECONDS = 20
"""At most, for the first megabyte."""
NOBODY_THERE = ("resolve", "connect", "tls", "certificate", "silent")
"""What ask.py says of a server that would say the same to any question."""
WORTH_ASKING = 16 << 20
"""Bytes to come; for fewer, looking at the places takes longer than it saves."""


def steps_of(orders: list[list[Json]]) -> list[tuple[str, int]]:
    """Return the steps in which all are asked: kind of hub, whose client one Python has, and rank among the places."""
    ranks = range(max(map(len, orders), default=0))
    return [
        (hub, rank)
        for rank in ranks
        for hub in dict.fromkeys(order[rank]["hub"] for order in orders if rank < len(order))
    ]


def print_steps(spec: Json, orders: list[list[Json]]) -> None:
    """Print a line for each step, as the shell reads it: Python, hub, rank."""
    for hub, rank in steps_of(orders):
        client = spec["clients"].get(hub)
        print(f"{client['root']}/{client['version']}/bin/python" if client else "python3", hub, rank)


def choose(spec: Json) -> list[str]:
    """Look at the places of what is to come; write down in which order they are asked, and print the steps."""
    dead: dict[str, str] = {}
    orders = {model["name"]: preferred(spec, model, dead) for model in spec["models"]}
    write_whole(order_file(), json.dumps(orders))
    # Then once more those that were left because they became slow, see `ask_again`: in order, but perhaps not all.
    again = [[*order, *order[number:]] for order in orders.values() for number in range(len(order)) if len(order) > 1]
    print_steps(spec, [*orders.values(), *again])
    return []


def ask_again(model: Json, place: Json) -> None:
    """Have a place asked after all others, in this run."""
    orders = read_json(str(order_file()))
    orders[model["name"]] = [*chosen_order(model), place]
    write_whole(order_file(), json.dumps(orders))


def order_file() -> Path:
    """Return where the order stands that this run goes by."""
    return Path(known.STATE, "order")


def chosen_order(model: Json) -> list[Json]:
    """Return the places of a model in the order that was chosen."""
    found: list[Json] = read_json(str(order_file())).get(model["name"]) or places_of(model)
    return found


def preferred(spec: Json, model: Json, dead: dict[str, str]) -> list[Json]:
    """
    Return a model's places: those before the first that sends fast enough go to the end, the silent ones last.

    ``dead``: endpoints that nobody answers at, and why; filled, so that the next model need not wait for them.
    """
    places = places_of(model)
    manifest = read_manifest(model)
    if len(places) == 1 or manifest is None or model_problem(spec, model) is None:
        return places
    pending = [entry for entry in manifest["files"] if entry["stat"] is None or entry["stat"] != stat_of(entry["path"])]
    if sum(entry["size"] or 0 for entry in pending) < WORTH_ASKING:
        return places
    entry = max(pending, key=lambda one: one["size"] or 0)
    slow: list[Json] = []
    silent: list[Json] = []
    for number, place in enumerate(places):
        url = address_of(at(model, place), revision_at(place, manifest), entry["name"])
        rate, why = (None, dead[place["endpoint"]]) if place["endpoint"] in dead else look_at(place, url, dead)
        if rate is None:
            text, worse = why, silent
        elif rate < spec["slow_bytes_per_second"]:
            text, worse = f"sends {rate >> 10} KiB/s, less than models/slow_kib_per_second", slow
        else:
            return [*places[number:], *slow, *silent]
        # Not to standard output: the shell reads the steps there.
        print(f"models/wanted/{model['name']}: {place['endpoint']}: {text}; asked after the others", file=sys.stderr)
        worse.append(place)
    return [*slow, *silent]


def revision_at(place: Json, manifest: Json) -> str:
    """Return the revision to ask a place for: what was listed, where that is its own."""
    is_listed = (place["hub"], place["repo"]) == (manifest["hub"], manifest["repo"])
    return str(manifest["revision"] if is_listed else place["revision"])


def look_at(place: Json, url: str, dead: dict[str, str]) -> tuple[int | None, str]:
    """Return the bytes a second in which the first megabyte of a file comes from a place; or None, and why not."""
    wanted = {"url": url, "listing": "", "is_manifest": False, "shows": "", "client": "other"}
    source = ask.Source(wanted, SILENCE_SECONDS)
    try:
        source.reach()
        source.measure(time.monotonic() + MEGABYTE_SECONDS)
    except ask.Failed as failed:
        why = f"cannot be used from here: {failed.problem} ({failed.detail})"
        if failed.problem in NOBODY_THERE and source.found["hosts"][1:] == []:
            dead[place["endpoint"]] = why
        return None, why
    except Exception as error:
        return None, f"cannot be used from here: {type(error).__name__}"
    rate = source.found["kib_per_second"]
    return (sys.maxsize if rate is None else rate << 10), ""
