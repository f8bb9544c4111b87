"""What of the virtual machines can be seen without one."""

import base64
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.testbed import BedError, hosts, network, vm, vm_images
from tests.testbed.hosts import Record
from tests.testbed.vm_images import DISK_MIB, GAP_MIB, MIB, PARTITIONS, SECTOR


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.setattr(hosts, "HOSTS_DIR", tmp_path)
    made = Record("one", "10.77.0.11", "vm-bios", str(tmp_path / "disk"), str(tmp_path), owner=None)
    made.run.mkdir()
    return made


# --- Disk ------------------------------------------------------------------------------------------------------------


def test_partitions_follow_each_other_to_the_end_of_the_disk() -> None:
    end = GAP_MIB
    for _, start, size in PARTITIONS:
        assert start == end
        end = start + size
    assert end == DISK_MIB


def test_partition_table_is_where_a_bios_looks_for_it() -> None:
    table = vm_images.partition_table(PARTITIONS)
    assert 446 + len(table) == SECTOR
    assert table[-2:] == b"\x55\xaa"
    active, kind, start, size = struct.unpack("<B3xB3xII", table[:16])
    assert (active, kind) == (0x80, vm_images.LINUX)
    assert (start, size) == (PARTITIONS[0][1] * MIB // SECTOR, PARTITIONS[0][2] * MIB // SECTOR)
    assert struct.unpack("<B3xB", table[16:21]) == (0, vm_images.EFI)
    assert table[32:64] == bytes(32)


def test_address_of_the_setup_is_no_host_s_and_known_to_ssh() -> None:
    assert vm_images.SETUP_ADDRESS == "10.77.0.10"
    assert network.free_address([]) != vm_images.SETUP_ADDRESS


# --- QEMU ------------------------------------------------------------------------------------------------------------


def test_kvm_is_tried_once_for_each_boot_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(vm_images, "_kvm_works", lambda _: next(answers))
    assert [vm_images.accelerator(tmp_path) for _ in range(2)] == [vm_images.TCG] * 2
    (tmp_path / "kvm").write_text("some-earlier-boot fails\n")
    assert [vm_images.accelerator(tmp_path) for _ in range(2)] == [vm_images.KVM] * 2


def test_machine_may_reset_and_waits_for_its_memory_only_with_a_snapshot() -> None:
    fresh = vm_images.command("bios", vm_images.TCG, Path("/disk"), mac="m", tap=3)
    copied = vm_images.command("bios", vm_images.TCG, Path("/disk"), mac="m", tap=3, origin=Path("/a b"))
    assert copied[: len(fresh)] == fresh
    assert copied[len(fresh) :] == ["-incoming", "exec:cat '/a b/memory'", "-S"]
    assert "-no-reboot" not in fresh
    assert not any("pflash" in word for word in fresh)


def test_secure_boot_protects_its_variables() -> None:
    line = " ".join(vm_images.command("secure-boot", vm_images.TCG, Path("/disk"), mac="m", tap=3))
    assert "q35,smm=on" in line
    assert "driver=cfi.pflash01,property=secure,value=on" in line
    assert "file=/disk/variables.fd" in line


def test_without_qemu_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BedError, match=r"qemu-img.*missing.*qemu-system-x86, qemu-utils"):
        vm_images.require_qemu()


# --- A machine -------------------------------------------------------------------------------------------------------


def test_introduction_has_the_files_whole_and_the_address_last() -> None:
    content = bytes(range(256)) + b"X\n"
    script = vm.introduction(12.5, {"etc/some keys/one": content, "etc/hostname": b"one\n"})
    lines = script.splitlines()
    assert lines[0].startswith("date --set=@12.500")
    assert "mkdir -p '/etc/some keys'" in lines
    written = re.findall(r"(?ms)^base64 -d >(\S+|'.*?') <<X\n(.*?)^X$", script)
    assert {path: base64.b64decode(text) for path, text in written} == {
        "'/etc/some keys/one'": content,
        "/etc/hostname": b"one\n",
    }
    assert lines[-2] == "sync"
    assert "networkctl" in lines[-1]


def test_boots_are_what_grub_has_started(record: Record) -> None:
    (record.run / "console.log").write_text(
        "\x1b[H Loading Linux 6.1.0-56-amd64 ...\r\nLoading initial ramdisk ...\r\nLinux version 6.1.0\r\n"
        "reboot: Restarting system\r\nLoading Linux 6.12.9 ...\r\nKernel panic - not syncing\r\n"
    )
    assert vm.BedVM(record).boots == 2
    assert vm.BedVM(record).firmware == "bios"
    assert vm.BedVM(replace(record, image="vm-secure-boot")).firmware == "secure-boot"


@pytest.fixture
def qemu(record: Record) -> Iterator[list[str]]:
    """Something that speaks as QEMU's monitor does, and the orders that it had."""
    orders: list[str] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            stream.write('{"QMP": {}}\n')
            stream.flush()
            for line in stream:
                orders.append(json.loads(line)["execute"])
                stream.write('{"event": "RESET"}\n')
                known = orders[-1] != "nonsense"
                stream.write('{"return": {"status": "running"}}\n' if known else '{"error": {"desc": "unknown"}}\n')
                stream.flush()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(record.run / "monitor"))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield orders
        thread.join()


def test_orders_are_answered_between_events(record: Record, qemu: list[str]) -> None:
    with vm._monitor(record.run) as order:
        assert order("query-status") == {"status": "running"}
        with pytest.raises(BedError, match="QEMU refuses nonsense: unknown"):
            order("nonsense")
    assert qemu == ["qmp_capabilities", "query-status", "nonsense"]
