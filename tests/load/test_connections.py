"""Connections: kept, warmed, replaced, secured, through a proxy; and stamped by the kernel."""

from __future__ import annotations

import ssl
import struct
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.load.agenda import Job
from harness.load.client import Hold
from harness.load.connection import Connection, Reading
from harness.load.exchange import Exchange
from harness.load.route import Route
from harness.load.tls import Records
from tests.load.scripted import CHUNKED, DONE, Scripted, Talk, asked, chunk, event, offered

ABC = (event("a"), event("b"), event("c", "length"), DONE)


def answer(talk: Talk) -> None:
    talk.stream(*ABC)


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(answer) as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "roots.pem"))
    return str(tmp_path / "roots.pem")


def test_a_warm_connection_carries_request_after_request(server: Scripted) -> None:
    route = Route(server.url, "completions")
    planned = [asked("x", n, None) for n in range(6)]
    found = offered(route, planned, concurrency=1, connections=1)
    assert {record.http.connection for record in found.values() if record.http} == {0}
    assert all(r.http and r.http.connect_s is None for r in found.values())
    assert server.connections == 2  # one of them to find an address that answers


def test_an_open_loop_is_not_delayed_by_a_busy_pool_and_says_where_it_connected() -> None:
    enter = threading.Semaphore(0)

    def play(talk: Talk) -> None:
        if len(server.requests) < 6:
            enter.acquire()
        else:
            enter.release(5)
        answer(talk)

    with Scripted(play) as server:
        route = Route(server.url, "completions")
        found = offered(route, [asked("x", n) for n in range(6)], connections=1)
    assert [record.error for record in found.values()] == [None] * 6
    fresh = [r.http for r in found.values() if r.http and r.http.connect_s is not None]
    assert len(fresh) >= 3
    assert all("new connection" in http.notes[-1] for http in fresh)


def test_an_idle_connection_that_the_server_closed_loses_no_request(server: Scripted) -> None:
    route = Route(server.url, "completions")
    closer = threading.Timer(0.05, server.hang_up)
    closer.start()
    found = offered(route, [asked("x", n, 150.0 * n) for n in range(2)], connections=2)
    closer.join()
    assert [record.error for record in found.values()] == [None, None]


def test_a_connection_closed_under_a_request_is_replaced_once_and_noted() -> None:
    seen: list[Talk] = []

    def play(talk: Talk) -> bool | None:
        seen.append(talk)
        if len(seen) == 1:
            return False
        answer(talk)
        return None

    with Scripted(play) as server:
        found = offered(Route(server.url, "completions"), [asked("x")])
    http = found[0].http
    assert found[0].error is None
    assert http is not None
    assert "sent again" in http.notes[0]
    assert http.connect_s is not None


def test_headers_and_key_go_out_and_a_request_carries_its_id(server: Scripted) -> None:
    route = Route(
        server.url + "/v1/completions", "chat", key="k1", headers={"accept": "x/y", "X-Own": "1"}
    )
    offered(route, [asked("x", 7)], endpoint="chat")
    (talk,) = server.requests
    assert talk.path == "/v1/chat/completions"
    kept = {k: talk.headers.get(k) for k in ("authorization", "accept", "x-own", "x-request-id")}
    assert kept == {
        "authorization": "Bearer k1",
        "accept": "x/y",
        "x-own": "1",
        "x-request-id": "t-7",
    }


@pytest.mark.parametrize("headers", [{"A": "b\r\nC: d"}, {"A\n": "b"}, {"A:": "b"}])
def test_a_header_cannot_smuggle_another(headers: dict[str, str]) -> None:
    with pytest.raises(ArmbenchError, match="header"):
        Route("http://127.0.0.1:1", "chat", headers=headers)


def test_tls_is_spoken_and_its_time_kept_apart(server_context: ssl.SSLContext, roots: str) -> None:
    with Scripted(answer, server_context) as server:
        route = Route(server.url, "completions", verify=roots)
        planned = [asked("x" * 100_000, n) for n in range(4)]
        found = offered(route, planned, connections=1)
    assert [(r.error, len(r.token_ns)) for r in found.values()] == [(None, 3)] * 4
    secured = [r.http for r in found.values() if r.http and r.http.tls_s is not None]
    assert secured
    assert all(http.connect_s is not None for http in secured)


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_told_otherwise(
    server_context: ssl.SSLContext,
) -> None:
    with Scripted(answer, server_context) as server:
        with pytest.raises(ArmbenchError, match="certificate"):
            offered(Route(server.url, "completions"), [asked("x")])
        found = offered(Route(server.url, "completions", verify=False), [asked("x")])
    assert found[0].error is None


def test_a_port_where_nobody_listens_is_an_error_for_the_user() -> None:
    with pytest.raises(ArmbenchError, match="no connection to"):
        offered(Route("http://127.0.0.1:9", "completions"), [asked("x")])


def test_a_server_that_goes_away_in_the_window_is_an_error_in_each_record() -> None:
    answered = threading.Event()

    def play(talk: Talk) -> None:
        answer(talk)
        answered.set()

    def leave() -> None:
        answered.wait(10)
        server.close()

    with Scripted(play) as server:
        leaving = threading.Thread(target=leave)
        leaving.start()
        planned = [asked("x", 0), asked("x", 1, 500.0), asked("x", 2, 510.0)]
        found = offered(Route(server.url, "completions"), planned, connections=1)
        leaving.join()
    assert found[0].error is None
    assert found[1].error == "never sent: no connection: Connection refused"
    assert found[2].finish == "error"


