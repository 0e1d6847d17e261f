"""A search while it goes on, on stderr: a table of the leaders on a terminal, else plain lines."""

from __future__ import annotations

from rich.console import Group
from rich.live import Live
from rich.text import Text

from harness.records.machine import Machine
from harness.records.run import Plan, Trial
from harness.records.tune import Left, Probe, Tune
from harness.reports.progress import ProgressListener
from harness.reports.sheet import Column, Sheet, number
from harness.reports.terminal import table
from harness.reports.tune import asked_text, left_line
from harness.tune.intervals import Interval
from harness.tune.search import Known
from harness.units import format_duration

_LEADERS = 8


class TuneListener(ProgressListener):
    """Tells on stderr what a search does; use as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Live | None = None
        self.doing = ""
        self.leaders: Sheet | None = None

    def __enter__(self) -> TuneListener:
        if self.out.is_terminal:
            self.live = Live(console=self.out, transient=True, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def started(self, machine: Machine, plan: Plan) -> None:
        self.show_machine(machine)

    def phase(self, text: str, done: float | None = None) -> None:
        if self.live is None:
            super().phase(text, done)
            return
        self.doing = text if done is None else f"{text}: {done:.0%}"
        self._draw()

    def _draw(self) -> None:
        if self.live is not None:
            parts = [table(self.leaders, plain=False)] if self.leaders else []
            self.live.update(Group(*parts, Text(self.doing, style="dim")))

    def found(self, tune: Tune) -> None:
        """The size of the space, and what of it can't be tried."""
        gone = {c for left in tune.left for c in left.candidates}
        budget = tune.asked.budget_s
        limit = "no limit" if budget is None else f"a budget of {format_duration(budget)}"
        self.say(
            f"{asked_text(tune)}: {len(tune.candidates)} candidates, "
            f"{len(tune.candidates) - len(gone)} to try, {limit}"
        )
        for left in tune.left:
            self.left_out(tune, left)

    def left_out(self, tune: Tune, left: Left) -> None:
        self.say(left_line(tune, left.candidates, left.why, left.reason))

    def probed(self, tune: Tune, probes: list[Probe]) -> None:
        for probe in probes:
            self.say(
                f"probe: {tune.candidates[probe.candidate].label}: prompts in "
                f"{format_duration(probe.prefill_s)}, a step in {format_duration(probe.step_s)}"
            )

    def tried(self, tune: Tune, trial: Trial) -> None:
        outcome = trial.reason or "; ".join(trial.invalid)
        if outcome:
            self.say(f"trial of {tune.candidates[trial.case].label} does not count: {outcome}")

    def standing(self, tune: Tune, known: Known) -> None:
        """The leaders: a table on a terminal, else the first few of each round in a line."""
        seen = known.by_trials() if known.trials else known.by_probes()
        ordered = sorted(seen.items(), key=lambda pair: -pair[1].value)[:_LEADERS]
        if self.live is not None:
            self.leaders = _leaders(tune, known, ordered)
            self._draw()
        elif known.trials and len({one.n for one in seen.values()}) == 1 and ordered:
            told = [f"{known.names[c]} {_spread(one)}" for c, one in ordered[:3]]
            line = f"after {ordered[0][1].n} trials of each: {'; '.join(told)} {known.unit}"
            if line != self.last_phase:
                self.say(line)
            self.last_phase = line


def _spread(one: Interval) -> str:
    return f"{number(one.value)} ({number(one.low)}–{number(one.high)})"


def _leaders(tune: Tune, known: Known, ordered: list[tuple[int, Interval]]) -> Sheet:
    kind = "trials" if known.trials else "short probes"
    budget = tune.asked.budget_s
    of = f" of {format_duration(budget)}" if budget is not None else ""
    return Sheet(
        title=f"leaders by {kind}; {len(known.alive)} candidates left, "
        f"{format_duration(known.spent_s)}{of} spent",
        columns=[
            Column(label="candidate", right=False),
            Column(label="score", unit=known.unit, right=False),
            Column(label="n"),
        ],
        rows=[[known.names[c], _spread(one), str(one.n)] for c, one in ordered],
    )
