"""One answer that is being made: tokens come in from the engine's link, bytes go to the client."""

from __future__ import annotations

import asyncio

from harness.serving import events
from harness.serving.events import Events, Head
from harness.serving.pipe import Pipe, Send
from harness.serving.refusal import ApiError
from harness.serving.scheduler import Finish
from harness.serving.tokens import TextStream

_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
JSON = [(b"content-type", b"application/json")]
Headers = list[tuple[bytes, bytes]]


def piece(text: TextStream, token: int, finish: Finish | None) -> tuple[str, Finish | None]:
    """(what `token` adds, how the answer ends with it): a stop text ends it too."""
    added = text.add(token)
    if text.stopped:
        return added, "stop"
    return (added + text.flush() if finish else added), finish


class Streamed:
    """An answer as events, each written when its token comes."""

    def __init__(self, text: TextStream, made: Events, pipe: Pipe) -> None:
        self.text, self.events, self.pipe = text, made, pipe
        self.count = 0
        self.error: ApiError | None = None

    def token(self, token: int, finish: Finish | None) -> Finish | None:
        self.count += 1
        added, finish = piece(self.text, token, finish)
        body = self.events.token(added, token, finish, self.count)
        if finish is None:
            self.pipe.write(body)
        else:
            self.pipe.write(body + self.events.end(self.count), last=True)
        return finish

    def fail(self, error: ApiError) -> None:
        self.error = error
        if self.count:
            self.pipe.write(events.error_event(error), last=True)
        else:
            self.pipe.wake()

    def gone(self) -> None:
        """The client is."""
        self.pipe.wake()

    async def send(self, send: Send, headers: Headers) -> None:
        """Answer. The status goes with the first token: a failure before it has its own.

        Raises ApiError for that.
        """
        await self.pipe.begun()
        if self.error is not None and not self.count:
            raise self.error
        if self.count:
            start = {"type": "http.response.start", "status": 200, "headers": _STREAM + headers}
            await send(start)
            await self.pipe.run(send)


class Collected:
    """An answer in one piece, sent when it is complete."""

    def __init__(self, text: TextStream, head: Head, prompt_ids: list[int] | None) -> None:
        self.text, self.head, self.prompt_ids = text, head, prompt_ids
        self.parts: list[str] = []
        self.ids: list[int] = []
        self.body: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def token(self, token: int, finish: Finish | None) -> Finish | None:
        added, finish = piece(self.text, token, finish)
        self.parts.append(added)
        self.ids.append(token)
        if finish is not None and not self.body.done():
            ids = None if self.prompt_ids is None else (self.prompt_ids, self.ids)
            text = "".join(self.parts)
            self.body.set_result(events.whole(self.head, text, finish, len(self.ids), ids))
        return finish

    def fail(self, error: ApiError) -> None:
        if not self.body.done():
            self.body.set_exception(error)

    def gone(self) -> None:
        """The client is."""
        if not self.body.done():
            self.body.set_result(b"")

    async def send(self, send: Send, headers: Headers) -> None:
        """Answer. Raises ApiError where the request failed."""
        if body := await self.body:
            await reply(send, 200, JSON + headers, body)


async def reply(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
