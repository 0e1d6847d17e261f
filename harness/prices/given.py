"""Prices given by hand, what tokens cost at a price, and what to know before believing one."""

from __future__ import annotations

import math
import re
from datetime import date
from difflib import get_close_matches

from harness.errors import ArmbenchError, unknown_name
from harness.prices.tables import CURRENCIES
from harness.records.money import ApiPrice, Price

HOURS_PER_MONTH = 730  # 365 x 24 / 12: what the clouds' own calculators use
OLD_AFTER_DAYS = 365
_EXAMPLE = "write it like '0.638 USD/h', '$0.638/h' or '466 EUR/month'"
_HOURS = {"h": 1, "hr": 1, "hour": 1, "mo": HOURS_PER_MONTH, "month": HOURS_PER_MONTH}
_SIGNS = {"$": "USD", "US$": "USD", "€": "EUR", "£": "GBP", "₹": "INR", "HK$": "HKD", "₩": "KRW"}
_PRICE = re.compile(
    r"(?P<sign>[A-Z]{2}\$|[A-Za-z]{3}|[^\w\s.,+-])?\s*"
    r"(?P<number>[+-]?(?:\d{1,9}(?:\.\d{0,12})?|\.\d{1,12}))\s*"
    r"(?P<code>[A-Za-z]*)\s*(?:/|\bper\b)\s*(?P<unit>[A-Za-z]+)",
    re.ASCII,
)


def parse_price(text: str, *, today: date | None = None) -> Price:
    """The price of the whole server that a user gave: `0.638 USD/h`, `$0.638/h`, `466 EUR/month`.

    A month counts 730 h. `as_of` is `today`. Raises ArmbenchError where the text is no price, the
    amount is not above zero, or the currency or the unit is missing or unknown.
    """
    match = _PRICE.fullmatch(text.strip())
    if match is None:
        raise ArmbenchError(f"{text!r} is not a price", hint=_EXAMPLE)
    given = float(match["number"])
    if given <= 0:
        raise ArmbenchError(f"price {text!r} is not above zero", hint=_EXAMPLE)
    currency = _currency(text, match["sign"], match["code"].upper())
    unit = match["unit"].lower()
    if unit not in _HOURS:
        raise unknown_name("unit of a price", unit, _HOURS)
    hours = _HOURS[unit]
    return Price(
        provider="user",
        sku="given",
        amount=given / hours,
        currency=currency,
        unit="instance-hour",
        source="given by the user",
        as_of=today or date.today(),
        note=None if hours == 1 else f"{match['number']} {currency} per month of {hours} h",
    )


def _currency(text: str, sign: str | None, code: str) -> str:
    """The one currency that a sign before the number or a code on either side names."""
    if sign and not sign.isalpha() and sign not in _SIGNS:
        raise ArmbenchError(f"price {text!r}: {sign!r} names no one currency", hint=_EXAMPLE)
    named = {_SIGNS.get(sign, sign.upper()) if sign else "", code} - {""}
    if len(named) != 1:
        found = f"two currencies, {' and '.join(sorted(named))}" if named else "no currency"
        raise ArmbenchError(f"price {text!r} names {found}", hint=_EXAMPLE)
    currency = named.pop()
    if currency not in CURRENCIES:
        near = get_close_matches(currency, CURRENCIES, n=1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ArmbenchError(f"unknown currency {currency!r}", hint=guess + _EXAMPLE)
    return currency


def cost_per_million(price: Price, tokens_per_s: float) -> float:
    """What a million tokens cost, in `price.currency`.

    Price per second / tokens per second * 1e6, of the whole instance. Raises ArmbenchError where
    the price is not per hour, or the rate is not a number above zero.
    """
    if price.unit != "instance-hour":
        raise ArmbenchError(f"a price per {price.unit} does not give the cost of a server's tokens")
    if not (math.isfinite(tokens_per_s) and tokens_per_s > 0):
        raise ArmbenchError(f"no cost per token at {tokens_per_s} tokens per second")
    return price.amount / 3600 / tokens_per_s * 1e6


def caveats(price: Price | ApiPrice, on: date | None = None) -> list[str]:
    """What a reader must know before believing a price, in plain words; often nothing.

    Its flag, low confidence, a fuzzy date, and an age over a year on `on` (default: today).
    """
    found = []
    if price.flag:
        found.append(price.flag)
    if price.confidence == "low":
        found.append(f"low confidence in its source, {price.source}")
    if price.date_note:
        found.append(f"its date, {price.as_of}, is not exact: {price.date_note}")
    if ((on or date.today()) - price.as_of).days > OLD_AFTER_DAYS:
        found.append(f"it is of {price.as_of}, more than a year old")
    return [f"price of {price.provider}/{price.sku}: {each}" for each in found]
