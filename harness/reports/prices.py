"""Dated prices as tables: instances, hosted models, and what is doubtful about them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from harness import prices
from harness.records.money import ApiPrice, InstancePrice, Price, PriceChange
from harness.reports.sheet import MISSING, Column, Sheet, number


def instance_sheet(rows: Sequence[InstancePrice], title: str) -> Sheet:
    """One row for each instance, region and date, as sorted; doubts below, each once."""
    columns = [
        Column(label="instance", right=False),
        Column(label="region", right=False),
        Column(label="cpu", right=False),
        Column(label="arch", right=False),
        Column(label="vCPU"),
        Column(label="memory", unit="GiB"),
        Column(label="price", unit="per hour"),
        Column(label="per vCPU", unit="per hour"),
        Column(label="term", right=False),
        Column(label="as of", right=False),
        Column(label="doubts", right=False),
    ]
    doubts: dict[str, int] = {}
    lines = [_instance_line(row, doubts) for row in rows]
    sources = dict.fromkeys(f"source: {row.price.source}" for row in rows)
    notes = [f"[{n}] {text}" for text, n in doubts.items()]
    return Sheet(title=title, columns=columns, rows=lines, notes=[*notes, *sources])


def _instance_line(row: InstancePrice, doubts: dict[str, int]) -> list[str]:
    each = row.price.amount / row.vcpus if row.vcpus else None
    return [
        row.name,
        row.region,
        row.cpu,
        row.arch,
        str(row.vcpus or MISSING),
        number(row.memory_gib),
        f"{number(row.price.amount, 5)} {row.price.currency}",
        number(each, 4),
        row.price.term,
        str(row.price.as_of),
        _marks(row.price, doubts),
    ]


def _marks(price: Price | ApiPrice, doubts: dict[str, int], on: datetime.date | None = None) -> str:
    """`[1][2]`: numbers of what is doubtful (on a day), said once below the table."""
    texts = [text.partition(": ")[2] for text in prices.caveats(price, on)]
    return "".join(f"[{doubts.setdefault(text, len(doubts) + 1)}]" for text in texts)


def api_sheet(name: str, rows: Sequence[ApiPrice], changes: Sequence[PriceChange]) -> Sheet:
    """A hosted model's prices by date, its documented changes below."""
    columns = [
        Column(label="since", right=False),
        Column(label="model", right=False),
        Column(label="provider", right=False),
        Column(label="region", right=False),
        Column(label="input", unit="per M tokens"),
        Column(label="output", unit="per M tokens"),
        Column(label="thinking", unit="per M tokens"),
        Column(label="currency", right=False),
        Column(label="doubts", right=False),
    ]
    doubts: dict[str, int] = {}
    lines = [
        [
            str(row.as_of),
            row.sku,
            row.provider,
            row.region,
            number(row.input, 4),
            number(row.output, 4),
            number(row.thinking, 4),
            row.currency,
            _marks(row, doubts, row.as_of),  # a history is not out of date
        ]
        for row in rows
    ]
    notes = [
        f"{change.date} {change.direction}: {change.scope}, {change.size}" for change in changes
    ]
    notes += [f"[{n}] {text}" for text, n in doubts.items()]
    notes += dict.fromkeys(f"source: {row.source}" for row in rows)
    return Sheet(title=f"{name}: list prices by date", columns=columns, rows=lines, notes=notes)
