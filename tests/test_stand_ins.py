"""The stand-ins for kernels and drivers, and the archives that the hub makes of them: no bed, no root."""

import gzip
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_hub import Bed, free_port
from tests.testbed import hub, keys, stand_ins
from tests.testbed.hub_docker import TOOLKITS
from tests.testbed.hub_drivers import index
from tests.testbed.stand_ins import Package, script

PPA = "https://ppa.launchpadcontent.net/kobuk-team/intel-graphics/ubuntu"
PPA_MIRROR = "https://launchpad.proxy.ustclug.org/kobuk-team/intel-graphics/ubuntu"
INTEL = "https://repositories.intel.com/gpu/ubuntu"
MAINLINE = "https://kernel.ubuntu.com/mainline/v6.12.3/amd64/"
UBUNTU = "http://archive.ubuntu.com/ubuntu"


def everything() -> list[Package]:
    packages = [*stand_ins.noble(), *stand_ins.ppa(), *stand_ins.intel("noble"), *stand_ins.intel("jammy"), *TOOLKITS]
    return packages + [package for build in stand_ins.MAINLINE for package in stand_ins.mainline(build)]


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def stanzas(text: str) -> list[dict[str, str]]:
    return [dict(re.findall(r"(?m)^([\w-]+): (.*)$", part)) for part in text.split("\n\n") if part.strip()]


# --- Packages --------------------------------------------------------------------------------------------------------


def test_dpkg_takes_every_package_for_one(tmp_path: Path) -> None:
    for package in everything():
        path = tmp_path / package.file_name
        path.write_bytes(stand_ins.deb(package))
        assert output("dpkg-deb", "--field", path) == package.control
        listed = output("dpkg-deb", "--contents", path)
        for file in package.files:
            assert f" ./{file.path}" in listed
        scripts = tmp_path / "scripts"
        output("dpkg-deb", "--control", path, scripts)
        for name in package.scripts or {}:
            if name != "triggers":
                output("sh", "-n", scripts / name)
        output("rm", "-r", scripts)


def test_packages_are_the_same_bytes_every_time() -> None:
    for package in everything():
        assert stand_ins.deb(package) == stand_ins.deb(package)


def test_the_files_are_what_their_checksums_say(tmp_path: Path) -> None:
    package = next(package for package in everything() if package.name == "nvidia-kernel-common-580-server")
    (tmp_path / "one.deb").write_bytes(stand_ins.deb(package))
    output("dpkg-deb", "--raw-extract", tmp_path / "one.deb", tmp_path / "tree")
    subprocess.run(["md5sum", "--quiet", "-c", "DEBIAN/md5sums"], cwd=tmp_path / "tree", check=True)
    conffiles = (tmp_path / "tree/DEBIAN/conffiles").read_text()
    assert conffiles == "/etc/modprobe.d/nvidia-graphics-drivers-kms.conf\n"


def test_firmware_is_compressed_as_zstd_does_it(tmp_path: Path) -> None:
    package = [package for package in stand_ins.noble() if package.name == "linux-firmware"][-1]
    for path in ("xe/bmg_guc_70.bin", "xe/bmg_huc.bin", "i915/bmg_dmc.bin", "i915/dg2_guc_70.bin"):
        (file,) = [file for file in package.files if file.path == f"lib/firmware/{path}.zst"]
        assert isinstance(file.content, bytes)
        (tmp_path / "one.zst").write_bytes(file.content)
        assert path in output("zstd", "-dcq", tmp_path / "one.zst")


def test_no_placeholder_is_left_in_a_script() -> None:
    for package in everything():
        texts = [*(package.scripts or {}).values(), *(file.content for file in package.files)]
        for text in texts:
            assert not re.search(r"@[A-Z_]+@", text.decode(errors="replace") if isinstance(text, bytes) else text)


