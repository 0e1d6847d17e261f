"""What a search would look at: the space by engine and dtype, what can't be tried, the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from harness.records.tune import Asked, Candidate, Tune
from harness.reports.sheet import Column, Sheet
from harness.reports.tune import left_sheet
from harness.tune.forecast import Forecast
from harness.tune.space import Space
from harness.units import format_duration


def dry_sheets(asked: Asked, found: Space, seen: Forecast) -> list[Sheet]:
    """The space, and what of it can't be tried."""
    families: dict[str, list[int]] = {}
    for index, one in enumerate(found.candidates):
        families.setdefault(one.family, []).append(index)
    columns = ["engine and dtype", "threads", "instances", "batch", "chunk", "options"]
    rows = [_row(family, found, which) for family, which in families.items()]
    space = Sheet(
        title="would search",
        columns=[
            *(Column(label=name, right=False) for name in columns),
            Column(label="candidates"),
            Column(label="to try"),
        ],
        rows=rows,
        notes=_notes(asked, found, seen),
    )
    if not found.left:
        return [space]
    tune = Tune(asked=asked, candidates=found.candidates, lengths=asked.lengths, left=found.left)
    return [space, left_sheet(tune)]


def _row(family: str, found: Space, which: list[int]) -> list[str]:
    mine = [found.candidates[c] for c in which]
    knobs: list[Callable[[Candidate], Any]] = [
        lambda one: one.threads,
        lambda one: one.instances,
        lambda one: one.batch,
        lambda one: one.chunk,
    ]
    options = {f"{k}={v}" for one in mine for k, v in one.options.items()}
    return [
        family,
        *(_values(knob(one) for one in mine) for knob in knobs),
        ", ".join(sorted(options)),
        str(len(mine)),
        str(sum(c in found.plans for c in which)),
    ]


def _values(values: Iterable[int | None]) -> str:
    return ", ".join(str(v) for v in sorted({v for v in values if v is not None}))


def _notes(asked: Asked, found: Space, seen: Forecast) -> list[str]:
    probes = (
        f"first probes: {seen.groups} processes, about {format_duration(seen.probes_s)}; every "
        f"candidate {asked.repeats} times: about {format_duration(seen.exhaustive_s)} (guessed "
        "from NumPy's speed here); conversions and quality checks come on top"
    )
    later = (
        "once ceilings are measured, candidates that they bound below the best so far are left "
        "out too"
    )
    return [f"{len(found.candidates)} candidates, {len(found.plans)} to try", probes, later]
