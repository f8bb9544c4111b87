"""What the hub serves and nobody publishes: random models and a llama.cpp release, made once per state directory.

    python -m tests.testbed.artefacts llama_release | models

Every file is keyed by the text of the code that makes it: a change there makes it anew.
"""

import functools
import hashlib
import inspect
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.testbed import BedError, hub_release, locked
from tests.testbed import state_dir as default_state_dir
from tests.testbed.hub_release import ReleaseInfo
from tests.testbed.hub_state import replacing

OWNER = "metal2model-fixtures"
GGUF_REPOSITORY = f"{OWNER}/tiny-random-GGUF"
BIG_REPOSITORY = f"{OWNER}/tiny-random-big-GGUF"
SAFETENSORS_REPOSITORY = f"{OWNER}/tiny-random-safetensors"
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@dataclass(frozen=True)
class Shape:
    """The size of a llama-architecture model."""

    layers: int
    width: int
    heads: int
    context: int = 2048


TINY = Shape(layers=2, width=64, heads=4)
# 64 MB: long enough to cut, resume and time.
BIG = Shape(layers=7, width=512, heads=8)


def tiny_gguf(state_dir: Path | None = None) -> Path:
    """Give a model of 0.5 MB that llama-server loads and chats with, nonsense of course."""
    return _gguf(state_dir, GGUF_REPOSITORY, "tiny-random-F32.gguf", TINY, gguf.LlamaFileType.ALL_F32)


def tiny_gguf_q8(state_dir: Path | None = None) -> Path:
    """Give the same model quantised: a repository has several files of which a host wants one."""
    return _gguf(state_dir, GGUF_REPOSITORY, "tiny-random-Q8_0.gguf", TINY, gguf.LlamaFileType.MOSTLY_Q8_0)


def tiny_gguf_big(state_dir: Path | None = None) -> Path:
    """Give a model of 64 MB."""
    return _gguf(state_dir, BIG_REPOSITORY, "tiny-random-big-F32.gguf", BIG, gguf.LlamaFileType.ALL_F32)


def make_models(state_dir: Path | None = None) -> None:
    """Make all model repositories and the plain site's files; about a second when they are not there."""
    base = state_dir or default_state_dir()
    for path, name in (
        (tiny_gguf(base), "tiny.gguf"),
        (tiny_gguf_q8(base), "tiny-q8_0.gguf"),
        (tiny_gguf_big(base), "tiny-big.gguf"),
    ):
        _made(base / "plain" / name, path.stat().st_mtime_ns, functools.partial(shutil.copy, path))
    tiny_safetensors(base)
    for repository in (GGUF_REPOSITORY, BIG_REPOSITORY, SAFETENSORS_REPOSITORY):
        card = f"---\nlicense: cc0-1.0\n---\n# {repository}\n\nRandom weights, made by metal2model's test bed.\n"
        _made(_folder(base, repository) / "README.md", card, functools.partial(_write_text, card))


def release(state_dir: Path | None = None) -> ReleaseInfo:
    """Give the llama.cpp release which the hub serves under github.com; about two minutes when it is not there."""
    base = state_dir or default_state_dir()
    path = base / "releases/ggml-org/llama.cpp" / hub_release.TAG / hub_release.ASSET
    return hub_release.describe(_made(path, hub_release.recipe(), functools.partial(hub_release.build, base)))


def source_archive(state_dir: Path | None = None) -> Path:
    """Give the source of that release, which the hub serves under github.com as well."""
    base = state_dir or default_state_dir()
    path = base / "releases/ggml-org/llama.cpp" / f"{hub_release.TAG}.tar.gz"
    recipe = (hub_release.SOURCE_SHA256, inspect.getsource(hub_release.pack_source))
    return _made(path, recipe, functools.partial(hub_release.pack_source, base))


def sha256_of_release(state_dir: Path | None = None) -> str:
    """Give what an inventory pins the release by; it depends on the compiler, so only the run knows it."""
    return release(state_dir).sha256


def _folder(state_dir: Path | None, repository: str) -> Path:
    return (state_dir or default_state_dir()) / "models" / repository


def _made(path: Path, recipe: object, make: Callable[[Path], object]) -> Path:
    """Make `path` unless it was made by the same recipe."""
    stamp = path.with_name(f".{path.name}.recipe")
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.exists() or not stamp.exists() or stamp.read_text() != digest:
            with replacing(path) as partial:
                make(partial)
                partial.chmod(0o644)
            stamp.write_text(digest)
    return path


def _write_text(text: str, path: Path) -> None:
    path.write_text(text)


