"""Deploy of the models role."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from pyinfra.api import deploy

from roles.common.bundle import moved
from roles.common.operations import Unit
from roles.common.systemd import unit_path
from roles.models.operations import Judge, store, unwanted_removed
from roles.models.options import ModelsOptions, Place, Source
from roles.models.units import LAN_FILES, LISTED, PROGRAMS, SEEDING, STATE, Lan, lan_files

FILES = Path(__file__).parent / "files"
HOME = "/opt/metal2model/models"
SPEC = "/etc/metal2model/models.json"
CLIENTS = {"huggingface": ("huggingface-hub", "huggingface_hub"), "modelscope": ("modelscope-hub", "modelscope_hub")}
"""Hub -> the package of its client, and the module."""
HUBS = {"huggingface": "https://huggingface.co", "modelscope": "https://modelscope.cn"}
"""Hub -> its public address, under which a bundle has what came from it, or from a mirror of it."""


@deploy("Models")
def deploy_models(
    options: ModelsOptions,
    look_into: Collection[str] = (),
    judge: Judge | None = None,
    *,
    lan: Lan | None = None,
    bundle: str | None = None,
    lock_timeout_seconds: int | None = None,
) -> None:
    """
    Have the wanted models on the host.

    ``look_into``: names of those whose files are to say how much memory they take, before they are fetched.

    ``judge``: what it then speaks against is not fetched.

    ``lan``: how the host shares them with others; None for not at all.

    ``bundle``: base of the bundle that all of them come from.

    ``lock_timeout_seconds``: how long to wait for another package manager; None for what the host's apt is set to.
    """
    lan = lan if options.wanted else None
    spec = specification(options, look_into, lan, bundle)
    store(
        name="Have the models",
        home=HOME,
        spec=SPEC,
        files=own_files(spec) | (lan_files(lan, HOME, SPEC, options.directory) if lan else {}),
        giving=Unit(SEEDING, (unit_path(SEEDING), LISTED), present=lan is not None),
        of_sharing=LAN_FILES,
        programs=list(PROGRAMS),
        judge=judge,
        unless_new=None if options.wanted else STATE,
        tells_unwanted=not options.remove_unwanted,
        lock_timeout_seconds=lock_timeout_seconds,
    )


@deploy("Unwanted models")
def deploy_unwanted_models(links: Sequence[str]) -> None:
    """
    Remove the models that nobody wants any more, except those in use; the servers of this run are there by now.

    ``links``: directories whose symbolic links mean that what they lead to is used.
    """
    unwanted_removed(name="Remove what nobody wants", home=HOME, spec=SPEC, links=list(links))


def own_files(spec: dict[str, Any]) -> dict[str, str]:
    """Return the role's own files on the host: what is wanted, the program, the requirements of the clients."""
    program = sorted(path.relative_to(FILES) for path in (FILES / "store").glob("*.py"))
    names = [*map(str, program), *(f"{hub}.txt" for hub in spec["clients"])]
    texts = {f"{HOME}/{name}": (FILES / name).read_text("utf-8") for name in names}
    return {**texts, SPEC: json.dumps(spec, indent=1, ensure_ascii=False) + "\n"}


def specification(
    options: ModelsOptions, look_into: Collection[str] = (), lan: Lan | None = None, bundle: str | None = None
) -> dict[str, Any]:
    """Return what the program is to have; its schema is what files/store reads."""
    sources = {name: from_bundle(options.source(name), bundle) for name in options.wanted}
    kinds = dict.fromkeys(place.hub for source in sources.values() for place in source.places)
    return {
        "written_by": "metal2model, role models, from models in the inventory; changes are overwritten",
        "directory": options.directory,
        "keep_free_bytes": options.keep_free_mib << 20,
        "retries": options.retries,
        "lan": lan and {"own": lan.own and asdict(lan.own), "seeds": [asdict(seed) for seed in lan.seeds]},
        "slow_bytes_per_second": options.slow_kib_per_second << 10,
        "clients": {
            kind: client(kind, needed=any(s.places[0].hub == kind for s in sources.values() if s.places))
            for kind in kinds
            if kind in CLIENTS
        },
        "models": [entry(name, source, look_into=name in look_into) for name, source in sources.items()],
    }


def from_bundle(source: Source, base: str | None) -> Source:
    """Return a source with the bundle as its only place; without a bundle, as it is."""
    if base is None:
        return source
    places = [
        Place("bundle", moved(HUBS[place.hub], base), place.repo, place.revision, lists=True)
        for place in source.places[:1]
    ]
    return replace(source, url=moved(source.url, base) if source.url else None, places=tuple(places))


def client(hub: str, *, needed: bool) -> dict[str, Any]:
    """
    Return what the program needs to know of a hub's client; the version is the one that the requirements pin.

    ``needed``: in any case, not only when other hubs fail.
    """
    package, module = CLIENTS[hub]
    requirements = (FILES / f"{hub}.txt").read_text("utf-8")
    version = re.search(rf"^{package}==(\S+)", requirements, re.MULTILINE)
    assert version, f"roles/models/files/{hub}.txt does not pin {package}"
    return {
        "package": package,
        "module": module,
        "version": version[1],
        "root": f"/opt/metal2model/{module}",
        "requirements": f"{HOME}/{hub}.txt",
        "requirements_sha256": sha256(requirements.encode()).hexdigest(),
        "needed": needed,
    }


def entry(name: str, source: Source, *, look_into: bool = False) -> dict[str, Any]:
    """Return what the program needs to know of a model."""
    described = PurePosixPath(source.path).relative_to(source.directory).as_posix()
    if not described.endswith(".gguf"):
        described = "config.json"
    return {
        "name": name,
        "source": source.kind,
        "directory": source.directory,
        "repo": source.repo,
        "revision": source.revision,
        "places": [asdict(place) for place in source.places],
        "files": list(source.files),
        "file": source.files[0] if source.kind == "url" else None,
        "url": source.url,
        "path": source.path if source.kind == "path" else None,
        "sha256": source.sha256,
        "digests": dict(source.digests),
        "look_into": described if look_into and source.kind != "path" else None,
    }
