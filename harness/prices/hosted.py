"""Hosted models: their prices by date, documented changes, and the nearest to a checkpoint."""

from __future__ import annotations

import re
from datetime import date
from fnmatch import fnmatchcase

from harness.prices.files import files, unknown
from harness.prices.tables import ApiFile, Change, HostedFile, HostedRow
from harness.records.money import ApiPrice, Hosted, HostedReference, PriceChange


def _rows() -> list[ApiPrice]:
    return [
        ApiPrice(
            provider=items.provider,
            sku=model.sku,
            series=model.named(),
            currency=items.currency,
            source=file.origin(model.source or items.source),
            as_of=items.as_of,
            region=items.region,
            input=model.input,
            output=model.output,
            thinking=model.thinking,
            tier=model.tier,
            note=model.note or items.note,
            date_note=items.date_note,
            confidence=model.confidence or items.confidence,
            flag=file.doubt(items.flag, model.flag),
        )
        for file in files(ApiFile)
        for items in file.lists
        for model in items.models
    ]


def api_prices(name: str, on: date | None = None) -> list[ApiPrice]:
    """Rows of a hosted model by sku or series: its whole history, or those in force on `on`.

    Oldest first. In force is the newest row not later than `on` of each provider and region; the
    list is empty before the first one. Raises ArmbenchError for a name that no row has.
    """
    rows, asked = _rows(), name.lower()
    found = [row for row in rows if asked in {row.series, row.sku.lower()}]
    if not found:
        names = {each for row in rows for each in (row.series, row.sku.lower())}
        raise unknown("hosted model", name, names, "configs/prices/qwen-api.toml")
    found.sort(key=lambda row: row.as_of)
    if on is None:
        return found
    newest = {(row.provider, row.region): row for row in found if row.as_of <= on}
    return sorted(newest.values(), key=lambda row: row.as_of)


def price_changes(series: str | None = None, until: date | None = None) -> list[PriceChange]:
    """Documented cuts and rises, oldest first: of all models and of the cloud, or of one series.

    With a series, each has the rows before and after it, where known. `until` leaves out later
    changes. Raises ArmbenchError for a series that no row has.
    """
    history = api_prices(series) if series else []
    found = [
        _change(file, change, history)
        for file in files(ApiFile)
        for change in file.changes
        if (until is None or change.date <= until) and (not series or series in change.series)
    ]
    return sorted(found, key=lambda change: change.date)


def _change(file: ApiFile, change: Change, history: list[ApiPrice]) -> PriceChange:
    """A change with the last row before it and the first from its day on, in one currency."""
    own = [row for row in history if row.provider == change.provider]
    own = [row for row in own if row.currency == own[0].currency]
    return PriceChange(
        date=change.date,
        direction=change.direction,
        scope=change.scope,
        size=change.size,
        source=file.origin(change.source),
        confidence=change.confidence,
        date_note=change.date_note,
        before=next((row for row in reversed(own) if row.as_of < change.date), None),
        after=next((row for row in own if row.as_of >= change.date), None),
    )


def nearest_hosted(model: str, parameters: float | None = None, on: date | None = None) -> Hosted:
    """The hosted models to hold a checkpoint against, with their prices on `on` (default: today).

    `model` is a name (`Qwen/Qwen2.5-0.5B-Instruct`) or a family (`qwen3`); `parameters` is a
    count, read from the name where it is not given. "Nearest" is what `configs/prices/hosted.toml`
    says: the same open-weight model, else the next larger of its generation, beside them the same
    size of an older one and a commercial series whose prices reach back over the cuts. It compares
    prices, not quality. Where no row fits, `references` is empty and `reason` says so.
    """
    on = on or date.today()
    name = model.rstrip("/").rsplit("/", 1)[-1].lower()
    billions = parameters / 1e9 if parameters else _billions(name)
    for file in files(HostedFile):
        for row in file.models:
            if _fits(row, name, billions):
                references = [
                    HostedReference(
                        series=near.series,
                        relation=near.relation,
                        reason=file.reasons.get(near.reason, near.reason),
                        prices=api_prices(near.series, on),
                        changes=price_changes(near.series, on),
                    )
                    for near in row.nearest
                ]
                return Hosted(model=model, references=references)
    size = "of unknown size" if billions is None else f"with {billions:.3g} billion parameters"
    reason = f"configs/prices/hosted.toml names no hosted model for {model!r} {size}"
    return Hosted(model=model, references=[], reason=reason)


def _billions(name: str) -> float | None:
    match = re.search(r"(?:^|-)(\d{1,4}(?:\.\d{1,3})?)b(?:-|$)", name, re.ASCII)
    return float(match[1]) if match else None


def _fits(row: HostedRow, name: str, billions: float | None) -> bool:
    if not any(fnmatchcase(name, pattern) for pattern in row.patterns):
        return False
    if billions is None:
        return row.above <= 0 and row.up_to == float("inf")
    return row.above < billions <= row.up_to
