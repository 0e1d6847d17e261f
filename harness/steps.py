"""Changes of level between runs, and whether they matter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from harness import changepoint
from harness.metrics import Direction
from harness.records.comparison import Margin, Step, Verdict

FEW = 10  # runs below which no step can be told; see changepoint.changes


def steps(
    levels: Sequence[float], at: Sequence[str], direction: Direction, margin: Margin
) -> list[Step]:
    """The changes of level in `levels`; a step within the margin counts as unchanged."""
    changes = changepoint.changes(levels)
    edges = [0, *(c.at for c in changes), len(levels)]
    found = []
    for number, change in enumerate(changes):
        before = statistics.median(levels[edges[number] : change.at])
        after = statistics.median(levels[change.at : edges[number + 2]])
        ratio = after / before if before > 0 else math.inf if after > 0 else 1.0
        step = Step(
            index=change.at,
            at=at[change.at],
            before=before,
            after=after,
            ratio=ratio if math.isfinite(ratio) else None,
            p=change.p,
            verdict=_verdict(ratio, direction, margin),
        )
        found.append(step)
    return found


def _verdict(ratio: float, direction: Direction, margin: Margin) -> Verdict | None:
    if direction == "none":
        return None
    if 1 / (1 + margin.value) <= ratio <= 1 + margin.value:
        return "unchanged"
    return "improved" if (ratio > 1) == (direction == "higher") else "regressed"
