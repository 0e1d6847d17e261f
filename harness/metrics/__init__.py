"""The metric table: each metric is one row, and every report, comparison and gate walks it.

A metric is computed from stored instants and counts of one trial, in SI units, some from the
ceilings beside them; None means that this trial cannot tell. Sources: the definitions in README,
section Words, which follow MLPerf LoadGen (latency from the due time), vLLM and MLPerf (TPOT).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from harness import stats
from harness.bounds import Bounds
from harness.errors import ArmbenchError, unknown_name
from harness.metrics.batched import Phase, decode_work, prefill_work
from harness.metrics.row import Direction, Metric, Subject
from harness.metrics.table import METRICS
from harness.records.run import Case, Estimate, Trial

__all__ = [
    "BY_NAME",
    "METRICS",
    "Direction",
    "Metric",
    "Phase",
    "Subject",
    "Told",
    "decode_work",
    "metric",
    "named",
    "prefill_work",
    "summarise",
    "summary",
    "told",
    "valid_trials",
]

BY_NAME = {metric.name: metric for metric in METRICS}


def metric(name: str) -> Metric:
    """The row called `name`. Raises ArmbenchError for one that does not exist."""
    if name not in BY_NAME:
        raise unknown_name("metric", name, BY_NAME)
    return BY_NAME[name]


def named(text: str) -> list[Metric]:
    """The rows that `text` means: one by its name, or all of a family or a label (`ttft`, `TTFT`).

    Raises ArmbenchError where there is none.
    """
    word = text.casefold()
    exact = [row for row in METRICS if row.name == word]
    found = exact or [row for row in METRICS if word in (row.family, row.label.casefold())]
    found = found or [row for row in METRICS if row.label.casefold().rpartition(" p")[0] == word]
    if not found:
        near = get_close_matches(word, {row.family for row in METRICS}, n=3, cutoff=0.4)
        hint = f"near: {', '.join(near)}; " if near else ""
        raise ArmbenchError(
            f"unknown metric {text!r}", hint=f"{hint}`armbench explain` lists them all"
        )
    return found


def valid_trials(trials: Iterable[Trial], case: Case) -> list[Trial]:
    """Trials of `case` that ended and are to be believed."""
    return [t for t in trials if t.case == case.id and t.state == "ok" and not t.invalid]


Told = list[tuple[Trial, dict[str, float | None]]]  # trials of one case, with every metric of each


def told(trials: Iterable[Trial], case: Case, limits: Bounds | None = None) -> Told:
    """Every metric of each valid trial of `case`.

    One trial after the other, since its columns are many times as large as what they tell.
    """
    found: Told = []
    for trial in valid_trials(trials, case):
        subject = Subject(trial=trial, case=case, bounds=limits)
        found.append((trial, {row.name: row.value(subject) for row in METRICS}))
    return found


def summarise(
    trials: Iterable[Trial], case: Case, limits: Bounds | None = None
) -> dict[str, Estimate]:
    """Every metric of `case` over its valid trials; metrics that no trial can tell are left out."""
    return summary(told(trials, case, limits))


def summary(of: Told) -> dict[str, Estimate]:
    """Estimates over the trials of one case; metrics that no trial can tell are left out."""
    found: dict[str, Estimate] = {}
    for row in METRICS:
        values = [value for _, figures in of if (value := figures[row.name]) is not None]
        if (estimate := stats.estimate(values, row.unit)) is not None:
            found[row.name] = estimate
    return found
