from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.tune.intervals import Noise, interval, pooled, ratio

PRIOR = Noise(0.05, 3)
values = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=8)


@given(values, st.floats(0.1, 10.0))
def test_an_interval_holds_its_value_and_scales_with_the_unit(
    sample: list[float], factor: float
) -> None:
    noise = pooled([sample], PRIOR)
    one, other = interval(sample, noise), interval([factor * v for v in sample], noise)
    assert one.low <= one.value <= one.high
    assert other.value == pytest.approx(factor * one.value)
    assert other.high / other.low == pytest.approx(one.high / one.low)


@given(values)
def test_a_ratio_to_itself_is_one(sample: list[float]) -> None:
    gap = ratio(sample, sample, pooled([sample], PRIOR))
    assert gap.value == pytest.approx(1.0)
    assert gap.low <= 1.0 <= gap.high


def test_candidates_teach_each_other_their_noise() -> None:
    """Ten pairs of repeats tell more of the noise than one pair does."""
    chance = random.Random(1)
    samples = [[100 * math.exp(chance.gauss(0, 0.02)) for _ in range(2)] for _ in range(10)]
    alone, together = pooled(samples[:1], PRIOR), pooled(samples, PRIOR)
    assert together.degrees == 13
    assert abs(together.sd - 0.02) < abs(alone.sd - 0.02)
    wide, narrow = interval(samples[0], alone), interval(samples[0], together)
    assert narrow.high / narrow.low < wide.high / wide.low


def test_a_bias_is_not_lessened_by_repeating() -> None:
    noise = Noise(0.05, 100)
    many = interval([100.0] * 10_000, noise, bias=0.06)
    assert many.high / many.value > math.exp(1.9 * 0.06)


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_intervals_hold_the_truth_19_times_in_20_at_the_noise_of_servers(noise: float) -> None:
    """Three repeats each of eight candidates."""
    chance = random.Random(7)
    held = total = 0
    for _ in range(150):
        samples = [[math.exp(chance.gauss(0, noise)) for _ in range(3)] for _ in range(8)]
        found = pooled(samples, PRIOR)
        for sample in samples:
            one = interval(sample, found)
            held += one.low <= 1.0 <= one.high
            total += 1
    assert held / total > 0.93
