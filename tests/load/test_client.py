"""The loop: what is due goes out, what is not over at the end is recorded, conversations go on."""

from __future__ import annotations

import json
import statistics
import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from harness.load import chores, messages
from harness.load.agenda import Agenda
from harness.load.client import Client
from harness.load.exchange import digest
from harness.load.route import Route
from harness.load.sender import chained
from tests.load.scripted import (
    CHUNKED,
    DONE,
    Scripted,
    Talk,
    asked,
    chunk,
    event,
    offered,
)


def answer(talk: Talk) -> None:
    talk.stream(event("a"), event("b", "length"), DONE)


@pytest.mark.parametrize("cap", [None, 1])
def test_a_stall_shows_in_every_request_behind_it(cap: int | None) -> None:
    """One request at a time, 50 ms each, 8 of them at 10 ms: 190 ms on average from due."""
    one_at_a_time = threading.Lock()

    def play(talk: Talk) -> None:
        with one_at_a_time:
            time.sleep(0.05)
            answer(talk)

    with Scripted(play) as server:
        planned = [asked("x", n, 10.0 * n) for n in range(8)]
        found = offered(Route(server.url, "completions"), planned, concurrency=cap)
    waits = [found[n].token_ns[-1] - found[n].due_ns for n in range(8)]
    assert statistics.fmean(waits) >= 0.19e9
    if cap:
        services = [found[n].token_ns[-1] - found[n].sent_ns for n in range(8)]
        assert statistics.fmean(services) < statistics.fmean(waits) / 2
        assert all("held back" in found[n].http.notes[0] for n in range(1, 8))  # type: ignore


def test_a_closed_loop_is_due_when_the_answer_before_was_there() -> None:
    with Scripted(answer) as server:
        planned = [asked("x", n, None) for n in range(6)]
        found = offered(Route(server.url, "completions"), planned, concurrency=2)
    assert {record.slot for record in found.values()} == {0, 1}
    for slot in (0, 1):
        mine = sorted((r for r in found.values() if r.slot == slot), key=lambda r: r.due_ns)
        for before, after in pairwise(mine):
            assert before.http is not None
            assert after.due_ns == before.http.done_ns
            assert after.sent_ns >= after.due_ns


def test_what_the_drain_does_not_see_the_end_of_is_unfinished_with_its_tokens() -> None:
    over = threading.Event()

    def play(talk: Talk) -> None:
        talk.send(CHUNKED, chunk(event("a")))
        over.wait(20)

    with Scripted(play) as server:
        planned = [asked("x", n, 5.0 * n) for n in range(3)]
        route = Route(server.url, "completions")
        found = offered(route, planned, concurrency=2, stop_s=0.3, drain_s=0.5)
        over.set()
    ends = [(r.finish, len(r.token_ns), str(r.error)[:10]) for r in found.values()]
    assert sorted(ends) == [
        ("unfinished", 0, "never sent"),
        ("unfinished", 1, "unfinished"),
        ("unfinished", 1, "unfinished"),
    ]


def test_nothing_is_sent_from_the_stop_on() -> None:
    with Scripted(answer) as server:
        planned = [asked("x", n, 30.0 * n) for n in range(20)]
        found = offered(Route(server.url, "completions"), planned, stop_s=0.1)
    assert sorted(found) == [0, 1, 2, 3]


def conversed(play: Any, endpoint: Any, bodies: list[bytes]) -> tuple[dict[int, Any], Scripted]:
    planned = [
        asked("x", n, 0.0 if n == 0 else None, conversation=3, turn=n, think_ns=n * 1_000_000)
        for n in range(len(bodies))
    ]
    with Scripted(play) as server:
        route = Route(server.url, endpoint)
        client = Client(route, endpoint)
        client.chores.salt = "salt"
        client.warm(1)
        client.begin(digest_early=False)
        jobs = chained(planned, bodies, route, "salt")
        client.run(Agenda(jobs, start_ns=time.monotonic_ns()), drain_ns=10**10)
        found = [digest(e, endpoint, 0, route.redacted).record for e in client.chores.finished]
        found += [one.record for one in client.chores.digested] + client.chores.dropped
        client.close()
    return {record.id: record for record in found}, server


