"""When requests of an open loop are due: one function for each arrival process.

A schedule is drawn before the run from one seed; several senders deal it out among them, they do
not draw their own. Gaps are never rescaled to hit a mean: the sum of rescaled exponential gaps is
fixed, and then they are not Poisson.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from harness.errors import ArmbenchError, unknown_name
from harness.load.traces import Row, read_trace
from harness.records.load import Arrivals
from harness.units import NS_PER_S

MOST = 2_000_000  # requests of one schedule
_CHUNK = 4096
_PER_BIN = 10  # arrivals in a bin of the dispersion, on average


class Extent(NamedTuple):
    """How far a schedule goes: so many requests, so many seconds, or what ends first.

    `rows` are those of a trace, where they were read already.
    """

    requests: int | None
    seconds: float | None
    rows: Sequence[Row] | None = None


Process = Callable[[Arrivals, int, Extent], Iterator[int]]


def _constant(arrivals: Arrivals, seed: int, extent: Extent) -> Iterator[int]:
    """Whole multiples of one period, the nearest whole nanosecond to 1 ÷ rate."""
    return itertools.count(0, max(1, round(NS_PER_S / _rate(arrivals))))


def _poisson(arrivals: Arrivals, seed: int, extent: Extent) -> Iterator[int]:
    """Exponential gaps of mean 1 ÷ rate."""
    return _renewal(1.0, _rate(arrivals), seed)


def _gamma(arrivals: Arrivals, seed: int, extent: Extent) -> Iterator[int]:
    """Gamma gaps of mean 1 ÷ rate and coefficient of variation 1 ÷ √burstiness."""
    return _renewal(arrivals.burstiness, _rate(arrivals), seed)


def _renewal(shape: float, rate: float, seed: int) -> Iterator[int]:
    return (round(at * NS_PER_S / rate) for at in _unit_arrivals(shape, seed))


def _unit_arrivals(shape: float, seed: int) -> Iterator[float]:
    """Arrivals at a mean rate of 1 whose gaps are gamma with `shape`; without end."""
    import numpy as np

    rng = np.random.Generator(np.random.PCG64(seed))
    now = 0.0
    while True:
        times = now + np.cumsum(rng.gamma(shape, 1.0 / shape, _CHUNK))
        now = float(times[-1])
        yield from times.tolist()


def _ramp(arrivals: Arrivals, seed: int, extent: Extent) -> Iterator[int]:
    """Poisson arrivals whose rate goes evenly from `rate` to `rate_end` over the extent.

    A unit-rate process is carried through the inverse of the expected count
    N(t) = r₀t + (r₁ − r₀)t² ÷ 2T (Çinlar 1975), which needs no thinning. Random rather than even
    gaps, because a ramp is there to show where queues begin. `burstiness` shapes the gaps. Given
    a count only, T is the time in which so many are expected.
    """
    first, last = _rate(arrivals), arrivals.rate_end
    if last is None or not 0 < last < math.inf:
        raise ArmbenchError(f"a ramp ends at a rate of {last}", hint="give a positive --ramp-to")
    seconds = extent.seconds
    if seconds is None:
        assert extent.requests is not None
        seconds = 2 * extent.requests / (first + last)
    slope = (last - first) / seconds
    for expected in _unit_arrivals(arrivals.burstiness, seed):
        # The root of the quadratic in the form that stays exact for a slope near zero.
        root = first * first + 2 * slope * expected
        at = 2 * expected / (first + math.sqrt(root)) if root >= 0 else math.inf
        if at >= seconds:
            return
        yield round(at * NS_PER_S)


def _trace(arrivals: Arrivals, seed: int, extent: Extent) -> Iterator[int]:
    """The instants of a trace from its first one, times `time_scale`."""
    rows = extent.rows
    if rows is None:
        if arrivals.trace is None:
            raise ArmbenchError("arrivals of a trace need its file", hint="give --trace FILE")
        until = None if extent.seconds is None else extent.seconds / arrivals.time_scale
        rows = read_trace(Path(arrivals.trace), most=extent.requests, until_s=until).rows
    return (round(row.at_ns * arrivals.time_scale) for row in rows)


PROCESSES: dict[str, Process] = {
    "constant": _constant,
    "poisson": _poisson,
    "gamma": _gamma,
    "ramp": _ramp,
    "trace": _trace,
}


def _rate(arrivals: Arrivals) -> float:
    if arrivals.rate is None or not 0 < arrivals.rate < math.inf:
        raise ArmbenchError(
            f"{arrivals.process} arrivals at a rate of {arrivals.rate}",
            hint="give a positive --rate, in requests per second",
        )
    return arrivals.rate


def _check(arrivals: Arrivals, extent: Extent) -> None:
    if arrivals.process not in PROCESSES:
        raise unknown_name("arrivals", arrivals.process, PROCESSES)
    for name, value in (("burstiness", arrivals.burstiness), ("time scale", arrivals.time_scale)):
        if not 0.001 <= value <= 1e6:
            raise ArmbenchError(f"{name} of arrivals is {value}", hint="give 0.001 to 1000000")
    if extent[:2] == (None, None) and arrivals.process != "trace":
        raise ArmbenchError(
            f"{arrivals.process} arrivals have no end", hint="give --requests N or --duration T"
        )
    if extent.seconds is not None and not 0 < extent.seconds < 1e9:
        raise ArmbenchError(
            f"arrivals over {extent.seconds} s", hint="give a --duration such as 60s"
        )


def due_times(
    arrivals: Arrivals,
    *,
    seed: int,
    count: int | None,
    duration_s: float | None,
    rows: Sequence[Row] | None = None,
) -> list[int]:
    """Due times in nanoseconds from the start, ascending; at most `count`, all below `duration_s`.

    `rows` are those of the trace where they were read already. A longer schedule of the same seed
    begins with the shorter one (but a ramp's shape depends on its length). Raises ArmbenchError
    for a process without its parameters or end, a trace that can't be read, or more than `MOST`
    requests.
    """
    extent = Extent(count, duration_s, rows)
    _check(arrivals, extent)
    end = math.inf if duration_s is None else round(duration_s * NS_PER_S)
    every = PROCESSES[arrivals.process](arrivals, seed, extent)
    inside = itertools.takewhile(lambda due: due < end, every)
    due = list(itertools.islice(inside, MOST + 1 if count is None else min(count, MOST + 1)))
    if len(due) > MOST:
        raise ArmbenchError(
            f"these arrivals are more than {MOST} requests", hint="lower the rate or the duration"
        )
    return due


def gap_cv(times_ns: Sequence[int]) -> float | None:
    """Coefficient of variation of the gaps: 0 constant, 1 Poisson; None below three arrivals."""
    gaps = [b - a for a, b in pairwise(sorted(times_ns))]
    if len(gaps) < 2 or not any(gaps):
        return None
    return statistics.stdev(gaps) / statistics.fmean(gaps)


def dispersion(times_ns: Sequence[int]) -> float | None:
    """Variance ÷ mean of the counts in equal bins: 1 Poisson, above 1 bursty, below 1 even.

    Bins span first to last arrival and hold ten on average; None below ten bins. (The index of
    dispersion for counts: Cox and Lewis 1966.)
    """
    bins = len(times_ns) // _PER_BIN
    first, last = min(times_ns, default=0), max(times_ns, default=0)
    if bins < 10 or first == last:
        return None
    counts = [0] * bins
    for at in times_ns:
        counts[min(bins - 1, (at - first) * bins // (last - first))] += 1
    return statistics.variance(counts) / statistics.fmean(counts)
