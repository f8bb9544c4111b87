"""Options of the tuning role."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from roles.common.options import Options

SysctlName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+$")]
SysctlValue = int | Annotated[str, Field(pattern=r"^\S+([ \t]+\S+)*$")]


class TuningOptions(Options):
    """
    Kernel settings that suit large models; None leaves a setting as it is.

    They are applied at once and at every boot. A container that may not set one is told so and goes on.
    Limits of a server (LimitNOFILE, LimitMEMLOCK) are not here: each engine's unit sets its own.
    """

    advice: ClassVar[dict[str, str]] = {
        "memlock": "each engine's unit sets LimitMEMLOCK itself",
        "thp": "write transparent_hugepages",
        "governor": "write cpu_governor",
    }

    swappiness: Annotated[int, Field(ge=0, le=200)] | None = 10
    """How readily the kernel swaps out a server rather than drop cached files (`vm.swappiness`)."""

    max_map_count: Annotated[int, Field(ge=65530)] | None = 1048576
    """Memory areas that a process may have (`vm.max_map_count`): engines map many shards and GPU buffers."""

    numa_balancing: bool | None = False
    """Whether the kernel moves pages between NUMA nodes by itself (`kernel.numa_balancing`), off for placed ones."""

    transparent_hugepages: Literal["always", "madvise", "never"] | None = "madvise"
    """Who gets huge pages unasked: `madvise` gives them to programs that ask, without bloating the others."""

    cpu_governor: Literal["performance", "schedutil", "ondemand", "conservative", "powersave"] | None = "performance"
    """How the processors' frequency is chosen, where the kernel chooses it (cpufreq)."""

    open_files: Annotated[int, Field(ge=1024, le=1048576)] | None = 65536
    """Files that a logged-in user's program may open unless it asks for more, for engines that are tried by hand."""

    sysctl: dict[SysctlName, SysctlValue] = Field(default_factory=dict)
    """Further kernel settings, as sysctl.d(5) names them: `{"net.core.somaxconn": 4096}`."""

    @property
    def sysctls(self) -> dict[str, str]:
        """Every kernel parameter that is to be set, with its value as /proc/sys shows it."""
        named = {
            "vm.swappiness": self.swappiness,
            "vm.max_map_count": self.max_map_count,
            "kernel.numa_balancing": None if self.numa_balancing is None else int(self.numa_balancing),
        }
        wanted = {**named, **self.sysctl}
        return {name: " ".join(str(value).split()) for name, value in wanted.items() if value is not None}
