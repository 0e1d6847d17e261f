"""One trial of offered load: where its requests come from, and what of it counts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness import validity
from harness.load import keys
from harness.load.endpoint import Endpoint, parse_url
from harness.load.offer import Lead, Offer, OfferOptions, cut
from harness.load.view import Nothing
from harness.metrics import BY_NAME, Subject
from harness.records.load import Target
from harness.records.run import Case, LoadPoint, RequestRecord, Trial, Variant
from tests.load.records import request
from tests.load.scripted import DONE, Scripted, Talk, event

CPU = min(os.sched_getaffinity(0))


def closed(concurrency: int, **more: object) -> LoadPoint:
    asked = {"input_tokens": [8], "output_tokens": [2], **more}
    return next(keys.points(keys.LoadKeys(concurrency=[concurrency], **asked), "closed"))  # type: ignore[arg-type]


def case_of(load: LoadPoint) -> Case:
    return Case(id=0, variant=Variant(engine="openai", dtype=None, threads=None), load=load)


def trial() -> Trial:
    return Trial(case=0, repeat=0, order=0, started_at="", state="ok")


def answer(talk: Talk) -> None:
    time.sleep(0.01)
    talk.stream(event("a"), event("b", "length"), DONE)


@contextmanager
def offering(server: Scripted, senders: int = 1) -> Iterator[Offer]:
    target = Target(url=server.url, endpoint="completions", model="m", prompts="ids")
    options = OfferOptions(cpus=[CPU], senders=senders, drain_s=5)
    with Offer(target, Endpoint(parse_url(server.url)), options, Nothing("a script")) as offer:
        yield offer


def measured(load: LoadPoint, *, unloaded_s: float, senders: int = 1) -> Trial:
    """A trial of `load` after a last warm-up request that took `unloaded_s`."""
    made = trial()
    with Scripted(answer) as server, offering(server, senders) as offer:
        offer.latency_s = unloaded_s
        offer.measure(made, load, seed=1)
    return made


def test_a_closed_loop_by_time_sends_to_its_end_however_slow_its_warm_up_was() -> None:
    load = closed(2, duration="1s")
    made = measured(load, unloaded_s=5.0, senders=2)
    assert made.window_ns is not None
    assert max(r.due_ns for r in made.records) > made.window_ns[1] - 200_000_000
    assert len({r.id for r in made.records}) == len(made.records) > 60
    assert {r.http.sender for r in made.records if r.http} == {0, 1}
    assert validity.served_faults(made, case_of(load)) == []


def test_a_closed_loop_by_time_whose_requests_run_out_is_not_believed() -> None:
    load = closed(2, duration="1s", requests=100)
    (reason,) = validity.served_faults(measured(load, unloaded_s=0.01), case_of(load))
    assert "2 slots of the closed loop had nothing to send" in reason


def looped(slots: int, requests: int, begins_s: list[float]) -> list[RequestRecord]:
    """A closed loop whose requests take a second, its slots free from `begins_s` on."""
    made = []
    for number in range(2 * slots + requests):
        due = 1 + begins_s[number % slots] + number // slots
        one = request(number, due=due, first=0.25, gaps=(0.25, 0.25, 0.25), done=due + 1)
        one.slot = number % slots
        made.append(one)
    return made


@pytest.mark.parametrize(
    "begins_s", [[0.0] * 8, [n / 1000 for n in range(8)], [n / 8 for n in range(8)]]
)
@pytest.mark.parametrize("rounds", [3, 4])
def test_a_closed_loop_by_count_has_the_rates_of_its_slots_in_lockstep_or_not(
    begins_s: list[float], rounds: int
) -> None:
    load = closed(8, requests=8 * rounds, slo="ttft:p99<=2s")
    made = trial()
    with Scripted(answer) as server, offering(server) as offer:
        lead = offer.lead(load, seed=1, repeat=0)
    records = looped(8, 8 * rounds, begins_s)
    assert [one.id for one in lead.planned] == [one.id for one in records]
    cut(made, records, 0, lead)
    assert len(made.records) == 8 * rounds
    subject = Subject(trial=made, case=case_of(load))
    rates = ("requests_per_s", "goodput_req_per_s", "intended_rate", "offered_rate")
    assert [BY_NAME[name].value(subject) for name in rates] == pytest.approx([8.0] * 4)
    assert BY_NAME["output_tok_per_s"].value(subject) == pytest.approx(8.0 * 4, rel=0.01)
    assert validity.served_faults(made, case_of(load)) == []


def test_a_request_of_a_closed_loop_that_is_sent_behind_the_window_held_nobody_back() -> None:
    load = closed(4, requests=12)
    made, records = trial(), looped(4, 12, [0.0, 0.2, 0.4, 0.6])
    for record in records[16:]:
        record.sent_ns = record.due_ns + 10_000_000
    cut(made, records, 0, Lead([], 4, behind=16, closed=True))
    subject = Subject(trial=made, case=case_of(load))
    sent, due = (BY_NAME[name].value(subject) or 0 for name in ("offered_rate", "intended_rate"))
    assert sent < 0.95 * due
    assert validity.served_faults(made, case_of(load)) == []


def test_a_request_that_hangs_is_counted_and_does_not_stretch_the_window() -> None:
    load = closed(2, requests=12)
    made, records = trial(), looped(2, 12, [0.0, 0.5])
    records[5] = request(5, due=3.5, tokens=False, finish="error", error="timed out", done=600.0)
    cut(made, records, 0, Lead([], 2, behind=14, closed=True))
    assert 5 in {one.id for one in made.records}
    assert BY_NAME["window_s"].value(Subject(trial=made, case=case_of(load))) == pytest.approx(6.5)


def test_a_closed_loop_by_count_says_how_many_requests_its_rates_need() -> None:
    load = closed(4, requests=8)
    (reason,) = validity.served_faults(measured(load, unloaded_s=0.01), case_of(load))
    assert "8 requests are too few" in reason
    assert "ask for 12 at least" in reason


def test_what_only_fills_the_server_does_not_end_a_probe() -> None:
    load = next(
        keys.points(
            keys.LoadKeys(rate=[100], arrivals="constant", requests=100, input_tokens=[8]), "open"
        )
    )
    heard: set[int] = set()

    def stop(records: list[RequestRecord]) -> str | None:
        heard.update(one.id for one in records)
        return None

    made = trial()
    with Scripted(answer) as server, offering(server) as offer:
        offer.measure(made, load, seed=1, stop=stop)
    assert heard
    assert heard <= {one.id for one in made.records}
