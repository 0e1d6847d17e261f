"""A table ready to draw: columns with units, rows of text, notes in plain words."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, field

from harness import cost, metrics, prices
from harness.errors import ArmbenchError
from harness.records.load import Lengths, ServingLoad
from harness.records.money import ApiPrice, Hosted, PriceChange
from harness.records.run import Agreement, Case, Estimate, Result
from harness.reports import instances

MISSING = "–"
_WEIGHTS: dict[str | None, str] = {"synthetic": "synthetic weights", "checkpoint": "checkpoint"}
_INTERVAL_NOTE = (
    "± is half of the 95 % interval (Student's t) over the valid repeats, each in a fresh process; "
    "n is valid/asked repeats"
)
_BOUND_NOTE = (
    "% of bound: share of what these allow prefill and decode, and what bounds the longer phase "
    "(bandwidth or compute from 60 % of its bound on, else placement or software)"
)


class Column(Struct, kw_only=True):
    """The head of a column, and whether more or less of it is better."""

    label: str
    unit: str = ""
    direction: metrics.Direction = "none"
    right: bool = True


class Sheet(Struct, kw_only=True):
    """`rows` hold one text for each column; `notes` go below, most important first."""

    title: str
    columns: list[Column]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent; a dash for None."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text or abs(value) >= 10**digits else text


def with_interval(figure: Estimate | None, digits: int = 3) -> str:
    """`17.2 ± 0.4`: the mean and half the width of its 95 % interval."""
    if figure is None:
        return MISSING
    if figure.low is None or figure.high is None:
        return number(figure.value, digits)
    return f"{number(figure.value, digits)} ± {number((figure.high - figure.low) / 2, 2)}"


def between(value: float | None, low: float | None, high: float | None) -> str:
    """`4 [3, 5]`; the value alone where its interval is not known."""
    if value is None or low is None or high is None:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _pair(figures: dict[str, Estimate], first: str, second: str) -> str:
    """Two figures in milliseconds: `312/340`."""
    values = (figures.get(first), figures.get(second))
    return "/".join(MISSING if f is None else number(1000 * f.value) for f in values)


def load_text(case: Case) -> str:
    """The load of `case` for people: `offline ×4`, `closed ×8`, `poisson 2.5/s`."""
    load = case.load
    if load.serving is not None:
        return _serving_text(load.serving)
    kind = load.kind.replace("_", " ")
    return kind if load.kind == "single_stream" else f"{kind} ×{load.batch}"


def _serving_text(serving: ServingLoad) -> str:
    arrivals, at_once = serving.arrivals, serving.concurrency
    if arrivals is None:
        return f"closed ×{at_once}"
    cap = f", at most {at_once} at once" if at_once else ""
    if arrivals.process == "trace":
        return f"trace {Path(arrivals.trace or '').name} ×{arrivals.time_scale:g}{cap}"
    end = f"–{number(arrivals.rate_end)}" if arrivals.rate_end else ""
    return f"{arrivals.process} {number(arrivals.rate)}{end}/s{cap}"


def _length_text(lengths: Lengths | None, mean: int) -> str:
    return str(mean) if lengths is None or lengths.kind == "fixed" else f"~{mean}"


def tokens_text(case: Case) -> str:
    """Input and output tokens of each request: `512+128`; `~` before a distribution's mean."""
    serving = case.load.serving
    if serving is not None:
        into = _length_text(serving.input, case.load.input_tokens)
        return f"{into}+{_length_text(serving.output, case.load.output_tokens)}"
    return f"{case.load.input_tokens}+{case.load.output_tokens}"


def _rss(figures: dict[str, Estimate]) -> str:
    figure = figures.get("peak_rss_bytes")
    return number(None if figure is None else figure.value / 2**30)


def _of_bound(result: Result, case: Case, figures: dict[str, Estimate]) -> str:
    """`62/48 software`: prefill and decode in percent of their bounds, and what holds them."""
    pairs = (
        ("prefill_tok_per_s", "prefill_bound_tok_per_s"),
        ("decode_tok_per_s", "decode_bound_tok_per_s"),
    )
    shares = []
    for name, bound in pairs:
        got, most = figures.get(name), figures.get(bound)
        shares.append(MISSING if not got or not most else f"{100 * got.value / most.value:.0f}")
    found = result.binding.get(str(case.id))
    if set(shares) == {MISSING}:
        return MISSING
    return "/".join(shares) + (f" {found.word}" if found else "")


