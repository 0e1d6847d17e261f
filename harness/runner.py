"""Conducts a run: each trial in the plan's order, stored as it ends; what is tried is the kind's.

`engine_run` has the trials of our own engines, `endpoint_run` those of any endpoint.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from harness import binding, store, validity
from harness.engine_process import EngineFailed
from harness.errors import ArmbenchError
from harness.records.machine import Machine
from harness.records.run import Case, Check, Plan, Result, Trial

INTERRUPTED = "interrupted"


class Listener(Protocol):
    """What a run tells while it goes on; every method returns at once."""

    def started(self, machine: Machine, plan: Plan) -> None: ...

    def phase(self, text: str, done: float | None = None) -> None: ...

    def checked(self, check: Check) -> None: ...

    def fitted(self, plan: Plan, seconds: float) -> None: ...

    def trial_started(self, number: int, total: int, case: Case, repeat: int) -> None: ...

    def trial_ended(self, number: int, total: int, trial: Trial, seconds_left: float) -> None: ...


@contextmanager
def on_cpus(cpus: Sequence[int]) -> Iterator[None]:
    """This process on `cpus` for as long as it drives; on its old ones afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Run:
    """One run. The result is on disk after every step.

    A kind of run says how it prepares, fills a trial and closes, and what a trial takes.
    """

    def __init__(self, result: Result, path: Path, listener: Listener) -> None:
        self.result, self.path, self.listener = result, path, listener

    @property
    def plan(self) -> Plan:
        return self.result.plan

    def prepare(self) -> None:
        """All that comes before the first trial; ArmbenchError where something is missing."""

    def fill(self, trial: Trial, case: Case) -> None:
        """One trial of `case`, into `trial`. Raises EngineFailed or ArmbenchError."""
        raise NotImplementedError

    def doubts(self, case: Case) -> list[str]:
        """Why no trial of `case` should be believed, however it went."""
        return []

    def seconds(self, case: Case) -> float | None:
        """Estimated seconds of one trial; None where nothing was timed yet."""
        return None

    def finish(self) -> None:
        """What comes after the last trial."""

    def close(self) -> None:
        """What must end however the run ended."""

    def save(self) -> None:
        """Write the result with its derived summary."""
        binding.derive(self.result)
        store.save(self.result, self.path)

    def remaining(self) -> list[tuple[int, int]]:
        """(case, repeat) still to run, in order."""
        ended = [t for t in self.result.trials if t.reason != INTERRUPTED]
        self.result.trials = ended
        done = {(t.case, t.repeat) for t in ended}
        return [pair for pair in self.plan.order if tuple(pair) not in done]

    def measure(self) -> None:
        """Every trial that is not in the result yet; stored as each ends."""
        by_id = {case.id: case for case in self.plan.cases}
        total, left = len(self.plan.order), self.remaining()
        for index, (case_id, repeat) in enumerate(left):
            number = total - len(left) + index + 1
            case = by_id[case_id]
            self.listener.trial_started(number, total, case, repeat)
            trial = self.trial(case, repeat, number - 1)
            self.result.trials.append(trial)
            self.save()
            rest = [self.seconds(by_id[c]) or 0.0 for c, _ in left[index + 1 :]]
            self.listener.trial_ended(number, total, trial, sum(rest))

    def trial(self, case: Case, repeat: int, order: int) -> Trial:
        """One trial; a failure is a trial too."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        trial = Trial(case=case.id, repeat=repeat, order=order, started_at=now, state="failed")
        try:
            self.fill(trial, case)
            trial.state = "ok"
        except EngineFailed as error:
            trial.reason, trial.exit_code = error.reason, error.exit_code
            trial.stderr_tail = error.stderr_tail
        except ArmbenchError as error:
            trial.reason = error.message
        except KeyboardInterrupt:
            if trial.records:  # what ended is kept; a resumed run makes the trial again
                trial.reason = INTERRUPTED
                self.result.trials.append(trial)
                self.save()
            raise
        if trial.state == "ok":
            trial.invalid = validity.invalid_reasons(trial, case) + self.doubts(case)
        return trial


def execute(run: Run) -> Result:
    """Prepare and measure, with this process on the driver's CPUs; the finished result."""
    with on_cpus(run.plan.driver_cpus):
        try:
            run.save()
            run.prepare()
            run.measure()
            run.finish()
        finally:
            run.close()
        run.result.finished = True
        run.save()
    return run.result
