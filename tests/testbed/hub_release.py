"""A release of llama.cpp as upstream publishes it, built here: the source comes with a package of the Python index.

The program is the real one, so that units, health checks, keys and metrics of the roles meet what they meet in
production; only speed is given up (most of it is not optimised) to build in about two minutes on two cores.
"""

import hashlib
import json
import shutil
import subprocess
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from tests.testbed import BedError, images
from tests.testbed.hub_pypi import JSON_TYPE, find_index
from tests.testbed.hub_state import replacing

# https://github.com/abetlen/llama-cpp-python: its source distribution carries llama.cpp under vendor/.
SOURCE = "llama_cpp_python-0.3.36.tar.gz"
SOURCE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
# Nightly tags are b and a number, which `llama-server --version` repeats; this one is ours (0.3.36).
BUILD_NUMBER = 10336
TAG = f"b{BUILD_NUMBER}"
# https://github.com/ggml-org/llama.cpp/releases
ASSET = f"llama-{TAG}-bin-ubuntu-x64.tar.gz"
PROGRAMS = ("llama-server", "llama-bench", "llama-gguf-split")

PACKAGES = ("g++", "cmake", "ninja-build")

# Four out of five seconds of an ordinary build go into reading the same headers and into optimising what does not
# compute: hence sources in groups, and no optimisation outside ggml.
TOP_CMAKE = """\
# These say themselves, or by what they specialise, that they want to be compiled alone.
set(alone SKIP_UNITY_BUILD_INCLUSION ON)
cmake_language(DEFER CALL set_source_files_properties ${CMAKE_CURRENT_SOURCE_DIR}/common/json.cpp
    TARGET_DIRECTORY llama-common PROPERTIES ${alone})
cmake_language(DEFER CALL set_source_files_properties ${CMAKE_CURRENT_SOURCE_DIR}/tools/mtmd/mtmd-helper.cpp
    ${CMAKE_CURRENT_SOURCE_DIR}/tools/mtmd/mtmd-helper-gen.cpp TARGET_DIRECTORY mtmd PROPERTIES ${alone})
# These may well be grouped, though upstream groups only the model architectures.
file(GLOB core ${CMAKE_CURRENT_SOURCE_DIR}/src/*.cpp)
cmake_language(DEFER CALL set_source_files_properties ${core}
    TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION OFF)
"""
GGML_CMAKE = """\
set(CMAKE_C_FLAGS_RELEASE -O2)
set(CMAKE_CXX_FLAGS_RELEASE -O1)
set(CMAKE_UNITY_BUILD OFF)
"""
# Much memory before the first garbage collection is a tenth off the compiler's time.
FLAGS = "-w --param=ggc-min-heapsize=1000000 --param=ggc-min-expand=1000"
SETTINGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_C_FLAGS": FLAGS,
    "CMAKE_CXX_FLAGS": FLAGS,
    "CMAKE_C_FLAGS_RELEASE": "-O0",
    "CMAKE_CXX_FLAGS_RELEASE": "-O0",
    "CMAKE_PROJECT_llama.cpp_INCLUDE": "/build/top.cmake",
    "CMAKE_PROJECT_ggml_INCLUDE": "/build/ggml.cmake",
    "CMAKE_UNITY_BUILD": "ON",
    "CMAKE_UNITY_BUILD_BATCH_SIZE": "12",
    "CMAKE_SHARED_LINKER_FLAGS": "-s",
    "CMAKE_EXE_LINKER_FLAGS": "-s",
    # As upstream's own release: libraries lie beside the programs.
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    # Hosts may be emulated and know no more than the baseline of amd64.
    "GGML_NATIVE": "OFF",
    **dict.fromkeys(("GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_BMI2", "GGML_FMA", "GGML_F16C"), "OFF"),
    "GGML_LLAMAFILE": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_NUMBER": str(BUILD_NUMBER),
    "LLAMA_BUILD_COMMIT": "bed",
}

# $1 the work directory, $2 the base tree, $3 the archive of the source, $4 the result, $5... settings for apt.
OUTSIDE = """
cd "$1"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=$2,upperdir=upper,workdir=work" root
cp -L /etc/resolv.conf /etc/hosts root/etc/
mkdir root/build
tar -C root/build -xzf "$3" --strip-components=2 --exclude=media --exclude=docs --exclude='ggml-vocab-*' "$6"
cp top.cmake ggml.cmake root/build/
result=$4; shift 6
mount -t proc proc root/proc
chroot root sh -ec "$INSIDE" sh "$@"
cp root/build/release.tar.gz "$result"
"""
INSIDE = f"""
export DEBIAN_FRONTEND=noninteractive
apt-get -qq "$@" update
apt-get -qqy "$@" -o Dpkg::Options::=--force-unsafe-io --no-install-recommends install {" ".join(PACKAGES)}
cd /build
cmake -G Ninja -S llama.cpp -B out @SETTINGS@
ninja -C out -j "$(nproc)" {" ".join(PROGRAMS)}
cp llama.cpp/LICENSE out/bin/
# The same input makes the same bytes: names in order, no times, no owners.
tar -C out/bin --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --transform 's,^[.],llama-{TAG},' -cf - . |
    gzip -n -1 >release.tar.gz
"""


