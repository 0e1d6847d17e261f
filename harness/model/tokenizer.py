"""The tokenizer of synthetic checkpoints: a small byte-level BPE that covers the whole vocabulary.

Random weights give any token of the vocabulary, so each must decode to something. Trained are at
most 4096 tokens, on the shipped text; each of the others is a word of its own, in no merge, which
no text is encoded to. They are plain entries of the vocabulary: as added tokens they would take
transformers minutes to load.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import places
from harness.model import chatml

# How the tokenizer.json of Qwen2 and Qwen3 cuts text before its bytes are merged.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VERSION = 2  # 1 covered the trained tokens only
_TRAINED = 4096
_END = "<|endoftext|>"
_SPECIAL = (_END, chatml.START, chatml.END)
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"


def write(folder: Path, config: Mapping[str, Any]) -> None:
    """tokenizer.json and tokenizer_config.json for a model of `config`, into `folder`."""
    size = int(config["vocab_size"])
    table = _trained(size)
    model = table["model"]
    specials = _special_ids(config, size)
    model["vocab"] = vocabulary(model["vocab"], specials, size)
    for entry in table["added_tokens"]:
        entry["id"] = specials[entry["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(table, separators=(",", ":")))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "pad_token": _END,
        "model_max_length": config.get("max_position_embeddings", 32768),
        "clean_up_tokenization_spaces": False,
        "chat_template": chatml.TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def _trained(size: int) -> dict[str, Any]:
    """A tokenizer.json, trained on the shipped text, with Qwen's special tokens as its first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, _TRAINED),
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(sorted(map(str, (places.config_dir() / "text").glob("*.txt"))), trainer)
    table: dict[str, Any] = json.loads(tokenizer.to_str())
    return table


def _special_ids(config: Mapping[str, Any], size: int) -> dict[str, int]:
    """Where the special tokens go: behind the end of text as the config has it, as Qwen's do."""
    end = config.get("eos_token_id", 0)
    fits = isinstance(end, int) and 0 <= end <= size - len(_SPECIAL)
    first = end if fits and (end == 0 or end >= _TRAINED) else 0
    return {token: first + n for n, token in enumerate(_SPECIAL)}


def vocabulary(
    trained: Mapping[str, int], specials: Mapping[str, int], size: int
) -> dict[str, int]:
    """Every id below `size` by its token: `specials` moved, the trained kept, the rest made up."""
    tokens = {index: token for token, index in trained.items() if token not in specials}
    tokens |= {index: token for token, index in specials.items()}
    spare = (word for word in _words() if word not in trained)
    return {tokens[i] if i in tokens else next(spare): i for i in range(size)}


def _words() -> Iterator[str]:
    """Words of two and more syllables, each with a space before it as byte-level BPE writes it."""
    syllables = [c + v for c in _CONSONANTS for v in _VOWELS]
    for length in itertools.count(2):
        for parts in itertools.product(syllables, repeat=length):
            yield "\u0120" + "".join(parts)
