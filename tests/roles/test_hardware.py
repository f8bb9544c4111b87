"""What is read from a host; each dump in hardware/ names its source."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.common.hardware import (
    Hardware,
    HardwareReport,
    NumaNode,
    NvidiaModule,
    cpu_list,
    cpu_set,
    lspci_names,
    nvidia_module,
)
from roles.common.lock import card_of, suggested_tags, tag_of

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
    assert (good.aperture_mib, bad.aperture_mib) == (128 * 1024, 0)
    card = card_of(good)
    assert card is not None
    assert (card.name, card.vram_mib) == ("H20", 98304)


@dataclass(frozen=True)
class Seen:
    """A controller as the source of a dump has it."""

    address: str
    pci_id: str
    tag: str | None
    aperture_mib: int
    driver: str | None
    subsystem: str = ""
    lanes: tuple[int, int] = (0, 0)
    name: str = ""


BMC = ("1a03:2000", None, 0, "ast", "1a03:2000")
G21, GIB = "Intel Corporation Battlemage G21", 1024
H200 = ("10de:2335", "h200", 256 * GIB, "nvidia", "10de:18be", (16, 16), "NVIDIA Corporation GH100 [H200 SXM 141GB]")
A100 = ("10de:20b2", "a100", 128 * GIB, "nvidia", "10de:1463", (16, 16), "NVIDIA Corporation GA100 [A100 SXM4 80GB]")
ASPEED = "ASPEED Technology, Inc. ASPEED Graphics Family"
GA102 = "NVIDIA Corporation GA102 [GeForce RTX 3090]"

SEEN = {
    "b580-in-a-vm": [
        Seen("0000:00:01.0", "1234:1111", None, 0, "bochs-drm", "1af4:1100", name="Device"),
        Seen("0000:01:00.0", "8086:e20b", "b580", 256, "xe", "8086:1100", (1, 1), f"{G21} [Intel Graphics]"),
    ],
    "b580-unnamed-no-driver": [
        Seen("0000:0c:00.0", "8086:e20b", "b580", 16 * GIB, None, "1849:6020", (8, 16), f"{G21} [Intel Graphics]"),
    ],
    "b570-resize-refused": [Seen("0000:03:00.0", "8086:e20c", "b570", 256, "xe", "1849:6021", (8, 8))],
    "b580-on-a-pi": [Seen("0001:03:00.0", "8086:e20b", "b580", 256, "xe", "8086:1100", (1, 16), f"{G21} [Arc B580]")],
    "arc-pro-b50": [
        Seen("0000:04:00.0", "8086:e212", "arc-pro-b50", 16 * GIB, "xe", "8086:1114", (8, 8), f"{G21} [Arc Pro B50]"),
    ],
    "two-arc-pro-b60": [
        Seen(address, "8086:e211", "arc-pro-b60", 32 * GIB, "xe", "8086:1111", (8, 8), f"{G21} [Arc Pro B60]")
        for address in ("0000:43:00.0", "0000:47:00.0")
    ]
    + [Seen("0000:c6:00.0", *BMC, name=ASPEED)],
    "two-arc-pro-b70": [
        Seen(address, "8086:e223", "arc-pro-b70", 32 * GIB, "xe", "8086:1701", (8, 16),
             "Intel Corporation Battlemage G31 [Arc Pro B70]")
        for address in ("0000:03:00.0", "0000:07:00.0")
    ],
    "a770-acer": [
        Seen("0000:03:00.0", "8086:56a0", "a770", 16 * GIB, "i915", "1025:3888", (16, 16),
             "Intel Corporation DG2 [Arc A770]"),
    ],
    "a750-on-a-pi": [
        Seen("0000:03:00.0", "8086:56a1", "a750", 256, None, "8086:1021", (1, 16), "Intel Corporation DG2 [Arc A750]"),
    ],
    "a380-beside-igpu": [
        Seen("0000:00:02.0", "8086:4680", None, 256, "i915", "1849:4680", name="Intel Corporation AlderLake-S GT1"),
        Seen("0000:03:00.0", "8086:56a5", "a380", 8 * GIB, "i915", "1849:6004", (8, 8),
             "Intel Corporation DG2 [Arc A380]"),
    ],
    "panther-lake-igpu": [
        Seen("0000:00:02.0", "8086:b080", None, 256, "xe", "1043:1f13",
             name="Intel Corporation Panther Lake [Intel Graphics]"),
    ],
    "eight-h200": [
        Seen("0000:02:00.0", *BMC, name=ASPEED),
        *(Seen(f"0000:{bus}:00.0", *H200) for bus in ("1b", "43", "52", "61", "9d", "c3", "d1", "df")),
    ],
    "h800-unnamed": [
        Seen("0000:99:00.0", "10de:2324", "h800", 128 * GIB, "nvidia", "10de:17a6", (16, 16),
             "NVIDIA Corporation Device"),
    ],
    "t4-unnamed": [
        Seen("0000:3d:00.0", "10de:1eb8", "t4", 256, None, "10de:12a2", (8, 16), "NVIDIA Corporation Device"),
    ],
    "two-rtx3090": [
        Seen("0000:05:00.0", "10de:2204", "rtx3090", 256, "nvidia", "19da:1613", (16, 16), GA102),
        Seen("0000:84:00.0", "10de:2204", "rtx3090", 256, "nvidia", "19da:1613", (8, 16), GA102),
    ],
    "rtx4090-beside-bmc": [
        Seen("0000:01:00.0", "10de:2684", "rtx4090", 32 * GIB, "nvidia", "1043:889a", (16, 16),
             "NVIDIA Corporation AD102 [GeForce RTX 4090]"),
        Seen("0000:c4:00.0", *BMC, name=ASPEED),
    ],
    "rtx4090-on-a-pi": [
        Seen("0000:01:00.0", "10de:2684", "rtx4090", 256, None, "1458:40bf", (1, 16), "NVIDIA Corporation Device"),
    ],
    "rtx3090-no-address": [Seen("0000:01:00.0", "10de:2204", "rtx3090", 0, None, "10de:1454", (4, 16), GA102)],
    "rtx3090-nouveau": [Seen("0000:09:00.0", "10de:2204", "rtx3090", 256, "nouveau", "10de:1454", (16, 16), GA102)],
    "v100-passed-through": [
        Seen("0000:3b:00.0", "10de:1db6", "v100", 32 * GIB, "vfio-pci", "10de:124a", (16, 16),
             "NVIDIA Corporation GV100GL [Tesla V100 PCIe 32GB]"),
    ],
    "p40-in-a-vm": [
        Seen("0000:06:10.0", "10de:1b38", "p40", 32 * GIB, "nvidia", "10de:11d9", (16, 16),
             "NVIDIA Corporation GP102GL [Tesla P40]"),
    ],
    "a100-80gb": [Seen(f"0000:{bus}:00.0", *A100) for bus in ("07", "0f", "87", "90")],
    "rtx5090-no-rebar": [
        Seen("0000:01:00.0", "10de:2b85", "rtx5090", 256, None, "1462:5300", (16, 16),
             "NVIDIA Corporation GB202 [GeForce RTX 5090]"),
    ],
}  # fmt: skip
"""Dump -> what its source says of the controllers, by address."""


@pytest.mark.parametrize("name", SEEN)
def test_the_cards_of_a_public_report_are_recognised(name: str) -> None:
    controllers = dump(name).controllers
    assert [
        Seen(
            c.address,
            c.pci_id,
            tag_of(c),
            c.aperture_mib if tag_of(c) or c.vendor == "8086" else 0,
            c.driver,
            c.subsystem,
            (c.link_width, c.max_link_width),
            c.name,
        )
        for c in controllers
    ] == SEEN[name]


def test_every_composed_dump_says_so_and_has_its_expectation() -> None:
    composed = {path.stem for path in DUMPS.glob("*.txt") if path.read_text().startswith("# Composed after ")}
    assert composed == SEEN.keys()
    for name in composed:
        header = " ".join(line[2:] for line in (DUMPS / f"{name}.txt").read_text().splitlines() if line[:1] == "#")
        assert "Not captured" in header


def test_nvswitches_tell_a_machine_that_needs_a_fabric_manager() -> None:
    assert {name: dump(name).nvswitches for name in ("eight-h200", "a100-80gb", "h800-unnamed", "b580-in-a-vm")} == {
        "eight-h200": 4, "a100-80gb": 6, "h800-unnamed": 0, "b580-in-a-vm": 0,
    }  # fmt: skip


def test_kernels_and_held_packages_are_known() -> None:
    report = dump("b580-unnamed-no-driver")
    assert report.kernels == ("6.8.0-31-generic", "6.8.0-87-generic", "6.8.0-101-generic")
    assert report.held == ("linux-generic",)
    assert dump("b570-resize-refused").kernels == ()


def test_a_card_says_how_far_its_region_could_grow() -> None:
    sizes = {name: dump(name).controllers[-1].largest_bar_mib for name in ("b580-on-a-pi", "a750-on-a-pi")}
    assert sizes == {"b580-on-a-pi": 16 * GIB, "a750-on-a-pi": 8 * GIB}
    assert dump("t4-unnamed").controllers[0].largest_bar_mib == 0


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("eight-h200", NvidiaModule("580.95.05", open=True)),
        ("a100-80gb", NvidiaModule("595.71.05", open=True)),
        ("p40-in-a-vm", NvidiaModule("535.261.03", open=False)),
        ("rtx3090-nouveau", None),
    ],
)
def test_the_loaded_nvidia_module_is_open_or_proprietary(name: str, module: NvidiaModule | None) -> None:
    assert dump(name).nvidia == module


@pytest.mark.parametrize(
    ("line", "module"),
    [
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  615.71.09  Release Build  (notroot@)  Sat Oct  3",
            NvidiaModule("615.71.09", open=True),
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build",
            NvidiaModule("580.95.05", open=True),
        ),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.135  Fri Jan 10", NvidiaModule("550.135", open=False)),
        ("GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04.2)", None),
        ("", None),
    ],
)
def test_what_the_nvidia_module_says_of_itself(line: str, module: NvidiaModule | None) -> None:
    assert nvidia_module(line) == module


def test_lspci_names_need_no_domain_and_no_known_card() -> None:
    assert lspci_names(
        [
            "03:00.0 VGA compatible controller [0300]: Intel Corporation Battlemage G21 [Arc B580] [8086:e20b]",
            "0001:03:00.0 VGA compatible controller [0300]: Intel Corporation DG2 [Arc A770] [8086:56a0] (rev 08)",
            "10000:e1:00.0 3D controller [0302]: NVIDIA Corporation Device [10de:2324] (rev a1)",
            "0000:00:1f.3 Audio device [0403]: Intel Corporation Raptor Lake HD Audio [8086:7a50] (rev 11)",
            "pcilib: Cannot open /proc/bus/pci",
        ]
    ) == {
        "0000:03:00.0": "Intel Corporation Battlemage G21 [Arc B580]",
        "0001:03:00.0": "Intel Corporation DG2 [Arc A770]",
        "10000:e1:00.0": "NVIDIA Corporation Device",
    }


def test_a_link_that_is_down_has_no_width() -> None:
    lines = [f"pci\t0000:01:00.0\t{name}\t{value}" for name, value in (("vendor", "0x10de"), ("device", "0x2684"))]
    (card,) = Hardware().process([*lines, "pci\t0000:01:00.0\tcurrent_link_width\t255"]).controllers
    assert (card.link_width, card.max_link_width) == (0, 0)


WORDS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "-1",
        "0-3",
        "0x",
        "0x0300",
        "MemTotal: 1 kB",
        "pci",
        "resource",
        "class",
        'A="',
        "x",
        "resize",
        "current_link_width",
        "255",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  ",
        "0000:03:00.0 [0300]: []",
    ]
)
KINDS = st.sampled_from(
    ["os", "cpuinfo", "threads", "core", "package", "node", "memory", "disk", "mount", "pci", "dri", "lspci",
     "nvswitch", "installed", "held", "nvrm", "?"]
)  # fmt: skip


@given(st.lists(st.tuples(KINDS, st.lists(WORDS, max_size=4)).map(lambda line: "\t".join([line[0], *line[1]]))))
def test_no_output_of_the_script_is_an_error(lines: list[str]) -> None:
    assert isinstance(Hardware().process(lines), HardwareReport)


@given(st.sets(st.integers(0, 600)))
def test_a_cpu_list_reads_as_it_was_written(numbers: set[int]) -> None:
    assert cpu_set(cpu_list(numbers)) == numbers


def test_a_cpu_list_is_short() -> None:
    assert cpu_list([0, 1, 2, 8, 10, 11]) == "0-2,8,10-11"


# --- The script ------------------------------------------------------------------------------------------------------


def run_script(script: str, shell: str = "sh", **environment: str) -> HardwareReport:
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
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


class Root:
    """Another machine's /sys, /proc, /etc, /boot and /var, and programs that answer for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.put("proc/cpuinfo", "processor\t: 0\n")
        self.put("proc/meminfo", "MemTotal:        4194304 kB\n")

    def put(self, path: str, text: str | bytes) -> None:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())

    def program(self, name: str, script: str) -> None:
        self.put(f"bin/{name}", f"#!/bin/sh\n{script}")
        (self.path / "bin" / name).chmod(0o755)

    def device(self, path: str, **files: str) -> None:
        """A PCI device at its place in the tree, ``00:01.0/01:00.0``; the bus links to it."""
        address = f"0000:{path.rpartition('/')[2]}"
        place = "sys/devices/pci0000:00/" + "/".join(f"0000:{part}" for part in path.split("/"))
        for name, value in files.items():
            self.put(f"{place}/{name}", value + "\n")
        bus = self.path / "sys/bus/pci/devices"
        bus.mkdir(parents=True, exist_ok=True)
        (bus / address).symlink_to(self.path / place)

    def report(self) -> HardwareReport:
        script = Hardware().command()
        for root in ("sys", "proc", "etc", "boot", "var"):
            script = script.replace(f"/{root}/", f"{self.path}/{root}/")
        return run_script(script, PATH=f"{self.path}/bin:{os.environ['PATH']}")


