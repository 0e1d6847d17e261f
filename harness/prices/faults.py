"""What can be wrong in one price file beyond its form."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from harness.errors import ArmbenchError
from harness.prices.tables import (
    CURRENCIES,
    AnyFile,
    ApiFile,
    CurrencyFile,
    Family,
    File,
    InstanceFile,
    InstanceList,
    ModelList,
    Row,
    parse,
)

LINEAR_WITHIN = 0.02  # share by which a size's price per vCPU may leave its family's middle


@lru_cache(maxsize=128)
def faults(path: Path, text: str) -> tuple[str, ...]:
    """What is wrong in a file, each fault with the file's name; empty where all is well."""
    try:
        file = parse(path, text)
    except ArmbenchError as error:
        return (error.message,)
    return tuple(f"{path}: {fault}" for fault in _faults(file))


def _faults(file: AnyFile) -> Iterator[str]:
    if isinstance(file, InstanceFile):
        yield from _in_lists(file, file.lists)
        yield from _in_instances(file)
    elif isinstance(file, ApiFile):
        yield from _in_lists(file, file.lists)
        yield from _in_models(file)
    elif isinstance(file, CurrencyFile):
        yield from _in_rates(file)


def _origin(file: File, what: str, source: str | None, as_of: datetime.date) -> Iterator[str]:
    if source not in file.sources:
        yield f"{what}: source {source!r} has no table [sources.{source}]"
    if as_of > datetime.date.today():
        yield f"{what}: {as_of} lies in the future"


def _currency(what: str, currency: str) -> Iterator[str]:
    if currency not in CURRENCIES:
        yield f"{what}: unknown currency {currency!r}"


def _twice(keys: Iterable[tuple[object, ...]]) -> Iterator[str]:
    seen: set[tuple[object, ...]] = set()
    for key in keys:
        if key in seen:
            yield f"twice in the file: {', '.join(map(str, key))}"
        seen.add(key)


def _in_lists(file: File, lists: Iterable[InstanceList | ModelList]) -> Iterator[str]:
    for at, items in enumerate(lists):
        rows: list[Row] = []
        if isinstance(items, ModelList):
            rows += items.models
        else:
            rows += [*items.families, *items.instances, *items.shapes]
        if not rows:
            yield f"lists[{at}]: has no rows"
        yield from _currency(f"lists[{at}]", items.currency)
        for key in dict.fromkeys([items.source, *(row.source for row in rows if row.source)]):
            yield from _origin(file, f"lists[{at}]", key, items.as_of)


def _in_instances(file: InstanceFile) -> Iterator[str]:
    for items in file.lists:
        for family in items.families:
            yield from _in_family(file, family)
    rows = [(row.sku, row.region, row.price.as_of, row.price.term) for row in file.rows()]
    yield from _twice(
        rows
        + [
            (shape.sku, region, items.as_of, items.term)
            for items in file.lists
            for shape in items.shapes
            for region in items.regions
        ]
    )
    if file.default_region not in {region for items in file.lists for region in items.regions}:
        yield f"default_region {file.default_region!r} has no list"


def _in_family(file: InstanceFile, family: Family) -> Iterator[str]:
    """Sizes of unknown vCPUs, and prices per vCPU unlike their family's that no flag admits."""
    if "{size}" not in family.sku:
        yield f"{family.sku}: a family's sku needs {{size}}"
    for size in dict.fromkeys([*family.amounts, *family.flags]):
        if not file.vcpus(size):
            yield f"{family.sku}: size {size!r} is neither in [sizes] nor a number"
        if size not in family.amounts:
            yield f"{family.sku}: flags a size {size!r} that has no amount"
    each = {s: a / file.vcpus(s) for s, a in family.amounts.items() if file.vcpus(s)}
    middle = sorted(each.values())[len(each) // 2] if each else 0  # of an even count the upper one
    for size, amount in each.items():
        off = amount / middle - 1
        if abs(off) > LINEAR_WITHIN and size not in family.flags:
            sku = family.sku.replace("{size}", size)
            yield f"{sku}: {off:+.0%} per vCPU against its family, and no flag"


def _in_models(file: ApiFile) -> Iterator[str]:
    yield from _twice(
        (items.provider, items.region, model.sku, items.as_of, model.tier or "no tier")
        for items in file.lists
        for model in items.models
    )
    for change in file.changes:
        what = f"change of {change.date}"
        yield from _origin(file, what, change.source, change.date)
        for series in sorted(set(change.series) - file.series()):
            yield f"{what}: no row of series {series!r}"


def _in_rates(file: CurrencyFile) -> Iterator[str]:
    yield from _twice((row.base, row.quote, row.as_of) for row in file.rates)
    for row in file.rates:
        what = f"rate from {row.base} to {row.quote}"
        yield from _origin(file, what, row.source, row.as_of)
        yield from _currency(what, row.base)
        yield from _currency(what, row.quote)
        if row.base == row.quote:
            yield f"{what}: one currency"
