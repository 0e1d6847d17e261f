"""What a candidate is worth: figures, SLO, and the bound that no candidate can pass."""

from __future__ import annotations

import math
from typing import Any

import pytest

from harness import engines
from harness.engines import torch
from harness.load.slo import parse_slo
from harness.model.architecture import dimensions
from harness.model.checkpoint import builtin_config
from harness.model.footprint import ModelShape
from harness.records.ceilings import Ceiling, Ceilings
from harness.records.run import Trial
from harness.records.tune import Candidate
from harness.tune import objective
from harness.tune.limits import Rates, limit
from tests.test_metrics import record, trial
from tests.tune.test_space import asked

SIZES = dimensions(builtin_config("qwen2.5-0.5b"))
WEIGHTS = 4 * 494_032_768  # float32, the tied head once


def candidate(**changes: Any) -> Candidate:
    return Candidate(**{"engine": "torch", "dtype": "float32", "threads": 2, **changes})


def test_a_probe_is_brought_to_one_prefill_and_its_steps() -> None:
    figures = objective.expected(asked(), candidate(batch=4, instances=2), 1.0, 0.1)
    assert figures.output_tok_per_s == pytest.approx(2 * 4 * 128 / (1.0 + 127 * 0.1))
    assert (figures.tpot_s, figures.ttft_s) == (0.1, 1.0)


@pytest.mark.parametrize("load", ["offline", "closed"])
def test_a_single_output_token_comes_with_the_prefill_and_has_no_tpot(load: str) -> None:
    """So that an engine at the ceilings is at its bound, not above it."""
    one = candidate(threads=64, batch=2)
    prefill_s = 2 * ModelShape(SIZES).prefill_flops(512) / 6000e9
    given = asked(lengths=(512, 1), load=load)
    figures = objective.expected(given, one, prefill_s, 0.1)
    assert figures.tpot_s is None
    assert figures.output_tok_per_s == pytest.approx(2 / prefill_s)
    assert figures.output_tok_per_s == pytest.approx(limit(given, one, SIZES, RATES))


def test_latency_is_scored_by_its_own_steps_and_throughput_by_all_sequences() -> None:
    figures = objective.Figures(output_tok_per_s=40.0, tpot_s=0.2, ttft_s=1.0)
    assert objective.score("latency", figures) == pytest.approx(5.0)
    assert objective.score("throughput", figures) == objective.score("cost", figures) == 40.0


def steady(step_ms: int, count: int, prefill_ms: int = 100) -> Trial:
    """A trial of `count` requests of five tokens, one after the other."""
    tokens = [prefill_ms + step_ms * n for n in range(5)]
    return trial(*(record(i, 0, 0, 0, tokens) for i in range(count)))


@pytest.mark.parametrize(
    ("requests", "judged"), [(1, "p50"), (28, "p50"), (29, "p90"), (59, "p95"), (299, "p99 ")]
)
def test_a_promise_is_judged_at_the_percentile_that_the_sample_tells(
    requests: int, judged: str
) -> None:
    found = objective.judge(parse_slo("tpot:p99<=100ms"), [steady(50, requests)])
    assert found is not None
    assert found.kept
    assert f"TPOT {judged}" in found.text
    assert ("p99 asked" in found.text) == (requests < 299)
    assert f"of {requests} requests" in found.text


def test_a_slow_step_breaks_the_promise_and_a_failed_request_counts_as_never() -> None:
    slo = parse_slo("ttft:p50<=1s,tpot:p50<=30ms")
    slow = objective.judge(slo, [steady(50, 3)])
    assert slow is not None
    assert not slow.kept
    assert "TPOT p50 50 ms > 30 ms" in slow.text
    broken = steady(20, 3)
    for one in broken.records[1:]:
        one.error, one.finish = "reset", "error"
    failed = objective.judge(slo, [broken])
    assert failed is not None
    assert not failed.kept
    assert "never" in failed.text


def test_a_probe_rules_out_only_what_is_clearly_beyond_the_promise() -> None:
    promised = asked(slo=parse_slo("tpot:p99<=100ms"))
    assert objective.ruled_out(promised, objective.Figures(1.0, 0.11, 1.0)) is None
    told = objective.ruled_out(promised, objective.Figures(1.0, 0.2, 1.0))
    assert told is not None
    assert "TPOT of 200 ms, at most 100 ms wanted" in told


