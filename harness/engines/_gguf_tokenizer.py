"""The tokenizer of a Qwen checkpoint as GGUF keys. Loaded in a child only.

Source: the section on tokenizer keys of ggml's docs/gguf.md, and llama.cpp's list of ways to cut
text before its bytes are merged (`tokenizer.ggml.pre`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf

from harness.errors import ArmbenchError
from harness.model.checkpoint import read_json
from harness.model.tokenizer import QWEN_SPLIT


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocabulary: int) -> None:
    """The tokenizer of `folder`; ids beyond it, up to `vocabulary`, become unused tokens.

    A folder without one gives a file without one: llama.cpp computes with its token ids all the
    same, but no server can turn text into them.
    """
    if not (folder / "tokenizer.json").is_file():
        writer.add_tokenizer_model("none")
        return
    described = read_json(folder / "tokenizer.json")
    settings = _settings(folder)
    model, added = described.get("model"), described.get("added_tokens") or []
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise ArmbenchError(f"{folder / 'tokenizer.json'} is not the byte-level BPE of a Qwen")
    tokens, kinds = _tokens(model["vocab"], added, vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(described.get("pre_tokenizer"), folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    ids = {token: i for i, token in enumerate(tokens)}
    for key, add in (
        ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id),
        ("bos_token", writer.add_bos_token_id),
    ):
        if (found := ids.get(_content(settings.get(key)))) is not None:
            add(found)
    writer.add_add_bos_token(False)
    if isinstance(template := settings.get("chat_template"), str):
        writer.add_chat_template(template)


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _content(token: object) -> str:
    """A special token's text, which is written bare or as a table."""
    return str(token.get("content") if isinstance(token, dict) else token)


def _tokens(
    vocab: Mapping[str, int], added: Sequence[Mapping[str, Any]], count: int
) -> tuple[list[str], list[gguf.TokenType]]:
    """Text and kind of ids 0 to `count` − 1."""
    tokens = [f"[PAD{i}]" for i in range(count)]
    kinds = [gguf.TokenType.UNUSED] * count
    special = {int(a["id"]): bool(a.get("special")) for a in added}
    listed = [*vocab.items(), *((str(a["content"]), int(a["id"])) for a in added)]
    beyond = [i for _, i in listed if not 0 <= i < count]
    if beyond:
        raise ArmbenchError(
            f"the tokenizer has id {beyond[0]}, the model's vocabulary ends at {count - 1}",
            hint="take tokenizer.json from the checkpoint's own repository",
        )
    for text, i in listed:
        tokens[i] = text
        kinds[i] = gguf.TokenType.NORMAL
        if i in special:
            kinds[i] = gguf.TokenType.CONTROL if special[i] else gguf.TokenType.USER_DEFINED
    return tokens, kinds


def _cut(pre: object, folder: Path) -> str:
    """llama.cpp's name of how the tokenizer cuts text before it merges bytes."""
    steps = pre.get("pretokenizers", [pre]) if isinstance(pre, dict) else []
    match steps:
        case [{"type": "Split", "pattern": {"Regex": regex}}, {"type": "ByteLevel"}]:
            if regex == QWEN_SPLIT:
                return "qwen2"  # llama.cpp's name for it
        case [{"type": "ByteLevel", "use_regex": True}]:
            return "gpt-2"
    raise ArmbenchError(
        f"{folder / 'tokenizer.json'} cuts text in a way that llama.cpp may not follow",
        hint="use the tokenizer.json of a published Qwen2, Qwen2.5 or Qwen3",
    )
