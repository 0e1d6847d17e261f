"""What falls due when, on a clock of the test's own."""

from __future__ import annotations

import heapq
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.load.agenda import NEVER, Agenda, Job
from harness.records.load import Planned

MS = 1_000_000


def planned(number: int, due_ms: float | None, **more: Any) -> Planned:
    due = None if due_ms is None else round(due_ms * MS)
    return Planned(id=number, due_ns=due, input_tokens=1, output_tokens=1, seed=0, **more)


def jobs(*due_ms: float | None) -> list[Job]:
    return [Job(planned(n, due), b"") for n, due in enumerate(due_ms)]


def offered(agenda: Agenda, service_ns: int, servers: int = 1 << 30) -> dict[int, tuple[int, ...]]:
    """(due, sent, done) by id, with a server that takes `servers` requests at a time."""
    now, free = 0, [0] * min(servers, 1000)
    seen: dict[int, tuple[int, ...]] = {}
    running: list[tuple[int, int, Job]] = []
    while not agenda.finished:
        now = max(now, min(agenda.next_ns, running[0][0] if running else NEVER))
        while running and running[0][0] <= now:
            done, _, job = heapq.heappop(running)
            agenda.ended(job, done)
        while (job := agenda.take(now)) is not None:
            done = max(now, heapq.heappop(free)) + service_ns
            heapq.heappush(free, done)
            heapq.heappush(running, (done, job.planned.id, job))
            seen[job.planned.id] = (job.due_ns, now, done)
    return seen


@pytest.mark.parametrize("cap", [None, 1])
def test_a_server_one_at_a_time_shows_in_every_request_behind_it(cap: int | None) -> None:
    """vllm#54101: 10 requests/s for 0.5 s each (506 ms there), 8 of them: 1.93 s, not 0.5 s."""
    service = 506 * MS
    agenda = Agenda(jobs(*range(0, 800, 100)), start_ns=0, concurrency=cap)
    seen = offered(agenda, service, servers=1)
    from_due = statistics.fmean((done - due) / 1e9 for due, _, done in seen.values())
    from_send = statistics.fmean((done - sent) / 1e9 for _, sent, done in seen.values())
    assert from_due == pytest.approx(1.927, abs=1e-3)
    assert from_send == pytest.approx(0.506 if cap else 1.927, abs=1e-3)


def test_an_open_loop_sends_when_due_whatever_is_on_its_way() -> None:
    agenda = Agenda(jobs(5, 0, 10), start_ns=1000)
    seen = offered(agenda, 10**12)
    assert {n: s[:2] for n, s in seen.items()} == {
        n: (1000 + ms * MS,) * 2 for n, ms in enumerate((5, 0, 10))
    }


def test_a_cap_holds_back_and_says_how_long() -> None:
    first, second = jobs(0, 1)
    agenda = Agenda([first, second], start_ns=0, concurrency=1)
    assert agenda.take(0) is first
    assert agenda.take(5 * MS) is None
    assert not agenda.finished
    agenda.ended(first, 7 * MS)
    assert agenda.take(8 * MS) is second
    assert (second.due_ns, second.held_ns) == (1 * MS, 7 * MS)


def test_a_closed_loop_is_due_when_its_slot_became_free() -> None:
    agenda = Agenda(jobs(*[None] * 4), start_ns=100, concurrency=2)
    assert agenda.take(99) is None
    one, two = agenda.take(100), agenda.take(100)
    assert one is not None
    assert two is not None
    assert agenda.take(200) is None
    agenda.ended(two, 250)
    three = agenda.take(300)
    assert three is not None
    assert (three.slot, three.due_ns) == (two.slot, 250)


def test_a_closed_loop_without_concurrency_is_refused() -> None:
    with pytest.raises(ValueError, match="concurrency"):
        Agenda(jobs(None), start_ns=0)


def test_nothing_falls_due_from_the_stop_on() -> None:
    open_loop = Agenda(jobs(0, 10, 20), start_ns=0, stop_ns=20 * MS)
    assert sorted(offered(open_loop, 1)) == [0, 1]
    closed = Agenda(jobs(*[None] * 9), start_ns=0, stop_ns=20 * MS, concurrency=1)
    assert [s[0] for s in offered(closed, 8 * MS).values()] == [0, 8 * MS, 16 * MS]


def conversation(due_ms: float | None, turns: int) -> Job:
    following = None
    for turn in reversed(range(turns)):
        following = Job(planned(turn, None if turn else due_ms, turn=turn), b"", following)
    assert following is not None
    return following


def test_a_turn_is_due_its_think_time_after_the_one_before() -> None:
    first = conversation(3, 2)
    agenda = Agenda([first], start_ns=0)
    assert agenda.take(3 * MS) is first
    agenda.ended(first, 9 * MS, goes_on=True)
    assert not agenda.finished
    assert agenda.next_ns == NEVER
    agenda.later(first, 29 * MS)
    assert agenda.take(28 * MS) is None
    second = agenda.take(29 * MS)
    assert second is first.following
    assert second is not None
    assert second.due_ns == 29 * MS
    agenda.ended(second, 30 * MS)
    assert agenda.finished
    assert agenda.exhausted


def test_a_user_keeps_the_slot_while_thinking() -> None:
    first = conversation(None, 2)
    other = Job(planned(9, None), b"")
    agenda = Agenda([first, other], start_ns=0, concurrency=1)
    assert agenda.take(0) is first
    agenda.ended(first, 10, goes_on=True)
    agenda.later(first, 1000)
    assert agenda.take(999) is None
    second = agenda.take(1000)
    assert second is first.following
    assert second is not None
    agenda.ended(second, 2000)
    assert agenda.take(2000) is other
    assert other.due_ns == 2000


def test_a_conversation_that_breaks_off_gives_its_slot_back() -> None:
    first, other = conversation(None, 2), Job(planned(9, None), b"")
    agenda = Agenda([first, other], start_ns=0, concurrency=1)
    agenda.take(0)
    agenda.ended(first, 10, goes_on=True)
    agenda.drop(first, 10)
    assert agenda.take(10) is other


def test_a_stop_tells_who_waited() -> None:
    first, second, third = jobs(0, 1, 50)
    agenda = Agenda([first, second, third], start_ns=0, concurrency=1)
    agenda.take(0)
    assert agenda.take(2 * MS) is None
    assert agenda.stop() == [second]
    agenda.ended(first, 3 * MS)
    assert agenda.finished


def test_more_jobs_of_a_closed_loop_may_come_later() -> None:
    agenda = Agenda(jobs(None), start_ns=0, concurrency=1)
    agenda.more = True
    first = agenda.take(0)
    assert first is not None
    agenda.ended(first, 5)
    assert not agenda.finished
    agenda.add(jobs(None))
    agenda.more = False
    second = agenda.take(8)
    assert second is not None
    assert second.due_ns == 5


@given(
    st.lists(st.integers(0, 50), max_size=30),
    st.none() | st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 60),
)
def test_every_job_goes_out_once_and_never_early(
    due: list[int], cap: int | None, service: int, stop: int
) -> None:
    agenda = Agenda(jobs(*map(float, due)), start_ns=0, stop_ns=stop * MS, concurrency=cap)
    seen = offered(agenda, service * MS)
    assert sorted(seen) == [n for n, ms in enumerate(due) if ms < stop]
    assert all(sent >= due_ns for due_ns, sent, _ in seen.values())
    events = [(sent, 1) for _, sent, _ in seen.values()] + [(d, -1) for *_, d in seen.values()]
    running = most = 0
    for _, step in sorted(events):
        running += step
        most = max(most, running)
    assert cap is None or most <= cap
