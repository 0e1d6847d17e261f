"""What a client may hold in the server without a whole request: bytes, time and connections."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from harness.serving import pipe
from harness.serving.pipe import MAX_HEAD, Connection

Opened = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def listening(keep_alive_s: int = 600) -> AsyncIterator[Opened]:
    config = uvicorn.Config(
        app, http=Connection, ws="none", log_config=None, timeout_keep_alive=keep_alive_s
    )
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    yield lambda: asyncio.open_connection("127.0.0.1", port)
    server.close()


async def told(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the server closes or resets the connection."""
    found = b""
    try:
        while piece := await asyncio.wait_for(reader.read(1 << 16), 10):
            found += piece
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    "head",
    [b"a: " + b"x" * 4 * MAX_HEAD, b"".join(b"a%d: xxxx\r\n" % n for n in range(20_000))],
)
def test_a_head_without_end_is_refused_with_431(head: bytes) -> None:
    async def play() -> None:
        async with listening() as opened:
            reader, writer = await opened()
            writer.write(b"POST /v1/completions HTTP/1.1\r\n" + head)
            assert (await told(reader))[:13] == b"HTTP/1.1 431 "
            writer.close()

    asyncio.run(play())


def test_trailers_without_end_are_not_kept() -> None:
    async def play() -> None:
        async with listening() as opened:
            reader, writer = await opened()
            writer.write(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
            writer.write(b"".join(b"a%d: xxxx\r\n" % n for n in range(20_000)))
            await told(reader)
            writer.close()

    asyncio.run(play())


@pytest.mark.parametrize("begun", [b"POST / HTTP/1.1\r\nHost: x", b"", GET + b"GET / HT"])
def test_a_request_that_does_not_come_whole_costs_its_connection(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "REQUEST_S", 0.2)

    async def play() -> None:
        async with listening(keep_alive_s=1) as opened:
            reader, writer = await opened()
            writer.write(begun)
            await told(reader)
            writer.close()

    asyncio.run(play())


def test_connections_leave_files_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    few = (pipe.SPARE_FILES + 2, 1 << 20)
    monkeypatch.setattr(resource, "getrlimit", lambda which: few)

    async def play() -> None:
        async with listening() as opened:
            pairs = [await opened() for _ in range(3)]
            assert await told(pairs[2][0]) == b""
            pairs[0][1].write(GET)
            assert (await pairs[0][0].read(100)).startswith(b"HTTP/1.1 204")
            for _, writer in pairs:
                writer.close()

    asyncio.run(play())


@pytest.mark.parametrize("first", [0, 20], ids=["at once", "head in two"])
def test_a_large_body_that_comes_with_its_head_is_no_large_head(first: int) -> None:
    async def play() -> None:
        async with listening() as opened:
            reader, writer = await opened()
            body = b"x" * 3 * MAX_HEAD
            head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            whole = head % len(body) + body
            writer.write(whole[:first])
            await asyncio.sleep(0.1 if first else 0)
            writer.write(whole[first:])
            assert (await told(reader))[:13] == b"HTTP/1.1 204 "
            writer.close()

    asyncio.run(play())
