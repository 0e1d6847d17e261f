"""The engine's side: it sleeps when idle, listens between steps, and tells of every step."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import wire
from harness.engines import Feed, ServingEngine
from harness.records.load import ServedRequest, ServeSetting
from harness.serving.journal import Journal
from harness.serving.loop import Loop
from harness.serving.meters import Meters

SETTING = ServeSetting(slots=2, context=64, chunk=8, kv_tokens=128)


class Counting:
    """An engine whose next token is one more; it keeps what it was told, and waits when asked."""

    def __init__(self) -> None:
        self.steps: list[list[Feed]] = []
        self.released: list[int] = []
        self.go = threading.Semaphore(0)

    def step(self, feeds: Sequence[Feed]) -> list[int | None]:
        self.go.acquire()
        self.steps.append(list(feeds))
        return [feed.tokens[-1] + 1 if feed.wanted else None for feed in feeds]

    def release(self, slot: int) -> None:
        self.released.append(slot)


class Driver:
    """The other end of the channel."""

    def __init__(self, engine: Counting, channel: socket.socket) -> None:
        self.engine, self.channel = engine, channel

    def send(self, *requests: wire.Request) -> None:
        self.channel.sendall(b"".join(map(wire.frame, requests)))

    def step(self, count: int = 1) -> list[wire.Stepped]:
        found = []
        for _ in range(count):
            self.engine.go.release()
            reply = wire.receive_reply(self.channel)
            assert isinstance(reply, wire.Stepped)
            found.append(reply)
        return found


@contextmanager
def looping(eos: Sequence[int] = ()) -> Iterator[Driver]:
    """A loop in a thread of this process."""
    ours, theirs = socket.socketpair()
    engine = Counting()
    asked = wire.Serve(SETTING, 4, list(eos))
    loop = Loop(cast(ServingEngine, engine), theirs, asked, lambda _: wire.Done())
    raised: list[BaseException] = []

    def run() -> None:
        try:
            loop.run()
        except wire.Closed as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    ours.settimeout(10)
    try:
        yield Driver(engine, ours)
    finally:
        ours.close()
        engine.go.release(1000)
        thread.join(10)
        theirs.close()
    assert not thread.is_alive()
    assert isinstance(raised[0], wire.Closed)


def test_a_request_is_told_step_by_step() -> None:
    with looping() as driver:
        driver.send(wire.Submit(1, "a", list(range(10)), 3))
        first, second, third, fourth = driver.step(4)
        assert [(s.prefill_tokens, s.decoding) for s in (first, second, third, fourth)] == [
            (8, 0),
            (2, 0),
            (0, 1),
            (0, 1),
        ]
        assert first.started == [1]
        assert first.ids == []
        assert (second.ids, second.tokens, second.ends) == ([1], [10], [None])
        assert (fourth.ids, fourth.tokens, fourth.ends) == ([1], [12], ["length"])
        assert (fourth.running, fourth.waiting, fourth.kv_tokens) == (0, 0, 0)
        assert first.start_ns <= first.end_ns <= second.start_ns
        driver.send(wire.Mark())
        assert isinstance(wire.receive_reply(driver.channel), wire.Done)
        assert driver.engine.released == [0]


def test_it_listens_between_two_steps() -> None:
    with looping() as driver:
        driver.send(wire.Submit(1, "a", [1], 50))
        driver.step(2)
        driver.send(wire.Submit(2, "a", [5], 50), wire.Mark())
        driver.engine.go.release()
        replies = [wire.receive_reply(driver.channel) for _ in range(2)]
        assert {type(reply) for reply in replies} == {wire.Stepped, wire.Done}
        [step] = driver.step()
        assert sorted(step.ids) == [1, 2]


def test_a_cancelled_request_is_released_before_the_next_step() -> None:
    with looping() as driver:
        driver.send(wire.Submit(1, "a", [1], 50), wire.Submit(2, "a", [5], 50))
        driver.step(2)
        driver.send(wire.Cancel(1), wire.Mark())
        driver.engine.go.release()  # a step may have begun before
        replies = [wire.receive_reply(driver.channel) for _ in range(2)]
        assert {type(reply) for reply in replies} == {wire.Stepped, wire.Done}
        assert driver.engine.released == [0]
        [step] = driver.step()
        assert step.ids == [2]


def test_a_large_request_comes_in_parts() -> None:
    with looping() as driver:
        data = wire.frame(wire.Submit(1, "a", list(range(40)), 2))
        for start in range(0, len(data), 7):
            driver.channel.sendall(data[start : start + 7])
        steps = driver.step(5)
        assert sum(step.prefill_tokens for step in steps) == 40


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(1, 40), max_size=20))
def test_frames_come_out_whole_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    frames, found = wire.Frames(), []
    for size in [*cuts, len(data)]:
        found += frames.feed(data[:size])
        data = data[size:]
    assert found == bodies


def test_a_frame_of_senseless_length_ends_it() -> None:
    with pytest.raises(wire.Closed):
        wire.Frames().feed(b"\xff\xff\xff\xff")


def stepped(number: int, **more: Any) -> wire.Stepped:
    table: dict[str, Any] = {
        "start_ns": number * 10,
        "end_ns": number * 10 + 5,
        "decoding": 1,
        "prefill_tokens": 2,
        "waiting": 3,
        "running": 1,
        "kv_tokens": 9,
        "started": [],
        "ids": [1],
        "tokens": [7],
        "ends": [None],
    }
    return wire.Stepped(**{**table, **more})


def test_the_journal_keeps_the_latest_and_says_that_the_rest_is_missing() -> None:
    journal = Journal(max_steps=10, max_requests=4)
    for number in range(9):
        journal.step(stepped(number))
    seen = journal.seen()
    assert seen.reason is None
    assert seen.steps is not None
    assert seen.steps.start_ns == [n * 10 for n in range(9)]
    for number in range(9, 100):
        journal.step(stepped(number))
        journal.request(ServedRequest(key=str(number), queued_ns=number))
    seen = journal.seen()
    assert seen.steps is not None
    assert 5 <= len(seen.steps.start_ns) <= 10
    assert seen.steps.start_ns[-1] == 990
    assert seen.requests[-1].key == "99"
    assert len(seen.requests) <= 4
    assert "beginning is missing" in (seen.reason or "")
    journal.mark()
    assert journal.seen().requests == []
    assert journal.seen().reason is None


def test_times_of_a_request_are_counted_only_as_far_as_it_came() -> None:
    meters = Meters(SETTING)
    done = ServedRequest(
        key="", queued_ns=0, admitted_ns=10**9, first_ns=2 * 10**9, end_ns=6 * 10**9
    )
    done.output_tokens, done.finish = 5, "length"
    meters.request(done)
    meters.request(ServedRequest(key="", queued_ns=0, finish="cancelled"))
    meters.step(stepped(1))
    text = meters.text().decode()
    for line in (
        "armbench_time_per_output_token_seconds_sum 1.0",
        "armbench_time_to_first_token_seconds_sum 2.0",
        "armbench_request_queue_seconds_count 1.0",
        'armbench_requests_total{finish="cancelled"} 1.0',
        "armbench_generation_tokens_total 1.0",
        "armbench_requests_waiting 3.0",
    ):
        assert line in text.splitlines()
