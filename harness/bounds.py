"""What a case could reach at best: its footprint held against the ceilings measured here."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from harness.model.footprint import Footprint, ModelShape, Quantisation, weight_format
from harness.records.ceilings import Calibration, Ceilings
from harness.records.model import Dimensions
from harness.records.run import Case, Result, Stored
from harness.units import format_cpu_list

# Types that products of a compute type may be carried out in: a library is free to widen them.
MAY_BE = {"f32": ("f32",), "bf16": ("bf16", "f32"), "i8": ("i8", "bf16", "f32")}


class Bounds(Struct, frozen=True, kw_only=True):
    """The footprint of one variant, and the two rates that bound it; None is unknown."""

    footprint: Footprint
    read_bytes_per_s: float | None = None
    ops_per_s: float | None = None

    def seconds(self, read: float, ops: float) -> tuple[float | None, float | None]:
        """The least seconds for `read` bytes, and for `ops` operations."""
        reading = read / self.read_bytes_per_s if self.read_bytes_per_s else None
        return reading, ops / self.ops_per_s if self.ops_per_s else None

    def least_s(self, read: float, ops: float) -> float | None:
        """The least seconds for both, one beside the other; None where neither rate is known."""
        known = [s for s in self.seconds(read, ops) if s is not None]
        return max(known, default=None)


def footprint(result: Result, case: Case) -> Footprint | None:
    """What a token costs `case`; None in a result that does not tell sizes or formats."""
    stored = stored_of(result, case)
    if stored is None or result.model.sizes is None:
        return None
    return as_stored(result.model.sizes, stored)


def as_stored(sizes: Dimensions, stored: Stored) -> Footprint:
    """What a token costs a model of `sizes` that is kept as `stored` says."""
    weights = Quantisation.of(stored.body)
    if stored.head:
        weights = replace(weights, head=weight_format(stored.head))
    return Footprint(
        shape=ModelShape(sizes), weights=weights, kv_element_bytes=stored.kv_element_bytes
    )


def stored_of(result: Result, case: Case) -> Stored | None:
    """How the engine of `case` keeps the model, as its check says."""
    return next((c.stored for c in result.checks if c.variant == case.variant), None)


def measured(result: Result, case: Case) -> Iterator[Ceilings | Calibration]:
    """The ceilings and calibrations of the CPUs that `case` ran on."""
    cpus = format_cpu_list(result.plan.cpus_of(case.variant))
    yield from (c for c in result.ceilings if c.cpus == cpus)
    yield from (c for c in result.calibrations if c.cpus == cpus)


def of_case(result: Result, case: Case) -> Bounds | None:
    """The bounds of `case`, or None where its footprint is not known.

    A ceiling is the best rate that was sustained: a calibration that was faster raises it.
    """
    found, stored = footprint(result, case), stored_of(result, case)
    if found is None or stored is None:
        return None
    reads, ops = [], []
    for one in measured(result, case):
        if isinstance(one, Ceilings):
            reads.append(one.read_bytes_per_s)
            ops += [one.ops_per_s(kind) for kind in MAY_BE.get(stored.compute, ())]
        else:
            reads.append(one.values.get("read"))
            ops += [one.values.get(kind) for kind in MAY_BE.get(stored.compute, ())]
    return Bounds(
        footprint=found,
        read_bytes_per_s=max(filter(None, reads), default=None),
        ops_per_s=max(filter(None, ops), default=None),
    )
