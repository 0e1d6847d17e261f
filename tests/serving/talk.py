"""A plain client for tests: whole answers and event streams over real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def ask(url: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """GET without a body, POST with one; bytes go as they are."""
    connection = http.client.HTTPConnection(*address(url), timeout=30)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, headers or {})
        answer = connection.getresponse()
        found = {k.lower(): v for k, v in answer.getheaders()}
        return Answer(answer.status, found, answer.read())
    finally:
        connection.close()


class Stream:
    """A streamed answer, event by event. `events` ends at [DONE] or at the end of the body."""

    def __init__(self, url: str, path: str, body: dict[str, Any], receive: int = 0) -> None:
        self.socket = socket.create_connection(address(url), timeout=30)
        if receive:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        data = json.dumps({"stream": True, **body}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)
        self.answer: http.client.HTTPResponse | None = None
        self.done = False

    def begin(self) -> http.client.HTTPResponse:
        if self.answer is None:
            self.answer = http.client.HTTPResponse(self.socket)
            self.answer.begin()
        return self.answer

    def events(self) -> Iterator[dict[str, Any]]:
        answer = self.begin()
        while line := answer.readline():
            if line.startswith(b"data: [DONE]"):
                self.done = True
                return
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
            else:
                assert line == b"\n"

    def close(self) -> None:
        if self.answer is not None:
            self.answer.close()
        self.socket.close()


def stream(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All events of a streamed answer, which must end with [DONE]."""
    with closing(Stream(url, path, body)) as opened:
        events = list(opened.events())
        assert opened.done
    return events


def text_of(events: list[dict[str, Any]]) -> str:
    """The text of all events together."""
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    """Wait until `true()`; what should happen may take its time on a shared machine."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def requests_at(url: str) -> int:
    """How many requests the server has, running or waiting."""
    found: int = ask(url, "/health").json["requests"]
    return found
