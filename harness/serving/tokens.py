"""Text to token ids and back: a checkpoint's tokenizer.json, and text that comes token by token.

Qwen's tokenizers are byte-level BPE: a token is a sequence of bytes, which need not end where a
character does. Text is therefore made from the bytes of tokens, and a character leaves only when it
is whole.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.errors import ArmbenchError
from harness.model.chatml import END
from harness.model.checkpoint import read_json

_MAX_FILE = 64 * 2**20  # Qwen's has 11 MiB


def _byte_of_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable bytes stand for themselves, the others for 256 and up in order: GPT-2's encoder.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_of_character()


class Tokenizer:
    """The tokenizer of one checkpoint. Raises ArmbenchError where its file is of no use."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ArmbenchError(f"the checkpoint has no {path.name}")
        if path.stat().st_size > _MAX_FILE:
            raise ArmbenchError(f"{path} is larger than {_MAX_FILE >> 20} MiB")
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders

        try:
            self._library = Library.from_file(str(path))
        except Exception as error:  # the tokenizer library raises bare Exception
            raise ArmbenchError(f"{path} cannot be read: {error}") from error
        if not isinstance(self._library.decoder, decoders.ByteLevel):
            raise ArmbenchError(f"{path} is no byte-level tokenizer, the kind that Qwen's are")
        added = self._library.get_added_tokens_decoder()
        self._special = {token for token, entry in added.items() if entry.special}
        self._known: dict[int, bytes] = {}

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids of `text`; with `special` also what the tokenizer puts around every text.

        Holds no lock of the interpreter, so that another thread may do it.
        """
        found = self._library.encode_batch([text], add_special_tokens=special)
        ids: list[int] = found[0].ids
        return ids

    def id_of(self, token: str) -> int | None:
        """The id of `token`, None where it is none."""
        found: int | None = self._library.token_to_id(token)
        return found

    def bytes_of(self, token: int) -> bytes:
        """What `token` adds to a text; special and unknown tokens add nothing."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._look_up(token)
        return known

    def _look_up(self, token: int) -> bytes:
        characters = None if token in self._special else self._library.id_to_token(token)
        if characters is None:
            return b""
        try:
            return bytes([_BYTES[c] for c in characters])
        except KeyError:  # an added token is written as it is
            return str(characters).encode()


class TextStream(Protocol):
    """Text of one sequence, from its tokens one by one."""

    @property
    def stopped(self) -> bool:
        """Whether a stop text came; nothing is added any more."""

    def add(self, token: int) -> str:
        """The text that is whole with `token`."""

    def flush(self) -> str:
        """What was still held back, at the end."""


class Decoded:
    """Text by a tokenizer, up to the first of `stops` after `least` tokens, which is left out.

    Held back are half characters, and what may become a stop.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), least: int = 0) -> None:
        self._bytes_of = tokenizer.bytes_of
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._stops, self._least = stops, least
        self._held = ""
        self._count = 0
        self.stopped = False

    def add(self, token: int) -> str:
        text = self._decode(self._bytes_of(token))
        if not self._stops:
            return text
        self._count += 1
        return self._up_to_stop(text)

    def _up_to_stop(self, text: str) -> str:
        text, self._held = self._held + text, ""
        if self._count <= self._least:
            return text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        keep = max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        if self.stopped:
            return ""
        return self._held + self._decode(b"", True)


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)


class Numbers:
    """Text where there is no tokenizer: each token's id in decimal, with a space before it."""

    stopped = False

    def add(self, token: int) -> str:
        return f" {token}"

    def flush(self) -> str:
        return ""


def eos_tokens(folder: Path, config: dict[str, Any], tokenizer: Tokenizer | None) -> list[int]:
    """Every token that ends a sequence: by generation_config, config, tokenizer and ChatML."""
    found: set[int] = set()
    generation = folder / "generation_config.json"
    for table in (config, read_json(generation) if generation.is_file() else {}):
        value = table.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        found |= {i for i in ids if isinstance(i, int) and not isinstance(i, bool)}
    if tokenizer is not None:
        names = {END, token_text(settings_of(folder), "eos_token")}
        found |= {i for name in names if name and (i := tokenizer.id_of(name)) is not None}
    return sorted(found)


def settings_of(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json; empty where there is none."""
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def token_text(settings: dict[str, Any], key: str) -> str | None:
    """A token that tokenizer_config.json names, plainly or as an object with its content."""
    value = settings.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
