"""How many instances carry a wished rate, and what they cost in a month.

A machine's figure is the SLO capacity that a search found on it; without one, what a served load
reached; without that, what single requests took there, which no SLO stands behind. What a figure
rests on is always said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import itemgetter

from msgspec import Struct
from msgspec.structs import replace

from harness import prices, validity
from harness.errors import ArmbenchError
from harness.load.slo import demands, margins
from harness.metrics import valid_trials
from harness.prices.given import HOURS_PER_MONTH
from harness.records.load import Slo
from harness.records.money import Fleet, Price
from harness.records.run import Case, Estimate, Result

_AT_ONCE = ("closed", "open")


class Wish(Struct, frozen=True, kw_only=True):
    """`rate` requests per second under `slo` (None: none), with `headroom` (0.3: 30 %) on top.

    `tokens` are a request's input and output tokens; None takes those that were measured.
    """

    rate: float
    slo: Slo | None = None
    tokens: tuple[int, int] | None = None
    headroom: float = 0.3
    spare: int = 1
    currency: str | None = None


class Carried(Struct, frozen=True, kw_only=True):
    """Requests per second, of so many input and output tokens, that one instance carries."""

    case: Case
    value: float
    low: float | None
    high: float | None
    tokens: tuple[int, int]
    doubts: tuple[str, ...] = ()


def fleets(results: Sequence[Result], wish: Wish) -> tuple[list[Fleet], list[str]]:
    """Each result's best load as a fleet: by model, then cheapest first, unpriced ones last.

    Amounts in several currencies are ordered by what they are in the first one's; those that no
    dated row converts come behind the others, with a doubt that says so. Beside them why a result
    gives none. Raises ArmbenchError for a wish that makes no sense.
    """
    check(wish)
    found, left_out = [], []
    for result in results:
        name = result.machine.cloud.instance or _name(result)
        carried = best(result, wish)
        if carried is None:
            left_out.append(f"{name}: {_why_none(wish)}")
            continue
        found.append(_fleet(result, carried, wish))
    return _in_order(found), [
        text if left_out.count(text) == 1 else f"{text} ({left_out.count(text)} results)"
        for text in dict.fromkeys(left_out)
    ]


def _in_order(found: Sequence[Fleet]) -> list[Fleet]:
    common = next((one.currency for one in found if one.currency), None)
    keyed = []
    for one in found:
        price, doubt = _in_currency(one.price, common)
        amount = 0.0 if price is None else price.amount * (one.count + one.spare)
        known = 2 if one.price is None else 0 if price is not None else 1
        doubts = [f"not ordered against the others: {doubt}"] if known == 1 else []
        key = (one.model, known, amount, one.currency or "", one.per_month or 0.0, one.count)
        keyed.append((key, replace(one, doubts=[*one.doubts, *doubts])))
    return [one for _, one in sorted(keyed, key=itemgetter(0))]


def _name(result: Result) -> str:
    return result.machine.cpu.product or result.machine.architecture or "a machine without a name"


def check(wish: Wish) -> None:
    """Raise ArmbenchError where rate, headroom or spare are out of range."""
    if not (math.isfinite(wish.rate) and wish.rate > 0):
        raise ArmbenchError(f"--rate is {wish.rate:g}", hint="give requests per second above zero")
    if not 0 <= wish.headroom <= 10:
        raise ArmbenchError(f"--headroom is {wish.headroom:.0%}", hint="give 0% to 1000%")
    if not 0 <= wish.spare <= 1000:
        raise ArmbenchError(f"--spare is {wish.spare}", hint="give 0 or more; 1 is N+1")


def best(result: Result, wish: Wish) -> Carried | None:
    """The load under which one instance carries most; a capacity under the SLO goes first."""
    measured = list(_searched(result, wish))
    if not measured:
        measured = [*_served(result, wish), *_batched(result, wish)]
    if not measured:
        measured = list(_from_phases(result, wish))
    return max(measured, key=lambda one: one.value, default=None)


def _searched(result: Result, wish: Wish) -> Iterator[Carried]:
    """Capacities that a search found under the wished SLO, or under any where none is wished."""
    for found in result.capacities:
        if found.rate is None or (wish.slo is not None and not _same(found.slo, wish.slo)):
            continue
        held = [p.case for p in found.probes if p.verdict == "holds" and p.rate == found.rate]
        for case in result.plan.cases:
            if held and case.id == held[-1] and _fits(case, wish):
                yield Carried(
                    case=case,
                    value=found.rate,
                    low=found.low,
                    high=found.high,
                    tokens=(case.load.input_tokens, case.load.output_tokens),
                    doubts=() if wish.slo else (f"under the SLO {found.slo.name}",),
                )


def _believed(result: Result) -> Iterator[tuple[Case, dict[str, Estimate]]]:
    for case in result.plan.cases:
        if validity.case_valid(result, case):
            yield case, result.summary.get(str(case.id), {})


def _served(result: Result, wish: Wish) -> Iterator[Carried]:
    """Served loads; under an SLO those only that kept all that it demands."""
    for case, figures in _believed(result):
        rate = figures.get("requests_per_s")
        if case.load.kind not in _AT_ONCE or not _fits(case, wish):
            continue
        if rate is None or rate.value <= 0 or not _keeps(result, case, figures, wish.slo):
            continue
        known = "one load that kept the SLO, not the highest: a search would tell more"
        yield Carried(
            case=case,
            value=rate.value,
            low=rate.low,
            high=rate.high,
            tokens=(case.load.input_tokens, case.load.output_tokens),
            doubts=(known if wish.slo else "a served load without an SLO",),
        )


def _same(a: Slo, b: Slo) -> bool:
    """Whether two promises bound the same, in whatever order."""
    return set(a.bounds) == set(b.bounds)


def _keeps(result: Result, case: Case, figures: dict[str, Estimate], slo: Slo | None) -> bool:
    """Whether the load kept all that `slo` demands; not where a part of it is not known."""
    if slo is None:
        return True
    own = case.load.serving.slo if case.load.serving else None
    kept = figures.get("slo_attainment")
    if own is None or not _same(own, slo) or kept is None or kept.value < slo.target:
        return False
    stricter = [demand for demand in demands(slo) if demand.index is not None]
    if not stricter:
        return True
    trials = valid_trials(result.trials, case)
    every = [margins(record, slo) for trial in trials for record in trial.records]
    return bool(every) and all(
        sum(d.worst(one) <= 1 for one in every) >= d.share * len(every) for d in stricter
    )


def _batched(result: Result, wish: Wish) -> Iterator[Carried]:
    """In-process loads of whole requests: output tokens per second over those of a request."""
    if wish.slo is not None:
        return
    for case, figures in _believed(result):
        rate, tokens = figures.get("output_tok_per_s"), case.load.output_tokens
        if case.load.kind in _AT_ONCE or not _fits(case, wish) or not case.load.input_tokens:
            continue
        if rate is None or rate.value <= 0:
            continue
        low, high = (None if x is None else x / tokens for x in (rate.low, rate.high))
        yield Carried(
            case=case,
            value=rate.value / tokens,
            low=low,
            high=high,
            tokens=(case.load.input_tokens, tokens),
            doubts=("from the token rate in-process: no server, no queue and no SLO behind it",),
        )


def _fits(case: Case, wish: Wish) -> bool:
    """Whether the load's requests have the wished tokens, or no wish was made."""
    return wish.tokens is None or wish.tokens == (case.load.input_tokens, case.load.output_tokens)


