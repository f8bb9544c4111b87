"""Ollama: models come, change and go as the inventory says, through upgrades, kills and a foreign installation.

Ollama itself is a stand-in (tests/testbed/ollama_stand_in.py); archives, units, registries and files are real.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import Run, command, difference, restarts, run, snapshot
from tests.testbed import artefacts
from tests.testbed.hosts import BedHost
from tests.testbed.ollama_release import NEW, OLD, STAND_IN, ollama_release

API = "http://127.0.0.1:11434"
TINY = "/srv/models/models.example.org/tiny/tiny.gguf"
BLOBS = "/srv/ollama/blobs"
Instances = Mapping[str, Mapping[str, Any]]


def declared(host: BedHost, instances: Instances, version: str = NEW) -> dict[str, Any]:
    """What a user writes for models in Ollama."""
    digest = hashlib.sha256(artefacts.tiny_gguf().read_bytes()).hexdigest()
    return {
        **host.pyinfra_data("root"),
        "tags": ["cpu"],
        "models": {"wanted": {"tiny": {"url": "https://models.example.org/tiny.gguf", "sha256": digest}}},
        "ollama": {
            "version": version,
            "sha256": ollama_release(version).sha256,
            "instances": {name: dict(one) for name, one in instances.items()},
        },
    }


LOCAL = {
    "model": "tiny",
    "context_length": 512,
    "system": 'Say "no".\nAlways.',
    "stop": ["<|end|>"],
    "temperature": 0,
}
PULLED = {"pull": "tiny"}
MODELSCOPE = {"pull": f"modelscope.cn/{artefacts.GGUF_REPOSITORY}:Q8_0", "alias": "small:q8"}
ALL: Instances = {"local": LOCAL, "pulled": PULLED, "cn": MODELSCOPE}


@pytest.fixture(scope="module")
def served(make_module_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> BedHost:
    """A host that was bare a moment ago and has been provisioned once."""
    host = make_module_host("noble")
    provision(tmp_path_factory.mktemp("first"), host, declared(host, ALL)).succeeded()
    return host


def provision(tmp_path: Path, host: BedHost, data: dict[str, Any], deploy: str = "full") -> Run:
    return run(tmp_path, {host.name: data}, deploy)


def get(host: BedHost, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the API on the host with curl."""
    sent = f"--json '{json.dumps(body)}'" if body else ""
    return json.loads(host.ssh(f"curl -sS {sent} {API}{path}").stdout)


def names(host: BedHost) -> dict[str, str]:
    """Name -> digest of the models that Ollama has."""
    return {model["name"]: model["digest"] for model in get(host, "/api/tags")["models"]}


def play(host: BedHost, **what: Any) -> None:
    """Tell the stand-in that is current what to play."""
    host.ssh("cat > /opt/metal2model/ollama/current/lib/ollama/stand-in.json", input=json.dumps(what))


def test_models_from_a_file_the_library_and_modelscope_answer(served: BedHost) -> None:
    assert set(names(served)) == {
        "local:latest", "pulled:latest", "tiny:latest", "small:q8",
        f"modelscope.cn/{artefacts.GGUF_REPOSITORY}:Q8_0",
    }  # fmt: skip
    for model in ("local", "pulled", "small:q8"):
        asked = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        assert get(served, "/v1/chat/completions", asked)["choices"][0]["message"]["content"]
    assert served.ssh("ollama list | grep -c latest").stdout.strip() == "3"


def test_the_model_is_what_the_options_say(served: BedHost) -> None:
    shown = get(served, "/api/show", {"model": "local"})
    assert shown["system"] == 'Say "no".\nAlways.'
    assert json.loads(shown["parameters"]) == {"num_ctx": 512, "stop": ["<|end|>"], "temperature": 0.0}


