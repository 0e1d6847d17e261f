"""Conducts a run: check, fit to the time, then each trial in a fresh process, stored at once."""

from __future__ import annotations

import datetime
import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from harness import (
    agreement,
    binding,
    conversion,
    engines,
    evidence,
    fit,
    places,
    store,
    validity,
    wire,
)
from harness.calibration import Calibrator
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.errors import ArmbenchError
from harness.fit import Speed
from harness.load import driver
from harness.load.prompts import prompt_set_digest, prompts
from harness.machine.conditions import read_conditions
from harness.machine.during import During
from harness.machine.judge import judge
from harness.machine.numa import memory_nodes
from harness.machine.proof import Watch, warnings
from harness.model import checkpoint as checkpoints
from harness.model.checkpoint import Checkpoint
from harness.records.machine import Machine
from harness.records.run import Case, Check, Plan, Result, Trial, Variant

# Before anything was timed: a load or a first request of a large model on a slow machine.
_FIRST_TIMEOUT_S = 1800.0
_LEAST_TIMEOUT_S = 120.0
_LONG_PROBE_S = 10.0


class Listener(Protocol):
    """What a run tells while it goes on; every method returns at once."""

    def started(self, machine: Machine, plan: Plan) -> None: ...

    def phase(self, text: str, done: float | None = None) -> None: ...

    def checked(self, check: Check) -> None: ...

    def fitted(self, plan: Plan, seconds: float) -> None: ...

    def trial_started(self, number: int, total: int, case: Case, repeat: int) -> None: ...

    def trial_ended(self, number: int, total: int, trial: Trial, seconds_left: float) -> None: ...


class Prepared(Struct):
    """A variant ready to start: what the child is told, and what was measured of it."""

    spec: EngineSpec
    check: Check
    speeds: dict[int, Speed]  # by case id