_COLUMNS: list[tuple[Column, Callable[[Result, Case, dict[str, Estimate]], str]]] = [
    (Column(label="engine", right=False), lambda r, c, f: c.variant.engine),
    (Column(label="dtype", right=False), lambda r, c, f: c.variant.dtype or MISSING),
    (Column(label="thr."), lambda r, c, f: c.variant.shape or MISSING),
    (Column(label="load", right=False), lambda r, c, f: load_text(c)),
    (Column(label="tokens", unit="in+out"), lambda r, c, f: tokens_text(c)),
    (
        Column(label="prefill", unit="tok/s", direction="higher"),
        lambda r, c, f: with_interval(f.get("prefill_tok_per_s")),
    ),
    (
        Column(label="TTFT ms", unit="p50/p95", direction="lower"),
        lambda r, c, f: _pair(f, "ttft_p50_s", "ttft_p95_s"),
    ),
    (
        Column(label="TPOT ms", unit="p50/p95", direction="lower"),
        lambda r, c, f: _pair(f, "tpot_p50_s", "tpot_p95_s"),
    ),
    (
        Column(label="output", unit="tok/s", direction="higher"),
        lambda r, c, f: with_interval(f.get("output_tok_per_s")),
    ),
    (Column(label="% of bound", unit="pre/dec", right=False), _of_bound),
    (Column(label="RSS", unit="GiB", direction="lower"), lambda r, c, f: _rss(f)),
    (
        Column(label="cost in/out", unit="per M tokens", direction="lower"),
        lambda r, c, f: _cost(r, c),
    ),
    (
        Column(label="n"),
        lambda r, c, f: f"{len(metrics.valid_trials(r.trials, c))}/{r.plan.repeats}",
    ),
]


def _bound_notes(result: Result) -> list[str]:
    """What the bounds are, on which CPUs; or why there are none."""
    known = [c for c in result.ceilings if c.read_bytes_per_s]
    if not known:
        told = next((why for c in result.ceilings for why in c.unknown.values()), None)
        return [f"ceilings: unknown, because {told}"] if told else []
    rates = []
    for one in known:
        parts = [f"read {number((one.read_bytes_per_s or 0) / 1e9)} GB/s"]
        for kind, name in (("f32", "float32"), ("bf16", "bfloat16"), ("i8", "int8")):
            ops = one.ops_per_s(kind)
            parts += [f"{name} {number(ops / 1e9)} Gop/s"] if ops else []
        rates.append(f"{one.threads}T {', '.join(parts)}")
    return [
        f"ceilings measured here: {'; '.join(rates)}",
        _BOUND_NOTE,
    ]


def cost_text(figure: Estimate | None) -> str:
    """A cost with its interval and currency: `0.42 [0.41, 0.44] USD`.

    The interval is not even about the value: a cost is a price ÷ a rate.
    """
    if figure is None:
        return MISSING
    return f"{between(figure.value, figure.low, figure.high)} {figure.unit.partition('/')[0]}"


def _cost(result: Result, case: Case) -> str:
    into, out = cost.case_costs(result, case.id)
    if into is None and out is None:
        return MISSING
    both = "/".join(number(e.value if e else None) for e in (into, out))
    return f"{both} {result.price.currency if result.price else ''}"


def _amounts(price: ApiPrice) -> str:
    """`0.3 / 0.6 CNY`; where only a thinking run's output has a price, that one, marked."""
    thinking = price.output is None and price.thinking is not None
    out = number(price.thinking if thinking else price.output)
    return f"{number(price.input)} / {out}{' (thinking)' if thinking else ''} {price.currency}"


def _change(change: PriceChange) -> str:
    before, after = (_amounts(p) if p else "unknown" for p in (change.before, change.after))
    return f"{change.date} {before} → {after}"