def test_every_dependency_among_them_can_be_met() -> None:
    """What is not of the bed is Debian's; see the list."""
    of_debian = {"kmod", "adduser", "linux-base", "ocl-icd-libopencl1", "wireless-regdb"}
    missing = {"linux-main-modules-zfs-6.19.11-061911-generic"}  # as in reality
    packages = everything()
    known = {package.name for package in packages} | of_debian | missing
    for package in packages:
        for group in filter(None, (package.fields or {}).get("Depends", "").split(", ")):
            assert {choice.split()[0] for choice in group.split("|")} & known, f"{package.name} depends on {group}"


# --- Archives --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    state = tmp_path_factory.mktemp("bed")
    bed = Bed(state, free_port(), free_port(), hub.Client(state))
    hub.ensure_running(state, "127.0.0.1", bed.http_port, bed.tls_port)
    yield bed
    hub.stop(state)


def signed_by(path: Path, ring: Path, *signed: Path) -> None:
    subprocess.run(
        ["gpgv", "-q", "--keyring", str(ring), str(path), *map(str, signed)], check=True, capture_output=True
    )


@pytest.mark.parametrize(
    ("suite", "component", "name"),
    [
        (f"{UBUNTU}/dists/noble", "restricted", "linux-generic-hwe-24.04"),
        (f"{UBUNTU}/dists/noble-updates", "restricted", "nvidia-utils-580-server"),
        ("http://security.ubuntu.com/ubuntu/dists/noble-security", "restricted", "nvidia-utils-580-server"),
        ("https://mirrors.tuna.tsinghua.edu.cn/ubuntu/dists/noble-updates", "multiverse", "nvidia-fabricmanager-595"),
        ("https://mirrors.ustc.edu.cn/ubuntu/dists/noble", "restricted", "nvidia-headless-580-server-open"),
        (f"{PPA}/dists/noble", "main", "libze-intel-gpu1"),
        (f"{PPA_MIRROR}/dists/noble", "main", "intel-gsc"),
        (f"{INTEL}/dists/noble", "unified", "intel-opencl-icd"),
        (f"{INTEL}/dists/jammy", "unified", "level-zero"),
    ],
)
def test_an_archive_is_signed_and_has_what_it_lists(
    bed: Bed, tmp_path: Path, suite: str, component: str, name: str
) -> None:
    base = suite.partition("/dists/")[0]
    signer = {PPA: "ppa", PPA_MIRROR: "ppa", INTEL: "intel"}.get(base)
    ring = keys.archive_keyring(stand_ins.signer(bed.state, signer) if signer else bed.state)
    inrelease, release, signature = (tmp_path / name for name in ("InRelease", "Release", "Release.gpg"))
    for file in (inrelease, release, signature):
        reply = bed.ask(f"{suite}/{file.name}")
        assert reply.status == 200
        file.write_bytes(reply.body)
    signed_by(inrelease, ring)
    signed_by(signature, ring, release)
    paths = {f"{component}/binary-amd64/{variant}" for variant in ("Packages", "Packages.gz")}
    listed = {
        path: (digest, int(size))
        for digest, size, path in re.findall(r"(?m)^ ([0-9a-f]{64}) +(\d+) (\S+)$", release.read_text())
    }
    assert paths <= set(listed)
    texts = set()
    for path in paths:
        body = bed.ask(f"{suite}/{path}").body
        assert (hashlib.sha256(body).hexdigest(), len(body)) == listed[path]
        by_hash = f"{component}/binary-amd64/by-hash/SHA256/{listed[path][0]}"
        assert bed.ask(f"{suite}/{by_hash}").body == body
        texts.add(gzip.decompress(body).decode() if path.endswith(".gz") else body.decode())
    (text,) = texts
    packages = stanzas(text)
    assert name in {package["Package"] for package in packages}
    for package in packages:
        body = bed.ask(f"{base}/{package['Filename']}").body
        assert (hashlib.sha256(body).hexdigest(), str(len(body))) == (package["SHA256"], package["Size"])


