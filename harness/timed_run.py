"""Runs whose rounds somebody else times, such as pytest-benchmark: one load point each.

The rest is as in any run: fresh pinned processes, warm-up, conditions and placement watched. Only
the quality check, the fitting to a budget and the ceilings are left out, which `armbench run` has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from harness import begin, endpoint_run, plan, validity
from harness.crew import Crew
from harness.endpoint_run import EndpointRun
from harness.endpoint_spec import contact, make_spec, variant_of
from harness.engine_run import EngineRun
from harness.errors import ArmbenchError
from harness.load import together
from harness.machine.detect import detect
from harness.records.machine import Machine
from harness.records.run import Case, Check, Plan, RequestRecord, Result, Trial
from harness.runner import Run, execute

# Calls the function with 0, 1, …, so many times or fewer, and may time each call.
Rounds = Callable[[Callable[[int], None], int], None]


class Silent:
    """A listener of a run that tells nobody."""

    def started(self, machine: Machine, plan: Plan) -> None: ...

    def phase(self, text: str, done: float | None = None) -> None: ...

    def checked(self, check: Check) -> None: ...

    def fitted(self, plan: Plan, seconds: float) -> None: ...

    def trial_started(self, number: int, total: int, case: Case, repeat: int) -> None: ...

    def trial_ended(self, number: int, total: int, trial: Trial, seconds_left: float) -> None: ...


def _one_case(result: Result) -> Case:
    """The case of a result. Raises ArmbenchError where there are several."""
    if len(result.plan.cases) != 1:
        raise ArmbenchError(
            f"{len(result.plan.cases)} load points, where one is timed",
            hint="give one engine, dtype, number of threads, load, batch, rate or concurrency",
        )
    return result.plan.cases[0]


class TimedEngineRun(EngineRun):
    """One trial in the pinned child; a round is one batch of the load point."""

    rounds: Rounds
    count: int

    def prepare(self) -> None:
        """Convert only: what is timed here is not held against the reference."""
        prepared = self.described(self.plan.cases[0].variant)
        prepared.check.reason = "not compared in a timed test: armbench run does"
        self.convert(prepared)
        self.ready, self.result.checks = [prepared], [prepared.check]

    def drive(self, crew: Crew, case: Case, repeat: int) -> list[RequestRecord]:
        """The rounds, each with prompts of its own."""
        made: list[RequestRecord] = []

        def one(number: int) -> None:
            found = together.run_together(
                crew,
                case.load,
                seed=self.plan.seed or 0,
                repeat=number,
                vocabulary=self.vocabulary,
                timeout_s=self.timeout(case),
            )
            before = len(made)
            made.extend(replace(record, id=record.id + before) for record in found)

        self.rounds(one, self.count)
        return made

    def doubts(self, case: Case) -> list[str]:
        """None: a warning says that nothing was compared."""
        return []

    def finish(self) -> None:
        """No ceilings are measured here."""


class TimedEndpointRun(EndpointRun):
    """Trials against an endpoint; a round is one offering of the load, its lead and drain too."""

    rounds: Rounds

    def measure(self) -> None:
        """A warm-up, then one trial for each round, all between two readings of the conditions."""
        case = self.plan.cases[0]
        frame, made = _trial(case, 0), list[Trial]()
        with self.serving():
            offer = self._offer()
            frame.warmup, frame.warmup_stable = offer.warm_up(case.load, seed=self.spec.seed)

            def one(number: int) -> None:
                trial = _trial(case, number)
                offer.measure(trial, case.load, seed=self.spec.seed)
                made.append(trial)

            self.watched(frame, lambda: self.rounds(one, self.plan.repeats))
        for trial in made:
            trial.warmup = [*frame.warmup, *trial.warmup]
            for name in ("before", "after", "during", "findings", "placement", "warmup_stable"):
                setattr(trial, name, getattr(frame, name))
            trial.state = "ok"
            trial.invalid = validity.invalid_reasons(trial, case)
        self.plan.repeats = len(made)
        self.plan.order = [(case.id, trial.repeat) for trial in made]
        self.result.trials = made


def _trial(case: Case, number: int) -> Trial:
    import datetime

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Trial(case=case.id, repeat=number, order=number, started_at=now, state="failed")


def time_engine(values: Mapping[str, Any], rounds: Rounds, count: int, results: Path) -> Result:
    """Time `count` rounds of the engine that plan keys `values` ask for, in its pinned child.

    Raises ArmbenchError where it can't be run here, or fails.
    """
    spec = plan.make_spec({"name": "pytest", "load": "single_stream", **values}, "the load point")
    spec.repeats, spec.ceilings, spec.time_budget = 1, False, None
    begun = begin.new_run(spec, detect(instance=spec.instance), results, Silent())
    if _one_case(begun.result).serve is not None:
        raise ArmbenchError(
            "loads over HTTP are no in-process load point", hint="armbench_load has a target"
        )
    run = TimedEngineRun(begun.result, begun.path, begun.model, Silent())
    run.rounds, run.count = rounds, count
    return _ended(run)


def time_endpoint(
    target: str, values: Mapping[str, Any], rounds: Rounds, count: int, results: Path
) -> Result:
    """Time `count` offerings of the load that the flags `values` of `armbench load` ask for.

    Raises ArmbenchError where nobody answers, or a request fails.
    """
    spec = make_spec(
        {"target": target, "name": "pytest", **values, "repeats": count},
        headers=values.get("headers", {}),
        verify=bool(values.get("verify", True)),
        ignore_eos=bool(values.get("ignore_eos", True)),
    )
    endpoint, found = contact(spec)
    variant = variant_of(endpoint)
    result, path = endpoint_run.new_result(spec, detect(), results, found, variant)
    _one_case(result)
    run = TimedEndpointRun(result, path, Silent(), spec, endpoint, variant)
    run.rounds = rounds
    return _ended(run)


def _ended(run: Run) -> Result:
    """The result. Raises ArmbenchError where its trial failed."""
    result = execute(run)
    for trial in result.trials:
        if trial.state == "failed":
            told = "\n".join(trial.stderr_tail[-5:])
            raise ArmbenchError(f"{trial.reason}{': ' if told else ''}{told}")
    return result
