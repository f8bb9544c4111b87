"""A virtual machine of the bed is what the tests of kernels and boot menus take it for."""

import time
from pathlib import Path

from tests.e2e.vm.conftest import MakeVM

CLOCK_SECONDS = 120
"""How far the clock of an emulated machine may be off: it stands still while others have the processors."""

MENU_ENTRY = """\
#!/bin/sh
echo "menuentry 'Once' --id once {"
echo "search --no-floppy --label --set=root root"
echo "echo 'Loading Linux once ...'"
echo "linux $(ls /boot/vmlinuz-*) root=LABEL=root ro console=ttyS0 bed.once"
echo "initrd $(ls /boot/initrd.img-*)"
echo "}"
"""


def test_machine_has_its_own_kernel_and_boot_menu(make_vm: MakeVM) -> None:
    machine = make_vm()
    assert machine.ssh("uname -r").stdout != Path("/proc/sys/kernel/osrelease").read_text()
    # Of today, and not of the snapshot that it goes on from, as certificates and package lists demand.
    assert abs(float(machine.ssh("date +%s").stdout) - time.time()) < CLOCK_SECONDS
    assert machine.ssh("sudo -n hostname", user="nopass").stdout == f"{machine.name}\n"
    assert machine.boots == 1

    machine.ssh("cat >/etc/grub.d/41_once; chmod +x /etc/grub.d/41_once", input=MENU_ENTRY)
    machine.ssh("sed -i s/^GRUB_DEFAULT=.*/GRUB_DEFAULT=saved/ /etc/default/grub; update-grub; grub-reboot once")
    machine.reboot()
    assert "bed.once" in machine.ssh("cat /proc/cmdline").stdout
    assert "once" not in machine.ssh("grub-editenv list").stdout

    # A panic ends in GRUB, too, which takes the default again.
    machine.ssh("sysctl -qw kernel.panic=1; sync; (sleep 0.5; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    machine.await_boot(3)
    assert "bed.once" not in machine.ssh("cat /proc/cmdline").stdout
    assert "Kernel panic" in machine.console()
    assert machine.ssh("hostname").stdout == f"{machine.name}\n"


def test_machine_starts_by_secure_boot_and_says_that_it_is_ubuntu(make_vm: MakeVM) -> None:
    machine = make_vm(firmware="secure-boot", ubuntu_names=True)
    variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    assert machine.ssh(f"od -An -tu1 -j4 {variable}").stdout.split() == ["1"]
    assert machine.ssh(". /etc/os-release; echo $ID $VERSION_ID").stdout == "ubuntu 24.04\n"