def ceilings(threads: int, read: float, f32: float) -> Ceilings:
    kinds = {"read": ("bytes/s", read), "fma_f32": ("ops/s", f32)}
    return Ceilings(
        cpus=f"0-{threads - 1}",
        threads=threads,
        short=True,
        at_ns=0,
        took_s=1.0,
        ceilings={k: Ceiling(name=k, unit=u, value=v) for k, (u, v) in kinds.items()},
    )


RATES = Rates(ceilings=[ceilings(1, 15e9, 100e9), ceilings(64, 40e9, 6000e9)], cache_bytes=2**25)


def bound(one: Candidate, **changes: Any) -> float:
    found = limit(asked(**changes), one, SIZES, RATES)
    assert found is not None
    return found


def test_no_decode_is_faster_than_reading_its_weights_and_keys() -> None:
    """One token a step: read ceiling ÷ (weights + the cache at the mean context)."""
    keys = 2 * 24 * 2 * 64 * 4 * (512 + 64)
    found = bound(candidate(threads=64), objective="latency", load="single_stream")
    assert found == pytest.approx(40e9 / (WEIGHTS + keys), rel=0.01)


def test_few_threads_read_no_more_than_so_many_lone_ones() -> None:
    single = {"objective": "latency", "load": "single_stream"}
    assert bound(candidate(threads=1), **single) == pytest.approx(
        15 / 40 * bound(candidate(threads=64), **single), rel=0.01
    )


def test_a_batch_is_bound_by_arithmetic_in_the_end() -> None:
    flops = ModelShape(SIZES).prefill_flops(512)
    found = bound(candidate(threads=64, batch=4096))
    assert found < 128 * 6000e9 / flops


def test_weights_that_the_last_caches_hold_are_not_bound_by_memory() -> None:
    large = Rates(ceilings=RATES.ceilings, cache_bytes=2**32)
    single = asked(objective="latency", load="single_stream")
    cached = limit(single, candidate(threads=64), SIZES, large)
    assert cached is not None
    assert cached > 10 * bound(candidate(threads=64), objective="latency", load="single_stream")


def test_only_weights_that_instances_share_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    single, several = candidate(threads=64), candidate(threads=16, instances=4)
    assert bound(several) < 1.2 * bound(single)
    monkeypatch.setattr(torch, "shared_bytes", lambda *_: 2**32, raising=False)
    assert bound(several) > 3 * bound(single)


def test_without_ceilings_or_a_footprint_there_is_no_bound() -> None:
    assert limit(asked(), candidate(engine="fake"), SIZES, RATES) is None
    assert limit(asked(), candidate(threads=128), SIZES, RATES) is None
    assert limit(asked(), candidate(), SIZES, Rates(ceilings=[])) is None


@pytest.mark.parametrize("load", ["offline", "closed", "single_stream"])
@pytest.mark.parametrize(("instances", "batch"), [(1, 1), (1, 16), (4, 4)])
def test_an_engine_at_the_ceilings_is_never_above_its_bound(
    load: str, instances: int, batch: int
) -> None:
    """Every instance reads its own weights and computes at the rates of all cores, no faster."""
    one = candidate(threads=64 // instances, instances=instances, batch=batch)
    shape, n = ModelShape(SIZES), instances * batch
    keys = n * 576 * 2 * 24 * 2 * 64 * 4
    step = max((instances * WEIGHTS + keys) / 40e9, shape.decode_flops(576, batch=n) / 6000e9)
    figures = objective.expected(asked(load=load), one, n * shape.prefill_flops(512) / 6e12, step)
    assert figures.output_tok_per_s is not None
    assert figures.output_tok_per_s <= bound(one, load=load) * (1 + 1e-9)
    assert math.isfinite(bound(one, load=load))


@pytest.mark.parametrize("name", [n for n in engines.names() if n != "fake"])
def test_every_engine_tells_how_it_keeps_each_dtype(name: str) -> None:
    """Without that no bound could rule it out, and no table show its share of one."""
    for dtype in engines.module(name).DTYPES:
        assert engines.stored(name, dtype, engines.resolve_options(name, {})) is not None, dtype
