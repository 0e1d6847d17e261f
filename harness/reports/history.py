"""Runs over time, as a sheet."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records.comparison import Step
from harness.records.history import Series
from harness.reports.sheet import MISSING, Column, Sheet, number


def _level_line(one: Series) -> list[str]:
    level = f"{number(min(one.values))}–{number(max(one.values))}"
    return [one.label, one.metric, str(len(one.values)), "no step", "", level, "", ""]


def _step_line(one: Series, step: Step) -> list[str]:
    return [
        one.label,
        one.metric,
        str(len(one.values)),
        step.at,
        number(step.before),
        number(step.after),
        f"{number(step.ratio)}, p {step.p:.2g}",
        step.verdict or MISSING,
    ]


def history_sheet(every: Sequence[Series]) -> Sheet:
    """One line for each step, and one for each series without any."""
    rows = []
    for one in every:
        rows += [_step_line(one, step) for step in one.steps] or [_level_line(one)]
    columns = [
        Column(label="case", right=False),
        Column(label="metric", right=False),
        Column(label="runs"),
        Column(label="step at", right=False),
        Column(label="before"),
        Column(label="after"),
        Column(label="ratio"),
        Column(label="verdict", right=False),
    ]
    notes = list(dict.fromkeys(one.note for one in every if one.note))
    notes += [
        f"{one.label} {one.metric}: the newest level is worse than the last improved or first one"
        for one in every
        if one.newest == "regressed"
    ]
    return Sheet(title="history", columns=columns, rows=rows, notes=notes)
