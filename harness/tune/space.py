"""The space of a search: every candidate there is here, and those that can't even be tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

from harness import engines, plan
from harness.errors import ArmbenchError, unknown_name
from harness.load.slo import format_bounds
from harness.machine import placement
from harness.machine.limits import available_bytes
from harness.machine.wish import Wish, parse_wish
from harness.model.architecture import Dimensions
from harness.records.machine import Machine
from harness.records.run import Case, Plan
from harness.records.tune import Asked, Candidate, Left, Objective, TunedLoad
from harness.tune.objective import requests_of
from harness.units import format_bytes, parse_cpu_list

# Searched only where they are named: the fake engine's figures are its options, and transformers is
# the yardstick of engine torch, which runs the same library with less around it.
_NOT_BY_DEFAULT = ("fake", "transformers")
_MANY_CORES = 16  # from here on a larger batch may pay


class Wanted(Struct, kw_only=True):
    """What flags restrict the space to; an empty list leaves a knob to the machine.

    `options` are engine options that are fixed, by engine; `tunable` says whether those that an
    engine declares are searched.
    """

    engine: list[str] = field(default_factory=list)
    dtype: list[str] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    instances: list[int] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    chunk: list[int] = field(default_factory=list)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    tunable: bool = True


class Room(NamedTuple):
    """Where candidates are to run: the machine, the wish, and the memory there is."""

    machine: Machine
    wish: Wish
    memory_bytes: int


class Space(Struct, kw_only=True):
    """Candidates in the order to probe them, the plan of each that can be tried, and the rest."""

    candidates: list[Candidate]
    plans: dict[int, Plan]
    left: list[Left]
    notes: list[str] = field(default_factory=list)


def tunable(engine: str, dtype: str) -> dict[str, Sequence[Any]]:
    """The options that `engine` declares worth a search in `dtype`, with the values to try."""
    module = engines.module(engine)
    return {**getattr(module, "TUNABLE", {}), **getattr(module, "TUNABLE_IN", {}).get(dtype, {})}


# Knobs


def thread_counts(machine: Machine, wish: Wish) -> list[int]:
    """Powers of two, the cores of a last-level cache, of a memory node, and of the machine."""
    if wish.lists is not None:
        most = max(map(len, wish.lists))
        return _powers(most)
    allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
    shape = machine.topology
    firsts = {
        core[0] for core in ([c for c in core if c in allowed] for core in shape.cores) if core
    }
    domains = [len(firsts & set(parse_cpu_list(d))) for d in shape.llc_domains]
    nodes = [len(firsts & set(parse_cpu_list(n.cpus))) for n in shape.nodes]
    most = max(cores(machine), 1)
    counts = {*_powers(most), placement.default_threads(machine, wish), *domains, *nodes, most}
    return sorted(n for n in counts if 0 < n <= most)


def cores(machine: Machine) -> int:
    """Physical cores that this process may use, within the cgroup's quota."""
    allowed = set(parse_cpu_list(machine.limits.allowed_cpus))
    found = sum(bool(allowed & set(core)) for core in machine.topology.cores) or len(allowed)
    quota = machine.limits.cpu_quota
    return found if quota is None else min(found, max(1, int(quota)))


def _powers(most: int) -> list[int]:
    return sorted({most, *(1 << n for n in range(most.bit_length()) if 1 << n <= most)})


