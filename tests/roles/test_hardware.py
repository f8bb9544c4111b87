"""What is read from a host, and what files/hardware.yaml makes of it; each dump in hardware/ names its source."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from roles.common.hardware import (
    HARDWARE,
    KNOWN_TAGS,
    Hardware,
    HardwareReport,
    NumaChoice,
    NumaNode,
    NumaPolicy,
    Tag,
    card_of,
    cpu_list,
    cpu_set,
    load_hardware,
    numa_policy,
    numa_problems,
    suggested_tags,
    tag_of,
)
from roles.common.options import OptionError, Options

DUMPS = Path(__file__).parent / "hardware"


def dump(name: str) -> HardwareReport:
    return Hardware().process((DUMPS / f"{name}.txt").read_text().splitlines())


# --- The report ------------------------------------------------------------------------------------------------------


def test_a_host_that_tells_nothing_gives_an_empty_report() -> None:
    assert dump("nothing") == HardwareReport()


def test_a_container_sees_its_machine() -> None:
    report = dump("firecracker-container")
    assert (report.os.id, report.os.version, report.os.codename) == ("debian", "12", "bookworm")
    assert report.os.name == "Debian GNU/Linux 12 (bookworm)"
    assert (report.architecture, report.kernel, report.is_container) == ("amd64", "6.18.44-fc-v657", True)
    assert (report.cpu.model, report.cpu.sockets, report.cpu.cores, report.cpu.threads) == ("AMD EPYC", 1, 2, 2)
    assert report.cpu.features == ("avx2", "avx512f", "avx512_vnni", "avx512_bf16")
    assert report.memory_mib == 24105
    assert [disk.name for disk in report.disks] == ["vda"]
    assert report.controllers == ()
    assert {mount.path: mount.free_mib for mount in report.mounts}["/srv/models"] == 80231952 >> 10


def test_secure_boot_is_unknown_in_a_container_and_off_without_uefi() -> None:
    assert dump("firecracker-container").secure_boot is None
    assert (dump("virtio-gpu-vm").uefi, dump("virtio-gpu-vm").secure_boot) == (False, False)
    assert (dump("b580-beside-igpu").uefi, dump("b580-beside-igpu").secure_boot) == (True, True)
    assert dump("b580-small-bar").secure_boot is False


def test_hybrid_processors_count_cores_not_threads() -> None:
    cpu = dump("b580-beside-igpu").cpu
    assert (cpu.sockets, cpu.cores, cpu.threads) == (1, 14, 20)
    assert cpu.model == "13th Gen Intel(R) Core(TM) i5-13500"


def test_disks_are_disks() -> None:
    nvme, sda = dump("b580-beside-igpu").disks
    assert (nvme.name, nvme.size_bytes, nvme.rotational, nvme.model) == (
        "nvme0n1", 1953525168 * 512, False, "Samsung SSD 990 PRO 1TB",
    )  # fmt: skip
    assert (sda.name, sda.rotational) == ("sda", True)


def test_an_igpu_is_told_from_the_card_beside_it() -> None:
    report = dump("b580-beside-igpu")
    igpu, card = report.controllers
    assert (igpu.pci_id, igpu.driver, igpu.boot_vga, tag_of(igpu)) == ("8086:a780", "i915", False, None)
    assert (card.pci_id, card.driver, card.boot_vga, tag_of(card)) == ("8086:e20b", "xe", True, "b580")
    assert card.numa_node is None
    assert card.bars == (16 << 20, 0, 16 << 30, 0, 0, 0)
    assert card.aperture_mib == 16384
    assert card.subsystem == "8086:1100"
    assert suggested_tags(report) == ["b580"]
    assert report.dri == ("card0", "card1", "renderD128", "renderD129")


def test_resizable_bar_that_is_off_shows() -> None:
    (card,) = dump("b580-small-bar").controllers
    assert (card.aperture_mib, card.driver) == (256, None)


def test_two_sockets_with_eight_cards() -> None:
    report = dump("two-sockets-8-rtx4090")
    assert (report.cpu.sockets, report.cpu.cores) == (2, 64)
    assert report.nodes == (NumaNode(0, "0-31", 32, 773271), NumaNode(1, "32-63", 32, 774028))
    cards = [controller for controller in report.controllers if tag_of(controller) == "rtx4090"]
    assert [card.numa_node for card in cards] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert {card.aperture_mib for card in cards} == {32768}
    assert suggested_tags(report) == ["rtx4090", "numa"]


def test_a_virtual_display_is_no_card() -> None:
    report = dump("virtio-gpu-vm")
    assert [controller.pci_id for controller in report.controllers] == ["1af4:1050"]
    assert (report.cpu.model, report.cpu.features, report.architecture) == ("Neoverse-N1", ("asimd",), "arm64")
    assert suggested_tags(report) == ["cpu"]


def test_a_region_without_an_address_does_not_count() -> None:
    good, bad = dump("h20-vm").controllers
    assert (good.aperture_mib, bad.aperture_mib) == (128 * 1024, 32)
    card = card_of(good)
    assert card is not None
    assert (card.name, card.vram_mib) == ("H20", 98304)


WORDS = st.sampled_from(
    ["", "0", "1", "-1", "0-3", "0x", "0x0300", "MemTotal: 1 kB", "pci", "resource", "class", 'A="', "x"]
)
KINDS = st.sampled_from(
    ["os", "cpuinfo", "threads", "core", "package", "node", "memory", "disk", "mount", "pci", "dri", "?"]
)


@given(st.lists(st.tuples(KINDS, st.lists(WORDS, max_size=4)).map(lambda line: "\t".join([line[0], *line[1]]))))
def test_no_output_of_the_script_is_an_error(lines: list[str]) -> None:
    assert isinstance(Hardware().process(lines), HardwareReport)


@given(st.sets(st.integers(0, 600)))
def test_a_cpu_list_reads_as_it_was_written(numbers: set[int]) -> None:
    assert cpu_set(cpu_list(numbers)) == numbers


def test_a_cpu_list_is_short() -> None:
    assert cpu_list([0, 1, 2, 8, 10, 11]) == "0-2,8,10-11"


# --- The script ------------------------------------------------------------------------------------------------------


def run_script(script: str, shell: str = "sh") -> HardwareReport:
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return Hardware().process(done.stdout.splitlines())


@pytest.mark.parametrize("shell", [shell for shell in ("dash", "bash") if shutil.which(shell)])
def test_the_script_reads_this_machine(shell: str) -> None:
    report = run_script(Hardware().command(), shell)
    assert report.kernel == os.uname().release
    assert report.cpu.threads == len(cpu_set(Path("/sys/devices/system/cpu/online").read_text()))
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert report.memory_mib == total_kib >> 10
    assert {mount.path: mount.free_mib for mount in report.mounts}["/"] == pytest.approx(
        shutil.disk_usage("/").free >> 20, abs=2048
    )


def test_the_script_reads_every_part_of_sysfs(tmp_path: Path) -> None:
    def put(path: str, text: str | bytes) -> None:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())

    resource = (
        "0x00000000b2000000 0x00000000b2ffffff 0x0000000000040200\n"
        "0x0000028800000000 0x0000028fffffffff 0x000000000014220c\n" + "0x0 0x0 0x0\n" * 11
    )
    card = "sys/bus/pci/devices/0000:41:00.0"
    wanted = {"class": "0x030000", "vendor": "0x10de", "device": "0x2684", "numa_node": "1", "boot_vga": "0"}
    for name, value in wanted.items():
        put(f"{card}/{name}", value + "\n")
    put(f"{card}/resource", resource)
    (tmp_path / card / "driver").symlink_to("../../../../bus/pci/drivers/nvidia")
    put("sys/bus/pci/devices/0000:00:1f.0/class", "0x060100\n")
    put("sys/block/sda/size", "2048\n")
    put("sys/block/sda/queue/rotational", "1\n")
    put("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\x01")
    for cpu in range(4):
        put(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu % 2},{cpu % 2 + 2}\n")
        put(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", f"{cpu % 2}\n")
    for node in (0, 1):
        put(f"sys/devices/system/node/node{node}/cpulist", f"{node},{node + 2}\n")
        put(
            f"sys/devices/system/node/node{node}/meminfo",
            f"Node {node} MemTotal:  2097152 kB\nNode {node} MemFree: 1 kB\n",
        )
    put("proc/cpuinfo", "processor\t: 0\nmodel name\t: Test\nflags\t\t: fpu amx_tile avx2\n" + "processor\t: 1\n" * 3)
    put("proc/meminfo", "MemTotal:        4194304 kB\n")
    put("etc/os-release", 'ID=debian\nPRETTY_NAME="Debian GNU/Linux forky/sid"\nVERSION_CODENAME=forky')
    script = Hardware().command()
    for root in ("sys", "proc", "etc"):
        script = script.replace(f"/{root}/", f"{tmp_path}/{root}/")

    report = run_script(script)

    (gpu,) = report.controllers
    assert (gpu.pci_id, gpu.driver, gpu.numa_node, gpu.aperture_mib) == ("10de:2684", "nvidia", 1, 32768)
    assert (report.uefi, report.secure_boot) == (True, True)
    assert (report.cpu.sockets, report.cpu.cores, report.cpu.threads) == (2, 2, 4)
    assert report.cpu.features == ("avx2", "amx_tile")
    assert report.nodes == (NumaNode(0, "0,2", 1, 2048), NumaNode(1, "1,3", 1, 2048))
    assert [(disk.name, disk.size_bytes) for disk in report.disks] == [("sda", 1 << 20)]
    assert (report.os.id, report.os.version, report.memory_mib) == ("debian", "", 4096)
    assert (report.os.codename, report.architecture != "") == ("forky", True)  # the file has no last newline


# --- files/hardware.yaml ---------------------------------------------------------------------------------------------


def test_every_tag_that_we_promise_is_there() -> None:
    intel = {"b580", "b570", "arc-pro-b50", "arc-pro-b60", "arc-pro-b70", "a770", "a750", "a380", "flex"}
    geforce = {"rtx3090", "rtx4090", "rtx5090"}
    data_centre = {"t4", "v100", "p40", "a100", "l40s", "h20", "h100", "h800", "h200"}
    assert set(KNOWN_TAGS) == intel | geforce | data_centre | {"cpu", "numa"}


def test_no_card_has_two_tags() -> None:
    ids = [pci_id for entry in HARDWARE.values() for pci_id in entry.cards]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("tag", KNOWN_TAGS)
def test_cards_are_of_the_vendor_of_their_tag(tag: str) -> None:
    entry = HARDWARE[tag]
    assert bool(entry.cards) == (tag not in ("cpu", "numa")) == (entry.vendor is not None)
    for pci_id, card in entry.cards.items():
        assert pci_id.startswith({"intel": "8086:", "nvidia": "10de:"}[entry.vendor or ""])
        assert card.vram_mib is None or 4096 <= card.vram_mib <= 288 * 1024


@pytest.mark.parametrize(
    "text",
    [
        "x: {}",
        "x: {source: s, vendor: amd}",
        'x: {source: s, cards: {"8086:E20B": {name: n}}}',
        'x: {source: s, cards: {"8086:e20b": {name: n, vram: 1}}}',
        'x: {source: ""}',
    ],
)
def test_a_wrong_entry_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        load_hardware(text)


class Host(Options):
    tags: list[Tag]


def test_an_unknown_tag_is_explained() -> None:
    assert Host.load({"tags": ["rtx4090", "numa"]}, where="gpu-01").tags == ["rtx4090", "numa"]
    with pytest.raises(OptionError) as caught:
        Host.load({"tags": ["rtx409"]}, where="gpu-01")
    assert str(caught.value) == "gpu-01: tags/0: unknown hardware tag 'rtx409' (did you mean 'rtx4090'?)"


# --- NUMA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "policy"),
    [
        ("none", NumaPolicy(physical_cores=64)),
        ("distribute", NumaPolicy(physical_cores=64)),
        ("isolate", NumaPolicy(physical_cores=64)),
        ("interleave", NumaPolicy("interleave", "0-1", "", 64)),
        (1, NumaPolicy("bind", "1", "32-63", 32)),
        (7, NumaPolicy(physical_cores=64)),
    ],
)
def test_a_server_is_placed_as_chosen(choice: NumaChoice, policy: NumaPolicy) -> None:
    assert numa_policy(dump("two-sockets-8-rtx4090"), choice) == policy


def test_directives_are_those_of_systemd() -> None:
    report = dump("two-sockets-8-rtx4090")
    assert numa_policy(report, 1).directives == ["NUMAPolicy=bind", "NUMAMask=1", "CPUAffinity=32-63"]
    assert numa_policy(report, "interleave").directives == ["NUMAPolicy=interleave", "NUMAMask=0-1"]
    assert numa_policy(report, "none").directives == []


@pytest.mark.parametrize("choice", ["none", "interleave", "distribute", 0])
def test_one_node_needs_no_directive(choice: NumaChoice) -> None:
    report = dump("firecracker-container")
    assert numa_policy(report, choice).directives == []
    assert numa_policy(report, choice).physical_cores == 2
    assert numa_problems(report, choice) == []


def test_a_node_that_does_not_exist_is_told() -> None:
    assert numa_problems(dump("two-sockets-8-rtx4090"), 0) == []
    (problem,) = numa_problems(dump("two-sockets-8-rtx4090"), 2)
    assert problem == ('NUMA node 2 does not exist; nodes of this host: 0-1; choose one of them or "interleave"')


def test_a_node_without_processors_takes_no_server_but_memory() -> None:
    report = HardwareReport(nodes=(NumaNode(0, "0-3", 4, 2048), NumaNode(1, "", 0, 8192), NumaNode(2, "4-7", 4, 0)))
    assert ["no processors" in problem for problem in numa_problems(report, 1)] == [True]
    assert ["no memory" in problem for problem in numa_problems(report, 2)] == [True]
    assert numa_policy(report, "interleave").mask == "0-1"
