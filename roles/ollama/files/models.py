"""Have the declared models in Ollama. Runs on the host as root; Python 3.10 and its standard library alone.

Arguments: ``state`` or ``apply``, and a JSON object, as roles/ollama/deploy.py makes it. ``state`` reads, and prints
what is not as wanted; ``apply`` pulls, makes and removes. A model is as wanted when its record on this host says that
it was made from this Modelfile and these files, and Ollama still has what came of that then.
"""

from __future__ import annotations

# Every host waits for these imports in every run; what only a change needs is imported there.
import http.client
import json
import os
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

Json: TypeAlias = "dict[str, Any]"
POLL_SECONDS = 0.1
START_SECONDS = 120
SILENT_SECONDS = 3600
"""Ollama says nothing while it compares a large file with its digest."""


class Problem(Exception):
    """What keeps a model from being as wanted; the text begins with the option."""


def state(spec: Json) -> Json:
    """Return what is not as wanted: model -> why; what is to go; models that nobody declared."""
    there = tags(spec, START_SECONDS if is_active() else 0)
    if there is None:
        return {"answers": False, "todo": {model["instance"]: "Ollama does not run" for model in spec["models"]},
                "gone": [gone["instance"] for gone in spec["gone"]], "undeclared": []}  # fmt: skip
    todo = {model["instance"]: why for model in spec["models"] if (why := difference(spec, model, there))}
    gone = [one["instance"] for one in spec["gone"] if read_record(spec, one) or folded(one["name"]) in there]
    known = {folded(model[key]) for model in spec["models"] for key in ("name", "pull")}
    known |= {folded(one["name"]) for one in spec["gone"]}
    for instance in [*todo, *gone]:
        known |= named(read_record(spec, {"instance": instance}))
    return {"answers": True, "todo": todo, "gone": gone, "undeclared": sorted(set(there) - known)}


def difference(spec: Json, model: Json, there: dict[str, str]) -> str:
    """Return why a model must be made, "" when it is as wanted."""
    record = read_record(spec, model)
    if folded(model["name"]) not in there:
        return "it is not there"
    if record is None:
        return "it is not known how it was made"
    if record["asked"] != asked(model):
        return "its Modelfile or a file of it changed"
    return "" if record["digest"] == there[folded(model["name"])] else "somebody else changed it"


def asked(model: Json) -> Json:
    """Return what a model is made from; of files what stat says."""
    found = [os.stat(path) if os.path.exists(path) else None for path in model["files"]]
    return {
        "name": model["name"],
        "modelfile": model["sha256"],
        "files": [[one.st_size, one.st_mtime_ns] if one else None for one in found],
    }


def apply(spec: Json) -> int:
    """Have all models as wanted; one that cannot be had does not keep the others from coming."""
    there = tags(spec, START_SECONDS)
    if there is None:
        print(f"ollama: nothing answers on {spec['host']}:{spec['port']}, though ollama.service was started; read "
              "journalctl -u ollama", file=sys.stderr)  # fmt: skip
        return 1
    failed = 0
    left: set[str] = set()
    for one in spec["gone"]:
        left |= {folded(one["name"])} | named(read_record(spec, one))
    for model in spec["models"]:
        if not (why := difference(spec, model, there)):
            continue
        print(f"{model['instance']}: {why}")
        record = read_record(spec, model) or {}
        try:
            pulled = record.get("pulled", "") == model["pull"] and bool(model["pull"])
            if model["pull"] and folded(model["pull"]) not in there:
                pull(spec, model)
                pulled = True
            make(spec, model)
            there = tags(spec, START_SECONDS) or {}
            pulled_name = model["pull"] if pulled else ""
            write_record(spec, model, {"name": model["name"], "pulled": pulled_name, "asked": asked(model),
                                       "digest": there.get(folded(model["name"]), "")})  # fmt: skip
            left |= named(record)
        except Problem as problem:
            print(problem, file=sys.stderr)
            failed = 1
    kept = {folded(model[key]) for model in spec["models"] for key in ("name", "pull")}
    try:
        for name in sorted((left - kept) & set(there)):
            remove(spec, name)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1  # the records stay: by them the next run knows what is still to be removed
    for one in spec["gone"]:
        if os.path.exists(record_path(spec, one)):
            os.unlink(record_path(spec, one))
    return failed


