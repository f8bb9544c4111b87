"""Collect what this host was made from: "check" or "collect", then a JSON object.

The object: "directory" of the bundle; "provisioned", a file that only a provisioned host has; "made", who made the
bundle from what; "sources", pairs of what an archive's addresses begin with in apt's sources here and the name under
which a bundle has that archive; "index", the same for Python's packages; "files", each with "url" and "sha256", ""
where nobody knows it; "models", names of those that the inventory wants; "models_known", the file in which the models
role says what they are; "images", as docker takes them. Wheels are those of the Python environments below OPT.

A file lies where its public URL says, DIRECTORY/HOST/PATH, or in its archive, DIRECTORY/NAME/PATH; byte for byte, so
that what signs or pins it upstream does so in the bundle. It gets its name when it is whole and right. "check" changes
nothing and prints one line of JSON: what is missing. Any Python 3.10 or newer, standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

OPT = Path("/opt/metal2model")
STORE = Path("/var/lib/metal2model/models")
HUBS = {"huggingface": "https://huggingface.co", "modelscope": "https://modelscope.cn"}
LISTING = "metal2model.json"
MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
PIECE = 1 << 20
KEEP_FREE = 256 << 20
TOGETHER = 50
"""Packages that apt fetches in one call: what a kill loses is less than that."""
OUTDATED_SECONDS = 86400


class Problem(Exception):
    """What an administrator has to see to."""


@dataclass
class Item:
    """A file of the bundle, and where it comes from."""

    url: str
    """Its public address; of a file in an archive that is known by a name, that name and the path there."""
    origin: str = ""
    """Where this host gets it: another URL, such as a mirror's, or a path."""
    how: str = "curl"
    """``curl``, ``apt``, ``copy`` or ``save``, docker's; ``text`` for what is written here."""
    size: int | None = None
    digest: str = ""
    """
    ``SHA256:...`` or ``SHA512:...``, where it is known beforehand; of an image, which is not the same file each time
    that it is saved, ``IMAGE:`` and what docker calls it.
    """
    text: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """Where it lies below the bundle's directory."""
        parts = urlsplit(self.url)
        place = f"{parts.netloc}{unquote(parts.path)}"
        if not is_inside(place):
            raise Problem(f"{place!r} would lie outside of the bundle; look at what names it")
        return place

    @property
    def shown(self) -> str:
        """Its address, as others may read it: what follows a question mark may be a token."""
        return self.url.partition("?")[0]


def is_inside(place: str) -> bool:
    """Say whether a path stays below the directory that it begins in."""
    return bool(place) and not place.startswith("/") and ".." not in Path(place).parts


def say(text: str) -> None:
    """Print a line of progress; it fails when nobody listens any more, and that ends the run."""
    print(text, flush=True)