@dataclass(frozen=True)
class ReleaseInfo:
    """What an inventory says about a release; its hash is known only once it is built."""

    tag: str
    asset: str
    sha256: str
    path: Path
    url: str


def recipe() -> tuple[object, ...]:
    """Give all that a build depends on but the base tree, whose libraries are those of every host of the bed."""
    return SOURCE_SHA256, BUILD_NUMBER, PROGRAMS, TOP_CMAKE, GGML_CMAKE, SETTINGS, OUTSIDE, INSIDE


def describe(path: Path) -> ReleaseInfo:
    """Describe the finished tarball."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ReleaseInfo(
        TAG, ASSET, digest, path, f"https://github.com/ggml-org/llama.cpp/releases/download/{TAG}/{ASSET}"
    )


def build(state_dir: Path, result: Path) -> None:
    """Build the tarball in a throwaway layer over the bed's bookworm tree: this machine needs no compiler."""
    base = images.layers(state_dir, "bookworm")[-1]
    source = fetch_source(state_dir)
    work = state_dir / "build" / TAG
    shutil.rmtree(work, ignore_errors=True)  # of a build that was killed; its mounts went with it
    work.mkdir(parents=True)
    (work / "top.cmake").write_text(TOP_CMAKE)
    (work / "ggml.cmake").write_text(GGML_CMAKE)
    settings = " ".join(f"'-D{name}={value}'" for name, value in SETTINGS.items())
    inside = INSIDE.replace("@SETTINGS@", settings)
    member = f"{SOURCE.removesuffix('.tar.gz')}/vendor/llama.cpp"
    arguments = [str(work), str(base), str(source), str(result), "--", member, *_apt_options()]
    # Ends with this process, whatever ends it, and takes mounts and compilers along.
    contained = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    log = state_dir / "logs" / "llama-release.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            [*contained, "env", f"INSIDE={inside}", "sh", "-ec", OUTSIDE, "sh", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise BedError(f"Building {ASSET} ended with {done.returncode}; {log} ends:\n{tail}")
    shutil.rmtree(work, ignore_errors=True)


def pack_source(state_dir: Path, result: Path) -> None:
    """Pack llama.cpp's own source as GitHub packs that of a tag: one directory, repository and tag in its name."""
    top = f"{SOURCE.removesuffix('.tar.gz')}/vendor/llama.cpp/"
    with tarfile.open(fetch_source(state_dir)) as everything, tarfile.open(result, "w:gz", compresslevel=1) as packed:
        for member in everything:
            name = member.name.removeprefix(top)
            if member.isfile() and name != member.name and not name.startswith(("media/", "models/", "docs/")):
                member.name = f"llama.cpp-{TAG}/{name}"
                packed.addfile(member, everything.extractfile(member))


def fetch_source(state_dir: Path) -> Path:
    """Fetch the source distribution by its hash; pip would spend 40 seconds on asking it for metadata first."""
    path = state_dir / "sources" / SOURCE
    if path.exists():
        return path
    page = f"{find_index().simple_url}/llama-cpp-python/"
    with urllib.request.urlopen(urllib.request.Request(page, headers={"Accept": JSON_TYPE}), timeout=60) as answer:
        files = json.load(answer)["files"]
    link = next((file["url"] for file in files if file["hashes"].get("sha256") == SOURCE_SHA256), None)
    if link is None:
        raise BedError(f"{page} does not list {SOURCE} with sha256 {SOURCE_SHA256}.")
    digest = hashlib.sha256()
    with replacing(path) as partial:
        with urllib.request.urlopen(urljoin(page, link), timeout=60) as answer, partial.open("wb") as file:
            while piece := answer.read(1 << 20):
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != SOURCE_SHA256:
            raise BedError(f"{link} has sha256 {digest.hexdigest()}, not {SOURCE_SHA256}: fetch it again.")
    return path


def _apt_options() -> list[str]:
    """Give apt in the tree the proxies of this machine's own apt."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http::Proxy ", "Acquire::https::Proxy ")
    lines = [line.rstrip(";").replace('"', "") for line in dump.splitlines() if line.startswith(wanted)]
    return [option for line in lines for option in ("-o", "=".join(line.split(" ", 1)))]
