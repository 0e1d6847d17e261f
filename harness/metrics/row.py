"""What a metric is: one row, and a short way to write several alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

from harness import stats
from harness.bounds import Bounds
from harness.records.run import Case, Trial

Direction = Literal["higher", "lower", "none"]
_PERCENTILE = re.compile(r"_p(\d+)_s$")


class Subject(Struct, frozen=True, kw_only=True):
    """What a metric is computed from: a trial, its case, and what bounds it where that is known."""

    trial: Trial
    case: Case
    bounds: Bounds | None = None


Value = Callable[[Subject], float | None]


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
        return None if unknown_by in trial.unknown else computed(subject)

    return value


def _quantile(values: Callable[[Trial], Sequence[float]], q: float) -> Value:
    return lambda subject: stats.percentile(values(subject.trial), q)


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


def quantile_rows(
    name: str,
    label: str,
    formula: str,
    values: Callable[[Trial], Sequence[float]],
    source: str,
) -> list[Metric]:
    """A metric for each percentile of `values`; those with too few values are None."""
    marks = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    return [
        row(f"{name}_{p}_s", f"{label} {p}", "s", "lower", formula, _quantile(values, q), source)
        for p, q in marks.items()
    ]


def trial_row(
    name: str,
    label: str,
    unit: str,
    direction: Direction,
    formula: str,
    value: Callable[[Trial], float | None],
    source: str = "armbench",
) -> Metric:
    """A row whose value needs the trial alone."""
    return row(name, label, unit, direction, formula, lambda s: value(s.trial), source)