def _gguf(state_dir: Path | None, repository: str, name: str, shape: Shape, kind: gguf.LlamaFileType) -> Path:
    recipe = (inspect.getsource(_write_gguf), inspect.getsource(_weights), shape, kind, CHAT_TEMPLATE)
    return _made(_folder(state_dir, repository) / name, recipe, lambda partial: _write_gguf(partial, shape, kind))


def _write_gguf(path: Path, shape: Shape, kind: gguf.LlamaFileType) -> None:
    """Write the model with a SentencePiece vocabulary of bytes and a few words.

    Names of keys and tensors: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    token_type = gguf.TokenType
    spoken = ["▁hello", "▁the", "▁a", "▁model", "▁test", "▁is", "▁here", "▁it", "▁works", "▁and", "▁answers", "▁now"]
    words = ["▁", *"abcdefghijklmnopqrstuvwxyz", ".", *spoken]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    types = [token_type.UNKNOWN, token_type.CONTROL, token_type.CONTROL, *[token_type.BYTE] * 256]
    types += [token_type.NORMAL] * len(words)
    scores = [0.0] * 259 + [-float(rank) for rank in range(1, len(words) + 1)]

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(2 * shape.width)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(kind)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)

    ours = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    weights = _weights(shape, len(tokens))
    # Whoever looks at an answer should see words, in whatever order: no byte is ever as likely as any of them.
    weights["lm_head.weight"][: -len(spoken)] = 0
    weights["lm_head.weight"][-len(spoken) :] *= 20
    for name, tensor in weights.items():
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{ours[part]}"
        else:
            stem = ours[stem]
        if kind == gguf.LlamaFileType.MOSTLY_Q8_0 and tensor.ndim == 2:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{stem}.weight", gguf.quants.quantize(tensor, q8), raw_dtype=q8)
        else:
            writer.add_tensor(f"{stem}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(shape: Shape, tokens: int) -> dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]:
    """Draw the weights, by the names that transformers gives them."""
    random = np.random.default_rng(0)
    half, inner, width = shape.width // 2, 2 * shape.width, shape.width

    def draw(*size: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
        return (random.standard_normal(size, dtype=np.float32) * np.float32(0.05)).astype(np.float32)

    weights = {"model.embed_tokens.weight": draw(tokens, width)}
    for layer in range(shape.layers):
        sizes = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (half, width),
            "self_attn.v_proj": (half, width),
            "self_attn.o_proj": (width, width),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{norm}.weight"] = np.ones(width, np.float32)
        for name, size in sizes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = draw(*size)
    weights["model.norm.weight"] = np.ones(width, np.float32)
    weights["lm_head.weight"] = draw(tokens, width)
    return weights


def tiny_safetensors(state_dir: Path | None = None) -> Path:
    """Give the directory of a random model in Hugging Face layout, which transformers and vLLM load."""
    folder = _folder(state_dir, SAFETENSORS_REPOSITORY)
    shape = Shape(layers=2, width=128, heads=2)
    for name, content in _safetensors_texts(shape).items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        _made(folder / name, text, functools.partial(_write_text, text))
    recipe = (inspect.getsource(_write_safetensors), inspect.getsource(_weights), shape)
    _made(folder / "model.safetensors", recipe, lambda partial: _write_safetensors(partial, _weights(shape, 320)))
    return folder


def _write_safetensors(path: Path, tensors: dict[str, "np.ndarray[Any, np.dtype[np.float32]]"]) -> None:
    """Write the format by hand: a length, a JSON header, raw tensors (https://github.com/huggingface/safetensors#format)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def _safetensors_texts(shape: Shape) -> dict[str, dict[str, Any]]:
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(_byte_characters())])}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 320,
        "hidden_size": shape.width,
        "intermediate_size": 2 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads // 2,
        "head_dim": shape.width // shape.heads,
        "max_position_embeddings": shape.context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **flags} for number, token in enumerate(special)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": False, "vocab": vocabulary, "merges": []},
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "model_max_length": shape.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    return {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2},
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config,
    }


def _byte_characters() -> list[str]:
    """Give the 256 printable characters that byte-level BPE writes bytes as (GPT-2's bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def main() -> None:
    """Make one kind of artefact ahead of its use, perhaps in the background."""
    match sys.argv[1:]:
        case ["llama_release"]:
            info = release()
            print(f"{info.sha256}  {info.path}")
        case ["models"]:
            make_models()
        case _:
            sys.exit("usage: python -m tests.testbed.artefacts llama_release | models")


if __name__ == "__main__":
    try:
        main()
    except BedError as error:
        sys.exit(f"error: {error}")
