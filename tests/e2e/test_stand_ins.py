"""The stand-ins for kernels and drivers on a host, by its own apt and dpkg: what roles will meet there."""

import pytest

from tests.conftest import MakeHost
from tests.testbed import stand_ins, state_dir
from tests.testbed.hosts import BedHost

HWE = stand_ins.HWE.release
DRIVER = "nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server"
MODULES = "linux-modules-nvidia-580-server-open-generic-hwe-24.04 linux-generic-hwe-24.04"
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qqy --no-install-recommends install"
# Every pocket has the codename noble, so `-t noble` would choose among all of them.
ONLY_NOBLE = """\
Package: *
Pin: release a=noble-updates
Pin-Priority: -1

Package: *
Pin: release a=noble-security
Pin-Priority: -1
"""


@pytest.fixture
def host(make_host: MakeHost) -> BedHost:
    host = make_host("noble")
    host.ssh("apt-get -qq update")
    return host


def installed(host: BedHost, pattern: str) -> dict[str, str]:
    listed = host.ssh(f"dpkg-query -W -f '${{db:Status-Abbrev}}|${{Package}}|${{Version}}\\n' '{pattern}'").stdout
    return {
        name: version for state, name, version in (line.split("|") for line in listed.splitlines()) if state == "ii "
    }


def test_a_driver_is_installed_upgraded_and_replaced(host: BedHost) -> None:
    host.ssh("cat >/etc/apt/preferences.d/bed", input=ONLY_NOBLE)
    host.ssh(f"{INSTALL} {DRIVER} {MODULES}", timeout=200)
    module = f"/lib/modules/{HWE}/kernel/nvidia-580-server-open/nvidia.ko"
    assert host.ssh(f"cat {module}").stdout == "580.95.05\nopen\nsigned\n"
    assert host.ssh("cat /run/reboot-required.pkgs").stdout == f"linux-image-{HWE}\nlinux-base\n"
    host.ssh(f"test -s /boot/vmlinuz-{HWE}")
    assert host.ssh("systemctl is-enabled nvidia-persistenced", check=False).stdout == "static\n"
    said = host.ssh("nvidia-smi", check=False)
    assert (said.returncode, said.stdout[:31]) == (9, "NVIDIA-SMI has failed because i")
    before = installed(host, "*nvidia*")
    assert set(before.values()) == {"580.95.05-0ubuntu0.24.04.2", stand_ins.HWE.version}

    host.ssh("rm /etc/apt/preferences.d/bed")
    host.ssh("DEBIAN_FRONTEND=noninteractive apt-get -qqy upgrade --with-new-pkgs", timeout=200)
    assert host.ssh(f"cat {module}").stdout == "580.178.04\nopen\nsigned\n"
    assert installed(host, "nvidia-utils*")["nvidia-utils-580-server"] == "580.178.04-0ubuntu0.24.04.1"

    other = "nvidia-headless-no-dkms-595-server-open"
    refused = host.ssh(f"{INSTALL} --no-remove {other}", check=False)
    assert refused.returncode == 100
    assert "Packages need to be removed but remove is disabled" in refused.stderr
    removed = host.ssh(f"{INSTALL} --simulate {other} | grep ^Remv").stdout
    assert "Remv nvidia-kernel-common-580-server " in removed
    assert "Remv linux-modules-nvidia-580-server-open-generic-hwe-24.04 " in removed
    host.ssh(f"{INSTALL} {other} linux-modules-nvidia-595-server-open-generic-hwe-24.04", timeout=200)
    host.ssh(f"test ! -e {module}")
    found = host.ssh(f"find /lib/modules/{HWE} -name nvidia.ko").stdout
    assert found == f"/lib/modules/{HWE}/kernel/nvidia-595-server-open/nvidia.ko\n"


