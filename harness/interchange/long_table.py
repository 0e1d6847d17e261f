"""One long table: a row for each metric of each case of each result, with all it takes to select.

The figures are those that a result was stored with; `armbench show` computes them again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

from msgspec import Struct, field

from harness import cost, validity
from harness.interchange.export import Export
from harness.machine.detect import machine_slug
from harness.metrics import BY_NAME
from harness.records.machine import Machine
from harness.records.money import Price
from harness.records.run import Case, Estimate, ModelIdentity, Origin, Result

Value = str | int | float | bool | None


class Head(Struct, kw_only=True):
    """The part of a stored result that the table needs; decoding it skips the trials."""

    schema: int
    armbench: str
    created: str
    plan: HeadPlan
    model: ModelIdentity
    machine: Machine
    finished: bool = False
    price: Price | None = None
    origin: Origin | None = None
    summary: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    trials: list[HeadTrial] = field(default_factory=list)
    capacities: list[HeadCapacity] = field(default_factory=list)


class HeadPlan(Struct, kw_only=True):
    """Of a plan its name, cases and repeats."""

    name: str
    cases: list[Case]
    repeats: int
    order: list[tuple[int, int]] = field(default_factory=list)


class HeadTrial(Struct, kw_only=True):
    """Of a trial what says whether it is to be believed."""

    case: int
    state: str
    invalid: list[str] = field(default_factory=list)


class HeadProbe(Struct, kw_only=True):
    """Of a probe its case."""

    case: int


class HeadCapacity(Struct, kw_only=True):
    """Of a capacity search its probes."""

    probes: list[HeadProbe] = field(default_factory=list)


class Column(NamedTuple):
    """A column: its name, its SQL type, and where its value comes from."""

    name: str
    type: str
    value: Callable[[Head, Case], Value]


def _concurrency(case: Case) -> int | None:
    return case.load.serving.concurrency if case.load.serving else None


def _rate(case: Case) -> float | None:
    serving = case.load.serving
    return serving.arrivals.rate if serving and serving.arrivals else None


def basis(head: Head) -> str:
    """Who measured it: `measured here`, `imported` or `published`."""
    return head.origin.basis if head.origin else "measured here"


def valid(head: Head, case: Case) -> bool:
    """Whether the case can be believed, by the rule for whole results."""
    # A head has all of a result that the rule looks at.
    return validity.case_valid(cast("Result", head), case)


def _cpus(head: Head, count: int) -> int | None:
    """A count of the machine's, None where nothing is told of it."""
    return None if "topology.cpus" in head.machine.unknown else count


