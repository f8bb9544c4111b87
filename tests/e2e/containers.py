"""Hosts with Docker, images made on them, and registries: what tests of containers share.

    host = docker_host(make_host)
    build_image(host, "vllm/vllm-openai:v0.33.0", {"Dockerfile": "FROM bed/python\nCOPY serve.py /\n", "serve.py": ""})

Nothing is fetched from anywhere: images are built on `bed/busybox` (2 MB), which is the host's, or on `bed/python`
(50 MB), which has the host's Python as well.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bcrypt

from tests.conftest import MakeHost
from tests.testbed import keys, state_dir
from tests.testbed.hosts import BedHost

BASES = r"""
set -e
root=$(mktemp -d)
trap 'rm -r "$root"' EXIT
mkdir -p "$root/usr/bin" "$root/usr/lib" "$root/usr/lib64" "$root/tmp" "$root/etc"
ln -s usr/bin usr/lib usr/lib64 "$root"
chmod 1777 "$root/tmp"
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
cp /usr/bin/busybox "$root/usr/bin/"
chroot "$root" /usr/bin/busybox --install -s /usr/bin
tar -C "$root" -c . | docker import - bed/busybox >/dev/null
python=$(readlink -f /usr/bin/python3)
cp -P "$python" /usr/bin/python3 "$root/usr/bin/"
library=/usr/lib/${python##*/}
cp -r "$library" "$root/usr/lib/"
ldd "$python" "$library"/lib-dynload/*.so | grep -o '/[^ ]*\.so[^ ]* (0x' | cut -d ' ' -f 1 | sort -u |
    while read -r path; do mkdir -p "$root${path%/*}"; cp -L "$path" "$root$path"; done
tar -C "$root" -c . | docker import --change 'ENV PYTHONUNBUFFERED=1' - bed/python >/dev/null
"""


# Go, and dockerd with it, remembers for five seconds what /etc/hosts said.
PATIENCE = (
    'patience() { while ! said=$("$@" 2>&1); do case $said in *": lookup "*) sleep 0.2 ;;'
    ' *) echo "$said" >&2; return 1 ;; esac; done; }'
)


def docker_host(make_host: MakeHost, **options: Any) -> BedHost:
    """Boot a host on which Debian's Docker is installed and runs; the options are those of `Bed.up`."""
    return make_host("docker", **options)


def build_image(host: BedHost, reference: str, files: Mapping[str, str]) -> None:
    """Build an image on the host; `files` are its context, `Dockerfile` among them, which may be FROM bed/busybox."""
    if host.ssh("docker image inspect bed/python", check=False).returncode != 0:
        host.ssh(BASES)
    # Not buildx, which Debian has not, and which would want its own image first.
    build = host.ssh_command(f"DOCKER_BUILDKIT=0 docker build --quiet --tag {reference} -")
    subprocess.run(build, input=_tar(files), check=True, capture_output=True, timeout=60)


def remove_image(host: BedHost, *references: str) -> None:
    """Remove images, so that they have to be pulled."""
    host.ssh(f"docker image rm --force {' '.join(references)}")


def digest_of(host: BedHost, reference: str) -> str:
    """Return what a registry calls an image that was pushed to it or pulled from it: sha256:..."""
    shown = host.ssh(f"docker image inspect --format '{{{{index .RepoDigests 0}}}}' {reference}").stdout
    return shown.strip().rpartition("@")[2]


def serve_registry(
    host: BedHost,
    names: Sequence[str],
    *,
    port: int = 443,
    tls: bool = True,
    login: tuple[str, str] | None = None,
    authority: Path | None = None,
    upstream: str = "",
) -> None:
    """
    Run Debian's registry on a host, which then knows it by these names; push_image() fills it.

    Its certificate comes from the authority that hosts of the bed trust, or from another one, with keys in `authority`.
    With an `upstream`, a URL, it is a mirror of that, and fetches what it is asked for.
    """
    folder = f"/srv/bed-registry-{port}"
    http = f"addr: ':{port}'" + (f", tls: {{certificate: {folder}/pem, key: {folder}/pem}}" if tls else "")
    settings = ["version: 0.1", "log: {level: warn}", f"http: {{{http}}}",
                f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}"]  # fmt: skip
    files = {"pem": keys.server_certificate(authority or state_dir(), names).read_text()}
    if login:
        settings.append(f"auth: {{htpasswd: {{realm: bed, path: {folder}/htpasswd}}}}")
        files["htpasswd"] = f"{login[0]}:{bcrypt.hashpw(login[1].encode(), bcrypt.gensalt(4)).decode()}\n"
    if upstream:
        settings.append(f"proxy: {{remoteurl: '{upstream}'}}")
    files["config.yml"] = "\n".join(settings) + "\n"
    host.ssh(
        f"umask 077 && mkdir -p {folder} && tar -C {folder} -x"
        f" && echo '{host.address} {' '.join(names)}' >>/etc/hosts"
        f" && systemd-run --quiet --unit bed-registry-{port} docker-registry serve {folder}/config.yml"
        f" && timeout 30 bash -c 'until : </dev/tcp/127.0.0.1/{port}; do sleep 0.1; done' 2>/dev/null",
        input=_tar(files).decode(),
    )


def known_as(host: BedHost, names: Sequence[str], address: str) -> None:
    """Have names lead a host to an address."""
    host.ssh(
        f"echo '{address} {' '.join(names)}' >>/etc/hosts; {PATIENCE}; patience docker pull {names[0]}/none:1; true"
    )


def push_image(host: BedHost, reference: str) -> str:
    """Push an image to the registry in its name, and return the digest that it has there: sha256:..."""
    host.ssh(f"{PATIENCE}; patience docker push --quiet {reference}")
    return digest_of(host, reference)


def _tar(files: Mapping[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()
