"""The scheduler loses nothing, stays in its bounds and is fair; without an engine or a clock."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.load import ServeSetting
from harness.serving.fairness import INPUT_WEIGHT, OUTPUT_WEIGHT, FairQueue
from harness.serving.scheduler import Asked, Scheduler, Step, longest

EOS = 7


def setting(
    slots: int = 2, context: int = 32, chunk: int = 4, kv: int | None = None
) -> ServeSetting:
    return ServeSetting(slots=slots, context=context, chunk=chunk, kv_tokens=kv or slots * context)


def asked(
    request: int, inputs: int = 3, outputs: int = 2, client: str = "a", **more: object
) -> Asked:
    return Asked(request, client, [request] * inputs, outputs, **more)  # type: ignore[arg-type]


def run(scheduler: Scheduler, token: int = 1) -> tuple[Step, list[tuple[int, str | None]]]:
    """One step in which every sequence gets `token`."""
    step = scheduler.next_step()
    assert step is not None
    produced, _ = scheduler.complete(step, [token if row.wanted else None for row in step.rows])
    return step, [(p.id, p.finish) for p in produced]


def test_a_prompt_is_fed_in_chunks_and_then_its_own_tokens_one_by_one() -> None:
    scheduler = Scheduler(setting(), 4, ())
    scheduler.submit(Asked(1, "a", [10, 11, 12, 13, 14, 15], 3))
    fed = []
    for token in (90, 91, 92, 93):
        step, _ = run(scheduler, token)
        fed += [(row.slot, list(row.tokens), row.wanted) for row in step.rows]
    assert fed == [
        (0, [10, 11, 12, 13], False),
        (0, [14, 15], True),
        (0, [91], True),
        (0, [92], True),
    ]
    assert scheduler.idle


def test_a_long_prompt_does_not_hold_up_those_who_decode() -> None:
    scheduler = Scheduler(setting(slots=2, context=100, chunk=4), 4, ())
    scheduler.submit(asked(1, inputs=2, outputs=50))
    run(scheduler)
    scheduler.submit(asked(2, inputs=40, outputs=2))
    for _ in range(10):
        step, produced = run(scheduler)
        assert step.decoding == 1
        assert step.prefill_tokens == 4
        assert (1, None) in produced


def test_a_short_prompt_passes_a_long_one_that_is_being_filled() -> None:
    scheduler = Scheduler(setting(slots=2, context=200, chunk=8), 4, ())
    scheduler.submit(asked(1, inputs=100, outputs=2))
    run(scheduler)
    scheduler.submit(asked(2, inputs=4, outputs=2))
    step, produced = run(scheduler)
    assert produced == [(2, None)]
    assert step.prefill_tokens == 8


def test_the_end_of_sequence_ends_a_request_unless_it_is_ignored_or_comes_too_early() -> None:
    scheduler = Scheduler(setting(slots=3, chunk=9), 4, (EOS,))
    scheduler.submit(asked(1, outputs=5))
    scheduler.submit(asked(2, outputs=5, ignore_eos=True))
    scheduler.submit(asked(3, outputs=5, min_tokens=2))
    ends: dict[int, tuple[int, str]] = {}
    for number in range(1, 6):
        for request, finish in run(scheduler, EOS)[1]:
            if finish:
                ends[request] = (number, finish)
    assert ends == {1: (1, "stop"), 2: (5, "length"), 3: (3, "stop")}


def test_a_request_starts_only_when_its_whole_input_and_output_fit_the_budget() -> None:
    scheduler = Scheduler(setting(slots=4, context=16, kv=20), 8, ())
    scheduler.submit(asked(1, inputs=8, outputs=4))
    scheduler.submit(asked(2, inputs=8, outputs=4))
    step, _ = run(scheduler)
    assert step.started == [1]
    assert (scheduler.kv_tokens, scheduler.waiting) == (12, 1)


def test_nobody_overtakes_a_large_request_that_waits_for_the_budget() -> None:
    scheduler = Scheduler(setting(slots=4, context=20, kv=20), 8, ())
    scheduler.submit(asked(1, inputs=4, outputs=4, client="a"))
    run(scheduler)
    scheduler.submit(asked(2, inputs=16, outputs=2, client="b"))
    scheduler.submit(asked(3, inputs=1, outputs=1, client="c"))
    run(scheduler)
    assert scheduler.waiting == 2


def test_one_client_may_not_take_the_room_of_all_others() -> None:
    scheduler = Scheduler(setting(slots=1), 8, ())
    taken = sum(scheduler.submit(asked(n, client="heavy")) for n in range(40))
    assert taken == 9
    assert scheduler.submit(asked(50, client="light"))
    assert not scheduler.submit(asked(51, client="third"))


def test_a_client_with_few_requests_does_not_wait_behind_one_with_many() -> None:
    scheduler = Scheduler(setting(slots=1, chunk=8), 50, ())
    for n in range(20):
        scheduler.submit(asked(n, client="heavy"))
    run(scheduler)
    scheduler.submit(asked(99, client="light"))
    ended: list[int] = []
    while 99 not in ended:
        ended += [request for request, finish in run(scheduler)[1] if finish]
    assert ended == [0, 99]


def test_a_cancelled_request_gives_its_slot_and_budget_back() -> None:
    scheduler = Scheduler(setting(slots=1), 4, ())
    scheduler.submit(asked(1))
    scheduler.submit(asked(2))
    run(scheduler)
    assert scheduler.cancel(2) is None
    assert scheduler.cancel(1) == 0
    assert scheduler.cancel(1) is None
    assert scheduler.idle
    assert scheduler.kv_tokens == 0


def test_a_request_cancelled_during_its_step_leaves_the_others_as_they_are() -> None:
    scheduler = Scheduler(setting(slots=2, chunk=9), 4, ())
    scheduler.submit(asked(1, outputs=1))
    scheduler.submit(asked(2, outputs=1))
    step = scheduler.next_step()
    assert step is not None
    scheduler.cancel(1)
    produced, freed = scheduler.complete(step, [5, 6])
    assert [(p.id, p.token, p.finish) for p in produced] == [(2, 6, "length")]
    assert freed == [1]


@pytest.mark.parametrize("wrong", [asked(1, inputs=0), asked(1, outputs=0), asked(1, inputs=31)])
def test_a_request_that_could_never_run_is_refused(wrong: Asked) -> None:
    with pytest.raises(ValueError, match="never run"):
        Scheduler(setting(), 4, ()).submit(wrong)


class Arrival(NamedTuple):
    step: int
    client: str
    inputs: int
    outputs: int
    cancel_after: int | None


arrivals = st.lists(
    st.builds(
        Arrival,
        st.integers(0, 30),
        st.sampled_from("abc"),
        st.integers(1, 20),
        st.integers(1, 12),
        st.none() | st.none() | st.integers(0, 10),
    ),
    max_size=40,
)
settings = st.builds(
    setting,
    slots=st.integers(1, 5),
    context=st.just(32),
    chunk=st.integers(1, 12),
    kv=st.integers(32, 100),
)


class Play:
    """Plays a plan of arrivals, and holds every step against what must always be true."""

    def __init__(self, plan: list[Arrival], chosen: ServeSetting, max_waiting: int) -> None:
        self.plan, self.chosen = plan, chosen
        self.scheduler = Scheduler(chosen, max_waiting, (EOS,))
        self.accepted: dict[int, Asked] = {}
        self.fed: dict[int, list[int]] = {}
        self.outputs: dict[int, list[int]] = {}
        self.slots: dict[int, int] = {}  # of those that were fed and have not ended
        self.ends: Counter[int] = Counter()
        self.cancelled: set[int] = set()
        self.started: list[int] = []

    def arrive(self, now: int) -> None:
        for index, arrival in enumerate(self.plan):
            if arrival.step == now:
                tokens = [index] * arrival.inputs
                request = Asked(index, arrival.client, tokens, arrival.outputs)
                if self.scheduler.submit(request):
                    self.accepted[index] = request
            gone = arrival.cancel_after is not None and now == arrival.step + arrival.cancel_after
            if gone and index in self.accepted and not self.ends[index]:
                self.cancelled.add(index)
                slot = self.scheduler.cancel(index)
                assert index not in self.slots or self.slots.pop(index) == slot

    def check(self, step: Step) -> None:
        assert step.prefill_tokens == sum(len(r.tokens) for r in step.rows[step.decoding :])
        assert step.prefill_tokens <= self.chosen.chunk
        assert len({row.slot for row in step.rows}) == len(step.rows) <= self.chosen.slots
        decoding = {r for r in self.slots if self.outputs.get(r)}
        assert decoding == {row.id for row in step.rows[: step.decoding]}
        for row in step.rows:
            assert 0 <= row.slot < self.chosen.slots
            if row.id not in self.slots:
                assert row.slot not in self.slots.values()
                self.slots[row.id] = row.slot
            assert self.slots[row.id] == row.slot
            self.fed.setdefault(row.id, []).extend(row.tokens)
        held = sum(self.accepted[r].kv_tokens for r in self.slots)
        assert held <= self.scheduler.kv_tokens <= self.chosen.kv_tokens

    def finish(self, step: Step, tokens: list[int | None]) -> None:
        produced, freed = self.scheduler.complete(step, tokens)
        ended = [made.id for made in produced if made.finish]
        for made in produced:
            self.outputs.setdefault(made.id, []).append(made.token)
        self.ends.update(ended)
        assert freed == [self.slots.pop(request) for request in ended]
        self.started += step.started


@given(arrivals, settings, st.integers(0, 50), st.data())
def test_nothing_is_lost_and_no_bound_is_passed(
    plan: list[Arrival], chosen: ServeSetting, max_waiting: int, data: st.DataObject
) -> None:
    play = Play(plan, chosen, max_waiting)
    now = 0
    while now <= 50 or not play.scheduler.idle:
        play.arrive(now)
        now += 1
        assert now < 3000, "it does not come to an end"
        step = play.scheduler.next_step()
        assert (step is None) == play.scheduler.idle
        if step is not None:
            play.check(step)
            draw = st.sampled_from((1, EOS))
            play.finish(step, [data.draw(draw) if row.wanted else None for row in step.rows])
    for index, request in play.accepted.items():
        assert play.ends[index] == (index not in play.cancelled)
        if play.ends[index]:
            outputs = play.outputs[index]
            assert play.fed[index] == [*request.tokens, *outputs[:-1]]
            assert outputs[-1] == EOS or len(outputs) == request.max_tokens
            assert EOS not in outputs[:-1]
    for client in "abc":
        mine = [index for index in play.started if plan[index].client == client]
        assert mine == sorted(mine, key=lambda index: (plan[index].step, index))


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=30, max_size=60),
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=30, max_size=60),
    st.integers(1, 4),
)
def test_two_backlogged_clients_are_given_the_same_within_the_papers_bound(
    one: list[tuple[int, int]], two: list[tuple[int, int]], slots: int
) -> None:
    """VTC paper, fairness theorem: 2 · max(w_in · longest input, w_out · KV budget)."""
    chosen = setting(slots=slots, chunk=8)
    scheduler = Scheduler(chosen, 200, ())
    lengths = {}
    for client, work in (("a", one), ("b", two)):
        for number, (inputs, outputs) in enumerate(work):
            request = number * 2 + (client == "b")
            lengths[request] = inputs
            scheduler.submit(asked(request, inputs, outputs, client))
    bound = 2 * max(INPUT_WEIGHT * 12, OUTPUT_WEIGHT * chosen.kv_tokens)
    given_to = {"a": 0, "b": 0}
    waiting = {"a": len(one), "b": len(two)}
    while all(waiting.values()):
        step, produced = run(scheduler)
        for request in step.started:
            client = "ab"[request % 2]
            waiting[client] -= 1
            given_to[client] += INPUT_WEIGHT * lengths[request]
        for request, _ in produced:
            given_to["ab"[request % 2]] += OUTPUT_WEIGHT
        if all(waiting.values()):
            assert abs(given_to["a"] - given_to["b"]) <= bound


def test_a_client_that_was_away_has_saved_nothing_up() -> None:
    queue: FairQueue[str] = FairQueue()
    for n in range(3):
        queue.push("busy", f"busy {n}")
    queue.charge("busy", inputs=1000)
    queue.push("new", "new 0")
    assert queue.given("new") == 1000
    assert queue.next() == ("busy", "busy 0")  # equal counters: who came first


def test_counters_of_clients_that_left_are_not_kept_for_ever() -> None:
    queue: FairQueue[int] = FairQueue()
    for n in range(20_000):
        queue.push(f"client {n}", n)
        queue.pop(f"client {n}")
        queue.charge(f"client {n}", inputs=5, outputs=5)
    assert len(queue._given) < 5000


def test_a_waiting_item_can_be_taken_out_of_the_middle() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("x", "y", "z"):
        queue.push("a", item)
    queue.remove("a", "y")
    assert [queue.pop("a"), queue.pop("a")] == ["x", "z"]
    with pytest.raises(ValueError, match="does not wait"):
        queue.remove("a", "y")
    assert longest(setting(kv=20)) == 20
