"""What `armbench ab` tells while it goes on: one line for each thing that happened."""

from __future__ import annotations

from collections.abc import Callable

from harness.ab.planning import describe
from harness.records.ab import AbSide, AbState, AbTrial
from harness.records.comparison import GateOutcome
from harness.units import format_duration


class AbLines:
    """A listener of `ab.conduct` that hands each line to `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def started(self, state: AbState) -> None:
        for line in describe(state):
            self.say(line)
        if state.trials:
            self.say(f"going on after {len(state.trials) // 4} blocks")

    def setting_up(self, side: AbSide) -> None:
        self.say(f"setting up the checkout of {side.name} ({side.text})")

    def trial_ended(self, state: AbState, done: AbTrial) -> None:
        side = state.a if done.side == "a" else state.b
        text = (
            f"block {done.block + 1}/{len(state.order)}, trial {done.position + 1}/4: {side.name} "
            f"{format_duration(done.seconds)}"
        )
        left = None if state.budget_s is None else max(0.0, state.budget_s - state.spent_s)
        self.say(text if left is None else f"{text}, {format_duration(left)} of the budget left")

    def looked(self, state: AbState, outcome: GateOutcome) -> None:
        self.say(f"after {len(state.trials) // 4} blocks: {outcome.summary}")
