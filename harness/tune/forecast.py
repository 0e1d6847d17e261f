"""About how long a search will take, before anything is loaded: for `--dry-run`."""

from __future__ import annotations

from msgspec import Struct

from harness import estimate, fit
from harness.model.architecture import Dimensions
from harness.records.machine import Machine
from harness.records.tune import Asked, Probe
from harness.tune import space
from harness.tune.knowing import trial_s
from harness.tune.probing import probe_seconds
from harness.tune.space import Space


class Forecast(Struct, kw_only=True):
    """Guessed seconds: of all first probes, and of every candidate's trials at the asked lengths.

    `groups` counts the processes that the probes take.
    """

    groups: int
    probes_s: float
    exhaustive_s: float


def forecast(asked: Asked, found: Space, machine: Machine, d: Dimensions) -> Forecast:
    """A guess from NumPy's speed on all cores, and the same for every engine."""
    read, compute = estimate.rates(space.cores(machine))
    probes_s = exhaustive_s = 0.0
    groups = [[c for c in g if c in found.plans] for g in space.groups(found.candidates)]
    for group in filter(None, groups):
        for n, index in enumerate(group):
            case = found.plans[index].cases[0]
            speed = estimate.case_speed(case, d, read, compute)
            probe = Probe(
                candidate=index,
                rung=0,
                prefill_s=speed.prefill_s,
                step_s=speed.step_s,
                load_s=speed.load_s,
                input_tokens=asked.lengths[0],
            )
            probes_s += probe_seconds(probe, asked.lengths) + (
                0.0 if n else fit.START_S + speed.load_s
            )
            one = found.candidates[index]
            exhaustive_s += asked.repeats * trial_s(asked, one, probe, asked.lengths)
    return Forecast(
        groups=sum(bool(g) for g in groups), probes_s=probes_s, exhaustive_s=exhaustive_s
    )
