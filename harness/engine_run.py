"""Trials of our own engines: convert, check, fit to the time, then each in a fresh process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
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
    packages,
    places,
    served_trial,
    store,
    wire,
)
from harness.calibration import Calibrator
from harness.crew import Crew
from harness.engine_process import EngineFailed, EngineProcess
from harness.engines import EngineSpec
from harness.fit import Speed
from harness.load import driver
from harness.load.prompts import prompt_set_digest, prompts
from harness.load.selfcheck import ClientCeiling, check_client
from harness.load.together import run_together
from harness.machine.numa import memory_nodes
from harness.metrics import together
from harness.model import checkpoint as checkpoints
from harness.model.checkpoint import Checkpoint
from harness.observe import observe, tell_engines, tree_cpu_s, watches
from harness.records.load import ServeSetting
from harness.records.run import (
    Agreement,
    Case,
    Check,
    InstanceSeen,
    RequestRecord,
    Result,
    Trial,
    Variant,
)
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

    def start(self, spec: EngineSpec, more: Mapping[str, str] | None = None) -> EngineProcess:
        """A fresh process for `spec`, on its CPUs, with `more` variables."""
        variables = engines.module(spec.engine).environment(spec.cpus, spec.options)
        variables |= more or {}
        return EngineProcess(spec.cpus, variables, memory_nodes(self.result.machine, spec.cpus))

    def crew(self, spec: EngineSpec, variant: Variant) -> Crew:
        """Fresh processes for every instance of `variant`, whose first one `spec` is of."""
        each = [
            msgspec.structs.replace(spec, cpus=cpus) for cpus in self.plan.instance_cpus(variant)
        ]
        return Crew(each, self.start)

    def reference(self) -> Path:
        """The file with transformers' float32 logits; made where it is not in the cache.

        Raises EngineFailed where it can't be made, for lack of a package or in its process.
        """
        _need("tokenizers")
        samples = agreement.samples(
            self.model.folder, self.vocabulary, synthetic=self.model.synthetic
        )
        key = msgspec.json.encode([self.fingerprint, samples, agreement.REFERENCE])
        file = places.cache_dir() / "references" / f"{hashlib.sha256(key).hexdigest()[:16]}.npz"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            waits = partial(self.listener.phase, "another process makes the reference logits")
            with cache.writing(file, waits):
                if not file.is_file():
                    self.make_reference(samples, file)
        cache.use(file)
        return file

    def make_reference(self, samples: agreement.Samples, file: Path) -> None:
        """Let a child write the reference logits of `samples` to `file`."""
        _need("torch", "transformers")
        self.listener.phase("reference logits: transformers float32")
        threads = {"OMP_NUM_THREADS": str(len(self.plan.cpus))}
        with EngineProcess(self.plan.cpus, threads) as process:
            asked = wire.MakeReference(str(self.model.folder), samples, str(file))
            process.ask(asked, wire.Done, _FIRST_TIMEOUT_S)

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
            if known := next((p for p in self.result.paths if _alike(p.variant, variant)), None):
                self.result.paths.append(msgspec.structs.replace(known, variant=variant))
                continue
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
        prepared = self.described(variant)
        spec, check, name = prepared.spec, prepared.check, variant.label
        try:
            self.convert(prepared)
            self.listener.phase(f"{name}: comparing with the reference, then a short timing")
            with self.crew(spec, variant) as crew:
                check.load_s = _load(crew, _FIRST_TIMEOUT_S)
                self.check_variant(crew.processes[0], check, reference)
                for case in self.cases_of(variant):
                    prepared.speeds[case.id] = self.probe(crew, case, check.load_s)
        except EngineFailed as error:
            check.reason = error.reason
        return prepared

    def described(self, variant: Variant) -> Prepared:
        """What a process of `variant` is told; nothing is converted or checked yet."""
        assert variant.dtype is not None  # a plan names it
        spec = EngineSpec(
            engine=variant.engine,
            checkpoint=str(self.model.folder),
            dtype=variant.dtype,
            cpus=self.plan.instance_cpus(variant)[0],
            options=variant.options,
        )
        stored = engines.stored(variant.engine, variant.dtype, variant.options)
        return Prepared(spec, Check(variant=variant, ok=None, stored=stored), {})

    def convert(self, prepared: Prepared) -> None:
        """What the engine reads, from the checkpoint or from the cache."""
        folder, prepared.check.prepare_s = conversion.prepare(
            prepared.check.variant,
            self.model,
            self.fingerprint,
            self.plan.cpus,
            self.listener.phase,
        )
        prepared.spec.prepared = str(folder) if folder else None

    def check_variant(self, process: EngineProcess, check: Check, reference: Path | str) -> None:
        if check.variant.engine == "fake":
            check.reason = "the fake engine computes nothing"
            return
        if isinstance(reference, str):
            check.reason = reference
            return
        known = [p.check for p in self.ready if _alike(p.check.variant, check.variant)]
        if known and known[0].agreement is not None:  # it computes the same
            check.agreement, check.ok, check.reason = (
                known[0].agreement,
                known[0].ok,
                known[0].reason,
            )
            return
        served = {case.serve.chunk for case in self.cases_of(check.variant) if case.serve}
        for chunk in [None, *sorted(served)]:
            asked = wire.Compare(str(reference), chunk)
            found = process.ask(asked, wire.Compared, _FIRST_TIMEOUT_S).agreement
            self.judge(check, found, "" if chunk is None else "in slots: ")

    def judge(self, check: Check, found: Agreement, where: str) -> None:
        """Judge what was `found`, and keep it in `check` unless it holds a worse finding."""
        wanted = agreement.bounds(
            check.variant.dtype or "",
            "synthetic" if self.model.synthetic else "checkpoint",
            check.stored.compute if check.stored else None,
        )
        missed = agreement.shortfalls(found, wanted)
        known = check.agreement
        worse = known is None or (found.error or 0.0) > (known.error or 0.0)
        if check.ok is False or (check.ok and not missed and not worse):
            return
        check.agreement, check.ok = found, not missed
        check.reason = where + "; ".join(missed) if missed else None

    def probe(self, crew: Crew, case: Case, load_s: float) -> Speed:
        """Prefill and step time of `case` from one short request, of its slowest instance."""
        load, seed = case.load, self.plan.seed
        assert seed is not None  # only an imported plan has none
        batch = prompts(load, seed=seed, repeat=-1, vocabulary=self.vocabulary, requests=1)[0]
        room = wire.Allocate(load.batch, load.input_tokens + load.output_tokens)
        crew.each(lambda _, process: process.ask(room, wire.Done, _FIRST_TIMEOUT_S))
        tokens = min(5, load.output_tokens)

        def short(_: int, process: EngineProcess) -> tuple[float, float]:
            done = driver.send(process, batch, tokens, first_id=0, timeout_s=_FIRST_TIMEOUT_S)
            return driver.phases(done[0])

        for _ in range(2):  # the first one touches memory that the others find ready
            seen = crew.each(short)
            prefill_s, step_s = max(p for p, _ in seen), max(s for _, s in seen)
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
        if check.ok is False:
            return [f"outside the quality bounds: {check.reason}"]
        if check.ok or case.variant.engine == "fake" or self.plan.unchecked:
            return []
        return [
            f"its quality could not be checked: {check.reason} (--unchecked true lets it count)"
        ]

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
        with self.crew(self.prepared(case).spec, case.variant) as crew:
            self.fill_batched(trial, crew, case)

    def fill_served(self, trial: Trial, case: Case, setting: ServeSetting) -> None:
        """Requests over HTTP, with the engine behind our server."""
        client_cpus = self.plan.driver_of(case.variant)
        if self.ceiling is None:
            self.listener.phase("the client's own ceiling")
            self.ceiling = check_client(client_cpus, say=self.listener.phase)
        asked = served_trial.ServedTrial(
            machine=self.result.machine,
            spec=self.prepared(case).spec,
            cpus=self.plan.instance_cpus(case.variant),
            setting=setting,
            vocabulary=self.vocabulary,
            model=self.result.model.name,
            driver_cpus=client_cpus,
            seed=self.plan.seed or 0,
            timeout_s=self.timeout(case),
            ceiling_events_per_s=self.ceiling.events_per_s,
        )
        served_trial.fill(trial, case.load, asked)

    def fill_batched(self, trial: Trial, crew: Crew, case: Case) -> None:
        """Requests batch by batch, in the engine's own processes."""
        timeout_s = self.timeout(case)
        load, seed = case.load, self.plan.seed
        assert seed is not None  # only an imported plan has none
        trial.load_s = _load(crew, timeout_s, trial)
        room = wire.Allocate(load.batch, load.input_tokens + load.output_tokens)

        def warm_up(number: int, process: EngineProcess) -> tuple[list[RequestRecord], bool]:
            process.ask(room, wire.Done, timeout_s)
            found = driver.warm_up(
                process,
                load,
                seed=seed,
                vocabulary=self.vocabulary,
                timeout_s=timeout_s,
                instance=number,
            )
            process.ask(wire.Mark(), wire.Done, timeout_s)
            return found

        warm = crew.each(warm_up)
        trial.warmup = [record for records, _ in warm for record in records]
        trial.warmup_stable = all(stable for _, stable in warm)

        def work() -> None:
            trial.records = self.drive(crew, case, trial.repeat)

        pids, cpus = [*crew.pids, os.getpid()], self.plan.cpus_of(case.variant)
        client_cpus = self.plan.driver_of(case.variant)
        with watches(crew.pids, [s.cpus for s in crew.specs], client_cpus) as seen:
            observe(trial, self.result.machine, cpus, work, lambda: tree_cpu_s(pids))
        reported = crew.each(lambda _, process: process.report(timeout_s))
        tell_engines(trial, seen, reported)
        trial.window_ns = _window(trial)

    def drive(self, crew: Crew, case: Case, repeat: int) -> list[RequestRecord]:
        """The requests of one trial, which are timed."""
        assert self.plan.seed is not None  # only an imported plan has none
        return run_together(
            crew,
            case.load,
            seed=self.plan.seed,
            repeat=repeat,
            vocabulary=self.vocabulary,
            timeout_s=self.timeout(case),
        )


