"""Comparisons and gates as sheets."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from harness.records.comparison import (
    CaseRow,
    Comparison,
    GateOutcome,
    GateRow,
    MetricRow,
    Pair,
    Ratio,
)
from harness.reports.sheet import MISSING, Column, Sheet, number, with_interval

_SCALES = {"s": (1000.0, "ms"), "B": (1 / 2**20, "MiB")}  # how people read these units


def percent(share: float | None, digits: int = 2) -> str:
    """`3.1 %`; a dash for None."""
    return MISSING if share is None else f"{number(100 * share, digits)} %"


def _side(row: MetricRow, which: str) -> str:
    figure = row.a if which == "a" else row.b
    if figure is None:
        return MISSING
    factor, _ = _SCALES.get(row.unit, (1.0, row.unit))
    scaled = replace(
        figure,
        value=figure.value * factor,
        low=None if figure.low is None else figure.low * factor,
        high=None if figure.high is None else figure.high * factor,
    )
    return with_interval(scaled)


def unit(row: MetricRow) -> str:
    """The unit in which `row` is shown."""
    return _SCALES.get(row.unit, (1.0, row.unit))[1]


def ratio_text(ratio: Ratio) -> str:
    """`0.920 [0.900, 0.940]`, a difference with its sign; a dash where there is none."""
    if ratio.value is None:
        return MISSING
    shown = _signed if ratio.scale == "difference" else _times
    if ratio.low is None or ratio.high is None:
        return shown(ratio.value)
    return f"{shown(ratio.value)} [{shown(ratio.low)}, {shown(ratio.high)}]"


def _times(value: float) -> str:
    return f"{value:.3f}" if 0.1 <= value < 10 else number(value)


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def margin_text(row: MetricRow) -> str:
    """`±3 %`, marked with * where it is only a default."""
    if row.margin is None:
        return MISSING
    star = "*" if row.margin.n == 0 and row.margin.source.startswith("default") else ""
    if row.ratio.scale == "difference":
        return f"±{number(row.margin.value, 2)}"
    return f"±{percent(row.margin.value)}{star}"


def _metric_columns(confidence: float) -> list[Column]:
    return [
        Column(label="case", right=False),
        Column(label="metric", right=False),
        Column(label="unit", right=False),
        Column(label="baseline"),
        Column(label="new"),
        Column(label="ratio", unit=f"{100 * confidence:.4g} %"),
        Column(label="n"),
        Column(label="margin"),
        Column(label="verdict", right=False),
        Column(label="why", right=False),
    ]


def _metric_line(case: str, row: MetricRow) -> list[str]:
    return [
        case,
        row.label,
        unit(row),
        _side(row, "a"),
        _side(row, "b"),
        ratio_text(row.ratio),
        f"{row.ratio.n[0]}/{row.ratio.n[1]}",
        margin_text(row),
        row.verdict or MISSING,
        row.reason if row.verdict is not None else "",
    ]


def comparison_sheets(comparison: Comparison, only: Collection[str] = ()) -> list[Sheet]:
    """Everything of a comparison: metrics, means, fair shares, outputs, and what differs.

    `only` names the metrics of the first table; all of them where it is empty.
    """
    found = []
    for pair in comparison.pairs:
        found.append(_metrics_sheet(pair, only))
        made = (_means_sheet(pair, only), _shares_sheet(pair, only), _outputs_sheet(pair))
        found += [sheet for sheet in (*made, _differences_sheet(pair)) if sheet.rows]
    return found


def _metrics_sheet(pair: Pair, only: Collection[str]) -> Sheet:
    rows = [
        _metric_line(case.label, row)
        for case in pair.cases
        for row in case.metrics
        if not only or row.metric in only
    ]
    confidence = next((r.ratio.confidence for c in pair.cases for r in c.metrics), 0.95)
    return Sheet(
        title=f"{pair.a.label} (baseline) against {pair.b.label}",
        columns=_metric_columns(confidence),
        rows=rows,
        notes=[*_sides(pair), *pair.notes, *_missing(pair), *_legend(pair)],
    )


def _sides(pair: Pair) -> list[str]:
    return [
        f"{name}: {side.machine}, {side.runs} run{'s' if side.runs > 1 else ''} by {side.tool}, "
        f"{side.created[:10]}, {side.budget}"
        for name, side in (("baseline", pair.a), ("new", pair.b))
    ]


def _missing(pair: Pair) -> list[str]:
    found = [f"only in the baseline: {', '.join(pair.only_a)}"] if pair.only_a else []
    return found + ([f"only in the new side: {', '.join(pair.only_b)}"] if pair.only_b else [])


def _legend(pair: Pair) -> list[str]:
    rows = [row for case in pair.cases for row in case.metrics]
    methods = dict.fromkeys(r.ratio.method for r in rows if r.ratio.method)
    found = [f"ratio: new ÷ baseline of geometric means, {'; '.join(methods)}"] if methods else []
    sources = dict.fromkeys(
        f"±{percent(r.margin.value)}: {r.margin.source}"
        for r in rows
        if r.margin and r.ratio.scale == "ratio"
    )
    return found + [f"noise margin {text}" for text in sources]


def _means_sheet(pair: Pair, only: Collection[str]) -> Sheet:
    means = [m for m in pair.geometric_means if not only or m.metric in only]
    rows = [
        [
            m.metric,
            ratio_text(Ratio(value=m.ratio, low=m.low, high=m.high)),
            str(m.n),
        ]
        for m in means
    ]
    columns = [
        Column(label="metric", right=False),
        Column(label="geometric mean of ratios", unit="95 %"),
        Column(label="cases"),
    ]
    return Sheet(title="over all cases", columns=columns, rows=rows)


def _shares_sheet(pair: Pair, only: Collection[str]) -> Sheet:
    rows: list[list[str]] = []
    reasons: dict[str, None] = {}
    for case in pair.cases:
        for share in case.shares:
            if only and share.metric not in only:
                continue
            ratio = Ratio(value=share.ratio, low=share.low, high=share.high)
            rows.append(
                [case.label, share.unit, number(share.a), number(share.b), ratio_text(ratio)]
            )
            if share.reason:
                reasons[f"per {share.basis}: {share.reason}"] = None
    columns = [
        Column(label="case", right=False),
        Column(label="rate", right=False),
        Column(label="baseline"),
        Column(label="new"),
        Column(label="ratio", unit="95 %"),
    ]
    return Sheet(title="for what each side took", columns=columns, rows=rows, notes=list(reasons))


def _outputs_sheet(pair: Pair) -> Sheet:
    rows = [_outputs_line(case) for case in pair.cases if case.outputs is not None]
    columns = [
        Column(label="case", right=False),
        Column(label="same outputs"),
        Column(label="95 %"),
        Column(label="top-1 of each against the reference"),
        Column(label="mean |Δlogit| at most"),
        Column(label="why not", right=False),
    ]
    return Sheet(title="greedy outputs, by their digests", columns=columns, rows=rows)


def _outputs_line(case: CaseRow) -> list[str]:
    found = case.outputs
    assert found is not None
    same = f"{found.same} of {found.compared}" if found.compared else MISSING
    bounds = f"[{percent(found.low)}, {percent(found.high)}]" if found.compared else MISSING
    return [
        case.label,
        same,
        bounds,
        " / ".join(percent(t, 3) for t in found.top1),
        MISSING if found.delta_most is None else f"{found.delta_most:.2g}",
        found.reason or "",
    ]


def _differences_sheet(pair: Pair) -> Sheet:
    varied = {(part, *texts) for case in pair.cases for part, texts in case.varied.items()}
    rows = [["plan", part, a or MISSING, b or MISSING] for part, a, b in sorted(varied)]
    rows += [[d.kind, d.name, d.a or MISSING, d.b or MISSING] for d in pair.differences]
    columns = [
        Column(label="kind", right=False),
        Column(label="what differs", right=False),
        Column(label="baseline", right=False),
        Column(label="new", right=False),
    ]
    return Sheet(title="what differs between the environments", columns=columns, rows=rows)


def gate_sheet(outcome: GateOutcome) -> Sheet:
    """The verdict table: failing rows first."""
    order = ("invalid", "regressed", "inconclusive", "improved", "unchanged", "skipped")
    rows = sorted(outcome.rows, key=lambda r: order.index(r.state))
    confidence = next((r.row.ratio.confidence for r in rows if r.row), 0.95)
    return Sheet(
        title=outcome.summary,
        columns=[
            Column(label="state", right=False),
            *_metric_columns(confidence)[:8],
            Column(label="why", right=False),
        ],
        rows=[_gate_line(row) for row in rows],
        notes=outcome.notes,
    )


def _gate_line(row: GateRow) -> list[str]:
    if row.row is None:
        return [row.state, row.case, row.metric, *[""] * 6, row.text]
    line = _metric_line(row.case, row.row)
    return [row.state, *line[:8], row.text]
