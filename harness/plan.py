"""From a plan file and flags to a `Plan`: every default written out, every case spelt."""

from __future__ import annotations

import itertools
import math
import random
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import field

from harness import engines, places, store
from harness.errors import ArmbenchError, unknown_name
from harness.load import keys
from harness.load.keys import LoadKeys
from harness.machine import placement
from harness.machine.wish import Wish, parse_wish
from harness.model.architecture import Dimensions
from harness.records.load import Lengths, ServeSetting
from harness.records.machine import Machine
from harness.records.run import Case, LoadPoint, Plan, Variant
from harness.units import parse_duration

BATCHED = ("single_stream", "offline")  # in-process, batch by batch
SERVED = ("closed", "open")  # over HTTP, request by request
LOADS = (*BATCHED, *SERVED)

_SLOTS = 8  # sequences at once where neither slots nor a concurrency says it
_TEMPLATE_TOKENS = 64  # what a chat template may add


class Spec(LoadKeys, kw_only=True, forbid_unknown_fields=True):
    """A plan as it is written. Keys that take a list span the Cartesian product of their values."""

    name: str = "custom"
    model: str = "qwen2.5-0.5b"
    engine: list[str] = field(default_factory=lambda: ["torch", "onnxruntime"])
    dtype: list[str] = field(default_factory=lambda: ["float32"])
    threads: list[int] = field(default_factory=list)  # none: one per physical core
    instances: list[int] = field(default_factory=list)  # none: one, or as many as placement has
    load: list[str] = field(default_factory=lambda: list(BATCHED))
    batch: list[int] = field(default_factory=lambda: [4])
    slots: int | None = None
    chunk: int = 128
    server: str | None = None
    binary: str | None = None
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
    unchecked: bool = False


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
    _check_names(spec)
    _check_numbers(spec)
    keys.check(spec)
    if store.safe_name(spec.name) == store.CEILINGS:
        raise ArmbenchError(
            f"plan key name is {spec.name!r}, the folder of what `armbench ceilings` measures",
            hint="choose another name",
        )


def _check_names(spec: Spec) -> None:
    for name in spec.engine:
        engines.module(name)
    for load in spec.load:
        if load not in LOADS:
            raise unknown_name("load", load, LOADS)
    for key in ("engine", "dtype", "load", "batch", "input_tokens", "output_tokens"):
        if not getattr(spec, key):
            raise ArmbenchError(f"plan key {key} is an empty list", hint="give at least one value")
    for engine in spec.options:
        if engine not in engines.names():
            raise unknown_name("engine in plan key options", engine, engines.names())


def _check_numbers(spec: Spec) -> None:
    for key in ("threads", "instances", "batch", "input_tokens", "output_tokens"):
        for value in getattr(spec, key):
            if isinstance(value, int):
                _check_positive(key, value)
    for key in ("repeats", "chunk"):
        _check_positive(key, getattr(spec, key))
    if spec.slots is not None:
        _check_positive("slots", spec.slots)


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


Shape = tuple[int, int]  # threads of each instance, instances


def shapes(spec: Spec, machine: Machine, wish: Wish) -> list[Shape]:
    """Every number of threads with every number of instances, as asked or by default."""
    counts = spec.instances or [placement.default_instances(machine, wish)]
    if spec.threads:
        return list(itertools.product(spec.threads, counts))
    return [(placement.default_threads(machine, wish, count), count) for count in counts]


def _variants(spec: Spec, fitting: list[Shape], notes: list[str]) -> Iterator[Variant]:
    served = {d for e in spec.engine for d in engines.module(e).DTYPES}
    for dtype in spec.dtype:
        if dtype not in served:
            raise unknown_name(f"dtype for {', '.join(spec.engine)}", dtype, served)
    for engine, dtype, shape in itertools.product(spec.engine, spec.dtype, fitting):
        if dtype not in engines.module(engine).DTYPES:
            note = f"{engine} does not compute in {dtype}: left out"
            if note not in notes:
                notes.append(note)
            continue
        yield Variant(
            engine=engine,
            dtype=dtype,
            threads=shape[0],
            options=_options(spec, engine),
            instances=shape[1],
        )


