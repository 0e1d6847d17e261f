"""What a schedule amounts to, for people who want to see it before it is run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

from harness.load.arrivals import dispersion, gap_cv
from harness.load.stored import digest
from harness.records.load import Planned
from harness.units import NS_PER_S


class Spread(Struct, frozen=True, kw_only=True):
    """What lengths come to in one schedule."""

    mean: float
    low: int
    p50: int
    p90: int
    p99: int
    high: int


class Summary(Struct, frozen=True, kw_only=True):
    """A schedule for people. Times and rates are None in a closed loop, `input` for given prompts.

    `dispersion` is that of counts (1: Poisson), `gap_cv` of gaps; `shared` the share of input
    tokens in shared beginnings; `repeated` how many given prompts come again.
    """

    requests: int
    conversations: int
    duration_s: float | None
    rate: float | None
    gap_cv: float | None
    dispersion: float | None
    input: Spread | None
    output: Spread
    shared: float
    repeated: int
    sha256: str
    first: list[Planned]


def summary(planned: Sequence[Planned], *, rows: int = 5) -> Summary:
    """What `planned` (not empty) amounts to, and its first `rows` requests."""
    dues = [one.due_ns for one in planned if one.due_ns is not None]
    seconds = (max(dues) - min(dues)) / NS_PER_S if dues else None
    inputs = [one.input_tokens for one in planned if one.input_tokens is not None]
    texts = [repr(one.prompt or one.messages) for one in planned if one.prompt or one.messages]
    return Summary(
        requests=len(planned),
        conversations=len({one.conversation for one in planned} - {None}),
        duration_s=seconds,
        rate=(len(dues) - 1) / seconds if seconds else None,
        gap_cv=gap_cv(dues),
        dispersion=dispersion(dues),
        input=_spread(inputs) if len(inputs) == len(planned) else None,
        output=_spread([one.output_tokens for one in planned]),
        shared=sum(one.prefix_tokens for one in planned) / max(1, sum(inputs)),
        repeated=len(texts) - len(set(texts)),
        sha256=digest(planned),
        first=list(planned[:rows]),
    )


def _spread(values: Sequence[int]) -> Spread:
    ordered = sorted(values)

    def at(q: float) -> int:
        return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1)]

    return Spread(
        mean=statistics.fmean(ordered),
        low=ordered[0],
        p50=at(0.5),
        p90=at(0.9),
        p99=at(0.99),
        high=ordered[-1],
    )
