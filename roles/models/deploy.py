"""Deploy of the models role."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from pyinfra.api import deploy

from roles.models.operations import Judge, store
from roles.models.options import ModelsOptions, Source

FILES = Path(__file__).parent / "files"
HOME = "/opt/metal2model/models"
SPEC = "/etc/metal2model/models.json"
CLIENTS = {"huggingface": ("huggingface-hub", "huggingface_hub"), "modelscope": ("modelscope-hub", "modelscope_hub")}
"""Hub -> the package of its client, and the module."""


@deploy("Models")
def deploy_models(options: ModelsOptions, look_into: Collection[str] = (), judge: Judge | None = None) -> None:
    """
    Have the wanted models on the host.

    ``look_into``: names of those whose files are to say how much memory they take, before they are fetched.

    ``judge``: what it then speaks against is not fetched.
    """
    if options.wanted:
        spec = specification(options, look_into)
        store(name="Have the models", home=HOME, spec=SPEC, files=own_files(spec), pythons=pythons(spec), judge=judge)


def own_files(spec: dict[str, Any]) -> dict[str, str]:
    """Return the role's own files on the host: what is wanted, the program, the requirements of the clients."""
    program = sorted(path.relative_to(FILES) for path in (FILES / "store").glob("*.py"))
    names = [*map(str, program), *(f"{hub}.txt" for hub in spec["clients"])]
    texts = {f"{HOME}/{name}": (FILES / name).read_text("utf-8") for name in names}
    return {**texts, SPEC: json.dumps(spec, indent=1, ensure_ascii=False) + "\n"}


def pythons(spec: dict[str, Any]) -> dict[str, str]:
    """Return the groups of models that are wanted, each with the Python that fetches it."""
    groups = {name: f"{client['root']}/{client['version']}/bin/python" for name, client in spec["clients"].items()}
    if any(model["source"] in ("url", "path") for model in spec["models"]):
        groups["plain"] = "python3"
    return groups


def specification(options: ModelsOptions, look_into: Collection[str] = ()) -> dict[str, Any]:
    """Return what the program is to have; its schema is what files/store reads."""
    sources = {name: options.source(name) for name in options.wanted}
    endpoints = {"huggingface": options.huggingface_endpoint, "modelscope": options.modelscope_endpoint}
    return {
        "written_by": "metal2model, role models, from models in the inventory; changes are overwritten",
        "directory": options.directory,
        "keep_free_bytes": options.keep_free_mib << 20,
        "retries": options.retries,
        "clients": {
            hub: client(hub, endpoint.rstrip("/"))
            for hub, endpoint in endpoints.items()
            if any(source.kind == hub for source in sources.values())
        },
        "models": [entry(name, source, look_into=name in look_into) for name, source in sources.items()],
    }


def client(hub: str, endpoint: str) -> dict[str, str]:
    """Return what the program needs to know of a hub's client; the version is the one that the requirements pin."""
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
        "endpoint": endpoint,
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
        "files": list(source.files),
        "file": source.files[0] if source.kind == "url" else None,
        "url": source.url,
        "path": source.path if source.kind == "path" else None,
        "sha256": source.sha256,
        "digests": dict(source.digests),
        "look_into": described if look_into and source.kind != "path" else None,
    }
