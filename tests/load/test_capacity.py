"""The search against servers whose capacity is known, in simulated time."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.load.capacity import (
    Evidence,
    ProbeOutcome,
    Verdict,
    backlog_grows,
    bracket,
    clustering,
    contradiction,
    early_verdict,
    evidence,
    judge,
    samples_for,
    search,
)
from harness.load.slo import parse_slo
from harness.records.load import Capacity, Slo
from harness.records.run import RequestRecord
from tests.load.records import ns, request

SERVICE_S = 0.02
DECODE = parse_slo("tpot:p99<=100ms")  # no bound on waiting: probes are short
Waits = Callable[[float, int, random.Random], list[float]]


def fifo(rate: float, count: int, rng: random.Random) -> list[float]:
    """Time in an M/D/1 queue of each of `count` requests, from empty: Lindley's recursion."""
    wait, found = 0.0, []
    for _ in range(count):
        wait = max(0.0, wait - rng.expovariate(rate))
        found.append(wait + SERVICE_S)
        wait += SERVICE_S
    return found


def kept_share(rate: float, wait_s: float) -> float:
    """P(W ≤ t) of M/D/1 (Erlang 1909); sums of large terms of both signs, hence decimals."""
    if rate * SERVICE_S >= 1:
        return 0.0
    with localcontext(prec=60):
        arrivals, service, total = Decimal(rate), Decimal(SERVICE_S), Decimal(0)
        for k in range(int(Decimal(wait_s) // service) + 1):
            x = arrivals * (k * service - Decimal(wait_s))
            total += x**k / math.factorial(k) * (-x).exp()
        return float((1 - arrivals * service) * total)


def true_capacity(wait_s: float, target: float) -> float:
    low, high = 0.01 / SERVICE_S, 1 / SERVICE_S
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if kept_share(middle, wait_s) >= target else (low, middle)
    return low


def searched(slo: Slo, waits: Waits, seed: int, **changes: float) -> tuple[Capacity, int]:
    """The capacity, and how many requests it took."""
    rng = random.Random(seed)
    sent = 0

    def probe(rate: float, samples: int) -> ProbeOutcome:
        nonlocal sent
        sent += samples
        found = [(t / slo.bounds[0].seconds,) for t in waits(rate, samples, rng)]
        return ProbeOutcome(case=0, margins=found)

    bounds = {"start_rate": 7.0, "lowest": 0.1, "highest": 1000.0} | changes
    return search(probe, slo, **bounds), sent  # type: ignore[arg-type]


@pytest.mark.parametrize("services", [3, 6, 12])
def test_the_interval_contains_the_true_capacity_of_a_queue_in_nine_of_ten_searches(
    services: int,
) -> None:
    wait = services * SERVICE_S
    truth = true_capacity(wait, 0.99)
    slo = parse_slo(f"ttft:p99<={(wait + SERVICE_S) * 1000:.6g}ms")
    found = [searched(slo, fifo, seed)[0] for seed in range(40)]
    inside = sum((c.low or 0) <= truth <= (c.high or math.inf) for c in found)
    assert inside >= 36
    widths = [c.high / c.low for c in found if c.low and c.high]
    assert len(widths) >= 38
    assert statistics.median(widths) < 1.7


def test_simulated_queues_agree_with_the_formula_that_gives_their_capacity() -> None:
    rate, wait = 34.0, 6 * SERVICE_S
    seen = fifo(rate, 200_000, random.Random(1))
    share = statistics.fmean(t <= wait + SERVICE_S for t in seen)
    assert share == pytest.approx(kept_share(rate, wait), abs=0.002)


def step(limit: float) -> Waits:
    """A server that keeps every promise up to `limit` requests per second, and none above."""
    return lambda rate, count, rng: [0.001 if rate <= limit else 99.0] * count


@settings(max_examples=60)
@given(st.floats(0.2, 900), st.floats(0.2, 900))
def test_a_sharp_limit_is_found_in_the_steps_of_bracket_and_bisection(
    limit: float, start: float
) -> None:
    found, _ = searched(DECODE, step(limit), 1, start_rate=start)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= limit < found.high
    assert found.high / found.low <= 1.0501
    assert found.reason is None
    bracketing = abs(math.log2(limit / start)) + 2
    halvings = math.ceil(math.log2(math.log(2) / math.log(1.05)))
    assert len(found.probes) <= bracketing + halvings


def test_a_limit_beyond_the_range_says_that_no_rate_failed() -> None:
    found, _ = searched(DECODE, step(5000), 1)
    assert (found.rate, found.high, found.reason) == (1000, None, "no rate was shown to fail")


def test_a_server_that_never_keeps_the_promise_has_no_capacity() -> None:
    found, _ = searched(DECODE, step(0.01), 1)
    assert (found.rate, found.low, found.high) == (None, None, 0.1)
    assert found.reason == "no rate was shown to hold"


def test_the_budget_ends_the_search_with_the_bounds_so_far() -> None:
    found, _ = searched(DECODE, step(40), 1, most_probes=4)
    assert (found.low, found.high, len(found.probes)) == (28, 56, 4)
    assert "budget ended" in (found.reason or "")
    unasked = search(
        lambda rate, count: pytest.fail("probed"),
        parse_slo("server"),
        start_rate=1,
        lowest=0.1,
        highest=10,
        spent=lambda: True,
    )
    assert (unasked.rate, unasked.probes) == (None, [])


def test_an_open_rate_gets_more_samples_and_then_moves_no_bound() -> None:
    """One in a hundred fails whatever the rate: no number of samples tells it from the target."""

    def wavering(rate: float, count: int, rng: random.Random) -> list[float]:
        if 5 < rate < 20:
            return [99.0 if n % 100 == 50 else 0.001 for n in range(count)]
        return step(5)(rate, count, rng)

    found, _ = searched(DECODE, wavering, 1)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 5.3
    assert found.high >= 20
    assert "stayed open" in (found.reason or "")
    opened = [p for p in found.probes if p.verdict == "open"]
    repeated = [p.sent for p in opened if p.rate == opened[0].rate]
    assert repeated == [repeated[0], 2 * repeated[0], 4 * repeated[0]]
    assert all(p.low <= 0.99 <= p.high for p in opened)


def test_every_probe_is_kept_with_its_samples_and_bounds() -> None:
    found, sent = searched(DECODE, step(40), 1)
    assert sum(p.sent for p in found.probes) == sent
    for probe in found.probes:
        assert probe.verdict == ("holds" if probe.rate <= 40 else "fails")
        assert probe.low <= probe.attained / probe.sent <= probe.high


def test_probes_of_trials_that_are_not_believed_decide_nothing() -> None:
    found = search(
        lambda rate, count: ProbeOutcome(case=0, margins=[]),
        parse_slo("server"),
        start_rate=4,
        lowest=1,
        highest=16,
    )
    assert (found.rate, found.low, found.high) == (None, None, None)
    assert {p.verdict for p in found.probes} == {"open"}


def test_a_probe_that_was_stopped_early_fails_whatever_it_saw() -> None:
    def probe(rate: float, count: int) -> ProbeOutcome:
        saturated = "the backlog grows" if rate > 10 else None
        return ProbeOutcome(case=0, margins=[(0.1, 0.1)] * count, stopped_early=saturated)

    found = search(probe, parse_slo("server"), start_rate=4, lowest=1, highest=64)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 10 < found.high
    assert found.high / found.low <= 1.0501


# Verdicts


def told(kept: float, sent: float) -> Evidence:
    return Evidence(kept=round(kept), sent=round(sent), told=((kept, sent),))


def test_requests_at_higher_rates_help_to_show_that_a_lower_one_holds() -> None:
    slo = parse_slo("ttft:p99<=1s")
    assert judge({5.0: told(200, 200)}, slo) == {5.0: "open"}
    assert judge({5.0: told(200, 200), 6.0: told(200, 200)}, slo) == {5.0: "holds", 6.0: "open"}


def test_requests_at_lower_rates_help_to_show_that_a_higher_one_fails() -> None:
    slo = parse_slo("ttft:p99<=1s")
    few, many = told(98, 100), told(294, 300)
    assert judge({6.0: few}, slo) == {6.0: "open"}
    assert judge({5.0: many, 6.0: few}, slo) == {5.0: "open", 6.0: "fails"}


def test_a_stricter_bound_fails_by_itself() -> None:
    slo = parse_slo("ttft:p99<=1s,tpot:p90<=1s")
    lax = evidence([(0.5, 2.0 if n % 20 == 0 else 0.5) for n in range(1000)], slo)
    strict = evidence([(2.0 if n % 20 == 0 else 0.5, 0.5) for n in range(1000)], slo)
    assert judge({1.0: lax}, slo) == {1.0: "holds"}
    assert judge({1.0: strict}, slo) == {1.0: "fails"}


def test_outcomes_that_are_not_monotonic_are_told_and_the_lower_failure_counts() -> None:
    slo = parse_slo("ttft:p99<=1s")
    odd = {4.0: told(500, 500), 8.0: told(400, 500), 16.0: told(500, 500), 32.0: told(9, 500)}
    verdicts = judge(odd, slo)
    assert verdicts == {4.0: "holds", 8.0: "fails", 16.0: "open", 32.0: "fails"}
    assert bracket(verdicts) == (4.0, 8.0)
    assert contradiction(odd, slo) == "16/s held although 8/s failed: it is not monotonic"


@given(
    st.dictionaries(
        st.floats(0.1, 100), st.sampled_from(["holds", "fails", "open"]), min_size=1, max_size=9
    )
)
def test_a_bracket_never_has_a_failure_below_its_held_rate(verdicts: dict[float, Verdict]) -> None:
    low, high = bracket(verdicts)
    assert low is None or high is None or low < high
    assert low is None or verdicts[low] == "holds"
    assert high is None or verdicts[high] == "fails"
    assert all(low is None or rate > low for rate, v in verdicts.items() if v == "fails")


# How much requests tell


def test_independent_requests_tell_as_much_as_they_are() -> None:
    rng = random.Random(1)
    factors = [clustering([rng.random() for _ in range(500)]) for _ in range(200)]
    assert statistics.fmean(factors) < 1.15


def test_requests_that_fail_in_runs_tell_less() -> None:
    rng = random.Random(1)
    runs = [value for _ in range(50) for value in [rng.random()] * 10]
    assert clustering(runs) > 4
    assert clustering([0.1] * 400 + [2.0] * 100) > 10
    assert clustering([0.1, 9.0] * 20) == 1  # too few to tell
    assert clustering([9.0] * 500) == 1  # nothing to be clustered


def test_a_probe_lasts_long_enough_to_fall_behind_by_its_bound() -> None:
    slo = parse_slo("ttft:p99<=2s,tpot:p99<=100ms")
    assert samples_for(slo, 1.0, resolution=0.05) == 381
    assert samples_for(slo, 100.0, resolution=0.05) == 4200
    assert samples_for(parse_slo("tpot:p99<=100ms"), 100.0, resolution=0.05) == 381


# Ending a probe early


def line(count: int, ttft: Callable[[int], float], *, every: float = 0.1) -> list[RequestRecord]:
    return [request(n, due=n * every, first=ttft(n)) for n in range(count)]


def test_a_probe_is_over_when_even_all_the_rest_could_not_make_it_up() -> None:
    slow = line(40, lambda n: 5.0)
    reason = early_verdict(slow, parse_slo("server"), planned=381, now_ns=ns(100))
    assert reason is not None
    assert "40 of 40 requests broke the promise" in reason


def test_a_few_failures_do_not_end_a_probe() -> None:
    records = line(300, lambda n: 5.0 if n in (100, 200) else 0.1)
    assert early_verdict(records, parse_slo("server"), planned=381, now_ns=ns(100)) is None


def test_requests_that_wait_too_long_already_count_before_they_are_answered() -> None:
    waiting = [request(n, due=n * 0.1, tokens=False, finish="unfinished") for n in range(40)]
    slo = parse_slo("server")
    assert early_verdict(waiting, slo, planned=381, now_ns=ns(1 + 1.9)) is None
    assert early_verdict(waiting, slo, planned=381, now_ns=ns(1 + 9)) is not None


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 380))
def test_what_is_called_lost_early_would_not_have_held(seed: int, seen: int) -> None:
    rng = random.Random(seed)
    slo = parse_slo("ttft:p99<=1s")
    bad = rng.choice([0.0, 0.01, 0.03, 0.1])
    records = line(381, lambda n: 2.0 if rng.random() < bad else 0.1, every=1.0)
    early = early_verdict(records[:seen], slo, planned=381, now_ns=records[seen - 1].token_ns[-1])
    if early is not None:
        whole = ProbeOutcome.of(records, slo, case=0, stopped_early=None)
        assert judge({1.0: evidence(whole.margins, slo)}, slo)[1.0] != "holds"


