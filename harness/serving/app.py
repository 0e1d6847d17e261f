"""The HTTP face: OpenAI's completions and chat, health, metrics, and our own view of the work."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from harness import wire
from harness.serving import bodies
from harness.serving.answers import JSON, Collected, Streamed, reply
from harness.serving.events import Events, Head, Kind
from harness.serving.face import Face
from harness.serving.meters import CONTENT_TYPE
from harness.serving.pipe import CONNECTION, Connection, Pipe
from harness.serving.refusal import ApiError

_MAX_KEY = 200
_REPORT_S = 60.0
_DROP = 8  # times the longest body are read before the connection is closed


class Endpoint:
    """POST of one kind of body, as an ASGI application: responses go out without detours."""

    def __init__(self, face: Face, kind: Kind) -> None:
        self.face, self.kind = face, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number = self.face.number()
        key = _key(scope) or number
        headers = [(b"x-request-id", key.encode())]
        try:
            data = await _read(scope, receive, self.face.max_body)
            if data is not None:
                await self._answer(scope[CONNECTION], send, data, key, number)
        except ApiError as error:
            headers += [*JSON, *error.headers()]
            if error.status == 413:
                headers.append((b"connection", b"close"))  # the rest of the body is not wanted
            await reply(send, error.status, headers, error.body())

    async def _answer(
        self, connection: Connection, send: Send, data: bytes, key: str, number: str
    ) -> None:
        queued_ns = time.monotonic_ns()
        face = self.face
        body = bodies.chat_body(data) if self.kind == "chat" else bodies.completion_body(data)
        face.check_model(body.model)
        client = body.user or (connection.client or ("",))[0]
        face.link.choose(client)  # or it is refused before its prompt is read
        tokens = await face.tokens(body)
        most = face.max_tokens(body, len(tokens))
        answer = self._begin(body, tokens, connection, number)
        if connection.lost:
            return
        entry = face.link.choose(client).submit(
            answer,
            tokens,
            client=client,
            key=key,
            queued_ns=queued_ns,
            max_tokens=most,
            min_tokens=min(body.min_tokens or 0, most),
            ignore_eos=bool(body.ignore_eos),
        )

        def lost() -> None:
            face.link.cancel(entry)
            answer.gone()

        connection.on_lost = lost
        try:
            await answer.send(send, [(b"x-request-id", key.encode())])
        finally:
            connection.on_lost = None
            face.link.cancel(entry)  # does nothing unless sending was cut off

    def _begin(
        self, body: bodies.Body, tokens: list[int], connection: Connection, number: str
    ) -> Streamed | Collected:
        head = Head(self.kind, number, int(time.time()), self.face.service.name, len(tokens))
        text = self.face.text(body)
        ids = tokens if body.return_token_ids else None
        if not body.stream:
            return Collected(text, head, ids)
        options = body.stream_options or bodies.StreamOptions()
        made = Events(
            head,
            usage=bool(options.include_usage),
            continuous=bool(options.continuous_usage_stats),
            prompt_ids=ids,
        )
        return Streamed(text, made, Pipe(connection))


def _key(scope: Scope) -> str | None:
    """The client's X-Request-Id, where it is one that can be sent back."""
    value = next((v for name, v in scope["headers"] if name == b"x-request-id"), b"")
    text: str = value.decode("latin-1")
    return text if 0 < len(text) <= _MAX_KEY and text.isascii() and text.isprintable() else None


async def _read(scope: Scope, receive: Receive, most: int) -> bytes | None:
    """The body; None where the client left. Raises ApiError where it is longer than `most`.

    The rest of one that is too long is read and dropped within reason: most clients listen only
    when all is sent.
    """
    told = next((v for name, v in scope["headers"] if name == b"content-length"), b"0")
    size, parts = int(told) if told.isdigit() else 0, []
    read = 0
    while size <= _DROP * most:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        read += len(parts[-1])
        size = max(size, read)
        if size > most:
            parts.clear()
        if not message.get("more_body", False):
            break
    if size > most:
        raise ApiError(413, f"the body is larger than {most} bytes", code="request_too_large")
    return b"".join(parts)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


class Views:
    """Everything that is not an answer of the model."""

    def __init__(self, face: Face) -> None:
        self.face, self.link = face, face.link
        self.created = int(time.time())

    async def models(self, _: Request) -> Response:
        model = {
            "id": self.face.service.name,
            "object": "model",
            "created": self.created,
            "owned_by": "armbench",
            "max_model_len": self.link.longest,
        }
        return _json({"object": "list", "data": [model]})

    async def health(self, _: Request) -> Response:
        """200 while requests are taken, if only by some engines (degraded), else 503."""
        status, reason = "ok", None
        if dead := self.link.dead:
            status, reason = "dead" if self.link.all_dead else "degraded", "; ".join(dead)
        if self.link.why_closed is not None and not self.link.all_dead:
            status, reason = "draining", self.link.why_closed.message
        here: dict[str, Any] = {"status": status, "reason": reason, "requests": self.link.requests}
        here |= msgspec.structs.asdict(self.face.ready)
        here["instances"] = self.link.states([one.cpus for one in self.face.ready.instances])
        return _json(here, 200 if status in ("ok", "degraded") else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(self.link.metrics(), headers={"content-type": CONTENT_TYPE})

    async def log(self, _: Request) -> Response:
        """records.load.ServerSeen since the mark: what has ended, and every step."""
        return _json(self.link.journal.seen())

    async def mark(self, _: Request) -> Response:
        """Begin the log, and the engine's usage, anew."""
        await self._ask(wire.Mark())
        self.link.journal.mark()
        return _json({"marked_ns": time.monotonic_ns()})

    async def report(self, _: Request) -> Response:
        """wire.Reported of each engine (null of a dead one), and our own CPU seconds.

        `engine` is the first that lives.
        """
        reported = await self._ask(wire.Report())
        own = os.times()
        first = next(one for one in reported if one is not None)
        return _json({"engine": first, "engines": reported, "server_cpu_s": own.user + own.system})

    async def _ask(self, request: wire.Mark | wire.Report) -> list[wire.Reply | None]:
        try:
            answers = await asyncio.wait_for(self.link.ask(request), _REPORT_S)
        except TimeoutError:
            raise ApiError(503, f"no step ended within {_REPORT_S:.0f} s") from None
        for answer in answers:
            if isinstance(answer, wire.Failed):
                raise ApiError(500, f"the engine process: {answer.kind}: {answer.message}")
        return answers


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(
        error.body(),
        error.status,
        headers={k.decode(): v.decode() for k, v in [*JSON, *error.headers()]},
    )


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}"
    return await _refused(request, ApiError(error.status_code, what))


async def _broken(request: Request, error: Exception) -> Response:
    return await _refused(request, ApiError(500, f"the server failed: {type(error).__name__}"))


def make_app(face: Face) -> Starlette:
    """The application over `face`."""
    views = Views(face)
    gets: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/v1/models": views.models,
        "/health": views.health,
        "/metrics": views.metrics,
        "/armbench/log": views.log,
        "/armbench/report": views.report,
    }
    handlers: dict[Any, Any] = {
        ApiError: _refused,
        HTTPException: _not_routed,
        Exception: _broken,
    }
    return Starlette(
        routes=[
            Route("/v1/completions", Endpoint(face, "completions"), methods=["POST"]),
            Route("/v1/chat/completions", Endpoint(face, "chat"), methods=["POST"]),
            Route("/armbench/mark", views.mark, methods=["POST"]),
            *(Route(path, view) for path, view in gets.items()),
        ],
        exception_handlers=handlers,
    )
