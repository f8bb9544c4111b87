"""Containers under systemd: names of images, units, and what becomes of a pull."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from roles.common.container import Container, ImageReference, Mount, container_unit, run_line
from roles.common.images import NOTE, PULL, Images, ImageStates, moved, unrecorded
from roles.common.python import FILES
from tests.test_systemd import systemd_words

REFERENCE: TypeAdapter[str] = TypeAdapter(ImageReference)
DIGEST = f"sha256:{'0a' * 32}"
WORD = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
REGISTRY = st.builds(lambda host, port: f"{host}.example.org{port}/", WORD, st.sampled_from(["", ":5000"]))
NAME = st.builds(
    lambda first, rest: first + "/".join(rest), st.just("") | REGISTRY, st.lists(WORD, min_size=1, max_size=3)
)
VERSION = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True).filter(lambda tag: tag != "latest")


# --- Names of images -------------------------------------------------------------------------------------------------


@given(NAME, VERSION, st.sampled_from(["", f"@{DIGEST}"]))
def test_an_image_is_named_by_a_version_and_perhaps_a_digest(name: str, version: str, digest: str) -> None:
    assert REFERENCE.validate_python(f"{name}:{version}{digest}")


@given(NAME)
def test_an_image_without_a_version_is_refused(name: str) -> None:
    for image in (name, f"{name}:latest"):
        with pytest.raises(ValidationError, match="another image every week"):
            REFERENCE.validate_python(image)
    assert REFERENCE.validate_python(f"{name}@{DIGEST}")


@pytest.mark.parametrize("image", ["", "Upper:1", "a b:1", "-x:1", "x:1@sha256:12", "https://x/y:1", "x:1; rm", "x:-1"])
def test_what_docker_would_not_take_is_refused(image: str) -> None:
    with pytest.raises(ValidationError):
        REFERENCE.validate_python(image)


# --- Units -----------------------------------------------------------------------------------------------------------

ANY = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@given(st.lists(ANY, max_size=3), st.dictionaries(st.from_regex("[A-Z_]{1,6}", fullmatch=True), ANY, max_size=2))
def test_every_word_reaches_docker_as_it_was(arguments: list[str], environment: dict[str, str]) -> None:
    container = Container(
        name="n", image="i:1", arguments=arguments, environment=environment, publish=("::1", 1, 2),
        mounts=[Mount("/a", "/b"), Mount("/c", "/d", writable=True)], devices=["nvidia.com/gpu=all"], groups=[44, 105],
        options=["--shm-size=16g"],
    )  # fmt: skip
    words = systemd_words(run_line(container))
    assert words[:5] == ["/usr/bin/docker", "run", "--rm", "--pull=never", "--name"]
    assert words[words.index("i:1") :] == ["i:1", *arguments]
    assert {f"--env={name}={value}" for name, value in environment.items()} <= set(words)
    assert {
        "--publish=[::1]:1:2", "--mount=type=bind,source=/a,target=/b,readonly", "--shm-size=16g", "--group-add=105",
        "--mount=type=bind,source=/c,target=/d", "--device=nvidia.com/gpu=all", "--cap-drop=ALL",
    } <= set(words)  # fmt: skip


def test_nobody_elses_container_is_removed() -> None:
    """Upstream's quick start of Open WebUI says `docker run --name open-webui`, and its chats are in there."""
    text = container_unit(
        Container(name="open-webui", image="i:1"), role="r", option="r", description="X",
        documentation="https://example.org",
    )  # fmt: skip
    assert re.findall(r"docker (?:rm --force|stop) (.*)", text) == ["metal2model-open-webui"] * 2
    assert "--name metal2model-open-webui " in text


@pytest.mark.parametrize("secrets", ["", "/etc/metal2model/x.env"])
def test_a_unit_is_sound_and_hardened(tmp_path: Path, secrets: str) -> None:
    container = Container(name="m2m-x", image="i:1", secrets=secrets)
    text = container_unit(
        container, role="r", option="r/instances/x", description="X", documentation="https://example.org",
        settings=["Environment=A=b"],
    )  # fmt: skip
    unit = tmp_path / "m2m-x.service"
    unit.write_text(text)
    # The engine need not be on this machine.
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    runnable = text.replace("/usr/bin/docker", "/bin/true")
    (tmp_path / "verified.service").write_text(runnable)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "verified.service")], capture_output=True, text=True,
        check=False, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "verified.service" in line] == []
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", rated)
    assert found and float(found[1]) <= 4.0, rated
    assert ("LoadCredential=environment:/etc/metal2model/x.env" in text) is bool(secrets)
    assert ("--env-file=${CREDENTIALS_DIRECTORY}/environment" in text) is bool(secrets)


