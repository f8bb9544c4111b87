"""Who wants a reboot: notes on the host, and what they say after the boot."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.options import OptionError
from roles.common.reboot import BOOT_ID, NOTES, Boot, BootState, Note, content, wish
from roles.reboot.options import RebootOptions

THIS, LAST = "0b8f7e3c-8a0f-4b34-9e10-000000000002", "0b8f7e3c-8a0f-4b34-9e10-000000000001"


class Machine:
    """A host's notes and the identity of its boot, in a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boot(THIS)

    def boot(self, boot_id: str) -> None:
        (self.path / "boot_id").write_text(boot_id + "\n")

    def run(self, script: str) -> list[str]:
        text = script.replace(NOTES, str(self.path / "notes")).replace(BOOT_ID, str(self.path / "boot_id"))
        return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True).stdout.splitlines()

    def state(self) -> BootState:
        return Boot().process(self.run(Boot().command()))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_notes_nothing_waits(machine: Machine) -> None:
    assert machine.state() == BootState(THIS)
    assert machine.state().wanted == []


def test_a_wish_waits_until_the_next_boot_and_is_remembered_after_it(machine: Machine) -> None:
    why = "NVIDIA's driver 580.95.05 is installed and not loaded"
    machine.run(wish("nvidia_gpu", why))
    assert machine.state().wanted == [why]
    assert not machine.state().tried(why)
    machine.boot(LAST)
    assert machine.state().wanted == []
    assert machine.state().tried(why)
    assert not machine.state().tried("xe has not taken 0000:03:00.0")


def test_each_role_has_one_note(machine: Machine) -> None:
    machine.run(wish("kernel", "kernel 6.17.0-14-generic is to be tried"))
    machine.run(wish("nvidia_gpu", "first"))
    machine.run(wish("nvidia_gpu", "second"))
    assert sorted(machine.state().wanted) == ["kernel 6.17.0-14-generic is to be tried", "second"]
    machine.run(content("nvidia_gpu"))
    assert machine.state().wanted == ["kernel 6.17.0-14-generic is to be tried"]
    machine.run(content("nvidia_gpu"))


@settings(max_examples=25)
@given(st.text(alphabet="ab '\"$`\\;&|<>*()!#~%", min_size=1).map(str.strip).filter(bool))
def test_a_reason_is_told_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, why: str) -> None:
    machine = Machine(tmp_path_factory.mktemp("host"))
    machine.run(wish("kernel", why))
    assert machine.state().notes == (Note(THIS, why),)


def test_a_note_that_is_half_written_is_none(machine: Machine) -> None:
    (machine.path / "notes").mkdir()
    (machine.path / "notes" / "kernel").write_text("")
    assert machine.state().notes == ()


@pytest.mark.parametrize(
    ("given_options", "said"),
    [({"timeout_seconds": 5}, "reboot/timeout_seconds: "), ({"alowed": False}, "(did you mean 'allowed'?)")],
)
def test_a_wrong_option_is_explained(given_options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        RebootOptions.load(given_options, where="h", path="reboot")
    assert said in str(caught.value)