def output_of(*command: str) -> str:
    """Return what a command says, or raise with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()[-60:])
        raise Problem(f"{' '.join(command[:3])} ... failed: {said}; see to that on the host, then run again")
    return done.stdout


def digest_of(path: Path, kind: str = "sha256") -> str:
    """Return the hexadecimal digest of a file."""
    value = hashlib.new(kind)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            value.update(piece)
    return value.hexdigest()


def is_right(item: Item, path: Path) -> bool:
    """Say whether a file has the digest that is known; one of which nothing is known is not."""
    kind, _, wanted = item.digest.partition(":")
    return kind in ("SHA256", "SHA512") and digest_of(path, kind.lower()) == wanted


# What is wanted


def wanted(spec: dict[str, Any]) -> list[Item]:
    """Return all files but the wheels, in the order in which a bundle that is half made is of most use."""
    return [*from_apt(spec), *releases(spec), *models(spec), *images(spec)]


def from_apt(spec: dict[str, Any]) -> Iterator[Item]:
    """Yield packages, then the lists that name them, then what signs the lists."""
    sources: list[tuple[str, str]] = [(str(here), str(name)) for here, name in spec["sources"]]

    def public(uri: str) -> str:
        known = [(here, name) for here, name in sources if uri.startswith(here)]
        here, name = max(known, default=("", ""))
        return name + uri.removeprefix(here)

    for uri, size, digest in packages():
        if is_elsewhere(uri):
            yield Item(public(uri), uri, "apt", size, digest)
    signed = {base: path for base, path in signed_files() if is_elsewhere(base)}
    for base, key, kinds in targets():
        if is_elsewhere(base):
            if base not in signed:
                raise Problem(f"apt has lists of {base}, and not what signs them; run apt-get update on the host")
            item = index(signed[base].read_text(encoding="utf-8", errors="replace"), base, key, kinds)
            yield Item(public(item.url), item.url, "apt", item.size, item.digest)
    for base, path in signed.items():
        name = path.name.rpartition("_")[2]
        signature = path.with_name(f"{path.name}.gpg")
        for one in (path, *([signature] if name == "Release" and signature.exists() else [])):
            url = public(f"{base}{one.name.rpartition('_')[2]}")
            yield Item(url, str(one), "copy", one.stat().st_size, f"SHA256:{digest_of(one)}")


def is_elsewhere(uri: str) -> bool:
    """Say whether a source of apt is on another machine: a directory of this one is no business of other hosts."""
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise Problem(
            f"apt's sources have a login in the address of {parts.hostname}, which everybody could read in a bundle; "
            "required is an address without; write the login into a file of /etc/apt/auth.conf.d (apt_auth.conf(5)), "
            "run apt-get update, then run again"
        )
    return parts.scheme in ("http", "https")


def packages() -> Iterator[tuple[str, int, str]]:
    """
    Yield address, size and digest of every package that is installed here, as it is and as apt would install it now.

    All that apt would have to fetch to bring this host up to date is among them, so that on another host with the same
    lists each of them can be installed or upgraded with all that it depends on.
    """
    names = output_of("dpkg-query", "-W", "-f", "${db:Status-Status} ${binary:Package}\n").splitlines()
    installed = [name.partition(" ")[2] for name in names if name.startswith("installed ")]
    phased = "APT::Get::Always-Include-Phased-Updates=true"
    lines = output_of("apt-get", "-o", phased, "--print-uris", "download", *on_offer(installed)).splitlines()
    lines += output_of("apt-get", "-o", phased, "-y", "--print-uris", "dist-upgrade").splitlines()
    found = [re.fullmatch(r"'(\S+)' \S+ (\d+) (SHA\d+:[0-9a-f]+).*", line) for line in lines]
    yield from dict.fromkeys((one[1], int(one[2]), one[3]) for one in found if one)


def on_offer(names: list[str]) -> list[str]:
    """
    Return packages as ``name=version``: what is installed, and what apt would install, of what a source of apt has.

    That is not the same for a package that is held. One that somebody installed from a file is in no source.
    """
    found: dict[str, None] = {}
    name = version = ""
    wanted: set[str] = set()
    for line in output_of("apt-cache", "policy", *names).splitlines():
        if not line.startswith(" "):
            name, wanted = line.rstrip(":"), set()
        elif match := re.match(r"  (?:Installed|Candidate): (\S+)", line):
            wanted.add(match[1])
        elif match := re.match(r" (?:\*\*\*|   ) (\S+) -?\d+", line):
            version = match[1]
        elif version in wanted and re.match(r" {6,}-?\d+ (?!/var/lib/dpkg/status)\S", line):
            found[f"{name}={version}"] = None
    return list(found)


def targets() -> Iterator[tuple[str, str, list[str]]]:
    """Yield each list of packages that apt has here: base of the suite, name below it, compressions in apt's order."""
    fields = "$(URI)\t$(METAKEY)\t$(COMPRESSIONTYPES)"
    for line in output_of("apt-get", "indextargets", "--format", fields).splitlines():
        uri, key, kinds = line.split("\t")
        yield uri.removesuffix(key), key, kinds.split()


def signed_files() -> Iterator[tuple[str, Path]]:
    """Yield the base of each suite, and where apt has the file that signs it; also of a suite without any package."""
    lists = lists_directory()
    for line in output_of("apt-get", "--print-uris", "update").splitlines():
        if match := re.match(r"'(\S+/)InRelease' (\S+)", line):
            for name in (match[2], f"{match[2].removesuffix('InRelease')}Release"):
                if (lists / name).exists():
                    yield match[1], lists / name
                    break


