"""A server on real sockets that plays whatever a test scripts, and our client in this process."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from harness.load.agenda import Agenda, Job
from harness.load.bodies import Said
from harness.load.client import Client
from harness.load.exchange import digest
from harness.load.route import Route
from harness.records.load import Endpoint, Planned
from harness.records.run import RequestRecord

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = STREAM + b"Transfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


class Talk:
    """One request that a connection brought, and the way to answer it."""

    def __init__(self, connection: socket.socket, path: str, headers: dict[str, str], raw: bytes):
        self.connection = connection
        self.path = path
        self.headers = headers
        self.raw = raw
        self.body: dict[str, Any] = json.loads(raw) if raw else {}

    def send(self, *pieces: bytes) -> None:
        """Each piece by itself."""
        for piece in pieces:
            self.connection.sendall(piece)

    def stream(self, *events: bytes) -> None:
        """A whole chunked answer, each event in a chunk of its own."""
        self.send(CHUNKED, *map(chunk, events), b"0\r\n\r\n")

    def reset(self) -> None:
        """Close so that the other end sees ECONNRESET."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(said: str, finish: str | None = None, **more: Any) -> bytes:
    """One event of a completion."""
    choice = {"index": 0, "text": said, "finish_reason": finish}
    return b"data: %s\n\n" % json.dumps({"choices": [choice], **more}).encode()


class Scripted:
    """A server that lets `play` answer each request; false from it ends the connection."""

    def __init__(
        self, play: Callable[[Talk], bool | None], context: ssl.SSLContext | None = None
    ) -> None:
        self.play = play
        self.context = context
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self.connections = 0
        self.requests: list[Talk] = []
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Be gone: nobody listens, and every connection is closed."""
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self._threads[0].join()
            self.hang_up()

    def hang_up(self) -> None:
        """Close every connection there is."""
        for connection in self._open:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the script closed it

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection, connection.makefile("rb") as file:
                while True:
                    talk = _request(connection, file)
                    if talk is None:
                        return
                    self.requests.append(talk)
                    if self.play(talk) is False:
                        return
        except (OSError, ValueError):
            pass  # the client left, or the script closed the connection


def _request(connection: socket.socket, file: Any) -> Talk | None:
    start = file.readline()
    if not start:
        return None
    headers = {}
    while (line := file.readline().decode("latin-1").strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if start.startswith(b"CONNECT"):
        return Talk(connection, start.split()[1].decode(), headers, b"")
    body = file.read(int(headers["content-length"]))
    return Talk(connection, start.split()[1].decode(), headers, body)


class Say:
    """Bodies that carry a planned request's own prompt, and what was said before."""

    def body(self, planned: Planned, said: Sequence[Said] = ()) -> bytes:
        before = [one.answer for one in said]
        return json.dumps({"prompt": planned.prompt, "said": before}).encode()


def asked(
    prompt: str, number: int = 0, due_ms: float | None = 0.0, output_tokens: int = 3, **more: Any
) -> Planned:
    """One planned request."""
    return Planned(
        id=number,
        due_ns=None if due_ms is None else round(due_ms * 1e6),
        input_tokens=4,
        output_tokens=output_tokens,
        seed=number,
        prompt=prompt,
        **more,
    )


def offered(
    route: Route,
    planned: Sequence[Planned],
    *,
    endpoint: Endpoint = "completions",
    concurrency: int | None = None,
    connections: int = 4,
    timeout_s: float = 20.0,
    drain_s: float = 20.0,
    stop_s: float | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> dict[int, RequestRecord]:
    """What our client, run in this process, records of `planned`, by id."""
    client = Client(route, endpoint, timeout_s=timeout_s, **(client_options or {}))
    try:
        client.warm(connections)
        client.begin(digest_early=False)
        start = time.monotonic_ns() + 2_000_000
        jobs = [Job(one, route.request(Say().body(one), f"t-{one.id}")) for one in planned]
        agenda = Agenda(
            jobs,
            start_ns=start,
            stop_ns=None if stop_s is None else start + int(stop_s * 1e9),
            concurrency=concurrency,
        )
        client.run(agenda, drain_ns=int(drain_s * 1e9))
        found = [digest(e, endpoint, 0, route.redacted).record for e in client.chores.finished]
        found += [one.record for one in client.chores.digested] + client.chores.dropped
        assert len({record.id for record in found}) == len(found)
        return {record.id: record for record in found}
    finally:
        client.close()
