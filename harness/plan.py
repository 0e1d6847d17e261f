"""From a plan file and flags to a `Plan`: every default written out, every case spelt."""

from __future__ import annotations

import itertools
import random
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from harness import engines, places, store
from harness.errors import ArmbenchError, unknown_name
from harness.machine import placement
from harness.machine.wish import parse_wish
from harness.model.architecture import Dimensions
from harness.records.machine import Machine
from harness.records.run import Case, LoadPoint, Plan, Variant
from harness.units import parse_duration

LOADS = ("single_stream", "offline")


class Spec(Struct, kw_only=True, forbid_unknown_fields=True):
    """A plan as it is written. Keys that take a list span the Cartesian product of their values."""

    name: str = "custom"
    model: str = "qwen2.5-0.5b"
    engine: list[str] = field(default_factory=lambda: ["torch", "onnxruntime"])
    dtype: list[str] = field(default_factory=lambda: ["float32"])
    threads: list[int] = field(default_factory=list)  # none: one per physical core
    load: list[str] = field(default_factory=lambda: list(LOADS))
    batch: list[int] = field(default_factory=lambda: [4])
    input_tokens: list[int] = field(default_factory=lambda: [512])
    output_tokens: list[int] = field(default_factory=lambda: [128])
    requests: int = 1
    repeats: int = 3
    seed: int = 1
    placement: str = "compact"
    exporter: str | None = None
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    time_budget: str | None = "5m"
    trial_timeout: str | None = None
    instance: str | None = None
    price: str | None = None
    ceilings: bool = True


_LISTS = {
    f.name
    for f in msgspec.structs.fields(Spec)
    if isinstance(msgspec.inspect.type_info(f.type), msgspec.inspect.ListType)
}


def shipped() -> list[str]:
    """Names of the plans that come with the program."""
    return sorted(p.stem for p in (places.config_dir() / "plans").glob("*.toml"))


def read_spec(name: str, overrides: Mapping[str, Any] | None = None) -> Spec:
    """The spec in plan file `name` (a path or a shipped name) with `overrides` on top.

    Raises ArmbenchError for an unknown plan, malformed TOML, an unknown key, a wrong type.
    """
    path = Path(name)
    if not path.is_file():
        path = places.config_dir() / "plans" / f"{name}.toml"
    if not path.is_file():
        raise unknown_name("plan", name, shipped())
    try:
        table = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArmbenchError(f"plan {path} is not valid TOML: {error}") from error
    return make_spec({"name": path.stem, **table, **(overrides or {})}, str(path))


def make_spec(table: Mapping[str, Any], where: str = "the plan") -> Spec:
    """A checked spec from plain values; a bare value stands for a list of one."""
    known = {f.name for f in msgspec.structs.fields(Spec)}
    for key in table:
        if key not in known:
            raise unknown_name("plan key", key, known)
    listed = {
        key: [value] if key in _LISTS and not isinstance(value, list) else value
        for key, value in table.items()
    }
    try:
        spec = msgspec.convert(listed, Spec)
    except msgspec.ValidationError as error:
        raise ArmbenchError(f"{where}: {error}", hint="see configs/plans for examples") from error
    check(spec)
    return spec


def check(spec: Spec) -> None:
    """Raise ArmbenchError for a value that no machine could run."""
    for name in spec.engine:
        engines.module(name)
    for load in spec.load:
        if load not in LOADS:
            raise unknown_name("load", load, LOADS)
    for key in ("engine", "dtype", "load", "batch", "input_tokens", "output_tokens"):
        if not getattr(spec, key):
            raise ArmbenchError(f"plan key {key} is an empty list", hint="give at least one value")
    for key in ("threads", "batch", "input_tokens", "output_tokens"):
        for value in getattr(spec, key):
            _check_positive(key, value)
    for key in ("requests", "repeats"):
        _check_positive(key, getattr(spec, key))
    if store.safe_name(spec.name) == store.CEILINGS:
        raise ArmbenchError(
            f"plan key name is {spec.name!r}, the folder of what `armbench ceilings` measures",
            hint="choose another name",
        )
    for engine in spec.options:
        if engine not in engines.names():
            raise unknown_name("engine in plan key options", engine, engines.names())


