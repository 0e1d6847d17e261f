"""Columns of requests say what the requests themselves say, however they ended."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness import metrics, stats
from harness.load import slo
from harness.metrics import Subject, batched, served
from harness.metrics.requests import Requests, Seconds, gaps_ns, inside, peak_concurrency, rise
from harness.records.load import HttpSeen, ServingLoad, Slo, SloBound
from harness.records.run import Estimate, RequestRecord, Trial
from harness.validity import RISE_MOST, served_warnings
from tests.load.records import ns, request
from tests.test_plan import case

STEPS = st.lists(st.integers(0, 10**10), max_size=6)


@st.composite
def requests(draw: st.DrawFn) -> RequestRecord:
    due = draw(st.integers(0, 10**12))
    sent = draw(st.just(0) | st.integers(due, due + 10**9))
    tokens, chunks = (_rising(sent, draw(STEPS)) for _ in range(2))
    finish = draw(st.sampled_from(["length", "stop", "error", "cancelled", "unfinished"]))
    http = HttpSeen(
        chunk_ns=draw(st.sampled_from([chunks, None])), reasoning_chunks=draw(st.integers(0, 3))
    )
    return RequestRecord(
        id=0,
        slot=0,
        due_ns=due,
        sent_ns=sent,
        input_tokens=1,
        token_ns=tokens,
        finish=finish,
        error=draw(st.sampled_from([None, None, "refused"])),
        http=draw(st.sampled_from([http, None])),
    )


def _rising(start: int, steps: list[int]) -> list[int]:
    found = []
    for step in steps:
        start += step
        found.append(start)
    return found


def subject(records: list[RequestRecord]) -> Subject:
    of = Trial(case=0, repeat=0, order=0, started_at="", state="ok", records=records)
    return Subject(trial=of, case=case(0))


def chunks_of(record: RequestRecord) -> list[int]:
    """Without a list of its own the chunks are the tokens."""
    assert record.http is not None
    return record.token_ns if record.http.chunk_ns is None else record.http.chunk_ns


# Each family by its definition in the metric table, request by request, nanoseconds.
SIMPLE: dict[str, tuple[Callable[[Subject], Seconds], Callable[[RequestRecord], list[float]]]] = {
    "ttft": (batched.ttfts, lambda r: [r.token_ns[0] - r.due_ns]),
    "ttft_from_send": (batched.ttfts_from_send, lambda r: [r.token_ns[0] - r.sent_ns]),
    "latency": (batched.latencies, lambda r: [r.token_ns[-1] - r.due_ns]),
    "tpot": (
        batched.tpots,
        lambda r: (
            [(r.token_ns[-1] - r.token_ns[0]) / (len(r.token_ns) - 1)]
            if len(r.token_ns) > 1
            else []
        ),
    ),
    "itl": (batched.itls, lambda r: [b - a for a, b in pairwise(r.token_ns)]),
    "ntpot": (served.ntpots, lambda r: [(r.token_ns[-1] - r.due_ns) / len(r.token_ns)]),
    "icl": (
        served.icls,
        lambda r: [b - a for a, b in pairwise(chunks_of(r))] if r.http else [],
    ),
    "ttfot": (
        served.ttfots,
        lambda r: (
            [c - r.due_ns for c in chunks_of(r)[r.http.reasoning_chunks :][:1]] if r.http else []
        ),
    ),
}


def by_hand(name: str, records: list[RequestRecord]) -> list[float]:
    well = [r for r in records if r.error is None and r.token_ns and r.finish != "cancelled"]
    return [value / 1e9 for r in well for value in SIMPLE[name][1](r)]


@pytest.mark.parametrize("name", SIMPLE)
@given(records=st.lists(requests(), max_size=8))
def test_a_family_is_what_its_requests_give_one_by_one(
    name: str, records: list[RequestRecord]
) -> None:
    assert SIMPLE[name][0](subject(records)).tolist() == pytest.approx(by_hand(name, records))


@pytest.mark.parametrize("name", ["ttft", "itl", "icl"])
@given(records=st.lists(requests(), max_size=8))
def test_its_percentiles_are_those_of_the_values(name: str, records: list[RequestRecord]) -> None:
    found = metrics.metric(f"{name}_p50_s").value(subject(records))
    assert found == pytest.approx(stats.percentile(by_hand(name, records), 0.5))


@given(
    records=st.lists(requests(), max_size=8),
    bounds=st.lists(
        st.tuples(st.sampled_from(sorted(slo.METRICS)), st.floats(0.001, 100)),
        min_size=1,
        max_size=3,
    ),
)
def test_a_promise_is_kept_by_those_requests_that_keep_it_one_by_one(
    records: list[RequestRecord], bounds: list[tuple[str, float]]
) -> None:
    made = tuple(SloBound(metric=name, share=0.9, seconds=limit) for name, limit in bounds)
    promise = Slo(name="any", bounds=made, target=0.9)
    ended = [r for r in records if slo.succeeded(r)]
    found = served.kept(Requests(ended), promise).tolist()
    assert found == [slo.attained(record, promise) for record in ended]


@given(st.lists(STEPS, max_size=6))
def test_gaps_never_reach_from_one_request_into_the_next(lists: list[list[int]]) -> None:
    made = Requests([_tokens(one) for one in lists])
    assert gaps_ns(made.token_ns, made.tokens).tolist() == [
        b - a for one in lists for a, b in pairwise(one)
    ]


def _tokens(instants: list[int]) -> RequestRecord:
    return RequestRecord(id=0, slot=0, due_ns=0, sent_ns=0, input_tokens=1, token_ns=instants)


@pytest.mark.parametrize("over", [False, True], ids=["in process", "over HTTP"])
@given(
    records=st.lists(requests(), min_size=1, max_size=8),
    window=st.tuples(st.integers(0), st.integers(0)),
)
def test_tokens_count_where_they_came(
    over: bool, records: list[RequestRecord], window: tuple[int, int]
) -> None:
    """Half-open over HTTP, since windows may follow one another; else the last token counts."""
    for record in records:
        record.http = HttpSeen() if over else None
    start, end = (one % 10**12 for one in window)
    one = subject(records)
    one.trial.window_ns = (start, end)
    every = [t for r in records for t in r.token_ns]
    count = sum(start <= t < end if over else start < t <= end for t in every)
    found = metrics.metric("output_tok_per_s").value(one)
    assert found == (pytest.approx(count / ((end - start) / 1e9)) if end > start else None)


def test_tokens_inside_are_those_of_requests_across_an_edge_too() -> None:
    straddling = request(due=0.5, first=0.3, gaps=(0.1, 0.1, 0.1))  # 0.8, 0.9, 1.0, 1.1
    late = request(due=2.95, first=0.0, gaps=(0.04, 0.01, 0.5))  # 2.95, 2.99, 3.0, 3.5
    inner = request(due=2.0, first=0.1, gaps=(), finish="cancelled")
    outer = request(due=0.0, first=0.0, gaps=(4.0,))
    none = request(due=2.0, tokens=False)
    window = (ns(2), ns(4))  # from 1 s to 3 s of the clock of `request`
    assert inside(Requests([straddling, late, inner, outer, none]).token_ns, window) == 5


@given(st.lists(requests(), max_size=60))
def test_every_figure_of_any_requests_can_be_stored(records: list[RequestRecord]) -> None:
    one = subject(records)
    one.trial.window_ns = (0, 10**12)
    found = metrics.summarise([one.trial], one.case)
    assert msgspec.json.decode(msgspec.json.encode(found), type=dict[str, Estimate]) == found


@pytest.mark.parametrize("member", ["token_ns", "input_tokens"])
def test_what_64_bits_cannot_hold_is_no_result(member: str) -> None:
    body = msgspec.to_builtins(_tokens([1])) | {member: [2**70] if member == "token_ns" else 2**70}
    with pytest.raises(msgspec.ValidationError, match=member):
        msgspec.json.decode(msgspec.json.encode(body), type=RequestRecord)


# How many at once


def at_once(records: list[RequestRecord]) -> int:
    every = Requests(records)
    return peak_concurrency(every.sent_ns, every.over_ns)


def brute_force(records: list[RequestRecord]) -> int:
    def busy(at: int) -> int:
        return sum(r.sent_ns <= at < r.token_ns[-1] for r in records)

    return max((busy(r.sent_ns) for r in records), default=0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=40))
def test_peak_concurrency_is_that_of_counting_at_every_arrival(
    spans: list[tuple[int, int]],
) -> None:
    records = [request(due=a / 10, first=b / 10, gaps=()) for a, b in spans]
    assert at_once(records) == brute_force(records)


def test_one_that_ends_as_another_begins_is_not_beside_it() -> None:
    relay = [request(due=float(n), first=1.0, gaps=()) for n in range(5)]
    assert at_once(relay) == 1


def test_requests_without_an_end_stay_and_those_never_sent_never_were() -> None:
    stuck = request(due=0.0, tokens=False, finish="unfinished")
    later = request(due=100.0)
    refused = request(due=100.0, tokens=False, error="refused", finish="error")
    unsent = request(due=100.0, finish="cancelled", tokens=False)
    unsent.sent_ns = 0
    assert at_once([stuck, later, refused, unsent]) == 2


# Steadiness


def test_what_rises_from_block_to_block_has_risen_by_the_ratio_of_its_ends() -> None:
    steps = np.repeat([1.0, 1, 1, 1, 1, 2, 3, 4, 5, 7], 30)
    assert rise(steps) == 3.5
    assert rise(steps[::-1]) == 1.0


@given(st.integers(50, 400), st.integers(0, 2**32 - 1))
def test_noise_about_a_level_seldom_counts_as_a_rise(count: int, seed: int) -> None:
    noise = np.random.default_rng(seed).uniform(0.8, 1.2, (40, count))
    assert sum((rise(row) or 0) > RISE_MOST for row in noise) == 0


def test_below_fifty_requests_no_rise_can_be_told() -> None:
    assert rise(np.arange(49.0)) is None
    assert rise(np.arange(50.0) + 1) == pytest.approx(48 / 28)


def overloaded(rates: list[float]) -> Trial:
    """Requests whose first tokens come ever later, in another order than they were due."""
    records = [request(n, due=n / 10, first=late, gaps=(0.01,) * 4) for n, late in enumerate(rates)]
    for record in records:
        record.http = HttpSeen(status=200)
    return Trial(case=0, repeat=0, order=0, started_at="", state="ok", records=records[::-1])


def test_a_load_above_what_is_served_is_warned_of() -> None:
    asked = replace(case(0), load=replace(case(0).load, serving=ServingLoad()))
    told = served_warnings(overloaded([0.1 + n / 100 for n in range(300)]), asked)
    assert "TTFT rise to 1.69 times" in dict(told)["ttft_rise"]
    assert "tpot_rise" not in dict(told)
    assert not served_warnings(overloaded([0.1] * 300), asked)