# Of a result and a case; then come those of a metric.
COLUMNS: tuple[Column, ...] = (
    Column("created", "VARCHAR", lambda h, c: h.created),
    Column("basis", "VARCHAR", lambda h, c: basis(h)),
    Column("tool", "VARCHAR", lambda h, c: h.origin.tool if h.origin else "armbench"),
    Column("tool_version", "VARCHAR", lambda h, c: h.origin.version if h.origin else h.armbench),
    Column("machine", "VARCHAR", lambda h, c: machine_slug(h.machine)),
    Column("architecture", "VARCHAR", lambda h, c: h.machine.architecture),
    Column("cpu", "VARCHAR", lambda h, c: h.machine.cpu.product),
    Column("core", "VARCHAR", lambda h, c: h.machine.cpu.core),
    Column("provider", "VARCHAR", lambda h, c: h.machine.cloud.provider),
    Column("instance", "VARCHAR", lambda h, c: h.machine.cloud.instance),
    Column("vcpus", "BIGINT", lambda h, c: _cpus(h, h.machine.topology.cpus)),
    Column("physical_cores", "BIGINT", lambda h, c: _cpus(h, h.machine.topology.physical_cores)),
    Column("vcpu", "VARCHAR", lambda h, c: h.machine.topology.vcpu),
    Column("model", "VARCHAR", lambda h, c: h.model.name),
    Column("weights", "VARCHAR", lambda h, c: h.model.weights),
    Column("parameters", "BIGINT", lambda h, c: h.model.parameters),
    Column("plan", "VARCHAR", lambda h, c: h.plan.name),
    Column("finished", "BOOLEAN", lambda h, c: h.finished),
    Column("valid", "BOOLEAN", valid),
    Column("case_id", "BIGINT", lambda h, c: c.id),
    Column("engine", "VARCHAR", lambda h, c: c.variant.engine),
    Column("dtype", "VARCHAR", lambda h, c: c.variant.dtype),
    Column("threads", "BIGINT", lambda h, c: c.variant.threads),
    Column("instances", "BIGINT", lambda h, c: c.variant.instances),
    Column("load", "VARCHAR", lambda h, c: c.load.kind),
    Column("batch", "BIGINT", lambda h, c: c.load.batch),
    Column("concurrency", "BIGINT", lambda h, c: _concurrency(c)),
    Column("rate", "DOUBLE", lambda h, c: _rate(c)),
    Column("input_tokens", "BIGINT", lambda h, c: c.load.input_tokens),
    Column("output_tokens", "BIGINT", lambda h, c: c.load.output_tokens),
    Column("repeats", "BIGINT", lambda h, c: h.plan.repeats),
    Column("price", "DOUBLE", lambda h, c: h.price.amount if h.price else None),
    Column("currency", "VARCHAR", lambda h, c: h.price.currency if h.price else None),
    Column("price_as_of", "VARCHAR", lambda h, c: h.price.as_of.isoformat() if h.price else None),
)
METRIC_COLUMNS = {
    "metric": "VARCHAR",
    "unit": "VARCHAR",
    "better": "VARCHAR",
    "value": "DOUBLE",
    "low": "DOUBLE",
    "high": "DOUBLE",
    "n": "BIGINT",
}
NAMES = ("file", *(column.name for column in COLUMNS), *METRIC_COLUMNS)
_COST = {"prefill_tok_per_s": "cost_input_tokens", "output_tok_per_s": "cost_output_tokens"}


def head(result: Result) -> Head:
    """The part of `result` that the table needs."""
    return Head(
        schema=result.schema,
        armbench=result.armbench,
        created=result.created,
        plan=HeadPlan(
            name=result.plan.name,
            cases=result.plan.cases,
            repeats=result.plan.repeats,
            order=result.plan.order,
        ),
        model=result.model,
        machine=result.machine,
        finished=result.finished,
        price=result.price,
        origin=result.origin,
        summary=result.summary,
        trials=[HeadTrial(case=t.case, state=t.state, invalid=t.invalid) for t in result.trials],
        capacities=[
            HeadCapacity(probes=[HeadProbe(case=probe.case) for probe in one.probes])
            for one in result.capacities
        ],
    )


def rows(of: Head, file: str) -> Iterator[tuple[Value, ...]]:
    """A row for each metric of each case, values in the order of `NAMES`."""
    for case in of.plan.cases:
        told = [column.value(of, case) for column in COLUMNS]
        for row in metric_rows(of, case):
            yield (file, *told, *row)


def metric_rows(of: Head, case: Case) -> Iterator[tuple[Value, ...]]:
    """The metrics of one case, values in the order of `METRIC_COLUMNS`."""
    for name, found in _figures(of, case):
        better = BY_NAME[name].direction if name in BY_NAME else "lower"
        yield (name, found.unit, better, found.value, found.low, found.high, found.n)


def _figures(of: Head, case: Case) -> Iterator[tuple[str, Estimate]]:
    """The metrics, then the cost of a million tokens at those rates."""
    figures = of.summary.get(str(case.id), {})
    yield from figures.items()
    if of.price is None or of.price.unit != "instance-hour":
        return
    for rate, name in _COST.items():
        if (found := figures.get(rate)) is not None and found.value > 0:
            yield name, cost.cost(of.price, found)


def as_csv(results: Iterable[tuple[str, Result]]) -> Export:
    """The table of results and their files' names as CSV; a formula in a text stays a text."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(NAMES)
    for name, result in results:
        for row in rows(head(result), name):
            writer.writerow([_cell(value) for value in row])
    return Export(text=file.getvalue(), left_out=["records, placement, conditions, warnings"])


def _cell(value: Value) -> Value:
    """`value` as a spreadsheet should take it: a text that begins like a formula is quoted."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value
