"""Options of the kernel role."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from roles.common.kernels import KernelRange, KernelVersion
from roles.common.options import HttpUrl, OptionProblem, Options

Source = Literal["auto", "hwe", "backports", "mainline", "keep"]


class KernelOptions(Options):
    """The kernel: left alone while the running one is in range, else replaced, and the new one tried once first."""

    advice: ClassVar[dict[str, str]] = {"flavour": "it follows the source", "package": "write source"}

    source: Source = "auto"
    """
    Where another kernel comes from when the running one is out of range: Ubuntu's `hwe` (hardware enablement),
    Debian's `backports`, or `mainline`, Ubuntu's unsigned builds of Linus' releases; `keep` refuses instead.
    `auto`: hwe on Ubuntu, backports on Debian.
    """

    min: KernelVersion | None = None
    """The oldest kernel that will do, `6.12`; beside what the tags' cards need (files/hardware.yaml)."""

    max: KernelVersion | None = None
    """The newest that will do; with `7`, every 7.x."""

    known_bad: list[KernelVersion] = []
    """Kernels that will not do, beside those of files/hardware.yaml; with `6.18`, every 6.18.x."""

    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+(\.[1-9][0-9]*)?$")] | None = None
    """For `mainline`: the release, `6.12.3`. On Ubuntu 24.04 those from 6.19.11 on cannot be installed (LP 2148773)."""

    mainline_url: HttpUrl = "https://kernel.ubuntu.com/mainline"
    """Where the mainline builds are listed, each in a directory `vVERSION`."""

    mainline_key: Annotated[str, Field(pattern="^[0-9A-F]{40}$")] = "60AA7B6F30434AE68E569963E50C6A0917C622B0"
    """Fingerprint of the key that signs their CHECKSUMS: "Kernel PPA"."""

    keyserver_url: HttpUrl = "https://keyserver.ubuntu.com"
    """Where that key is fetched by its fingerprint."""

    hold: bool = True
    """Hold the packages that would bring the next kernel, once the new one is proven, and keep that the default. False:
    upgrades bring kernels as ever, and the newest boots, without a trial."""

    @model_validator(mode="after")
    def _mainline_is_pinned(self) -> Self:
        if self.source == "mainline" and self.version is None:
            raise OptionProblem("version", "required with source: 'mainline'; write a release such as '6.12.3'")
        if self.source != "mainline" and self.version is not None:
            raise OptionProblem("version", f"has no effect with source: {self.source!r}; write source: 'mainline'")
        return self

    @property
    def range(self) -> KernelRange:
        """What the options themselves demand."""
        return KernelRange(min=self.min, max=self.max, bad=self.known_bad)