def pull(spec: Json, model: Json) -> None:
    """Have Ollama pull a model; what has arrived of an earlier attempt, it keeps."""
    name = model["pull"]
    print(f"{model['instance']}: pulling {name}")
    told: dict[str, int] = {}
    try:
        for event in call(spec, "POST", "/api/pull", {"model": name}):
            if "error" in event:
                raise OSError(event["error"])
            share = 10 * event.get("completed", 0) // event["total"] if event.get("total") else 0
            if share > told.get(event.get("digest", ""), 0):
                told[event["digest"]] = share
                print(f"{model['instance']}: {share * 10} % of {event['total'] >> 20} MiB", flush=True)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Problem(
            f"ollama/instances/{model['instance']}/pull: Ollama could not pull {name}: {error}; what has arrived is "
            "kept, and the next run goes on there; check the name and the network; where registry.ollama.ai cannot be "
            "reached, write modelscope.cn/ORG/REPO-GGUF:QUANT or hf-mirror.com/ORG/REPO:QUANT"
        ) from None


def make(spec: Json, model: Json) -> None:
    """Have Ollama make a model from its Modelfile."""
    import re
    import tempfile

    option = f"ollama/instances/{model['instance']}/model"
    for path in model["files"]:
        if not os.path.isfile(path):
            raise Problem(f"{option}: {path} is not there; required is a GGUF file; is the model complete?")
    merged = model["merged"]
    if merged:
        merge(spec, model, option)
    links = link_in(spec, model["files"][model["parts"] :] if merged else model["files"], option)
    print(f"{model['instance']}: making {model['name']}", flush=True)
    with tempfile.TemporaryDirectory() as home:  # the client wants one to put its history in
        environment = {"OLLAMA_HOST": f"{bracketed(spec['host'])}:{spec['port']}", "HOME": home, "PATH": os.defpath}
        done = subprocess.run(
            [spec["program"], "create", model["name"], "-f", model["modelfile"]],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd="/",
            check=False,
        )  # fmt: skip
    if merged:
        os.unlink(merged)
    unlink_unused(spec, links)
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", done.stdout.decode(errors="replace")).split("\n")
        last = " | ".join([line.strip() for line in said if line.strip()][-3:])
        raise Problem(f"{option}: `ollama create` failed: {last or 'it said nothing'}; the Modelfile is "
                      f"{model['modelfile']} on the host; read journalctl -u ollama")  # fmt: skip


