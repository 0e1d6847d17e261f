"""What the pictures of the page show of one result, as plots without a drawing library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness import cost, stats
from harness.metrics import Subject, batched, valid_trials
from harness.records.money import BreakEven
from harness.records.run import Case, Estimate, Result
from harness.reports import roofline
from harness.reports.html.plots import Line, Mark, Plot, thinned
from harness.reports.serving import bound_text
from harness.reports.sheet import load_text, number, tokens_text

_MS = 1e3
_MARKED = (0.5, 0.9, 0.95, 0.99)

Subjects = Mapping[int, Sequence[Subject]]  # the trials of each case, by its id, that ended


def plots(result: Result, hosted: Sequence[BreakEven]) -> list[tuple[str, Plot]]:
    """(anchor, plot) of everything that this result can show."""
    subjects = {
        case.id: [
            Subject(trial=trial, case=case)
            for trial in result.trials
            if trial.case == case.id and trial.state == "ok"
        ]
        for case in result.plan.cases
    }  # of whose requests columns are made once, for all pictures
    found = [
        ("roofline", roofline_plot(result)),
        ("curve", curve_plot(result, "ttft", "TTFT")),
        ("curve-tpot", curve_plot(result, "tpot", "TPOT")),
        ("ttft", distribution_plot(result, subjects, "ttft")),
        ("tpot", distribution_plot(result, subjects, "tpot")),
        ("threads", threads_plot(result)),
        ("timeline", timeline_plot(result, subjects)),
        ("cost", cost_plot(result, hosted)),
    ]
    return [(name, plot) for name, plot in found if plot is not None]


def _figure(result: Result, case: Case, name: str) -> Estimate | None:
    return result.summary.get(str(case.id), {}).get(name)


def short(case: Case) -> str:
    """The case as a legend names it."""
    return f"{case.variant.label} {load_text(case)} {tokens_text(case)}"


def roofline_plot(result: Result) -> Plot | None:
    """Roofs of the machine, and each phase under them; None without ceilings."""
    from harness.errors import ArmbenchError

    try:
        drawn = roofline.of_result(result)
    except ArmbenchError:
        return None
    xs = [p.intensity for p in drawn.points] + [r.ridge for r in drawn.roofs]
    left, right = min(xs) / 4, max(xs) * 4
    lines = []
    for roof in drawn.roofs:
        at = sorted([left, roof.ridge, right])
        heights = [roof.at(x) / 1e9 for x in at]
        lines.append(Line(label=roof.label, x=at, y=heights, points=False))
    lines += [
        Line(label=point.label, x=[point.intensity], y=[point.ops_per_s / 1e9], style="")
        for point in drawn.points
    ]
    return Plot(
        title="Roofline",
        about="What memory and arithmetic allow at each intensity, and where each phase lies.",
        x="operations per byte",
        y="Gop/s",
        lines=lines,
        log_x=True,
        log_y=True,
    )


def _curves(result: Result) -> dict[str, list[Case]]:
    """Cases of one variant at several loads, by variant and kind of load."""
    found: dict[str, list[Case]] = {}
    for case in result.plan.cases:
        kind = case.load.kind if case.load.serving is not None else "in-process"
        tokens = f"{case.load.input_tokens}+{case.load.output_tokens}"
        found.setdefault(f"{case.variant.label}, {kind}, {tokens}", []).append(case)
    return {name: cases for name, cases in found.items() if len(cases) > 1}


def curve_plot(result: Result, name: str, label: str) -> Plot | None:
    """Latency over throughput as the load grows, with the SLO's bound and the capacity."""
    lines = []
    for variant, cases in _curves(result).items():
        points = []
        for case in cases:
            rate, late = (_figure(result, case, n) for n in ("output_tok_per_s", f"{name}_p50_s"))
            if rate is not None and late is not None:
                points.append((rate.value, late.value * _MS))
        points.sort()
        if len(points) > 1:
            lines.append(
                Line(label=f"{variant}, p50", x=[p[0] for p in points], y=[p[1] for p in points])
            )
    if not lines:
        return None
    marks = [
        Mark(label=bound_text(bound), at=bound.seconds * _MS)
        for slo in {c.slo.name: c.slo for c in result.capacities}.values()
        for bound in slo.bounds
        if bound.metric == name
    ]
    marks += list(_capacity_marks(result))
    return Plot(
        title=f"{label} over throughput",
        about=f"Median {label} against output tokens per second, one point for each load.",
        x="output tok/s",
        y=f"{label} ms",
        lines=lines,
        marks=marks,
    )


