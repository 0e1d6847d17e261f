"""Intervals and verdicts hold what they promise, on simulated runs of known truth."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from harness.ab import schedule
from harness.comparing import contrast, power
from harness.comparing.ratio import Side, contrast_of, ratio
from harness.comparing.verdict import decide
from harness.records.comparison import Margin

TRIES = 3000
FEWER = 1200  # where SciPy's rank test is called
Draw = Callable[[random.Random], float]


def normal(rng: random.Random) -> float:
    return rng.gauss(0, 0.03)


def skewed(rng: random.Random) -> float:
    return rng.gammavariate(2, 0.02)


def spiky(rng: random.Random) -> float:
    """One repeat in ten is slowed by a neighbour, by 10 % on average."""
    return rng.gauss(0, 0.01) + (rng.expovariate(10) if rng.random() < 0.1 else 0.0)


NOISES: dict[str, Draw] = {"normal": normal, "skewed": skewed, "spiky": spiky}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n", [3, 5, 10, 20])
@pytest.mark.parametrize("paired", [False, True])
def test_95_percent_intervals_cover_the_truth_at_least_93_times_in_100(
    noise: str, n: int, paired: bool
) -> None:
    rng, draw, hits = random.Random(n), NOISES[noise], 0
    for _ in range(TRIES):
        a, b = ([draw(rng) for _ in range(n)] for _ in range(2))
        shifted = [y + 0.05 for y in b]
        if paired:
            found = contrast.paired(a, shifted, "ratio")
        else:
            found = contrast.welch(contrast.sample(a), contrast.sample(shifted), "ratio")
        bounds = found.interval(0.95)
        assert bounds is not None
        hits += bounds[0] <= math.exp(0.05) <= bounds[1]
    assert hits / TRIES >= 0.93


def test_the_bootstrap_alone_would_be_too_narrow_for_few_repeats() -> None:
    import numpy as np
    from scipy.stats import bootstrap

    rng, hits, tries = np.random.default_rng(3), 0, 300
    for _ in range(tries):
        a, b = rng.normal(0, 0.03, (2, 5))
        found = bootstrap(
            (a, b),
            lambda x, y, axis: y.mean(axis) - x.mean(axis),
            n_resamples=399,
            method="BCa",
            rng=rng,
        ).confidence_interval
        hits += found.low <= 0 <= found.high
    assert hits / tries < 0.93


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n", [3, 6])
def test_sides_that_are_the_same_are_called_changed_at_most_once_in_20_even_without_a_margin(
    noise: str, n: int
) -> None:
    rng, draw, wrong = random.Random(7), NOISES[noise], 0
    for _ in range(FEWER):
        a, b = ([math.exp(draw(rng)) for _ in range(n)] for _ in range(2))
        wrong += verdict(a, b, 0.0) in ("improved", "regressed")
    assert wrong / FEWER <= 0.05


def verdict(a: list[float], b: list[float], margin: float) -> str | None:
    found = contrast_of(Side(values=a), Side(values=b), paired=False)
    assert found is not None
    shown = ratio(Side(values=a), Side(values=b))
    limit = Margin(value=margin, source="test")
    return decide(found, shown, limit, "lower", found.p_beyond(margin))[0]


def test_a_change_at_the_border_of_the_margin_is_named_at_most_once_in_40() -> None:
    rng, wrong = random.Random(11), 0
    for _ in range(FEWER):
        a, b = ([math.exp(rng.gauss(0, 0.02)) for _ in range(5)] for _ in range(2))
        wrong += verdict(a, [1.03 * x for x in b], 0.03) == "regressed"
    assert wrong / FEWER <= 0.035  # the far side of the margin is never reached


@pytest.mark.parametrize(("n", "effect"), [(3, 0.12), (5, 0.08), (10, 0.06)])
def test_power_is_what_simulation_shows(n: int, effect: float) -> None:
    rng, hits = random.Random(n), 0
    sd, margin = 0.02, 0.03
    for _ in range(TRIES):
        a = contrast.sample([rng.gauss(0, sd) for _ in range(n)])
        b = contrast.sample([rng.gauss(effect, sd) for _ in range(n)])
        found = contrast.pooled(a, b, "difference")
        p = found.p_beyond(margin)
        assert p is not None
        hits += p < 0.05
    expected = power.power_at(effect, margin, sd * math.sqrt(2 / n), 2 * n - 2)
    assert hits / TRIES == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("noise", NOISES)
def test_looking_again_and_again_cries_wolf_at_most_once_in_20(noise: str) -> None:
    """The whole of `armbench ab` without its processes, at no margin: its worst case."""
    rng, draw, wrong, tries = random.Random(5), NOISES[noise], 0, 1500
    looks = schedule.looks()
    level = schedule.level(0.05, looks)
    for _ in range(tries):
        gaps: list[float] = []
        for look in looks:
            while len(gaps) < look:
                block = [draw(rng) for _ in range(4)]
                gaps.append((block[1] + block[2] - block[0] - block[3]) / 2)
            found = contrast.paired([0.0] * look, gaps, "ratio")
            p = found.p_beyond(0.0)
            assert p is not None
            if p <= level:
                wrong += 1
                break
    assert wrong / tries <= 0.05


def test_a_drift_falls_on_both_sides_of_a_block_alike() -> None:
    orders = schedule.order(200, seed=3)
    assert {"ABBA", "BAAB"} == set(orders)
    for word in orders:
        drift = {"A": 0.0, "B": 0.0}
        for position, letter in enumerate(word):
            drift[letter] += position
        assert drift["A"] == drift["B"]
