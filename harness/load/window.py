"""The steady part of a run, and what can be counted in it. Instants in ns, windows half-open."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from harness.load.arrivals import dispersion, gap_cv
from harness.records.run import Estimate, RequestRecord
from harness.units import NS_PER_S

Window = tuple[int, int]

SHORT_GAP_NS = 100_000  # below this, tokens were read together: no server decodes so fast
_BLOCKS = 10
_AGREE = 1.10  # a block is steady within this ratio of the range of the later ones
_RISES = 1.5  # a run is not steady whose later blocks rise throughout by this ratio
_SLACK_S = 0.001  # differences below this are the scheduler's
_LEAST_REPEATS = 3


def counted(records: Sequence[RequestRecord], window: Window) -> list[RequestRecord]:
    """The requests that count: those due inside the window, whenever they end."""
    return [r for r in records if window[0] <= r.due_ns < window[1]]


class Steady(Struct, frozen=True, kw_only=True):
    """From where on a run is steady: all but its `left_out` first requests, due from `start_ns`.

    Where it never is, or can't be told, `stable` is False or None, nothing is left out, and
    `reason` says why.
    """

    left_out: int
    start_ns: int
    stable: bool | None
    reason: str | None = None


def steady(records: Sequence[RequestRecord]) -> Steady:
    """Where the warm-up of a run ends.

    Requests in the order they were due make ten blocks; for TTFT and for TPOT, leading blocks are
    left out whose median is over 10 % outside the range of the medians of the later five. If one
    of these five rises over each before it, half as high again in the end, the run has no steady
    part: more is offered than served.
    """
    ordered = sorted(records, key=lambda r: r.due_ns)
    start = ordered[0].due_ns if ordered else 0
    well = [r for r in ordered if r.error is None and r.token_ns]
    if len(well) < 5 * _BLOCKS:
        few = f"{len(well)} requests succeeded, {5 * _BLOCKS} are needed to tell"
        return Steady(left_out=0, start_ns=start, stable=None, reason=few)
    size = len(well) / _BLOCKS
    blocks = [well[round(n * size) : round((n + 1) * size)] for n in range(_BLOCKS)]
    skip = 0
    for name, medians in (("TTFT", _ttfts(blocks)), ("TPOT", _tpots(blocks))):
        later = medians[_BLOCKS // 2 :]
        if _rising(later):
            told = f"{name} kept rising: from {later[0]:.3g} s to {later[-1]:.3g} s"
            return Steady(left_out=0, start_ns=start, stable=False, reason=told)
        skip = max(skip, _warm(medians, later))
    first = blocks[skip][0]
    return Steady(
        left_out=sum(r.due_ns < first.due_ns for r in ordered) if skip else 0,
        start_ns=first.due_ns if skip else start,
        stable=True,
    )


def _ttfts(blocks: Sequence[Sequence[RequestRecord]]) -> list[float]:
    return [statistics.median((r.token_ns[0] - r.due_ns) / NS_PER_S for r in b) for b in blocks]


def _tpots(blocks: Sequence[Sequence[RequestRecord]]) -> list[float]:
    return [
        statistics.median(
            (r.token_ns[-1] - r.token_ns[0]) / NS_PER_S / max(1, len(r.token_ns) - 1) for r in b
        )
        for b in blocks
    ]


def _rising(medians: Sequence[float]) -> bool:
    rises = all(b > a for a, b in pairwise(medians))
    return rises and medians[-1] > max(_RISES * medians[0], medians[0] + _SLACK_S)


def _warm(medians: Sequence[float], later: Sequence[float]) -> int:
    """How many leading blocks are outside the range of the later ones."""
    low = min(min(later) / _AGREE, min(later) - _SLACK_S)
    high = max(max(later) * _AGREE, max(later) + _SLACK_S)
    early = medians[: len(medians) - len(later)]
    return next((n for n, m in enumerate(early) if low <= m <= high), len(early))


def end_ns(record: RequestRecord) -> float:
    """When a request was over: its last instant known; infinite for one that never ended.

    One that failed without a sign of the server was over when it was sent.
    """
    if record.finish == "unfinished":
        return math.inf
    done = record.http.done_ns if record.http is not None else None
    return max(record.sent_ns, done or 0, record.token_ns[-1] if record.token_ns else 0)


def drain_s(records: Sequence[RequestRecord], window: Window) -> float | None:
    """From the end of the window to the end of its last request; None where one never ended."""
    last = max((end_ns(r) for r in counted(records, window)), default=window[1])
    return None if last == math.inf else max(0.0, (last - window[1]) / NS_PER_S)


def peak_concurrency(records: Sequence[RequestRecord]) -> int:
    """The most requests under way at one instant, each from being sent until it was over.

    Sweep line over half-open intervals: one that ends where another begins is not beside it.
    Requests that were never sent (`sent_ns` 0) count nowhere.
    """
    edges: list[tuple[float, int]] = []
    for record in records:
        end = end_ns(record)
        if 0 < record.sent_ns < end:
            edges += [(record.sent_ns, 1), (end, -1)]
    peak = now = 0
    for _, step in sorted(edges):
        now += step
        peak = max(peak, now)
    return peak


def tokens_inside(records: Sequence[RequestRecord], window: Window) -> int:
    """Output tokens that came inside the window, whichever requests they are of."""
    return sum(window[0] <= at < window[1] for r in records for at in r.token_ns)


def short_gap_share(records: Sequence[RequestRecord]) -> float | None:
    """Share of gaps between neighbouring tokens below 0.1 ms; None without gaps.

    Such tokens were read together. From a share of one half on, a median ITL tells of the reading,
    not of the server.
    """
    gaps = [b - a for r in records for a, b in pairwise(r.token_ns)]
    return sum(gap < SHORT_GAP_NS for gap in gaps) / len(gaps) if gaps else None


class SentArrivals(Struct, frozen=True, kw_only=True):
    """The arrivals of a window as they were sent, beside what was due: per second, and spread."""

    intended_rate: float
    offered_rate: float
    gap_cv: float | None
    dispersion: float | None

    @property
    def share(self) -> float | None:
        """Offered ÷ intended; None where nothing was due."""
        return self.offered_rate / self.intended_rate if self.intended_rate else None


def sent_arrivals(records: Sequence[RequestRecord], window: Window) -> SentArrivals:
    """Rates and regularity of what was sent inside the window."""
    seconds = (window[1] - window[0]) / NS_PER_S
    sent = [r.sent_ns for r in records if r.sent_ns > 0 and window[0] <= r.sent_ns < window[1]]
    return SentArrivals(
        intended_rate=len(counted(records, window)) / seconds,
        offered_rate=len(sent) / seconds,
        gap_cv=gap_cv(sent),
        dispersion=dispersion(sent),
    )


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
