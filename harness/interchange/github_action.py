"""Results for github-action-benchmark: a file where smaller is better, and one where bigger is.

Source: benchmark-action/github-action-benchmark v1.9.0 and later, README (customSmallerIsBetter,
customBiggerIsBetter), src/extract.ts and src/extractRangeInfo.ts at c38cce98: entries of `name`,
`unit`, `value`, and optionally `range` (`± number`) and `extra`.
"""

from __future__ import annotations

import json

from harness.interchange.export import Export, case_names, figures
from harness.metrics import Direction
from harness.records.run import Estimate, Result

TOOLS: dict[str, Direction] = {"smaller": "lower", "bigger": "higher"}


def write(result: Result, which: str) -> Export:
    """The metrics of which `smaller` or `bigger` values are better."""
    names = case_names(result)
    entries = [
        {
            "name": f"{names[figure.case.id]} {figure.metric.label}",
            "unit": figure.metric.unit or "count",
            "value": figure.estimate.value,
            **_range(figure.estimate),
            "extra": f"{figure.metric.name}: {figure.metric.formula}\n"
            f"n = {figure.estimate.n}, {result.tool}, {result.basis}",
        }
        for figure in figures(result)
        if figure.metric.direction == TOOLS[which]
    ]
    other = "bigger" if which == "smaller" else "smaller"
    left_out = [f"metrics that are better when {other} (the other file), or neither", "cost"]
    return Export(text=json.dumps(entries, indent=2, ensure_ascii=False) + "\n", left_out=left_out)


def _range(estimate: Estimate) -> dict[str, str]:
    """Half the width of the 95 % interval, where there is one."""
    if estimate.low is None or estimate.high is None:
        return {}
    return {"range": f"± {(estimate.high - estimate.low) / 2:.6g}"}
