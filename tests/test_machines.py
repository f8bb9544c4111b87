"""What a host that pretends to be a machine shows, and what its boot loader and kernel decide."""

import subprocess
from pathlib import Path

import pytest

from tests.testbed import machines
from tests.testbed.machines import (
    B580,
    B580_SMALL_BAR,
    BMC,
    H20,
    RTX4090,
    UUID,
    V100,
    Machine,
    install,
    menu_id,
    package_version,
)

OLD, NEW = "6.8.0-90-generic", "6.17.0-14-generic"


def entry(title: str, identity: str, kernel: str, arguments: str = "quiet splash") -> str:
    """As grub-mkconfig writes it."""
    return f"""\
menuentry '{title}' --class ubuntu --class gnu-linux $menuentry_id_option 'gnulinux-{identity}-{UUID}' {{
\tif [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
\techo\t'Loading Linux {kernel} ...'
\tlinux\t/boot/vmlinuz-{kernel} root=UUID={UUID} ro  {arguments}
\tinitrd\t/boot/early.cpio /boot/initrd.img-{kernel}
}}
"""


MENU = f"""\
if [ "${{next_entry}}" ] ; then
   set default="${{next_entry}}"
   set next_entry=
else
   set default="DEFAULT"
fi
function gfxmode {{
\tset gfxpayload="${{1}}"
}}
{entry("Ubuntu", "simple", NEW)}\
submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced-{UUID}' {{
{entry(f"Ubuntu, with Linux {NEW}", f"{NEW}-advanced", NEW)}\
{entry(f"Ubuntu, with Linux {NEW} (recovery mode)", f"{NEW}-recovery", NEW, "single")}\
{entry(f"Ubuntu, with Linux {OLD}", f"{OLD}-advanced", OLD)}\
{entry(f"Ubuntu, with Linux {OLD} (recovery mode)", f"{OLD}-recovery", OLD, "single")}\
}}
{entry("Memory test", "memtest", "memtest")}\
"""


def machine_sh(command: str, root: Path, *arguments: str) -> str:
    """What a function of machine.sh says, with `root` as the host's root."""
    script = f'source "$0"; root=$1; shift; {command} "$@"'
    line = ["bash", "-c", script, str(machines.SCRIPT), str(root), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


# --- Boot loader -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "kernel", "arguments"),
    [
        ("0", NEW, "quiet splash"),
        ("", NEW, "quiet splash"),
        (f"gnulinux-simple-{UUID}", NEW, "quiet splash"),
        (menu_id(OLD), OLD, "quiet splash"),
        (f"Advanced options for Ubuntu>Ubuntu, with Linux {OLD}", OLD, "quiet splash"),
        ("1>3", OLD, "single"),
        (f"1>gnulinux-{OLD}-recovery-{UUID}", OLD, "single"),
        ("2", "memtest", "quiet splash"),
        # A menu alone is its first entry, and what is not there is the first of its menu.
        ("1", NEW, "quiet splash"),
        ("1>9", NEW, "quiet splash"),
        ("9", NEW, "quiet splash"),
        (menu_id("6.99.0-1-generic"), NEW, "quiet splash"),
        # An entry of a submenu is not found from the top.
        (f"gnulinux-{OLD}-advanced-{UUID}", NEW, "quiet splash"),
    ],
)
def test_an_entry_is_found_as_grub_finds_it(tmp_path: Path, wanted: str, kernel: str, arguments: str) -> None:
    config = tmp_path / "grub.cfg"
    config.write_text(MENU)
    found = machine_sh("chosen", tmp_path, str(config), wanted).splitlines()
    root = f"root=UUID={UUID} ro {arguments}"
    assert found == [f"/boot/vmlinuz-{kernel}", f"/boot/initrd.img-{kernel}", root]


@pytest.mark.parametrize("default", ["0", "${saved_entry}", menu_id(OLD)])
def test_the_default_is_what_grub_mkconfig_wrote(tmp_path: Path, default: str) -> None:
    config = tmp_path / "grub.cfg"
    config.write_text(MENU.replace("DEFAULT", default))
    assert machine_sh("default_of", tmp_path, str(config)) == f"{default}\n"


