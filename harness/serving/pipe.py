"""From a token to a client's socket: at once where the client reads, bounded where it does not."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
MAX_PENDING = 2**18  # bytes for one client, behind the transport's own 64 KiB and the kernel's
MAX_HEAD = 2**16  # bytes of a request before its body, and of its header fields in all
REQUEST_S = 60.0  # in which a request that began has to be here
SPARE_FILES = 64  # that connections leave for everything else
CONNECTION = "armbench.connection"  # key of the scope


_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


class Connection(HttpToolsProtocol):
    """A client's connection, which tells the application when it is lost and when it is stuck.

    What a client may have here without a whole request is bounded: in bytes, in time, and in
    connections.
    """

    on_lost: Callable[[], None] | None = None
    stuck = False  # what is written now stays in this process
    _limit: asyncio.TimerHandle | None = None
    _in_head = True
    _head = 0  # bytes read of a head that is not complete
    _fields = 0  # bytes of header fields, trailers too

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self.timeout_keep_alive)
        if len(self.connections) > _most_connections():
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._too_large and not self.lost:
            self.send_400_response("")

    @property
    def _too_large(self) -> bool:
        return max(self._head, self._fields) > MAX_HEAD

    def send_400_response(self, msg: str) -> None:
        if not self._too_large:
            super().send_400_response(msg)
            return
        if self._in_head:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head, self._fields = True, 0, 0
        self._expect(REQUEST_S)
        cast("dict[str, Any]", self.scope)[CONNECTION] = self

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += len(name) + len(value)
        if self._fields > MAX_HEAD:  # what was read may be more than the head
            raise httptools.HttpParserError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect(None)
        super().on_message_complete()

    def _expect(self, seconds: float | None) -> None:
        """Abort in `seconds`, unless it is told otherwise before."""
        if self._limit is not None:
            self._limit.cancel()
        self._limit = None if seconds is None else self.loop.call_later(seconds, self.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._expect(None)
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


def _most_connections() -> int:
    """Connections that this process has files for."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, files - SPARE_FILES)


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
