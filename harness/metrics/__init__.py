"""The metric table: each metric is one row, and every report, comparison and gate walks it.

A metric is computed from stored instants and counts of one trial, in SI units, some from the
ceilings beside them; None means that this trial cannot tell. Sources: the definitions in README,
section Words, which follow MLPerf LoadGen (latency from the due time), vLLM and MLPerf (TPOT).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from harness import bounds, stats
from harness.bounds import Bounds
from harness.errors import ArmbenchError, unknown_name
from harness.metrics.batched import Phase, decode_work, prefill_work
from harness.metrics.row import Direction, Metric, Subject
from harness.metrics.table import METRICS
from harness.records.run import Case, Estimate, Result, Trial

__all__ = [
    "BY_NAME",
    "METRICS",
    "Direction",
    "Metric",
    "Phase",
    "Subject",
    "decode_work",
    "metric",
    "named",
    "prefill_work",
    "summaries",
    "summarise",
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


def summarise(
    trials: Iterable[Trial], case: Case, limits: Bounds | None = None
) -> dict[str, Estimate]:
    """Every metric of `case` over its valid trials; metrics that no trial can tell are left out."""
    chosen = [Subject(trial=t, case=case, bounds=limits) for t in valid_trials(trials, case)]
    summary: dict[str, Estimate] = {}
    for row in METRICS:
        values = [v for subject in chosen if (v := row.value(subject)) is not None]
        if (found := stats.estimate(values, row.unit)) is not None:
            summary[row.name] = found
    return summary


def summaries(result: Result) -> dict[str, dict[str, Estimate]]:
    """Every metric of every case, by case id."""
    return {
        str(case.id): summarise(result.trials, case, bounds.of_case(result, case))
        for case in result.plan.cases
    }