def _from_phases(result: Result, wish: Wish) -> Iterator[Carried]:
    """Requests of the wished tokens, one after the other, from phases that were timed apart.

    A request takes input ÷ prefill rate + output ÷ decode rate, by the case of the same variant
    whose lengths are nearest: all that tools such as llama-bench tell.
    """
    if wish.slo is not None or wish.tokens is None:
        return
    into, out = wish.tokens
    alone = [(c, f) for c, f in _believed(result) if c.load.kind not in _AT_ONCE]
    alone = [(c, f) for c, f in alone if c.load.batch == 1]
    for label in dict.fromkeys(case.variant.label for case, _ in alone):
        own = [(c, f) for c, f in alone if c.variant.label == label]
        prefill = _nearest(own, "prefill_tok_per_s", "input_tokens", into)
        decode = _nearest(own, "decode_tok_per_s", "output_tokens", out)
        if prefill is None or decode is None:
            continue
        (first, pp), (second, tg) = prefill, decode
        seconds = into / pp + out / tg
        doubt = (
            f"from pp{first.load.input_tokens} and tg{second.load.output_tokens} timed apart, one "
            "request after the other: no batch, no server, no queue and no SLO behind it"
        )
        yield Carried(
            case=second, value=1 / seconds, low=None, high=None, tokens=wish.tokens, doubts=(doubt,)
        )


