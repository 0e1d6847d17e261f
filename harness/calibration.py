"""A run's ceilings: reused or measured before its trials, and held against the machine again."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from harness.ceilings import Build, again, build_kernels
from harness.ceilings.survey import fresh, measure_on
from harness.errors import ArmbenchError
from harness.records.ceilings import Calibration, Ceilings
from harness.records.run import Result
from harness.units import format_cpu_list
from harness.validity import DRIFT

# Once before and once after the trials: under five seconds in all for this many cpusets.
_CPUSETS = 3
_KINDS = ("read", "f32")

Say = Callable[[str], None]


class Calibrator:
    """Fills `result.ceilings` and `result.calibrations`; `folder` holds `armbench ceilings`' files.

    Does nothing where the plan wants no ceilings. Without a compiler every ceiling is unknown, with
    the reason, and the run goes on.
    """

    def __init__(self, result: Result, folder: Path, say: Say) -> None:
        self.result, self.folder, self.say = result, folder, say
        self.build: Build | None = None

    def cpusets(self) -> list[list[int]]:
        """The CPUs that each distinct kind of case uses, fewest first."""
        plan = self.result.plan
        found = {
            format_cpu_list(cpus): cpus
            for cpus in (plan.cpus_of(case.variant) for case in plan.cases)
        }
        return sorted(found.values(), key=len)

    def before(self) -> None:
        """Ceilings of every cpuset, and a first calibration."""
        if not self.result.plan.ceilings:
            return
        self.say("ceilings of the engine's CPUs")
        self._build()
        for cpus in self.cpusets():
            if not any(c.cpus == format_cpu_list(cpus) for c in self.result.ceilings):
                self.result.ceilings.append(self.ceilings_of(cpus))
        self._calibrate("before")

    def after(self) -> None:
        """The second calibration."""
        if self.result.plan.ceilings and self.result.ceilings:
            self.say("ceilings once more, for drift")
            if self.build is None:  # a search that was resumed has its ceilings
                self._build()
            self._calibrate("after")

    def _build(self) -> None:
        try:
            self.build = build_kernels()
        except ArmbenchError:
            self.build = None  # measuring says why

    def ceilings_of(self, cpus: list[int]) -> Ceilings:
        """Those of a fresh survey where they still hold, else measured now in the short form."""
        machine = self.result.machine
        if self.build is not None:
            now = datetime.datetime.now(datetime.UTC)
            key = self.build.key
            found = fresh(self.folder, machine, format_cpu_list(cpus), now, build=key)
            if found is not None and holds(found, again(found, _KINDS, "before", self.build)):
                return found
        return measure_on(machine, cpus, short=True)

    def _calibrate(self, when: Literal["before", "after"]) -> None:
        if self.build is None:
            return
        for known in sorted(self.result.ceilings, key=lambda c: c.threads)[-_CPUSETS:]:
            self.result.calibrations.append(again(known, _KINDS, when, self.build))


def holds(known: Ceilings, seen: Calibration) -> bool:
    """Whether every ceiling that was measured again is as it was, within `DRIFT`."""
    return all(abs(a - b) <= DRIFT * b for a, b in _pairs(known, seen))


def _pairs(known: Ceilings, seen: Calibration) -> Iterable[tuple[float, float]]:
    for name, value in seen.values.items():
        if before := known.value(name):
            yield value, before