# --- Images of a host ------------------------------------------------------------------------------------------------


def test_a_host_says_which_images_it_has_and_what_they_were() -> None:
    found = Images().process(
        [
            f"have a/b:1 a/b@{DIGEST} mirror/b@{DIGEST}",
            "have built:1",
            f"record a/b:1 a/b@{DIGEST}",
            f"record c:1 c@{DIGEST}",
        ]
    )
    assert found == ImageStates(
        {"a/b:1": [f"a/b@{DIGEST}", f"mirror/b@{DIGEST}"], "built:1": []},
        {"a/b:1": f"a/b@{DIGEST}", "c:1": f"c@{DIGEST}"},
    )
    assert moved(found, ["a/b:1", "built:1", "c:1"]) == []


def test_a_line_that_is_no_record_is_nobodys_business() -> None:
    found = Images().process(["record ", "record", "record c:1", f"record d:1 d@{DIGEST}", "have e:1"])
    assert found.recorded == {"d:1": f"d@{DIGEST}"} and found.digests == {"e:1": []}


def test_an_image_whose_pull_was_killed_at_its_end_is_written_down(tmp_path: Path) -> None:
    record = tmp_path / "new" / "images"
    digests = {
        "a/b:1": [f"mirror/b@{DIGEST}", f"a/b@{DIGEST}"],
        "built:1": [],
        "r.example.org:5000/c:1": [f"c@{DIGEST}"],
    }
    found = ImageStates({**digests, f"x@{DIGEST}": [f"x@{DIGEST}"], "old:1": [f"old@{DIGEST}"]}, {"old:1": "old@z"})
    lines = unrecorded(found, [*found.digests, "missing:1"])
    assert lines == [f"a/b:1 a/b@{DIGEST}"]
    for line in lines * 2:
        subprocess.run(["sh", "-c", NOTE, "sh", str(record), line], check=True)
    assert record.read_text() == f"a/b:1 a/b@{DIGEST}\n" * 2
    assert [path.name for path in record.parent.iterdir()] == ["images"]


def test_a_version_that_somebody_built_anew_is_told() -> None:
    found = ImageStates({"a/b:1": [f"a/b@{DIGEST[:-1]}b"]}, {"a/b:1": f"a/b@{DIGEST}"})
    (finding,) = moved(found, ["a/b:1"])
    assert finding.words == {"image": "a/b:1", "was": DIGEST}


DOCKER = """#!/bin/sh
case "$1 $2" in
    "pull "*) cat "$SAID"; echo "$2" >>"$LOG" ;;
    "image inspect") [ -e "$HAVE" ] ;;
    "tag "*) echo "tag $2 $3" >>"$LOG" ;;
    "info --format") echo /var/lib/docker ;;
esac
"""


