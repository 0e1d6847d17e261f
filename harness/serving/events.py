"""The bytes of answers: one event for each token, made from parts that do not change.

An event of a stream costs little more than its text: all but text, finish and counts is encoded
once for each request.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from harness.serving.refusal import ApiError

Kind = Literal["completions", "chat"]
DONE = b"data: [DONE]\n\n"
_json = msgspec.json.encode
_OBJECTS = {"completions": "text_completion", "chat": "chat.completion"}
_PREFIXES = {"completions": "cmpl", "chat": "chatcmpl"}


class Head(Struct):
    """What all events of an answer share. `number` tells answers of one server apart."""

    kind: Kind
    number: str
    created: int  # seconds since 1970
    model: str
    input_tokens: int

    def members(self, thing: str) -> dict[str, Any]:
        """The members before `choices`."""
        return {
            "id": f"{_PREFIXES[self.kind]}-{self.number}",
            "object": thing,
            "created": self.created,
            "model": self.model,
        }

    def usage(self, output_tokens: int) -> dict[str, Any]:
        """Token counts. No prefix is cached here, so that no input token was."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self.input_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
        }


class Events:
    """Server-sent events of one answer, each with the blank line behind it.

    `prompt_ids` are told with the first token, and then the id of each token with it. With
    `continuous` the counts so far are in every event, with `usage` they come at the end.
    """

    def __init__(
        self,
        head: Head,
        *,
        usage: bool = False,
        continuous: bool = False,
        prompt_ids: list[int] | None = None,
    ) -> None:
        self._head, self._usage, self._continuous = head, usage, continuous
        self._ids = prompt_ids is not None
        chat = head.kind == "chat"
        thing = "chat.completion.chunk" if chat else "text_completion"
        opened = _json(head.members(thing))[:-1] + b',"choices":[{"index":0,'
        self._before = b"data: " + opened + (b'"delta":{"content":' if chat else b'"text":')
        self._after = (b"}" if chat else b"") + b',"logprobs":null,"finish_reason":'
        self._first = self._before
        if chat:
            self._first = self._before.replace(b'{"content":', b'{"role":"assistant","content":')
        self._prompt = b""
        if prompt_ids is not None:
            self._prompt = b',"prompt_token_ids":' + _json(prompt_ids)

    def token(self, text: str, token: int, finish: str | None, count: int) -> bytes:
        """The event of the `count`th token."""
        parts = [self._first if count == 1 else self._before, _json(text), self._after]
        parts.append(b"null" if finish is None else _json(finish))
        if self._ids:
            parts.append(b',"token_ids":[%d]' % token)
        parts.append(b"}]")
        if self._ids and count == 1:
            parts.append(self._prompt)
        if self._continuous:
            parts += (b',"usage":', self._counts(count))
        elif self._usage:
            parts.append(b',"usage":null')
        parts.append(b"}\n\n")
        return b"".join(parts)

    def _counts(self, count: int) -> bytes:
        given = self._head.input_tokens
        return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
            given,
            count,
            given + count,
        )

    def end(self, count: int) -> bytes:
        """What follows the last token: the usage where it was asked for, and the end mark."""
        if not self._usage:
            return DONE
        thing = "chat.completion.chunk" if self._head.kind == "chat" else "text_completion"
        last = {**self._head.members(thing), "choices": [], "usage": self._head.usage(count)}
        return b"data: " + _json(last) + b"\n\n" + DONE


def error_event(error: ApiError) -> bytes:
    """The event that tells of `error` in the middle of a stream, and the end mark."""
    return b"data: " + error.body() + b"\n\n" + DONE


def whole(
    head: Head,
    text: str,
    finish: str,
    count: int,
    ids: tuple[list[int], list[int]] | None = None,
) -> bytes:
    """An answer in one piece; `ids` are those of prompt and output where they were asked for."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
    if head.kind == "chat":
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    body = {**head.members(_OBJECTS[head.kind]), "choices": [choice], "usage": head.usage(count)}
    if ids is not None:
        body["prompt_token_ids"], choice["token_ids"] = ids
    return _json(body)
