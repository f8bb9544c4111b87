"""The arguments of ``python -m sglang.launch_server`` as KTransformers publishes it: sglang-kt."""

from pathlib import Path

from tests.upstream import wheels
from tests.upstream.arguments import Argument
from tests.upstream.calls import Calls
from tests.upstream.source import Tree

SERVER = "sglang.srt.server_args"


def sources(version: str) -> Path:
    """Return the directory with SGLang's own text."""
    return wheels.sources(f"sglang-kt=={version}", "sglang/srt/server_args.py")


def arguments(tree: Tree) -> list[Argument]:
    """Return the arguments of the server; its parser is written out, call by call."""
    module = tree[SERVER]
    return list(Calls(module).arguments(module.method("ServerArgs", "add_cli_args").body))