def test_proxies_are_ignored_unless_one_is_given(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert offered(Route(server.url, "completions"), [asked("x")])[0].error is None


def test_a_proxy_gets_the_whole_url_and_its_password_is_told_to_nobody() -> None:
    def play(talk: Talk) -> None:
        coded = talk.headers["proxy-authorization"].split()[1]
        talk.send(b"HTTP/1.1 407 No\r\nContent-Length: %d\r\n\r\n" % (len(coded) + 4))
        talk.send(f"{coded} pw2".encode())

    with Scripted(play) as server:
        proxy = f"http://me:pw2@127.0.0.1:{server.port}"
        found = offered(Route("http://far.example:80", "chat", proxy=proxy), [asked("x")])
    (talk,) = server.requests
    assert talk.path == "http://far.example:80/v1/chat/completions"
    assert found[0].error == "HTTP 407: (key) (key)"


def test_a_tunnel_through_a_proxy_is_secured_end_to_end(
    server_context: ssl.SSLContext, roots: str
) -> None:
    hosts = []

    def play(talk: Talk) -> None:
        if not talk.raw:
            hosts.append(talk.path)
            talk.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server.context = server_context
            server._serve(talk.connection)
            server.context = None
        else:
            answer(talk)

    with Scripted(play) as server:
        proxy = f"127.0.0.1:{server.port}"
        route = Route("https://127.0.0.1:4443", "completions", verify=roots, proxy=proxy)
        found = offered(route, [asked("x")], connections=1)
    assert (found[0].error, hosts[0]) == (None, "127.0.0.1:4443")


def test_a_proxy_that_refuses_is_an_error_for_the_user() -> None:
    with Scripted(lambda talk: talk.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as server:
        route = Route("https://far.example", "chat", proxy=f"http://127.0.0.1:{server.port}")
        with pytest.raises(ArmbenchError, match="the proxy refused"):
            offered(route, [asked("x")])


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 400), max_size=20))
def test_tls_records_are_told_apart_whatever_the_reads(
    payloads: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(b"\x17\x03\x03" + len(p).to_bytes(2, "big") + p for p in payloads)
    ends, at = [], 0
    for payload in payloads:
        at += 5 + len(payload)
        ends.append(at)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    records, found = Records(), []
    for a, b in pairwise(edges):
        found += [a + end for end in records.ends(stream[a:b])]
    assert found == ends


def stamped(server: Scripted) -> tuple[Exchange, Reading]:
    """What a connection reads of one answer that has come as a whole before it looks."""
    route = Route(server.url, "completions")
    route.find()
    reading = Reading()
    connection = Connection(route, 0, reading)
    connection.open()
    while not connection.ready:
        connection.progress()
    exchange = Exchange(Job(asked("x"), route.request(b'{"prompt": ""}', "1")))
    connection.send(exchange)
    over.wait(10)
    over.clear()
    assert exchange.ending is not None
    while not exchange.ending.complete:
        connection.receive()
    connection.close()
    return exchange, reading


over = threading.Event()


def test_events_that_gathered_before_the_read_keep_the_instants_at_which_they_came() -> None:
    """The kernel stamps within send(): before it returned, and not before it was called.

    Unless this machine is so busy that a packet is sent again, and the kernel merges what waits.
    """
    assert any(_apart_and_right() for _ in range(10))


def _apart_and_right() -> bool:
    around: list[tuple[int, int]] = []

    def play(talk: Talk) -> None:
        for piece in (CHUNKED, chunk(event("a")), chunk(event("b")), b"0\r\n\r\n"):
            before = time.monotonic_ns()
            talk.send(piece)
            around.append((before, time.monotonic_ns()))
            time.sleep(0.001)
        over.set()

    with Scripted(play) as server:
        exchange, reading = stamped(server)
    if reading.unstamped:
        pytest.skip("this kernel does not stamp packets of TCP")
    assert exchange.stamps == sorted(exchange.stamps)
    inside = [
        before - 1000 <= stamp <= after + 1000  # clocks are compared to some 0.1 µs
        for stamp, (before, after) in zip(exchange.stamps, around, strict=False)
    ]
    return len(inside) == 4 and all(inside)


def test_a_loop_that_is_held_up_reads_the_same_tokens(server: Scripted) -> None:
    route = Route(server.url, "completions")
    planned = [asked("x", n, 3.0 * n) for n in range(20)]
    options = {"hold": Hold(0.01, 0.02)}
    found = offered(route, planned, client_options=options)
    assert [len(found[n].token_ns) for n in range(20)] == [3] * 20


def test_without_kernel_stamps_the_time_of_the_read_is_taken(server: Scripted) -> None:
    route = Route(server.url, "completions")
    found = offered(route, [asked("x")], client_options={"kernel_stamps": False})
    assert len(found[0].token_ns) == 3


def test_a_stamp_from_before_a_step_of_the_wall_clock_is_not_believed() -> None:
    reading = Reading()
    now = time.monotonic_ns()
    reading.since_ns = now - 1_000_000

    def extra(at_ns: int) -> list[tuple[int, int, bytes]]:
        wall = at_ns + reading.wall.offset_ns
        return [(1, 35, struct.pack("@ll", *divmod(wall, 10**9)))]

    late = extra(now - 500_000)
    assert reading.stamp(late) == now - 500_000
    future = extra(now + 10**9)
    assert reading.stamp(future) < now + 10**9
    assert reading.unstamped == 1
    assert reading.stamp([]) >= now
    assert (reading.unstamped, reading.reads) == (2, 3)
