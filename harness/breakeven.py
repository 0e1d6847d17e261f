"""An own server against a hosted API: at how many tokens a day it is cheaper, or that it never is.

A server costs the same whether it works or not, an API costs by the token. With P the server's
price per day and a the API's price of a million output tokens with the input tokens that go with
them, both cost the same at T = P ÷ a · 10⁶ output tokens a day. A server whose throughput gives
less than T a day is never cheaper, and neither are several of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness import cost, prices
from harness.errors import ArmbenchError
from harness.records.money import ApiPrice, BreakEven, Hosted, HostedReference, Price, UseCost
from harness.records.run import Estimate

USES = (1.0, 0.5, 0.3)  # shares of the paid time that a server is in use
_DAY_S, _DAY_H = 86400, 24


def at_use(full: Estimate, share: float) -> UseCost:
    """The cost `full`, of a server that never rests, where it works `share` of the time."""
    low, high = (None if x is None else x / share for x in (full.low, full.high))
    return UseCost(share=share, value=full.value / share, low=low, high=high)


def api_cost(price: ApiPrice, input_per_output: float) -> float | None:
    """A million output tokens and the input that goes with them; None without an output price."""
    out = price.thinking if price.output is None else price.output
    return None if out is None else out + input_per_output * price.input


def break_even(
    price: Price, rate: Estimate, hosted: ApiPrice, input_per_output: float, label: str = ""
) -> BreakEven | str:
    """`price`'s server at `rate` output tokens per second against `hosted`, or why it is unknown.

    `input_per_output` is the load's input tokens for each output token.
    """
    own = cost.cost(price, rate)
    try:
        converted = prices.convert(hosted, price.currency)
    except ArmbenchError as error:
        return f"{hosted.sku} at {hosted.provider}: {error.message}"
    api = api_cost(converted, input_per_output)
    if api is None:
        return f"{hosted.sku} at {hosted.provider}: its price of output tokens is not known"
    most = rate.value * _DAY_S
    daily = price.amount * _DAY_H / api * 1e6
    never = own.value > api
    return BreakEven(
        hosted=converted,
        currency=price.currency,
        input_per_output=input_per_output,
        api=api,
        own=own.value,
        own_low=own.low,
        own_high=own.high,
        most_per_day=most,
        tokens_per_day=None if never else daily,
        share=None if never else daily / most,
        verdict=_verdict(own, api, daily, most),
        label=label,
    )


def _verdict(own: Estimate, api: float, daily: float, most: float) -> str:
    if own.value > api:
        sure = "" if own.low is None or own.low > api else ", but its interval reaches the API's"
        return f"never: even at full use it costs {own.value / api:.3g} times the API{sure}"
    sure = "" if own.high is None or own.high < api else ", but its interval reaches past the API's"
    return (
        f"cheaper from {daily / 1e6:.3g} million output tokens a day on, "
        f"{100 * daily / most:.3g} % of what it can do{sure}"
    )


def of_hosted(
    price: Price, rate: Estimate, hosted: Hosted, input_per_output: float
) -> tuple[list[BreakEven], list[str]]:
    """Every hosted reference, today and around each documented change; and what is not known."""
    found, unknown = [], [] if hosted.reason is None else [hosted.reason]
    for reference in hosted.references:
        for row, label in _rows(reference):
            thinking = row.output is None and row.thinking is not None
            told = f"{label}, by its price of thinking output" if thinking else label
            made = break_even(price, rate, row, input_per_output, told)
            if isinstance(made, str):
                unknown.append(made)
            else:
                found.append(made)
    return found, list(dict.fromkeys(unknown))


def _rows(reference: HostedReference) -> Iterator[tuple[ApiPrice, str]]:
    """Prices of one series by time: around its changes, then those in force."""
    seen: set[ApiPrice] = set()
    for change in reference.changes:
        word = "cut" if change.direction == "cut" else "rise"
        for row, side in ((change.before, "before"), (change.after, "after")):
            if row is not None and row not in seen:
                seen.add(row)
                yield row, f"{side} the {word} of {change.date}"
    for row in reference.prices:
        if row not in seen:
            yield row, f"since {row.as_of}"
