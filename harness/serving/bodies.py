"""Request bodies of completions and chat, and what they ask for; anything else is refused.

Greedy only: without `temperature` it is 0, and a higher one is refused rather than ignored, for the
answer would be another than was asked for. `seed`, `top_p` and `top_k` change nothing then and are
accepted, as are members that are not known. Null means absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from harness.serving.refusal import ApiError

_MAX_STOPS = 16
_MAX_STOP = 1000
_MAX_USER = 512
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
T = TypeVar("T")


class StreamOptions(Struct):
    """Where usage is told: at the end, and with `continuous_usage_stats` in every event."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Body(Struct, kw_only=True):
    """What both endpoints take."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None
    stop: str | list[str] | None = None
    user: str | None = None
    return_token_ids: bool | None = None
    temperature: float | None = None
    n: int | None = None
    best_of: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None


class CompletionBody(Body, kw_only=True):
    """POST /v1/completions."""

    prompt: msgspec.Raw
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None


class Part(Struct):
    """A piece of a message's content."""

    type: str
    text: str | None = None


class Message(Struct):
    """One message of a conversation."""

    role: str
    content: str | list[Part] | None = None


class ChatBody(Body, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


_COMPLETION = msgspec.json.Decoder(CompletionBody)
_CHAT = msgspec.json.Decoder(ChatBody)
_TEXT = msgspec.json.Decoder(str | Annotated[list[str], Meta(min_length=1, max_length=1)])
_IDS = msgspec.json.Decoder(list[Count])
_NESTED = msgspec.json.Decoder(Annotated[list[list[Count]], Meta(min_length=1, max_length=1)])


def completion_body(data: bytes) -> CompletionBody:
    """The body in `data`. Raises ApiError where it is malformed, or asks for what there is not."""
    body = _decoded(_COMPLETION.decode, data)
    _check(body)
    for name, asked in (
        ("suffix", body.suffix),
        ("echo", body.echo),
        ("logprobs", body.logprobs is not None),
    ):
        _refuse_if(name, bool(asked))
    return body


def chat_body(data: bytes) -> ChatBody:
    """The body in `data`. Raises ApiError where it is malformed, or asks for what there is not."""
    body = _decoded(_CHAT.decode, data)
    _check(body)
    for name, asked in (
        ("logprobs", body.logprobs),
        ("top_logprobs", body.top_logprobs),
        ("tools", body.tools),
        ("functions", body.functions),
    ):
        _refuse_if(name, bool(asked))
    return body


def _decoded(decode: Callable[[bytes], T], data: bytes, param: str | None = None) -> T:
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `")
        where = path.strip("`").removeprefix("$").removeprefix(".")
        param = param or where or None
        name = f"{param}: " if param else ""
        raise ApiError(400, f"{name}{text}", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from error


def _refuse_if(name: str, asked: bool, why: str = "is not supported here") -> None:
    if asked:
        raise ApiError(400, f"{name} {why}", param=name, code="unsupported")


def _check(body: Body) -> None:
    greedy = "decoding here is greedy: leave it out, or give 0"
    _refuse_if("temperature", bool(body.temperature), f"is {body.temperature}, but {greedy}")
    one = "must be 1: each request gets one answer"
    _refuse_if("n", body.n not in (None, 1), one)
    _refuse_if("best_of", body.best_of not in (None, 1), one)
    for name, neutral in (
        ("presence_penalty", 0),
        ("frequency_penalty", 0),
        ("repetition_penalty", 1),
    ):
        _refuse_if(
            name, getattr(body, name) not in (None, neutral), f"is not supported: give {neutral}"
        )
    _refuse_if("logit_bias", bool(body.logit_bias))
    form = (body.response_format or {}).get("type", "text")
    _refuse_if("response_format", form != "text", "is not supported beyond text")
    if body.max_tokens == 0:
        raise ApiError(400, "max_tokens is 0: ask for one token or more", param="max_tokens")
    if body.user is not None and len(body.user) > _MAX_USER:
        raise ApiError(400, f"user is longer than {_MAX_USER} characters", param="user")


def stops(body: Body) -> list[str]:
    """The texts that end the answer."""
    found = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(found) > _MAX_STOPS or any(not 0 < len(s) <= _MAX_STOP for s in found):
        raise ApiError(
            400, f"stop takes up to {_MAX_STOPS} texts of 1 to {_MAX_STOP} characters", param="stop"
        )
    return found


def prompt(body: CompletionBody) -> str | list[int]:
    """The prompt as text or token ids. A list of one prompt is that prompt; more are refused."""
    data = bytes(body.prompt)
    inside = data[1:].lstrip()[:1] if data[:1] == b"[" else b""
    if inside == b"[":
        ids: list[int] = _decoded(_NESTED.decode, data, "prompt")[0]
        return ids
    if inside in (b"", b'"'):
        text = _decoded(_TEXT.decode, data, "prompt")
        return text if isinstance(text, str) else text[0]
    return _decoded(_IDS.decode, data, "prompt")


def messages(body: ChatBody) -> list[dict[str, str]]:
    """Role and text of each message. Raises ApiError for content other than text."""
    return [{"role": m.role, "content": _text(m.content)} for m in body.messages]


def _text(content: str | list[Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if any(part.type != "text" or part.text is None for part in content):
        raise ApiError(400, "messages: content other than text is not supported", param="messages")
    return "\n".join(part.text or "" for part in content)