def lists_directory() -> Path:
    """Return where apt keeps its lists."""
    return Path(re.sub(r"^\w+='(.*)'\s*$", r"\1", output_of("apt-config", "shell", "lists", "Dir::State::Lists/d")))


def index(release: str, base: str, key: str, kinds: list[str]) -> Item:
    """
    Return the file that apt fetches for a list of packages.

    https://wiki.debian.org/DebianRepository/Format: by the strongest digest, where the archive has files by digest.
    """
    for kind in ("SHA512", "SHA256"):
        section = re.search(rf"(?m)^{kind}:\n((?: .*\n?)+)", release)
        lines = (line.split() for line in (section[1] if section else "").splitlines())
        listed = {name: (digest, int(size)) for digest, size, name in lines}
        for ending in kinds:
            name = key if ending == "uncompressed" else f"{key}.{ending}"
            if name in listed:
                digest, size = listed[name]
                by_hash = re.search(r"(?m)^Acquire-By-Hash: yes$", release)
                url = f"{base}{key.rpartition('/')[0]}/by-hash/{kind}/{digest}" if by_hash else f"{base}{name}"
                return Item(url, size=size, digest=f"{kind}:{digest}")
    raise Problem(f"{base}InRelease names no file of {key} with a digest; it cannot be proven in a bundle")


def releases(spec: dict[str, Any]) -> Iterator[Item]:
    """Yield what the roles fetch by its address."""
    for one in spec["files"]:
        yield Item(one["url"], one["url"], "curl", None, f"SHA256:{one['sha256']}" if one["sha256"] else "")


def models(spec: dict[str, Any]) -> Iterator[Item]:
    """Yield the files of all models that the inventory wants; without one of them, a bundle would not be whole."""
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, KeyError):
        entries = json.loads(Path(spec["models_known"]).read_text(encoding="utf-8"))["models"]
        known = {model["name"]: model for model in entries}
    for name in spec["models"]:
        try:
            yield from files_of(known[name])
        except (OSError, ValueError, KeyError):
            raise Problem(f"models/wanted/{name}: not on this host; run deploys/full.py first") from None


def files_of(model: dict[str, Any]) -> Iterator[Item]:
    """Yield the files of a model as they lie here, and a listing for the host that wants the same."""
    if model["source"] == "path":
        return
    manifest = json.loads((STORE / f"{model['name']}.json").read_text(encoding="utf-8"))
    if model["source"] == "url":
        path = Path(manifest["files"][0]["path"])
        yield Item(model["url"], str(path), "copy", path.stat().st_size, f"SHA256:{model['sha256']}")
        return
    # The first place is the one that says what the model is; its files may have come from another.
    place = model["places"][0]
    is_listed = (manifest["hub"], manifest["repo"]) == (place["hub"], place["repo"])
    revision = manifest["revision"] if is_listed else place["revision"]
    base = f"{HUBS[place['hub']]}/{place['repo']}/resolve"
    listed = []
    for entry in manifest["files"]:
        path = Path(entry["path"])
        digest = entry["sha256"] or digest_of(path)
        listed.append({"name": entry["name"], "size": path.stat().st_size, "sha256": digest})
        url = f"{base}/{revision}/{quote(entry['name'])}"
        yield Item(url, str(path), "copy", listed[-1]["size"], f"SHA256:{digest}")
    text = json.dumps({"revision": revision, "files": listed}, indent=1) + "\n"
    for name in dict.fromkeys((place["revision"], revision)):
        yield written(f"{base}/{name}/{LISTING}", text)


