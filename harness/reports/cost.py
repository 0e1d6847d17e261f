"""What a result's tokens cost, at which use, and beside which hosted prices; and fleets."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from msgspec.structs import replace

from harness import breakeven, cost, prices, validity
from harness.records.money import BreakEven, Fleet
from harness.records.run import Case, Estimate, Result
from harness.reports.sheet import (
    MISSING,
    Column,
    Sheet,
    between,
    cost_text,
    hosted_of,
    load_text,
    number,
    price_notes,
    tokens_text,
)

_KINDS = ("input", "output", "total")

_ALTERNATIVES = (
    "input tokens at the prefill rate, output and total tokens over the whole window: "
    "alternatives, not parts of a sum"
)
_USE = (
    "at 50 % use the server is paid for twice the time that it works; input, output and total are "
    "at full use of this load"
)


def cost_sheet(result: Result) -> Sheet:
    """A row for each valid case: money per million tokens, and per output at lower use."""
    currency = result.price.currency if result.price else ""
    columns = [
        Column(label="variant", right=False),
        Column(label="load", right=False),
        Column(label="tokens", unit="in+out"),
        *(Column(label=name, unit=f"{currency}/M", direction="lower") for name in _KINDS),
        *(
            Column(label=f"output at {share:.0%} use", unit=f"{currency}/M", direction="lower")
            for share in breakeven.USES[1:]
        ),
    ]
    rows = [_cost_row(result, case) for case in priced_cases(result)]
    notes = [
        _ALTERNATIVES,
        _USE,
    ]
    title = f"cost per million tokens: {result.model.name}, plan {result.plan.name}"
    return Sheet(title=title, columns=columns, rows=rows, notes=[*notes, *price_notes(result)])


def priced_cases(result: Result) -> list[Case]:
    """Cases that hold and have a rate of output tokens above zero."""
    found = []
    for case in result.plan.cases:
        rate = result.summary.get(str(case.id), {}).get("output_tok_per_s")
        if rate is not None and rate.value > 0 and validity.case_valid(result, case):
            found.append(case)
    return found


def _cost_row(result: Result, case: Case) -> list[str]:
    figures = result.summary[str(case.id)]
    rates = (figures.get("prefill_tok_per_s"), figures["output_tok_per_s"], _total(case, figures))
    costs = [_cost(result, rate) for rate in rates]
    output = costs[1]
    at_use = [
        number(breakeven.at_use(output, share).value) if output else MISSING
        for share in breakeven.USES[1:]
    ]
    return [
        case.variant.label,
        load_text(case),
        tokens_text(case),
        *(cost_text(c).rpartition(" ")[0] if c else MISSING for c in costs),
        *at_use,
    ]


def _total(case: Case, figures: dict[str, Estimate]) -> Estimate | None:
    """Input and output tokens per second; the window in-process holds whole requests."""
    output = figures["output_tok_per_s"]
    if case.load.serving is not None or not case.load.output_tokens:
        return figures.get("total_tok_per_s")
    times = 1 + case.load.input_tokens / case.load.output_tokens
    low, high = (None if x is None else x * times for x in (output.low, output.high))
    return replace(output, value=output.value * times, low=low, high=high)


def _cost(result: Result, rate: Estimate | None) -> Estimate | None:
    return cost.cost(result.price, rate) if result.price and rate and rate.value > 0 else None


def break_even_sheet(
    result: Result, on: datetime.date | None = None
) -> tuple[Sheet | None, list[BreakEven]]:
    """The cheapest valid load against hosted prices by date; None where nothing can be compared."""
    cases = [case for case in priced_cases(result) if case.load.output_tokens]
    if result.price is None or not cases:
        return None, []
    rates = {case.id: result.summary[str(case.id)]["output_tok_per_s"] for case in cases}
    case = max(cases, key=lambda c: rates[c.id].value)
    hosted = hosted_of(result, on)
    ratio = case.load.input_tokens / case.load.output_tokens
    found, unknown = breakeven.of_hosted(result.price, rates[case.id], hosted, ratio)
    columns = [
        Column(label="hosted", right=False),
        Column(label="when", right=False),
        Column(label="API", unit=f"{result.price.currency}/M out"),
        Column(label="own", unit=f"{result.price.currency}/M out"),
        Column(label="own server is cheaper", right=False),
    ]
    rows = [
        [
            f"{one.hosted.sku} at {one.hosted.provider}",
            one.label,
            number(one.api),
            number(one.own),
            one.verdict,
        ]
        for one in found
    ]
    notes = [
        f"own: {case.variant.label}, {load_text(case)}, {tokens_text(case)} tokens, at full use",
        f"API: an output token with {ratio:.3g} input tokens, as in this load",
        "same list prices for all hours, without tax, storage, traffic, people and spare machines",
        *(text for one in found for text in prices.caveats(one.hosted)),
        *unknown,
    ]
    title = "break-even against hosted APIs"
    return Sheet(title=title, columns=columns, rows=rows, notes=list(dict.fromkeys(notes))), found


def fleet_sheets(found: Sequence[Fleet], left_out: Sequence[str], asked: str) -> list[Sheet]:
    """Candidate machines, cheapest first: one table for each model."""
    columns = [
        Column(label="machine", right=False),
        Column(label="variant", right=False),
        Column(label="tokens", unit="in+out"),
        Column(label="one carries", unit="req/s", direction="higher"),
        Column(label="needed"),
        Column(label="with spare"),
        Column(label="per month", direction="lower"),
        Column(label="rests on", right=False),
        Column(label="doubts", right=False),
    ]
    sheets = []
    for model in dict.fromkeys(one.model for one in found):
        own, doubts = [one for one in found if one.model == model], dict[str, int]()
        rows = [_fleet_row(one, doubts) for one in own]
        notes = [f"[{n}] {text}" for text, n in doubts.items()]
        shapes = sorted({one.load for one in own})
        if len(shapes) > 1:
            notes.append(f"requests differ in their tokens ({', '.join(shapes)}): not alike")
        sheets.append(Sheet(title=f"{model}: {asked}", columns=columns, rows=rows, notes=notes))
    if sheets:
        sheets[-1].notes += [f"left out: {text}" for text in left_out]
    return sheets


def _fleet_row(one: Fleet, doubts: dict[str, int]) -> list[str]:
    marks = "".join(f"[{doubts.setdefault(text, len(doubts) + 1)}]" for text in one.doubts)
    return [
        one.instance or one.machine,
        one.variant,
        one.load,
        between(one.per_instance, one.low, one.high),
        _counts(one),
        str(one.count + one.spare),
        f"{between(one.per_month, one.per_month_low, one.per_month_high)} {one.currency or ''}",
        one.basis,
        marks,
    ]


def _counts(one: Fleet) -> str:
    """`4 [3, 5]`, whole instances."""
    if one.count_low is None or one.count_high is None:
        return str(one.count)
    return f"{one.count} [{one.count_low}, {one.count_high}]"
