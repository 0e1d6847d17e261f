"""Changes of level between runs, and whether they matter."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from harness import changepoint
from harness.metrics import Direction
from harness.records.comparison import Margin, Scale, Step, Verdict

FEW = 10  # runs below which no step can be told; see changepoint.changes


def steps(
    levels: Sequence[float],
    at: Sequence[str],
    direction: Direction,
    margin: Margin,
    scale: Scale,
) -> list[Step]:
    """The changes of level in `levels`; a step within the margin counts as unchanged.

    `scale` says what the margin bounds: the ratio of two levels, or their difference.
    """
    changes = changepoint.changes(levels)
    edges = [0, *(c.at for c in changes), len(levels)]
    found = []
    for number, change in enumerate(changes):
        before = statistics.median(levels[edges[number] : change.at])
        after = statistics.median(levels[change.at : edges[number + 2]])
        ratio = _ratio(before, after)
        step = Step(
            index=change.at,
            at=at[change.at],
            before=before,
            after=after,
            ratio=ratio if math.isfinite(ratio) else None,
            p=change.p,
            verdict=_verdict(before, after, direction, margin, scale),
        )
        found.append(step)
    return found


def newest(
    found: Sequence[Step], direction: Direction, margin: Margin, scale: Scale
) -> Verdict | None:
    """The newest level against the one of the last improvement, or else the first one.

    So several small steps the wrong way add up, and a small one hides no large one before it. None
    without a step.
    """
    if not found:
        return None
    reached = [step.after for step in found if step.verdict == "improved"]
    held = reached[-1] if reached else found[0].before
    return _verdict(held, found[-1].after, direction, margin, scale)


def _ratio(before: float, after: float) -> float:
    return after / before if before > 0 else math.inf if after > 0 else 1.0


def _verdict(
    before: float, after: float, direction: Direction, margin: Margin, scale: Scale
) -> Verdict | None:
    if direction == "none":
        return None
    ratio = _ratio(before, after)
    if scale == "difference":
        inside = abs(after - before) <= margin.value
    else:
        inside = 1 / (1 + margin.value) <= ratio <= 1 + margin.value
    if inside:
        return "unchanged"
    return "improved" if (after > before) == (direction == "higher") else "regressed"
