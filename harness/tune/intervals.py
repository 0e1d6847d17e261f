"""Intervals of few measurements whose relative noise is alike: pooled over all candidates.

Times vary by factors, so everything is on logarithms. Two repeats of one candidate tell next to
nothing of its spread (Student's t with one degree is 12.7); those of all candidates together do. A
stated prior stands for so many repeats until they are there.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.stats import student_t


class Noise(NamedTuple):
    """Standard deviation of one measurement's logarithm, and its degrees of freedom."""

    sd: float
    degrees: int


class Interval(NamedTuple):
    """A geometric mean with its 95 % interval over `n` measurements."""

    value: float
    low: float
    high: float
    n: int


class Ratio(NamedTuple):
    """One geometric mean ÷ another, with its 95 % interval."""

    value: float
    low: float
    high: float


def pooled(samples: Iterable[Sequence[float]], prior: Noise) -> Noise:
    """The noise that `samples`, one for each candidate, share with `prior`.

    The prior's variance counts as much as samples with its degrees of freedom would.
    """
    squares, degrees = prior.degrees * prior.sd**2, prior.degrees
    for values in samples:
        logs = [math.log(v) for v in values]
        if len(logs) > 1:
            squares += statistics.variance(logs) * (len(logs) - 1)
            degrees += len(logs) - 1
    return Noise(math.sqrt(squares / degrees), degrees)


def interval(values: Sequence[float], noise: Noise, *, bias: float = 0.0) -> Interval:
    """The interval of the mean of `values`, at least one, all above zero.

    `bias` is the standard deviation of an error that all measurements of one candidate share, so
    that repeating does not lessen it.
    """
    mean = statistics.fmean(math.log(v) for v in values)
    half = student_t(noise.degrees) * math.sqrt(noise.sd**2 / len(values) + bias**2)
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(values))


def ratio(
    values: Sequence[float], base: Sequence[float], noise: Noise, *, bias: float = 0.0
) -> Ratio:
    """The interval of the mean of `values` ÷ that of `base`; `bias` is each side's own."""
    gap = statistics.fmean(map(math.log, values)) - statistics.fmean(map(math.log, base))
    spread = noise.sd**2 * (1 / len(values) + 1 / len(base)) + 2 * bias**2
    half = student_t(noise.degrees) * math.sqrt(spread)
    return Ratio(math.exp(gap), math.exp(gap - half), math.exp(gap + half))
