"""Measures ceilings: finds the best kernel and setting shortly, then holds it for a while."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from harness.ceilings import driver
from harness.ceilings.build import Build, build_kernels
from harness.ceilings.driver import DriverFailed, Kernel, Repetition
from harness.errors import ArmbenchError, unknown_name
from harness.records.ceilings import (
    CacheCurve,
    CachePoint,
    Calibration,
    Ceiling,
    Ceilings,
    Scaling,
)
from harness.units import format_bytes, format_cpu_list, parse_cpu_list

# What can be asked for: a name, and the operations and types that compete for it. Any
# `operation_type` of a kernel is a name as well.
KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "read": (("read", "u64"),),
    "copy": (("copy", "u64"),),
    "triad": (("triad", "f64"),),
    "write": (("write", "u64"),),
    "latency": (("latency", "u64"),),
    "f32": (("fma", "f32"), ("gemm", "f32")),
    "bf16": (("dot", "bf16"), ("mmla", "bf16"), ("gemm", "bf16")),
    "i8": (("dot", "i8"), ("mmla", "i8"), ("gemm", "i8")),
    "gemv_i4": (("gemv", "i4"),),
}
DEFAULT = ("read", "copy", "triad", "write", "latency", "f32", "bf16", "i8", "gemv_i4")
SHORT = ("read", "f32", "bf16", "i8")

STREAMS = (1, 2, 4, 8)
AHEAD = (0, 512, 2048, 4096)
_MEMORY = ("read", "copy", "triad", "write", "latency", "gemv")
_PAGE = 64 << 10  # the largest of Arm and x86
_CURVE_BYTES = 256 << 20  # of a thread, where the curve ends
_LEAST_BYTES = 32 << 20  # of one thread, where the last cache's size is not given
_STEADY = 0.005  # a best that repeats this closely is believed
_KNEE = 0.95
_AGAIN_S = 0.05
_OWN = 0.97  # below this share of its CPU a thread was disturbed


@dataclass(frozen=True)
class _Effort:
    """How long things take: one look while exploring, one repeat, all repeats of a kind."""

    look_s: float
    repeat_s: float
    least_repeats: int
    limit_s: float
    finalists: int
    total_bytes: int  # that a working set for memory has at least
    streams: tuple[int, ...]
    ahead: tuple[int, ...]


_LONG = _Effort(0.04, 0.15, 5, 3.0, 4, 512 << 20, STREAMS, AHEAD)
_BRIEF = _Effort(0.01, 0.06, 3, 0.3, 2, 256 << 20, (2, 8), (0, 2048))


@dataclass(frozen=True)
class _Place:
    """Where to measure, with what."""

    build: Build
    kernels: list[Kernel]
    features: frozenset[str]
    cpus: tuple[int, ...]
    node: int | None
    bytes: int
    notes: tuple[str, ...]


def measure(
    cpus: Sequence[int],
    *,
    features: Sequence[str],
    which: Sequence[str] | None = None,
    short: bool = False,
    node: int | None = None,
    llc_bytes: int | None = None,
    private_bytes: int | None = None,
    most_bytes: int | None = None,
    built: Build | None = None,
) -> Ceilings:
    """The ceilings of these CPUs, one pinned thread on each.

    `features` are the CPU's, as the kernel spells them; no kernel that needs another is called.
    `node` binds the memory; without it, and where the kernel refuses, each thread's lies where it
    was touched first. A working set for memory is several times `llc_bytes`, of all last-level
    caches together, and `private_bytes`, of a core's own largest cache; all threads' take
    `most_bytes` at most. The short
    form takes less than five seconds once the kernels are built. Where there is no compiler every
    ceiling is unknown, with the reason. Raises ArmbenchError for a name that no kernel answers to.
    """
    began = time.monotonic_ns()
    names = tuple(which) if which is not None else (SHORT if short else DEFAULT)
    effort = _BRIEF if short else _LONG
    result = Ceilings(
        cpus=format_cpu_list(cpus),
        threads=len(cpus),
        short=short,
        at_ns=began,
        took_s=0.0,
        node=node,
    )
    try:
        size = thread_bytes(len(cpus), llc_bytes, private_bytes, effort.total_bytes)
        place = _place(cpus, features, node, size, most_bytes, built)
    except (ArmbenchError, DriverFailed) as error:
        hint = f" ({error.hint})" if isinstance(error, ArmbenchError) and error.hint else ""
        for name in names:
            _add(result, Ceiling(name=name, reason=f"{error}{hint}"))
        return result
    result.compiler, result.build, result.node = place.build.compiler, place.build.key, place.node
    result.notes += place.notes
    result.notes += [f"{k} was not built: {why}" for k, why in place.build.skipped.items()]
    before = _clock(place, effort)
    for name in names:
        _add(result, _ceiling(place, name, effort))
    _look_again(result, place, effort)
    result.clock_hz = before + _clock(place, effort)
    result.took_s = (time.monotonic_ns() - began) * 1e-9
    return result


def _look_again(result: Ceilings, place: _Place, effort: _Effort) -> None:
    """Measures read once more where a product with weights read faster: then others used memory.

    On a shared server the bandwidth there is to have moves by the minute.
    """
    weights, read = result.value("gemv_i4"), result.value("read")
    if weights is None or read is None or weights <= read:
        return
    again = _ceiling(place, "read", effort)
    result.notes.append(
        f"reading was measured twice, since int4 weights were read faster than it at first:"
        f" {read / 1e9:.1f} GB/s, then {(again.value or 0) / 1e9:.1f} GB/s"
    )
    if again.value and again.value > read:
        result.ceilings["read"] = again


def _place(
    cpus: Sequence[int],
    features: Sequence[str],
    node: int | None,
    size: int,
    most_bytes: int | None,
    built: Build | None,
) -> _Place:
    """Where to measure, as far as memory lies on `node` and there is enough for it."""
    ready, notes = built or build_kernels(), []
    if node is not None and (refused := _refuses(ready, cpus, node)):
        notes.append(f"memory lies where each thread touched it first, since the driver {refused}")
        node = None
    most = size if most_bytes is None else max(_PAGE, most_bytes // len(cpus))
    if most < size:
        notes.append(
            f"working sets are {format_bytes(most)} a thread, not {format_bytes(size)}: there is "
            "no more memory for them, and caches may hold a part"
        )
    return _Place(
        build=ready,
        kernels=driver.kernels(ready),
        features=frozenset(features),
        cpus=tuple(cpus),
        node=node,
        bytes=min(size, most),
        notes=tuple(notes),
    )


def _refuses(built: Build, cpus: Sequence[int], node: int) -> str | None:
    """Why a thread can't take its memory from `node`: containers forbid it, as a rule."""
    kernels = ["portable/clock_u64"]
    lines = driver.run(built, kernels, cpus[:1], seconds=0.001, node=node)
    return next((line.error for line in lines if line.error and "bind" in line.error), None)


