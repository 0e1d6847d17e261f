from __future__ import annotations

import math

from harness.records.run import Estimate
from harness.stats import narrow_enough


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
