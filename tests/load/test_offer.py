"""One trial of offered load: where its requests come from, and what of it counts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness import validity
from harness.load import keys
from harness.load.endpoint import Endpoint, parse_url
from harness.load.offer import Offer, OfferOptions
from harness.load.view import Nothing
from harness.records.load import Target
from harness.records.run import Case, LoadPoint, Trial, Variant
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