# --- Drivers ---------------------------------------------------------------------------------------------------------


def put(root: Path, *files: tuple[str, str]) -> None:
    for name, text in files:
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def driver(root: Path, card: str, kernel: str = NEW, *, arguments: str = "quiet", secure: int = 0) -> str:
    return machine_sh("driver_of", root, kernel, arguments, str(secure), card).strip()


@pytest.mark.parametrize(
    ("flavour", "card", "expected"),
    [
        ("open", RTX4090.pci_id, "nvidia"),
        ("open", H20.pci_id, "nvidia"),
        ("open", V100.pci_id, ""),
        ("open", "10de:2b85", "nvidia"),
        ("proprietary", RTX4090.pci_id, "nvidia"),
        ("proprietary", V100.pci_id, "nvidia"),
        ("proprietary", "10de:2b85", ""),
    ],
)
def test_each_set_of_nvidias_modules_takes_its_cards(tmp_path: Path, flavour: str, card: str, expected: str) -> None:
    put(tmp_path, machines.nvidia_module(NEW, "580.95.05", flavour), ("/etc/modprobe.d/x.conf", "blacklist nouveau\n"))
    assert driver(tmp_path, card) == expected
    assert driver(tmp_path, card, OLD) == "", "its modules are another kernel's"


def test_secure_boot_wants_a_signature(tmp_path: Path) -> None:
    put(tmp_path, machines.nvidia_module(NEW, "580.95.05", "open"))
    assert driver(tmp_path, RTX4090.pci_id, secure=1) == "nouveau"
    put(tmp_path, machines.nvidia_module(NEW, "580.95.05", "open", signed=True))
    assert driver(tmp_path, RTX4090.pci_id, secure=1) == "nvidia"


def test_of_two_modules_the_one_in_updates_is_loaded(tmp_path: Path) -> None:
    put(tmp_path, (f"/lib/modules/{NEW}/kernel/nvidia-580/nvidia.ko", "580.95.05\nproprietary\n"))
    put(tmp_path, machines.nvidia_module(NEW, "595.1", "open"))
    assert machine_sh("nvidia_module", tmp_path, NEW).splitlines() == ["595.1", "open"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("/etc/modprobe.d/a.conf", "blacklist nouveau\n", ""),
        ("/usr/lib/modprobe.d/a.conf", "options x y\nalias nouveau off\n", ""),
        ("/etc/modprobe.d/a.conf", "install nouveau /bin/false\n", ""),
        ("/etc/modprobe.d/a.conf", "# blacklist nouveau\nblacklist nouveau_x\n", "nouveau"),
        ("/etc/modprobe.d/a.conf.bak", "blacklist nouveau\n", "nouveau"),
    ],
)
def test_nouveau_takes_what_is_left_unless_it_may_not(tmp_path: Path, name: str, text: str, expected: str) -> None:
    put(tmp_path, (name, text))
    assert driver(tmp_path, RTX4090.pci_id) == expected
    assert driver(tmp_path, RTX4090.pci_id, arguments="modprobe.blacklist=a,nouveau") == ""


@pytest.mark.parametrize("suffix", ["", ".zst", ".xz"])
def test_arc_wants_a_kernel_and_firmware(tmp_path: Path, suffix: str) -> None:
    for card, bound, first, before in (
        (B580.pci_id, "xe", "6.12.0-1-generic", "6.11.0-29-generic"),
        ("8086:56a0", "i915", "6.2.0-1-generic", "6.1.0-41-amd64"),
    ):
        name, text = machines.XE_FIRMWARE if bound == "xe" else machines.DG2_FIRMWARE
        assert driver(tmp_path, card, first) == ""
        put(tmp_path, (name + suffix, text))
        assert driver(tmp_path, card, first) == bound
        assert driver(tmp_path, card, before) == ""


# --- What is shown ---------------------------------------------------------------------------------------------------


def shown(disk: Path, device: machines.PciDevice) -> Path:
    return disk / "machine/bus/pci/devices" / device.address


def read(path: Path) -> str:
    return path.read_text().strip()


