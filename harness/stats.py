"""Estimates over repeats, and percentiles that admit when the sample is too small."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.records.run import Estimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Values from which on the largest one exceeds the true quantile with 95 % probability:
# the smallest n with 1 - q^n >= 0.95.
NEEDED = {0.5: 1, 0.9: 29, 0.95: 59, 0.99: 299, 0.999: 2995}
_LEAST_REPEATS = 3  # below, an interval is narrow by chance too often
CONFIDENCE = 0.95


def percentile(values: Sequence[float], q: float) -> float | None:
    """The `q` quantile by linear interpolation, None where `values` are too few to tell.

    `q` is one of `NEEDED`.
    """
    return quantile(sorted(values), q)


def quantile(ordered: Sequence[float] | NDArray[np.float64], q: float) -> float | None:
    """The same of values that are ascending."""
    if len(ordered) < NEEDED[q]:
        return None
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (at - low) * (ordered[high] - ordered[low]))


def estimate(values: Sequence[float], unit: str) -> Estimate | None:
    """Mean of `values`, one from each repeat, with Student's 95 % interval; None for none."""
    if not values:
        return None
    n, mean = len(values), statistics.fmean(values)
    low = high = sd = None
    if n > 1:  # statistics.stdev counts in fractions, which takes fifty times as long
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        half = student_t(n - 1) * sd / math.sqrt(n)
        low, high = mean - half, mean + half
    return Estimate(
        value=mean,
        low=low,
        high=high,
        n=n,
        unit=unit,
        method="mean, Student's t over repeats",
        median=statistics.median(values),
        sd=sd,
    )


def student_t(degrees: int) -> float:
    """The two-sided 95 % quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def narrow_enough(estimates: Sequence[Estimate], share: float) -> bool:
    """Whether every interval's half width is within `share` of its value, over three repeats.

    False of no estimates. Repeats are added until it is so: the first narrow interval favours
    chance agreement, which three repeats at least keep small.
    """
    return bool(estimates) and all(_narrow(one, share) for one in estimates)


def _narrow(one: Estimate, share: float) -> bool:
    if one.low is None or one.high is None or one.n < _LEAST_REPEATS:
        return False
    return (one.high - one.low) / 2 <= share * abs(one.value)
