"""The index of a machine's runs: what repeats from run to run is kept once, as a head."""

from __future__ import annotations

from msgspec import Struct, field

from harness.records.comparison import RunValues, Step, Verdict


class Head(Struct, kw_only=True):
    """What many runs share: `run` without values, and the metrics in the order of their columns."""

    key: str
    run: RunValues
    metrics: list[str]


class Line(Struct, kw_only=True):
    """One run: for each case of its head, one value for each metric, the mean over its repeats."""

    head: str
    file: str  # relative to the machine's folder
    created: str
    values: list[list[float | None]]
    repeats: list[int]  # valid ones of each case
    valid: list[bool]
    ref: str | None = None  # branch or label of the code that was measured
    commit: str | None = None


class Note(Struct, kw_only=True):
    """A label for a run that is in the index, beside the one it came with."""

    file: str  # relative to the machine's folder
    ref: str
    commit: str | None = None


class Series(Struct, kw_only=True):
    """One metric of one question over time on one machine, and its steps.

    `newest` is the verdict on the newest level against the last improved one, or the first.
    """

    machine: str
    label: str
    metric: str
    unit: str
    at: list[str]
    values: list[float]
    files: list[str]
    steps: list[Step] = field(default_factory=list)
    newest: Verdict | None = None
    note: str | None = None