def test_a_device_is_shown_as_sysfs_shows_it(tmp_path: Path) -> None:
    install(Machine(devices=(RTX4090, BMC)), tmp_path)
    card = shown(tmp_path, RTX4090)
    assert [read(card / name) for name in ("class", "vendor", "device")] == ["0x030000", "0x10de", "0x2684"]
    assert [read(card / name) for name in ("subsystem_vendor", "numa_node", "boot_vga")] == ["0x10de", "-1", "0"]
    assert read(shown(tmp_path, BMC) / "boot_vga") == "1", "the firmware's console is the BMC's"
    regions = [[int(word, 16) for word in line.split()] for line in read(card / "resource").splitlines()]
    assert len(regions) == 13
    assert [end - begin + 1 if end else 0 for begin, end, _ in regions[:6]] == [16 << 20, 256 << 20, 0, 32 << 20, 0, 0]
    assert all(begin % (end - begin + 1) == 0 and flags & 0x200 for begin, end, flags in regions if end)
    assert int(read(card / "resource1_resize"), 16) == sum(1 << size for size in range(8, 16)), "256 MiB to 32 GiB"
    assert (card / "config").read_bytes()[:4] == b"\xde\x10\x84\x26"


def test_an_arc_is_behind_the_switch_of_its_card(tmp_path: Path) -> None:
    install(Machine(devices=(B580_SMALL_BAR,)), tmp_path)
    gpu = shown(tmp_path, B580_SMALL_BAR).resolve()
    assert read(gpu / "current_link_width") == "1"
    port = gpu.parent.parent
    assert [read(port / name) for name in ("vendor", "class", "max_link_width")] == ["0x8086", "0x060400", "8"]
    assert port.name in [path.name for path in (tmp_path / "machine/bus/pci/devices").iterdir()]


def test_nodes_share_the_processors(tmp_path: Path) -> None:
    files = machines._nodes(4, 36)
    assert [files[f"node{node}/cpulist"] for node in range(4)] == ["0-8\n", "9-17\n", "18-26\n", "27-35\n"]
    assert files["node3/cpumap"] == "f,f8000000\n"
    assert files["node0/distance"] == "10 21 21 21\n"
    assert machines._nodes(2, 1)["node1/cpulist"] == "\n", "memory alone"


@pytest.mark.parametrize("secure", [True, False])
def test_firmware_says_whether_it_boots_securely(tmp_path: Path, secure: bool) -> None:
    install(Machine(secure_boot=secure), tmp_path)
    (variable,) = (tmp_path / "machine/firmware/efi/efivars").glob("SecureBoot-*")
    assert variable.read_bytes()[4:] == bytes([secure])
    install(Machine(secure_boot=None), tmp_path)
    assert not (tmp_path / "machine/firmware").exists()


# --- What is on the disk at first ------------------------------------------------------------------------------------


def test_kernels_are_there_as_packages(tmp_path: Path) -> None:
    image = tmp_path / "image"
    put(image, ("var/lib/dpkg/status", "Package: base\nStatus: install ok installed\n"))
    install(Machine(kernels=(NEW, OLD), files=(machines.XE_FIRMWARE,)), tmp_path, [tmp_path / "empty", image])
    upper = tmp_path / "upper"
    status = (upper / "var/lib/dpkg/status").read_text()
    assert status.startswith("Package: base\n") and status.count("\n\nPackage: linux-image-") == 2
    assert f"/boot/vmlinuz-{OLD}\n" in (upper / f"var/lib/dpkg/info/linux-image-{OLD}.list").read_text()
    assert (upper / f"boot/initrd.img-{NEW}").stat().st_size > 0
    assert (upper / "usr/lib/firmware/xe/bmg_guc_70.bin").exists() and not (upper / "lib").exists()
    environment = (upper / "boot/grub/grubenv").read_bytes()
    assert len(environment) == 1024 and f"\nnext_entry={menu_id(OLD)}\n".encode() in environment


@pytest.mark.parametrize(
    ("kernel", "version"),
    [(OLD, "6.8.0-90.91"), (NEW, "6.17.0-14.14~24.04.1"), ("6.1.0-41-amd64", "6.1.0-41.42")],
)
def test_versions_are_like_the_distributions(kernel: str, version: str) -> None:
    assert package_version(kernel) == version
