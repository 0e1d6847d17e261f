"""The ratio of two sides of repeats, with interval, exact test and bootstrap."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct, field

from harness.comparing import contrast
from harness.comparing.contrast import Contrast, Sample
from harness.records.comparison import Ratio, Scale

MANY_RUNS = (
    5  # from this many baseline runs on, their spread may stand for that of a single new run
)
BOOTSTRAP_FROM = 20  # repeats of each side; see contrast's docstring
BOOTSTRAP_MOST = 200  # beyond, the mean is normal whatever the values are
EXACT_MOST = 20  # repeats of each side up to which rank tests are enumerated
_RESAMPLES = 4999


class Side(Struct, frozen=True, kw_only=True):
    """What one side gives for one metric.

    `values` are the units of statistics: repeats of one run, or one mean for each of several runs.
    """

    values: list[float] = field(default_factory=list)
    unit: str = "repeat"  # or run

    @property
    def n(self) -> int:
        return len(self.values)

    def sample(self, scale: Scale) -> Sample | None:
        """Its moments on `scale`; None where there are none, or a value has no logarithm."""
        moved = contrast.on_scale(self.values, scale)
        return contrast.sample(moved) if moved else None


def contrast_of(a: Side, b: Side, *, paired: bool, scale: Scale = "ratio") -> Contrast | None:
    """How far the sides are apart; None where a side has nothing, or nothing comparable."""
    first, second = a.sample(scale), b.sample(scale)
    if first is None or second is None:
        return None
    if paired:
        left, right = contrast.on_scale(a.values, scale), contrast.on_scale(b.values, scale)
        return contrast.paired(left or [], right or [], scale)
    counts = sorted((first.n, second.n))
    if counts[0] == 1 and counts[1] >= MANY_RUNS and {a.unit, b.unit} == {"run"}:
        return contrast.pooled(first, second, scale)
    return contrast.welch(first, second, scale)


def ratio(
    a: Side,
    b: Side,
    *,
    paired: bool = False,
    scale: Scale = "ratio",
    confidence: float = 0.95,
    resample: bool = True,
) -> Ratio:
    """New `b` ÷ baseline `a` with all that can be said of it.

    A ratio is of geometric means. `reason` says what is missing where something is. Without
    `resample` there is no bootstrap, which takes some 20 ms.
    """
    found = contrast_of(a, b, paired=paired, scale=scale)
    if found is None:
        return Ratio(value=None, n=(a.n, b.n), scale=scale, reason=_why_none(a, b))
    bounds = found.interval(confidence)
    p, floor = rank_test(a.values, b.values, paired=paired)
    return Ratio(
        value=found.value,
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        n=found.n,
        confidence=confidence,
        scale=scale,
        design="paired" if paired else "unpaired",
        method=found.method,
        rank_p=p,
        rank_floor=floor,
        bootstrap=bootstrap(a.values, b.values, paired=paired, confidence=confidence)
        if resample and scale == "ratio"
        else None,
        reason=None if bounds else _why_no_interval(a, b),
    )


def _why_none(a: Side, b: Side) -> str:
    if not a.n or not b.n:
        return f"no value on {_both(not a.n, not b.n)}"
    return "a value is zero or below: there is no ratio"


def _both(a: bool, b: bool) -> str:
    return "both sides" if a and b else "the baseline" if a else "the new side"


def _why_no_interval(a: Side, b: Side) -> str:
    unit = a.unit if a.unit == b.unit else "value"
    if a.n == b.n == 1:
        return f"one {unit} a side tells no spread"
    more = MANY_RUNS - max(a.n, b.n)
    hint = f": note {more} more" if unit == "run" and more > 0 else ""
    return f"{a.n} and {b.n} {unit}s tell no spread{hint}"


def rank_test(
    a: Sequence[float], b: Sequence[float], *, paired: bool
) -> tuple[float | None, float | None]:
    """(p, least p that so many repeats can give) of an exact two-sided test of no difference.

    Mann–Whitney's U for unpaired repeats; permutation of the signs of log ratios for paired ones.
    (None, None) below two repeats or, for paired ones, with a value that has no logarithm.
    """
    if min(len(a), len(b)) < 2:
        return None, None
    return _signs(a, b) if paired else _mann_whitney(a, b)


def _mann_whitney(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import mannwhitneyu

    floor = 2 / math.comb(len(a) + len(b), len(a))
    if len(set(a) | set(b)) == 1:
        return 1.0, floor  # SciPy gives NaN where every value is the same
    tied = len(set(a) | set(b)) < len(a) + len(b)
    exact = not tied and max(len(a), len(b)) <= EXACT_MOST
    found = mannwhitneyu(a, b, method="exact" if exact else "asymptotic")
    return float(found.pvalue), floor


def _signs(a: Sequence[float], b: Sequence[float]) -> tuple[float | None, float | None]:
    left, right = contrast.on_scale(a, "ratio"), contrast.on_scale(b, "ratio")
    if left is None or right is None:
        return None, None
    import numpy as np

    gaps = np.array(right) - np.array(left)
    n = len(gaps)
    seen = abs(gaps.sum())
    if n <= 16:  # every pattern of signs, 65,536 at most
        flips = ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1) * 2 - 1
    else:
        flips = np.random.default_rng(1).choice((-1, 1), (_RESAMPLES + 1, n))
        flips[0] = 1
    beyond = np.abs(flips @ gaps) >= seen * (1 - 1e-12)
    return float(beyond.mean()), max(2.0 ** (1 - n), 1 / len(flips))


def bootstrap(
    a: Sequence[float], b: Sequence[float], *, paired: bool, confidence: float = 0.95
) -> tuple[float, float] | None:
    """The BCa interval (Efron 1987) of mean(b) ÷ mean(a).

    None below `BOOTSTRAP_FROM` repeats and above `BOOTSTRAP_MOST`, and where resampling says
    nothing: values that are all the same, or not above zero.
    """
    counts = (len(a), len(b))
    if min(counts) < BOOTSTRAP_FROM or max(counts) > BOOTSTRAP_MOST or min(*a, *b) <= 0:
        return None
    if len(set(a)) == 1 or len(set(b)) == 1:
        return None
    import numpy as np
    from scipy.stats import bootstrap as resample

    def means(x: object, y: object, axis: int = -1) -> object:
        return np.mean(y, axis=axis) / np.mean(x, axis=axis)  # type: ignore[call-overload]

    found = resample(
        (np.array(a), np.array(b)),
        means,
        paired=paired,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(1),
        batch=500,
    ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