def images(spec: dict[str, Any]) -> Iterator[Item]:
    """Yield docker's images, each with what docker calls it: by that, who loads it sees that it is the same."""
    for reference in spec["images"]:
        if "@" in reference:
            raise Problem(
                f"docker/images: {reference} names a digest, which only registries know, and docker would not find it "
                "by that after it was loaded; required is a version, name:tag, in the options of this host"
            )
        name = output_of("docker", "image", "inspect", "--format", "{{.ID}}", "--", reference).strip()
        first, slash, rest = reference.partition("/")
        # https://github.com/distribution/reference/blob/main/normalize.go
        is_host = slash and (re.search(r"[.:]", first) or first == "localhost")
        url = f"https://{first}/{rest}.tar" if is_host else f"https://docker.io/{reference}.tar"
        size = int(output_of("docker", "image", "inspect", "--format", "{{.Size}}", "--", reference))
        yield Item(url, reference, "save", size, f"IMAGE:{name}")
        yield written(f"{url}.id", f"{name}\n")


def written(url: str, text: str) -> Item:
    """Return a file whose text is known."""
    body = text.encode()
    return Item(url, how="text", size=len(body), digest=f"SHA256:{hashlib.sha256(body).hexdigest()}", text=text)


# Python's packages


@dataclass(frozen=True)
class Environment:
    """A set of pinned packages, and the Python that it is for."""

    requirements: Path
    python: Path
    """Of the environment, or of the host."""


