from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from harness.load.window import (
    narrow_enough,
    peak_concurrency,
    steady,
)
from harness.records.run import Estimate, RequestRecord
from tests.load.records import ns, request

# Concurrency


def brute_force(records: list[RequestRecord]) -> int:
    def busy(at: int) -> int:
        return sum(r.sent_ns <= at < r.token_ns[-1] for r in records)

    return max((busy(r.sent_ns) for r in records), default=0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=40))
def test_peak_concurrency_is_that_of_counting_at_every_arrival(
    spans: list[tuple[int, int]],
) -> None:
    records = [request(due=a / 10, first=b / 10, gaps=()) for a, b in spans]
    assert peak_concurrency(records) == brute_force(records)


def test_one_that_ends_as_another_begins_is_not_beside_it() -> None:
    relay = [request(due=float(n), first=1.0, gaps=()) for n in range(5)]
    assert peak_concurrency(relay) == 1


def test_requests_without_an_end_stay_and_those_never_sent_never_were() -> None:
    stuck = request(due=0.0, tokens=False, finish="unfinished")
    later = request(due=100.0)
    refused = request(due=100.0, tokens=False, error="refused", finish="error")
    unsent = request(due=100.0, finish="cancelled", tokens=False)
    unsent.sent_ns = 0
    assert peak_concurrency([stuck, later, refused, unsent]) == 2


# Steadiness


def run(ttft: list[float], gap: float = 0.01, noise: float = 0.2) -> list[RequestRecord]:
    rng = random.Random(1)
    return [
        request(n, due=n / 10, first=value * rng.uniform(1 - noise, 1 + noise), gaps=(gap,) * 4)
        for n, value in enumerate(ttft)
    ]


def test_a_run_that_is_steady_from_the_start_keeps_all_its_requests() -> None:
    for noise in (0.0, 0.2, 0.6):
        found = steady(run([0.1] * 300, noise=noise))
        assert (found.left_out, found.stable, found.start_ns) == (0, True, ns(1))


def test_slow_first_requests_are_left_out() -> None:
    found = steady(run([0.5] * 45 + [0.1] * 255))
    assert found.stable
    assert found.left_out == 60  # to the end of the block in which it settled
    assert found.start_ns == ns(1 + 6.0)


def test_a_run_still_filling_up_at_first_is_cut_as_well() -> None:
    assert steady(run([0.02] * 30 + [0.1] * 270)).left_out == 30


def test_a_decode_that_settles_late_counts_as_warm_up_too() -> None:
    records = run([0.1] * 300)
    for one in records[:50]:
        first = one.token_ns[0]
        one.token_ns = [first + n * ns(0.05) for n in range(5)]
    assert steady(records).left_out == 60


def test_a_latency_that_never_stops_rising_is_no_steady_state() -> None:
    found = steady(run([0.1 + n / 100 for n in range(300)]))
    assert found.stable is False
    assert found.left_out == 0
    assert "TTFT kept rising: from" in (found.reason or "")


def test_too_few_requests_cannot_tell() -> None:
    found = steady(run([0.1] * 49))
    assert found.stable is None
    assert "49 requests succeeded, 50 are needed" in (found.reason or "")
    assert steady([]).stable is None


# Precision


def estimate(value: float, half: float | None, n: int = 5) -> Estimate:
    ends = (None, None) if half is None else (value - half, value + half)
    return Estimate(value=value, low=ends[0], high=ends[1], n=n, unit="s", method="")


def test_an_interval_is_narrow_by_its_half_width() -> None:
    assert narrow_enough([estimate(100, 2.9)], 0.03)
    assert not narrow_enough([estimate(100, 3.1)], 0.03)
    assert not narrow_enough([estimate(100, 1), estimate(1, 1)], 0.03)


def test_two_repeats_or_no_interval_are_never_enough() -> None:
    assert not narrow_enough([estimate(100, 0.0, n=2)], 0.03)
    assert not narrow_enough([estimate(100, None)], 0.03)
    assert not narrow_enough([], 0.03)
    assert narrow_enough([estimate(0.0, 0.0)], 0.03)
    assert not narrow_enough([estimate(0.0, math.inf)], 0.03)
