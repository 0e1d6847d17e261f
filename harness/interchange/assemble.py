"""From what a foreign file says to results like our own: cases, repeats, machine, price, origin."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec
from msgspec import Struct, field

import harness
from harness import binding, prices
from harness.errors import ArmbenchError
from harness.interchange.foreign import ForeignFile
from harness.machine.cloud import provider_of
from harness.records.machine import Cloud, Cpu, Limits, Machine, Memory, Topology
from harness.records.money import Price
from harness.records.run import (
    SCHEMA,
    Case,
    LoadPoint,
    ModelIdentity,
    Origin,
    Plan,
    Result,
    Trial,
    Variant,
)

_NO_MACHINE = (
    "the file does not describe the machine, so one CPU is assumed: give `lscpu -J` or "
    "`armbench machine --json` of it beside the file"
)
# What no machine reaches, in any unit of a metric; squares and sums of what is within stay finite.
_LEAST, _MOST = 1e-18, 1e18


class Told(Struct, kw_only=True, frozen=True):
    """What the user says of foreign files where they are silent, or against what they say.

    `published` is where the figures were published by others; without it they count as imported.
    """

    instance: str | None = None
    price: str | None = None
    model: str | None = None
    engine: str | None = None
    dtype: str | None = None
    threads: int | None = None
    published: str | None = None


class Row(Struct, kw_only=True):
    """One measurement: what was measured, under which load, and what came out.

    `trial` is complete but for its case, repeat and order. `version` and `software` are of the
    build that was measured and `extra` tells of its machine, where they need not be the same for
    every row of a file. Rows that agree in these and the model become one result; those of them
    that agree in variant and load become repeats.
    """

    model: ModelIdentity
    variant: Variant
    load: LoadPoint
    trial: Trial
    at: datetime.datetime | None = None  # when it was measured; UTC is assumed without a zone
    version: str | None = None
    software: dict[str, str] = field(default_factory=dict)
    extra: dict[str, object] = field(default_factory=dict)


class Source(Struct, kw_only=True):
    """The tool that wrote files, and what it says beside its measurements.

    `notes` must be read with the figures; `software` names versions.
    """

    tool: str
    format: str
    rows: list[Row]
    version: str | None = None
    seed: int | None = None
    software: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    extra: dict[str, object] = field(default_factory=dict)


def model_named(name: str, told: Told) -> ModelIdentity:
    """A model of which nothing but its name is known."""
    return ModelIdentity(
        name=told.model or name,
        weights=None,
        family=None,
        parameters=None,
        config_sha256=None,
        files={},
    )


def blank_trial() -> Trial:
    """A trial that ended well; its place in the plan is given when results are put together."""
    return Trial(case=0, repeat=0, order=0, started_at="", state="ok")


def results(
    source: Source, files: Sequence[ForeignFile], machine: Machine | None, told: Told
) -> list[Result]:
    """One result for each model, build and machine of `source`, in the order of the file.

    Raises ArmbenchError where there is no measurement or one that can't be, or a price or instance
    is unknown.
    """
    if not source.rows:
        names = ", ".join(file.name for file in files)
        raise ArmbenchError(f"{names}: no measurement of {source.tool} in it")
    now = datetime.datetime.now(datetime.UTC)
    origin = Origin(
        tool=source.tool,
        format=source.format,
        basis="published" if told.published else "imported",
        imported_at=now.isoformat(timespec="seconds"),
        version=source.version,
        source=told.published,
        files=_hashes(files),
    )
    groups: dict[bytes, list[Row]] = {}
    for row in source.rows:
        key = (row.model, row.version, row.software, row.extra)
        groups.setdefault(msgspec.json.encode(key, order="deterministic"), []).append(row)
    return [_result(source, rows, origin, machine, told, now) for rows in groups.values()]


def _hashes(files: Sequence[ForeignFile]) -> dict[str, str]:
    """SHA-256 by name; of equal names, which lay in different folders, the later ones numbered."""
    found: dict[str, str] = {}
    for file in files:
        name, number = file.name, 1
        while name in found:
            number += 1
            name = f"{file.name} ({number})"
        found[name] = file.sha256
    return found


def _result(
    source: Source,
    rows: list[Row],
    origin: Origin,
    machine: Machine | None,
    told: Told,
    now: datetime.datetime,
) -> Result:
    first, extra = rows[0], source.extra | rows[0].extra
    for row in rows:
        _check(row.trial, origin)
    origin = msgspec.structs.replace(origin, version=first.version or origin.version)
    machine = machine or nothing_known(extra.get("cpu_info"))
    if told.instance:
        machine = _sold_as(machine, told.instance)
    price, reason = choose_price(machine, told)
    dates = [_utc(row.at) for row in rows if row.at]
    cases, trials = _cases(rows, told, now)
    counts = [sum(t.case == case.id for t in trials) for case in cases]
    notes = [_origin_note(origin), *source.notes]
    if not dates:
        notes.append(f"{origin.tool} did not write when it measured: dated by the import")
    result = Result(
        schema=SCHEMA,
        armbench=harness.__version__,
        created=min(dates, default=now).isoformat(timespec="seconds"),
        plan=Plan(
            name=f"{source.tool} {first.model.name}",
            model=first.model.name,
            cases=cases,
            repeats=min(counts),
            seed=source.seed,
            cpus=[],
            driver_cpus=[],
            time_budget_s=None,
            trial_timeout_s=None,
            order=[(t.case, t.repeat) for t in trials],
            notes=notes,
            placement=f"as {source.tool} left it",
        ),
        model=first.model,
        machine=machine,
        software=source.software | first.software,
        finished=True,
        trials=trials,
        price=price,
        price_reason=reason,
        origin=origin,
        extra=extra,
    )
    binding.derive(result)
    return result


def _check(trial: Trial, origin: Origin) -> None:
    """Raise ArmbenchError for a figure that no machine reaches."""
    for name, values in [*((k, [v]) for k, v in trial.figures.items()), *trial.samples.items()]:
        for value in values:
            if value != 0 and not _LEAST <= abs(value) <= _MOST:
                raise ArmbenchError(
                    f"{', '.join(origin.files)}: {name} is {value:g}, which no machine reaches"
                )


def _cases(rows: list[Row], told: Told, now: datetime.datetime) -> tuple[list[Case], list[Trial]]:
    """Rows that ask the same share a case, each as a repeat of its own."""
    cases: dict[bytes, Case] = {}
    repeats: dict[int, int] = {}
    trials: list[Trial] = []
    for row in rows:
        variant = _as_told(row.variant, told)
        key = msgspec.json.encode((variant, row.load), order="deterministic")
        case = cases.setdefault(key, Case(id=len(cases), variant=variant, load=row.load))
        trial = row.trial
        trial.case, trial.order = case.id, len(trials)
        trial.repeat = repeats.get(case.id, 0)
        trial.started_at = _utc(row.at or now).isoformat(timespec="seconds")
        repeats[case.id] = trial.repeat + 1
        trials.append(trial)
    return list(cases.values()), trials


def _as_told(variant: Variant, told: Told) -> Variant:
    return Variant(
        engine=told.engine or variant.engine,
        dtype=told.dtype or variant.dtype,
        threads=told.threads or variant.threads,
        options=variant.options,
    )


def _origin_note(origin: Origin) -> str:
    name = " ".join(filter(None, (origin.tool, origin.version)))
    left = "placement and the state of the machine are as that tool left them, unseen"
    if origin.basis == "published":
        return f"published figures of {name}, {origin.source}: not measured by armbench; {left}"
    return f"imported from {name}: not measured by armbench; {left}"


def _utc(at: datetime.datetime) -> datetime.datetime:
    """`at` in UTC. Raises ArmbenchError where it is in no year that UTC has here."""
    try:
        return at.replace(tzinfo=at.tzinfo or datetime.UTC).astimezone(datetime.UTC)
    except OverflowError as error:
        raise ArmbenchError(f"a measurement is dated {at.isoformat()}, which has no UTC") from error


def choose_price(machine: Machine, told: Told) -> tuple[Price | None, str | None]:
    """(price, None) or (None, why there is none): as told, or by the instance that is known.

    Raises ArmbenchError for a price that can't be read.
    """
    if told.price:
        return prices.parse_price(told.price), None
    cloud = machine.cloud
    if cloud.instance is None:
        return None, "the instance it was measured on is not known: give --instance or --price"
    if cloud.guess:
        return None, f"the instance is a guess ({cloud.instance}): confirm it with --instance"
    try:
        return prices.cloud_price(cloud), None
    except ArmbenchError as error:
        return None, f"{error.message}: give --price"


def _sold_as(machine: Machine, instance: str) -> Machine:
    """`machine` as the instance the user names."""
    head, slash, tail = instance.partition("/")
    provider = head if slash else machine.cloud.provider or provider_of(instance)
    cloud = Cloud(provider=provider, instance=tail if slash else instance, source="--instance")
    unknown = {k: v for k, v in machine.unknown.items() if not k.startswith("cloud.")}
    return msgspec.structs.replace(machine, cloud=cloud, unknown=unknown)


def nothing_known(cpu: object = None) -> Machine:
    """A machine of which no more than the name of its CPU is told.

    `unknown` says so, first of all for `topology.cpus`.
    """
    names = ("architecture", "cpu.product", "cpu.features", "topology.cpus", "topology.vcpu")
    more = ("topology.physical_cores", "memory.total_bytes", "cloud.provider", "cloud.instance")
    return Machine(
        architecture=None,
        cpu=Cpu(model_name=cpu if isinstance(cpu, str) else None),
        topology=Topology(
            cpus=1,
            online="0",
            physical_cores=1,
            threads_per_core=1,
            packages=1,
            numa_nodes=1,
        ),
        memory=Memory(),
        limits=Limits(allowed_cpus="0"),
        cloud=Cloud(),
        unknown=dict.fromkeys((*names, *more), _NO_MACHINE),
    )
