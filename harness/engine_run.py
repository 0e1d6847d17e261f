"""Trials of our own engines: convert, check, fit to the time, then each in a fresh process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from harness import (
    agreement,
    cache,
    conversion,
    engines,
    evidence,
    fit,
    places,
    served_trial,
    store,
    wire,
)
from harness.calibration import Calibrator
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.fit import Speed
from harness.load import driver
from harness.load.prompts import prompt_set_digest, prompts
from harness.load.selfcheck import ClientCeiling, check_client
from harness.machine.numa import memory_nodes
from harness.machine.proof import Watch, warnings
from harness.model import checkpoint as checkpoints
from harness.model.checkpoint import Checkpoint
from harness.observe import observe, tree_cpu_s
from harness.records.load import ServeSetting
from harness.records.run import Case, Check, Result, Trial, Variant
from harness.runner import Listener, Run

# Before anything was timed: a load or a first request of a large model on a slow machine.
_FIRST_TIMEOUT_S = 1800.0
_LEAST_TIMEOUT_S = 120.0
_LONG_PROBE_S = 10.0


class Prepared(Struct):
    """A variant ready to start: what the child is told, and what was measured of it."""

    spec: EngineSpec
    check: Check
    speeds: dict[int, Speed]  # by case id


class EngineRun(Run):
    """Trials in engine processes of this machine."""

    def __init__(self, result: Result, path: Path, model: Checkpoint, listener: Listener) -> None:
        super().__init__(result, path, listener)
        self.model = model
        self.fingerprint = checkpoints.fingerprint(result.model)
        self.vocabulary = model.dimensions.vocabulary
        self.ready: list[Prepared] = []
        self.ceiling: ClientCeiling | None = None
        self.calibrator = Calibrator(result, path.parents[1] / store.CEILINGS, listener.phase)

    def variants(self) -> list[Variant]:
        """The plan's variants, each once."""
        found: list[Variant] = []
        for case in self.plan.cases:
            if case.variant not in found:
                found.append(case.variant)
        return found

    def cases_of(self, variant: Variant) -> list[Case]:
        return [case for case in self.plan.cases if case.variant == variant]

    def cpus_of(self, variant: Variant) -> list[int]:
        return self.plan.cpus[: variant.threads]

    def start(self, spec: EngineSpec, more: Mapping[str, str] | None = None) -> EngineProcess:
        """A fresh process for `spec`, on its CPUs, with `more` variables."""
        variables = engines.module(spec.engine).environment(spec.cpus, spec.options)
        variables |= more or {}
        return EngineProcess(spec.cpus, variables, memory_nodes(self.result.machine, spec.cpus))

    def reference(self) -> Path:
        """The file with transformers' float32 logits; made where it is not in the cache."""
        samples = agreement.samples(
            self.model.folder, self.vocabulary, synthetic=self.model.synthetic
        )
        key = msgspec.json.encode([self.fingerprint, samples, "transformers float32, int4"])
        file = places.cache_dir() / "references" / f"{hashlib.sha256(key).hexdigest()[:16]}.npz"
        if not file.is_file():
            self.listener.phase("reference logits: transformers float32")
            file.parent.mkdir(parents=True, exist_ok=True)
            asked = wire.MakeReference(str(self.model.folder), samples, str(file))
            threads = {"OMP_NUM_THREADS": str(len(self.plan.cpus))}
            with EngineProcess(self.plan.cpus, threads) as process:
                process.ask(asked, wire.Done, _FIRST_TIMEOUT_S)
        cache.use(file)
        return file

    def prepare(self) -> None:
        """Convert, check and time every variant shortly, then fit the lengths to the budget.

        Raises ArmbenchError where a package, memory or disk is missing.
        """
        reference: Path | str
        try:
            reference = self.reference()
        except EngineFailed as error:
            reference = f"no reference: {error.reason}"
        for variant in self.variants():
            prepared = self.prepare_variant(variant, reference)
            self.ready.append(prepared)
            self.listener.checked(prepared.check)
        if not self.result.checks:
            self.result.checks = [p.check for p in self.ready]
            self.fit_to_budget()
            self.plan.prompt_set_sha256 = prompt_set_digest(self.plan, self.vocabulary)
            self.trace_kernels()
        self.save()
        self.calibrator.before()

    def trace_kernels(self) -> None:
        """See which library kernels run for each variant, in processes of their own."""
        for prepared in self.ready:
            variant = prepared.check.variant
            self.listener.phase(f"{variant.engine} {variant.dtype}: which kernels run")
            path = evidence.trace(
                self.start,
                prepared.spec,
                variant,
                self.cases_of(variant),
                vocabulary=self.vocabulary,
                timeout_s=_FIRST_TIMEOUT_S,
            )
            if path is not None:
                self.result.paths.append(path)

    def prepare_variant(self, variant: Variant, reference: Path | str) -> Prepared:
        """Convert for, check and shortly time one variant."""
        assert variant.dtype is not None  # a plan names it
        spec = EngineSpec(
            engine=variant.engine,
            checkpoint=str(self.model.folder),
            dtype=variant.dtype,
            cpus=self.cpus_of(variant),
            options=variant.options,
        )
        stored = engines.stored(variant.engine, variant.dtype, variant.options)
        check = Check(variant=variant, ok=None, stored=stored)
        prepared = Prepared(spec, check, {})
        name = variant.label
        try:
            folder, check.prepare_s = conversion.prepare(
                variant, self.model, self.fingerprint, self.plan.cpus, self.listener.phase
            )
            spec.prepared = str(folder) if folder else None
            self.listener.phase(f"{name}: comparing with the reference, then a short timing")
            with self.start(spec) as process:
                loaded = process.ask(wire.Load(spec), wire.Loaded, _FIRST_TIMEOUT_S)
                check.load_s = loaded.seconds
                self.check_variant(process, check, reference)
                for case in self.cases_of(variant):
                    prepared.speeds[case.id] = self.probe(process, case, loaded.seconds)
        except EngineFailed as error:
            check.reason = error.reason
        return prepared

    def check_variant(self, process: EngineProcess, check: Check, reference: Path | str) -> None:
        if check.variant.engine == "fake":
            check.reason = "the fake engine computes nothing"
            return
        if isinstance(reference, str):
            check.reason = reference
            return
        asked = wire.Compare(str(reference))
        check.agreement = process.ask(asked, wire.Compared, _FIRST_TIMEOUT_S).agreement
        wanted = agreement.bounds(
            check.variant.dtype or "",
            "synthetic" if self.model.synthetic else "checkpoint",
            check.stored.compute if check.stored else None,
        )
        missed = agreement.shortfalls(check.agreement, wanted)
        check.ok = not missed
        check.reason = "; ".join(missed) or None

    def probe(self, process: EngineProcess, case: Case, load_s: float) -> Speed:
        """Prefill and step time of `case`, from one short request."""
        load = case.load
        assert self.plan.seed is not None  # only an imported plan has none
        process.ask(
            wire.Allocate(load.batch, load.input_tokens + load.output_tokens),
            wire.Done,
            _FIRST_TIMEOUT_S,
        )
        batch = prompts(
            load, seed=self.plan.seed, repeat=-1, vocabulary=self.vocabulary, requests=1
        )[0]
        tokens = min(5, load.output_tokens)
        for _ in range(2):  # the first one touches memory that the others find ready
            done = driver.send(process, batch, tokens, first_id=0, timeout_s=_FIRST_TIMEOUT_S)
            prefill_s, step_s = driver.phases(done[0])
            if prefill_s > _LONG_PROBE_S:
                break
        return Speed(load_s=load_s, prefill_s=prefill_s, step_s=step_s)

    def speeds(self) -> dict[int, Speed]:
        return {i: s for prepared in self.ready for i, s in prepared.speeds.items()}

    def fit_to_budget(self) -> None:
        """Halve lengths until the trials fit the plan's time budget."""
        seconds = fit.fit(self.plan, self.speeds())
        self.listener.fitted(self.plan, seconds)

    def seconds(self, case: Case) -> float | None:
        speed = self.speeds().get(case.id)
        return fit.trial_seconds(case.load, speed) if speed else None

    def prepared(self, case: Case) -> Prepared:
        return next(p for p in self.ready if p.check.variant == case.variant)

    def doubts(self, case: Case) -> list[str]:
        check = self.prepared(case).check
        return [f"outside the quality bounds: {check.reason}"] if check.ok is False else []

    def finish(self) -> None:
        self.calibrator.after()

    def timeout(self, case: Case) -> float:
        """Seconds after which one answer of a trial counts as hung: ten times the estimate."""
        if self.plan.trial_timeout_s is not None:
            return self.plan.trial_timeout_s
        seconds = self.seconds(case)
        return _FIRST_TIMEOUT_S if seconds is None else max(_LEAST_TIMEOUT_S, 10 * seconds)

    def fill(self, trial: Trial, case: Case) -> None:
        """Load, warm up, then the measured window with conditions around it."""
        if case.serve is not None:
            self.fill_served(trial, case, case.serve)
            return
        with self.start(self.prepared(case).spec) as process:
            self.fill_batched(trial, process, case)

    def fill_served(self, trial: Trial, case: Case, setting: ServeSetting) -> None:
        """Requests over HTTP, with the engine behind our server."""
        if self.ceiling is None:
            self.listener.phase("the client's own ceiling")
            self.ceiling = check_client(self.plan.driver_cpus, say=self.listener.phase)
        asked = served_trial.ServedTrial(
            machine=self.result.machine,
            spec=self.prepared(case).spec,
            setting=setting,
            vocabulary=self.vocabulary,
            model=self.result.model.name,
            driver_cpus=self.plan.driver_cpus,
            seed=self.plan.seed or 0,
            timeout_s=self.timeout(case),
            ceiling_events_per_s=self.ceiling.events_per_s,
        )
        served_trial.fill(trial, case.load, asked)

    def fill_batched(self, trial: Trial, process: EngineProcess, case: Case) -> None:
        """Requests batch by batch, in the engine's own process."""
        prepared, timeout_s = self.prepared(case), self.timeout(case)
        load, seed = case.load, self.plan.seed
        assert seed is not None  # only an imported plan has none
        trial.load_s = process.ask(wire.Load(prepared.spec), wire.Loaded, timeout_s).seconds
        context = load.input_tokens + load.output_tokens
        process.ask(wire.Allocate(load.batch, context), wire.Done, timeout_s)
        trial.warmup, trial.warmup_stable = driver.warm_up(
            process, load, seed=seed, vocabulary=self.vocabulary, timeout_s=timeout_s
        )
        cpus = prepared.spec.cpus
        process.ask(wire.Mark(), wire.Done, timeout_s)

        def work() -> None:
            trial.records = driver.run_load(
                process,
                load,
                seed=seed,
                repeat=trial.repeat,
                vocabulary=self.vocabulary,
                timeout_s=timeout_s,
            )

        pids = [process.pid, os.getpid()]
        with Watch(process.pid, cpus, self.plan.driver_cpus) as watch:
            observe(trial, self.result.machine, cpus, work, lambda: tree_cpu_s(pids))
        reported = process.report(timeout_s)
        trial.usage, trial.engine_facts = reported.usage, reported.facts
        trial.placement = watch.proof(reported.runtime, reported.policy)
        trial.findings += warnings(trial.placement)
        ends = [t for record in trial.records for t in record.token_ns]
        trial.window_ns = (min(r.due_ns for r in trial.records), max(ends))
