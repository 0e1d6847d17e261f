"""Sheets of served loads: what clients saw, where the time went, and the capacity."""

from __future__ import annotations

from collections.abc import Callable

from harness import cost, metrics, validity
from harness.load.recipes import in_our_words
from harness.records.load import Capacity, ClientSeen, SloBound
from harness.records.run import Case, Estimate, Result
from harness.reports.sheet import (
    MISSING,
    Column,
    Sheet,
    cost_text,
    load_text,
    number,
    tokens_text,
    with_interval,
)

Figures = dict[str, Estimate]


def _milliseconds(figures: Figures, *names: str) -> str:
    """Figures in milliseconds: `312/340`."""
    values = (figures.get(name) for name in names)
    return "/".join(MISSING if f is None else number(1000 * f.value) for f in values)


def _share(figures: Figures, name: str) -> str:
    figure = figures.get(name)
    return MISSING if figure is None else f"{100 * figure.value:.4g}"


def _rates(figures: Figures) -> str:
    both = (figures.get("offered_rate"), figures.get("intended_rate"))
    return "/".join(MISSING if f is None else number(f.value) for f in both)


def _requests(result: Result, case: Case) -> str:
    trials = metrics.valid_trials(result.trials, case)
    return str(sum(len(t.records) for t in trials))


_COLUMNS: list[tuple[Column, Callable[[Result, Case, Figures], str]]] = [
    (Column(label="served by", right=False), lambda r, c, f: c.variant.label),
    (Column(label="load", right=False), lambda r, c, f: load_text(c)),
    (Column(label="tokens", unit="in+out"), lambda r, c, f: tokens_text(c)),
    (Column(label="offered", unit="of req/s"), lambda r, c, f: _rates(f)),
    (
        Column(label="output", unit="tok/s", direction="higher"),
        lambda r, c, f: with_interval(f.get("output_tok_per_s")),
    ),
    (
        Column(label="TTFT ms", unit="p50/p95/p99", direction="lower"),
        lambda r, c, f: _milliseconds(f, "ttft_p50_s", "ttft_p95_s", "ttft_p99_s"),
    ),
    (
        Column(label="TPOT ms", unit="p50/p95/p99", direction="lower"),
        lambda r, c, f: _milliseconds(f, "tpot_p50_s", "tpot_p95_s", "tpot_p99_s"),
    ),
    (
        Column(label="latency ms", unit="p50/p99", direction="lower"),
        lambda r, c, f: _milliseconds(f, "latency_p50_s", "latency_p99_s"),
    ),
    (Column(label="SLO", unit="% kept"), lambda r, c, f: _share(f, "slo_attainment")),
    (Column(label="failed", unit="%"), lambda r, c, f: _share(f, "failed_share")),
    (
        Column(label="cost in+out", unit="per M output", direction="lower"),
        lambda r, c, f: cost_text(cost.output_cost(r, c.id)),
    ),
    (Column(label="requests"), lambda r, c, f: _requests(r, c)),
    (
        Column(label="n"),
        lambda r, c, f: f"{len(metrics.valid_trials(r.trials, c))}/{validity.asked_repeats(r, c)}",
    ),
]

_NOTES = [
    "TTFT and latency count from when a request was due, whatever held it up, over successes",
    "SLO: share of all requests sent that kept it; failures count against it",
    "– where a percentile has too few values in a trial: p95 needs 59 requests, p99 299",
]


def serving_sheet(result: Result, cases: list[Case]) -> Sheet:
    """What clients saw, one row for each load point."""
    rows = [
        [make(result, case, result.summary.get(str(case.id), {})) for _, make in _COLUMNS]
        for case in cases
    ]
    where = f" at {result.target.url}" if result.target else ""
    return Sheet(
        title=f"{result.model.name} served{where}, plan {result.plan.name}, {result.created[:10]}",
        columns=[column for column, _ in _COLUMNS],
        rows=rows,
        notes=[*_NOTES, *_client_notes(result), *_metric_notes(result, cases)],
    )


def _clients(result: Result) -> list[ClientSeen]:
    return [t.client for t in result.trials if t.client is not None]


def _client_notes(result: Result) -> list[str]:
    """What the client saw of itself, in one line."""
    seen = _clients(result)
    if not seen:
        return []
    one = seen[-1]
    parts = [f"{one.processes} client process{'es' if one.processes > 1 else ''}"]
    parts.append(f"arrivals stamped by the {'kernel' if one.stamps == 'kernel' else 'client'}")
    if one.stamps_reason:
        parts[-1] += f" ({one.stamps_reason})"
    shares = [c.cpu_share for c in seen if c.cpu_share is not None]
    if shares:
        parts.append(f"its CPU busy {max(shares):.0%} at most")
    if one.ceiling_events_per_s:
        most = max(c.events / c.seconds for c in seen if c.seconds) if seen else 0.0
        parts.append(
            f"{most:.0f} token events/s of {one.ceiling_events_per_s:.0f} it can take here"
        )
    stolen = [c.stolen_cpu_s / c.seconds for c in seen if c.stolen_cpu_s and c.seconds]
    if stolen:
        parts.append(f"it took {max(stolen):.1%} of a CPU from the engine's CPUs")
    return ["client: " + ", ".join(parts)]


