from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ArmbenchError
from harness.load.arrivals import dispersion as index_of_dispersion
from harness.load.arrivals import due_times, gap_cv
from harness.load.schedule import dealt, make
from harness.records.load import Arrivals, ServingLoad
from harness.records.run import LoadPoint

SEEDS = 100
RATE = 50.0


def poisson(seed: int, count: int = 2000) -> list[int]:
    return due_times(
        Arrivals(process="poisson", rate=RATE), seed=seed, count=count, duration_s=None
    )


def open_load(count: int) -> LoadPoint:
    return LoadPoint(
        kind="open",
        batch=1,
        input_tokens=8,
        output_tokens=8,
        requests=count,
        serving=ServingLoad(arrivals=Arrivals(process="poisson", rate=RATE)),
    )


def one_sender(seed: int) -> list[int]:
    return [one.due_ns or 0 for one in make(open_load(2000), seed=seed, repeat=0)]


def four_senders(seed: int) -> list[int]:
    """What four processes send that each take their part of the schedule they all know."""
    planned = make(open_load(2000), seed=seed, repeat=0)
    parts = [list(dealt(planned, sender, 4)) for sender in range(4)]
    assert [len(part) for part in parts] == [500] * 4
    return sorted(one.due_ns or 0 for part in parts for one in part)


@pytest.mark.parametrize("schedule", [one_sender, four_senders])
def test_poisson_arrivals_are_poisson_with_one_sender_and_with_four(schedule) -> None:
    runs = [schedule(seed) for seed in range(SEEDS)]
    assert statistics.fmean(index_of_dispersion(run) or 0 for run in runs) == pytest.approx(
        1, abs=0.05
    )
    assert statistics.fmean(gap_cv(run) or 0 for run in runs) == pytest.approx(1, abs=0.05)


def test_a_sender_of_four_sends_a_quarter_and_never_the_same_request_as_another() -> None:
    planned = make(open_load(400), seed=1, repeat=0)
    parts = [[one.id for one in dealt(planned, k, 4)] for k in range(4)]
    assert sorted(i for part in parts for i in part) == list(range(400))


def test_the_number_of_poisson_arrivals_in_a_time_varies_as_a_poisson_count_does() -> None:
    """Gaps that are rescaled to a wished mean would give the same count each time."""
    counts = [
        len(due_times(Arrivals(process="poisson", rate=RATE), seed=s, count=None, duration_s=10.0))
        for s in range(400)
    ]
    assert statistics.fmean(counts) == pytest.approx(500, rel=0.01)
    assert statistics.variance(counts) / statistics.fmean(counts) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("rate", [0.7, 3.0, 50.0, 7777.0])
def test_constant_arrivals_have_gaps_without_any_variation_and_do_not_drift(rate: float) -> None:
    due = due_times(Arrivals(process="constant", rate=rate), seed=1, count=5000, duration_s=None)
    assert gap_cv(due) == 0
    assert due[0] == 0
    for number, at in enumerate(due):  # within half a nanosecond for each period so far
        assert abs(at - number * 1e9 / rate) <= 0.5 * number


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 4.0])
def test_gamma_gaps_vary_by_one_over_the_root_of_burstiness(burstiness: float) -> None:
    arrivals = Arrivals(process="gamma", rate=RATE, burstiness=burstiness)
    runs = [due_times(arrivals, seed=s, count=4000, duration_s=None) for s in range(40)]
    assert statistics.fmean(gap_cv(run) or 0 for run in runs) == pytest.approx(
        1 / math.sqrt(burstiness), rel=0.03
    )
    rates = [len(run) / (run[-1] / 1e9) for run in runs]
    assert statistics.fmean(rates) == pytest.approx(RATE, rel=0.03)


@pytest.mark.parametrize(("first", "last"), [(10.0, 90.0), (90.0, 10.0), (50.0, 50.0)])
def test_a_ramp_offers_its_rate_at_every_time(first: float, last: float) -> None:
    arrivals = Arrivals(process="ramp", rate=first, rate_end=last)
    runs = [due_times(arrivals, seed=s, count=None, duration_s=20.0) for s in range(150)]
    for quarter in range(4):
        begin, end = quarter * 5e9, (quarter + 1) * 5e9
        seen = statistics.fmean(sum(begin <= at < end for at in run) for run in runs) / 5
        middle = first + (last - first) * (quarter + 0.5) / 4
        assert seen == pytest.approx(middle, rel=0.04)