def hosted_of(result: Result, on: datetime.date | None = None) -> Hosted:
    """The hosted models to hold the result's checkpoint against: by its name, else its family."""
    model = result.model
    found = prices.nearest_hosted(model.name, model.parameters, on)
    if found.references or not model.family:
        return found
    by_family = prices.nearest_hosted(model.family, model.parameters, on)
    return by_family if by_family.references else found


def hosted_notes(result: Result) -> list[str]:
    """The dated prices of the nearest hosted Qwen models, and their cuts, in plain words."""
    try:
        hosted = hosted_of(result)
    except ArmbenchError as error:
        return [f"hosted API price: {error.message}"]
    notes = [] if hosted.references else [f"hosted API price: none known: {hosted.reason}"]
    for reference in hosted.references[:3]:
        for price in reference.prices[:1]:
            notes.append(
                f"hosted API, input / output per M tokens: {price.sku} at {price.provider} "
                f"({price.region}) {_amounts(price)} since {price.as_of}: {reference.reason}"
            )
            notes += [f"  {text}" for text in prices.caveats(price)]
        if reference.changes:
            notes.append(f"  before and after: {'; '.join(map(_change, reference.changes))}")
    return notes


def price_notes(result: Result) -> list[str]:
    """What the instance costs, where, since when and who says so; or why there is no cost."""
    price = result.price
    if price is None:
        return [f"cost: {MISSING}, because {result.price_reason}"]
    where = f" in {price.region}" if price.region else ""
    text = (
        f"price: {price.amount:g} {price.currency} per {price.unit.split('-')[-1]} ({price.term}) "
        f"for {price.sku}{where}, {price.as_of}, {price.source}"
    )
    return [text, *prices.caveats(price)]


def _sample_note(result: Result) -> list[str]:
    figures = result.summary.values()
    if any(f.get("ttft_p95_s") is None for f in figures):
        return [f"{MISSING} where a percentile has too few values: p95 needs 59 in one trial"]
    return []


def run_sheet(result: Result) -> Sheet:
    """The table of one result: one row for each case, figures over its valid trials."""
    rows = []
    for case in (c for c in result.plan.cases if c.load.serving is None):
        figures = result.summary.get(str(case.id), {})
        rows.append([make(result, case, figures) for _, make in _COLUMNS])
    weights = _WEIGHTS.get(result.model.weights, "weights not told")
    title = f"{result.model.name} ({weights}), plan {result.plan.name}, {result.created[:10]}"
    if result.origin is not None:
        title += f", {result.basis}, measured by {result.tool}"
    notes = [*_sample_note(result), *_bound_notes(result), *instances.notes(result)]
    return Sheet(title=title, columns=[c for c, _ in _COLUMNS], rows=rows, notes=notes)


def notes(result: Result) -> list[str]:
    """What holds for every table of a result: intervals, agreement, prices."""
    return [
        _INTERVAL_NOTE,
        *_agreement_notes(result),
        *price_notes(result),
        *hosted_notes(result),
    ]


def _agreement_notes(result: Result) -> list[str]:
    notes = []
    for check in result.checks:
        found, variant = check.agreement, check.variant
        if found is None:
            continue
        notes.append(
            f"{variant.label} against {found.reference}: same "
            f"next token {found.top1:.0%} of {found.positions}, KL {found.kl_mean:.1e} nats, "
            f"|Δlogit| mean {found.delta_mean:.1e}, max {found.delta_max:.1e}"
            f"{_perplexity_note(found)}"
        )
    return notes


def _perplexity_note(found: Agreement) -> str:
    """The last part of an agreement's note; older results know nothing of perplexity."""
    if found.perplexity_reason is not None:
        return f"; {found.perplexity_reason}"
    if found.perplexity is None or found.perplexity_ratio is None:
        return ""
    text = f", perplexity {found.perplexity:.4g}, {found.perplexity_ratio:.4g} of the reference's"
    if found.perplexity_ratio_low is not None:
        text += f" [{found.perplexity_ratio_low:.4g}, {found.perplexity_ratio_high:.4g}]"
    return text
