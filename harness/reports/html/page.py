"""The page: what it says, section by section, and the template that lays it out.

Everything that comes from a file is escaped by the template (Jinja2 with autoescape on); only the
pictures, which `plots` made, go in as they are. There is no script in the page, and its content
security policy forbids any.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, field

import harness
from harness import cost, validity
from harness.errors import ArmbenchError
from harness.records.comparison import Difference
from harness.records.money import BreakEven
from harness.records.run import Case, Estimate, Result
from harness.reports.ceilings import LABELS
from harness.reports.cost import break_even_sheet, cost_sheet
from harness.reports.html import views
from harness.reports.html.plots import svg
from harness.reports.machine import rows as machine_rows
from harness.reports.machine import title as machine_title
from harness.reports.machine import unknowns
from harness.reports.serving import serving_sheets
from harness.reports.sheet import (
    Column,
    Sheet,
    cost_text,
    hosted_notes,
    load_text,
    notes,
    number,
    run_sheet,
    with_interval,
)
from harness.reports.tune import tune_sheets

MOST_BYTES = 5_000_000
_DOWNLOAD_BYTES = 2_500_000  # of all results together, packed


class Card(Struct, kw_only=True):
    """One figure of the headline."""

    label: str
    value: str
    note: str = ""


class Picture(Struct, kw_only=True):
    """A plot, drawn."""

    anchor: str
    title: str
    about: str
    svg: str


class Part(Struct, kw_only=True):
    """One result on the page."""

    title: str
    subtitle: str
    verdict: str
    valid: bool
    cards: list[Card]
    machine: list[tuple[str, str]]
    unknown: list[tuple[str, str]]
    sheets: list[Sheet]
    pictures: list[Picture]
    notes: list[str]
    warnings: list[str]
    download: str | None = None
    download_name: str = ""
    download_note: str = ""


class Page(Struct, kw_only=True):
    """The whole page."""

    title: str
    parts: list[Part]
    differences: Sheet | None = None
    comparison: list[Sheet] = field(default_factory=list)
    version: str = harness.__version__


def check_packages() -> None:
    """Raise ArmbenchError where a page cannot be made here."""
    import importlib.util

    lacking = [p for p in ("matplotlib", "jinja2") if importlib.util.find_spec(p) is None]
    if lacking:
        raise ArmbenchError(
            f"a report needs {' and '.join(lacking)}, not installed here",
            hint="pip install 'armbench[report]'",
        )


def render(results: Sequence[tuple[Path, Result]], comparison: Sequence[Sheet] = ()) -> str:
    """The HTML of `results`, whose summaries are up to date; the first is the one to judge.

    Raises ArmbenchError where the page would be larger than `MOST_BYTES`.
    """
    import jinja2

    parts = [_part(result) for _, result in results]
    _add_downloads(parts, results)
    page = Page(
        title=f"armbench: {parts[0].title}",
        parts=parts,
        differences=_differences([result for _, result in results]),
        comparison=list(comparison),
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.j2").render(page=page)
    if len(text.encode()) > MOST_BYTES:
        raise ArmbenchError(
            f"the report would have {len(text) / 1e6:.1f} MB, at most {MOST_BYTES / 1e6:.0f} are "
            "written",
            hint="give fewer results",
        )
    return text


def _part(result: Result) -> Part:
    money, hosted = break_even_sheet(result)
    broken = validity.invalid_cases(result)
    weights = {"synthetic": "synthetic weights", "checkpoint": "checkpoint"}.get(
        result.model.weights or "", "weights not told"
    )
    return Part(
        title=f"{result.model.name} on {machine_title(result.machine)}",
        subtitle=f"{weights}, plan {result.plan.name}, {result.created[:10]}, {result.basis} by "
        f"{result.tool}",
        verdict=_verdict(result, broken),
        valid=result.finished and not broken,
        cards=_cards(result, hosted),
        machine=list(machine_rows(result.machine, None)),
        unknown=list(unknowns(result.machine)),
        sheets=_sheets(result, money),
        pictures=[
            Picture(anchor=anchor, title=plot.title, about=plot.about, svg=svg(plot))
            for anchor, plot in views.plots(result, hosted)
        ],
        notes=notes(result),
        warnings=result.warnings,
    )


def _verdict(result: Result, broken: Sequence[Case]) -> str:
    cases = len(result.plan.cases)
    if not result.finished:
        return "not finished: figures may change"
    if broken:
        return f"not valid: {len(broken)} of {cases} cases cannot be believed (see the warnings)"
    return f"valid: all {cases} cases stand on more than half of their repeats"


def _fastest(result: Result) -> tuple[Case, Estimate] | None:
    """The valid case with the highest output rate."""
    found = [
        (case, rate)
        for case in result.plan.cases
        if validity.case_valid(result, case)
        and (rate := result.summary.get(str(case.id), {}).get("output_tok_per_s"))
    ]
    return max(found, key=lambda one: one[1].value, default=None)


def _cards(result: Result, hosted: Sequence[BreakEven]) -> list[Card]:
    cards = []
    best = _fastest(result)
    if best is not None:
        case, rate = best
        name = f"{case.variant.label}, {load_text(case)}, n = {rate.n}"
        cards.append(Card(label="highest output", value=f"{with_interval(rate)} tok/s", note=name))
        cards += _latency_cards(result)
    for found in result.capacities:
        if found.rate is not None:
            note = f"under {found.slo.name}; {number(found.low)} held, {number(found.high)} failed"
            cards.append(Card(label="capacity", value=f"{number(found.rate)} req/s", note=note))
            money = cost.capacity_cost(result, found)
            if money is not None:
                cards.append(_cost_card("cost at capacity", money, f"under {found.slo.name}"))
    if best is not None:
        money = cost.output_cost(result, best[0].id)
        if money is not None:
            cards.append(_cost_card("cost at the highest output", money, "no SLO stands behind it"))
        else:
            cards.append(Card(label="cost", value="unknown", note=result.price_reason or ""))
    now = next((one for one in hosted if one.label.startswith("since")), None)
    if now is not None:
        where = f"{now.hosted.sku} at {now.hosted.provider}, {now.label}"
        cards.append(Card(label="against the hosted API", value=now.verdict, note=where))
    return cards


def _cost_card(label: str, money: Estimate, note: str) -> Card:
    return Card(label=label, value=f"{cost_text(money)} per M output tokens", note=note)


def _latency_cards(result: Result) -> list[Card]:
    """Time to the first token and between tokens of the load with the lowest latency."""
    cards = []
    for label, name in (("TTFT", "ttft_p50_s"), ("TPOT", "tpot_p50_s")):
        found = [
            (case, figure)
            for case in result.plan.cases
            if validity.case_valid(result, case)
            and (figure := result.summary.get(str(case.id), {}).get(name))
        ]
        if found:
            case, figure = min(found, key=lambda one: one[1].value)
            note = f"{case.variant.label}, {load_text(case)}"
            value = f"{number(1000 * figure.value)} ms"
            cards.append(Card(label=f"lowest median {label}", value=value, note=note))
    return cards


def _sheets(result: Result, money: Sheet | None) -> list[Sheet]:
    sheets = tune_sheets(result)
    if any(case.load.serving is None for case in result.plan.cases):
        sheets.append(run_sheet(result))
    sheets += serving_sheets(result)
    if ceilings := _ceiling_sheet(result):
        sheets.append(ceilings)
    if result.price is not None:
        sheets.append(cost_sheet(result))
        if money is not None:
            sheets.append(money)
    else:
        prices_now = Sheet(title="cost", columns=[], rows=[], notes=hosted_notes(result))
        prices_now.notes.insert(0, f"no cost: {result.price_reason}")
        sheets.append(prices_now)
    return sheets


def _ceiling_sheet(result: Result) -> Sheet | None:
    """What this machine can do at best, as it was measured for this run."""
    known = [c for c in result.ceilings if c.read_bytes_per_s]
    if not known:
        return None
    columns = [
        Column(label="ceiling", right=False),
        *(Column(label=f"{c.threads}T", direction="higher") for c in known),
    ]
    rows = [
        [
            "read, GB/s",
            *(number((c.read_bytes_per_s or 0) / 1e9) for c in known),
        ]
    ]
    for kind in ("f32", "bf16", "i8"):
        rates = [c.ops_per_s(kind) for c in known]
        if any(rates):
            cells = [number(None if r is None else r / 1e9) for r in rates]
            rows.append([f"{LABELS[kind]}, Gop/s", *cells])
    return Sheet(title="ceilings: best sustained rates of our kernels", columns=columns, rows=rows)


def _differences(results: Sequence[Result]) -> Sheet | None:
    """What differs between the environments of the first result and each other one."""
    from harness.comparing import environment

    if len(results) < 2:
        return None
    facts = [environment.facts(result) for result in results]
    rows = []
    for number_, other in enumerate(facts[1:], 2):
        found: list[Difference] = environment.differences(facts[0], other)
        rows += [[f"1 and {number_}", d.name, d.a or "–", d.b or "–"] for d in found]
    columns = [Column(label=c, right=False) for c in ("results", "what", "first", "other")]
    return Sheet(title="what differs between the environments", columns=columns, rows=rows)


def _add_downloads(parts: Sequence[Part], results: Sequence[tuple[Path, Result]]) -> None:
    """The raw records as a packed file inside the page, as far as there is room."""
    room = _DOWNLOAD_BYTES
    for part, (path, result) in zip(parts, results, strict=True):
        size = sum(len(t.records) for t in result.trials)
        if size > 50_000:  # packing them would take longer than the rest
            part.download_note = f"{size} request records: too many for this page, see {path.name}"
            continue
        packed = gzip.compress(msgspec.json.encode(result), mtime=0)
        if len(packed) > room:
            part.download_note = f"the records do not fit into this page: see {path.name}"
            continue
        room -= len(packed)
        part.download = base64.b64encode(packed).decode()
        part.download_name = f"{path.stem}.json.gz"
