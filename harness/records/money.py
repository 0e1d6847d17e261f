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
# What a price is promised for: by the hour, as long as the cloud can spare it, or for years.
Term = Literal["on-demand", "spot", "reserved-1y", "reserved-3y"]


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
    term: Term = "on-demand"


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


class UseCost(Struct, kw_only=True, frozen=True):
    """Cost of a million tokens where a server is in use for `share` of the time it is paid for."""

    share: float
    value: float
    low: float | None
    high: float | None


class BreakEven(Struct, kw_only=True, frozen=True):
    """An own server against a hosted price, for one mix of input and output tokens.

    Amounts in `currency`, costs per million output tokens with the input tokens that go with them.
    `own_*` is the server at full use at the measured throughput. From `tokens_per_day` output
    tokens on (`share` of what the server can do) it is cheaper; both are None where it never is,
    and `verdict` says so in plain words. `low` and `high` carry the throughput's interval.
    """

    hosted: ApiPrice
    currency: str
    input_per_output: float
    api: float
    own: float
    own_low: float | None
    own_high: float | None
    most_per_day: float  # output tokens a day of the server at full use
    tokens_per_day: float | None
    share: float | None
    verdict: str
    label: str = ""  # such as: before the cut of 2024-05-21


class Fleet(Struct, kw_only=True, frozen=True):
    """How many instances of one machine carry a rate, and what they cost in a month.

    `per_instance` is requests per second that one carries, `low` and `high` its interval; `count`
    is for the wished rate with its headroom, `spare` are those beyond (N+1). `count_low` and
    `count_high` go with the interval. Money is in `currency`, None without a price. `basis` says
    what the figure rests on, `doubts` what to know of it.
    """

    model: str
    machine: str
    instance: str | None
    variant: str
    load: str
    per_instance: float
    low: float | None
    high: float | None
    count: int
    count_low: int | None
    count_high: int | None
    spare: int
    price: Price | None
    currency: str | None
    per_month: float | None
    per_month_low: float | None
    per_month_high: float | None
    basis: str
    doubts: list[str]