def _capacity_marks(result: Result) -> Iterator[Mark]:
    for found in result.capacities:
        held = [p for p in found.probes if p.rate == found.rate and p.verdict == "holds"]
        figures = result.summary.get(str(held[-1].case), {}) if held else {}
        if output := figures.get("output_tok_per_s"):
            label = f"capacity under {found.slo.name}"
            yield Mark(label=label, at=output.value, vertical=True)


def distribution_plot(result: Result, subjects: Subjects, name: str) -> Plot | None:
    """Share of requests within a latency; percentiles as far as there are enough of them."""
    of_trial, label = {"ttft": batched.ttfts, "tpot": batched.tpots}[name], name.upper()
    lines, told = [], []
    for case in result.plan.cases:
        every = [of_trial(one) for one in subjects[case.id] if not one.trial.invalid]
        values = _MS * np.sort(np.concatenate([*every, np.empty(0)]))
        if len(values) < 5:
            continue
        lines.append(
            Line(
                label=f"{short(case)}, n = {len(values)}",
                x=thinned(values),
                y=thinned(100 * np.arange(1, len(values) + 1) / len(values)),
                steps=True,
            )
        )
        marks = [(q, stats.quantile(values, q)) for q in _MARKED]
        known = ", ".join(f"p{100 * q:g} {number(v)} ms" for q, v in marks if v is not None)
        told.append(f"{short(case)}: {known}")
    if not lines:
        return None
    return Plot(
        title=f"Distribution of {label}",
        about=f"Share of requests whose {label} is at most so long. " + "; ".join(told),
        x=f"{label} ms",
        y="% of requests",
        lines=lines,
    )


def threads_plot(result: Result) -> Plot | None:
    """Decode speed over compute threads; None where all cases have the same."""
    groups: dict[str, list[tuple[int, Estimate]]] = {}
    for case in result.plan.cases:
        rate, v = _figure(result, case, "decode_tok_per_s"), case.variant
        if rate is None or v.threads is None:
            continue
        options = "".join(f" {key}={value}" for key, value in sorted(v.options.items()))
        name = f"{v.engine} {v.dtype}{options} {load_text(case)} {tokens_text(case)}"
        groups.setdefault(name, []).append((v.threads * v.instances, rate))
    lines = []
    for name, points in groups.items():
        points.sort(key=lambda p: p[0])
        if len({count for count, _ in points}) > 1:
            x = [float(count) for count, _ in points]
            lines.append(
                Line(
                    label=name,
                    x=x,
                    y=[e.value for _, e in points],
                    low=[e.value if e.low is None else e.low for _, e in points],
                    high=[e.value if e.high is None else e.high for _, e in points],
                )
            )
    if not lines:
        return None
    return Plot(
        title="Scaling over threads",
        about="Decode speed by the number of compute threads of all instances together.",
        x="compute threads",
        y="decode tok/s",
        lines=lines,
        ticks=sorted({x for line in lines for x in line.x}),
    )


def timeline_plot(result: Result, subjects: Subjects) -> Plot | None:
    """Output speed of each trial in the order in which they ran: drift and disturbed ones show."""
    from harness.metrics import BY_NAME

    row = BY_NAME["output_tok_per_s"]
    lines = []
    for case in result.plan.cases:
        points = []
        for one in subjects[case.id]:
            value = row.value(one)
            if value is not None:
                points.append((float(one.trial.order), value))
        if points:
            points.sort()
            lines.append(
                Line(label=short(case), x=[p[0] for p in points], y=[p[1] for p in points])
            )
    if not lines or len(result.trials) < 3:
        return None
    bad = [t for t in result.trials if t.invalid or t.state == "failed"]
    marks = [Mark(label="left out", at=float(t.order), vertical=True) for t in bad]
    return Plot(
        title="Timeline of the run",
        about="Output speed of each trial in the order in which the trials ran; those that are "
        "left out of the figures are marked.",
        x="trial",
        y="output tok/s",
        lines=lines,
        marks=marks,
    )


def cost_plot(result: Result, hosted: Sequence[BreakEven]) -> Plot | None:
    """Cost of a million output tokens at each load as bars, hosted prices as lines."""
    if result.price is None:
        return None
    bars = []
    for case in result.plan.cases:
        found = cost.output_cost(result, case.id)
        if found is not None and valid_trials(result.trials, case):
            bars.append((short(case), found.value, found.low, found.high))
    if not bars:
        return None
    latest = {one.hosted.series: one for one in hosted}
    marks = [
        Mark(label=f"{one.hosted.sku} at {one.hosted.provider}, {one.label}", at=one.api)
        for one in list(latest.values())[:4]
    ]
    return Plot(
        title="Cost of a million output tokens",
        about="The whole instance at full use of each load, with its interval; dashed lines are "
        "hosted prices with the same input tokens for each output token.",
        x=f"{result.price.currency} per million output tokens",
        y="",
        bars=bars,
        marks=marks,
    )