def test_apt_reads_the_indexes_as_dpkg_reads_the_packages() -> None:
    for stanza, package in zip(stanzas(index(stand_ins.noble()).decode()), stand_ins.noble(), strict=True):
        assert (stanza["Package"], stanza["Version"]) == (package.name, package.version)


def test_updates_have_a_newer_driver_and_the_release_has_the_older(bed: Bed) -> None:
    versions = {}
    for pocket in ("noble", "noble-updates", "noble-security", "noble-backports"):
        body = bed.ask(f"{UBUNTU}/dists/{pocket}/restricted/binary-amd64/Packages").body.decode()
        found = [package["Version"] for package in stanzas(body) if package["Package"] == "nvidia-utils-580-server"]
        versions[pocket] = found
    assert versions == {
        "noble": ["580.95.05-0ubuntu0.24.04.2"],
        "noble-updates": ["580.178.04-0ubuntu0.24.04.1"],
        "noble-security": ["580.178.04-0ubuntu0.24.04.1"],
        "noble-backports": [],
    }


def test_faults_reach_the_packages(bed: Bed) -> None:
    (path,) = {package.pool_path for package in stand_ins.ppa() if package.name == "xpu-smi"}
    good = bed.ask(f"{PPA}/{path}").body
    bed.admin.fault("xpu-smi_", "corrupt", after=100)
    assert bed.ask(f"{PPA}/{path}").body != good
    assert bed.ask(f"{PPA}/{path}", Range="bytes=8-99").body == good[8:100]


def test_every_name_of_them_is_served(bed: Bed) -> None:
    names = {"ppa.launchpadcontent.net", "launchpad.proxy.ustclug.org", "keyserver.ubuntu.com"}
    names |= {"repositories.intel.com", "kernel.ubuntu.com"}
    assert names <= set(hub.served_names())
    for name in names:
        assert bed.ask(f"https://{name}/nothing").status == 404


# --- Keys ------------------------------------------------------------------------------------------------------------


def shown(path: Path) -> set[str]:
    """Ask gpg for the primary keys in a file."""
    home = path.with_name("gnupg")
    home.mkdir(mode=0o700, exist_ok=True)
    listed = output("gpg", "--homedir", home, "--batch", "--no-autostart", "--with-colons", "--show-keys", path)
    return set(re.findall(r"(?m)^pub:.*\n(?:fpr:+)(\w+):", listed))


def test_the_key_server_has_each_key_by_its_fingerprint(bed: Bed, tmp_path: Path) -> None:
    fingerprints = stand_ins.fingerprints(bed.state)
    assert set(fingerprints) == {"ppa", "intel", "intel-2024", "mainline", "docker", "nvidia-toolkit"}
    assert len(set(fingerprints.values())) == 6
    for fingerprint in fingerprints.values():
        for search in (f"0x{fingerprint}", f"0x{fingerprint[-16:]}", f"0x{fingerprint.lower()}"):
            for options in ("op=get&options=mr&", "op=get&"):
                reply = bed.ask(f"https://keyserver.ubuntu.com/pks/lookup?{options}search={search}")
                assert reply.status == 200
        (tmp_path / "key.asc").write_bytes(reply.body)
        assert reply.body.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
        assert shown(tmp_path / "key.asc") == {fingerprint}
    for query in (f"op=get&search=0x{'0' * 40}", f"op=index&search=0x{fingerprint}", ""):
        assert bed.ask(f"https://keyserver.ubuntu.com/pks/lookup?{query}").status == 404


def test_intel_hands_out_two_keys_in_one_file(bed: Bed, tmp_path: Path) -> None:
    (tmp_path / "key.asc").write_bytes(bed.ask("https://repositories.intel.com/gpu/intel-graphics.key").body)
    fingerprints = stand_ins.fingerprints(bed.state)
    assert shown(tmp_path / "key.asc") == {fingerprints["intel"], fingerprints["intel-2024"]}


# --- Mainline kernels ------------------------------------------------------------------------------------------------


