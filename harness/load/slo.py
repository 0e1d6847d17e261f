"""Promises (SLOs): how they are written, which requests keep them, and how sure that is."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Sequence
from itertools import pairwise

from msgspec import Struct

from harness import places
from harness.errors import ArmbenchError, unknown_name
from harness.records.load import Slo, SloBound
from harness.records.run import RequestRecord
from harness.units import NS_PER_S, parse_duration

_BOUND = re.compile(r"\s*([a-z]+)\s*:\s*p(\d{1,2}(?:\.\d{1,3})?)\s*<=?\s*(\S+)\s*")
_HINT = (
    "write it like ttft:p99<=2s,tpot:p99<=100ms, or give a profile of configs/slo.toml "
    "such as server"
)
# The two-sided 95 % point of the normal distribution.
_Z = 1.959963984540054


def _ttft(record: RequestRecord) -> float | None:
    return (record.token_ns[0] - record.due_ns) / NS_PER_S


def _ttfot(record: RequestRecord) -> float | None:
    """First token that is not reasoning − due; where all was reasoning, the last token − due."""
    http = record.http
    if http is None or not http.reasoning_chunks:
        return _ttft(record)
    visible = record.chunk_ns[http.reasoning_chunks :] or record.token_ns[-1:]
    return (visible[0] - record.due_ns) / NS_PER_S


def _tpot(record: RequestRecord) -> float | None:
    if len(record.token_ns) < 2:
        return None
    return (record.token_ns[-1] - record.token_ns[0]) / NS_PER_S / (len(record.token_ns) - 1)


def _itl(record: RequestRecord) -> float | None:
    """The request's longest gap between neighbouring tokens: their mean is its TPOT."""
    gaps = [b - a for a, b in pairwise(record.token_ns)]
    return max(gaps) / NS_PER_S if gaps else None


def _latency(record: RequestRecord) -> float | None:
    return (record.token_ns[-1] - record.due_ns) / NS_PER_S


# What a bound can be on, for each request; None where the request has no such value.
METRICS: dict[str, Callable[[RequestRecord], float | None]] = {
    "ttft": _ttft,
    "ttfot": _ttfot,
    "tpot": _tpot,
    "itl": _itl,
    "latency": _latency,
}


def profiles() -> dict[str, str]:
    """Named promises that come with the program, as text."""
    path = places.config_dir() / "slo.toml"
    return {name: table["slo"] for name, table in tomllib.loads(path.read_text()).items()}


def parse_slo(text: str) -> Slo:
    """The promise that `text` makes, or names: `ttft:p99<=2s,tpot:p99<=100ms`, `server`.

    `target` is the smallest share asked: so many requests must keep every bound. A bound with a
    larger share is asked for besides, alone (see `demands`). Raises ArmbenchError for text that is
    no promise.
    """
    name = text.strip()
    if re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        known = profiles()
        if name not in known:
            raise unknown_name("SLO profile", name, known)
        bounds = _bounds(known[name])
    else:
        bounds = _bounds(name)
        name = format_bounds(bounds)
    return Slo(name=name, bounds=bounds, target=min(bound.share for bound in bounds))


def _bounds(text: str) -> tuple[SloBound, ...]:
    bounds: dict[str, SloBound] = {}
    for part in text.split(","):
        match = _BOUND.fullmatch(part)
        if match is None:
            raise ArmbenchError(f"{part.strip()!r} is not a bound of an SLO", hint=_HINT)
        metric, share, seconds = match[1], float(match[2]) / 100, parse_duration(match[3])
        if metric not in METRICS:
            raise unknown_name("SLO metric", metric, METRICS)
        if metric in bounds:
            raise ArmbenchError(f"the SLO bounds {metric} twice", hint="give one bound for each")
        if not 0.5 <= share < 1 or not 0 < seconds < 1e6:
            raise ArmbenchError(
                f"{part.strip()!r} asks for what no run can show",
                hint="give a percentile from p50 to p99.999, and a time above zero",
            )
        bounds[metric] = SloBound(metric=metric, share=share, seconds=seconds)
    return tuple(bounds.values())