def environments() -> dict[str, Environment]:
    """Return the sets that programs of this host use, and of what made them, each under what a bundle knows it by."""
    found = []
    for current in sorted(OPT.glob("*/current")):
        home = current.resolve()
        requirements = home.with_name(f"{home.name}.txt")
        if requirements.exists() and (home / "bin/python").exists():
            found.append(Environment(requirements, home / "bin/python"))
            found.append(Environment(current.with_name("uv.txt"), Path("/usr/bin/python3")))
    minor = ("-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    return {f"{output_of(str(one.python), *minor).strip()} {digest_of(one.requirements)}": one for one in found}


def wheels(bundle: Bundle, environment: Environment, index: str) -> list[str]:
    """Have the wheels of an environment in the index, and return where."""
    pips = sorted(OPT.glob("uv/*/lib/python3*/site-packages/pip"))
    if not pips:
        raise Problem(f"there is no pip below {OPT}/uv, which made the Python environments here; run deploys/full.py")
    stage = bundle.partial / "wheels"
    stage.mkdir(parents=True, exist_ok=True)
    # pip is Python alone: another Python can run it, and then it chooses the wheels that are for that one.
    command = [str(environment.python), "-m", "pip", "download", "--quiet", "--no-input", "--progress-bar=off",
               "--disable-pip-version-check", "--cache-dir", str(bundle.partial / "pip"), "--require-hashes",
               "--no-deps", "--only-binary=:all:", "-d", str(stage), "-r", str(environment.requirements)]  # fmt: skip
    settings = {**os.environ, "PYTHONPATH": str(pips[-1].parent), "PYTHONNOUSERSITE": "1"}
    if Path(AUTHORITIES).exists():
        settings.setdefault("REQUESTS_CA_BUNDLE", AUTHORITIES)
    say(f"bundle: the wheels of {environment.requirements}")
    done = subprocess.run(command, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        said = done.stdout.decode("utf-8", "replace").strip()
        raise Problem(
            f"{said}\nbundle: pip could not fetch the packages of {environment.requirements}, see above; see to the "
            "index (mirrors/pypi), then run again: what has arrived is kept"
        )
    places = []
    for wheel in sorted(stage.glob("*.whl")):
        project = re.sub(r"[-_.]+", "-", wheel.name.partition("-")[0]).lower()
        item = Item(f"{index}/{project}/{wheel.name}")
        bundle.take(item, wheel)
        places.append(item.place)
    return places


def index_pages(base: str, places: Iterable[str], known: dict[str, Any]) -> Iterator[Item]:
    """
    Yield the pages of a static index.

    https://packaging.python.org/en/latest/specifications/simple-repository-api/
    """
    projects: dict[str, list[str]] = {}
    for place in sorted(set(places)):
        project, name = place.split("/")[-2:]
        projects.setdefault(project, []).append(f'<a href="{name}#sha256={known[place]["sha256"]}">{name}</a><br>\n')
    top = [f'<a href="{project}/index.html">{project}</a><br>\n' for project in projects]
    for url, lines in ((base, top), *((f"{base}/{project}", lines) for project, lines in projects.items())):
        head = '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.0">'
        title = f"<title>{html.escape(url)}</title></head><body>\n"
        yield written(f"{url}/index.html", f"{head}{title}{''.join(lines)}</body></html>\n")


# The directory


class Bundle:
    """The directory, and what is known of its files."""

    def __init__(self, directory: str) -> None:
        """Read what an earlier run wrote down; nothing of a bundle that nobody began."""
        self.top = Path(directory)
        self.partial = self.top / ".partial"
        self.files: dict[str, dict[str, Any]] = {}
        self.wheels: dict[str, list[str]] = {}
        if (self.top / MANIFEST).exists():
            try:
                found = json.loads((self.top / MANIFEST).read_text(encoding="utf-8"))
                self.files, self.wheels = found["files"], found["wheels"]
                # What is in there is removed as soon as no host needs it any more.
                if odd := [place for place in self.files if not is_inside(place)]:
                    raise ValueError(f"it names {odd[0]!r}, which lies outside")
            except (ValueError, KeyError, TypeError) as error:
                raise Problem(
                    f"{self.top / MANIFEST} is no manifest of a bundle ({error!r}); name another directory, or remove "
                    "that file: what lies beside it is looked at again"
                ) from None

    def has(self, item: Item) -> bool:
        """Say whether a file is there as it was when it came, and is the one that is wanted."""
        entry = self.files.get(item.place)
        if entry is None or item.digest not in ("", entry["digest"], f"SHA256:{entry['sha256']}"):
            return False
        return self._stat(self.top / item.place) == [entry["size"], entry["mtime_ns"]]

    def has_wheels(self, key: str) -> bool:
        """Say whether the wheels of an environment are there."""
        return key in self.wheels and all(self.has(Item(quote(place))) for place in self.wheels[key])

    @staticmethod
    def _stat(path: Path) -> list[int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]

    def take(self, item: Item, path: Path) -> None:
        """Give a whole file its name, and write down what it is."""
        final = self.top / item.place
        final.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644)
        path.replace(final)
        self.note(item)

    def note(self, item: Item) -> None:
        """Write down what a file is that stands in its place."""
        final = self.top / item.place
        size, mtime = self._stat(final) or [0, 0]
        sha256 = item.digest[7:] if item.digest.startswith("SHA256:") else digest_of(final)
        self.files[item.place] = {
            "url": item.shown, "size": size, "sha256": sha256, "digest": item.digest or f"SHA256:{sha256}",
            "mtime_ns": mtime,
        }  # fmt: skip

    def write(self, made: dict[str, Any]) -> None:
        """Write the manifest, and the sums as sha256sum takes them, when what they name is on the disk."""
        output_of("sync", "--file-system", str(self.top))
        manifest = {**made, "files": dict(sorted(self.files.items())), "wheels": self.wheels}
        sums = "".join(f"{entry['sha256']}  {place}\n" for place, entry in sorted(self.files.items()))
        for name, text in ((SUMS, sums), (MANIFEST, json.dumps(manifest, indent=1) + "\n")):
            part = self.top / f"{name}.part"
            part.write_text(text, encoding="utf-8")
            part.replace(self.top / name)

    def remove(self, places: Iterable[str]) -> None:
        """Remove files; what others put there stays."""
        gone = list(places)
        for place in gone:
            (self.top / place).unlink(missing_ok=True)
            del self.files[place]
        if gone:
            say(f"bundle: {len(gone)} files removed that this host is not made from any more")


# Commands


@dataclass
class Survey:
    """What a bundle is to hold."""

    items: dict[str, Item]
    environments: dict[str, Environment]
    pages: list[Item]
    """Of the Python index, for the wheels that are there."""
    unwanted: list[str]
    """What an earlier run collected, and nothing of this host is made from any more."""

    @classmethod
    def of(cls, spec: dict[str, Any], bundle: Bundle) -> Survey:
        """Look at the host."""
        items: dict[str, Item] = {}
        for item in wanted(spec):
            if items.setdefault(item.place, item).url != item.url:
                raise Problem(
                    f"two addresses of {item.shown} would be one file in a bundle, which knows neither the scheme nor "
                    "the query of an address, and cannot hold both; look at what names them"
                )
        sets = environments()
        there = [place for key in sets for place in bundle.wheels.get(key, ()) if place in bundle.files]
        pages = list(index_pages(spec["index"], there, bundle.files))
        needed = {*items, *there, *(page.place for page in pages)}
        return cls(items, sets, pages, [place for place in bundle.files if place not in needed])


def missing_of(spec: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    """Return what a run would do, changing nothing; with lists of another day, only new ones can tell."""
    if not Path(spec["provisioned"]).exists():
        raise Problem(
            f"{spec['provisioned']} is not there, which every provisioned host has; a bundle is made on one, since "
            "that has all that others need; run deploys/full.py on it first"
        )
    if outdated():
        return {"problem": "", "files": 0, "bytes": 0, "outdated": True}
    found = Survey.of(spec, bundle)
    missing = [item for item in (*found.items.values(), *found.pages) if not bundle.has(item)]
    sets = [key for key in found.environments if not bundle.has_wheels(key)]
    return {
        "problem": "",
        "files": len(missing) + len(sets) + len(found.unwanted),
        "bytes": sum(item.size or 0 for item in missing),
        "outdated": False,
    }


def outdated() -> bool:
    """Say whether apt's lists were last looked at too long ago to be what another host would see."""
    stamp = Path("/var/lib/metal2model/apt-updated")
    return not stamp.exists() or time.time() - stamp.stat().st_mtime > OUTDATED_SECONDS


def collect(spec: dict[str, Any]) -> None:
    """Have every file in its place."""
    top = Path(spec["directory"])
    top.mkdir(parents=True, exist_ok=True)
    with alone(top):
        bundle = Bundle(spec["directory"])
        made = {**spec["made"], "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        found = Survey.of(spec, bundle)
        for item in found.items.values():
            if not bundle.has(item):
                adopt(item, bundle)
        missing = [item for item in found.items.values() if not bundle.has(item)]
        fits(sum(item.size or 0 for item in missing), bundle)
        bundle.partial.mkdir(exist_ok=True)
        # What signs the lists comes last: until then, a bundle that was made before is whole as it was.
        last = [item for item in missing if re.search(r"/(InRelease|Release|Release\.gpg)$", item.url)]
        for batch in batches([item for item in missing if item not in last]):
            fetch(batch, bundle)
            bundle.write(made)
        for key, environment in found.environments.items():
            if not bundle.has_wheels(key):
                bundle.wheels[key] = wheels(bundle, environment, spec["index"])
                bundle.write(made)
        fetch(last, bundle)
        found = Survey.of(spec, bundle)
        fetch([page for page in found.pages if not bundle.has(page)], bundle)
        bundle.wheels = {key: places for key, places in bundle.wheels.items() if key in found.environments}
        bundle.remove(found.unwanted)
        bundle.write(made)
        shutil.rmtree(bundle.partial)
        total = sum(entry["size"] for entry in bundle.files.values())
        say(f"bundle: {bundle.top} is complete: {len(bundle.files)} files, {total / 1e6:.0f} MB")


@contextlib.contextmanager
def alone(top: Path) -> Iterator[None]:
    """Wait for any other run that collects into this directory: it may have outlived who asked for it."""
    descriptor = os.open(top, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"bundle: another run collects into {top}; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def adopt(item: Item, bundle: Bundle) -> None:
    """Take a file that stands in its place and was not written down: a run was killed, or somebody touched it."""
    path = bundle.top / item.place
    if path.is_file() and is_right(item, path):
        bundle.note(item)


def fits(to_come: int, bundle: Bundle) -> None:
    """Compare what is to come with what is free, before the first byte; wheels and archives are not among it."""
    free = shutil.disk_usage(bundle.top).free
    if to_come and to_come + KEEP_FREE > free:
        raise Problem(
            f"bundle/directory: {bundle.top} has {free >> 20} MiB free; required are {(to_come + KEEP_FREE) >> 20}, "
            "for packages and models, models once more than where they lie; nothing was fetched; make room, or name a "
            "directory on a larger disk"
        )


def batches(items: list[Item]) -> Iterator[list[Item]]:
    """Yield items in groups, after each of which what is there is written down."""
    apt = [item for item in items if item.how == "apt"]
    for start in range(0, len(apt), TOGETHER):
        yield apt[start : start + TOGETHER]
    for item in items:
        if item.how != "apt":
            yield [item]


def fetch(items: list[Item], bundle: Bundle) -> None:
    """Have files, each under its name when it is whole and right."""
    parts = {item.place: bundle.partial / hashlib.sha256(item.url.encode()).hexdigest() for item in items}
    apt = [item for item in items if item.how == "apt"]
    if apt:
        say(f"bundle: {len(apt)} files of package archives, {sum(item.size or 0 for item in apt) / 1e6:.0f} MB")
        words = [word for item in apt for word in (item.origin, str(parts[item.place]), item.digest)]
        # apt's own client, which knows its proxies and its logins, and goes on with what is there.
        output_of("/usr/lib/apt/apt-helper", "-o", "APT::Sandbox::User=root", "download-file", *words)
    for item in items:
        part = parts[item.place]
        if item.how == "curl":
            download(item, part)
        elif item.how == "copy":
            say(f"bundle: {item.origin}")
            output_of("cp", "--reflink=auto", "--", item.origin, str(part))
        elif item.how == "save":
            say(f"bundle: the image {item.origin}")
            output_of("docker", "image", "save", "--output", str(part), item.origin)
        elif item.how == "text":
            part.write_text(item.text, encoding="utf-8")
        if item.digest.startswith("SHA") and not is_right(item, part):
            found = digest_of(part)
            part.unlink()
            raise Problem(
                f"{item.origin} has sha256 {found}; required is {item.digest}; it was not taken into the bundle; if it "
                "was changed on this host, run deploys/full.py, else see to where it comes from"
            )
        bundle.take(item, part)


def download(item: Item, part: Path) -> None:
    """Fetch a file by its address; what has arrived is gone on with."""
    say(f"bundle: {item.shown}")
    done = subprocess.run(
        ["curl", "--fail", "--location", "--silent", "--show-error", "--continue-at", "-", "--output", str(part),
         "--connect-timeout", "20", "--speed-limit", "1024", "--speed-time", "60", "--retry", "5", item.url],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode and not (part.exists() and is_right(item, part)):
        raise Problem(
            f"{item.shown} could not be fetched: {done.stdout.strip()}; required, since this host was made from it; "
            "what has arrived is kept; check the network, then run again"
        )


def main(task: str, text: str) -> None:
    """Do what was asked."""
    os.umask(0o022)
    spec = json.loads(text)
    if task == "check":
        try:
            answer = missing_of(spec, Bundle(spec["directory"]))
        except (Problem, OSError) as problem:
            answer = {"problem": told(problem, spec["directory"]), "files": 0, "bytes": 0, "outdated": False}
        print(json.dumps(answer))
    else:
        try:
            collect(spec)
        except (Problem, OSError) as problem:
            sys.exit(told(problem, spec["directory"]))


def told(problem: Problem | OSError, directory: str) -> str:
    """Return what an administrator has to see to; where the bundle lies is to blame for what fails there alone."""
    if isinstance(problem, Problem):
        return str(problem)
    # A disk that is full is told without a name, and nothing is written anywhere else.
    where = str(problem.filename or (directory if problem.errno in (errno.ENOSPC, errno.EDQUOT) else ""))
    top, path = Path(directory), Path(where)
    option = "bundle/directory" if top in (path, *path.parents) or path in top.parents else ""
    found = ": ".join(word for word in (option, where, problem.strerror or str(problem)) if word)
    return f"{found}; see to it on the host, then run again: what has arrived is kept"


if __name__ == "__main__":
    main(*sys.argv[1:])
