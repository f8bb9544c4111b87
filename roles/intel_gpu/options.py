"""Options of the intel_gpu role."""

from typing import ClassVar, Literal

from roles.common.options import Fingerprint, HttpUrl, Options

Source = Literal["auto", "ppa", "intel", "archive", "vulkan", "existing"]


class IntelGpuOptions(Options):
    """Intel's compute runtime (OpenCL, Level Zero), by the tags; a host without an Intel card gets none."""

    advice: ClassVar[dict[str, str]] = {"repository": "write source", "ppa": "write source: 'ppa'"}

    source: Source = "auto"
    """
    Where the compute runtime comes from: Intel's team's `ppa` kobuk-team/intel-graphics, `intel`'s own repository, the
    distribution's `archive`; `vulkan` installs Mesa's driver alone, `existing` nothing: what is there is only checked.
    `auto`: ppa on Ubuntu 24.04, intel on 22.04, archive on 26.04 and Debian unstable, vulkan on Debian 12 and 13.
    """

    ppa_url: HttpUrl = "https://ppa.launchpadcontent.net/kobuk-team/intel-graphics/ubuntu"
    """The PPA, or a mirror of it: in China `https://launchpad.proxy.ustclug.org/kobuk-team/intel-graphics/ubuntu`."""

    ppa_key: Fingerprint = "0C0E6AF955CE463C03FC51574D098D70AFBE5E1F"
    """Fingerprint of the key that signs it."""

    keyserver_url: HttpUrl = "https://keyserver.ubuntu.com"
    """Where that key is fetched by its fingerprint."""

    intel_url: HttpUrl = "https://repositories.intel.com/gpu"
    """Intel's repository; its `ubuntu` directory has the packages, `intel-graphics.key` the keys."""

    intel_keys: list[Fingerprint] = [
        "E0258B57D9C442D5DB1855C271740E4DE392BFE3",
        "4E9EFCDEF82800256C1E7C64B02DB9BD8C321DCB",
    ]
    """Fingerprints of the keys that may be in that file; one that is not listed is refused."""

    allow_small_bar: bool = False
    """Go on with a card whose memory the processor sees only in part (Resizable BAR off), with a warning."""
