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
    "vllm_architecture": error(
        "the architecture is {found}; required for 'native' is amd64, for which its packages are pinned; write method: "
        "'container'",
        "体系结构是 {found}；'native' 要求 amd64，软件包只为它固定版本；请写 method: 'container'",
    ),
    "vllm_capability": error(
        "{card} has compute capability {found}; required: {required}, below which vLLM has no kernels; serve the model "
        "by llama_cpp (its CUDA 12 build) or ollama, or take the card out of the tags",
        "{card} 的计算能力是 {found}；要求：{required}，更低的没有 vLLM 内核；请用 llama_cpp（CUDA 12 版本）或 ollama 提供该模型，"
        "或从标签中移除该显卡",
    ),
    "vllm_bfloat16": error(
        "{card} has compute capability {found}; required for bfloat16: {required}; write 'half', or 'auto', which takes it "
        "where it must",
        "{card} 的计算能力是 {found}；bfloat16 要求：{required}；请写 'half'，或写 'auto'，由 vLLM 自动选择",
    ),
    "vllm_heads": error(
        "{found} does not divide the {heads} attention heads of {model}, and each card gets as many; use one of: {required}",
        "{found} 不能整除 {model} 的 {heads} 个注意力头，而每张显卡必须分得同样多；请使用其中之一：{required}",
    ),
    "vllm_cards": error(
        "{required} cards are needed on this host ({arithmetic}: tensor_parallel x pipeline_parallel x data_parallel / "
        "hosts), and {found} are declared or chosen by cards; give fewer, or correct the tags",
        "该主机需要 {required} 张显卡（{arithmetic}：tensor_parallel x pipeline_parallel x data_parallel / 主机数），而声明或由 "
        "cards 选定的有 {found} 张；请减小其中之一，或声明实际的显卡",
    ),
    "vllm_exposed": warning(
        "vLLM listens on {found}, and its key guards /v1 alone: whoever reaches the port can use /invocations, /metrics and "
        "others without it; listen on 127.0.0.1 behind a proxy that lets /v1 through",
        "vLLM 监听 {found}，而密钥只保护 /v1：能访问该端口的人无需密钥即可使用 /invocations、/metrics 等；请监听 127.0.0.1，"
        "由只放行 /v1 的代理转发",
    ),
    "open_webui_python": error(
        "the system is {found}; required for Open WebUI's package is Python 3.11 or 3.12, which Debian 12 and Ubuntu "
        "24.04 have; write python: '3.12', and uv brings it, or method: 'container'",
        "系统是 {found}；Open WebUI 的软件包要求 Python 3.11 或 3.12，Debian 12 和 Ubuntu 24.04 自带；"
        "请写 python: '3.12'，由 uv 安装，或写 method: 'container'",
    ),
    "ollama_no_release": error(
        "the architecture is {found}; required: {required}, for which digests of Ollama {version} are pinned; choose "
        "another host, or give the digest of an archive for it in ollama/sha256",
        "体系结构是 {found}；要求：{required}（已固定 Ollama {version} 的摘要）；请换用其他主机，或在 ollama/sha256 中给出该架构归档的摘要",
    ),
    "ollama_old_driver": error(
        "NVIDIA's driver {found} runs; required: {required} or later, for {card}; with an older one Ollama computes on "
        "the processors; install a newer driver, or serve the model by llama_cpp",
        "正在运行 NVIDIA 驱动 {found}；要求：{required} 或更新（{card}）；驱动更旧时 Ollama 会在处理器上计算；请安装更新的驱动，或用 "
        "llama_cpp 提供该模型",
    ),
    "ollama_taken_over": warning(
        "{unit}, which metal2model did not write, was taken over: its models stay where they are, its program was put "
        "aside ({program}); remove that, and what else that installation left, when you are content",
        "接管了 {unit}（不是 metal2model 写的）：其模型原地保留，其程序已移开（{program}）；确认无误后请删除它以及该安装留下的其他文件",
    ),
    "ollama_not_ours": warning(
        "{unit} was left as it is, for metal2model did not write it; if it is to go as well, switch it off with: systemctl "
        "disable --now ollama, and remove it",
        "{unit} 不是 metal2model 写的，已保留不动；如果也要停用，请执行 systemctl disable --now ollama 并删除它",
    ),
    "ollama_drop_ins": warning(
        "these drop-ins of ollama.service, which metal2model did not write, still have effect: {found}; remove them, or "
        "write what they set as options",
        "ollama.service 的这些 drop-in（不是 metal2model 写的）仍然有效：{found}；请删除它们，或把其中的设置写成选项",
    ),
    "ollama_undeclared": warning(
        "Ollama has models that no instance declares, and they were left alone: {found}; declare them, or remove them "
        "with: ollama rm NAME",
        "Ollama 中有未声明的模型，已保留：{found}；请声明它们，或用 ollama rm NAME 删除",
    ),
    "dify_unreachable": warning(
        "Dify's containers do not reach {found}, which listen on this host's loopback address; where Dify shall use "
        "them, write host: '172.17.0.1' there, docker's bridge, or leave them out of dify/backends",
        "Dify 的容器无法访问 {found}，它们只监听该主机的回环地址；若 Dify 要使用它们，请在那里写 host: '172.17.0.1'"
        "（docker 网桥），或将它们从 dify/backends 中去掉",
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
    "docker_source": error(
        "Docker publishes no packages for {system}; required for source: 'docker' is Ubuntu 22.04, 24.04, 26.04 or "
        "Debian 12, 13; write source: 'archive', or install an engine yourself and write source: 'existing'",
        "Docker 没有为 {system} 发布软件包；source: 'docker' 要求 Ubuntu 22.04、24.04、26.04 或 Debian 12、13；请写 source: 'archive'，"
        "或自行安装引擎并写 source: 'existing'",
    ),
    "docker_no_compose": error(
        "the archive of {system} has only the predecessor of docker compose, in Python; required is version 2 or later; "
        "write source: 'docker', or compose: False",
        "{system} 的软件仓库只有 docker compose 的 Python 旧版；要求 2 或更高版本；请写 source: 'docker'，或 compose: False",
    ),
    "docker_no_cdi": error(
        "the archive of {system} has Docker 20.10; required for NVIDIA's cards in containers is 25 or later, which knows "
        "CDI; write source: 'docker'",
        "{system} 的软件仓库提供 Docker 20.10；在容器中使用 NVIDIA 显卡要求支持 CDI 的 25 或更高版本；请写 source: 'docker'",
    ),
    "docker_in_container": warning(
        "this host is a container itself ({virtualization}); containers run in it only if its machine permits nesting "
        "and gives it cgroups of its own (Proxmox: features nesting=1,keyctl=1), which the run will show",
        "该主机本身是容器（{virtualization}）；只有宿主机允许嵌套并为其提供独立的 cgroup 时（Proxmox：features nesting=1,keyctl=1），"
        "其中才能运行容器，运行时即可看出",
    ),
    "image_moved": warning(
        "the image {image} is no longer {was}, which was pulled for it: somebody built it or pulled it again on the host; "
        "servers run what it is now; to have the former one back, remove the image on the host and run again",
        "镜像 {image} 已不是当初拉取的 {was}：有人在主机上重新构建或拉取了它；服务将运行现在的镜像；如需恢复，请在主机上删除该镜像后重新运行",
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
    "models_unwanted": warning(
        "models that are not wanted any more take space: {found}; they stay as long as this is not True",
        "不再需要的模型仍占用空间：{found}；在将此项设为 True 之前会一直保留",
    ),
    "model_in_use": warning(
        "{name} ({size}) is not wanted any more and stays, as it is in use by {users}; stop that, then run again",
        "{name}（{size}）已不再需要，但正被 {users} 使用，因此保留；请先停止使用，然后重新运行",
    ),
    "intel_old_guc": warning(
        "GuC firmware {found} runs on Intel's card; required: {required} or later, before which long computations can "
        "reset the card; install a newer linux-firmware when the distribution has one, and reboot",
        "Intel 显卡运行的 GuC 固件是 {found}；要求：{required} 或更新，更早的版本在长时间计算时可能使显卡复位；"
        "请在发行版提供更新的 linux-firmware 后安装并重启",
    ),
    "sizing_minimum": warning(
        "this host has {found}; required, by the minimum of row {row} of the sizing table (docs/models.md), are "
        "{required}; it may not load, or be too slow to use; choose a smaller model, or another host",
        "该主机有 {found}；按配置表（docs/models.md）{row} 一行的最低要求，需要 {required}；可能无法加载，或慢得无法使用；"
        "请选择更小的模型，或换用其他主机",
    ),
    "exposed": warning(
        "{found} lets anybody in its network use the model, since no key is asked for; write 127.0.0.1, or give the "
        "server a key (api_key), or use an engine that knows keys; or leave it so where the network is yours alone",
        "{found} 使网络上的任何人都能使用模型，因为不要求密钥；请写 127.0.0.1，或启用密钥（api_key），或换用支持密钥的引擎；"
        "若网络完全由您掌控，也可保持不变",
    ),
    "fit_memory": warning(
        "needs {need} of memory ({arithmetic}), and the host has {have}; it will be slow or be killed; what would fit "
        "here: {suggestion}; or choose a smaller model, or another host",
        "需要 {need} 内存（{arithmetic}），而主机有 {have}；会很慢或被终止；此处放得下的设置：{suggestion}；或选择更小的模型，或换用其他主机",
    ),
    "fit_beside_cards": warning(
        "needs {need} ({arithmetic}), of which {left} are left to main memory, and the host has {have}; it will be slow or be "
        "killed; what would fit here: {suggestion}; or choose a smaller model, or another host",
        "需要 {need}（{arithmetic}），其中 {left} 留在主内存，而主机有 {have}；会很慢或被终止；此处放得下的设置：{suggestion}；"
        "或选择更小的模型，或换用其他主机",
    ),
    "fit_vram": warning(
        "needs {need} of GPU memory ({arithmetic}), and the declared cards have {have}, of which 92 % can be used; "
        "layers that do not fit stay with the processors, which is slower; what would fit here: {suggestion}; or leave it so",
        "需要 {need} 显存（{arithmetic}），而声明的显卡共有 {have}，其中 92 % 可用；放不下的层留在处理器上，会更慢；"
        "此处放得下的设置：{suggestion}；或保持不变",
    ),
    "fit_no_memory": error(
        "needs {need} of memory ({arithmetic}), of which {held} must stay in memory all the time, and the host has "
        "{have} with its cards; required is room for that, or the server is killed; what would fit here: {suggestion}; or "
        "choose a smaller model or another host, or write fit: 'warn' to try all the same",
        "需要 {need} 内存（{arithmetic}），其中 {held} 必须一直留在内存中，而主机连同显卡有 {have}；要求放得下这部分，否则服务会被终止；"
        "此处放得下的设置：{suggestion}；或请选择更小的模型或其他主机，或写 fit: 'warn' 照样尝试",
    ),
    "fit_no_memory_allowed": warning(
        "needs {need} of memory ({arithmetic}), of which {held} must stay in memory all the time, and the host has "
        "{have} with its cards; fit: 'warn' lets it pass: expect the server to be killed; what would fit here: {suggestion}",
        "需要 {need} 内存（{arithmetic}），其中 {held} 必须一直留在内存中，而主机连同显卡有 {have}；fit: 'warn' 放行：服务可能被终止；"
        "此处放得下的设置：{suggestion}",
    ),
    "fit_no_vram": error(
        "gpu_layers puts {pinned} on the cards ({arithmetic}), and the declared cards have {have}, of which 92 % can be "
        "used; required is room for all of that, or the server does not start; what would fit here: {suggestion}; or write "
        "gpu_layers: 'auto', or fit: 'warn' to try all the same",
        "gpu_layers 要在显卡上放 {pinned}（{arithmetic}），而声明的显卡共有 {have}，其中 92 % 可用；要求全部放得下，否则服务不会启动；"
        "此处放得下的设置：{suggestion}；或请写 gpu_layers: 'auto'，或写 fit: 'warn' 照样尝试",
    ),
    "fit_no_vram_allowed": warning(
        "gpu_layers puts {pinned} on the cards ({arithmetic}), and the declared cards have {have}, of which 92 % can be "
        "used; fit: 'warn' lets it pass: expect the server not to start; what would fit here: {suggestion}",
        "gpu_layers 要在显卡上放 {pinned}（{arithmetic}），而声明的显卡共有 {have}，其中 92 % 可用；fit: 'warn' 放行：服务可能无法启动；"
        "此处放得下的设置：{suggestion}",
    ),
    "fit_together": error(
        "these servers take {need} of {card} together: {arithmetic}; it has {have}; required is room for all of them, for "
        "each takes its part at its start, and the last one fails; give each its own card, or choose a lower "
        "gpu_memory_utilization, a smaller model or context_length for one of them, or write fit: 'warn' to try all the same",
        "这些服务在 {card} 上合计占用 {need}：{arithmetic}；该显卡有 {have}；要求全部放得下，因为每个服务启动时即占用自己的部分，"
        "最后启动的会失败；请为每个服务指定各自的显卡，或为其中之一选择更小的 gpu_memory_utilization、模型或 context_length，"
        "或写 fit: 'warn' 照样尝试",
    ),
    "fit_together_allowed": warning(
        "these servers take {need} of {card} together: {arithmetic}; it has {have}, of which 92 % can be used; expect the "
        "last one to fail at its start; give each its own card, or choose a lower gpu_memory_utilization, a smaller model "
        "or context_length for one of them",
        "这些服务在 {card} 上合计占用 {need}：{arithmetic}；该显卡有 {have}，其中 92 % 可用；最后启动的服务可能失败；"
        "请为每个服务指定各自的显卡，或为其中之一选择更小的 gpu_memory_utilization、模型或 context_length",
    ),
    "fit_memory_together": error(
        "these servers need {need} of the host's memory together: {arithmetic}; it has {have}; required is room for all of "
        "them, for the kernel ends one when there is none left; choose a smaller model or context_length, or for vLLM a "
        "lower gpu_memory_utilization, or write fit: 'warn' to try all the same",
        "这些服务合计需要主机内存 {need}：{arithmetic}；主机有 {have}；要求全部放得下，否则内存用尽时内核会结束其中之一；"
        "请选择更小的模型或 context_length，vLLM 可调低 gpu_memory_utilization，或写 fit: 'warn' 照样尝试",
    ),
    "fit_memory_together_allowed": warning(
        "these servers need {need} of the host's memory together: {arithmetic}; it has {have}; fit: 'warn' lets it pass: "
        "expect the kernel to end one of them; choose a smaller model or context_length, or for vLLM a lower "
        "gpu_memory_utilization",
        "这些服务合计需要主机内存 {need}：{arithmetic}；主机有 {have}；fit: 'warn' 放行：内核可能结束其中之一；"
        "请选择更小的模型或 context_length，vLLM 可调低 gpu_memory_utilization",
    ),
    "fit_beside": warning(
        "these servers would take {need} of {card} together: {arithmetic}; it has {have}, of which 92 % can be used; {found} "
        "will have what the others leave, and keep the rest with the processors, which is slower; started first, it may "
        "leave too little for the others to start; give each its own card, or choose a smaller model or context_length",
        "这些服务在 {card} 上合计需要 {need}：{arithmetic}；该显卡有 {have}，其中 92 % 可用；{found} 只能用其他服务剩下的显存，"
        "其余留在处理器上，会更慢；若它先启动，其他服务可能因显存不足而无法启动；请为每个服务指定各自的显卡，或选择更小的模型或 context_length",
    ),
    "fit_cards": error(
        "needs {need} on each of its cards ({arithmetic}), and may take {have} of one, {share} of its memory; required is "
        "room for all of it, as this server leaves nothing to the processors; what would fit here: {suggestion}; or choose a "
        "smaller model, or write fit: 'warn' to try all the same",
        "每张显卡需要 {need}（{arithmetic}），而每张只能用 {have}，即其显存的 {share}；要求全部放得下，因为该服务不会把任何部分留给处理器；"
        "此处放得下的设置：{suggestion}；或请选择更小的模型，或写 fit: 'warn' 照样尝试",
    ),
    "fit_cards_allowed": warning(
        "needs {need} on each of its cards ({arithmetic}), and may take {have} of one, {share} of its memory; "
        "fit: 'warn' lets it pass: expect the server not to start; what would fit here: {suggestion}",
        "每张显卡需要 {need}（{arithmetic}），而每张只能用 {have}，即其显存的 {share}；fit: 'warn' 放行：服务可能无法启动；"
        "此处放得下的设置：{suggestion}",
    ),
    "cuda_capability": error(
        "{card} has compute capability {found}; required for {program}: one of {required}, for which it has kernels; serve "
        "the model by llama_cpp (its CUDA 12 build) or ollama, or take the card out of the tags",
        "{card} 的计算能力是 {found}；{program} 要求以下之一：{required}，它只有这些的内核；请用 llama_cpp（CUDA 12 版本）或 ollama "
        "提供该模型，或从标签中移除该显卡",
    ),
    "cuda_driver": error(
        "NVIDIA's driver is {found}; required for {program}: {required} or newer, for it is made for a newer CUDA; choose a "
        "newer branch, or serve the model by llama_cpp or ollama",
        "NVIDIA 驱动是 {found}；{program} 要求 {required} 或更新，因为它基于更新的 CUDA；请选择更新的分支，或用 llama_cpp 或 ollama 提供该模型",
    ),
    "other_python": error(
        "the system is {found}; required for {program} is a Python that it is published for, which these have: {required}; "
        "write python: '3.12', and uv brings it",
        "该主机的系统是 {found}；{program} 要求它所支持的 Python 版本，以下系统自带：{required}；请写 python: '3.12'，由 uv 安装",
    ),
    "kt_architecture": error(
        "the architecture is {found}; required: amd64, for which kt-kernel is published; use llama_cpp for the model",
        "体系结构是 {found}；要求：amd64，kt-kernel 只为它发布；请用 llama_cpp 提供该模型",
    ),
    "kt_processor": error(
        "the processors lack {found}; required for {method}: {required}; choose a method whose instructions they have "
        "(LLAMAFILE needs the least, AVX2), or serve the model by llama_cpp",
        "处理器缺少 {found}；{method} 要求：{required}；请选择处理器支持其指令的方法（LLAMAFILE 要求最低，只需 AVX2），或用 llama_cpp 提供该模型",
    ),
    "ipex_archived": warning(
        "{found} is of a project that Intel archived in January 2026, with known security issues; use llama_cpp (variant "
        "vulkan-x64 or sycl-fp16-x64) or vllm (method: 'container') for the model instead",
        "{found} 属于 Intel 已于 2026 年 1 月归档的项目，存在已知安全问题；请改用 llama_cpp（variant vulkan-x64 或 sycl-fp16-x64）或 "
        "vllm（method: 'container'）提供该模型",
    ),
    "ipex_no_card": warning(
        "the tags are {found}, none of them of an Intel card, and the server computes on no other; give the card's tag, for "
        "its drivers, or expect the server not to start",
        "标签是 {found}，其中没有 Intel 显卡，而该服务只在 Intel 显卡上计算；请写上显卡的标签以安装驱动，否则服务可能无法启动",
    ),
    "ray_without_token": warning(
        "the cluster's nodes ({found}) ask nobody for a token: every program on one of them can run programs on all; "
        "write token_file, or leave no other users on these hosts",
        "集群节点（{found}）不要求令牌：任一节点上的任何程序都能在所有节点上运行程序；请写 token_file，或不让其他用户使用这些主机",
    ),
    "ray_public": warning(
        "{found} can be reached from the Internet, and Ray encrypts nothing; allow_public_addresses lets it pass: use a "
        "tunnel or a firewall between the nodes, and leave nothing else through",
        "{found} 可以从互联网访问，而 Ray 不加密任何内容；allow_public_addresses 放行：请在节点之间使用隧道或防火墙，不放行其他流量",
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
