"""The best score that ceilings and footprint allow a candidate."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from harness.bounds import MAY_BE, as_stored
from harness.engines import resolve_options, shared_bytes, stored
from harness.records.ceilings import Ceilings
from harness.records.model import Dimensions
from harness.records.tune import Asked, Candidate
from harness.tune.objective import Figures, score

# Weights that the last caches may hold are not bound by what memory delivers.
_CACHED = 2.0


class Rates(Struct, frozen=True, kw_only=True):
    """Ceilings by number of threads, and the bytes of the last-level caches they share."""

    ceilings: Sequence[Ceilings]
    cache_bytes: int | None = None

    def read_bytes_per_s(self, threads: int) -> float | None:
        """What `threads` threads can read at most: no more than so many lone ones, or than any."""
        return self._most(threads, [(c.threads, c.read_bytes_per_s) for c in self.ceilings])

    def ops_per_s(self, threads: int, compute: str) -> float | None:
        """The same of operations of a compute type."""
        rates = [
            (c.threads, max(filter(None, map(c.ops_per_s, MAY_BE.get(compute, ()))), default=None))
            for c in self.ceilings
        ]
        return self._most(threads, rates)

    @staticmethod
    def _most(threads: int, rates: Sequence[tuple[int, float | None]]) -> float | None:
        known = [(n, rate) for n, rate in rates if rate]
        if not known or max(n for n, _ in known) < threads:
            return None
        top = max(rate for _, rate in known)
        return min(top, *(rate / n * threads for n, rate in known if n == 1), top)


def limit(asked: Asked, one: Candidate, d: Dimensions, rates: Rates) -> float | None:
    """The best score of `one`; None where its footprint or the ceilings are not known.

    Instances share the machine's bandwidth and arithmetic. Weights that they map from one file
    count once: where they step alike, one may find in the shared cache what another read.
    """
    options = resolve_options(one.engine, one.options)
    kept = stored(one.engine, one.dtype, options)
    if kept is None:
        return None
    cost, threads = as_stored(d, kept), one.threads * one.instances
    read, ops = rates.read_bytes_per_s(threads), rates.ops_per_s(threads, kept.compute)
    cached = rates.cache_bytes is None or (
        cost.weight_bytes_per_step(1) < _CACHED * rates.cache_bytes
    )
    if read is None or ops is None:
        return None
    inputs, outputs = asked.lengths
    context, sequences = inputs + outputs / 2, one.instances * one.batch
    each = cost.weight_bytes_per_step(one.batch)
    shared = min(each, shared_bytes(one.engine, d, one.dtype, options))
    weights = each + (one.instances - 1) * (each - shared)
    keys = sequences * context * cost.kv_bytes_per_token
    computing = cost.shape.decode_flops(context, batch=sequences) / ops
    step_s = computing if cached else max((weights + keys) / read, computing)
    prefill_s = sequences * cost.shape.prefill_flops(inputs) / ops
    steps = outputs - 1
    rate = sequences * outputs / (prefill_s + steps * step_s)
    if asked.load == "closed":
        # Prompts may ride along with decode steps, whose reading then hides their arithmetic.
        rate = sequences * outputs / max(steps * step_s, prefill_s + steps * computing)
    return score(asked.objective, Figures(rate, step_s, prefill_s))