def _nearest(
    cases: Sequence[tuple[Case, dict[str, Estimate]]], metric: str, length: str, wanted: int
) -> tuple[Case, float] | None:
    """The case whose `length` is nearest to `wanted`, with its value of `metric`."""
    told = [(c, f[metric].value) for c, f in cases if metric in f and getattr(c.load, length)]
    return min(told, key=lambda one: abs(getattr(one[0].load, length) - wanted), default=None)


def _why_none(wish: Wish) -> str:
    if wish.slo is not None:
        name = wish.slo.name
        return f"no load that kept the SLO {name} was measured (`armbench load --slo {name}` does)"
    if wish.tokens is None:
        return "only phases were timed: say with --tokens what a request is, such as 512+128"
    return "no valid load of such requests, nor both of its phases"


def needed(rate: float, headroom: float, per_instance: float) -> int:
    """Instances for `rate` with `headroom` on top, one carrying `per_instance`; at least one."""
    exact = rate * (1 + headroom) / per_instance
    return max(1, math.ceil(round(exact, 9)))


def _fleet(result: Result, carried: Carried, wish: Wish) -> Fleet:
    counts = [
        None if value is None or value <= 0 else needed(wish.rate, wish.headroom, value)
        for value in (carried.value, carried.high, carried.low)
    ]
    count = counts[0] or 1
    price, doubt = _in_currency(result.price, wish.currency)
    months = [_month(price, n, wish.spare) for n in counts]
    doubts = [*carried.doubts]
    if price is None:
        doubts.append(doubt or f"no price: {result.price_reason}")
    else:
        doubts += prices.caveats(price)
    if result.model.weights == "synthetic":
        doubts.append("synthetic weights")
    return Fleet(
        model=result.model.name,
        machine=_name(result),
        instance=result.machine.cloud.instance,
        variant=carried.case.variant.label,
        load=f"{carried.tokens[0]}+{carried.tokens[1]}",
        per_instance=carried.value,
        low=carried.low,
        high=carried.high,
        count=count,
        count_low=counts[1],
        count_high=counts[2],
        spare=wish.spare,
        price=price,
        currency=price.currency if price else None,
        per_month=months[0],
        per_month_low=months[1],
        per_month_high=months[2],
        basis=f"{result.basis}, {result.tool}",
        doubts=doubts,
    )


def _in_currency(price: Price | None, currency: str | None) -> tuple[Price | None, str | None]:
    """The price in the wished currency, or None with the reason."""
    if price is None or currency is None:
        return price, None
    try:
        return prices.convert(price, currency), None
    except ArmbenchError as error:
        return None, f"no price in {currency}: {error.message}"


def _month(price: Price | None, count: int | None, spare: int) -> float | None:
    if price is None or count is None:
        return None
    return price.amount * HOURS_PER_MONTH * (count + spare)