def served(rate: float, capacity: float, seconds: float) -> list[RequestRecord]:
    """Arrivals of one Poisson process, first tokens by a server of `capacity` per second."""
    rng = random.Random(1)
    now = free = 0.0
    found: list[RequestRecord] = []
    while (now := now + rng.expovariate(rate)) < seconds:
        free = max(free, now) + 1 / capacity
        done = free < seconds
        found.append(
            request(
                len(found),
                due=now,
                first=free - now,
                tokens=done,
                finish="length" if done else "unfinished",
            )
        )
    return found


def test_a_backlog_that_grows_without_end_is_seen_even_where_no_bound_looks_at_waiting() -> None:
    records = served(rate=30, capacity=20, seconds=60)
    assert backlog_grows(records, ns(1 + 60))
    slo = parse_slo("tpot:p99<=100ms")
    assert early_verdict(records, slo, planned=2000, now_ns=ns(61)) == (
        "the backlog grows without end"
    )


def test_a_busy_server_and_a_long_pipeline_are_not_taken_for_saturated() -> None:
    assert not backlog_grows(served(rate=19, capacity=20, seconds=60), ns(1 + 60))
    filling = [
        request(n, due=n / 30, first=20.0, tokens=n / 30 + 20 < 30, finish="length")
        for n in range(900)
    ]
    assert not backlog_grows(filling, ns(1 + 30))
    assert not backlog_grows([], ns(1))


def test_an_outcome_is_in_the_order_of_due_times() -> None:
    records = line(50, lambda n: n / 10)
    random.Random(1).shuffle(records)
    outcome = ProbeOutcome.of(records, parse_slo("ttft:p99<=1s"), case=3, stopped_early=None)
    assert outcome.margins == sorted(outcome.margins)