def instance_counts(machine: Machine, wish: Wish, threads: int) -> list[int]:
    """One, one for each memory node, and as many as there are cores for, or CPUs are named for."""
    if wish.lists is None:
        full = max(1, cores(machine) // threads)
    elif len(wish.lists) == 1:
        full = max(1, len(wish.lists[0]) // threads)
    else:
        full = len(wish.lists)
    return sorted(n for n in {1, machine.topology.numa_nodes, full} if 1 <= n <= full)


def batches(machine: Machine) -> list[int]:
    """Sequences at once of an instance: powers of four."""
    return [1, 4, 16, 64] if cores(machine) >= _MANY_CORES else [1, 4, 16]


def _option_sets(engine: str, dtype: str, wanted: Wanted) -> list[dict[str, Any]]:
    """The fixed options of `engine`, then each tunable one changed by itself."""
    known, fixed = engines.module(engine).OPTIONS, dict(wanted.options.get(engine, {}))
    found = [fixed]
    for key, values in (tunable(engine, dtype) if wanted.tunable else {}).items():
        if key in fixed:
            continue
        found += [{**fixed, key: value} for value in values if value != known[key]]
    return found


# Candidates


def enumerate_space(asked: Asked, wanted: Wanted, room: Room, d: Dimensions) -> Space:
    """Every candidate by engine, dtype, options, threads, instances, chunk and batch.

    Raises ArmbenchError for a name that does not exist, and where no candidate can be tried.
    """
    names = wanted.engine or [n for n in engines.names() if n not in _NOT_BY_DEFAULT]
    _check_names(names, wanted)
    space = Space(candidates=[], plans={}, left=[])
    for engine in names:
        for dtype in _dtypes(engine, wanted):
            start = len(space.candidates)
            space.candidates += _of_family(asked, wanted, room, engine, dtype)
            _try(space, asked, room, d, range(start, len(space.candidates)))
    if not space.candidates:
        raise ArmbenchError(
            f"no engine of {', '.join(names)} computes in {', '.join(wanted.dtype)}",
            hint="see `armbench engines` for what each can do",
        )
    return space


def _check_names(names: Sequence[str], wanted: Wanted) -> None:
    every = {dtype for name in engines.names() for dtype in engines.module(name).DTYPES}
    for name in names:
        engines.module(name)
    for dtype in wanted.dtype:
        if dtype not in every:
            raise unknown_name("dtype", dtype, every)
    for engine, options in wanted.options.items():
        engines.resolve_options(engine, options)


def _dtypes(engine: str, wanted: Wanted) -> list[str]:
    own = engines.module(engine).DTYPES
    return [dtype for dtype in own if not wanted.dtype or dtype in wanted.dtype]


def _of_family(
    asked: Asked, wanted: Wanted, room: Room, engine: str, dtype: str
) -> Iterator[Candidate]:
    """Candidates of one engine and dtype: the usual shape first, tunable options last."""
    machine, single = room.machine, asked.load == "single_stream"
    usual = placement.default_threads(machine, room.wish)
    threads = wanted.threads or thread_counts(machine, room.wish)
    shapes = [
        (count, instances)
        for count in sorted(threads, key=lambda n: (n != usual, n))
        for instances in _instances(wanted, room, count, single=single)
    ]
    chunks: list[int | None] = [None]
    if asked.load == "closed":
        chunks = [*(wanted.chunk or [plan.Spec().chunk])]
    for options, (count, instances), chunk in itertools.product(
        _option_sets(engine, dtype, wanted), shapes, chunks
    ):
        for batch in [1] if single else (wanted.batch or batches(machine)):
            yield Candidate(
                engine=engine,
                dtype=dtype,
                threads=count,
                instances=instances,
                batch=batch,
                chunk=chunk,
                options=options,
            )


def _instances(wanted: Wanted, room: Room, threads: int, *, single: bool) -> list[int]:
    """Counts of instances; a single stream is answered by one."""
    if single:
        return [1]
    return wanted.instances or instance_counts(room.machine, room.wish, threads)


def groups(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Indices of candidates that differ in batch and chunk only: one process can probe them."""
    found: dict[bytes, list[int]] = {}
    for index, one in enumerate(candidates):
        process = msgspec.structs.replace(one, batch=0, chunk=None)
        key = msgspec.json.encode(process, order="deterministic")
        found.setdefault(key, []).append(index)
    return list(found.values())


# What can't be tried


def _try(space: Space, asked: Asked, room: Room, d: Dimensions, which: Sequence[int]) -> None:
    """Plans for those of `which` that this machine can run, reasons for the others."""
    if not which:
        return
    first = space.candidates[which[0]]
    if missing := engines.missing_packages(first.engine):
        reason = f"{first.engine} needs {', '.join(missing)}, not installed here"
        space.left.append(Left(candidates=list(which), why="missing", reason=reason))
        return
    if asked.load == "closed" and not getattr(engines.module(first.engine), "serves", False):
        reason = f"{first.engine} can't serve, which a closed loop needs"
        space.left.append(Left(candidates=list(which), why="missing", reason=reason))
        return
    reasons: dict[tuple[str, str], list[int]] = {}
    for index in which:
        one = space.candidates[index]
        try:
            engines.resolve_options(one.engine, one.options)
        except ArmbenchError as error:
            reasons.setdefault(("option", error.message), []).append(index)
            continue
        try:
            resolved = resolve(asked, one, room.machine, d)
        except ArmbenchError as error:
            reasons.setdefault(("placement", error.message), []).append(index)
            continue
        if (short := _memory(resolved, room, d)) is not None:
            reasons.setdefault(("memory", short), []).append(index)
            continue
        space.plans[index] = resolved
    for (why, reason), indices in reasons.items():
        space.left.append(Left(candidates=indices, why=why, reason=reason))  # type: ignore[arg-type]


def _memory(resolved: Plan, room: Room, d: Dimensions) -> str | None:
    """Why the case of `resolved` does not fit into memory; None where it does."""
    case = resolved.cases[0]
    needed = plan.case_memory(case, d)
    if needed <= room.memory_bytes:
        return None
    return (
        f"needs about {format_bytes(needed)} of memory, {format_bytes(room.memory_bytes)} are "
        "available"
    )


# One candidate as a plan


def spec_table(
    asked: Asked, one: Candidate, lengths: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The keys of a plan that measures `one`, as `plan.make_spec` and a plan file take them."""
    inputs, outputs = lengths or asked.lengths
    table: dict[str, Any] = {
        "name": "tune",
        "model": asked.model,
        "engine": [one.engine],
        "dtype": [one.dtype],
        "threads": [one.threads],
        "load": [asked.load],
        "input_tokens": [inputs],
        "output_tokens": [outputs],
        "seed": asked.seed,
        "placement": asked.placement,
    }
    if one.instances > 1:
        table["instances"] = [one.instances]
    if asked.load == "offline":
        table["batch"] = [one.batch]
    if asked.load == "closed":
        table |= {"concurrency": [one.batch * one.instances], "slots": one.batch}
        table |= {} if one.chunk is None else {"chunk": one.chunk}
        table |= {"slo": format_bounds(asked.slo.bounds)} if asked.slo else {}
    if (requests := requests_of(asked, one)) > 1:
        table["requests"] = requests
    if one.options:
        table["options"] = {one.engine: one.options}
    return table


def resolve(
    asked: Asked,
    one: Candidate,
    machine: Machine,
    d: Dimensions,
    lengths: tuple[int, int] | None = None,
) -> Plan:
    """The plan whose only case is `one`. Raises ArmbenchError where it can't run here."""
    return plan.resolve(plan.make_spec(spec_table(asked, one, lengths)), machine, d)


def case_of(resolved: Plan, index: int) -> Case:
    """The case of a candidate's plan, with the candidate's index as its id."""
    case = resolved.cases[0]
    case.id = index
    return case


def default_load(objective: Objective, *, slo: bool) -> TunedLoad:
    """A single stream for latency; for throughput a fixed batch, behind our server under an SLO."""
    if objective == "latency":
        return "single_stream"
    return "closed" if slo else "offline"


def room_of(machine: Machine, wish: str) -> Room:
    """The room there is now."""
    return Room(machine, parse_wish(wish), available_bytes(machine.limits))
