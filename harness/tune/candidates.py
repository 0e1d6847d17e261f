"""Candidates in real processes: converted, checked, probed, tried."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from harness import conversion, engines, runner
from harness.ceilings.survey import last_cache_bytes
from harness.engine_process import EngineFailed
from harness.engine_run import EngineRun, Prepared
from harness.engines import EngineSpec
from harness.errors import ArmbenchError
from harness.fit import Speed
from harness.records.run import Case, Check, Plan, Trial, Variant
from harness.records.tune import Candidate, Left, Probe, Tune, Why
from harness.tune import space
from harness.tune.limits import Rates, limit
from harness.tune.objective import expected, score, unit
from harness.tune.probing import Job, Prober
from harness.tune.search import BOUND_SLACK


def guard_key(one: Candidate | Variant) -> bytes:
    """What the quality of an engine may depend on: not threads, instances, load, nor huge pages."""
    options = engines.numeric_options(one.engine, one.options)
    return msgspec.json.encode([one.engine, one.dtype, options], order="deterministic")


class Candidates:
    """What can be done with the candidates of the search in `run`'s result.

    `plans` are those of the candidates that can be tried, by index, at the asked lengths.
    """

    def __init__(self, run: EngineRun, tune: Tune, plans: dict[int, Plan]) -> None:
        self.run, self.tune, self.plans = run, tune, plans
        self.checks: dict[bytes, Check] = {}
        self.reference: Path | str | None = None  # a text says why there is none
        for check in run.result.checks:
            self.checks.setdefault(guard_key(check.variant), check)

    def variant(self, index: int) -> Variant:
        return self.plans[index].cases[0].variant

    # Before the search

    def limits(self) -> list[float | None]:
        """What each candidate could reach at best, by ceilings of one CPU and of all."""
        run, tune = self.run, self.tune
        if not run.plan.ceilings:
            return [None] * len(tune.candidates)
        smallest = min(run.plan.places, key=lambda one: one.threads * one.instances)
        for cpus in (smallest.cpus[0][:1], run.plan.cpus):  # it is on the strongest kind of cores
            if all(c.threads != len(cpus) for c in run.result.ceilings):
                run.result.ceilings.append(run.calibrator.ceilings_of(list(cpus)))
        rates = Rates(
            ceilings=run.result.ceilings,
            cache_bytes=last_cache_bytes(run.result.machine, run.plan.cpus),
        )
        return [
            limit(tune.asked, one, run.model.dimensions, rates) if index in self.plans else None
            for index, one in enumerate(tune.candidates)
        ]

    def doubt_limits(self, probes: Sequence[Probe]) -> str | None:
        """Forget the limits of every compute type whose limit one of `probes` passed; what it said.

        Its ceiling is then no ceiling of what engines do with that type.
        """
        tune = self.tune
        for probe in probes if tune.limits else ():
            one, most = tune.candidates[probe.candidate], tune.limits[probe.candidate]
            found = score(
                tune.asked.objective, expected(tune.asked, one, probe.prefill_s, probe.step_s)
            )
            if most is None or found is None or found <= most * BOUND_SLACK:
                continue
            wrong = _compute(one)
            tune.limits = [
                None if _compute(c) == wrong else known
                for c, known in zip(tune.candidates, tune.limits, strict=True)
            ]
            return (
                f"{one.label} had {found:.3g} {unit(tune.asked.objective)} in a probe, where "
                f"ceilings and footprint allow {most:.3g}: no limit of {wrong} is trusted"
            )
        return None

    def convert(self, index: int) -> Left | None:
        """Make the conversion that candidate `index` needs; why not, for all that need the same."""
        variant = self.variant(index)
        same = self._alike(index)
        self.run.listener.phase(f"{variant.engine} {variant.dtype}: converting, where it needs it")
        try:
            _, seconds = conversion.prepare(
                variant, self.run.model, self.run.fingerprint, self.run.plan.cpus
            )
        except EngineFailed as error:
            return _left(same, "conversion", error.reason)
        except ArmbenchError as error:
            return _left(same, "conversion", error.message)
        if seconds is not None:
            self.tune.log.append(
                f"{self.tune.candidates[index].family} was converted in {seconds:.0f} s"
            )
        return None

    def check(self, index: int) -> Left | None:
        """Hold the engine of candidate `index` against the reference, once for all alike.

        Returns why they can't win; None where they may.
        """
        key = guard_key(self.variant(index))
        if key not in self.checks:
            try:
                prepared = self.run.prepare_variant(self.variant(index), self._reference(index))
            except ArmbenchError as error:
                return _left(self._alike(index), "failed", error.message)
            self.checks[key] = prepared.check
            self.run.result.checks.append(prepared.check)
            self.run.listener.checked(prepared.check)
        check = self.checks[key]
        if check.ok is False:
            return _left(self._alike(index), "quality", f"outside the bounds: {check.reason}")
        if check.load_s is None:  # it did not even load
            return _left(self._alike(index), "failed", check.reason or "it did not load")
        if check.ok is None and isinstance(self._reference(index), Path):
            return _left(self._alike(index), "quality", f"could not be checked: {check.reason}")
        return None

    def _reference(self, index: int) -> Path | str:
        """The reference's file, or why there is none: what `prepare_variant` takes."""
        if self.variant(index).engine == "fake":
            return "the fake engine computes nothing"
        if self.reference is None:
            try:
                self.reference = self.run.reference()
            except EngineFailed as error:
                self.reference = f"no reference: {error.reason}"
        return self.reference

    def _alike(self, index: int) -> list[int]:
        """Candidates that can be tried and compute the same."""
        key = guard_key(self.tune.candidates[index])
        return [c for c in self.plans if guard_key(self.tune.candidates[c]) == key]

    # Probes

    def spec(self, index: int) -> EngineSpec:
        """What the engine process of the first instance is told."""
        variant = self.variant(index)
        assert variant.dtype is not None  # a plan names it
        folder, _ = conversion.prepare(
            variant, self.run.model, self.run.fingerprint, self.run.plan.cpus
        )
        return EngineSpec(
            engine=variant.engine,
            checkpoint=str(self.run.model.folder),
            dtype=variant.dtype,
            cpus=self.run.plan.instance_cpus(variant)[0],
            options=variant.options,
            prepared=str(folder) if folder else None,
        )

    def probe(self, indices: Sequence[int], rung: int) -> tuple[list[Probe], Left | None]:
        """Probes of candidates of one process; the second part says which one failed.

        Those after it are not probed. No server is in a probe, so that one of a batch tells of
        every chunk.
        """
        first, now = indices[0], list(indices)
        found: dict[int, Probe] = {}  # the first of each batch
        probes: list[Probe] = []
        variant = self.variant(first)
        try:
            job = Job(
                lengths=self.tune.asked.lengths,
                sizes=self.run.model.dimensions,
                stored=engines.stored(variant.engine, variant.dtype or "", variant.options),
                seed=self.tune.asked.seed,
                rung=rung,
            )
            with self._driving(variant), self.run.crew(self.spec(first), variant) as crew:
                prober = Prober(job, crew)
                for index in indices:
                    now, batch = [index], self.tune.candidates[index].batch
                    if batch not in found:
                        found[batch] = prober.probe(index, batch)
                    probes.append(msgspec.structs.replace(found[batch], candidate=index))
        except EngineFailed as error:
            return probes, _left(now, "failed", f"its probe failed: {error.reason}")
        except ArmbenchError as error:
            return probes, _left(now, "failed", f"its probe failed: {error.message}")
        return probes, None

    # Trials

    def trial(self, index: int, number: int) -> Trial:
        """One trial of candidate `index`; `number` counts all trials of the search."""
        case = self.case(index)
        repeat = sum(t.case == index for t in self.run.result.trials)
        self.run.plan.order.append((index, repeat))
        with self._driving(case.variant):
            return self.run.trial(case, repeat, number)

    def _driving(self, variant: Variant) -> AbstractContextManager[None]:
        """This process on the CPUs that `variant` leaves to the driver."""
        return runner.on_cpus(self.run.plan.driver_of(variant))

    def case(self, index: int) -> Case:
        """The case of candidate `index` in the result's plan, ready to be tried; made once."""
        found = next((c for c in self.run.plan.cases if c.id == index), None)
        if found is None:
            found = self._new_case(index)
            self.run.plan.cases.append(found)
        if all(p.check.variant != found.variant for p in self.run.ready):
            self._prepare(found)
        self.run.prepared(found).speeds |= self._speeds(index)
        return found

    def _new_case(self, index: int) -> Case:
        resolved = space.resolve(
            self.tune.asked,
            self.tune.candidates[index],
            self.run.result.machine,
            self.run.model.dimensions,
            self.tune.lengths,
        )
        return space.case_of(resolved, index)

    def _prepare(self, case: Case) -> None:
        known = self.checks[guard_key(case.variant)]
        check = msgspec.structs.replace(known, variant=case.variant)
        if all(c.variant != case.variant for c in self.run.result.checks):
            self.run.result.checks.append(check)
        self.run.ready.append(Prepared(self.spec(case.id), check, {}))

    def _speeds(self, index: int) -> dict[int, Speed]:
        """What the last probe of a candidate told, from which its time limit is drawn."""
        return {
            p.candidate: Speed(load_s=p.load_s, prefill_s=p.prefill_s, step_s=p.step_s)
            for p in self.tune.probes
            if p.candidate == index
        }


def _compute(one: Candidate) -> str | None:
    """The compute type that bounds the products of `one`."""
    options = engines.resolve_options(one.engine, one.options)
    kept = engines.stored(one.engine, one.dtype, options)
    return kept.compute if kept else None


def _left(candidates: Sequence[int], why: Why, reason: str) -> Left:
    return Left(candidates=sorted(candidates), why=why, reason=reason)
