"""Prompts that a user brings: a JSONL with `prompt`, `text` or `messages` on each line.

`output_tokens` or `max_tokens` beside them is the length of the answer to ask for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from harness.errors import ArmbenchError
from harness.load.lines import bad_line, numbered_lines

MOST = 100_000
_MOST_OUTPUT = 10_000_000


class Given(NamedTuple):
    """One prompt: text, or the messages of a chat."""

    prompt: str | None
    messages: list[dict[str, Any]] | None
    output_tokens: int | None


class _Line(Struct):
    prompt: str | None = None
    text: str | None = None
    messages: list[dict[str, Any]] | None = None
    output_tokens: int | None = None
    max_tokens: int | None = None


def read_prompts(path: Path) -> list[Given]:
    """The prompts of the JSONL at `path`, in order.

    Raises ArmbenchError, with the number of the line, for a file that is none.
    """
    found: list[Given] = []
    for number, text in numbered_lines(path, "prompt file"):
        if len(found) == MOST:
            raise ArmbenchError(f"prompt file {path} has more than {MOST} prompts")
        try:
            found.append(_given(msgspec.json.decode(text, type=_Line)))
        except (ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise bad_line(path, number, "prompt file", error) from error
    if not found:
        raise ArmbenchError(
            f"prompt file {path} is empty", hint='write one {"prompt": "…"} on each line'
        )
    return found


def _given(line: _Line) -> Given:
    ways = [way for way in (line.prompt, line.text, line.messages) if way]
    if len(ways) != 1:
        raise ValueError("give one of prompt, text and messages, not empty")
    output = line.output_tokens if line.output_tokens is not None else line.max_tokens
    if output is not None and not 0 < output <= _MOST_OUTPUT:
        raise ValueError(f"{output} output tokens")
    return Given(line.prompt or line.text, line.messages, output)
