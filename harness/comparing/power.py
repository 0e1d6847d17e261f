"""Which change so many repeats would show, and how many repeats a wished change takes.

Power of the t test by the noncentral t distribution. The unknown is the true spread: three repeats
leave it between 0.52 and 6.3 times what they show. So its interval (chi-squared) is carried along,
and the repeats are given for an upper bound of it too (Browne 1995, "On the use of a pilot
sample").
"""

from __future__ import annotations

import math
from collections.abc import Callable

POWER = 0.8
MOST_REPEATS = 10_000


def power_at(effect: float, margin: float, se: float, df: float, alpha: float = 0.05) -> float:
    """The chance that an interval of ± t · `se` lies beyond `margin` where the truth is `effect`.

    All on one scale (logarithms, or units); the far side of the margin counts for nothing.
    """
    from scipy.special import nctdtr, stdtrit

    if se == 0:
        return 1.0 if effect > margin else 0.0
    away, bound = (effect - margin) / se, float(stdtrit(df, 1 - alpha / 2))
    if abs(away) > 35:  # beyond the range of SciPy's series; the answer is 0 or 1 long before
        return 1.0 if away > bound + 5 else 0.0 if away < 0 else _normal(away - bound)
    return 1.0 - float(nctdtr(df, away, bound))


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def detectable(
    margin: float, se: float, df: float, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest true effect, on the scale of `se`, that is shown with `power`."""
    if se == 0:
        return margin
    high = margin + se
    while power_at(high, margin, se, df, alpha) < power:
        high = margin + 2 * (high - margin)
    return _smallest(lambda x: power_at(x, margin, se, df, alpha) >= power, margin, high)


def _smallest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The border between `low` (does not hold) and `high` (holds), by bisection."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def repeats_needed(
    effect: float,
    margin: float,
    sd: float,
    *,
    paired: bool = False,
    alpha: float = 0.05,
    power: float = POWER,
) -> int | None:
    """Repeats of each side (or pairs) that show `effect` with `power`; None beyond 10,000.

    `sd` is of one repeat (or of one pair's difference). None too for an effect within the margin,
    which no number of repeats can show to be a change.
    """
    if effect <= margin:
        return None

    def enough(n: int) -> bool:
        se = sd * math.sqrt(1 / n if paired else 2 / n)
        return power_at(effect, margin, se, n - 1 if paired else 2 * n - 2, alpha) >= power

    low, high = 2, 3
    while not enough(high):
        low, high = high, high * 2
        if low > MOST_REPEATS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high if high <= MOST_REPEATS else None


def spread_bounds(sd: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the true standard deviation behind `sd` of `n` normal values, n ≥ 2."""
    from scipy.special import chdtri

    tail = (1 - confidence) / 2
    high, low = float(chdtri(n - 1, tail)), float(chdtri(n - 1, 1 - tail))
    return sd * math.sqrt((n - 1) / high), sd * math.sqrt((n - 1) / low)


def spread_upper(sd: float, n: int, confidence: float = 0.8) -> float:
    """The one-sided upper bound of the true standard deviation."""
    return spread_bounds(sd, n, 2 * confidence - 1)[1]
