"""Definitions of words: computed from instants, with a fake clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cost, metrics, prices, stats, validity
from harness.errors import ArmbenchError
from harness.records.run import PlacementProof, RequestRecord, ThreadSeen, Trial
from tests.test_plan import case

MS = 1_000_000


def record(
    number: int, due: int, sent: int, started: int, tokens: list[int], slot: int = 0
) -> RequestRecord:
    """A request from instants in milliseconds."""
    return RequestRecord(
        id=number,
        slot=slot,
        due_ns=due * MS,
        sent_ns=sent * MS,
        started_ns=started * MS,
        token_ns=[t * MS for t in tokens],
        input_tokens=100,
    )


def trial(*records: RequestRecord, repeat: int = 0) -> Trial:
    ends = [t for r in records for t in r.token_ns]
    return Trial(
        case=0,
        repeat=repeat,
        order=0,
        started_at="2026-01-01T00:00:00+00:00",
        state="ok",
        records=list(records),
        window_ns=(min(r.due_ns for r in records), max(ends)) if ends else None,
    )


def value(name: str, of: Trial) -> float | None:
    return metrics.metric(name).value(metrics.Subject(trial=of, case=case(0)))


def test_latency_and_ttft_count_from_the_due_time_not_from_the_send() -> None:
    late = trial(record(0, due=0, sent=500, started=500, tokens=[600, 610]))
    assert value("ttft_p50_s", late) == pytest.approx(0.6)
    assert value("ttft_from_send_p50_s", late) == pytest.approx(0.1)
    assert value("latency_p50_s", late) == pytest.approx(0.61)


def test_tpot_leaves_the_first_token_out() -> None:
    assert value("tpot_p50_s", trial(record(0, 0, 0, 0, [100, 110, 120, 130]))) == pytest.approx(
        0.01
    )


def test_a_single_token_has_no_tpot_rather_than_zero() -> None:
    one = trial(record(0, 0, 0, 0, [100]))
    assert value("tpot_p50_s", one) is None
    assert value("itl_p50_s", one) is None
    assert value("decode_tok_per_s", one) is None
    assert value("ttft_p50_s", one) == pytest.approx(0.1)


def test_a_batch_is_counted_once() -> None:
    rows = [record(i, 0, 0, 10, [110, 120, 130], slot=i) for i in range(4)]
    assert value("prefill_tok_per_s", trial(*rows)) == pytest.approx(400 / 0.1)
    assert value("decode_tok_per_s", trial(*rows)) == pytest.approx(8 / 0.02)
    assert value("output_tok_per_s", trial(*rows)) == pytest.approx(12 / 0.13)


def test_prefill_is_timed_by_itself_not_by_subtraction() -> None:
    rows = [record(0, 0, 5, 20, [120, 121]), record(1, 121, 125, 140, [240, 241])]
    assert value("prefill_tok_per_s", trial(*rows)) == pytest.approx(200 / 0.2)


def test_percentiles_are_none_until_the_sample_can_tell_them() -> None:
    for q, needed in ((0.9, 29), (0.95, 59), (0.99, 299), (0.999, 2995)):
        assert stats.percentile([1.0] * (needed - 1), q) is None
        assert stats.percentile([1.0] * needed, q) == 1.0
        assert 1 - q**needed >= 0.95 > 1 - q ** (needed - 1)


@given(st.lists(st.floats(0, 1e6), min_size=59, max_size=400))
def test_percentiles_agree_with_numpy(values: list[float]) -> None:
    import numpy as np

    assert stats.percentile(values, 0.95) == pytest.approx(float(np.percentile(values, 95)))


@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=30))
def test_intervals_agree_with_scipy(values: list[float]) -> None:
    from scipy import stats as reference

    found = stats.estimate(values, "s")
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.high
    spread = reference.sem(values)
    if spread > 1e-9 * max(map(abs, values)):
        low, high = reference.t.interval(0.95, len(values) - 1, np_mean(values), spread)
        assert found.low == pytest.approx(low, rel=1e-6, abs=1e-6)
        assert found.high == pytest.approx(high, rel=1e-6, abs=1e-6)


def np_mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def test_one_repeat_has_no_interval_and_none_has_no_estimate() -> None:
    one = stats.estimate([3.0], "s")
    assert one is not None
    assert (one.value, one.low, one.high, one.sd) == (3.0, None, None, None)
    assert stats.estimate([], "s") is None


def test_every_metric_says_what_it_is_and_has_its_unit_in_its_name() -> None:
    endings = {"s": "_s", "B": "_bytes", "tok/s": "_tok_per_s"}
    for row in metrics.METRICS:
        assert row.formula
        assert row.name.endswith(endings.get(row.unit, "")), row.name
    assert len(metrics.BY_NAME) == len(metrics.METRICS)
    with pytest.raises(ArmbenchError, match="unknown metric"):
        metrics.metric("tpto_p50_s")


def test_failed_and_invalid_trials_are_kept_out_of_the_figures() -> None:
    good = trial(record(0, 0, 0, 0, [100, 110]))
    bad = trial(record(0, 0, 0, 0, [900, 990]), repeat=1)
    bad.invalid = ["steal"]
    failed = trial(record(0, 0, 0, 0, [900, 990]), repeat=2)
    failed.state = "failed"
    summary = metrics.summarise([good, bad, failed], case(0))
    assert summary["ttft_p50_s"].n == 1
    assert summary["ttft_p50_s"].value == pytest.approx(0.1)


def test_a_wrong_output_length_spoils_the_trial() -> None:
    short = trial(record(0, 0, 0, 0, [100, 110]))
    assert "not 128" in validity.length_faults(short, case(0, outputs=128))[0]
    assert validity.length_faults(short, case(0, outputs=2)) == []


def test_a_trial_without_a_placement_proof_is_not_valid() -> None:
    bare = trial(record(0, 0, 0, 0, [100, 110]))
    assert any("placement" in r for r in validity.invalid_reasons(bare, case(0, outputs=2)))
    seen = ThreadSeen(name="x", affinity="0", cpu_s=1.0, ran_on=[0])
    bare.placement = PlacementProof(asked=[0], driver=[1], samples=3, threads=[seen], compute=[0])
    assert validity.invalid_reasons(bare, case(0, outputs=2)) == []


def test_cost_carries_the_interval_of_the_throughput_over() -> None:
    rate = stats.estimate([90.0, 100.0, 110.0], "tok/s")
    assert rate is not None
    found = cost.cost(prices.parse_price("0.36 USD/h"), rate)
    assert found.value == pytest.approx(0.36 / 3600 / 100 * 1e6)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
