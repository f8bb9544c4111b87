"""The same result whoever logs in, whatever language the host speaks, on every release that is supported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeHost
from tests.e2e.support import ask, key_of, run
from tests.e2e.test_full import declared

CASES = {
    "a user with passwordless sudo": ("noble", "nopass", None),
    "a user with a sudo password, on Debian 12 in Chinese": ("bookworm", "withpass", "zh_CN.UTF-8"),
    "root, on Debian 13": ("trixie", "root", None),
}


@pytest.mark.parametrize(("image", "user", "locale"), CASES.values(), ids=CASES)
def test_a_bare_host_answers_and_then_nothing_changes(
    image: str, user: str, locale: str | None, make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(image, locale=locale)
    fleet = {host.name: declared(host, user)}
    if locale:
        assert locale in host.ssh("locale").stdout
    run(tmp_path, fleet).succeeded()
    assert ask(host, 8000, key=key_of(host, "one"))[0] == 200
    assert run(tmp_path, fleet).succeeded().changed(host.name) == []


def test_a_host_that_does_not_fit_fails_alone(make_host: MakeHost, tmp_path: Path) -> None:
    hosts = [make_host("noble"), make_host("bookworm")]
    fleet = {host.name: declared(host) for host in hosts}
    wrong = hosts[1]
    fleet[wrong.name]["tags"] = ["rtx4090"]
    fleet[wrong.name]["llama_cpp"]["variant"] = "x64"
    result = run(tmp_path, fleet)
    assert result.code != 0
    assert f"{wrong.name}: " in result.output and "rtx4090" in result.output
    assert ask(hosts[0], 8000, key=key_of(hosts[0], "one"))[0] == 200
    assert wrong.ssh("test -e /etc/metal2model || test -e /opt/metal2model", check=False).returncode != 0
