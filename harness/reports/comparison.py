"""Comparisons and gates as sheets."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from harness.records.comparison import (
    CaseRow,
    Comparison,
    GateOutcome,
    GateRow,
    MetricRow,
    Pair,
    Ratio,
    Share,
)
from harness.reports.sheet import MISSING, Column, Sheet, number, with_interval

_LONGEST_CELL = 160  # `--json` has all of it
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
        made = (_means_sheet, _shares_sheet)
        found += [sheet for make in made if (sheet := make(pair, only)).rows]
        rest = (_ceilings_sheet(pair), _outputs_sheet(pair), _differences_sheet(pair))
        found += [sheet for sheet in rest if sheet.rows]
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
        notes=[
            *_sides(pair),
            *pair.notes,
            *_missing(pair),
            *_faults(pair),
            *_legend(pair),
            *_not_told(pair),
        ],
    )


def _sides(pair: Pair) -> list[str]:
    return [
        f"{name}: {side.machine}, {side.runs} run{'s' if side.runs > 1 else ''} by {side.tool}, "
        f"{side.created[:10]}, {side.budget}"
        for name, side in (("baseline", pair.a), ("new", pair.b))
    ]


def _faults(pair: Pair) -> list[str]:
    return [f"{case.label}: not valid: {fault}" for case in pair.cases for fault in case.faults]


def _not_told(pair: Pair) -> list[str]:
    """Why outputs of cases are not compared of which nothing is known."""
    silent = [case for case in pair.cases if case.outputs is not None and not _says(case)]
    reasons: dict[str, list[str]] = {}
    for case in silent:
        assert case.outputs is not None
        reasons.setdefault(case.outputs.reason or "no digest", []).append(case.label)
    return [
        f"outputs not compared: {reason}"
        + ("" if len(labels) == len(pair.cases) else f" ({', '.join(labels)})")
        for reason, labels in reasons.items()
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
    rows = [
        [
            m.metric,
            m.basis if m.basis in ("whole", "instance") else f"per {m.basis}",
            ratio_text(Ratio(value=m.ratio, low=m.low, high=m.high)),
            str(m.n),
        ]
        for m in pair.geometric_means
        if (not only or m.metric in only) and m.basis != "instance"
    ]
    columns = [
        Column(label="metric", right=False),
        Column(label="of", right=False),
        Column(label="geometric mean of ratios", unit="95 %"),
        Column(label="cases"),
    ]
    return Sheet(title="over all cases", columns=columns, rows=rows)


def _shares_sheet(pair: Pair, only: Collection[str]) -> Sheet:
    """Ratios for each unit of what the sides took: a column for each basis.

    Their intervals are the whole's, scaled; `--json` and the means have them.
    """
    shares = [share for case in pair.cases for share in case.shares]
    bases = [b for b in dict.fromkeys(s.basis for s in shares) if _known(shares, b)]
    rows = []
    for case in pair.cases:
        names = dict.fromkeys(s.metric for s in case.shares if not only or s.metric in only)
        for name in names:
            ratios = {s.basis: s.ratio for s in case.shares if s.metric == name}
            cells = [ratio_text(Ratio(value=ratios.get(basis))) for basis in bases]
            rows.append([case.label, name, *cells])
    columns = [Column(label="case", right=False), Column(label="ratio of", right=False)]
    columns += [Column(label=f"per {_unit_of(shares, basis)}") for basis in bases]
    notes = [_amounts(pair, basis) for basis in bases if basis != "instance"]
    unknown = {f"per {s.basis}: {s.reason}": None for s in shares if s.reason and s.ratio is None}
    return Sheet(
        title="for what each side took", columns=columns, rows=rows, notes=[*notes, *unknown]
    )


def _known(shares: Sequence[Share], basis: str) -> bool:
    return any(share.ratio is not None for share in shares if share.basis == basis)


def _unit_of(shares: Sequence[Share], basis: str) -> str:
    """`USD/h` of the basis price."""
    return next(s.unit for s in shares if s.basis == basis).partition(" per ")[2]


def _amounts(pair: Pair, basis: str) -> str:
    """What both sides took of `basis`: `vCPU: 64 against 96`."""
    told: dict[str, None] = {}
    unit = ""
    for case in pair.cases:
        rows = {row.metric: row for row in case.metrics}
        for share in case.shares:
            row = rows[share.metric]
            if share.basis == basis and row.a and row.b and share.a and share.b:
                unit = _unit_of([share], basis)
                took = (row.a.value / share.a, row.b.value / share.b)
                told[" against ".join(map(number, took))] = None
    return f"{unit}: {'; '.join(told)}"


_CEILINGS = ("mbu", "mfu")


def _ceilings_sheet(pair: Pair) -> Sheet:
    """Each side against what its own machine can do at best: hardware or software."""
    rows = []
    for case in pair.cases:
        by_name = {row.metric: row for row in case.metrics}
        told = [row for name in _CEILINGS if (row := by_name.get(name)) is not None]
        if told:
            cells = [_share_of(by_name.get(n), side) for n in _CEILINGS for side in ("a", "b")]
            rows.append([case.label, *cells])
    columns = [
        Column(label="case", right=False),
        Column(label="MBU, baseline"),
        Column(label="MBU, new"),
        Column(label="MFU, baseline"),
        Column(label="MFU, new"),
    ]
    notes = [_CEILINGS_TOLD] if rows else []
    return Sheet(title="against each side's own ceilings", columns=columns, rows=rows, notes=notes)


_CEILINGS_TOLD = (
    "share of the memory bandwidth (MBU) and arithmetic (MFU) measured on that machine: with equal "
    "shares the hardware differs, with unequal ones the software leaves more of it unused"
)


def _share_of(row: MetricRow | None, side: str) -> str:
    figure = None if row is None else row.a if side == "a" else row.b
    return percent(figure.value if figure else None, 3)


def _outputs_sheet(pair: Pair) -> Sheet:
    """A line for each case of which something is known."""
    rows = [_outputs_line(case) for case in pair.cases if _says(case)]
    columns = [
        Column(label="case", right=False),
        Column(label="same outputs"),
        Column(label="95 %"),
        Column(label="top-1 of each against the reference"),
        Column(label="mean |Δlogit| at most"),
        Column(label="why not", right=False),
    ]
    return Sheet(title="greedy outputs, by their digests", columns=columns, rows=rows)


def _says(case: CaseRow) -> bool:
    found = case.outputs
    return found is not None and bool(found.compared or any(t is not None for t in found.top1))


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
    rows = [["plan", part, _short(a), _short(b)] for part, a, b in sorted(varied)]
    rows += [[d.kind, d.name, _short(d.a), _short(d.b)] for d in pair.differences]
    columns = [
        Column(label="kind", right=False),
        Column(label="what differs", right=False),
        Column(label="baseline", right=False),
        Column(label="new", right=False),
    ]
    return Sheet(title="what differs between the environments", columns=columns, rows=rows)


def _short(text: str | None) -> str:
    """`text` with the words that fit into a cell, and how many are left out."""
    if not text:
        return MISSING
    words = text.split(" ")
    while len(" ".join(words)) > _LONGEST_CELL and len(words) > 1:
        words.pop()
    left = len(text.split(" ")) - len(words)
    return " ".join(words) + (f" … and {left} more" if left else "")


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
