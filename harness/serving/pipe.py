"""From a token to a client's socket: at once where the client reads, bounded where it does not."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
MAX_PENDING = 2**18  # bytes for one client, behind the transport's own 64 KiB and the kernel's
CONNECTION = "armbench.connection"  # key of the scope


class Connection(HttpToolsProtocol):
    """A client's connection, which tells the application when it is lost and when it is stuck."""

    on_lost: Callable[[], None] | None = None
    stuck = False  # what is written now stays in this process

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[CONNECTION] = self

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.stuck = False
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        self.stuck = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stuck = False
        super().resume_writing()

    @property
    def lost(self) -> bool:
        return bool(self.transport.is_closing())

    def abort(self) -> None:
        """Reset it: what the client has not read is dropped here and in the kernel."""
        found = self.transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Pipe:
    """The body of one response. What a client does not read is kept up to `MAX_PENDING` bytes.

    A write goes to the socket before it returns, unless earlier ones still wait.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pending: list[bytes] = []
        self._size = 0
        self._send: Send | None = None  # set while writes may go straight through
        self._complete = False  # no write follows
        self._sent = False  # all of it is with the transport
        self._news = asyncio.Event()

    def write(self, body: bytes, *, last: bool = False) -> None:
        """Send `body`. The connection of a client that reads too slowly is cut."""
        if self._connection.lost:
            return
        if self._send is not None and not self._connection.stuck:
            self._straight(self._send, body, last)
            return
        self._pending.append(body)
        self._size += len(body)
        self._complete = last
        if self._size > MAX_PENDING:
            self._connection.abort()
        self._news.set()

    def _straight(self, send: Send, body: bytes, last: bool) -> None:
        """Run `send` to its end here, which does not wait where the connection is not stuck."""
        coroutine = send({"type": "http.response.body", "body": body, "more_body": not last})
        try:
            coroutine.__await__().send(None)
        except StopIteration:
            if last:
                self._sent = True
                self._news.set()
            return
        raise RuntimeError("a response had to wait, though its client takes data")

    def wake(self) -> None:
        """Let `begun` and `run` look again at what has changed outside."""
        self._news.set()

    async def begun(self) -> None:
        """Wait for the first write, or for `wake`."""
        await self._news.wait()

    async def run(self, send: Send) -> None:
        """Send all writes until the last is out or the connection is lost."""
        while not (self._sent or self._connection.lost):
            self._news.clear()
            if self._pending:
                body, self._pending, self._size = b"".join(self._pending), [], 0
                last = self._complete
                message = {"type": "http.response.body", "body": body, "more_body": not last}
                await send(message)
                self._sent = last
                continue
            self._send = send
            await self._news.wait()
            self._send = None
