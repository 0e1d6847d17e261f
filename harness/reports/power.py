"""What repeats can show, as a sheet."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records.comparison import PowerRow
from harness.reports.comparison import percent
from harness.reports.sheet import MISSING, Column, Sheet

_DETECTABLE = (
    "detectable: the smallest true change that 80 % of comparisons with so many repeats a side "
    "would show beyond the margin; repeats are of each side"
)


def power_sheet(rows: Sequence[PowerRow]) -> Sheet:
    """What the repeats can show, and how many the wished effect takes."""
    lines = [
        [
            r.case,
            r.metric,
            str(r.n),
            percent(r.spread),
            MISSING
            if r.spread_low is None
            else f"{percent(r.spread_low)}–{percent(r.spread_high)}",
            f"±{percent(r.margin.value)}",
            percent(r.detectable),
            MISSING if r.repeats is None else str(r.repeats),
            MISSING if r.repeats_safe is None else str(r.repeats_safe),
            r.reason or "",
        ]
        for r in rows
    ]
    effect = next((r.effect for r in rows if r.effect), None)
    columns = [
        Column(label="case", right=False),
        Column(label="metric", right=False),
        Column(label="n"),
        Column(label="spread"),
        Column(label="spread", unit="95 %"),
        Column(label="margin"),
        Column(label="detectable", unit="with these repeats"),
        Column(label="repeats", unit=f"for {percent(effect)}"),
        Column(label="to be safe", unit="80 % bound"),
        Column(label="note", right=False),
    ]
    notes = [
        _DETECTABLE,
        *dict.fromkeys(f"noise margin ±{percent(r.margin.value)}: {r.margin.source}" for r in rows),
    ]
    return Sheet(title="power of a comparison", columns=columns, rows=lines, notes=notes)