def test_it_runs_as_an_ordinary_user_in_a_hardened_unit_on_the_loopback_address(served: BedHost) -> None:
    pid = served.ssh("systemctl show -P MainPID ollama").stdout.strip()
    assert served.ssh(f"ps -o user:20= -p {pid}").stdout.strip() == "ollama"
    overall = served.ssh("systemd-analyze security --no-pager ollama | tail -1").stdout
    assert float(overall.split(":")[1].split()[0]) <= 4.0, overall
    assert served.ssh("systemd-analyze verify ollama.service 2>&1").stdout == ""
    assert [line.split()[3] for line in served.ssh("ss -Htln 'sport = :11434'").stdout.splitlines()] == [
        "127.0.0.1:11434"
    ]
    environment = served.ssh(f"tr '\\0' '\\n' < /proc/{pid}/environ").stdout.splitlines()
    assert {"OLLAMA_MODELS=/srv/ollama", "OLLAMA_KEEP_ALIVE=5m", "OLLAMA_NUM_PARALLEL=1"} <= set(environment)


def test_a_second_run_changes_nothing(served: BedHost, tmp_path: Path) -> None:
    before, started = snapshot(served), restarts(served, "ollama")
    second = provision(tmp_path, served, declared(served, ALL)).succeeded()
    assert {state for hosts in second.results.values() for state in hosts.values()} == {"No changes"}, second.output
    assert difference(before, snapshot(served)) == []
    assert restarts(served, "ollama") == started


def test_a_model_that_somebody_changed_is_made_again_and_one_that_is_not_declared_is_left(
    served: BedHost, tmp_path: Path
) -> None:
    before = names(served)
    served.ssh("printf 'FROM tiny\\nPARAMETER num_ctx 7\\n' > /tmp/Mf; ollama create local -f /tmp/Mf")
    served.ssh("ollama create own -f /tmp/Mf")
    result = provision(tmp_path, served, declared(served, ALL)).succeeded()
    assert result.changed(served.name) == ["Ollama | Have the models"]
    assert names(served) == {**before, "own:latest": names(served)["own:latest"]}
    assert "Ollama has models that no instance declares, and they were left alone: own:latest" in result.output
    served.ssh("ollama rm own")


def test_a_changed_option_makes_that_model_again_and_no_other(served: BedHost, tmp_path: Path) -> None:
    before, started = names(served), restarts(served, "ollama")
    changed = declared(served, {**ALL, "local": {**LOCAL, "temperature": 0.5}})
    result = provision(tmp_path, served, changed).succeeded()
    assert result.changed(served.name) == ["Ollama | Write the unit and the Modelfiles", "Ollama | Have the models"]
    after = names(served)
    assert [name for name in before if before[name] != after[name]] == ["local:latest"]
    assert json.loads(get(served, "/api/show", {"model": "local"})["parameters"])["temperature"] == 0.5
    assert restarts(served, "ollama") == started


def test_a_model_that_is_not_wanted_any_more_goes_and_its_file_stays(served: BedHost, tmp_path: Path) -> None:
    gone = {**ALL, "local": {"present": False}, "cn": {**MODELSCOPE, "present": False}}
    provision(tmp_path, served, declared(served, gone)).succeeded()
    assert set(names(served)) == {"pulled:latest", "tiny:latest"}
    assert served.ssh(f"stat -c %s {TINY}").stdout.strip() == str(artefacts.tiny_gguf().stat().st_size)
    assert provision(tmp_path, served, declared(served, gone)).succeeded().changed(served.name) == []


