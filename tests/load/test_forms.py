"""Answers in every legal form, and every fault, over real sockets: each comes to a right record."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from harness.load.route import Route
from harness.records.run import RequestRecord
from tests.load.scripted import CHUNKED, DONE, STREAM, Scripted, Talk, asked, chunk, event, offered

A, B, C = event("a"), event("b"), event("c", "length")
ABC = A + B + C + DONE
TIMEOUT_S = 1.5
KEY = "sk-very-secret"
over = threading.Event()


def by_bytes(talk: Talk) -> None:
    whole = CHUNKED + chunk(A) + chunk(B) + chunk(C) + chunk(DONE) + b"0\r\n\r\n"
    for n in range(0, len(whole), 7):
        talk.send(whole[n : n + 7])
        if n % 70 == 0:
            time.sleep(0.0005)


def until_close(talk: Talk) -> bool:
    talk.send(STREAM + b"Connection: close\r\n\r\n", A, B + C, DONE)
    return False


def http_1_0(talk: Talk) -> bool:
    talk.send(STREAM.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n", ABC)
    return False


def with_length(talk: Talk) -> None:
    talk.send(STREAM + b"Content-Length: %d\r\n\r\n" % len(ABC), A, B + C + DONE)


def whole(talk: Talk) -> None:
    body = json.dumps(
        {
            "choices": [{"text": "abc", "finish_reason": "length"}],
            "usage": {"prompt_tokens": 4, "completion_tokens": 3},
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    talk.send(head % len(body), body)


def early_hints(talk: Talk) -> None:
    talk.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
    talk.stream(A, B, C, DONE)


LEGAL: dict[str, Callable[[Talk], bool | None]] = {
    "one event a chunk": lambda talk: talk.stream(A, B, C, DONE),
    "all in one write": lambda talk: talk.send(CHUNKED + chunk(ABC) + b"0\r\n\r\n"),
    "seven bytes at a time": by_bytes,
    "carriage returns and line feeds": lambda talk: talk.stream(ABC.replace(b"\n", b"\r\n")),
    "carriage returns": lambda talk: talk.stream(A.replace(b"\n", b"\r"), B + C + DONE),
    "a byte order mark": lambda talk: talk.stream(b"\xef\xbb\xbf" + A, B, C, DONE),
    "comments": lambda talk: talk.stream(b": ping\n\n", A, b":\n" + B, C, DONE),
    "no space after the colon": lambda talk: talk.stream(ABC.replace(b"data: ", b"data:")),
    "data on several lines": lambda talk: talk.stream(
        A.replace(b'"choices":', b'\ndata: "choices":'), B, C, DONE
    ),
    "names and ids": lambda talk: talk.stream(b"event: x\nid: 1\n" + A, B, C, DONE),
    "a length": with_length,
    "closing the connection": until_close,
    "HTTP/1.0": http_1_0,
    "no word at the end": lambda talk: talk.stream(A, B, C),
    "no blank line at the end": lambda talk: talk.stream(A, B, C, b"data: [DONE]"),
    "one whole JSON answer": whole,
    "1xx answers before it": early_hints,
}


def reset(talk: Talk) -> bool:
    talk.send(CHUNKED, chunk(A), chunk(B))
    time.sleep(0.05)  # so that they are read before the reset discards them
    talk.reset()
    return False


def hang_up(talk: Talk) -> bool:
    talk.send(CHUNKED, chunk(A), chunk(B))
    return False


def endless(talk: Talk) -> None:
    talk.send(CHUNKED)
    while not over.wait(0.02):
        talk.send(chunk(A))


def refused(status: bytes, headers: bytes, body: bytes) -> Callable[[Talk], None]:
    head = b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(body)
    return lambda talk: talk.send(head + body)


HTML = b"<html>" + b"no such page " * 100 + b"</html>"
ECHO = json.dumps({"error": {"message": f"wrong key {KEY}", "type": "auth"}}).encode()
FAULTS: dict[str, Callable[[Talk], bool | None]] = {
    "reset": reset,
    "hang-up": hang_up,
    "endless": endless,
    "silence": lambda talk: over.wait() and None,
    "500": refused(b"500 Broken", b"", b'{"error": {"message": "engine died", "code": 7}}'),
    "429": refused(b"429 Slow down", b"Retry-After: 2.5\r\n", b'{"detail": "queue is full"}'),
    "404": refused(b"404 Not found", b"Content-Type: text/html\r\n", HTML),
    "307": refused(b"307 Moved", b"Location: /elsewhere\r\n", b""),
    "the key": refused(b"401 No", b"", ECHO),
    "503 until": refused(
        b"503 Busy",
        b"Date: Mon, 23 Nov 2026 01:00:00 GMT\r\nRetry-After: Mon, 23 Nov 2026 01:00:30 GMT\r\n",
        b"",
    ),
    "error in the stream": lambda talk: talk.stream(A, b'data: {"error": "no memory"}\n\n'),
    "not HTTP": lambda talk: talk.send(b"SSH-2.0-OpenSSH\r\n"),
    "cut short": lambda talk: talk.stream(A),
    "nothing": lambda talk: False,
}
PLAYS = LEGAL | FAULTS


@pytest.fixture(scope="module")
def records() -> dict[str, RequestRecord]:
    """All of them at once, from one client: each must be what it would be alone."""
    names = list(PLAYS)
    over.clear()
    with Scripted(lambda talk: PLAYS[talk.body["prompt"]](talk)) as server:
        route = Route(server.url, "completions", key=KEY)
        planned = [asked(name, n, due_ms=n * 2) for n, name in enumerate(names)]
        try:
            found = offered(route, planned, timeout_s=TIMEOUT_S)
        finally:
            over.set()
    assert sorted(found) == list(range(len(names)))
    return {name: found[n] for n, name in enumerate(names)}


@pytest.mark.parametrize("name", LEGAL)
def test_every_legal_form_gives_the_same_tokens(
    records: dict[str, RequestRecord], name: str
) -> None:
    record = records[name]
    http = record.http
    assert http is not None
    assert record.error is None
    assert (len(record.token_ns), record.finish, http.status) == (3, "length", 200)
    assert record.output_sha256 == records["one event a chunk"].output_sha256
    assert http.done_ns is not None
    assert record.started_ns is not None
    assert record.due_ns <= record.sent_ns < record.started_ns <= record.token_ns[0]
    assert record.token_ns == sorted(record.token_ns)
    assert record.token_ns[-1] <= http.done_ns


@pytest.mark.parametrize(
    ("name", "tokens", "finish", "says"),
    [
        ("reset", 2, "error", "Connection reset by peer, 2 tokens so far"),
        ("hang-up", 2, "error", "the server hung up within the answer, 2 tokens so far"),
        ("silence", 0, "error", "timed out after 1.5 s"),
        ("500", 0, "error", "HTTP 500: 7: engine died"),
        ("429", 0, "error", "HTTP 429: queue is full"),
        ("307", 0, "error", "HTTP 307: to /elsewhere, not followed"),
        ("the key", 0, "error", "HTTP 401: auth: wrong key (key)"),
        ("error in the stream", 1, "error", "no memory, 1 tokens so far"),
        ("cut short", 1, "error", "the stream ended without a word on its end, 1 tokens so far"),
        ("nothing", 0, "error", "the server hung up without an answer"),
    ],
)
def test_every_fault_is_a_record_that_says_it(
    records: dict[str, RequestRecord], name: str, tokens: int, finish: str, says: str
) -> None:
    record = records[name]
    assert (record.error, len(record.token_ns), record.finish) == (says, tokens, finish)


def test_a_stream_that_never_ends_is_given_up_with_its_tokens_kept(
    records: dict[str, RequestRecord],
) -> None:
    record = records["endless"]
    assert record.error == f"timed out after 1.5 s, {len(record.token_ns)} tokens so far"
    assert len(record.token_ns) > 10


def test_what_is_not_http_is_said(records: dict[str, RequestRecord]) -> None:
    assert str(records["not HTTP"].error).startswith("the answer is not HTTP/1.1")


def test_a_page_of_html_is_cut_to_a_line(records: dict[str, RequestRecord]) -> None:
    error = records["404"].error
    assert error is not None
    assert error.startswith("HTTP 404: <html>no such page")
    assert len(error) <= 300


@pytest.mark.parametrize(("name", "seconds"), [("429", 2.5), ("503 until", 30.0), ("500", None)])
def test_the_wait_that_a_server_asks_for_is_kept(
    records: dict[str, RequestRecord], name: str, seconds: float | None
) -> None:
    http = records[name].http
    assert http is not None
    assert http.retry_after_s == seconds


def test_forms_worth_knowing_are_noted(records: dict[str, RequestRecord]) -> None:
    def notes(name: str) -> str:
        http = records[name].http
        assert http is not None
        return " ".join(http.notes)

    assert "without [DONE]" in notes("no word at the end")
    assert "no blank line" in notes("no blank line at the end")
    assert "not as a stream" in notes("one whole JSON answer")


def test_a_ten_megabyte_event_and_a_ten_megabyte_prompt_go_through() -> None:
    big = "x" * (10 << 20)

    def play(talk: Talk) -> None:
        time.sleep(0.05)
        talk.stream(event(talk.body["prompt"]), event("b", "stop"), DONE)

    with Scripted(play) as server:
        route = Route(server.url, "completions")
        found = offered(route, [asked(big, 0), asked("small", 1)])
    assert [found[n].error for n in (0, 1)] == [None, None]
    assert len(found[0].token_ns) == 2
    assert len(found[1].token_ns) == 2


def test_an_answer_that_comes_before_the_request_is_all_sent_is_taken() -> None:
    def refuse(connection: socket.socket) -> None:
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 9\r\n\r\ntoo large")
            time.sleep(0.2)

    with Scripted(lambda talk: None) as server:
        server._serve = refuse  # type: ignore[method-assign]
        route = Route(server.url, "completions")
        found = offered(route, [asked("x" * (20 << 20))], connections=0)
    assert found[0].error == "HTTP 413: too large"
    assert found[0].http is not None
