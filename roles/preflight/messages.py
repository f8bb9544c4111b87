"""What preflight says: found, required, why, what to do; one sentence pattern for each finding and language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from roles.common.findings import Finding, Word

Language = Literal["en", "zh"]
Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Message:
    """A sentence pattern. An error stops its host before any change; a warning is listed at the end of the run."""

    severity: Severity
    en: str
    zh: str


def error(en: str, zh: str) -> Message:
    """Return a pattern that stops the host."""
    return Message("error", en, zh)


def warning(en: str, zh: str) -> Message:
    """Return a pattern that is told."""
    return Message("warning", en, zh)


MESSAGES: dict[str, Message] = {
    "os": error(
        "the operating system is {found}; required: {required}; drivers and packages are chosen for these; "
        "install one of them on this host, or take it out of the inventory",
        "操作系统是 {found}；要求：{required}；驱动和软件包只为这些版本选定；请在该主机上安装其中之一，"
        "或将其从 inventory 中移除",
    ),
    "architecture": error(
        "the architecture is {found}; required: {required}; inference engines are published for these; "
        "use another host",
        "体系结构是 {found}；要求：{required}；推理引擎只发布这些架构的版本；请换用其他主机",
    ),
    "no_card": error(
        "{tag!r} is declared, but the display controllers on the PCI bus are: {found}; required (any of): {required}; "
        "drivers are chosen by this tag; correct the tag, or check that the card is seated, has power and is not passed through to a VM",
        "声明了 {tag!r}，但 PCI 总线上的显示控制器有：{found}；要求（任一）：{required}；驱动按此标签选择；请更正标签，"
        "或检查显卡是否插好、供电正常、没有直通给虚拟机",
    ),
    "one_node": error(
        "'numa' is declared, but the kernel shows {found} NUMA node(s); required: two or more; there is "
        "nothing to place by; remove the tag, or switch off node interleaving (NPS0) in the firmware's setup",
        "声明了 'numa'，但内核只显示 {found} 个 NUMA 节点；要求：两个或更多；没有可供分配的节点；"
        "请移除该标签，或在固件设置中关闭内存交错（NPS0）",
    ),
    "no_node": error(
        "NUMA node {node} does not exist; this host has: {found}; a server cannot be bound to it; "
        "choose one of them or 'interleave'",
        "NUMA 节点 {node} 不存在；该主机有：{found}；服务无法绑定到它；请选择其中之一或 'interleave'",
    ),
    "node_without_processors": error(
        "NUMA node {node} has no processors; required are processors and memory, since a server is bound to both; "
        "nodes of this host: {found}; choose another",
        "NUMA 节点 {node} 没有处理器；服务同时绑定处理器和内存，两者都需要；该主机的节点：{found}；请选择其他节点",
    ),
    "node_without_memory": error(
        "NUMA node {node} has no memory; required are processors and memory, since a server is bound to both; "
        "nodes of this host: {found}; choose another",
        "NUMA 节点 {node} 没有内存；服务同时绑定处理器和内存，两者都需要；该主机的节点：{found}；请选择其他节点",
    ),
    "no_release": error(
        "upstream releases no CPU build for {found}, only for {required}; write source: 'build'",
        "上游没有为 {found} 发布 CPU 版本，只有 {required}；请写 source: 'build'",
    ),
    "small_bar": error(
        "{card} shows {found} MiB of its memory to the processor; required: all {required} MiB; with less, the "
        "compute runtime finds no device or is slow; in the firmware's setup switch off CSM, switch on Above 4G "
        "Decoding, then Resizable BAR, and power the host off and on; update the firmware if it says on and the "
        "size stays. To go on without: intel_gpu: {{'allow_small_bar': True}}",
        "{card} 只向处理器开放 {found} MiB 显存；要求：全部 {required} MiB；不足时计算运行时找不到设备或很慢；"
        "请在固件设置中关闭 CSM，打开 Above 4G Decoding，再打开 Resizable BAR，然后断电重启；如果设置已打开但大小不变，"
        "请更新固件。若要照样继续：intel_gpu: {{'allow_small_bar': True}}",
    ),
    "small_bar_allowed": warning(
        "{card} shows {found} MiB of its memory to the processor instead of {required} MiB (Resizable BAR is off); "
        "allow_small_bar lets it pass: expect OpenCL and Level Zero to find no device",
        "{card} 只向处理器开放 {found} MiB 显存，而不是 {required} MiB（Resizable BAR 未启用）；allow_small_bar 放行："
        "OpenCL 和 Level Zero 可能找不到设备",
    ),
    "no_bar": error(
        "{card} was given no address space by the firmware; required is a region for its memory, without which no "
        "driver can use it; in the firmware's setup switch off CSM and switch on Above 4G Decoding",
        "固件没有给 {card} 分配地址空间；需要一个显存区域，否则任何驱动都无法使用；请在固件设置中关闭 CSM，打开 Above 4G Decoding",
    ),
    "passed_through": error(
        "{card} is bound to {found}, so it belongs to a virtual machine; required is {required} or no driver; "
        "remove the binding (driverctl, vfio-pci.ids in the kernel's command line), or the tag",
        "{card} 绑定到 {found}，即已交给虚拟机；要求 {required} 或无驱动；请移除该绑定（driverctl、内核命令行中的 "
        "vfio-pci.ids），或移除标签",
    ),
    "unbound": warning(
        "{card} is visible, but kernel {kernel}, which should drive it by {driver}, has not bound it; firmware files or "
        "a setting may be missing; look at: journalctl -k -g {driver}",
        "能看到 {card}，但本应由 {driver} 驱动它的内核 {kernel} 没有绑定；可能缺少固件文件或某项设置；请查看："
        "journalctl -k -g {driver}",
    ),
    "narrow_link": warning(
        "{card} uses {found} of its {required} PCIe lanes; loading models is slower; check the slot and the riser",
        "{card} 只使用了 {required} 条 PCIe 通道中的 {found} 条；加载模型会变慢；请检查插槽和转接卡",
    ),
    "kernel_container": error(
        "kernel {found} runs; required: {required}, for {why}; this host is a container ({virtualization}), whose "
        "kernel is its machine's; install the kernel there",
        "正在运行内核 {found}；要求：{required}（{why}）；该主机是容器（{virtualization}），内核属于其宿主机；请在宿主机上安装内核",
    ),
    "kernel_keep": error(
        "kernel {found} runs; required: {required}, for {why}; source: 'keep' forbids to install another; install one "
        "by hand, or choose another source",
        "正在运行内核 {found}；要求：{required}（{why}）；source: 'keep' 禁止安装其他内核；请手动安装，或选择其他来源",
    ),
    "kernel_source": error(
        "{source!r} brings no kernel to {system}; required: {required}, for {why}; choose {choices}",
        "{source!r} 不为 {system} 提供内核；要求：{required}（{why}）；请选择 {choices}",
    ),
    "kernel_empty_range": error(
        "no kernel can be right: required is {required}, which nothing satisfies ({why}); change min or max, or the tags",
        "没有合适的内核：要求 {required}，没有内核能满足（{why}）；请更改 min 或 max，或标签",
    ),
    "kernel_mainline_version": error(
        "version {found} lies outside of what is required: {required}, for {why}; write another version",
        "版本 {found} 不在要求范围内：{required}（{why}）；请写其他版本",
    ),
    "kernel_unsigned": error(
        "Secure Boot is {found}; mainline kernels are not signed and would not boot; required is Secure Boot switched "
        "off, or a signed kernel; write source: {signed!r}, or switch it off in the firmware's setup",
        "Secure Boot 状态：{found}；mainline 内核未签名，无法启动；要求关闭 Secure Boot，或使用已签名内核；请写 source: {signed!r}，"
        "或在固件设置中关闭",
    ),
    "kernel_not_for_card": warning(
        "kernel {found} runs; required: {required}, for {why}; another one is installed, and tried before it stays",
        "正在运行内核 {found}；要求：{required}（{why}）；将安装另一个内核，先试启动再保留",
    ),
    "driver_container": error(
        "{card} needs a kernel driver, and this host is a container ({virtualization}), whose drivers are its "
        "machine's; install the driver there, hand the card in, and write source: 'existing'",
        "{card} 需要内核驱动，而该主机是容器（{virtualization}），驱动属于其宿主机；请在宿主机上安装驱动，把显卡交给容器，并写 source: 'existing'",
    ),
    "nvidia_no_driver": error(
        "no driver drives all of {cards} together: {why}; take a card out, or out of the tags' sight in another host",
        "没有一个驱动能同时驱动 {cards}：{why}；请取出一张卡，或放到另一台主机",
    ),
    "nvidia_branch": error(
        "branch {found!r} does not drive {card}; required: {required}; leave the option out, or choose one of these",
        "分支 {found!r} 不支持 {card}；要求：{required}；请省略该选项，或选择其中之一",
    ),
    "nvidia_modules": error(
        "the {found} kernel modules do not drive {card}; required: {required}; leave the option out, or change it",
        "{found} 内核模块不支持 {card}；要求：{required}；请省略该选项，或更改",
    ),
    "nvidia_debian": error(
        "{system} has NVIDIA's driver {found} in its archive, and {card} needs {required} or later; use Ubuntu, or "
        "install NVIDIA's driver yourself and write source: 'existing'",
        "{system} 软件库中的 NVIDIA 驱动是 {found}，而 {card} 需要 {required} 或更新；请使用 Ubuntu，或自行安装 NVIDIA 驱动并写 "
        "source: 'existing'",
    ),
    "nvidia_system": error(
        "no driver packages are known for {system}; required: {required}; write source: 'existing' and install the "
        "driver yourself",
        "没有已知的 {system} 驱动软件包；要求：{required}；请写 source: 'existing' 并自行安装驱动",
    ),
    "nvidia_secure_boot": error(
        "Secure Boot is on, and NVIDIA's modules for {system} have to be compiled on the host (DKMS), which leaves them "
        "unsigned, so the kernel would not load them; required are signed modules or Secure Boot off; switch it off in "
        "the firmware's setup, or use a kernel of Ubuntu's, for which modules are signed",
        "Secure Boot 已启用，而 {system} 的 NVIDIA 模块需要在主机上编译（DKMS），没有签名，内核不会加载；要求使用已签名模块或关闭 "
        "Secure Boot；请在固件设置中关闭，或使用 Ubuntu 自己的内核，其模块已签名",
    ),
    "intel_source": error(
        "{source!r} has no compute runtime for {system}; choose {choices}",
        "{source!r} 没有适用于 {system} 的计算运行时；请选择 {choices}",
    ),
    "intel_no_firmware": error(
        "{system} has no firmware for {card}, without which the kernel cannot use it; required: Ubuntu 24.04 or Debian 13; "
        "install one of them, or bring the firmware yourself and write source: 'existing'",
        "{system} 没有 {card} 的固件，没有固件内核无法使用它；要求：Ubuntu 24.04 或 Debian 13；请安装其中之一，或自行安装固件并写 "
        "source: 'existing'",
    ),
    "intel_vulkan_only": warning(
        "{system} has no compute runtime that knows {card}; only Vulkan is set up, which llama.cpp (variant "
        "vulkan-x64) can use; for OpenCL, Level Zero and SYCL use Ubuntu 24.04",
        "{system} 没有支持 {card} 的计算运行时；只设置 Vulkan，可用于 llama.cpp（vulkan-x64）；如需 OpenCL、Level Zero、SYCL，"
        "请使用 Ubuntu 24.04",
    ),
    "intel_old_guc": warning(
        "GuC firmware {found} runs on Intel's card; required: {required} or later, before which long computations can "
        "reset the card; install a newer linux-firmware when the distribution has one, and reboot",
        "Intel 显卡运行的 GuC 固件是 {found}；要求：{required} 或更新，更早的版本在长时间计算时可能使显卡复位；"
        "请在发行版提供更新的 linux-firmware 后安装并重启",
    ),
    "fit_memory": warning(
        "needs {need} of memory ({arithmetic}), and the host has {have}; it will be slow or be killed; choose a "
        "smaller model or quantisation, a shorter context_length, or another host",
        "需要 {need} 内存（{arithmetic}），而主机有 {have}；会很慢或被终止；请选择更小的模型或量化、更短的 context_length，或其他主机",
    ),
    "fit_vram": warning(
        "needs {need} of GPU memory ({arithmetic}), and the declared cards have {have}, of which 92 % can be used; "
        "layers that do not fit stay with the processors; choose a smaller model, or set gpu_layers",
        "需要 {need} 显存（{arithmetic}），而声明的显卡共有 {have}，其中 92 % 可用；放不下的层留在处理器上；请选择更小的模型，或设置 "
        "gpu_layers",
    ),
    "fit_disk": error(
        "the models need {need} ({arithmetic}), and the file system at {path} has {have} in all; choose another "
        "models/directory, fewer or smaller models, or a larger disk",
        "模型需要 {need}（{arithmetic}），而 {path} 的文件系统总共只有 {have}；请选择其他 models/directory、更少或更小的模型，或更大的磁盘",
    ),
}

UNKNOWN: dict[Language, str] = {"en": "unknown", "zh": "未知"}
NONE: dict[Language, str] = {"en": "none at all", "zh": "无"}
AND: dict[Language, str] = {"en": ", ", "zh": "、"}


def severity(finding: Finding) -> Severity:
    """Return whether a finding stops its host."""
    return MESSAGES[finding.key].severity


def sentence(finding: Finding, lang: Language) -> str:
    """Return what a person reads of a finding, the option's path first."""
    message = MESSAGES[finding.key]
    text = (message.en if lang == "en" else message.zh).format(
        **{name: _spelt(word, lang) for name, word in finding.words.items()}
    )
    return f"{finding.option}{': ' if lang == 'en' else '：'}{text}" if finding.option else text


def _spelt(word: Word, lang: Language) -> str | int | float:
    if word is None:
        return UNKNOWN[lang]
    if isinstance(word, str | int | float):
        return word
    return AND[lang].join(word) or NONE[lang]