def _whole(key: str, value: int | str) -> int:
    """A fixed length. Raises ArmbenchError for a distribution, which only served loads know."""
    if not str(value).isdecimal():
        raise ArmbenchError(
            f"{key} is {value!r}, a distribution",
            hint="loads single_stream and offline have fixed lengths; closed and open vary them",
        )
    return int(value)


def longest(lengths: Lengths) -> int:
    """The most tokens that are to be expected: the bound, or four standard deviations up."""
    if lengths.high is not None:
        return lengths.high
    if lengths.kind == "lognormal":
        return math.ceil(lengths.mean * math.exp(4 * lengths.sd))
    return math.ceil(lengths.mean + 4 * lengths.sd)


def serve_setting(spec: Spec, load: LoadPoint, d: Dimensions) -> ServeSetting | None:
    """How our server is set for `load`; None for a load that needs none.

    The context holds the longest request with room for a chat template, as far as the model's
    own goes.
    """
    serving = load.serving
    if serving is None or serving.input is None or serving.output is None:
        return None
    turn = longest(serving.input) + longest(serving.output)
    context = min(d.context, serving.sharing.turns * turn + _TEMPLATE_TOKENS)
    slots = spec.slots or max([*spec.concurrency, _SLOTS])
    return ServeSetting(slots=slots, context=context, chunk=spec.chunk, kv_tokens=slots * context)


def _loads(spec: Spec, d: Dimensions) -> list[LoadPoint]:
    points = [p for kind in spec.load if kind in SERVED for p in keys.points(spec, kind)]
    for kind, given, asked in itertools.product(
        [kind for kind in spec.load if kind in BATCHED], spec.input_tokens, spec.output_tokens
    ):
        inputs, outputs = _whole("input_tokens", given), _whole("output_tokens", asked)
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
                requests=spec.requests or 1,
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
    asked = shapes(spec, machine, wish)
    where = placement.lay_out(machine, asked, wish)
    placed = {(one.threads, one.instances) for one in where.places}
    notes = list(where.notes)
    fitting = [shape for shape in dict.fromkeys(asked) if shape in placed]
    variants = list(_variants(spec, fitting, notes))
    loads = _loads(spec, d)
    pairs = itertools.product(variants, loads)
    cases = [
        Case(id=i, variant=v, load=p, serve=serve_setting(spec, p, d))
        for i, (v, p) in enumerate(pairs)
    ]
    return Plan(
        name=spec.name,
        model=spec.model,
        cases=cases,
        repeats=spec.repeats,
        seed=spec.seed,
        cpus=where.cpus,
        driver_cpus=where.driver,
        placement=wish.name,
        time_budget_s=_duration(spec.time_budget),
        trial_timeout_s=_duration(spec.trial_timeout),
        order=interleaved(cases, spec.repeats, spec.seed),
        notes=notes,
        # The fake engine's figures are its options: there is nothing to hold against the machine.
        ceilings=spec.ceilings and any(v.engine != "fake" for v in variants),
        places=where.places,
        unchecked=spec.unchecked,
    )


def case_memory(case: Case, d: Dimensions) -> int:
    """Estimated peak bytes of the engine processes of `case`, all instances together."""
    v = case.variant
    assert v.dtype is not None  # a plan names it
    shared = engines.shared_bytes(v.engine, d, v.dtype, v.options)
    one = _instance_memory(case, v.dtype, d)
    return one + (v.instances - 1) * max(0, one - shared)


def _instance_memory(case: Case, dtype: str, d: Dimensions) -> int:
    v, load = case.variant, case.load
    if case.serve is not None:
        return engines.serving_bytes(v.engine, d, dtype, case.serve, v.options)
    context = load.input_tokens + load.output_tokens
    return engines.module(v.engine).memory_bytes(d, dtype, load.batch, context, v.options)
