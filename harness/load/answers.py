"""What a completion, chat or responses answer says: when its tokens came, how many, how it ended.

Streams and whole answers, by the APIs of OpenAI (https://platform.openai.com/docs/api-reference)
and what vLLM, SGLang, llama.cpp and others add to them: reasoning channels, token ids, running
usage. Nothing a server sends raises; what makes no sense is noted.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import msgspec

from harness.load.events import Event, EventStream
from harness.load.framing import HttpAnswer
from harness.load.tokens import MOST_TOKENS, Counted, Row, count
from harness.records.load import Endpoint

MOST_ERROR_BYTES = 1 << 16  # of an error's body
_ENDS = {"response.completed", "response.incomplete", "response.failed"}
_VISIBLE = ("content", "text", "refusal", "tool_calls", "function_call", "audio")
_REASONING = ("reasoning_content", "reasoning", "thinking")


class Usage(NamedTuple):
    """The server's own counts."""

    input: int | None
    output: int | None
    cached: int | None
    reasoning: int | None


class Answer:
    """One answer, read piece by piece as it came; complete after `end`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.http = HttpAnswer(self._body)
        self.rows: list[Row] = []
        self.events = 0  # with tokens or not, comments aside
        self.usage: Usage | None = None
        self.finish: str | None = None
        self.error: str | None = None
        self.done = False  # the stream said that it was over
        self.streamed = True
        self.notes: list[str] = []
        self.ids: list[int] = []  # of the first choice, where the server tells
        self.said: list[str] = []  # visible text of the first choice
        self.raw = b""  # the body where it is an error's
        self._stream: EventStream | None = None
        self._kept: list[tuple[bytes, int]] = []
        self._no_json = 0
        self._choices: set[int] = set()

    def feed(self, piece: bytes, at_ns: int) -> None:
        """Take the bytes of one read."""
        self.http.feed(piece, at_ns)

    def end(self, *, closed: bool) -> None:
        """No more comes; `closed` where the server hung up."""
        self.http.end(closed=closed)
        if self._stream is not None:
            rest = self._stream.rest()
            if rest is not None and self.http.complete:
                self.notes.append("the last event had no blank line after it")
                self._event(rest, self.http.last_ns)
        elif self.http.status is not None and self.http.status < 300:
            self._whole()
        else:
            self.raw = b"".join(piece for piece, _ in self._kept)[:MOST_ERROR_BYTES]
        self._kept.clear()
        if self._no_json:
            self.notes.append(f"{self._no_json} events were not JSON")
        if len(self._choices) > 1:
            self.notes.append(f"{len(self._choices)} choices, their tokens counted together")

    @property
    def text(self) -> str:
        """What the first choice says, reasoning left out."""
        return "".join(self.said)

    def counted(self) -> Counted:
        """Chunks and tokens; adds to `notes` where counts disagree."""
        counted = count(self.rows, self.usage.output if self.usage else None, self.finish)
        self.notes += counted.notes
        return counted

    def _body(self, piece: bytes, at_ns: int) -> None:
        if self._stream is None:
            kind = self.http.headers.get("content-type", "").lower()
            if (self.http.status or 0) >= 300 or not kind.startswith("text/event-stream"):
                self._kept.append((piece, at_ns))
                return
            self._stream = EventStream()
        for event in self._stream.feed(piece):
            self._event(event, at_ns)

    def _whole(self) -> None:
        """A body that did not call itself an event stream: one JSON answer, or a stream yet."""
        body = b"".join(piece for piece, _ in self._kept)
        if not body.strip():
            return
        message = decoded(body)
        if isinstance(message, dict):
            self.streamed = False
            self.notes.append("the answer came whole, not as a stream")
            self.events += 1
            self._message(message, b"", self._kept[-1][1])
            self.done = True
            return
        kind = self.http.headers.get("content-type")
        self.notes.append(f"the answer's type is {kind}, read as an event stream")
        stream = EventStream()
        for piece, at_ns in self._kept:
            for event in stream.feed(piece):
                self._event(event, at_ns)
        if not self.events:
            self.error = f"neither JSON nor an event stream: {body[:MOST_ERROR_BYTES]!r}"

    def _event(self, event: Event, at_ns: int) -> None:
        self.events += 1
        if self.done:
            return
        if event.data.strip() == b"[DONE]":
            self.done = True
            return
        message = decoded(event.data)
        if isinstance(message, dict):
            self._message(message, event.name, at_ns)
        elif event.name == b"error":
            self.error = self.error or event.data.decode(errors="replace")
        else:
            self._no_json += 1

    def _message(self, message: dict[str, Any], name: bytes, at_ns: int) -> None:
        fault = error_in(message)
        if fault is None and name == b"error":
            fault = str(message.get("message") or message)
        if fault is not None:
            self.error = self.error or fault
            return
        if self.endpoint == "responses":
            self._response(message, at_ns)
        else:
            self._completion(message, at_ns)

    def _completion(self, message: dict[str, Any], at_ns: int) -> None:
        running = self._take_usage(message.get("usage"))
        choices = message.get("choices")
        if not isinstance(choices, list) or not choices:
            return
        kind, ids, said = 0, None, ""
        for choice in choices:
            if isinstance(choice, dict):
                one, tokens, text = self._choice(choice)
                kind = max(kind, one)
                said += text
                if tokens is not None:
                    ids = (ids or 0) + tokens
        self.rows.append(Row(at_ns, kind, ids, running, said))

    def _choice(self, choice: dict[str, Any]) -> tuple[int, int | None, str]:
        """(kind, tokens if told, visible text of the first choice) of one choice of an event."""
        index = choice.get("index")
        number = index if isinstance(index, int) else 0
        delta = choice.get("delta") or choice.get("message")
        parts = delta if isinstance(delta, dict) else choice
        kind = 2 if any(map(parts.get, _VISIBLE)) else 1 if any(map(parts.get, _REASONING)) else 0
        if kind:
            self._choices.add(number)
        finish = choice.get("finish_reason")
        if isinstance(finish, str) and finish and (self.finish is None or number == 0):
            self.finish = finish
        tokens = self._ids(choice, parts, first=number == 0)
        text = parts.get("text") if parts is choice else parts.get("content")
        if number == 0 and isinstance(text, str) and text:
            self.said.append(text)
            return kind, tokens, text
        return kind, tokens, ""

    def _ids(self, choice: dict[str, Any], parts: dict[str, Any], *, first: bool) -> int | None:
        """How many tokens a choice tells of: their ids, or their log probabilities."""
        for holder in (choice, parts):
            for key in ("token_ids", "tokens"):
                ids = holder.get(key)
                if isinstance(ids, list):
                    if first and all(type(i) is int for i in ids):
                        self.ids += ids
                    return len(ids)
        probabilities = choice.get("logprobs")
        if isinstance(probabilities, dict):
            listed = [probabilities.get(k) for k in ("content", "tokens", "refusal")]
            lengths = [len(one) for one in listed if isinstance(one, list)]
            return sum(lengths) if lengths else None
        return None

    def _response(self, message: dict[str, Any], at_ns: int) -> None:
        kind = message.get("type")
        name = kind if isinstance(kind, str) else ""
        inner = message.get("response")
        if name in _ENDS:
            self.done = True
            self._response_end(inner if isinstance(inner, dict) else {})
        elif name.endswith(".delta"):
            delta = message.get("delta")
            if not delta:
                return
            reasoning = ".reasoning" in name
            probabilities = message.get("logprobs")
            tokens = len(probabilities) if isinstance(probabilities, list) else None
            text = delta if isinstance(delta, str) and "output_text" in name else ""
            if text:
                self.said.append(text)
            self.rows.append(Row(at_ns, 1 if reasoning else 2, tokens or None, None, text))
        elif message.get("object") == "response":
            self._response_end(message)
            text = _output_text(message)
            self.said.append(text)
            self.rows.append(Row(at_ns, 2 if message.get("output") else 0, None, None, text))

    def _response_end(self, response: dict[str, Any]) -> None:
        self._take_usage(response.get("usage"))
        details = response.get("incomplete_details")
        status = response.get("status")
        reason = details.get("reason") if isinstance(details, dict) else None
        self.finish = str(reason or status) if reason or status else None
        self.error = self.error or error_in(response)
        if self.finish == "failed" and self.error is None:
            self.error = "the server says that the response failed"

    def _take_usage(self, usage: object) -> int | None:
        """Keep the newest usage; the output tokens it tells of."""
        if not isinstance(usage, dict):
            return None
        told = _usage(usage)
        if max(n or 0 for n in told) > MOST_TOKENS:
            self.error = self.error or f"the usage counts more than {MOST_TOKENS:,} tokens"
            return None
        self.usage = told
        return told.output


def decoded(data: bytes) -> Any:
    """`data` as JSON, None where it is none; unclean UTF-8 and NaN are let pass."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    try:
        return json.loads(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None


def error_in(message: dict[str, Any]) -> str | None:
    """The error a message tells of, in the server's words."""
    error = message.get("error")
    if error is None and message.get("object") == "error":
        error = message
    if error is None and message.get("type") == "error":
        error = message
    if not error:
        return None
    if isinstance(error, dict):
        words = [str(error[k]) for k in ("code", "type", "message") if error.get(k)]
        return ": ".join(words) or json.dumps(error)
    return str(error)


def _usage(usage: dict[str, Any]) -> Usage:
    def number(*names: str, of: object = usage) -> int | None:
        if isinstance(of, dict):
            for name in names:
                value = of.get(name)
                if type(value) is int and value >= 0:
                    return value
        return None

    before = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    after = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    return Usage(
        number("prompt_tokens", "input_tokens"),
        number("completion_tokens", "output_tokens"),
        number("cached_tokens", of=before),
        number("reasoning_tokens", of=after),
    )


def _output_text(response: dict[str, Any]) -> str:
    """The text of a whole answer of the responses API."""
    output = response.get("output")
    texts: list[str] = []
    for item in output if isinstance(output, list) else []:
        content = item.get("content") if isinstance(item, dict) else None
        for part in content if isinstance(content, list) else []:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
    return "".join(texts)