def test_the_next_turn_says_what_was_really_answered_and_waits_the_think_time() -> None:
    def play(talk: Talk) -> None:
        said = json.dumps({"choices": [{"delta": {"content": f"n{len(server_said)}"}}]})
        server_said.append(said)
        talk.stream(b"data: %s\n\n" % said.encode(), DONE)

    server_said: list[str] = []
    bodies = [
        json.dumps({"messages": [f" salt.{n}." for n in range(turn)]}).encode() for turn in range(3)
    ]
    found, server = conversed(play, "chat", bodies)
    assert [talk.body["messages"] for talk in server.requests] == [[], ["n0"], ["n0", "n1"]]
    assert [talk.headers["x-request-id"] for talk in server.requests] == [
        "salt-0",
        "salt-1",
        "salt-2",
    ]
    assert [found[n].error for n in range(3)] == [None] * 3
    for n in (1, 2):
        assert found[n].due_ns == found[n - 1].http.done_ns + n * 1_000_000
        assert found[n].sent_ns >= found[n].due_ns


def test_turns_after_one_that_failed_are_cancelled_not_lost() -> None:
    def play(talk: Talk) -> bool:
        talk.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        return True

    found, server = conversed(play, "chat", [b"{}"] * 3)
    assert len(server.requests) == 1
    assert [found[n].finish for n in range(3)] == ["error", "cancelled", "cancelled"]
    assert found[2].error == "never sent: turn 0 failed: HTTP 500"


def test_raw_answers_beyond_the_limit_are_read_in_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chores, "KEEP_BYTES", 500)
    with Scripted(answer) as server:
        planned = [asked("x", n, float(n)) for n in range(30)]
        found = offered(Route(server.url, "completions"), planned)
    assert [len(found[n].token_ns) for n in range(30)] == [2] * 30


def test_answers_are_read_early_where_somebody_waits_for_them() -> None:
    with Scripted(answer) as server:
        route = Route(server.url, "completions")
        client = Client(route, "completions")
        client.warm(1)
        client.begin(digest_early=True)
        jobs = chained([asked("x", n, 20.0 * n) for n in range(5)], [b"{}"] * 5, route, "s")
        client.run(Agenda(jobs, start_ns=time.monotonic_ns()), drain_ns=10**10)
        assert client.chores.digested
        assert len(client.chores.digested) + len(client.chores.finished) == 5
        client.close()


def usage_of(**counts: int) -> bytes:
    return b"data: %s\n\n" % json.dumps({"choices": [], "usage": counts}).encode()


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "the server changed to another protocol",
        ),
        (usage_of(prompt_tokens=3, completion_tokens=50_000_000), "more than 10,000,000 tokens"),
        (usage_of(prompt_tokens=1 << 64, completion_tokens=1), "more than 10,000,000 tokens"),
        (b"x" * 3_000_000, "the answer is longer than 1 MiB"),
    ],
)
def test_an_odd_answer_fails_its_own_request_and_no_other(
    odd: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.load.connection.MOST_ANSWER_BYTES", 1 << 20)

    def play(talk: Talk) -> bool | None:
        if len(server.requests) != 2:
            return answer(talk)
        if odd.startswith(b"HTTP"):
            talk.send(odd)
        else:
            talk.stream(event("a"), odd, DONE)
        return False

    with Scripted(play) as server:
        route = Route(server.url, "completions")
        found = offered(route, [asked("x", n, None) for n in range(3)], concurrency=1)
    assert [record.finish for record in found.values()] == ["length", "error", "length"]
    assert says in (found[1].error or "")
    assert messages.frame(messages.Records(list(found.values())))


def test_a_finish_reason_is_cut_and_redacted() -> None:
    key = "sk-0123456789"

    def play(talk: Talk) -> None:
        talk.stream(event("a", key + "x" * 100_000), DONE)

    with Scripted(play) as server:
        route = Route(server.url, "completions", key=key)
        seen = offered(route, [asked("x")])[0].http
    assert seen is not None
    assert seen.finish_reason is not None
    assert len(seen.finish_reason) <= 300
    assert key not in seen.finish_reason
