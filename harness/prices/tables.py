"""What a price file may hold: every table refuses fields that it does not know.

A file is of one `kind`: `instances` (servers by the hour), `api` (hosted models by the token),
`currency`, or `hosted` (which hosted model is nearest to a checkpoint).
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from harness.errors import ArmbenchError
from harness.records.money import Arch, Confidence, InstancePrice, Price, Relation, Term

CURRENCIES = (
    *("AED", "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "IDR", "ILS"),
    *("INR", "JPY", "KRW", "MXN", "MYR", "NOK", "NZD", "PHP", "PLN", "SAR", "SEK", "SGD", "THB"),
    *("TRY", "TWD", "USD", "VND", "ZAR"),
)
ANY_REGION = "any"  # a price that holds in every region of its provider

Amount = Annotated[float, Meta(gt=0, lt=1e9)]
Count = Annotated[int, Meta(gt=0, lt=100_000)]
Address = Annotated[str, Meta(pattern="^https?://")]


class Source(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where rows come from."""

    url: Address | None = None
    licence: str | None = None
    note: str | None = None


class Row(Struct, kw_only=True, forbid_unknown_fields=True):
    """What any row may say for itself where it differs from its list."""

    source: str | None = None
    confidence: Confidence | None = None
    flag: str | None = None
    note: str | None = None


class InstanceRow(Row, kw_only=True):
    """What is rented: the processor behind the sku."""

    sku: str
    cpu: str
    arch: Arch


class Family(InstanceRow, kw_only=True):
    """Instances that differ in size only; `{size}` in the sku stands for the keys of `amounts`."""

    gib_per_vcpu: Amount
    amounts: dict[str, Amount]
    flags: dict[str, str] = field(default_factory=dict)  # by size


class Single(InstanceRow, kw_only=True):
    """One instance."""

    vcpus: Count
    memory_gib: Amount
    amount: Amount


class Shape(InstanceRow, kw_only=True):
    """An instance of free size, paid by OCPU and by GiB."""

    per_ocpu: Amount
    per_gib: Amount
    vcpus_per_ocpu: Count | None = None


class Model(Row, kw_only=True):
    """A hosted model; amounts per million tokens."""

    sku: str
    series: str | None = None
    input: Amount
    output: Amount | None = None
    thinking: Amount | None = None
    tier: str | None = None

    def named(self) -> str:
        """The series, which is the sku where none is given."""
        return self.series or self.sku.lower()


class List(Struct, kw_only=True, forbid_unknown_fields=True):
    """Rows as one source published them on one date."""

    source: str
    as_of: datetime.date
    currency: str
    date_note: str | None = None
    confidence: Confidence | None = None
    flag: str | None = None
    note: str | None = None


class InstanceList(List, kw_only=True):
    """A list of instances, at one price in all its regions."""

    regions: Annotated[list[str], Meta(min_length=1)]
    unit: Literal["instance-hour"]
    term: Term = "on-demand"
    families: list[Family] = field(default_factory=list)
    instances: list[Single] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)


class ModelList(List, kw_only=True):
    """A list of hosted models of one provider."""

    provider: str
    region: str
    unit: Literal["million-tokens"]
    models: list[Model]


class Change(Struct, kw_only=True, forbid_unknown_fields=True):
    """A documented cut or rise of prices."""

    date: datetime.date
    direction: Literal["cut", "rise"]
    scope: str
    size: str
    source: str
    confidence: Confidence | None = None
    date_note: str | None = None
    provider: str | None = None
    series: list[str] = field(default_factory=list)


class RateRow(Row, kw_only=True):
    """An exchange rate."""

    base: str = field(name="from")
    quote: str = field(name="to")
    rate: Amount
    as_of: datetime.date


class Nearest(Struct, kw_only=True, forbid_unknown_fields=True):
    """A hosted model to hold a checkpoint against; `reason` is a key of `[reasons]` or text."""

    series: str
    relation: Relation
    reason: str