@contextmanager
def _on_cpus(cpus: Sequence[int]) -> Iterator[None]:
    """This process on `cpus` for as long as it drives; on its old ones afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Run:
    """One run: `prepare`, then `measure`. The result is on disk after every step."""

    def __init__(self, result: Result, path: Path, model: Checkpoint, listener: Listener) -> None:
        self.result, self.path, self.model, self.listener = result, path, model, listener
        self.fingerprint = checkpoints.fingerprint(result.model)
        self.vocabulary = model.dimensions.vocabulary
        self.ready: list[Prepared] = []

    @property
    def plan(self) -> Plan:
        return self.result.plan

    def save(self) -> None:
        """Write the result with its derived summary."""
        binding.derive(self.result)
        store.save(self.result, self.path)

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
        prompt = agreement.fixed_prompt(self.model.folder, self.vocabulary)
        positions = agreement.POSITIONS
        key = msgspec.json.encode([self.fingerprint, prompt, positions, "transformers float32"])
        file = places.cache_dir() / "references" / f"{hashlib.sha256(key).hexdigest()[:16]}.npz"
        if not file.is_file():
            self.listener.phase("reference logits: transformers float32")
            file.parent.mkdir(parents=True, exist_ok=True)
            asked = wire.MakeReference(str(self.model.folder), prompt, positions, str(file))
            threads = {"OMP_NUM_THREADS": str(len(self.plan.cpus))}
            with EngineProcess(self.plan.cpus, threads) as process:
                process.ask(asked, wire.Done, _FIRST_TIMEOUT_S)
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
            self.listener.phase(f"{name}: converting the checkpoint, where it needs it")
            folder, check.prepare_s = conversion.prepare(
                variant, self.model, self.fingerprint, self.plan.cpus
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
        missed = agreement.shortfalls(check.agreement, agreement.bounds(check.variant.dtype or ""))
        check.ok = not missed
        check.reason = "; ".join(missed) or None

    def probe(self, process: EngineProcess, case: Case, load_s: float) -> Speed:
        """Prefill and step time of `case`, from one short request."""
        load = case.load
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

    def remaining(self) -> list[tuple[int, int]]:
        """(case, repeat) still to run, in order."""
        done = {(t.case, t.repeat) for t in self.result.trials}
        return [pair for pair in self.plan.order if tuple(pair) not in done]

    def measure(self) -> None:
        """Every trial that is not in the result yet; stored as each ends."""
        by_id = {case.id: case for case in self.plan.cases}
        total, speeds = len(self.plan.order), self.speeds()
        left = self.remaining()
        for index, (case_id, repeat) in enumerate(left):
            number = total - len(left) + index + 1
            case = by_id[case_id]
            self.listener.trial_started(number, total, case, repeat)
            trial = self.trial(case, repeat, number - 1, speeds.get(case_id))
            self.result.trials.append(trial)
            self.result.finished = index + 1 == len(left)
            self.save()
            rest = [(by_id[c].load, speeds[c]) for c, _ in left[index + 1 :] if c in speeds]
            seconds = sum(fit.trial_seconds(load, speed) for load, speed in rest)
            self.listener.trial_ended(number, total, trial, seconds)
        if not left:
            self.result.finished = True
            self.save()

    def timeout(self, case: Case, speed: Speed | None) -> float:
        """Seconds after which one answer of a trial counts as hung: ten times the estimate."""
        if self.plan.trial_timeout_s is not None:
            return self.plan.trial_timeout_s
        if speed is None:
            return _FIRST_TIMEOUT_S
        return max(_LEAST_TIMEOUT_S, 10 * fit.trial_seconds(case.load, speed))

    def trial(self, case: Case, repeat: int, order: int, speed: Speed | None) -> Trial:
        """One trial in a fresh process; a failure is a trial too."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        trial = Trial(case=case.id, repeat=repeat, order=order, started_at=now, state="failed")
        prepared = next(p for p in self.ready if p.check.variant == case.variant)
        try:
            with self.start(prepared.spec) as process:
                self.fill(trial, process, prepared, case, self.timeout(case, speed))
            trial.state = "ok"
        except EngineFailed as error:
            trial.reason, trial.exit_code = error.reason, error.exit_code
            trial.stderr_tail = error.stderr_tail
        except ArmbenchError as error:
            trial.reason = error.message
        if trial.state == "ok":
            trial.invalid = validity.invalid_reasons(trial, case)
            if prepared.check.ok is False:
                trial.invalid.append(f"it does not compute the model: {prepared.check.reason}")
        return trial

    def fill(
        self,
        trial: Trial,
        process: EngineProcess,
        prepared: Prepared,
        case: Case,
        timeout_s: float,
    ) -> None:
        """Load, warm up, then the measured window with conditions around it."""
        load, seed = case.load, self.plan.seed
        trial.load_s = process.ask(wire.Load(prepared.spec), wire.Loaded, timeout_s).seconds
        context = load.input_tokens + load.output_tokens
        process.ask(wire.Allocate(load.batch, context), wire.Done, timeout_s)
        trial.warmup, trial.warmup_stable = driver.warm_up(
            process, load, seed=seed, vocabulary=self.vocabulary, timeout_s=timeout_s
        )
        cpus = prepared.spec.cpus
        process.ask(wire.Mark(), wire.Done, timeout_s)
        trial.before = read_conditions(cpus=cpus)
        start, own_start = time.monotonic(), time.process_time()
        with During() as during, Watch(process.pid, cpus, self.plan.driver_cpus) as watch:
            trial.records = driver.run_load(
                process,
                load,
                seed=seed,
                repeat=trial.repeat,
                vocabulary=self.vocabulary,
                timeout_s=timeout_s,
            )
        seconds = time.monotonic() - start
        trial.after = read_conditions(cpus=cpus)
        reported = process.report(timeout_s)
        trial.usage, trial.engine_facts = reported.usage, reported.facts
        trial.placement = watch.proof(reported.runtime, reported.policy)
        ends = [t for record in trial.records for t in record.token_ns]
        trial.window_ns = (min(r.due_ns for r in trial.records), max(ends))
        own = trial.usage.user_s + trial.usage.system_s + time.process_time() - own_start
        everything = self.result.machine.topology.cpus
        trial.during = during.readings
        disturbed = judge(
            trial.before,
            trial.after,
            own_cpu_s=own,
            seconds=seconds,
            cpus=everything,
            during=during.readings,
        )
        trial.findings = disturbed + warnings(trial.placement)


def execute(run: Run) -> Result:
    """Prepare and measure, with this process on the driver's CPUs; the finished result."""
    with _on_cpus(run.plan.driver_cpus):
        run.save()
        run.prepare()
        calibrator = Calibrator(
            run.result, run.path.parents[1] / store.CEILINGS, run.listener.phase
        )
        calibrator.before()
        run.measure()
        calibrator.after()
        run.save()
    return run.result
