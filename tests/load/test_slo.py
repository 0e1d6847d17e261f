from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from harness import stats
from harness.errors import ArmbenchError
from harness.load.slo import (
    attained,
    attainment,
    demands,
    margins,
    needed,
    parse_slo,
    profiles,
    wilson,
)
from tests.load.records import request

SERVER = parse_slo("server")


def test_the_profiles_are_mlperfs() -> None:
    assert set(profiles()) == {"server", "interactive"}
    assert parse_slo("server").bounds == parse_slo("ttft:p99<=2s,tpot:p99<=100ms").bounds
    assert parse_slo("interactive").bounds == parse_slo("ttft:p99<=0.5s,tpot:p99<=30ms").bounds
    assert parse_slo("interactive").target == 0.99


def test_a_promise_survives_being_written() -> None:
    slo = parse_slo(" ttft : p99 <= 2s , tpot:p95<=100ms,latency:p99.9<1m ")
    assert slo.target == 0.95
    assert parse_slo(slo.name) == slo


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a bound"),
        ("ttft<=2s", "not a bound"),
        ("ttft:p99<=2s,", "not a bound"),
        ("ttft:p99<=2parsec", "not a duration"),
        ("ttft:p100<=2s", "not a bound"),
        ("ttft:p10<=2s", "no run can show"),
        ("ttft:p99<=0s", "no run can show"),
        ("ttft:p99<=2s,ttft:p90<=1s", "bounds ttft twice"),
        ("tffft:p99<=2s", "unknown SLO metric 'tffft'"),
        ("severe", "unknown SLO profile 'severe'"),
    ],
)
def test_text_that_is_no_promise_says_why(text: str, message: str) -> None:
    with pytest.raises(ArmbenchError, match=message):
        parse_slo(text)


@given(st.text() | st.from_regex(r"[a-z]{3,5}:p[0-9.]{1,6}<=?[0-9.]{1,4}(s|ms|)(,|$)?"))
def test_no_text_makes_the_parser_raise_anything_but_a_user_error(text: str) -> None:
    try:
        slo = parse_slo(text)
    except ArmbenchError:
        return
    assert 0.5 <= slo.target < 1


# One request


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ttft:p99<=101ms", True),
        ("ttft:p99<=99ms", False),
        ("ttfot:p99<=111ms", False),  # the first two tokens are thought, not answer
        ("ttfot:p99<=121ms", True),
        ("tpot:p99<=24ms", False),  # (0.01 + 0.01 + 0.055) ÷ 3
        ("tpot:p99<=26ms", True),
        ("itl:p99<=54ms", False),  # the longest gap, not their mean
        ("itl:p99<=56ms", True),
        ("latency:p99<=174ms", False),
        ("latency:p99<=176ms", True),
    ],
)
def test_each_metric_is_that_of_the_definitions(text: str, kept: bool) -> None:
    one = request(gaps=(0.01, 0.01, 0.055), reasoning=2, lag=0.05)
    assert attained(one, parse_slo(text)) == kept


def test_waiting_counts_from_the_due_time_not_from_the_send() -> None:
    assert not attained(request(first=2.5, lag=2.4), SERVER)


def test_a_request_must_keep_every_bound() -> None:
    assert attained(request(), SERVER)
    assert not attained(request(first=2.1), SERVER)
    assert not attained(request(gaps=(0.2,)), SERVER)


def test_whoever_fails_attains_nothing() -> None:
    for bad in (
        request(error="reset by peer", finish="error"),
        request(finish="cancelled"),
        request(finish="unfinished"),
        request(tokens=False),
    ):
        assert not attained(bad, SERVER)
        assert set(margins(bad, SERVER)) == {math.inf}


def test_a_single_token_has_no_tpot_to_break() -> None:
    assert margins(request(gaps=()), SERVER) == (pytest.approx(0.05), 0.0)


def test_all_reasoning_counts_as_an_answer_at_its_end() -> None:
    thinking = request(gaps=(0.01,) * 3, reasoning=4)
    assert margins(thinking, parse_slo("ttfot:p90<=1s")) == (pytest.approx(0.13),)


# Many requests


def test_failures_count_against_attainment() -> None:
    records = [request(n) for n in range(8)] + [request(first=3.0), request(error="500")]
    told = attainment(records, SERVER)
    assert (told.sent, told.kept, told.share) == (10, 8, 0.8)
    assert told.by_bound == {"ttft": 8, "tpot": 9}
    assert told.low < 0.8 < told.high
    assert attainment([], SERVER).share is None


def test_a_stricter_bound_is_asked_for_by_itself() -> None:
    slo = parse_slo("ttft:p99<=2s,tpot:p90<=100ms")
    assert slo.target == 0.9
    assert [(d.share, d.index) for d in demands(slo)] == [(0.9, None), (0.99, 0)]
    assert [(d.share, d.index) for d in demands(SERVER)] == [(0.99, None)]


@given(st.integers(1, 5000), st.floats(0, 1))
def test_bounds_are_wilsons(of: int, share: float) -> None:
    kept = round(of * share)
    low, high = wilson(kept, of)
    exact = binomtest(kept, of).proportion_ci(confidence_level=0.95, method="wilson")
    assert low == pytest.approx(exact.low, abs=1e-9)
    assert high == pytest.approx(exact.high, abs=1e-9)
    assert 0 <= low <= kept / of <= high <= 1


def test_nothing_shows_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.9, 0.95, 0.99, 0.999])
def test_so_many_requests_state_a_percentile_and_can_show_it(share: float) -> None:
    n = needed(share)
    assert n >= stats.NEEDED[share]
    assert wilson(n, n)[0] >= share > wilson(n - 1, n - 1)[0]
    assert needed(0.99) == 381
