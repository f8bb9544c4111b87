"""Stand-ins for packages of kernels and GPU drivers: true names, versions and dependencies, contents that only pretend.

What they run on a host lies in stand_ins/*.sh. Which archive carries which is hub_drivers.py's affair. They leave out
what Debian 12, under the bed's noble, could not satisfy: dependencies on newer libraries, on compilers and on boot
loaders.
"""

import functools
import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.testbed import keys

SCRIPTS = Path(__file__).with_name("stand_ins")
UPDATES = ("noble-updates", "noble-security")
"""Where a newer version appears: in reality, too, new drivers come by the security pocket."""
ALL_POCKETS = ("noble", *UPDATES)


@dataclass(frozen=True)
class File:
    """A file of a package; `path` begins without a slash."""

    path: str
    content: bytes | str = ""
    mode: int = 0o644
    link: str = ""
    """Where a symbolic link leads; it has no content."""


@dataclass(frozen=True, eq=False)
class Package:
    """A binary package; `fields` are those of its control file that only some have."""

    name: str
    version: str
    source: str
    section: str = "misc"
    component: str = "restricted"
    pockets: tuple[str, ...] = ("noble",)
    architecture: str = "amd64"
    fields: Mapping[str, str] | None = None
    files: tuple[File, ...] = ()
    scripts: Mapping[str, str] | None = None
    """Maintainer scripts, and `triggers`."""

    @property
    def file_name(self) -> str:
        """Name the file as archives do: without an epoch."""
        return f"{self.name}_{self.version.partition(':')[2] or self.version}_{self.architecture}.deb"

    @property
    def pool_path(self) -> str:
        """Say where an archive keeps it."""
        initial = self.source[:4] if self.source.startswith("lib") else self.source[0]
        return f"pool/{self.component}/{initial}/{self.source}/{self.file_name}"

    @property
    def control(self) -> str:
        """Write its control file."""
        fields = {
            "Package": self.name,
            "Source": self.source,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "metal2model test bed <bed@example.org>",
            "Installed-Size": str(sum(1 + len(file.content) // 1024 for file in self.files)),
            **(self.fields or {}),
            "Section": self.section if self.component == "main" else f"{self.component}/{self.section}",
            "Priority": "optional",
            "Description": f"stand-in of metal2model's test bed for {self.name}",
        }
        return "".join(f"{name}: {text}\n" for name, text in fields.items())


def script(name: str, **replaced: str) -> str:
    """Give a script of stand_ins/, with what stands in it as @NAME@ replaced."""
    text = (SCRIPTS / f"{name}.sh").read_text()
    for key, value in replaced.items():
        text = text.replace(f"@{key.upper()}@", value)
    return text


def _program(path: str, text: str) -> File:
    return File(path, text, 0o755)


# --- The format: https://manpages.debian.org/bookworm/dpkg-dev/deb.5.en.html -----------------------------------------


def deb(package: Package) -> bytes:
    """Build the package; the same package gives the same bytes."""
    control = {"control": package.control, **(package.scripts or {})}
    control["md5sums"] = "".join(
        f"{hashlib.md5(_bytes(file.content), usedforsecurity=False).hexdigest()}  {file.path}\n"
        for file in package.files
        if not file.link
    )
    # As debhelper does it: an administrator's change of one of these outlives an upgrade.
    control["conffiles"] = "".join(f"/{file.path}\n" for file in package.files if file.path.startswith("etc/"))
    plain = ("control", "md5sums", "conffiles", "triggers")
    members = [File(name, text, 0o644 if name in plain else 0o755) for name, text in control.items() if text]
    return b"!<arch>\n" + b"".join(
        _ar_member(name, content)
        for name, content in (
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", _tar_gz(members)),
            ("data.tar.gz", _tar_gz(package.files)),
        )
    )


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def _tar_gz(files: Iterable[File]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        seen: set[str] = set()
        for file in files:
            above = [str(parent) for parent in reversed(Path(file.path).parents)]
            for folder in [name for name in above if name not in seen]:
                seen.add(folder)
                member = tarfile.TarInfo("./" if folder == "." else f"./{folder}")
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(_root_owned(member))
            member = tarfile.TarInfo(f"./{file.path}")
            content = _bytes(file.content)
            member.size, member.mode = len(content), file.mode
            if file.link:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, file.link, 0o777
            archive.addfile(_root_owned(member), io.BytesIO(content))
    return gzip.compress(plain.getvalue(), compresslevel=6, mtime=0)


def _root_owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uname = member.gname = "root"
    return member


def _zstd(content: bytes) -> bytes:
    """Frame up to 255 bytes so that zstd unpacks them (RFC 8878: a single segment, one raw block)."""
    assert len(content) < 256
    return struct.pack("<IBB", 0xFD2FB528, 0x20, len(content)) + (len(content) << 3 | 1).to_bytes(3, "little") + content


# --- Kernels ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kernel:
    """One of noble's kernels; `release` is what uname -r says."""

    release: str
    version: str
    suffix: str
    """What the names of its metapackages end with."""
    source: str
    headers: str
    """The package of headers that all flavours share."""

    @property
    def meta(self) -> str:
        """Name it as the metapackages of NVIDIA's modules do."""
        return f"generic{self.suffix}"


GA = Kernel("6.8.0-90-generic", "6.8.0-90.91", "", "linux", "linux-headers-6.8.0-90")
HWE = Kernel(
    "6.17.0-14-generic",
    "6.17.0-14.14~24.04.1",
    "-hwe-24.04",
    "linux-hwe-6.17",
    "linux-hwe-6.17-headers-6.17.0-14",
)
KERNELS = (GA, HWE)
# Ids that a kernel's xe and i915 have: https://github.com/torvalds/linux/blob/master/include/drm/intel/pciids.h.
# Battlemage came out from behind force_probe in 6.12, and the first of it stood there before.
XE_IDS: dict[str, tuple[str, ...]] = {"6.8": (), "6.12": ("E202", "E20B", "E20C", "E20D", "E212")}
XE_IDS["6.17"] = (*XE_IDS["6.12"], "E209", "E210", "E211", "E216")
XE_IDS["6.19"] = (*XE_IDS["6.17"], "E220", "E221", "E222", "E223")
I915_IDS = ("5690", "56A0", "56A1", "56A5", "56A6", "56B1", "56C0", "56C1")
LINUX_BASE = "linux-base (>= 4.5ubuntu1~16.04.1)"


def _kernel_scripts(package: str, release: str, *, two_directories: bool = False) -> dict[str, str]:
    def more(phase: str) -> str:
        return f" /usr/share/kernel/{phase}.d" if two_directories else ""

    return {
        "preinst": script("kernel.preinst", kernel=release, more_preinst=more("preinst")),
        "postinst": script("kernel.postinst", kernel=release, package=package, more_postinst=more("postinst")),
        "prerm": script("kernel.prerm", kernel=release),
        "postrm": script("kernel.postrm", kernel=release),
        "triggers": f"interest linux-update-{release}\n",
    }


def _modules_of(release: str) -> tuple[File, ...]:
    """Give what is below /lib/modules; a module is a text that says what modinfo would."""
    tree = f"lib/modules/{release}"
    series = ".".join(release.split(".")[:2])
    drivers = {"xe": XE_IDS[series], "i915": I915_IDS}
    files = [File(f"{tree}/modules.builtin", "kernel/fs/ext4/ext4.ko\n"), File(f"{tree}/modules.order")]
    for driver, ids in drivers.items():
        aliases = "".join(f"alias: pci:v00008086d0000{number}sv*sd*bc03sc*i*\n" for number in ids)
        path = f"kernel/drivers/gpu/drm/{driver}/{driver}.ko.zst"
        files.append(File(f"{tree}/{path}", f"name: {driver}\nvermagic: {release} SMP preempt mod_unload\n{aliases}"))
    return tuple(files)


def _headers_files(release: str) -> tuple[File, ...]:
    return (
        File(f"usr/src/linux-headers-{release}/Makefile", "# The test bed compiles nothing.\n"),
        File(f"lib/modules/{release}/build", link=f"/usr/src/linux-headers-{release}"),
    )


def _kernel_packages(kernel: Kernel) -> list[Package]:
    release, version = kernel.release, kernel.version
    # In reality these are in main; but main is Debian's own index here, which the bed passes on as it is.
    base = Package("", version, kernel.source, "kernel")
    meta = replace(base, source=f"linux-meta{kernel.source.removeprefix('linux')}", section="metapackages")

    def depends(*names: str) -> dict[str, str]:
        return {"Depends": ", ".join(names)}

    image, headers = f"linux-image-{release}", f"linux-headers-{release}"
    return [
        replace(
            base,
            name=image,
            source=f"linux-signed{kernel.source.removeprefix('linux')}",
            fields={
                "Provides": "linux-image, fuse-module, kvm-api-4, redhat-cluster-modules, v4l2loopback-modules, "
                "wireguard-modules (= 1.0.0), zfs-modules",
                "Conflicts": f"linux-image-unsigned-{release}",
                **depends("kmod", LINUX_BASE, f"linux-modules-{release}"),
            },
            files=(File(f"boot/vmlinuz-{release}", f"Linux {release}, of the test bed\n"),),
            scripts=_kernel_scripts(image, release),
        ),
        replace(
            base,
            name=f"linux-modules-{release}",
            files=(*_modules_of(release), File(f"boot/config-{release}", "CONFIG_DRM_XE=m\n")),
        ),
        replace(
            base,
            name=f"linux-modules-extra-{release}",
            fields=depends(f"linux-modules-{release}"),
            files=(File(f"lib/modules/{release}/kernel/drivers/net/dummy.ko.zst"),),
        ),
        replace(base, name=kernel.headers, architecture="all", section="devel"),
        replace(
            base,
            name=headers,
            section="devel",
            fields={"Provides": "linux-headers, linux-headers-3.0", **depends(kernel.headers)},
            files=_headers_files(release),
            scripts={"postinst": script("headers.postinst", kernel=release, more_headers="")},
        ),
        replace(
            meta,
            name=f"linux-image-generic{kernel.suffix}",
            fields=depends(
                image, f"linux-modules-extra-{release}", "linux-firmware", "intel-microcode", "amd64-microcode"
            ),
        ),
        replace(meta, name=f"linux-headers-generic{kernel.suffix}", fields=depends(headers)),
        replace(
            meta,
            name=f"linux-generic{kernel.suffix}",
            fields=depends(
                f"linux-image-generic{kernel.suffix} (= {version})",
                f"linux-headers-generic{kernel.suffix} (= {version})",
            ),
        ),
    ]


def _firmware_packages() -> list[Package]:
    def files(*names: str) -> tuple[File, ...]:
        return tuple(File(f"lib/firmware/{name}.zst", _zstd(f"{name} of the test bed\n".encode())) for name in names)

    arc = ("i915/dg2_guc_70.bin", "i915/dg2_huc_gsc.bin", "i915/dg2_dmc_ver2_08.bin")
    battlemage = ("xe/bmg_guc_70.bin", "xe/bmg_huc.bin", "i915/bmg_dmc.bin")
    old = Package("linux-firmware", "20240318.git3b128b60-0ubuntu2", "linux-firmware", architecture="all")
    return [
        # noble came before Battlemage: only what came later has its firmware.
        replace(old, files=files(*arc)),
        replace(old, version=f"{old.version}.19", pockets=UPDATES, files=files(*arc, *battlemage)),
        Package("intel-microcode", "3.20250812.0ubuntu0.24.04.1", "intel-microcode", "admin"),
        Package("amd64-microcode", "3.20250311.1ubuntu0.24.04.1", "amd64-microcode", "admin"),
    ]


# --- NVIDIA ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Driver:
    """A driver as noble's archive has it; branch is `580-server`, and no name of user space says open."""

    branch: str
    driver: str
    revision: str
    pockets: tuple[str, ...]
    component: str = "restricted"
    rebuild: str = ""
    """What the versions of its modules end with: they are built again for each driver."""

    @property
    def version(self) -> str:
        """Give the version of its packages."""
        return f"{self.driver}-{self.revision}"


DRIVERS = (
    Driver("580-server", "580.95.05", "0ubuntu0.24.04.2", ("noble",)),
    Driver("580-server", "580.178.04", "0ubuntu0.24.04.1", UPDATES, rebuild="+1"),
    Driver("580", "580.95.05", "0ubuntu0.24.04.2", ("noble",)),
    Driver("580", "580.178.04", "0ubuntu0.24.04.1", UPDATES, rebuild="+1"),
    Driver("595-server", "595.91.07", "0ubuntu0.24.04.1", UPDATES, "multiverse", rebuild="+1"),
)
FABRIC_MANAGERS = {
    "580": (("580.95.05", ("noble",)), ("580.178.04", UPDATES)),
    "595": (("595.91.07", UPDATES),),
}
LIBRARIES = "usr/lib/x86_64-linux-gnu"
UNITS = "usr/lib/systemd/system"
# The real one has StopWhenUnneeded=true, too, and udev's unit of the driver needs it. Hosts of the bed have no udev.
PERSISTENCED_UNIT = """\
[Unit]
Description=NVIDIA Persistence Daemon
Wants=syslog.target
Before=systemd-backlight@backlight:nvidia_0.service

[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
ExecStopPost=/bin/rm -rf /var/run/nvidia-persistenced
"""
UDEV_UNIT = """\
[Unit]
Description=The test bed in place of udev: the driver is there, and its daemon starts
ConditionPathExists=/proc/driver/nvidia/version

[Service]
Type=oneshot
ExecStart=/bin/systemctl start --no-block nvidia-persistenced.service
"""
FABRIC_MANAGER_UNIT = """\
[Unit]
Description=NVIDIA fabric manager service
After=network-online.target

[Service]
Type=simple
ExecStart=/usr/bin/nv-fabricmanager -c /usr/share/nvidia/nvswitch/fabricmanager.cfg

[Install]
WantedBy=multi-user.target
"""
UDEV_RULES = """\
ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", TAG+="systemd", ENV{SYSTEMD_WANTS}="nvidia-persistenced.service"
"""


def _exclusive(virtual: str) -> dict[str, str]:
    """Say that of all branches' packages with this virtual name one may be there."""
    return {"Provides": virtual, "Conflicts": virtual, "Replaces": virtual}


def _nvidia_packages(driver: Driver) -> list[Package]:
    branch, version = driver.branch, driver.version
    base = Package(
        "", version, f"nvidia-graphics-drivers-{branch}", "libs", component=driver.component, pockets=driver.pockets
    )

    def same(*names: str) -> str:
        return ", ".join(f"{name} (= {version})" for name in names)

    common, compute = f"nvidia-kernel-common-{branch}", f"libnvidia-compute-{branch}"
    firmware = f"nvidia-firmware-{branch}-{driver.driver}"
    other = branch.removesuffix("-server") if branch.endswith("-server") else f"{branch}-server"
    packages = [
        replace(
            base,
            name=firmware,
            section="kernel",
            fields={"Conflicts": f"nvidia-firmware-{other}-{driver.driver}"},
            files=tuple(File(f"lib/firmware/nvidia/{driver.driver}/{name}.bin") for name in ("gsp_ga10x", "gsp_tu10x")),
        ),
        replace(
            base,
            name=common,
            section="kernel",
            fields={
                **_exclusive("nvidia-kernel-common"),
                "Depends": f"kmod, {firmware} (= {version})",
            },
            files=(
                File("usr/lib/udev/rules.d/71-nvidia.rules", UDEV_RULES),
                File(
                    "usr/lib/modprobe.d/nvidia-graphics-drivers.conf",
                    "blacklist nouveau\nblacklist lbm-nouveau\nalias nouveau off\nalias lbm-nouveau off\n",
                ),
                File("etc/modprobe.d/nvidia-graphics-drivers-kms.conf", "options nvidia_drm modeset=1\n"),
            ),
        ),
        replace(
            base,
            name=f"libnvidia-cfg1-{branch}",
            fields=_exclusive("libnvidia-cfg1-any"),
            files=_library("libnvidia-cfg", driver),
        ),
        replace(
            base,
            name=compute,
            fields={
                "Provides": "libcuda1, libcuda.so.1, libnvidia-compute, libnvidia-ml1, nvidia-opencl-icd, opencl-icd",
                "Conflicts": "libcuda1, libnvidia-compute, libnvidia-ml1, nvidia-opencl-icd",
                "Replaces": "libcuda1, libnvidia-compute, libnvidia-ml1, nvidia-opencl-icd",
            },
            files=(
                *_library("libcuda", driver),
                *_library("libnvidia-ml", driver),
                File("etc/OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n"),
            ),
        ),
        replace(
            base,
            name=f"nvidia-utils-{branch}",
            section="utils",
            fields={**_exclusive("nvidia-utils"), "Depends": same(compute)},
            files=(_program("usr/bin/nvidia-smi", script("nvidia-smi")),),
        ),
        replace(
            base,
            name=f"nvidia-compute-utils-{branch}",
            section="utils",
            fields={
                **_exclusive("nvidia-compute-utils"),
                "Depends": f"adduser | passwd, {same(compute)}",
            },
            files=(
                _program("usr/bin/nvidia-persistenced", script("nvidia-persistenced", driver=driver.driver)),
                File(f"{UNITS}/nvidia-persistenced.service", PERSISTENCED_UNIT),
                File(f"{UNITS}/bed-udev-nvidia.service", UDEV_UNIT),
                File(f"{UNITS}/multi-user.target.wants/bed-udev-nvidia.service", link="../bed-udev-nvidia.service"),
            ),
            scripts={
                "postinst": script("nvidia-compute-utils.postinst"),
                "prerm": script("unit.prerm", unit="nvidia-persistenced.service"),
            },
        ),
    ]
    for flavour in ("proprietary", "open"):
        packages += _nvidia_flavour(driver, base, flavour)
    return packages


def _library(name: str, driver: Driver) -> tuple[File, ...]:
    return (
        File(f"{LIBRARIES}/{name}.so.{driver.driver}"),
        File(f"{LIBRARIES}/{name}.so.1", link=f"{name}.so.{driver.driver}"),
    )


def _nvidia_flavour(driver: Driver, base: Package, flavour: str) -> list[Package]:
    """Give the packages that exist for the open and for the proprietary module."""
    branch = f"{driver.branch}-open" if flavour == "open" else driver.branch
    version = driver.version
    common = f"nvidia-kernel-common-{driver.branch}"
    source, dkms, headless = (f"nvidia-{name}-{branch}" for name in ("kernel-source", "dkms", "headless-no-dkms"))
    users = [f"{name}-{driver.branch}" for name in ("libnvidia-compute", "nvidia-compute-utils", "libnvidia-cfg1")]
    packages = [
        replace(
            base,
            name=source,
            section="devel",
            fields=_exclusive("nvidia-kernel-source"),
            files=(
                File(
                    f"usr/src/nvidia-{driver.driver}/dkms.conf",
                    f'PACKAGE_NAME="nvidia"\nPACKAGE_VERSION="{driver.driver}"\nBUILT_MODULE_NAME[0]="nvidia"\n'
                    f'DEST_MODULE_LOCATION[0]="/kernel/drivers/char/drm"\nAUTOINSTALL="yes"\n# flavour={flavour}\n',
                ),
            ),
        ),
        replace(
            base,
            name=dkms,
            section="kernel",
            fields={
                **_exclusive("nvidia-dkms-kernel"),
                "Depends": f"dkms, {source} (= {version}), {common} (= {version})",
            },
            scripts={
                "postinst": script("nvidia-dkms.postinst", driver=driver.driver),
                "prerm": script("nvidia-dkms.prerm", driver=driver.driver),
            },
        ),
        replace(
            base,
            name=headless,
            section="metapackages",
            fields={"Depends": ", ".join(f"{name} (= {version})" for name in (common, source, *users))},
        ),
        replace(
            base,
            name=f"nvidia-headless-{branch}",
            section="metapackages",
            fields={"Depends": f"{headless} (= {version}), {dkms} (= {version})"},
        ),
    ]
    for kernel in KERNELS:
        packages += _nvidia_modules(driver, kernel, branch, flavour)
    return packages


def _nvidia_modules(driver: Driver, kernel: Kernel, branch: str, flavour: str) -> list[Package]:
    release, version = kernel.release, f"{kernel.version}{driver.rebuild}"
    base = Package(
        "",
        version,
        f"linux-restricted-modules{kernel.source.removeprefix('linux')}",
        "kernel",
        pockets=driver.pockets,
    )
    modules, objects = f"linux-modules-nvidia-{branch}-{release}", f"linux-objects-nvidia-{branch}-{release}"
    common = f"nvidia-kernel-common-{driver.branch}"
    fitting = f"{common} (<= {driver.driver}-1), {common} (>= {driver.driver})"
    return [
        replace(
            base,
            name=objects,
            fields={"Depends": fitting},
            files=(File(f"lib/modules/{release}/kernel/nvidia-{branch}/bits/nvidia.o"),),
        ),
        replace(
            base,
            name=modules,
            fields={
                "Provides": "nvidia-prebuilt-kernel",
                "Depends": f"linux-image-{release} | linux-image-unsigned-{release}, "
                f"linux-signatures-nvidia-{release} (= {version}), {objects} (= {version}), {fitting}",
            },
            scripts={
                "postinst": script(
                    "nvidia-modules.postinst", kernel=release, branch=branch, driver=driver.driver, flavour=flavour
                ),
                "prerm": script("nvidia-modules.prerm", kernel=release, branch=branch),
            },
        ),
        replace(
            base,
            name=f"linux-modules-nvidia-{branch}-{kernel.meta}",
            fields={"Depends": f"{modules} (= {version}), {fitting}"},
        ),
    ]


def _signature_packages() -> list[Package]:
    """Give Canonical's signatures: one package for each kernel holds those for all branches."""
    return [
        Package(
            f"linux-signatures-nvidia-{kernel.release}",
            f"{kernel.version}{rebuild}",
            f"linux-restricted-signatures{kernel.source.removeprefix('linux')}",
            "kernel",
            pockets=pockets,
            files=(File(f"lib/modules/{kernel.release}/kernel/nvidia-signatures"),),
        )
        for kernel in KERNELS
        for rebuild, pockets in (("", ("noble",)), ("+1", UPDATES))
    ]


def _fabric_managers() -> list[Package]:
    return [
        Package(
            f"nvidia-fabricmanager-{branch}",
            f"{driver}-0ubuntu0.24.04.1",
            f"fabric-manager-{branch}",
            "utils",
            component="multiverse",
            pockets=pockets,
            fields=_exclusive("nvidia-fabricmanager"),
            files=(
                _program("usr/bin/nv-fabricmanager", script("nv-fabricmanager", driver=driver)),
                File(f"{UNITS}/nvidia-fabricmanager.service", FABRIC_MANAGER_UNIT),
                File("usr/share/nvidia/nvswitch/fabricmanager.cfg", "LOG_LEVEL=4\nDAEMONIZE=1\n"),
            ),
            scripts={
                "postinst": script("unit.postinst"),
                "prerm": script("unit.prerm", unit="nvidia-fabricmanager.service"),
            },
        )
        for branch, versions in FABRIC_MANAGERS.items()
        for driver, pockets in versions
    ]


def _dkms() -> Package:
    """Give dkms without a compiler, in place of Debian's, which is older."""
    return Package(
        "dkms",
        "3.0.11-1ubuntu13",
        "dkms",
        "kernel",
        architecture="all",
        fields={"Depends": "kmod"},
        files=(
            _program("usr/sbin/dkms", script("dkms")),
            _program("etc/kernel/postinst.d/dkms", script("dkms-hook")),
            _program("etc/kernel/header_postinst.d/dkms", script("dkms-hook")),
            _program("etc/kernel/prerm.d/dkms", script("dkms-hook-removal")),
        ),
    )


@functools.cache
def noble() -> tuple[Package, ...]:
    """Give what is added to Ubuntu's archive."""
    packages = [package for kernel in KERNELS for package in _kernel_packages(kernel)]
    packages += [*_firmware_packages(), *_signature_packages(), *_fabric_managers(), _dkms()]
    for driver in DRIVERS:
        packages += _nvidia_packages(driver)
    return tuple(packages)


# --- Intel's user space ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IntelVersions:
    """Versions of the parts that one archive has."""

    runtime: str
    loader: str
    graphics_compiler: str
    memory_library: str
    clinfo: str
    xpu_smi: str
    tail: str
    """What all of them end with."""
    component: str = "main"


PPA_VERSIONS = IntelVersions(
    "26.27.39122.14-1", "1.28.2-1", "2.38.3-1", "22.10.0-1", "3.0.25.02.14-1", "1.3.5-1", "~24.04~ppa1"
)
INTEL_VERSIONS = {
    suite: IntelVersions(
        "25.18.33578.51-1146",
        "1.21.9.0-1136",
        "2.11.12-1146",
        "22.7.2-1146",
        "3.0.25.02.14-1146",
        "1.2.42-79",
        tail,
        "unified",
    )
    for suite, tail in (("noble", "~24.04"), ("jammy", "~22.04"))
}


def _intel_packages(versions: IntelVersions) -> list[Package]:
    """Give what both of Intel's archives have."""
    tail = versions.tail
    runtime, loader = versions.runtime + tail, versions.loader + tail

    def package(name: str, version: str, source: str, depends: str = "", *files: File, **fields: str) -> Package:
        needed = {"Depends": depends} if depends else {}
        return Package(
            name, version, source, "libs", component=versions.component, fields={**fields, **needed}, files=files
        )

    compiler = "libigc2, libigdfcl2, libigdgmm12"
    return [
        package("libigc2", versions.graphics_compiler + tail, "intel-graphics-compiler"),
        package("libigdfcl2", versions.graphics_compiler + tail, "intel-graphics-compiler"),
        package("libigdgmm12", versions.memory_library + tail, "intel-gmmlib"),
        package("libze1", loader, "level-zero"),
        package(
            "libze-intel-gpu1",
            runtime,
            "intel-compute-runtime",
            compiler,
            File(f"{LIBRARIES}/libze_intel_gpu.so.1"),
            Conflicts="intel-level-zero-gpu",
            Replaces="intel-level-zero-gpu",
            Provides="intel-level-zero-gpu",
        ),
        package(
            "intel-opencl-icd",
            runtime,
            "intel-compute-runtime",
            f"{compiler}, ocl-icd-libopencl1 | libopencl1",
            File(f"{LIBRARIES}/intel-opencl/libigdrcl.so"),
            File("etc/OpenCL/vendors/intel.icd", f"/{LIBRARIES}/intel-opencl/libigdrcl.so\n"),
            Provides="opencl-icd",
        ),
        package(
            "clinfo",
            versions.clinfo + tail,
            "clinfo",
            "ocl-icd-libopencl1 | libopencl1",
            _program("usr/bin/clinfo", script("intel-gpus") + script("clinfo", version=versions.runtime.split("-")[0])),
        ),
        package(
            "xpu-smi",
            versions.xpu_smi + tail,
            "xpu-smi",
            "libze1, libze-intel-gpu1",
            _program(
                "usr/bin/xpu-smi", script("intel-gpus") + script("xpu-smi", version=versions.xpu_smi.split("-")[0])
            ),
        ),
    ]


@functools.cache
def ppa() -> tuple[Package, ...]:
    """Give what ppa:kobuk-team/intel-graphics has."""
    tail = PPA_VERSIONS.tail
    return (
        *_intel_packages(PPA_VERSIONS),
        Package("intel-ocloc", PPA_VERSIONS.runtime + tail, "intel-compute-runtime", "libs", "main"),
        Package("intel-gsc", f"0.9.5-1{tail}", "intel-gsc", "utils", "main"),
        Package("intel-metrics-discovery", f"1.14.182-1{tail}", "intel-metrics-discovery", "libs", "main"),
    )


@functools.cache
def intel(suite: str) -> tuple[Package, ...]:
    """Give what a suite of Intel's own repository has in `unified`."""
    versions = INTEL_VERSIONS[suite]
    loader = versions.loader + versions.tail
    return (
        *_intel_packages(versions),
        Package("level-zero", loader, "level-zero", "libs", "unified", fields={"Depends": "libze1"}),
    )


# --- Mainline kernels ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mainline:
    """A build of kernel.ubuntu.com/mainline; nothing but the listing tells its time."""

    tag: str
    built: str
    broken: bool = False
    """With what keeps later ones from being installed on noble."""

    @property
    def abi(self) -> str:
        """Give 6.12.3-061203."""
        numbers = [*self.tag.removeprefix("v").split("."), "0"][:3]
        return f"{'.'.join(numbers)}-{''.join(f'{int(number):02}' for number in numbers)}"

    @property
    def release(self) -> str:
        """Give what uname -r says."""
        return f"{self.abi}-generic"


MAINLINE = (
    Mainline("v6.12.3", "202412060747"),
    # Both faults of that build are known: run-parts with two directories, which noble's does not take (Launchpad
    # #2148773), and a dependency that its directory does not have.
    Mainline("v6.19.11", "202604021147", broken=True),
)


@functools.cache
def mainline(build: Mainline) -> tuple[Package, ...]:
    """Give the packages of a build."""
    release = build.release
    base = Package("", f"{build.abi}.{build.built}", "linux", "kernel", "main")
    image, headers = f"linux-image-unsigned-{release}", f"linux-headers-{release}"
    needed = f"linux-image-{release} | {image}, wireless-regdb"
    if build.broken:
        needed += f", linux-main-modules-zfs-{release}"
    directories = " /usr/share/kernel/header_postinst.d" if build.broken else ""
    return (
        replace(base, name=f"linux-headers-{build.abi}", architecture="all", section="devel"),
        replace(
            base,
            name=headers,
            section="devel",
            fields={"Provides": "linux-headers, linux-headers-3.0", "Depends": f"linux-headers-{build.abi}"},
            files=_headers_files(release),
            scripts={"postinst": script("headers.postinst", kernel=release, more_headers=directories)},
        ),
        replace(
            base,
            name=image,
            fields={
                "Provides": "linux-image, fuse-module, kvm-api-4, redhat-cluster-modules",
                "Conflicts": f"linux-image-{release}",
                "Depends": f"kmod, {LINUX_BASE}, linux-modules-{release}",
            },
            files=(File(f"boot/vmlinuz-{release}", f"Linux {release}, of the test bed\n"),),
            scripts=_kernel_scripts(image, release, two_directories=build.broken),
        ),
        replace(base, name=f"linux-modules-{release}", fields={"Depends": needed}, files=_modules_of(release)),
    )


# --- Keys ------------------------------------------------------------------------------------------------------------

SIGNERS = ("ppa", "intel", "intel-2024", "mainline", "docker", "nvidia-toolkit")
"""Who signs: the PPA, Intel's repository, the key that Intel's had before and still hands out, and mainline kernels."""


def signer(state_dir: Path, name: str) -> Path:
    """Give the directory whose archive key is this signer's."""
    return state_dir / "stand-ins" / name


def fingerprints(state_dir: Path) -> dict[str, str]:
    """Give the fingerprint of each signer's key; they are made on first use, and are not those of reality."""
    return {name: keys.archive_key(signer(state_dir, name)).fingerprint.hex().upper() for name in SIGNERS}
