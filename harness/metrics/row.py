"""What a metric is: one row, and a short way to write several alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from msgspec import Struct

from harness import stats
from harness.bounds import Bounds
from harness.metrics.requests import Requests, Seconds
from harness.records.run import Case, Trial

Direction = Literal["higher", "lower", "none"]
_PERCENTILE = re.compile(r"_p(\d+)_s$")

T = TypeVar("T")


class Subject(Struct, frozen=True, kw_only=True, dict=True):
    """What a metric is computed from: a trial, its case, and what bounds it where that is known.

    It keeps what several rows need, so that each is made once of a million requests.
    """

    trial: Trial
    case: Case
    bounds: Bounds | None = None

    @cached_property
    def served(self) -> bool:
        """Whether the trial's requests went over HTTP."""
        return bool(self.records.over_http.any())

    @cached_property
    def records(self) -> Requests:
        """The requests that count."""
        return Requests(self.trial.records)

    @cached_property
    def warmup(self) -> Requests:
        """Those outside the window, whose tokens may lie in it."""
        return Requests(self.trial.warmup)

    @cached_property
    def good(self) -> Requests:
        """Those that count and ended well, not cut off at the end of a trial; all have tokens."""
        every = self.records
        return every.where(~every.failed & (every.tokens > 0) & ~every.finished("cancelled"))

    @cached_property
    def _kept(self) -> dict[Callable[[Subject], Any], Any]:
        return {}

    def once(self, compute: Callable[[Subject], T]) -> T:
        """What `compute` makes of this subject, made once."""
        if compute not in self._kept:
            self._kept[compute] = compute(self)
        found: T = self._kept[compute]
        return found

    @cached_property
    def _ordered(self) -> list[tuple[Values, Seconds]]:
        return []

    def ordered(self, values: Values) -> Seconds:
        """`values` of this subject, ascending; only those asked for last are kept."""
        if not self._ordered or self._ordered[0][0] is not values:
            self._ordered[:] = [(values, np.sort(values(self)))]
        return self._ordered[0][1]


Value = Callable[[Subject], float | None]
Values = Callable[[Subject], Seconds]


class Metric(Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    label: str
    unit: str
    direction: Direction
    formula: str
    source: str
    value: Value

    @property
    def family(self) -> str:
        """Its name without a percentile: `ttft` for `ttft_p95_s`."""
        return family(self.name)

    @property
    def needs(self) -> int | None:
        """Of a percentile: how many values one trial must have for it."""
        found = _PERCENTILE.search(self.name)
        return stats.NEEDED[float(f"0.{found[1]}")] if found else None


def family(name: str) -> str:
    """The name of a metric without its percentile."""
    return _PERCENTILE.sub("", name)


def _told(name: str, computed: Value) -> Value:
    """What another tool told of a trial goes before what its records would give.

    None too where the records can't tell `name`, or all percentiles of its family, though they
    would give a number.
    """
    unknown_by = family(name)

    def value(subject: Subject) -> float | None:
        trial = subject.trial
        if name in trial.figures:
            return trial.figures[name]
        return None if unknown_by in trial.unknown else subject.once(computed)

    return value


def _quantile(values: Values, q: float) -> Value:
    return lambda subject: stats.quantile(subject.ordered(values), q)


def row(
    name: str,
    label: str,
    unit: str,
    direction: Direction,
    formula: str,
    value: Value,
    source: str = "armbench",
) -> Metric:
    """One metric."""
    return Metric(
        name=name,
        label=label,
        unit=unit,
        direction=direction,
        formula=formula,
        source=source,
        value=_told(name, value),
    )


def quantile_rows(name: str, label: str, formula: str, values: Values, source: str) -> list[Metric]:
    """A metric for each percentile of `values`; those with too few values are None."""
    marks = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    return [
        row(f"{name}_{p}_s", f"{label} {p}", "s", "lower", formula, _quantile(values, q), source)
        for p, q in marks.items()
    ]
