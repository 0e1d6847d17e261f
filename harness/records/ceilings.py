"""What a machine can do at best, as our own kernels measured it on one cpuset.

A value is the best of its repeats, each sustained for at least a tenth of a second (short form:
less); the repeats and their spread are kept beside it. An unknown value is None with a reason.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from harness.records.machine import Machine

SURVEY_SCHEMA = 1


class Ceiling(Struct, kw_only=True):
    """The best rate of one kind (`read`, `fma_f32`, `i8`) on one cpuset.

    `spread` is (best - median) / best. `bytes` is the working set of one thread. `per_thread`,
    `huge_share` (of the working sets, in huge pages) and `cpu_share` (the least share of the time
    that a thread had its CPU to itself) are those of the best repeat.
    """

    name: str
    unit: str | None = None  # bytes/s, ops/s, s (of one load), Hz
    value: float | None = None
    reason: str | None = None
    kernel: str | None = None  # avx512/read_u64
    isa: str | None = None
    threads: int = 0
    bytes: int | None = None
    vector_bytes: int | None = None  # scalable kernels only
    repeats: list[float] = field(default_factory=list)
    repeat_s: float | None = None
    spread: float | None = None
    per_thread: list[float] = field(default_factory=list)
    huge_share: float | None = None
    cpu_share: float | None = None
    ops_per_s: float | None = None  # of a kernel whose value counts bytes
    tuning: dict[str, int] = field(default_factory=dict)  # streams, ahead, nontemporal


class Ceilings(Struct, kw_only=True):
    """All that was measured on one cpuset at one time; `cpus` is a kernel list.

    `clock_hz` is the running clock before and after, by a chain of dependent additions.
    """

    cpus: str
    threads: int
    short: bool
    at_ns: int  # CLOCK_MONOTONIC
    took_s: float
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    node: int | None = None
    clock_hz: list[float] = field(default_factory=list)
    compiler: str | None = None
    build: str | None = None  # key of sources, compiler and flags
    notes: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """The ceiling of that name, or None where it is unknown or was not asked for."""
        found = self.ceilings.get(name)
        return found.value if found else None

    @property
    def read_bytes_per_s(self) -> float | None:
        """What decode is held against."""
        return self.value("read")

    def ops_per_s(self, kind: str) -> float | None:
        """The compute ceiling of `f32`, `bf16` or `i8`: the best of every kernel of that type."""
        best = [c.value for n, c in self.ceilings.items() if _computes(n, kind) and c.value]
        return max(best, default=None)

    def ops_per_cycle(self, name: str) -> float | None:
        """Operations per cycle of one core, from the clock that ran."""
        value = self.value(name)
        if value is None or not self.clock_hz or not self.threads:
            return None
        return value / self.threads / max(self.clock_hz)


def _computes(name: str, kind: str) -> bool:
    operation, _, of = name.rpartition("_")
    return of == kind and operation in ("", "fma", "dot", "mmla", "gemm")


class Scaling(Struct, kw_only=True):
    """One kind by number of threads; `knee` is the least that reaches 0.95 of the best value."""

    name: str
    unit: str | None
    cpus: list[str]
    threads: list[int]
    values: list[float | None]
    knee: int | None = None
    unknown: dict[str, str] = field(default_factory=dict)


class CachePoint(Struct, kw_only=True):
    """One working set of one thread."""

    bytes: int
    read_bytes_per_s: float | None = None  # of all threads together
    latency_s: float | None = None  # of one dependent load


class CacheCurve(Struct, kw_only=True):
    """Reading and latency by working set, so that each cache shows as a step."""

    cpus: str
    threads: int
    points: list[CachePoint] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)


class Calibration(Struct, kw_only=True):
    """A few ceilings measured once more, by the same kernels: `values` by name, in their units."""

    when: Literal["before", "after"]  # the trials of a run
    at_ns: int  # CLOCK_MONOTONIC
    cpus: str
    threads: int
    took_s: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


class Survey(Struct, kw_only=True):
    """Everything `armbench ceilings` measured at one time: one file.

    `ceilings` is ordered by thread count; the last one has every kind.
    """

    schema: int
    armbench: str
    created: str  # UTC, ISO 8601
    machine: Machine
    placement: str
    short: bool
    ceilings: list[Ceilings] = field(default_factory=list)
    scaling: list[Scaling] = field(default_factory=list)
    curve: CacheCurve | None = None