def test_the_script_reads_what_the_kernel_and_driver_roles_need(tmp_path: Path) -> None:
    root = Root(tmp_path)
    bridge = {"class": "0x060400", "vendor": "0x8086"}
    root.device("00:01.0", **bridge, current_link_width="16", max_link_width="16")
    slot = {"current_link_speed": "8.0 GT/s PCIe", "max_link_speed": "16.0 GT/s PCIe"}
    root.device("00:01.0/01:00.0", **bridge, current_link_width="4", max_link_width="8", **slot)
    root.device("00:01.0/01:00.0/02:01.0", **bridge, current_link_width="1", max_link_width="1")
    root.device(
        "00:01.0/01:00.0/02:01.0/03:00.0",
        **{"class": "0x030000", "vendor": "0x8086", "device": "0xe20b", "resource2_resize": "0000000000007f00"},
        current_link_width="1",
        max_link_width="1",
    )
    root.device("00:03.0/81:00.0", **{"class": "0x068000", "vendor": "0x10de", "device": "0x22a3"})
    root.device("00:04.0/91:00.0", **{"class": "0x068000", "vendor": "0x1022", "device": "0x1234"})
    root.device("00:05.0", **{"class": "0x060400", "vendor": "0x1022"})
    root.device(
        "00:05.0/41:00.0",
        **{"class": "0x030200", "vendor": "0x10de", "device": "0x20b5"},
        current_link_width="8",
        max_link_width="16",
    )
    root.program("lspci", "cat <<E\n" + "\n".join(LSPCI) + "\nE\n")
    for release in ("6.8.0-87-generic", "6.17.0-14-generic"):
        root.put(f"boot/vmlinuz-{release}", "")
    stanza = "Package: {}\nStatus: {} ok installed\nPriority: optional\nVersion: 1\n\n"
    states = (("linux-generic", "hold"), ("bash", "install"), ("nvidia-utils-580-server", "hold"))
    root.put("var/lib/dpkg/status", "".join(stanza.format(*state) for state in states))
    module = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.135  Fri Jan 10 20:00:00 UTC 2025\nGCC version: 12\n"
    root.put("proc/driver/nvidia/version", module)

    report = root.report()

    arc, a100 = report.controllers
    assert (arc.link_width, arc.max_link_width, arc.largest_bar_mib) == (4, 8, 16384)
    assert (arc.link_speed, arc.max_link_speed) == ("8.0 GT/s PCIe", "16.0 GT/s PCIe")
    assert (a100.link_width, a100.max_link_width, a100.largest_bar_mib) == (8, 16, 0)
    assert (arc.name, a100.name) == (f"{G21} [Arc B580]", "NVIDIA Corporation GA100 [A100 PCIe 80GB]")
    assert report.nvswitches == 1
    assert report.kernels == ("6.17.0-14-generic", "6.8.0-87-generic")
    assert report.held == ("linux-generic", "nvidia-utils-580-server")
    assert report.nvidia == NvidiaModule("550.135", open=False)


