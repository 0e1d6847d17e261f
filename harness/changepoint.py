"""Where a series changed its level and stayed there.

Binary segmentation: the best split of a series is tested, and each part again while it holds. The
statistic is the largest standardised difference of ranks over all splits, its p value by permuting
the series: the test then knows neither the distribution nor the spread, and one outlier counts as
one rank. Tests of this kind in daily use on benchmarks: E-divisive (Matteson and James 2014), in
MongoDB's and DataStax' (Hunter, 2023) pipelines. Values are taken as exchangeable between changes:
a slow drift shows as steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALPHA = 0.01  # of each split; a history is looked at again and again
LEAST = 3  # values on either side of a split
PERMUTATIONS = 999
_CHUNK = 2_000_000  # numbers permuted at once, which bounds the memory


class Change(NamedTuple):
    """The position of the first value of the new level, and the p value of the split."""

    at: int
    p: float


def changes(values: Sequence[float], *, alpha: float = ALPHA, seed: int = 1) -> list[Change]:
    """The changes of level in `values`, in order; below six values there are none.

    With `alpha` 0.01 it takes ten values for the first change: fewer have too few permutations.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    found: list[Change] = []
    parts = [(0, len(values))]
    while parts:
        start, end = parts.pop()
        split = _split(np.asarray(values[start:end], dtype=float), rng)
        if split is not None and split.p <= alpha:
            middle = start + split.at
            found.append(Change(middle, split.p))
            parts += [(start, middle), (middle, end)]
    return sorted(found)


def _split(values: NDArray[np.float64], rng: np.random.Generator) -> Change | None:
    """The best split of `values`, whatever its p; None where they are too few or all the same."""
    import numpy as np

    n = len(values)
    if n < 2 * LEAST or np.all(values == values[0]):
        return None
    ranks = _ranks(values)
    seen = _scores(ranks[None, :])[0]
    best = seen.max()
    beyond, done, batch = 0, 0, max(1, _CHUNK // n)
    while done < PERMUTATIONS:
        count = min(batch, PERMUTATIONS - done)
        shuffled = rng.permuted(np.tile(ranks, (count, 1)), axis=1)
        beyond += int((_scores(shuffled).max(axis=1) >= best * (1 - 1e-12)).sum())
        done += count
    return Change(LEAST + int(seen.argmax()), (1 + beyond) / (1 + PERMUTATIONS))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred ranks; equal values share their mean rank."""
    import numpy as np

    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    centred: Any = ranks - ranks.mean()
    return np.asarray(centred, dtype=float)


def _scores(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each row and each split: |difference of mean ranks|, in units of its own spread."""
    import numpy as np

    n = ranks.shape[1]
    k = np.arange(LEAST, n - LEAST + 1)
    sums = np.cumsum(ranks, axis=1)[:, k - 1]
    return np.asarray(np.abs(sums) / np.sqrt(k * (n - k) / n), dtype=float)