def test_a_mainline_kernel_is_found_by_its_listing_and_checked_by_its_sums(bed: Bed, tmp_path: Path) -> None:
    assert 'href="v6.12.3/"' in bed.ask("https://kernel.ubuntu.com/mainline/").body.decode()
    assert 'href="amd64/"' in bed.ask("https://kernel.ubuntu.com/mainline/v6.12.3/").body.decode()
    assert bed.ask("https://kernel.ubuntu.com/mainline/v6.12.3/amd64").headers["Location"] == MAINLINE
    assert bed.ask("https://kernel.ubuntu.com/mainline/v6.12.4/amd64/").status == 404
    names = re.findall('href="([^"]+)"', bed.ask(MAINLINE).body.decode())
    assert sorted(name for name in names if name.endswith(".deb")) == [
        "linux-headers-6.12.3-061203-generic_6.12.3-061203.202412060747_amd64.deb",
        "linux-headers-6.12.3-061203_6.12.3-061203.202412060747_all.deb",
        "linux-image-unsigned-6.12.3-061203-generic_6.12.3-061203.202412060747_amd64.deb",
        "linux-modules-6.12.3-061203-generic_6.12.3-061203.202412060747_amd64.deb",
    ]
    for name in names:
        (tmp_path / name).write_bytes(bed.ask(MAINLINE + name).body)
    signed_by(
        tmp_path / "CHECKSUMS.gpg",
        keys.archive_keyring(stand_ins.signer(bed.state, "mainline")),
        tmp_path / "CHECKSUMS",
    )
    sections = (tmp_path / "CHECKSUMS").read_text().split("# Checksums-Sha256:\n")
    for command, section in zip(("sha1sum", "sha256sum"), sections, strict=True):
        assert section.count(".deb\n") == 4
        subprocess.run([command, "--quiet", "-c"], input=section, text=True, cwd=tmp_path, check=True)


def test_a_later_mainline_kernel_cannot_be_installed_on_noble() -> None:
    build = stand_ins.MAINLINE[1]
    packages = {package.name: package for package in stand_ins.mainline(build)}
    image = packages[f"linux-image-unsigned-{build.release}"].scripts or {}
    assert "/etc/kernel/preinst.d /usr/share/kernel/preinst.d" in image["preinst"]
    assert "linux-main-modules-zfs" in (packages[f"linux-modules-{build.release}"].fields or {})["Depends"]


# --- Programs --------------------------------------------------------------------------------------------------------

OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@bed)  Tue Sep 23 2025\n"
)
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Sep 23 10:11:16 UTC 2025\n"