def test_a_ramp_by_count_lasts_as_long_as_so_many_are_expected_to_take() -> None:
    arrivals = Arrivals(process="ramp", rate=10, rate_end=30)
    runs = [due_times(arrivals, seed=s, count=4000, duration_s=None) for s in range(20)]
    assert statistics.fmean(run[-1] / 1e9 for run in runs) == pytest.approx(200, rel=0.02)
    assert all(len(run) > 3700 for run in runs)


def test_a_trace_is_played_back_as_it_was_recorded_and_stretched(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [(1000, 3, 4), (1250, 5, 6), (4000, 7, 8)]
    path.write_text(
        "".join(
            f'{{"timestamp": {t}, "input_length": {i}, "output_length": {o}}}\n' for t, i, o in rows
        )
    )
    arrivals = Arrivals(process="trace", trace=str(path), time_scale=2.0)
    due = due_times(arrivals, seed=1, count=None, duration_s=None)
    assert due == [0, 500_000_000, 6_000_000_000]
    assert due_times(arrivals, seed=1, count=2, duration_s=None) == due[:2]
    assert due_times(arrivals, seed=1, count=None, duration_s=6.0) == due[:2]


@st.composite
def processes(draw: st.DrawFn) -> Arrivals:
    kind = draw(st.sampled_from(["constant", "poisson", "gamma", "ramp"]))
    return Arrivals(
        process=kind,
        rate=draw(st.floats(0.5, 2000)),
        burstiness=draw(st.floats(0.1, 10)),
        rate_end=draw(st.floats(0.5, 2000)),
    )


@given(
    arrivals=processes(),
    seed=st.integers(0, 2**63 - 1),
    count=st.none() | st.integers(1, 300),
    seconds=st.none() | st.floats(0.01, 1.0),
)
def test_due_times_are_sorted_bounded_and_the_same_for_the_same_seed(
    arrivals: Arrivals, seed: int, count: int | None, seconds: float | None
) -> None:
    if count is None and seconds is None:
        with pytest.raises(ArmbenchError, match="no end"):
            due_times(arrivals, seed=seed, count=count, duration_s=seconds)
        return
    due = due_times(arrivals, seed=seed, count=count, duration_s=seconds)
    assert due == sorted(due)
    assert all(at >= 0 for at in due)
    assert count is None or len(due) <= count
    assert seconds is None or all(at < seconds * 1e9 for at in due)
    if seconds is None and arrivals.process != "ramp":
        assert len(due) == count
    assert due == due_times(arrivals, seed=seed, count=count, duration_s=seconds)


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_another_seed_gives_another_schedule(one: int, other: int) -> None:
    assert (poisson(one, 20) == poisson(other, 20)) == (one == other)


@given(st.integers(0, 2**40), st.integers(1, 200))
def test_a_longer_schedule_begins_with_the_shorter_one(seed: int, count: int) -> None:
    assert poisson(seed, 200)[:count] == poisson(seed, count)


@pytest.mark.parametrize(
    ("arrivals", "message"),
    [
        (Arrivals(process="poisson"), "rate of None"),
        (Arrivals(process="constant", rate=-1.0), "rate of -1"),
        (Arrivals(process="gamma", rate=math.nan), "rate of nan"),
        (Arrivals(process="gamma", rate=1.0, burstiness=0.0), "burstiness"),
        (Arrivals(process="ramp", rate=1.0), "ends at a rate of None"),
        (Arrivals(process="trace"), "need its file"),
        (Arrivals(process="uniform", rate=1.0), "unknown arrivals 'uniform'"),  # type: ignore[arg-type]
        (Arrivals(process="poisson", rate=1e9), "more than 2000000"),
    ],
)
def test_arrivals_that_cannot_be_made_say_what_is_missing(arrivals: Arrivals, message: str) -> None:
    with pytest.raises(ArmbenchError, match=message):
        due_times(arrivals, seed=1, count=None, duration_s=10.0)


def test_dispersion_and_gap_variation_tell_bursts_from_regular_arrivals() -> None:
    even = [n * 10 for n in range(1000)]
    bursts = [n // 10 * 1000 + n % 10 for n in range(1000)]
    assert index_of_dispersion(even) == pytest.approx(0, abs=0.01)
    assert gap_cv(even) == 0
    assert (gap_cv(bursts) or 0) > 2
    uneven = [at for n, at in enumerate(even) if n // 50 % 2 == 0]
    assert (index_of_dispersion(uneven) or 0) > 5
    assert gap_cv([1, 2]) is None
    assert index_of_dispersion([5] * 1000) is None
