"""Serving loads as plans and flags write them, and the load points they make."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from msgspec import Struct, field, structs

from harness.errors import ArmbenchError, unknown_name
from harness.load.lengths import parse_lengths
from harness.load.slo import parse_slo
from harness.records.load import Arrivals, Lengths, ServingLoad, Sharing
from harness.records.run import LoadPoint
from harness.units import parse_duration

ARRIVALS = ("constant", "poisson", "gamma", "ramp", "trace")
# Long enough for some hundred requests of a small model on a large server; a count or another
# time is a key away.
DEFAULT_DURATION = "60s"


class LoadKeys(Struct, kw_only=True):
    """Keys of a serving load. Lists span the Cartesian product of their values."""

    input_tokens: list[int | str] = field(default_factory=lambda: [512])
    output_tokens: list[int | str] = field(default_factory=lambda: [128])
    concurrency: list[int] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    max_concurrency: int | None = None
    arrivals: str = "poisson"
    burstiness: float = 1.0
    ramp_to: float | None = None
    trace: str | None = None
    time_scale: float = 1.0
    requests: int | None = None
    duration: str | None = None
    prefix_share: float = 0.0
    prefix_groups: int = 1
    turns: int = 1
    think: str | None = None
    slo: str | None = None


def check(keys: LoadKeys) -> None:
    """Raise ArmbenchError for a value that no endpoint could be offered."""
    if keys.arrivals not in ARRIVALS:
        raise unknown_name("arrivals", keys.arrivals, ARRIVALS)
    if (keys.arrivals == "trace") != (keys.trace is not None):
        raise ArmbenchError(
            f"arrivals are {keys.arrivals!r} and the trace is {keys.trace!r}",
            hint="a replay needs both: arrivals trace, and the trace's file",
        )
    if (keys.arrivals == "ramp") != (keys.ramp_to is not None):
        raise ArmbenchError(
            f"arrivals are {keys.arrivals!r} and ramp_to is {keys.ramp_to}",
            hint="a ramp goes from rate to ramp_to: give both, and arrivals ramp",
        )
    for name, values in (
        ("rate", keys.rate),
        ("ramp_to", [keys.ramp_to] if keys.ramp_to is not None else []),
        ("concurrency", keys.concurrency),
        ("max_concurrency", [keys.max_concurrency] if keys.max_concurrency is not None else []),
        ("burstiness", [keys.burstiness]),
        ("time_scale", [keys.time_scale]),
        ("prefix_groups", [keys.prefix_groups]),
        ("turns", [keys.turns]),
        ("requests", [keys.requests] if keys.requests is not None else []),
    ):
        for value in values:
            if not 0 < value <= 1e7:
                raise ArmbenchError(f"{name} is {value}", hint="give a positive number")
    if not 0 <= keys.prefix_share < 1:
        raise ArmbenchError(
            f"prefix_share is {keys.prefix_share}", hint="give a share from 0 to below 1"
        )


def _mean(lengths: Lengths) -> int:
    return max(1, round(lengths.mean))


def _shared(keys: LoadKeys) -> ServingLoad:
    """All that every serving load of `keys` has in common."""
    duration = keys.duration
    if duration is None and keys.requests is None and keys.arrivals != "trace":
        duration = DEFAULT_DURATION
    return ServingLoad(
        duration_s=parse_duration(duration) if duration else None,
        sharing=Sharing(
            prefix_share=keys.prefix_share,
            groups=keys.prefix_groups,
            turns=keys.turns,
            think_s=parse_duration(keys.think) if keys.think else 0.0,
        ),
        slo=parse_slo(keys.slo) if keys.slo else None,
    )


def arrivals_at(keys: LoadKeys, rate: float | None) -> Arrivals:
    """The arrival process of `keys` at `rate` requests per second."""
    if keys.arrivals == "constant":
        return Arrivals(process="constant", rate=rate)
    if keys.arrivals == "gamma":
        return Arrivals(process="gamma", rate=rate, burstiness=keys.burstiness)
    if keys.arrivals == "ramp":
        return Arrivals(process="ramp", rate=rate, rate_end=keys.ramp_to)
    if keys.arrivals == "trace":
        return Arrivals(process="trace", trace=keys.trace, time_scale=keys.time_scale)
    return Arrivals(process="poisson", rate=rate)


def points(keys: LoadKeys, kind: str) -> Iterator[LoadPoint]:
    """Every load point of `kind`, closed or open, that `keys` span.

    Raises ArmbenchError for a length or SLO that can't be read, or a kind without its parameter.
    """
    check(keys)
    common = _shared(keys)
    capped = structs.replace(common, concurrency=keys.max_concurrency)
    loads: list[ServingLoad]
    if kind == "closed":
        _needed("closed", "concurrency", keys.concurrency)
        loads = [structs.replace(common, concurrency=c) for c in keys.concurrency]
    elif keys.arrivals == "trace":
        loads = [structs.replace(capped, arrivals=arrivals_at(keys, None))]
    else:
        _needed("open", "rate", keys.rate)
        loads = [structs.replace(capped, arrivals=arrivals_at(keys, r)) for r in keys.rate]
    for one, given, asked in itertools.product(loads, keys.input_tokens, keys.output_tokens):
        into, out = parse_lengths(str(given)), parse_lengths(str(asked))
        yield LoadPoint(
            kind="closed" if kind == "closed" else "open",
            batch=1,
            input_tokens=_mean(into),
            output_tokens=_mean(out),
            requests=keys.requests or 0,
            serving=structs.replace(one, input=into, output=out),
        )


def _needed(kind: str, name: str, values: list[int] | list[float]) -> None:
    if not values:
        raise ArmbenchError(f"a load of kind {kind} needs {name}", hint=f"give --{name} X")