def pull(tmp_path: Path, reference: str, said: str, *, arrives: bool, record: str = "") -> tuple[int, str, str]:
    """Run pull.sh with a docker that says what is given; return status, standard error, and what docker was asked."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "said").write_text(said + "\n")
    for name in ("have", "log", "record"):
        (tmp_path / name).unlink(missing_ok=True)
    if arrives:
        (tmp_path / "have").touch()
    if record:
        (tmp_path / "record").write_text(record)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": f"{tmp_path}/said", "LOG": f"{tmp_path}/log",
                   "HAVE": f"{tmp_path}/have"}  # fmt: skip
    done = subprocess.run(
        ["sh", "-c", PULL, "sh", str(tmp_path / "record"), "", reference], capture_output=True, text=True, check=False,
        env=environment,
    )  # fmt: skip
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    return done.returncode, done.stderr, log


# As Docker 26.1 and registry 2.8 said them; the limit is Docker Hub's (docs.docker.com/docker-hub/usage).
@pytest.mark.parametrize(
    ("reference", "said", "advice"),
    [
        ("x:1", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "docker: dockerd does not run"),
        ("x:1", "write /var/lib/docker/tmp/G: no space left on device", "docker/data_root: no space is left below"),
        ("a/x:1", "toomanyrequests: You have reached your pull rate limit.", "docker/registries/docker.io/login_file"),
        (
            "r.example.org:5000/x:1", 'Get "https://r.example.org:5000/v2/": http: server gave HTTP response to HTTPS '
            "client", "docker/registries/r.example.org:5000/insecure: it speaks plain HTTP",
        ),
        (
            "r.example.org/x:1", "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "docker/registries/r.example.org/ca_file: ",
        ),
        (
            "localhost/x:1", 'Head "http://localhost/v2/x/manifests/1": no basic auth credentials',
            "docker/registries/localhost/login_file: localhost has no such image, or shows it to nobody",
        ),
        (
            "x:1", "pull access denied for x, repository does not exist or may require 'docker login': denied",
            "docker/registries/docker.io/login_file: ",
        ),
        (
            "ghcr.io/a/x:1", "manifest for ghcr.io/a/x:1 not found: manifest unknown: manifest unknown",
            "ghcr.io has no such image",
        ),
        ("a/x:1", 'Get "https://registry-1.docker.io/v2/": dial tcp: i/o timeout', "docker.io could not be used"),
    ],
)  # fmt: skip
def test_a_failed_pull_says_what_to_do(tmp_path: Path, reference: str, said: str, advice: str) -> None:
    status, error, _ = pull(tmp_path, reference, f"Error response from daemon: {said}", arrives=False)
    assert status == 1
    assert error.splitlines()[0].startswith(f"{reference} could not be pulled")
    assert error.splitlines()[-1].startswith(advice)


def test_a_version_is_written_down_with_its_digest_and_pulled_by_it_the_next_time(tmp_path: Path) -> None:
    status, _, log = pull(tmp_path, "r.example.org:5000/a/x:1", f"Digest: {DIGEST}", arrives=True, record="y:1 y@z\n")
    assert (status, log) == (0, "r.example.org:5000/a/x:1\n")
    record = (tmp_path / "record").read_text()
    assert record == f"y:1 y@z\nr.example.org:5000/a/x:1 r.example.org:5000/a/x@{DIGEST}\n"
    status, _, log = pull(tmp_path, "r.example.org:5000/a/x:1", f"Digest: {DIGEST}", arrives=True, record=record)
    assert (status, log.splitlines()) == (
        0, [f"r.example.org:5000/a/x@{DIGEST}", f"tag r.example.org:5000/a/x@{DIGEST} r.example.org:5000/a/x:1"]
    )  # fmt: skip
    assert (tmp_path / "record").read_text() == record


def test_a_digest_needs_no_record(tmp_path: Path) -> None:
    assert pull(tmp_path, f"x@{DIGEST}", f"Digest: {DIGEST}", arrives=True)[0] == 0
    assert not (tmp_path / "record").exists()


def test_what_other_versions_left_unfinished_goes_when_one_is_installed(tmp_path: Path) -> None:
    """Environments of engines are 10 GB each, and so are their caches of packages."""
    root, uv = tmp_path / "vllm", tmp_path / "uv.txt"
    for name in ("1-aa.part/x", "1-aa.cache.part/x", "2-bb.part/x", "2-bb.cache.part/x", "0-cc/x"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    uv.write_text("uv==1.0\n")
    script = (FILES / "environment.sh").read_text().replace("/opt/metal2model", str(tmp_path / "opt"))
    (tmp_path / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python3").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    words = ["sh", "-c", f"set -eu\n{script}", "sh", f"{root}/2-bb", f"{tmp_path}/r.txt", str(uv), "vllm", "", ""]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert "vllm: python3 could not make an environment" in done.stderr, "no further than this here"
    assert sorted(path.name for path in root.iterdir()) == ["0-cc", "2-bb.cache.part", "2-bb.part"]


@settings(max_examples=20, deadline=None)
@given(NAME, VERSION)
def test_images_are_asked_for_in_one_command(name: str, version: str) -> None:
    text = str(Images().command([f"{name}:{version}", f"{name}@{DIGEST}"]))
    assert text.count("docker image inspect") == 1
    subprocess.run(["sh", "-n", "-c", text], check=True)
