"""Conducts a search: step after step as `search` decides, stored after each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness import runner
from harness.engine_run import EngineRun
from harness.records.run import Plan, Result, Trial
from harness.records.tune import Left, Probe, Tune
from harness.tune import fitting, outcome, space, writing
from harness.tune.candidates import Candidates, guard_key
from harness.tune.knowing import known_of
from harness.tune.search import (
    DropMove,
    Known,
    ProbeMove,
    ReviveMove,
    Rules,
    StopMove,
    TrialMove,
    next_move,
)


class Listener(runner.Listener, Protocol):
    """What a search tells while it goes on, beside what any run does."""

    def found(self, tune: Tune) -> None:
        """The space is known: what will be tried, what can't be."""

    def left_out(self, tune: Tune, left: Left) -> None: ...

    def probed(self, tune: Tune, probes: list[Probe]) -> None: ...

    def tried(self, tune: Tune, trial: Trial) -> None: ...

    def standing(self, tune: Tune, known: Known) -> None:
        """What is known after a step."""

    def say(self, text: str) -> None: ...


class Tuning:
    """One search under way: the result is on disk after every step."""

    def __init__(self, run: EngineRun, plans: dict[int, Plan], listener: Listener) -> None:
        assert run.result.tune is not None
        self.run, self.tune, self.listener = run, run.result.tune, listener
        self.hands = Candidates(run, self.tune, plans)
        self.groups = space.groups(self.tune.candidates)
        asked = self.tune.asked
        self.rules = Rules(
            budget_s=asked.budget_s,
            seed=asked.seed,
            exhaustive=asked.exhaustive,
            repeats=asked.repeats,
        )

    @property
    def result(self) -> Result:
        return self.run.result

    def execute(self) -> Result:
        """Search to the end; the finished result."""
        with runner.on_cpus(self.run.plan.driver_cpus):
            try:
                self.save()
                self.listener.found(self.tune)
                with self._clock("setup_s"):
                    self.set_up()
                self.search()
                self.run.finish()
            finally:
                self.run.close()
            self.result.finished = True
            self.save()
        return self.result

    def save(self) -> None:
        """The result with the answer so far, on disk."""
        self.tune.answer = outcome.draw(self.result, self.rules)
        writing.complete(self.tune)
        self.run.plan.repeats = max(
            (n for case in self.run.plan.cases if (n := self._order(case.id))), default=1
        )
        self.run.save()

    def _order(self, index: int) -> int:
        return sum(case == index for case, _ in self.run.plan.order)

    @contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        """Add what goes by to `spent_s` or `setup_s`."""
        before, start = getattr(self.tune, name), time.monotonic()
        try:
            yield
        finally:
            setattr(self.tune, name, before + time.monotonic() - start)

    # Before the budget's clock runs

    def set_up(self) -> None:
        """Conversions, quality checks and ceilings: for each engine, dtype and options once.

        Of options that are only variations the quality is checked when they reach the trials.
        """
        seen: set[bytes] = set()
        for index in sorted(self.hands.plans):
            one = self.tune.candidates[index]
            key = guard_key(one)
            if key in seen or index not in self._alive():
                continue
            seen.add(key)
            left = self.hands.convert(index)
            usual = one.options == self._usual_options(index)
            if left is None and usual:
                left = self.hands.check(index)
            if left is not None:
                self.leave_out(left)
            self.save()
        if not self.tune.limits:
            self.listener.phase("ceilings of one CPU and of all")
            self.tune.limits = self.hands.limits()

    def _usual_options(self, index: int) -> dict[str, object]:
        """Those of the first candidate of the same family."""
        one = self.tune.candidates[index]
        return next(c.options for c in self.tune.candidates if c.family == one.family)

    def _alive(self) -> set[int]:
        gone = {c for left in self.tune.left for c in left.candidates}
        return set(range(len(self.tune.candidates))) - gone

    def leave_out(self, left: Left) -> None:
        """Note what is no longer looked at."""
        alive = self._alive()
        left.candidates = [c for c in left.candidates if c in alive]
        if left.candidates:
            self.tune.left.append(left)
            self.listener.left_out(self.tune, left)

    # The search itself

    def search(self) -> None:
        """Every step until it stops."""
        while self.tune.stopped is None:
            known = known_of(self.result, self.groups)
            move = next_move(known, self.rules)
            if self._fitted(known, move):
                continue
            self._take(move)
            self.save()
            self.listener.standing(self.tune, known_of(self.result, self.groups))

    def _fitted(self, known: Known, move: object) -> bool:
        """Shorten the lengths once, when every candidate was probed; whether that was now."""
        first = isinstance(move, ProbeMove) and move.rung == 0
        if self.tune.fitted or first or isinstance(move, DropMove | ReviveMove | StopMove):
            return False
        self.tune.fitted = True
        if (note := fitting.fit(self.tune, known, self.rules)) is not None:
            self.tune.log.append(note)
            self.run.plan.notes.append(note)
            self.listener.say(note)
        return True

    def _take(self, move: object) -> None:
        if isinstance(move, DropMove):
            for left in move.left:
                self.leave_out(left)
        elif isinstance(move, ReviveMove):
            self._revive(move)
        elif isinstance(move, StopMove):
            self.tune.stopped = move.reason
            self.listener.say(f"the search ends: {move.reason}")
        elif isinstance(move, ProbeMove):
            self._probe(move)
        elif isinstance(move, TrialMove):
            self._try(move)

    def _revive(self, move: ReviveMove) -> None:
        """Look again at what was left out by a comparison that does not hold any longer."""
        self.tune.mark = move.mark
        again = set(move.candidates)
        for left in self.tune.left:
            left.candidates = [c for c in left.candidates if c not in again]
        self.tune.left = [left for left in self.tune.left if left.candidates]
        if again:
            names = ", ".join(self.tune.candidates[c].label for c in sorted(again))
            self.listener.say(f"looked at again, since what excluded it does not hold: {names}")

    def _probe(self, move: ProbeMove) -> None:
        label = self.tune.candidates[move.candidates[0]].label
        more = len(move.candidates) - 1
        others = f" and {more} more of its kind" if more else ""
        self.listener.phase(f"probe {move.rung + 1}: {label}{others}")
        with self._clock("spent_s"):
            probes, left = self.hands.probe(move.candidates, move.rung)
        self.tune.probes += probes
        self.listener.probed(self.tune, probes)
        if (note := self.hands.doubt_limits(probes)) is not None:
            self.tune.log.append(note)
            self.listener.say(note)
        if left is not None:
            self.leave_out(left)

    def _try(self, move: TrialMove) -> None:
        with self._clock("setup_s"):
            left = self.hands.check(move.candidate)
        if left is not None:
            self.leave_out(left)
            return
        if not self.result.calibrations:
            self.hands.case(move.candidate)
            with self._clock("setup_s"):
                self.run.calibrator.before()
        label = self.tune.candidates[move.candidate].label
        self.listener.phase(f"trial {len(self.result.trials) + 1}: {label}, round {move.round + 1}")
        with self._clock("spent_s"):
            trial = self.hands.trial(move.candidate, len(self.result.trials))
        self.result.trials.append(trial)
        self.listener.tried(self.tune, trial)