LSPCI = (
    "0000:00:01.0 PCI bridge [0604]: Intel Corporation Device [8086:a70d] (rev 01)",
    "0000:03:00.0 VGA compatible controller [0300]: Intel Corporation Battlemage G21 [Arc B580] [8086:e20b]",
    "0000:41:00.0 3D controller [0302]: NVIDIA Corporation GA100 [A100 PCIe 80GB] [10de:20b5] (rev a1)",
)


def test_the_script_reads_every_part_of_sysfs(tmp_path: Path) -> None:
    root = Root(tmp_path)
    put = root.put
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
    put("etc/os-release", 'ID=debian\nPRETTY_NAME="Debian GNU/Linux forky/sid"\nVERSION_CODENAME=forky')

    report = root.report()

    (gpu,) = report.controllers
    assert (gpu.pci_id, gpu.driver, gpu.numa_node, gpu.aperture_mib) == ("10de:2684", "nvidia", 1, 32768)
    assert (report.uefi, report.secure_boot) == (True, True)
    assert (report.cpu.sockets, report.cpu.cores, report.cpu.threads) == (2, 2, 4)
    assert report.cpu.features == ("avx2", "amx_tile")
    assert report.nodes == (NumaNode(0, "0,2", 1, 2048), NumaNode(1, "1,3", 1, 2048))
    assert [(disk.name, disk.size_bytes) for disk in report.disks] == [("sda", 1 << 20)]
    assert (report.os.id, report.os.version, report.memory_mib) == ("debian", "", 4096)
    assert (report.os.codename, report.architecture != "") == ("forky", True)  # the file has no last newline