class Machine:
    """A root with devices and drivers, and the stand-ins' programs, told to look there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def card(self, address: str, vendor: str, device: str, driver: str, **more: str) -> None:
        below = f"sys/bus/pci/devices/{address}"
        for name, text in {"vendor": f"0x{vendor}", "device": f"0x{device}", "class": "0x030200", **more}.items():
            self.write(f"{below}/{name}", f"{text}\n")
        if driver:
            (self.root / below / "driver").symlink_to(f"../../drivers/{driver}")

    def nvidia(self, loaded: str | None, library: str = "580.95.05", line: str = OPEN) -> None:
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        libraries.mkdir(parents=True, exist_ok=True)
        (libraries / "libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{library}")
        if loaded:
            self.write("proc/driver/nvidia/version", line.format(loaded))

    def run(self, program: str, *arguments: str) -> tuple[int, str]:
        text = re.sub(r"/(sys|proc|etc|run|usr/lib|usr/src|lib|var/lib)/(?=[\w$*])", rf"{self.root}/\1/", program)
        done = subprocess.run(["sh", "-s", "--", *arguments], input=text, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


NVIDIA_SMI = script("nvidia-smi")
FIELDS = (
    "index,uuid,name,pci.bus_id,compute_cap,driver_version,memory.total,memory.used,utilization.gpu,temperature.gpu,"
    "power.draw,power.limit,persistence_mode,mig.mode.current,ecc.errors.uncorrected.volatile.total,"
    "pcie.link.gen.current,pcie.link.width.current"
)


@pytest.mark.parametrize("line", [OPEN, PROPRIETARY])
def test_nvidia_smi_tells_of_the_cards_that_the_driver_has(machine: Machine, line: str) -> None:
    machine.nvidia("580.95.05", line=line)
    link = {"current_link_speed": "32.0 GT/s PCIe", "current_link_width": "8"}
    machine.card("0000:41:00.0", "10de", "2335", "nvidia", **link)
    machine.card("0000:c1:00.0", "10de", "2684", "nvidia")
    machine.card("0000:c2:00.0", "10de", "2684", "vfio-pci")
    machine.card("0000:c1:00.1", "10de", "22ba", "nvidia", **{"class": "0x040300"})
    code, said = machine.run(NVIDIA_SMI, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")
    rows = [row.split(", ") for row in said.splitlines()]
    assert code == 0
    assert [row[:1] + row[2:] for row in rows] == [
        ["0", "NVIDIA H200", "00000000:41:00.0", "9.0", "580.95.05", "143771", "1", "0", "31", "25.50", "700.00",
         "Disabled", "Disabled", "0", "5", "8"],
        ["1", "NVIDIA GeForce RTX 4090", "00000000:C1:00.0", "8.9", "580.95.05", "24564", "1", "0", "31", "25.50",
         "450.00", "Disabled", "[N/A]", "[N/A]", "4", "16"],
    ]  # fmt: skip
    assert all(re.fullmatch(r"GPU-[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", row[1]) for row in rows)
    assert machine.run(NVIDIA_SMI, "--query-gpu=index,memory.total", "--format=csv") == (
        0,
        "index, memory.total [MiB]\n0, 143771 MiB\n1, 24564 MiB\n",
    )
    assert machine.run(NVIDIA_SMI, "-L")[1].startswith("GPU 0: NVIDIA H200 (UUID: GPU-")
    assert "Driver Version: 580.95.05" in machine.run(NVIDIA_SMI)[1]


def test_nvidia_smi_fails_in_its_own_words(machine: Machine) -> None:
    code, said = machine.run(NVIDIA_SMI)
    assert (code, said[:38]) == (12, "NVIDIA-SMI couldn't find libnvidia-ml.")
    machine.nvidia(None)
    code, said = machine.run(NVIDIA_SMI, "-L")
    assert (code, said[:60]) == (9, "NVIDIA-SMI has failed because it couldn't communicate with t")
    machine.write("proc/driver/nvidia/version", OPEN.format("580.178.04"))
    assert machine.run(NVIDIA_SMI) == (
        18,
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n",
    )
    machine.write("proc/driver/nvidia/version", OPEN.format("580.95.05"))
    assert machine.run(NVIDIA_SMI) == (6, "No devices were found\n")
    machine.card("0000:41:00.0", "10de", "2335", "nvidia")
    assert machine.run(NVIDIA_SMI, "--query-gpu=indx", "--format=csv")[0] == 2
    assert machine.run(NVIDIA_SMI, "--query-gpu=index")[0] == 2
    machine.write("etc/bed/nvidia-smi-exit", "15 GPU has fallen off the bus\n")
    assert machine.run(NVIDIA_SMI) == (15, "GPU has fallen off the bus\n")


def test_the_fabric_manager_wants_the_driver_of_its_version(machine: Machine) -> None:
    program = script("nv-fabricmanager", driver="580.95.05")
    assert machine.run(program, "--version") == (0, "Fabric Manager version is : 580.95.05\n")
    assert machine.run(program)[0] == 1
    machine.nvidia("580.178.04")
    code, said = machine.run(program)
    assert code == 1
    assert "version 580.95.05 don't match with driver version 580.178.04" in said


def test_dkms_builds_where_the_headers_are(machine: Machine) -> None:
    program = script("dkms")
    machine.write("usr/src/nvidia-580.95.05/dkms.conf", "# flavour=open\n")
    machine.write("lib/modules/6.17.0-14-generic/modules.order", "")
    assert machine.run(program, "add", "nvidia/580.95.05")[0] == 0
    assert machine.run(program, "status") == (0, "nvidia/580.95.05: added\n")
    build = ("install", "-m", "nvidia", "-v", "580.95.05", "-k", "6.17.0-14-generic")
    assert machine.run(program, *build)[0] == 21
    machine.write("usr/src/linux-headers-6.17.0-14-generic/Makefile", "")
    machine.write("etc/bed/dkms-fails", "")
    code, said = machine.run(program, *build)
    assert code == 10
    assert "Error! Bad return status for module build on kernel: 6.17.0-14-generic (x86_64)\n" in said
    assert "/var/lib/dkms/nvidia/580.95.05/build/make.log for more information.\n" in said
    (machine.root / "etc/bed/dkms-fails").unlink()
    assert machine.run(program, "autoinstall", "-k", "6.17.0-14-generic")[0] == 0
    assert machine.run(program, "status") == (0, "nvidia/580.95.05, 6.17.0-14-generic, x86_64: installed\n")
    module = machine.root / "lib/modules/6.17.0-14-generic/updates/dkms/nvidia.ko"
    assert module.read_text() == "580.95.05\nopen\n"
    assert machine.run(program, "remove", "nvidia/580.95.05", "--all")[0] == 0
    assert not module.exists()
    assert machine.run(program, "status") == (0, "")


CLINFO = script("intel-gpus") + script("clinfo", version="26.27.39122.14")
XPU_SMI = script("intel-gpus") + script("xpu-smi", version="1.3.5")


def test_intels_programs_tell_of_the_cards_that_a_driver_has(machine: Machine) -> None:
    assert machine.run(CLINFO, "-l") == (0, "")
    machine.write("etc/OpenCL/vendors/intel.icd", "")
    assert machine.run(CLINFO) == (0, "Number of platforms                               0\n")
    nothing = "0x0 0x0 0x0"
    whole = f"{nothing}\n{nothing}\n0x0000004000000000 0x00000043ffffffff 0x14220c"
    small = f"{nothing}\n{nothing}\n0x0000004000000000 0x000000400fffffff 0x14220c"
    machine.card("0000:03:00.0", "8086", "e211", "xe", resource=whole)
    machine.card("0000:07:00.0", "8086", "56a0", "i915", resource=small)
    machine.card("0000:0a:00.0", "8086", "e20b", "")
    (machine.root / "sys/bus/pci/devices/0000:03:00.0/drm/card1").mkdir(parents=True)
    code, said = machine.run(CLINFO, "--list")
    assert code == 0
    assert said.splitlines() == [
        "Platform #0: Intel(R) OpenCL Graphics",
        " `-- Device #0: Intel(R) Arc(TM) Pro B60 Graphics",
        "WARNING: Small BAR detected for device 0000:07:00.0",
    ]
    code, said = machine.run(XPU_SMI, "discovery", "-j")
    assert code == 0
    devices = json.loads(said)["device_list"]
    assert [(card["device_id"], card["device_name"], card["pci_bdf_address"]) for card in devices] == [
        (0, "Intel(R) Arc(TM) Pro B60 Graphics", "0000:03:00.0"),
        (1, "Intel(R) Arc(TM) A770 Graphics", "0000:07:00.0"),
    ]
    assert (devices[0]["uuid"], devices[0]["drm_device"]) == ("00000000-0000-0003-0000-0000e2118086", "/dev/dri/card1")
    table = machine.run(XPU_SMI, "discovery")[1]
    assert "| 0         | Device Name: Intel(R) Arc(TM) Pro B60 Graphics " in table
    assert {len(line) for line in table.splitlines()} == {100}
    machine.write("etc/bed/intel-fails", "")
    assert machine.run(CLINFO, "-l") == (0, "")
    assert json.loads(machine.run(XPU_SMI, "discovery", "-j")[1]) == {"device_list": []}