def format_bounds(bounds: Sequence[SloBound]) -> str:
    """Bounds as `parse_slo` reads them: `ttft:p99<=2.0s,tpot:p99<=100ms`."""
    return ",".join(
        f"{b.metric}:p{b.share * 100:.10g}<={b.seconds * 1000:.10g}ms"
        if b.seconds < 1
        else f"{b.metric}:p{b.share * 100:.10g}<={b.seconds:.10g}s"
        for b in bounds
    )


def succeeded(record: RequestRecord) -> bool:
    """Whether the request was answered to its end."""
    return record.error is None and record.finish in ("length", "stop") and bool(record.token_ns)


def margins(record: RequestRecord, slo: Slo) -> tuple[float, ...]:
    """For each bound of `slo` the request's value ÷ the bound: kept up to 1.

    Infinite for a request that failed, was cancelled or never ended; 0 where the request has no
    such value (one token has no TPOT), since nothing was broken.
    """
    if not succeeded(record):
        return (math.inf,) * len(slo.bounds)
    return tuple((METRICS[b.metric](record) or 0.0) / b.seconds for b in slo.bounds)


def attained(record: RequestRecord, slo: Slo) -> bool:
    """Whether the request succeeded within every bound."""
    return all(margin <= 1 for margin in margins(record, slo))


def wilson(kept: float, of: float) -> tuple[float, float]:
    """The two-sided 95 % interval of the share that `kept` of `of` independent requests show.

    Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1. (0, 1) of nothing.
    """
    if of <= 0:
        return 0.0, 1.0
    share, z2 = kept / of, _Z * _Z
    centre = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    # At the ends the formula is exact, but for rounding.
    return (max(0.0, centre - half) if kept else 0.0, min(1.0, centre + half) if kept < of else 1.0)


def needed(share: float) -> int:
    """Requests from which on a percentile can be stated, and `share` be shown to be kept.

    The larger of the smallest n with 1 − shareⁿ ≥ 0.95 (as `stats.NEEDED`: 299 for 0.99) and the
    smallest of which the lower Wilson bound reaches `share` when all keep it (381 for 0.99).
    """
    stated = math.log(0.05) / math.log(share)
    shown = _Z * _Z * share / (1 - share)
    return math.ceil(max(stated, shown) - 1e-9)


class Demand(Struct, frozen=True, kw_only=True):
    """A share of requests that an SLO asks for: within bound `index`, or within all where None."""

    share: float
    index: int | None

    def worst(self, one: tuple[float, ...]) -> float:
        """The margin of one request that this demand looks at."""
        return max(one) if self.index is None else one[self.index]


def demands(slo: Slo) -> list[Demand]:
    """What must hold together: all bounds for `target`, and each stricter share by itself."""
    stricter = [i for i, bound in enumerate(slo.bounds) if bound.share > slo.target]
    return [
        Demand(share=slo.target, index=None),
        *(Demand(share=slo.bounds[i].share, index=i) for i in stricter),
    ]


class Attainment(Struct, frozen=True, kw_only=True):
    """Share of `sent` requests that kept a promise, with Wilson's bounds, and by bound."""

    sent: int
    kept: int
    low: float
    high: float
    by_bound: dict[str, int]  # kept, by metric

    @property
    def share(self) -> float | None:
        """None where nothing was sent."""
        return self.kept / self.sent if self.sent else None


def attainment(records: Sequence[RequestRecord], slo: Slo) -> Attainment:
    """How many of all `records` kept `slo`; those that failed count against."""
    every = [margins(record, slo) for record in records]
    kept = sum(max(one) <= 1 for one in every)
    low, high = wilson(kept, len(every))
    by_bound = {b.metric: sum(one[i] <= 1 for one in every) for i, b in enumerate(slo.bounds)}
    return Attainment(sent=len(every), kept=kept, low=low, high=high, by_bound=by_bound)