def thread_bytes(threads: int, llc_bytes: int | None, private_bytes: int | None, total: int) -> int:
    """A thread's share of a working set that neither the last caches nor its own can hold."""
    if llc_bytes is None:
        return max(total // threads, _LEAST_BYTES)
    return max(total // threads, 8 * llc_bytes // threads, 8 * (private_bytes or 0))


def _add(result: Ceilings, found: Ceiling) -> None:
    result.ceilings[found.name] = found
    if found.cpu_share is not None and found.cpu_share < _OWN:
        result.notes.append(
            f"{found.name} is too low: other work took {1 - found.cpu_share:.0%} of a CPU even in"
            " the best repeat"
        )
    if found.value is None:
        result.unknown[found.name] = found.reason or "no reason was given"


def _clock(place: _Place, effort: _Effort) -> list[float]:
    try:
        lines = driver.run(place.build, ["portable/clock_u64"], place.cpus, seconds=effort.look_s)
    except DriverFailed:
        return []
    return [line.value for line in lines if line.error is None]


def candidates(kernels: Sequence[Kernel], features: frozenset[str], name: str) -> list[Kernel]:
    """The kernels that may run for `name`: all whose features are there, plain C only if alone.

    Raises ArmbenchError where no kernel of this architecture answers to the name.
    """
    known = {f"{k.operation}_{k.type}": ((k.operation, k.type),) for k in kernels} | KINDS
    if name not in known:
        raise unknown_name("ceiling", name, known)
    fit = [k for k in kernels if (k.operation, k.type) in known[name] and not k.lacks(features)]
    return [k for k in fit if not k.is_portable] or fit


def _ceiling(place: _Place, name: str, effort: _Effort) -> Ceiling:
    chosen = candidates(place.kernels, place.features, name)
    unit = chosen[0].unit if chosen else None
    empty = Ceiling(name=name, unit=unit, threads=len(place.cpus))
    try:
        looks = _run(place, chosen, effort, effort.look_s, 1, effort.streams, effort.ahead, (0, 1))
    except DriverFailed as error:
        empty.reason = str(error)
        return empty
    good = [line for line in looks if line.error is None]
    if not good:
        empty.reason = next((line.error for line in looks if line.error), "no kernel to run")
        return empty
    finalists = sorted(good, key=lambda line: line.rank, reverse=True)[: effort.finalists]
    try:
        return _hold(place, name, finalists, effort)
    except DriverFailed as error:
        empty.reason = str(error)
        return empty


def _hold(place: _Place, name: str, finalists: Sequence[Repetition], effort: _Effort) -> Ceiling:
    """Repeats the finalists by turns until the best one repeats itself, or time is up."""
    until = time.monotonic() + effort.limit_s
    lines: list[Repetition] = []
    by_name = {k.name: k for k in place.kernels}
    while True:
        for pick in finalists:
            again = _run(
                place,
                [by_name[pick.kernel]],
                effort,
                effort.repeat_s,
                effort.least_repeats,
                (pick.streams,),
                (pick.ahead,),
                (pick.nontemporal,),
            )
            lines += [line for line in again if line.error is None]
            if time.monotonic() > until and lines:
                break
        if not lines:
            raise DriverFailed("the kernel ran once, and then no more")
        ranked = sorted(lines, key=lambda line: line.rank, reverse=True)
        third = ranked[min(2, len(ranked) - 1)]
        steady = abs(ranked[0].value - third.value) <= _STEADY * abs(ranked[0].value)
        if (steady and ranked[0].cpu_share >= _OWN) or time.monotonic() > until:
            return _summary(name, ranked[0], lines)


def _summary(name: str, best: Repetition, lines: Sequence[Repetition]) -> Ceiling:
    values = [line.value for line in lines if line.setting == best.setting]
    memory = best.bytes * best.threads
    return Ceiling(
        name=name,
        unit=best.unit,
        value=best.value,
        kernel=best.kernel,
        isa=best.kernel.split("/")[0],
        threads=best.threads,
        bytes=best.bytes or None,
        vector_bytes=best.vector_bytes or None,
        repeats=values,
        repeat_s=best.seconds,
        spread=abs(best.value - median(values)) / best.value,
        per_thread=best.per_thread,
        cpu_share=best.cpu_share,
        huge_share=min(1.0, best.huge_bytes / memory) if memory else None,
        ops_per_s=best.ops_per_s if best.unit == "bytes/s" and best.ops_per_s else None,
        tuning={"streams": best.streams, "ahead": best.ahead, "nontemporal": best.nontemporal},
    )


def _run(
    place: _Place,
    kernels: Sequence[Kernel],
    effort: _Effort,
    seconds: float,
    repeats: int,
    streams: Sequence[int],
    ahead: Sequence[int],
    bypass: Sequence[int],
) -> list[Repetition]:
    big = any(k.operation in _MEMORY for k in kernels)
    return driver.run(
        place.build,
        [k.name for k in kernels],
        place.cpus,
        seconds=seconds,
        repeats=repeats,
        bytes=place.bytes if big else 1 << 20,
        streams=tuple(streams),
        ahead=tuple(ahead),
        nontemporal=tuple(bypass),
        node=place.node,
    )


def again(
    known: Ceilings, names: Sequence[str], when: Literal["before", "after"], built: Build
) -> Calibration:
    """Some of `known` once more, by the kernels and settings that were best: under a second each.

    A ceiling that is not known, or cannot be run now, is unknown here with the reason.
    """
    began = time.monotonic_ns()
    cpus = parse_cpu_list(known.cpus)
    found = Calibration(when=when, at_ns=began, cpus=known.cpus, threads=known.threads)
    for name in names:
        ceiling = known.ceilings.get(name)
        if ceiling is None or ceiling.kernel is None:
            found.unknown[name] = known.unknown.get(name, "it was not measured before")
            continue
        try:
            lines = driver.run(
                built,
                [ceiling.kernel],
                cpus,
                seconds=_AGAIN_S,
                repeats=4,
                bytes=ceiling.bytes or 1 << 20,
                node=known.node,
                **ceiling.tuning,
            )
        except DriverFailed as error:
            found.unknown[name] = str(error)
            continue
        value = _best(lines)
        if value is None:
            found.unknown[name] = next((x.error for x in lines if x.error), "no repeat ended")
        else:
            found.values[name] = value
    found.took_s = (time.monotonic_ns() - began) * 1e-9
    return found


def scaling(
    cpus: Sequence[int],
    *,
    features: Sequence[str],
    threads: Sequence[int] | None = None,
    which: Sequence[str] = ("read", "f32"),
    short: bool = True,
    llc_bytes: int | None = None,
    built: Build | None = None,
) -> list[Scaling]:
    """Each kind on the first 1, 2, 4 … of `cpus` (or the counts in `threads`)."""
    counts = sorted(set(threads or doubling(len(cpus))))
    if not counts or counts[0] < 1 or counts[-1] > len(cpus):
        raise ArmbenchError(
            f"a scaling curve over {', '.join(map(str, counts))} threads does not fit"
            f" {len(cpus)} CPUs ({format_cpu_list(cpus)})",
            hint="give thread counts from 1 to the number of CPUs",
        )
    runs = [
        measure(
            cpus[:n], features=features, which=which, short=short, llc_bytes=llc_bytes, built=built
        )
        for n in counts
    ]
    return curves(runs, which)


def curves(runs: Sequence[Ceilings], which: Sequence[str]) -> list[Scaling]:
    """Each kind by number of threads, from measurements on ever more CPUs."""
    return [_curve(name, [run.threads for run in runs], runs) for name in which]


def doubling(most: int) -> list[int]:
    """1, 2, 4 … and `most`."""
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return sorted({*counts, most})


def _curve(name: str, counts: Sequence[int], runs: Sequence[Ceilings]) -> Scaling:
    values = [run.value(name) for run in runs]
    best = max((v for v in values if v is not None), default=None)
    knee = next(
        (n for n, v in zip(counts, values, strict=True) if best and v and v >= _KNEE * best), None
    )
    return Scaling(
        name=name,
        unit=next((c.unit for run in runs if (c := run.ceilings.get(name)) and c.unit), None),
        cpus=[run.cpus for run in runs],
        threads=list(counts),
        values=values,
        knee=knee,
        unknown={str(r.threads): r.unknown[name] for r in runs if name in r.unknown},
    )


def cache_sizes(most: int, least: int = 4096) -> list[int]:
    """Working sets from `least` to `most`, two to each doubling."""
    sizes = [least]
    while sizes[-1] < most:
        step = sizes[-1]
        sizes += [step * 3 // 2, step * 2]
    return [s for s in sizes if s <= most]


def cache_curve(
    cpus: Sequence[int],
    *,
    features: Sequence[str],
    sizes: Sequence[int] | None = None,
    seconds: float = 0.03,
    node: int | None = None,
    most_bytes: int | None = None,
    built: Build | None = None,
) -> CacheCurve:
    """Read rate of all threads, and latency of one, by each thread's working set.

    All threads' together take `most_bytes` at most.
    """
    curve = CacheCurve(cpus=format_cpu_list(cpus), threads=len(cpus))
    try:
        place = _place(cpus, features, node, _CURVE_BYTES, most_bytes, built)
        read = candidates(place.kernels, place.features, "read")
        widest = [max(read, key=lambda k: k.loop_bytes * (2 if k.scalable else 1)).name]
        for size in sizes or cache_sizes(place.bytes):
            point = CachePoint(bytes=size)
            point.read_bytes_per_s = _best(
                driver.run(
                    place.build,
                    widest,
                    cpus,
                    seconds=seconds,
                    repeats=2,
                    bytes=size,
                    streams=(1, 4),
                    node=place.node,
                )
            )
            point.latency_s = _best(
                driver.run(
                    place.build,
                    ["portable/latency_u64"],
                    cpus[:1],
                    seconds=seconds,
                    repeats=2,
                    bytes=size,
                    node=place.node,
                )
            )
            curve.points.append(point)
    except (ArmbenchError, DriverFailed) as error:
        curve.unknown["points"] = str(error)
    return curve


def _best(lines: Sequence[Repetition]) -> float | None:
    good = [line for line in lines if line.error is None]
    return max(good, key=lambda line: line.rank).value if good else None
