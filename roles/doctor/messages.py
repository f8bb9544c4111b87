"""What the doctor says of a source: what was found, and what to do; in both languages of the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from roles.common.sources import Source
from roles.doctor.facts import Answer

Language = Literal["en", "zh"]
SLOW_KIB_PER_SECOND = 128
"""A model of 5 GB takes more than ten hours."""


@dataclass(frozen=True)
class Message:
    """What is wrong, and what to do about it, where no other source is known."""

    en: str
    zh: str
    en_advice: str = ""
    zh_advice: str = ""


OTHER_EN, OTHER_ZH = "name another place in {option}", "请在 {option} 中换用其他地址"
PROBLEMS: dict[str, Message] = {
    "resolve": Message(
        "the name {host} does not resolve on the host ({detail})",
        "主机无法解析域名 {host}（{detail}）",
        "check its name server (resolvectl query {host}), or " + OTHER_EN,
        "请检查主机的 DNS（resolvectl query {host}），或" + OTHER_ZH,
    ),
    "connect": Message(
        "{host} cannot be connected to ({detail})",
        "无法连接 {host}（{detail}）",
        "check route, firewall and, behind a proxy, http_proxy and https_proxy in /etc/environment of the host, or "
        + OTHER_EN,
        "请检查路由和防火墙；若需代理，请检查主机 /etc/environment 中的 http_proxy 和 https_proxy；或" + OTHER_ZH,
    ),
    "proxy": Message(
        "the proxy {proxy} does not connect to {host} ({detail})",
        "代理 {proxy} 未能连接 {host}（{detail}）",
        "check what the proxy allows, and the login in the host's proxy settings, or " + OTHER_EN,
        "请检查代理的访问规则和主机代理设置中的登录信息，或" + OTHER_ZH,
    ),
    "proxy_kind": Message(
        "the host's settings name a proxy of the kind {detail} for {host}; only http proxies can be tried here",
        "主机为 {host} 设置了 {detail} 类型的代理；此处只能测试 http 代理",
        "try with curl on the host, or name an http proxy",
        "请在主机上用 curl 测试，或改用 http 代理",
    ),
    "tls": Message(
        "{host} answers at {address}, but TLS does not come about ({detail}); a firewall that cuts by name looks "
        "like this",
        "{host}（{address}）有响应，但 TLS 握手失败（{detail}）；按域名拦截的防火墙会有这种表现",
        OTHER_EN,
        OTHER_ZH,
    ),
    "certificate": Message(
        "{host} shows a certificate that the host does not trust ({detail})",
        "主机不信任 {host} 的证书（{detail}）",
        "compare the clock of the host; put a company's own authority into /usr/local/share/ca-certificates and run "
        "update-ca-certificates; or " + OTHER_EN,
        "请核对主机时钟；企业自有 CA 请放入 /usr/local/share/ca-certificates 并运行 update-ca-certificates；或"
        + OTHER_ZH,
    ),
    "authorities": Message(
        "the host has no certificates of authorities yet, so apt cannot use https ({host})",
        "主机尚未安装 CA 证书，apt 无法使用 https（{host}）",
        "write an http:// address in {option}: apt checks signatures itself",
        "请在 {option} 中写 http:// 地址：apt 会自行校验签名",
    ),
    "silent": Message(
        "{host} takes the connection and says nothing for {detail}",
        "{host} 接受连接后 {detail} 内没有任何回应",
        OTHER_EN,
        OTHER_ZH,
    ),
    "stalled": Message(
        "{host} sends {detail} and then nothing",
        "{host} 发送 {detail} 后停止",
        OTHER_EN,
        OTHER_ZH,
    ),
    "cut": Message(
        "{host} closes the connection after {detail}",
        "{host} 在发送 {detail} 后断开连接",
        OTHER_EN,
        OTHER_ZH,
    ),
    "missing": Message(
        "{host} has not what was asked for ({detail})",
        "{host} 上没有所请求的内容（{detail}）",
        "check that name and version of {what} are spelt as its publisher does, or " + OTHER_EN,
        "请核对 {what} 的名称和版本是否与发布者一致，或" + OTHER_ZH,
    ),
    "login": Message(
        "{host} does not give it to everybody ({detail}), or hides that it has no such thing",
        "{host} 不向所有人提供此内容（{detail}），或隐藏了该内容不存在的事实",
        "check that the name of {what} is right and open to everybody, or " + OTHER_EN,
        "请核对 {what} 的名称以及是否公开，或" + OTHER_ZH,
    ),
    "busy": Message(
        "{host} wants to be left alone for now ({detail}){wait}",
        "{host} 目前要求暂停访问（{detail}）{wait}",
        "run again later, or " + OTHER_EN,
        "请稍后重试，或" + OTHER_ZH,
    ),
    "status": Message(
        "{host} answers {detail}",
        "{host} 返回 {detail}",
        "run again later, or " + OTHER_EN,
        "请稍后重试，或" + OTHER_ZH,
    ),
    "content": Message(
        "{host} sends something else than the file that was asked for ({detail}), as a network does that wants a login",
        "{host} 返回的不是所请求的文件（{detail}）；需要登录的网络也会这样",
        "open its address in a browser, or " + OTHER_EN,
        "请在浏览器中打开该地址查看，或" + OTHER_ZH,
    ),
    "listing": Message(
        "{host} lists no file like {detail}",
        "{host} 的列表中没有匹配 {detail} 的文件",
        OTHER_EN,
        OTHER_ZH,
    ),
    "redirects": Message(
        "{host} sends from one place to the next without an end, or to none ({detail})",
        "{host} 无休止地重定向或重定向无效（{detail}）",
        OTHER_EN,
        OTHER_ZH,
    ),
    "pip": Message(
        "pip is not on the host yet, and only pip knows which index it would use",
        "主机上尚无 pip，只有 pip 才知道会使用哪个索引",
        "write mirrors/pypi, or run deploys/full.py first, which installs it",
        "请写明 mirrors/pypi，或先运行 deploys/full.py 安装 pip",
    ),
    "late": Message(
        "{host} was not through when the time for all was up",
        "总时限已到，{host} 尚未测完",
        "run again; name fewer places",
        "请重试，或减少列出的地址",
    ),
    "unmeasured": Message(
        "it answers; no time was left to measure it",
        "有响应；剩余时间不足以测速",
    ),
    "unforeseen": Message(
        "asking {host} ended in {detail}, which nobody foresaw",
        "询问 {host} 时出现意外错误 {detail}",
        "report it, please",
        "请报告此问题",
    ),
    "no_python": Message(
        "it was not asked: python3 did not run on the host",
        "未测试：主机上无法运行 python3",
        "install python3 (apt-get install python3), or run deploys/full.py, which brings it and tries the mirrors of "
        "mirrors/apt with apt alone",
        "请安装 python3（apt-get install python3），或运行 deploys/full.py："
        "它会安装 python3，并仅用 apt 测试 mirrors/apt 中的镜像",
    ),
}  # fmt: skip

NOTES: dict[str, tuple[str, str]] = {
    "elsewhere": ("{first} sends to {host} for the bytes", "{first} 把下载转到 {host}"),
    "proxy": ("through the proxy {proxy}", "经由代理 {proxy}"),
    "slow": ("slow: 5 GB take {hours} hours", "较慢：5 GB 需 {hours} 小时"),
    "unverified": (
        "its certificate was not checked, as the host has no authorities before role base",
        "未校验证书：base 角色运行前主机没有 CA 证书",
    ),
}
WAIT = (", for {retry_after} s", "，需等待 {retry_after} 秒")
UNMET = (
    "{option}: {what} cannot be had: {reasons}; required is one place that gives it; what to do: {advice}",
    "{option}：无法获取 {what}：{reasons}；至少需要一个可用来源；处理办法：{advice}",
)
INSTEAD = ("write {option}: {value!r}, which gives {speed} here", "请写 {option}: {value!r}，该来源在此主机上{speed}")
SPEED = (("{0} KiB/s", "速度为 {0} KiB/s"), ("it", "可用"))
NOTHING = ("none can be used", "均不可用")


def _words(source: Source, answer: Answer, lang: Language) -> dict[str, object]:
    hosts = answer.hosts or ("?",)
    wait = WAIT[lang == "zh"].format(retry_after=answer.retry_after) if answer.retry_after.isdigit() else ""
    hours = round(5e9 / 1024 / (answer.kib_per_second or 1) / 3600)
    return {
        "host": hosts[-1], "first": hosts[0], "detail": answer.detail or "-", "proxy": answer.proxy, "wait": wait,
        "address": answer.address, "option": source.option, "what": source.what, "hours": hours,
    }  # fmt: skip


def remarks(source: Source, answer: Answer, lang: Language) -> list[str]:
    """Return what is to be said of a source, nothing of one that is just good."""
    words = _words(source, answer, lang)
    keys = []
    if len(set(answer.hosts)) > 1:
        keys.append("elsewhere")
    if answer.proxy and answer.problem != "proxy":
        keys.append("proxy")
    if answer.kib_per_second is not None and answer.kib_per_second < SLOW_KIB_PER_SECOND:
        keys.append("slow")
    if answer.unverified:
        keys.append("unverified")
    said = [NOTES[key][lang == "zh"].format(**words) for key in keys]
    if answer.problem:
        message = PROBLEMS[answer.problem]
        said.append((message.zh if lang == "zh" else message.en).format(**words))
    return said


def advice(source: Source, answer: Answer, lang: Language) -> str:
    """Return what to do about a source that cannot be used, where no other is known."""
    message = PROBLEMS[answer.problem]
    return (message.zh_advice if lang == "zh" else message.en_advice).format(**_words(source, answer, lang))


def instead(source: Source, answer: Answer, lang: Language) -> str:
    """Return how to use a source that the inventory does not name."""
    known = SPEED[0] if answer.kib_per_second is not None else SPEED[1]
    speed = known[lang == "zh"].format(answer.kib_per_second)
    return INSTEAD[lang == "zh"].format(option=source.option, value=source.value, speed=speed)


def sentence(declared: Sequence[tuple[Source, Answer]], todo: str, lang: Language) -> str:
    """Return that nothing of what is declared for a thing can be used."""
    separator = "；" if lang == "zh" else "; "
    first = declared[0][0]
    reasons = [f"{source.name}: {separator.join(remarks(source, answer, lang))}" for source, answer in declared]
    return UNMET[lang == "zh"].format(
        option=first.option, what=first.what, reasons=separator.join(reasons), advice=todo
    )
