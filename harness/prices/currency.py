"""Converting prices, through dated rates only."""

from __future__ import annotations

from datetime import date
from typing import TypeVar

from msgspec.structs import replace

from harness.errors import ArmbenchError
from harness.prices.files import files, in_force
from harness.prices.tables import CurrencyFile
from harness.records.money import ApiPrice, Price, Rate

P = TypeVar("P", Price, ApiPrice)


def exchange_rate(base: str, quote: str, on: date | None = None) -> Rate:
    """The dated rate from `base` to `quote` in force on `on` (default: today).

    A row of the opposite direction counts as 1 ÷ rate. Raises ArmbenchError where no row has the
    pair, or none that early.
    """
    rates = [
        Rate(
            base=base,
            quote=quote,
            rate=row.rate if row.base == base else 1 / row.rate,
            source=file.origin(row.source),
            as_of=row.as_of,
            confidence=row.confidence,
        )
        for file in files(CurrencyFile)
        for row in file.rates
        if {row.base, row.quote} == {base, quote}
    ]
    if not rates:
        raise ArmbenchError(
            f"no exchange rate from {base} to {quote}",
            hint="put a dated rate into a TOML file in the folder of ARMBENCH_PRICES",
        )
    return in_force(rates, lambda rate: rate.as_of, on or date.today(), f"{base} in {quote}")


def convert(price: P, currency: str, on: date | None = None) -> P:
    """The price in another currency at the dated rate of `on` (default: today), said in its note.

    Raises ArmbenchError where no dated row has the pair: nothing is converted at a guessed rate.
    """
    if price.currency == currency:
        return price
    rate = exchange_rate(price.currency, currency, on)
    said = f"{price.currency} to {currency} at {rate.rate:.4g}, {rate.as_of}, {rate.source}"
    note = f"{price.note}; {said}" if price.note else said
    if isinstance(price, Price):
        return replace(price, amount=price.amount * rate.rate, currency=currency, note=note)
    output, thinking = price.output, price.thinking
    return replace(
        price,
        input=price.input * rate.rate,
        output=None if output is None else output * rate.rate,
        thinking=None if thinking is None else thinking * rate.rate,
        currency=currency,
        note=note,
    )
