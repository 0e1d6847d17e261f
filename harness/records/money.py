"""Money, dated: what a server or a hosted model costs, since when, and who says so.

An amount is a list price without tax. `flag` says why a row should not be taken at its word, and
`date_note` what is really known where `as_of` had to be made exact; both belong before the user.
"""

from __future__ import annotations

import datetime
from typing import Literal

from msgspec import Struct

Confidence = Literal["high", "medium", "low"]
Arch = Literal["aarch64", "x86_64"]
Relation = Literal["same", "larger", "older", "commercial"]


class Price(Struct, kw_only=True, frozen=True):
    """One list price: `amount` of `currency` per `unit`, in `region`, seen on `as_of`."""

    provider: str
    sku: str
    amount: float
    currency: str  # ISO 4217
    unit: str  # instance-hour
    source: str
    as_of: datetime.date
    region: str | None = None
    note: str | None = None
    date_note: str | None = None
    confidence: Confidence | None = None
    flag: str | None = None


class InstancePrice(Struct, kw_only=True, frozen=True):
    """A cloud instance with its price; `vcpus` is what the cloud counts (a core or a thread)."""

    provider: str
    sku: str
    region: str
    vcpus: int | None  # None where the source does not say
    memory_gib: float
    cpu: str
    arch: Arch
    price: Price

    @property
    def name(self) -> str:
        """The name that `--instance` takes: `aws/c8g.4xlarge`."""
        return f"{self.provider}/{self.sku}"


class ApiPrice(Struct, kw_only=True, frozen=True):
    """What a hosted model costs, in `currency` per million tokens, at its lowest tier.

    `series` names the model across its versions (`qwen-turbo` for `qwen-turbo-latest`); an amount
    that the source does not give is None. `thinking` is the price of output of a thinking run.
    """

    provider: str
    sku: str
    series: str
    currency: str
    source: str
    as_of: datetime.date
    region: str
    input: float
    output: float | None = None
    thinking: float | None = None
    tier: str | None = None
    note: str | None = None
    date_note: str | None = None
    confidence: Confidence | None = None
    flag: str | None = None


class Rate(Struct, kw_only=True, frozen=True):
    """One `base` bought `rate` of `quote` on `as_of`."""

    base: str
    quote: str
    rate: float
    source: str
    as_of: datetime.date
    confidence: Confidence | None = None


class PriceChange(Struct, kw_only=True, frozen=True):
    """A documented change of list prices; `before` and `after` are the rows around it, if known."""

    date: datetime.date
    direction: Literal["cut", "rise"]
    scope: str
    size: str
    source: str
    confidence: Confidence | None = None
    date_note: str | None = None
    before: ApiPrice | None = None
    after: ApiPrice | None = None


class HostedReference(Struct, kw_only=True, frozen=True):
    """One hosted model to hold a checkpoint against, and its prices."""

    series: str
    relation: Relation
    reason: str
    prices: list[ApiPrice]  # in force on the date asked for, one per provider and region
    changes: list[PriceChange]  # documented changes of this series up to that date, oldest first


class Hosted(Struct, kw_only=True, frozen=True):
    """The hosted models nearest to a checkpoint, best match first; `reason` where there is none."""

    model: str
    references: list[HostedReference]
    reason: str | None = None