def test_dkms_builds_for_every_kernel_or_breaks_what_is_installed(host: BedHost) -> None:
    host.ssh(f"{INSTALL} linux-generic-hwe-24.04 nvidia-headless-580-server", timeout=200)
    assert host.ssh("dkms status").stdout == f"nvidia/580.178.04, {HWE}, x86_64: installed\n"
    module = f"/lib/modules/{HWE}/updates/dkms/nvidia.ko"
    assert host.ssh(f"cat {module}").stdout == "580.178.04\nproprietary\n"
    host.ssh("mkdir -p /etc/bed && touch /etc/bed/dkms-fails")
    failed = host.ssh(f"{INSTALL} linux-generic", check=False, timeout=200)
    assert failed.returncode == 100
    said = failed.stdout + failed.stderr
    assert "Error! Bad return status for module build on kernel: 6.8.0-90-generic (x86_64)" in said
    assert f"linux-image-{stand_ins.GA.release}" not in installed(host, "linux-image*")
    host.ssh("rm /etc/bed/dkms-fails && dpkg --configure -a")
    assert len(host.ssh("dkms status").stdout.splitlines()) == 2
    host.ssh(f"DEBIAN_FRONTEND=noninteractive apt-get -qqy purge 'linux-image-{HWE}'", timeout=200)
    host.ssh(f"test ! -e {module} && test ! -e /boot/vmlinuz-{HWE}")


def fetch(host: BedHost, url: str, path: str) -> None:
    host.ssh(f"/usr/lib/apt/apt-helper -qq download-file '{url}' {path}")


def test_the_ppa_is_installed_from_with_the_key_servers_key(host: BedHost) -> None:
    fingerprint = stand_ins.fingerprints(state_dir())["ppa"]
    ring = "/etc/apt/keyrings/intel.asc"
    host.ssh("mkdir -p /etc/apt/keyrings")
    fetch(host, f"https://keyserver.ubuntu.com/pks/lookup?op=get&options=mr&search=0x{fingerprint}", ring)
    for name in ("launchpad.proxy.ustclug.org", "ppa.launchpadcontent.net"):
        entry = f"deb [signed-by={ring}] https://{name}/kobuk-team/intel-graphics/ubuntu noble main"
        host.ssh("cat >/etc/apt/sources.list.d/intel.list", input=f"{entry}\n")
        host.ssh("apt-get -q update --error-on=any")
    names = "libze-intel-gpu1 libze1 intel-metrics-discovery intel-opencl-icd clinfo intel-gsc intel-ocloc xpu-smi"
    host.ssh(f"{INSTALL} {names}", timeout=200)
    assert "~24.04~ppa1" in installed(host, "clinfo")["clinfo"]
    assert host.ssh("clinfo -l").stdout == ""
    assert host.ssh("xpu-smi discovery").stdout == "No device discovered\n"


def test_intels_repository_is_installed_from_with_its_key(host: BedHost) -> None:
    ring = "/etc/apt/keyrings/intel.asc"
    host.ssh("mkdir -p /etc/apt/keyrings")
    fetch(host, "https://repositories.intel.com/gpu/intel-graphics.key", ring)
    entry = f"deb [arch=amd64 signed-by={ring}] https://repositories.intel.com/gpu/ubuntu noble unified"
    host.ssh("cat >/etc/apt/sources.list.d/intel.list", input=f"{entry}\n")
    host.ssh("apt-get -q update --error-on=any")
    host.ssh(f"{INSTALL} libze-intel-gpu1 level-zero intel-opencl-icd xpu-smi", timeout=200)
    assert installed(host, "libze-intel-gpu1") == {"libze-intel-gpu1": "25.18.33578.51-1146~24.04"}


def test_a_mainline_kernel_is_installed_and_a_later_one_breaks(host: BedHost) -> None:
    good, bad = stand_ins.MAINLINE
    for build in (good, bad):
        host.ssh(f"mkdir -p /var/tmp/{build.tag}")
        for package in stand_ins.mainline(build):
            url = f"https://kernel.ubuntu.com/mainline/{build.tag}/amd64/{package.file_name}"
            fetch(host, url, f"/var/tmp/{build.tag}/{package.file_name}")
    host.ssh(f"{INSTALL} /var/tmp/{good.tag}/*.deb", timeout=200)
    assert f"linux-image-unsigned-{good.release}" in installed(host, "linux-image*")
    unmet = host.ssh(f"{INSTALL} /var/tmp/{bad.tag}/*.deb", check=False)
    assert (unmet.returncode, unmet.stdout) == (100, "")  # its directory has not all that it depends on
    broken = host.ssh(f"dpkg -i /var/tmp/{bad.tag}/linux-image*.deb", check=False)
    assert "run-parts: missing operand" in broken.stderr