def merge(spec: Json, model: Json, option: str) -> None:
    """Join the parts of a split GGUF, for a release of Ollama that cannot."""
    if not os.access(spec["split"], os.X_OK):
        raise Problem(
            f"{option}: the model has {model['parts']} parts, and this release of Ollama takes one file; required is "
            f"{spec['split']} to join them, and it is not there; write ollama/version 0.30.0 or later, or say where "
            "llama-gguf-split is in ollama/gguf_split"
        )
    need_space(spec, option, sum(os.path.getsize(path) for path in model["files"][: model["parts"]]))
    if os.path.exists(model["merged"]):
        os.unlink(model["merged"])  # of a run that was killed
    print(f"{model['instance']}: joining {model['parts']} files", flush=True)
    done = subprocess.run(
        [spec["split"], "--merge", model["files"][0], model["merged"]],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        last = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
        raise Problem(f"{option}: {spec['split']} could not join {model['files'][0]}: {' '.join(last)}")
    os.chmod(model["merged"], 0o444)


def link_in(spec: Json, paths: list[str], option: str) -> list[str]:
    """
    Put links to files where Ollama would copy them to, and return those.

    Its files are named by their digests, and `ollama create` sends none that is there already. Symbolic links: a hard
    link would change the file's ctime, by which the models role sees that somebody touched it.
    """
    import hashlib

    blobs = f"{spec['directory']}/blobs"
    os.makedirs(blobs, exist_ok=True)
    home = os.stat(spec["directory"])
    os.chown(blobs, home.st_uid, home.st_gid)
    linked = []
    copied = sum(os.path.getsize(path) for path in paths) if spec["rewrites"] else 0
    for path in map(os.path.realpath, paths):
        if not readable_by_all(path):
            copied += os.path.getsize(path)  # the client, which is root, sends it
            continue
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
        blob = f"{blobs}/sha256-{digest.hexdigest()}"
        if os.path.islink(blob):
            os.unlink(blob)  # it may lead to where the file was before
        if not os.path.exists(blob):
            os.symlink(path, blob)
            linked.append(blob)
    need_space(spec, option, copied)
    return linked


def readable_by_all(path: str) -> bool:
    """Whether Ollama's user can read a file where it lies."""
    if not os.stat(path).st_mode & 0o004:
        return False
    while (path := os.path.dirname(path)) != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
    return True


def need_space(spec: Json, option: str, size: int) -> None:
    """Refuse what cannot end well before it takes an hour."""
    free = os.statvfs(spec["directory"])
    have = free.f_bavail * free.f_frsize
    if size > have:
        raise Problem(
            f"{option}: Ollama needs {size / (1 << 30):.1f} GiB in {spec['directory']} for a copy of its own, and "
            f"{have / (1 << 30):.1f} GiB are free; choose another ollama/models_directory, or a smaller model"
        )


def unlink_unused(spec: Json, links: list[str]) -> None:
    """Remove links that no model came to use: Ollama wrote a file of its own, or did not make the model."""
    used = ""
    for folder, _, names in os.walk(f"{spec['directory']}/manifests"):
        for name in names:
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
                used += file.read()
    for link in links:
        if os.path.basename(link).replace("-", ":", 1) not in used and os.path.islink(link):
            os.unlink(link)


def remove(spec: Json, name: str) -> None:
    """Have Ollama forget a model, by its folded name; files that others have, too, it keeps."""
    print(f"removing {name}")
    try:
        (found,) = call(spec, "GET", "/api/tags")
        for model in found["models"] or []:
            if folded(model["name"]) == name:
                list(call(spec, "DELETE", "/api/delete", {"model": model["name"]}))
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Problem(
            f"ollama: Ollama could not remove {name}: {error}; read journalctl -u ollama, and run again"
        ) from None


def folded(name: str) -> str:
    """Return a name to compare: Ollama takes no notice of case, and lists a name as it was first written."""
    return name.lower()


def named(record: Json | None) -> set[str]:
    """Return the models that a record speaks of."""
    return {folded((record or {}).get(key, "")) for key in ("name", "pulled")}


def tags(spec: Json, patience_seconds: int) -> dict[str, str] | None:
    """Return the models that Ollama has, by folded name, with their digests; None when nothing answers in that time."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            (found,) = call(spec, "GET", "/api/tags")
            return {folded(model["name"]): model["digest"] for model in found["models"] or []}
        except (OSError, http.client.HTTPException):
            if time.monotonic() >= deadline or not is_active():
                return None
            time.sleep(POLL_SECONDS)


def call(spec: Json, method: str, path: str, body: Json | None = None) -> Iterator[Json]:
    """Give the objects of an answer as they come; raises OSError for another status than 200. No proxy sees it."""
    connection = http.client.HTTPConnection(spec["host"], spec["port"], timeout=SILENT_SECONDS)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"{path} answers {response.status}: {response.read(300).decode(errors='replace')}")
        for line in response:
            if line.strip():
                yield json.loads(line)
    finally:
        connection.close()


def is_active() -> bool:
    """Whether the daemon runs, or is about to."""
    return subprocess.run(["systemctl", "is-active", "--quiet", "ollama.service"], check=False).returncode == 0


def bracketed(host: str) -> str:
    """Spell an address for use before a port."""
    return f"[{host}]" if ":" in host else host


def record_path(spec: Json, model: Json) -> str:
    """Return where it is written down how a model was made."""
    return f"{spec['records']}/{model['instance']}.json"


def read_record(spec: Json, model: Json) -> Json | None:
    """Return how a model was made, None when that is not known."""
    try:
        with open(record_path(spec, model), encoding="utf-8") as file:
            record: Json = json.load(file)
            return record
    except (OSError, ValueError):
        return None


def write_record(spec: Json, model: Json, record: Json) -> None:
    """Write down how a model was made, whole or not at all."""
    os.makedirs(spec["records"], exist_ok=True)
    part = f"{record_path(spec, model)}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.replace(part, record_path(spec, model))


if __name__ == "__main__":
    if sys.argv[1] == "state":
        print(json.dumps(state(json.loads(sys.argv[2]))))
    else:
        sys.exit(apply(json.loads(sys.argv[2])))