def _check_positive(key: str, value: int) -> None:
    if not 1 <= value <= 10_000_000:
        raise ArmbenchError(f"plan key {key} is {value}", hint="give a positive whole number")


def _duration(text: str | None) -> float | None:
    return None if text in (None, "", "none") else parse_duration(str(text))


def _options(spec: Spec, engine: str) -> dict[str, Any]:
    given = dict(spec.options.get(engine, {}))
    if spec.exporter is not None and "exporter" in engines.module(engine).OPTIONS:
        given.setdefault("exporter", spec.exporter)
    return engines.resolve_options(engine, given)


def _variants(spec: Spec, threads: list[int], notes: list[str]) -> Iterator[Variant]:
    served = {d for e in spec.engine for d in engines.module(e).DTYPES}
    for dtype in spec.dtype:
        if dtype not in served:
            raise unknown_name(f"dtype for {', '.join(spec.engine)}", dtype, served)
    for engine, dtype, count in itertools.product(spec.engine, spec.dtype, threads):
        if dtype not in engines.module(engine).DTYPES:
            note = f"{engine} does not compute in {dtype}: left out"
            if note not in notes:
                notes.append(note)
            continue
        yield Variant(engine=engine, dtype=dtype, threads=count, options=_options(spec, engine))


def _loads(spec: Spec, d: Dimensions) -> list[LoadPoint]:
    points: list[LoadPoint] = []
    for kind, inputs, outputs in itertools.product(
        spec.load, spec.input_tokens, spec.output_tokens
    ):
        if inputs + outputs > d.context:
            raise ArmbenchError(
                f"{inputs} input and {outputs} output tokens exceed the model's context "
                f"of {d.context}",
                hint="lower input_tokens or output_tokens",
            )
        for batch in spec.batch if kind == "offline" else [1]:
            point = LoadPoint(
                kind="offline" if kind == "offline" else "single_stream",
                batch=batch,
                input_tokens=inputs,
                output_tokens=outputs,
                requests=spec.requests,
            )
            points.append(point)
    return points


def interleaved(cases: list[Case], repeats: int, seed: int) -> list[tuple[int, int]]:
    """(case id, repeat) in the order to run: every case once per round, each round shuffled."""
    shuffle = random.Random(seed)
    order: list[tuple[int, int]] = []
    for repeat in range(repeats):
        ids = [case.id for case in cases]
        shuffle.shuffle(ids)
        order += [(i, repeat) for i in ids]
    return order


def resolve(spec: Spec, machine: Machine, d: Dimensions) -> Plan:
    """Every case of `spec` on `machine` for a model of sizes `d`.

    Raises ArmbenchError where nothing is left to run, or more is asked than the machine has.
    """
    wish = parse_wish(spec.placement)
    threads = spec.threads or [placement.default_threads(machine, wish)]
    where = placement.place(machine, max(threads), wish)
    notes = list(where.notes)
    wished = placement.default_instances(machine, wish)
    if wished > 1:
        notes.append(f"placement {wish.name} has {wished} instances; a run takes the first of them")
    variants = list(_variants(spec, threads, notes))
    loads = _loads(spec, d)
    pairs = itertools.product(variants, loads)
    cases = [Case(id=i, variant=v, load=p) for i, (v, p) in enumerate(pairs)]
    return Plan(
        name=spec.name,
        model=spec.model,
        cases=cases,
        repeats=spec.repeats,
        seed=spec.seed,
        cpus=where.cpus,
        driver_cpus=where.driver,
        placement=where.wish,
        time_budget_s=_duration(spec.time_budget),
        trial_timeout_s=_duration(spec.trial_timeout),
        order=interleaved(cases, spec.repeats, spec.seed),
        notes=notes,
        # The fake engine's figures are its options: there is nothing to hold against the machine.
        ceilings=spec.ceilings and any(v.engine != "fake" for v in variants),
    )


def case_memory(case: Case, d: Dimensions) -> int:
    """Estimated peak bytes of the engine process of `case`."""
    v, load = case.variant, case.load
    assert v.dtype is not None  # a plan names it
    context = load.input_tokens + load.output_tokens
    return engines.module(v.engine).memory_bytes(d, v.dtype, load.batch, context, v.options)
