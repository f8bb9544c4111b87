# Written by metal2model, role models; changes are overwritten. The source is roles/models/files/store/asking.py.
"""Which place is asked for which model, and what happens when it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from .hubs import DiskIsFull, GaveUp, Hub, Listed, Refused, Unlike, at, attempts, hub_of, places_of
from .known import Json, looked_into, model_problem, read_manifest
from .order import chosen_order, revision_at


@dataclass(frozen=True)
class There:
    """A place while it is asked for one model's files."""

    model: Json
    """As the place has it."""
    revision: str
    hub: Hub
    listed: dict[str, Json] | None = None
    """Name -> what it lists, where that is not what was written down: the same name may be another file."""
    other: tuple[Json, str] | None = None
    """The model as the place has it that would be asked next, and its revision there; None of the last one."""


Due = tuple[Json, Json, "Json | None"]
"""A model, a place to ask for it, and the next one if that fails."""


def due(spec: Json, hub: str, rank: int, orders: list[list[Json]]) -> list[Due]:
    """Return the models that are not as wanted, and whose place of this rank is such a hub."""
    found: list[Due] = []
    for model, places in zip(spec["models"], orders, strict=True):
        if rank < len(places) and places[rank]["hub"] == hub and model_problem(spec, model) is not None:
            found.append((model, places[rank], places[rank + 1] if rank + 1 < len(places) else None))
    return found


def to_plan(spec: Json, hub: str, rank: int) -> list[Due]:
    """Return what is to be listed, or only looked into, by such a hub."""
    found = due(spec, hub, rank, [places_of(model) for model in spec["models"]])
    return [one for one in found if one[0]["source"] != "path" and not is_planned(one[0]) and can_plan(*one[:2])]


def can_plan(model: Json, place: Json) -> bool:
    """Tell whether a place can bring a plan further: its listing counts, or what the model consists of is known."""
    return bool(place["lists"]) or read_manifest(model) is not None


def to_fetch(spec: Json, hub: str, rank: int) -> list[Due]:
    """Return what is to come from such a hub; of what could not be planned, only the first place shall say so."""
    found = due(spec, hub, rank, [chosen_order(model) for model in spec["models"]])
    return [one for one in found if rank == 0 or can_fetch(*one[:2])]


def can_fetch(model: Json, place: Json) -> bool:
    """Tell whether it is known what to ask a place for."""
    return model["source"] == "path" or is_planned(model)


def is_planned(model: Json) -> bool:
    """Tell whether all that is to be written down of a model is."""
    manifest = read_manifest(model)
    return manifest is not None and looked_into(model, manifest)


def each(
    spec: Json,
    dues: list[Due],
    work: Callable[[Json, Json, Hub], None],
    can_do: Callable[[Json, Json], bool],
) -> list[str]:
    """Do the work for each model; return what went wrong, and cannot be done by another place."""
    problems = []
    hubs: dict[str, Hub] = {}
    silent: set[str] = set()
    for model, place, other in dues:
        endpoint = place["endpoint"]
        try:
            if endpoint in silent and other is not None and can_do(model, other):
                raise Refused(f"{endpoint} has just not answered for another model")
            if endpoint not in hubs:
                hubs[endpoint] = hub_of(spec, place)
            work(model, place, hubs[endpoint])
        except DiskIsFull as refusal:
            raise DiskIsFull(f"models/wanted/{model['name']}: {refusal}.") from refusal
        except Refused as refusal:
            if isinstance(refusal, GaveUp):
                silent.add(endpoint)
            if other is not None and can_do(model, other):
                text = f"{refusal}. Now {other['endpoint']} is asked"
                print(f"models/wanted/{model['name']}: {text}.", file=sys.stderr, flush=True)
                continue
            others = ". That was the last place; above stands why the others could not"
            text = f"{refusal}{others if len(places_of(model)) > 1 else ''}"
            problems.append(f"models/wanted/{model['name']}: {text}.")
    return problems


def there_at(spec: Json, model: Json, place: Json, manifest: Json, hub: Hub) -> There:
    """Return a place as it is to be asked for what the manifest names."""
    there = There(at(model, place), revision_at(place, manifest), hub)
    if (place["hub"], place["repo"]) == (manifest["hub"], manifest["repo"]):
        return there
    revision, listed = ask(spec, there)
    return There(there.model, revision, hub, {item["name"]: item for item in listed})


def ask(spec: Json, there: There) -> Listed:
    """Return a hub's listing of a repository."""
    listed: Listed = attempts(
        spec,
        there.model,
        lambda: 0,
        lambda: there.hub.listing(there.model, there.revision),
        lambda error: there.hub.explain(there.model, there.revision, error),
    )
    return listed


def same_file(there: There, entry: Json) -> None:
    """Refuse a place that has another file of this name, as far as its listing tells, before the first byte of it."""
    if there.listed is None:
        return
    item = there.listed.get(entry["name"])
    alike = item is not None and item["size"] == entry["size"] and all(
        item.get(kind) == entry[kind] for kind in ("sha256", "git_sha1") if item.get(kind) and entry[kind]
    )  # fmt: skip
    if not alike:
        raise Unlike(
            f"{there.hub.endpoint} has no {entry['name']} with the same content in {there.model['repo']} at "
            f"{there.revision}, so it cannot give the rest of it"
        )