def _need(*names: str) -> None:
    """Raise EngineFailed, with the command that helps, where a package of the guard is missing."""
    if missing := packages.missing(names):
        how = packages.install_command("torch", missing)
        raise EngineFailed(f"{' and '.join(missing)} not installed: {how}")


def _load(crew: Crew, timeout_s: float, trial: Trial | None = None) -> float:
    """Load every instance at once; the seconds of the slowest, into `trial` those of each."""
    loaded = crew.each(lambda n, p: p.ask(wire.Load(crew.specs[n]), wire.Loaded, timeout_s))
    if trial is not None and len(loaded) > 1:
        trial.instances = [InstanceSeen(load_s=one.seconds) for one in loaded]
    return max(one.seconds for one in loaded)


def _window(trial: Trial) -> tuple[int, int] | None:
    """From the first due time to the last token; of several instances what they have in common."""
    if trial.instances:
        return together.window(trial)
    ends = [t for record in trial.records for t in record.token_ns]
    return min(r.due_ns for r in trial.records), max(ends)


def _alike(a: Variant, b: Variant) -> bool:
    """Whether their processes compute the same, however many there are."""
    x, y = (
        msgspec.structs.replace(
            v, instances=1, options=engines.numeric_options(v.engine, v.options)
        )
        for v in (a, b)
    )
    return x == y
