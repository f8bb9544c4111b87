"""llama-server from elsewhere than a release archive: the distribution's package, a program that is there, a build."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from roles.llama_cpp.deploy import installation
from roles.llama_cpp.options import LlamaCppOptions
from tests.conftest import MakeHost
from tests.e2e.support import ask, key_of, run
from tests.e2e.test_full import declared
from tests.testbed import artefacts, hub_release
from tests.testbed.hosts import BedHost


def from_source(host: BedHost, **source: Any) -> dict[str, dict[str, Any]]:
    data = declared(host)
    return {host.name: {**data, "llama_cpp": {"instances": data["llama_cpp"]["instances"], **source}}}


def runs_and_stays(tmp_path: Path, host: BedHost, fleet: dict[str, dict[str, Any]], program: str) -> None:
    run(tmp_path, fleet, timeout=540).succeeded()
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    assert host.ssh("readlink -f /proc/$(pidof llama-server)/exe").stdout.strip() == program
    assert run(tmp_path, fleet).succeeded().changed(host.name) == []


def test_the_package_of_debian_unstable_and_then_the_program_that_it_left(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("sid")
    runs_and_stays(tmp_path, host, from_source(host, source="package"), "/usr/bin/llama-server")
    assert host.ssh("dpkg-query -W -f '${Status}' llama.cpp-tools").stdout == "install ok installed"
    existing = from_source(host, source="existing", binary="/usr/bin/llama-server")
    runs_and_stays(tmp_path, host, existing, "/usr/bin/llama-server")


def test_a_build_on_the_host(make_host: MakeHost, tmp_path: Path) -> None:
    """Built for speed of the build, as the fixtures' release is: a slow program is as good a proof as a fast one."""
    host = make_host("noble")
    for name, text in (("top", hub_release.TOP_CMAKE), ("ggml", hub_release.GGML_CMAKE)):
        host.ssh(f"mkdir -p /build && cat > /build/{name}.cmake", input=text)
    digest = hashlib.sha256(artefacts.source_archive().read_bytes()).hexdigest()
    version = artefacts.release().tag
    options = [f"-D{name}={value}" for name, value in hub_release.SETTINGS.items()]
    fleet = from_source(host, source="build", version=version, sha256=digest, build_options=options)
    installed = f"{installation(LlamaCppOptions(**fleet[host.name]['llama_cpp']), ['cpu'], 'amd64')[0]}"
    assert installed.startswith(f"{version}-build-cpu-")
    runs_and_stays(tmp_path, host, fleet, f"/opt/metal2model/llama.cpp/{installed}/llama-server")
    assert host.ssh("ls /opt/metal2model/llama.cpp").stdout.split() == [installed, "current"]


def test_an_archive_that_was_tampered_with_never_runs(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host("noble")
    wrong = from_source(host, version=artefacts.release().tag, sha256="0" * 64)
    result = run(tmp_path, wrong)
    assert result.code != 0
    assert f"has sha256 {artefacts.release().sha256}, required is {'0' * 64}" in result.output
    assert host.ssh("find /opt/metal2model/llama.cpp -type f").stdout == ""
    assert "llama-server" not in host.ssh("systemctl list-units --all --no-legend").stdout


BENCH = """#!/bin/sh
# Stands in for llama-bench of a build whose card is {speed} tokens/s fast.
[ {speed} != 0 ] || {{ echo "no usable device" >&2; exit 1; }}
printf '[{{"n_gen": 0, "n_prompt": 256, "avg_ts": {speed}, "backends": "SYCL", "gpu_info": "stand-in"}},'
printf '{{"n_gen": 64, "n_prompt": 0, "avg_ts": {speed}, "backends": "SYCL", "gpu_info": "stand-in"}}]'
"""


def variant(name: str, speed: int) -> tuple[str, str]:
    """Publish the bed's release as another variant, with a llama-bench that says how fast it is; file name, digest."""
    real = artefacts.release()
    path = real.path.with_name(real.path.name.replace("-x64.", f"-{name}."))
    with tarfile.open(real.path) as archive, tarfile.open(path, "w:gz", compresslevel=1) as changed:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if member.name.endswith("/llama-bench"):
                text = BENCH.format(speed=speed).encode()
                member.size, content = len(text), io.BytesIO(text)
            changed.addfile(member, content)
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_build_that_answers_fastest_serves(make_host: MakeHost, tmp_path: Path) -> None:
    """The CPU build is measured for real; beside it one that is faster than any, and one that finds no device."""
    host = make_host("noble")
    real = artefacts.release()
    digests = dict([variant("sycl-fp16-x64", 10**6), variant("sycl-fp32-x64", 0), (real.asset, real.sha256)])
    choice = {"version": real.tag, "variant": "fastest", "digests": digests}
    three = from_source(host, **choice, candidates=["x64", "sycl-fp16-x64", "sycl-fp32-x64"])
    run(tmp_path, three).succeeded()
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    program = "readlink -f /proc/$(pidof llama-server)/exe"
    assert f"/{real.tag}-sycl-fp16-x64-" in host.ssh(program).stdout
    kept = json.loads(host.ssh("cat /var/lib/metal2model/llama_cpp/fastest.json").stdout)
    measured = {result["name"].rpartition("-")[0]: result for result in kept["results"]}
    assert measured[f"{real.tag}-x64"]["answer_tokens_per_second"] > 0
    assert measured[f"{real.tag}-x64"]["backends"] == "CPU"
    assert measured[f"{real.tag}-sycl-fp32-x64"]["problem"] == "no usable device"
    assert run(tmp_path, three).succeeded().changed(host.name) == []

    two = from_source(host, **choice, candidates=["x64", "sycl-fp32-x64"])
    run(tmp_path, two).succeeded()
    assert f"/{real.tag}-x64-" in host.ssh(program).stdout, "measured again, and restarted"
    assert run(tmp_path, two).succeeded().changed(host.name) == []
