"""Rates for each unit of what they took: per vCPU, physical core, thread, price and watt."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct

from harness import prices
from harness.comparing.question import told
from harness.comparing.samples import Group
from harness.comparing.values import POWER
from harness.errors import ArmbenchError
from harness.records.comparison import MetricRow, RunValues, Share
from harness.records.money import Price

RATES = ("tok/s", "req/s")


class Amount(Struct, frozen=True):
    """How much of something a side took; None with the reason."""

    value: float | None
    reason: str | None = None


def shares(a: Group, b: Group, rows: Sequence[MetricRow]) -> list[Share]:
    """Every rate of `rows` on every basis of which the sides took different amounts.

    The ratio of whole instances alone would hide that one of them is larger.
    """
    rates = [r for r in rows if r.unit in RATES and r.direction == "higher" and r.a and r.b]
    apart = a.members[0][0].machine != b.members[0][0].machine
    found = []
    for basis, unit, left, right in _bases(a, b):
        known = left.value is not None and right.value is not None
        if left.value != right.value or (apart and (basis == "instance" or not known)):
            found += [_share(row, basis, unit, left, right) for row in rates]
    return found


def _share(row: MetricRow, basis: str, unit: str, a: Amount, b: Amount) -> Share:
    assert row.a is not None
    assert row.b is not None
    factor = a.value / b.value if a.value and b.value else None
    bounds = (row.ratio.value, row.ratio.low, row.ratio.high)
    ratio, low, high = (None if x is None or factor is None else x * factor for x in bounds)
    return Share(
        metric=row.metric,
        basis=basis,
        unit=f"{row.unit} per {unit}",
        a=row.a.value / a.value if a.value else None,
        b=row.b.value / b.value if b.value else None,
        ratio=ratio,
        low=low,
        high=high,
        reason=a.reason or b.reason,
    )


def _bases(a: Group, b: Group) -> list[tuple[str, str, Amount, Amount]]:
    """(basis, unit, what the baseline took, what the new side took)."""
    first, second = a.members[0][0], b.members[0][0]
    money, currency = _prices(first, second)
    return [
        ("instance", "instance", Amount(1.0), Amount(1.0)),
        ("thread", "thread", _threads(a), _threads(b)),
        ("vCPU", "vCPU", _vcpus(first), _vcpus(second)),
        ("physical core", "physical core", _cores(first), _cores(second)),
        ("price", f"{currency}/h", *money),
        ("power", "W", _watts(a), _watts(b)),
    ]


def _threads(group: Group) -> Amount:
    """Compute threads of all instances together."""
    text = group.case.question.get("threads", "")
    if not text.isdigit():
        return Amount(None, f"{group.case.label} does not tell its threads")
    return Amount(float(text) * int(told("instances", group.case.question)))


def _vcpus(run: RunValues) -> Amount:
    if run.vcpus is None:
        return Amount(None, f"{run.machine} does not tell its vCPUs")
    return Amount(float(run.vcpus))


def _cores(run: RunValues) -> Amount:
    """Physical cores, unless the hypervisor may hide that two CPUs share one."""
    if run.physical_cores is None:
        return Amount(None, f"{run.machine} does not tell its physical cores")
    if run.cores_reason:
        return Amount(None, f"{run.machine}: {run.cores_reason}")
    return Amount(float(run.physical_cores))


def _prices(a: RunValues, b: RunValues) -> tuple[tuple[Amount, Amount], str]:
    """What both instances cost an hour, in the baseline's currency, else in the new side's."""
    currency = next((r.price.currency for r in (a, b) if r.price), "price")
    return (_price(a, currency), _price(b, currency)), currency


def _price(run: RunValues, currency: str) -> Amount:
    if run.price is None:
        return Amount(None, f"{run.machine}: {run.price_reason or 'no price is known'}")
    try:
        found: Price = prices.convert(run.price, currency)
    except ArmbenchError as error:
        return Amount(None, f"{run.machine}: {error.message}")
    if found.unit != "instance-hour":
        return Amount(None, f"{run.machine}: its price is per {found.unit}")
    return Amount(found.amount)


def _watts(group: Group) -> Amount:
    """Mean power over all valid repeats."""
    columns = (case.values.get(POWER, []) for _, case in group.members)
    known = [v for column in columns for v in column if v]
    if not known:
        return Amount(None, f"{group.members[0][0].machine} shows no energy counter")
    return Amount(statistics.fmean(known))


def budget(group: Group) -> str:
    """The thread budget for people: `16 threads on 16 physical cores (16 vCPUs)`."""
    run, question = group.members[0][0], group.case.question
    threads, cores = question.get("threads") or "unknown", _cores(run)
    if (times := told("instances", question)) != "1":
        threads = f"{times}×{threads}"
    shown = "unknown" if cores.value is None else f"{cores.value:.0f}"
    return f"{threads} threads on {shown} physical cores ({run.vcpus or 'unknown'} vCPUs)"


def matched(a: Group, b: Group) -> str:
    """Whether both sides had the same threads for each physical core, in words."""
    first, second = a.members[0][0], b.members[0][0]
    threads = [_threads(g).value for g in (a, b)]
    if first.machine == second.machine and threads[0] == threads[1] is not None:
        return f"the same thread budget on the same machine: {budget(a)}"
    told = f"{budget(a)} against {budget(b)}"
    per_core = [_per(t, _cores(run)) for t, run in zip(threads, (first, second), strict=True)]
    if None in per_core:
        return f"whether the thread budgets match is not known: {told}"
    if per_core[0] == per_core[1]:
        return f"matched thread budgets, {per_core[0]:.3g} per physical core: {told}"
    return f"thread budgets do not match: {told}"


def _per(threads: float | None, cores: Amount) -> float | None:
    return threads / cores.value if threads and cores.value else None