class HostedRow(Struct, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints by name or family and by billions of parameters: above < n <= up_to."""

    patterns: list[str]
    nearest: Annotated[list[Nearest], Meta(min_length=1)]
    above: float = 0.0
    up_to: float = math.inf


class File(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every price file has."""

    sources: dict[str, Source] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)  # texts of flags, by key

    def origin(self, key: str | None) -> str:
        """A source in words: its address, else its note, else the key."""
        source = self.sources.get(key or "")
        return (source and (source.url or source.note)) or key or "no source"

    def doubt(self, *keys: str | None) -> str | None:
        """The texts of flags, each once, or None."""
        return "; ".join(dict.fromkeys(self.flags.get(key, key) for key in keys if key)) or None


class InstanceFile(File, kw_only=True, tag="instances"):
    """Servers by the hour; `sizes` gives the vCPUs of a size that is no number."""

    provider: str
    default_region: str
    lists: list[InstanceList]
    sizes: dict[str, Count] = field(default_factory=dict)

    def vcpus(self, size: str) -> int:
        """VCPUs of a size: a row of `[sizes]`, or the number itself; 0 where it is neither."""
        return self.sizes.get(size) or (int(size) if re.fullmatch(r"[0-9]{1,4}", size) else 0)

    def rows(self) -> Iterator[InstancePrice]:
        """The instances of fixed size, in each of their regions."""
        for items in self.lists:
            for region in items.regions:
                for one in items.instances:
                    price = self.price(items, one, one.sku, one.amount)
                    yield rented(one, price, region, one.vcpus, one.memory_gib)
                for family in items.families:
                    for size, amount in family.amounts.items():
                        vcpus = self.vcpus(size)
                        sku = family.sku.replace("{size}", size)
                        price = self.price(items, family, sku, amount, family.flags.get(size))
                        yield rented(family, price, region, vcpus, vcpus * family.gib_per_vcpu)

    def price(
        self, items: InstanceList, row: Row, sku: str, amount: float, flag: str | None = None
    ) -> Price:
        """The price of one row of a list; a flag of one size lowers its confidence."""
        return Price(
            provider=self.provider,
            sku=sku,
            amount=amount,
            currency=items.currency,
            unit=items.unit,
            source=self.origin(row.source or items.source),
            as_of=items.as_of,
            note=row.note or items.note,
            date_note=items.date_note,
            confidence="low" if flag else row.confidence or items.confidence,
            flag=self.doubt(items.flag, row.flag, flag),
            term=items.term,
        )


def rented(
    row: InstanceRow, price: Price, region: str, vcpus: int | None, memory_gib: float
) -> InstancePrice:
    """The instance of a row in one region."""
    return InstancePrice(
        provider=price.provider,
        sku=price.sku,
        region=region,
        vcpus=vcpus,
        memory_gib=memory_gib,
        cpu=row.cpu,
        arch=row.arch,
        price=msgspec.structs.replace(price, region=region),
    )


class ApiFile(File, kw_only=True, tag="api"):
    """Hosted models by the token, and what is known of changes of their prices."""

    lists: list[ModelList]
    changes: list[Change] = field(default_factory=list)

    def series(self) -> set[str]:
        """The series that have a price here."""
        return {model.named() for items in self.lists for model in items.models}


class CurrencyFile(File, kw_only=True, tag="currency"):
    """Exchange rates."""

    rates: list[RateRow]


class HostedFile(File, kw_only=True, tag="hosted"):
    """Which hosted model is nearest to a checkpoint: the first row that fits decides."""

    models: list[HostedRow]
    reasons: dict[str, str] = field(default_factory=dict)


AnyFile = InstanceFile | ApiFile | CurrencyFile | HostedFile


@lru_cache(maxsize=128)
def parse(path: Path, text: str) -> AnyFile:
    """One file's tables.

    Raises ArmbenchError, with the file and the place in it, where the text is not TOML or a table
    is not as it should be.
    """
    try:
        file: AnyFile = msgspec.convert(tomllib.loads(text), AnyFile)
    except (ValueError, RecursionError) as error:  # TOML and msgspec errors are ValueErrors
        raise ArmbenchError(
            f"{path}: {error}", hint="the shipped files in configs/prices show the form"
        ) from error
    return file
