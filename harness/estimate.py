"""Rough time and memory of a plan before anything is loaded: for `--dry-run`."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from harness import fit
from harness.fit import Speed
from harness.model.architecture import Dimensions, parameters
from harness.records.run import Case, Plan

# A guess of the share of these two rates that an engine reaches.
_SHARE = 0.6
_LOAD_BYTES_PER_S = 0.7e9  # reading, converting and packing weights


def rates(threads: int) -> tuple[float, float]:
    """(bytes per second read, float32 operations per second) of NumPy on `threads`."""
    import numpy as np

    parts = [np.ones(1 << 23, dtype=np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        read = min(_timed(lambda: list(pool.map(lambda part: part.max(), parts))) for _ in range(5))
    square = np.ones((1024, 1024), dtype=np.float32)
    product = min(_timed(lambda: square @ square) for _ in range(5))
    return sum(part.nbytes for part in parts) / read, 2 * 1024**3 / product


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def case_speed(case: Case, d: Dimensions, read: float, compute: float) -> Speed:
    """Guessed times of `case` from NumPy's rates on all CPUs, which its instances share."""
    width = 2 if case.variant.dtype == "bfloat16" else 4
    body = parameters(d) - (0 if d.tied else d.vocabulary * d.hidden)
    tokens = case.load.batch * case.load.input_tokens
    share = _SHARE / case.variant.instances
    return Speed(
        load_s=parameters(d) * width / _LOAD_BYTES_PER_S,
        prefill_s=2 * (body - d.vocabulary * d.hidden) * tokens / (share * compute),
        step_s=body * width / (share * read),
    )


def guess(plan: Plan, d: Dimensions) -> float:
    """Guessed seconds of the plan's trials, after its lengths were fitted to its budget."""
    read, compute = rates(len(plan.cpus))
    return fit.fit(plan, {c.id: case_speed(c, d, read, compute) for c in plan.cases})