def _metric_notes(result: Result, cases: list[Case]) -> list[str]:
    """What a foreign server's metrics say of the last trial of each load, in our words."""
    found = []
    for case in cases:
        trials = [t for t in result.trials if t.case == case.id and t.server is not None]
        metrics = trials[-1].server.metrics if trials and trials[-1].server else {}
        told = in_our_words(metrics)
        if told is not None:
            values = ", ".join(f"{name} {number(value)}" for name, value in told[1].items())
            found.append(f"{load_text(case)}, by {told[0]}'s own metrics: {values}")
    return found


_TIME_COLUMNS: list[tuple[Column, Callable[[Figures], str]]] = [
    (
        Column(label="in queue ms", unit="p50/p99"),
        lambda f: _milliseconds(f, "queue_p50_s", "queue_p99_s"),
    ),
    (
        Column(label="prefill ms", unit="p50/p99"),
        lambda f: _milliseconds(f, "server_prefill_p50_s", "server_prefill_p99_s"),
    ),
    (
        Column(label="step ms", unit="p50/p99"),
        lambda f: _milliseconds(f, "step_p50_s", "step_p99_s"),
    ),
    (
        Column(label="batch", unit="mean"),
        lambda f: number(f["batch_mean"].value if "batch_mean" in f else None),
    ),
    (
        Column(label="at once", unit="peak"),
        lambda f: number(f["concurrency_peak"].value if "concurrency_peak" in f else None),
    ),
    (Column(label="cached", unit="% of input"), lambda f: _share(f, "cached_share")),
    (Column(label="short gaps", unit="%"), lambda f: _share(f, "short_gap_share")),
]


def time_sheet(result: Result, cases: list[Case]) -> Sheet | None:
    """Where the time went, by the server's own account; None where no server gave one."""
    told = {t.case for t in result.trials if t.server is not None and t.server.steps is not None}
    chosen = [case for case in cases if case.id in told]
    if not chosen:
        return None
    rows = []
    for case in chosen:
        figures = result.summary.get(str(case.id), {})
        rows.append([load_text(case), *(make(figures) for _, make in _TIME_COLUMNS)])
    columns = [Column(label="load", right=False), *(column for column, _ in _TIME_COLUMNS)]
    return Sheet(title="where the time went, as the server saw it", columns=columns, rows=rows)


def bound_text(bound: SloBound) -> str:
    """`TTFT p99 <= 2 s`."""
    limit = f"{number(bound.seconds)} s" if bound.seconds >= 1 else f"{1000 * bound.seconds:g} ms"
    return f"{bound.metric.upper()} p{100 * bound.share:g} <= {limit}"


def capacity_sheet(result: Result, found: Capacity) -> Sheet:
    """Every rate that was tried, and the answer with its interval and its cost."""
    columns = [
        Column(label="rate", unit="req/s"),
        Column(label="kept"),
        Column(label="of sent", unit="%"),
        Column(label="95 % bounds", unit="%"),
        Column(label="verdict", right=False),
        Column(label="output", unit="tok/s"),
    ]
    rows = []
    for probe in sorted(found.probes, key=lambda p: p.rate):
        output = result.summary.get(str(probe.case), {}).get("output_tok_per_s")
        early = f" ({probe.stopped_early})" if probe.stopped_early else ""
        rows.append(
            [
                number(probe.rate),
                f"{probe.attained}/{probe.sent}",
                f"{100 * probe.attained / probe.sent:.4g}" if probe.sent else MISSING,
                f"{100 * probe.low:.4g}–{100 * probe.high:.4g}",
                probe.verdict + early,
                number(output.value if output else None),
            ]
        )
    bounds = ", ".join(bound_text(bound) for bound in found.slo.bounds)
    title = (
        f"capacity under {found.slo.name}: {bounds} for {100 * found.slo.target:g} % of requests"
    )
    return Sheet(title=title, columns=columns, rows=rows, notes=capacity_notes(result, found))


def capacity_notes(result: Result, found: Capacity) -> list[str]:
    """The answer in plain words."""
    if found.rate is None:
        return [f"capacity: none found: {found.reason}"]
    low, high = (MISSING if r is None else number(r) for r in (found.low, found.high))
    notes = [f"capacity: {number(found.rate)} requests/s; {low} held, {high} failed"]
    if found.reason:
        notes.append(found.reason)
    price = cost.capacity_cost(result, found)
    if price is None:
        return [*notes, f"cost at capacity: {MISSING}, because {result.price_reason}"]
    return [*notes, f"cost at capacity: {cost_text(price)} per million output tokens"]


def serving_sheets(result: Result) -> list[Sheet]:
    """Everything about the served loads of a result; none where it has none."""
    probed = {probe.case for one in result.capacities for probe in one.probes}
    served = [case for case in result.plan.cases if case.load.serving is not None]
    if not served:
        return []
    shown = [case for case in served if case.id not in probed]
    sheets = [serving_sheet(result, shown)] if shown else [serving_sheet(result, served)]
    times = time_sheet(result, served)
    capacities = [capacity_sheet(result, found) for found in result.capacities]
    return [*sheets, *([times] if times else []), *capacities]
