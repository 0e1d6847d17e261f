"""The steady part of a run, how many requests were under way in it, and when it is precise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from msgspec import Struct

from harness.records.run import Estimate, RequestRecord
from harness.units import NS_PER_S

SHORT_GAP_NS = 100_000  # below this, tokens were read together: no server decodes so fast
_BLOCKS = 10
_AGREE = 1.10  # a block is steady within this ratio of the range of the later ones
_RISES = 1.5  # a run is not steady whose later blocks rise throughout by this ratio
_SLACK_S = 0.001  # differences below this are the scheduler's
_LEAST_REPEATS = 3


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


def peak_concurrency(records: Sequence[RequestRecord]) -> int:
    """The most requests under way at one instant, each from being sent until it was over.

    It is over at its last instant known: of its tokens, or when the answer was complete. One that
    failed without a sign of the server was over when it was sent, one that is unfinished never.
    Half-open intervals: one that ends where another begins is not beside it. Requests that were
    never sent (`sent_ns` 0) count nowhere.
    """
    sent = np.array([r.sent_ns for r in records], dtype=np.int64)
    last = [r.token_ns[-1] if r.token_ns else 0 for r in records]
    done = [r.http.done_ns or 0 if r.http else 0 for r in records]
    over = np.maximum(np.array(last, dtype=np.int64), np.array(done, dtype=np.int64))
    ever = np.array([r.finish != "unfinished" for r in records], dtype=bool)
    seen = (sent > 0) & (~ever | (over > sent))
    starts, ends = np.sort(sent[seen]), np.sort(over[seen & ever])
    begun = np.arange(1, len(starts) + 1)
    ended = np.searchsorted(ends, starts, side="right")
    return int(np.max(begun - ended, initial=0))


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