def test_a_create_that_is_killed_is_made_good_by_the_next_run(served: BedHost, tmp_path: Path) -> None:
    served.ssh("ollama rm local", check=False)
    play(served, create_seconds=3600)
    with subprocess.Popen(
        command(tmp_path, {served.name: declared(served, ALL)}, "full"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        served.ssh("until pgrep -f '[b]in/ollama create local' >/dev/null; do sleep 0.1; done")
        running.kill()
    served.ssh("kill -KILL $(pgrep -f '[b]in/ollama create local'); systemctl kill -s KILL ollama")
    play(served)
    assert provision(tmp_path, served, declared(served, ALL)).succeeded().changed(served.name)
    assert "local:latest" in names(served)
    assert provision(tmp_path, served, declared(served, ALL)).succeeded().changed(served.name) == []


def test_processors_instead_of_the_card_fail_the_check_with_the_reason(served: BedHost, tmp_path: Path) -> None:
    """The unit saw no card here; what is tested is that verify sees it, and is content where a card computes."""
    carded = {**declared(served, ALL), "tags": ["rtx4090"]}
    result = provision(tmp_path, served, carded, "verify")
    assert result.code != 0
    assert "ollama/instances/local: the model runs on the processors: 0 of 0 MiB are in GPU memory" in result.output
    play(served, gpu=True)
    provision(tmp_path, served, carded, "verify").succeeded()
    play(served)


def test_a_downgrade_and_the_way_back_keep_the_models_and_are_a_link(served: BedHost, tmp_path: Path) -> None:
    before, started = names(served), len(restarts(served, "ollama"))
    older = provision(tmp_path, served, declared(served, ALL, OLD)).succeeded()
    assert get(served, "/api/version") == {"version": OLD}
    assert names(served) == before
    assert "Ollama | Have the models" not in older.changed(served.name)
    back = provision(tmp_path, served, declared(served, ALL)).succeeded()
    assert [step.partition(" Ollama ")[0] for step in back.changed(served.name)] == [
        "Ollama | Install", "Ollama | Run the daemon"]  # fmt: skip
    assert get(served, "/api/version") == {"version": NEW}
    assert names(served) == before
    assert len(restarts(served, "ollama")) == started + 2
    kept = served.ssh("cd /opt/metal2model/ollama && ls -d */ | cut -d - -f 1 | sort -u").stdout.split()
    assert set(kept) == {OLD, NEW, "current/"}


def alone(tmp_path: Path, host: BedHost, version: str) -> list[str]:
    """Have nothing in Ollama but the model from a file, and return what its files are: type and size."""
    host.ssh("ollama list | cut -f 1 | xargs -r ollama rm")
    provision(tmp_path, host, declared(host, {"local": LOCAL}, version)).succeeded()
    assert host.ssh(f"stat -c '%U:%G %a' {TINY}").stdout == "root:root 444\n"
    size = artefacts.tiny_gguf().stat().st_size
    found = (line.split() for line in host.ssh(f"find -L {BLOBS} -type f -printf '%s %p\\n'").stdout.splitlines())
    return [host.ssh(f"readlink -f {path}").stdout.strip() for length, path in found if int(length) >= size]


def test_an_old_release_is_given_a_link_to_the_file(served: BedHost, tmp_path: Path) -> None:
    assert alone(tmp_path, served, OLD) == [TINY]


def test_a_new_release_writes_one_file_of_its_own(served: BedHost, tmp_path: Path) -> None:
    (path,) = alone(tmp_path, served, NEW)
    assert path.startswith(f"{BLOBS}/sha256-")


def test_a_split_model_is_joined_for_an_old_release_and_not_for_a_new_one(served: BedHost, tmp_path: Path) -> None:
    """The program that joins is llama.cpp's; here it is one that shows how it was called."""
    served.ssh(
        f"mkdir -p /srv/split && cd /srv/split && cp {TINY} a-00001-of-00002.gguf && cp {TINY} a-00002-of-00002.gguf;"
        """printf '#!/bin/sh\\n[ "$1" = --merge ] && [ ! -e "$3" ] && cat "$2" > "$3"\\n' > join; chmod +x join"""
    )
    split = {"split": {"model": "split"}}
    for version in (OLD, NEW):
        data = declared(served, split, version)
        data["models"] = {"wanted": {"split": {"path": "/srv/split/a-00001-of-00002.gguf"}}}
        refused = provision(tmp_path, served, data)
        if version == OLD:
            assert refused.code != 0
            assert "ollama/instances/split/model: the model has 2 parts, and this release of Ollama" in refused.output
            data["ollama"]["gguf_split"] = "/srv/split/join"
            provision(tmp_path, served, data).succeeded()
        assert "split:latest" in names(served)
        assert served.ssh("ls -A /srv/ollama").stdout.split() == ["blobs", "manifests"]
        served.ssh("ollama rm split")


def test_a_daemon_that_is_not_wanted_is_stopped_and_its_models_stay(served: BedHost, tmp_path: Path) -> None:
    before = served.ssh("find /srv/ollama -type f -o -type l | sort").stdout
    off = declared(served, {"local": LOCAL})
    off["ollama"]["enabled"] = False
    provision(tmp_path, served, off).succeeded()
    assert served.ssh("systemctl cat ollama", check=False).returncode != 0
    assert served.ssh("ss -Htln 'sport = :11434'").stdout == ""
    assert served.ssh("find /srv/ollama -type f -o -type l | sort").stdout == before
    assert provision(tmp_path, served, off).succeeded().changed(served.name) == []


@pytest.fixture(scope="module")
def other(make_module_host: MakeHost) -> BedHost:
    """A host on which Ollama was not installed by metal2model."""
    return make_module_host("noble")


def test_an_archive_that_was_tampered_with_never_runs(other: BedHost, tmp_path: Path) -> None:
    wrong = declared(other, ALL)
    wrong["ollama"]["sha256"] = "0" * 64
    result = provision(tmp_path, other, wrong)
    assert result.code != 0
    assert f"has sha256 {ollama_release().sha256}, required is {'0' * 64}" in result.output
    assert other.ssh("find /opt/metal2model/ollama -type f").stdout == ""
    assert other.ssh("systemctl cat ollama", check=False).returncode != 0


INSTALLER = r"""
useradd -r -s /bin/false -U -m -d /usr/share/ollama ollama 2>/dev/null || usermod -m -d /usr/share/ollama ollama
mkdir -p /data/models /etc/systemd/system/ollama.service.d /usr/share/ollama
chown ollama: /data/models /usr/share/ollama
cat > /etc/systemd/system/ollama.service <<'EOF'
[Unit]
Description=Ollama Service
[Service]
ExecStart=/usr/local/bin/ollama serve
User=ollama
Group=ollama
Restart=always
[Install]
WantedBy=default.target
EOF
printf '[Service]\nEnvironment="OLLAMA_MODELS=/data/models" "OLLAMA_HOST=0.0.0.0:11434"\n' \
    > /etc/systemd/system/ollama.service.d/override.conf
"""
"""What upstream's installer and its user leave on a host (scripts/install.sh, docs/linux.mdx)."""


def test_another_installation_is_taken_over_with_its_models(other: BedHost, tmp_path: Path) -> None:
    other.ssh(INSTALLER)
    other.ssh("cat > /usr/local/bin/ollama && chmod +x /usr/local/bin/ollama", input=STAND_IN.read_text())
    other.ssh("systemctl enable --now ollama && until curl -sf http://127.0.0.1:11434/api/version; do sleep 0.1; done")
    other.ssh("ollama pull tiny")
    theirs = names(other)
    refused = provision(tmp_path, other, declared(other, {}))
    assert refused.code != 0
    assert "write models_directory: '/data/models' to take them over" in refused.output
    assert names(other) == theirs
    data = declared(other, {})
    data["ollama"]["models_directory"] = "/data/models"
    result = provision(tmp_path, other, data).succeeded()
    assert names(other) == theirs
    assert "/etc/systemd/system/ollama.service, which metal2model did not write, was taken over" in result.output
    assert "still have effect: /etc/systemd/system/ollama.service.d/override.conf" in result.output
    assert other.ssh("ss -Htln 'sport = :11434'").stdout.split()[3] == "127.0.0.1:11434"
    assert other.ssh("readlink -f /usr/local/bin/ollama").stdout.startswith("/opt/metal2model/ollama/")
    assert provision(tmp_path, other, data).succeeded().changed(other.name) == []


def test_upstreams_installer_run_by_somebody_is_put_right(other: BedHost, tmp_path: Path) -> None:
    theirs = names(other)
    other.ssh(INSTALLER + "systemctl daemon-reload; systemctl restart ollama")
    data = declared(other, {})
    data["ollama"]["models_directory"] = "/data/models"
    assert provision(tmp_path, other, data).succeeded().changed(other.name)
    assert other.ssh("head -n 1 /etc/systemd/system/ollama.service").stdout.startswith("# Written by metal2model")
    assert names(other) == theirs
