"""What preflight says: found, required, why, what to do; one sentence pattern for each finding and language."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]

MESSAGES: dict[str, dict[Language, str]] = {
    "os": {
        "en": "the operating system is {found}; required: {required}; drivers and packages are chosen for these; "
        "install one of them on this host, or take it out of the inventory",
        "zh": "操作系统是 {found}；要求：{required}；驱动和软件包只为这些版本选定；请在该主机上安装其中之一，"
        "或将其从 inventory 中移除",
    },
    "architecture": {
        "en": "the architecture is {found}; required: {required}; inference engines are published for these; "
        "use another host",
        "zh": "体系结构是 {found}；要求：{required}；推理引擎只发布这些架构的版本；请换用其他主机",
    },
    "no_card": {
        "en": "tags: {tag!r} is declared, but the PCI bus has {found}; required: {required}; drivers are chosen by "
        "this tag; correct the tag, or check that the card is seated, has power and is not passed through to a VM",
        "zh": "tags：声明了 {tag!r}，但 PCI 总线上有：{found}；要求：{required}；驱动按此标签选择；请更正标签，"
        "或检查显卡是否插好、供电正常、没有直通给虚拟机",
    },
    "one_node": {
        "en": "tags: 'numa' is declared, but the kernel shows {found} NUMA node(s); required: two or more; there is "
        "nothing to place by; remove the tag, or switch off node interleaving (NPS0) in the firmware's setup",
        "zh": "tags：声明了 'numa'，但内核只显示 {found} 个 NUMA 节点；要求：两个或更多；没有可供分配的节点；"
        "请移除该标签，或在固件设置中关闭内存交错（NPS0）",
    },
}

NO_CONTROLLER: dict[Language, str] = {"en": "no display controller at all", "zh": "没有任何显示控制器"}
UNKNOWN: dict[Language, str] = {"en": "unknown", "zh": "未知"}
ONE_OF: dict[Language, str] = {"en": "one of {}", "zh": "{} 之一"}
AND: dict[Language, str] = {"en": ", ", "zh": "、"}
