"""Runs an interleaved comparison: block after block, looking when it was planned to look."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec

from harness import gate, history, store
from harness.ab import planning, schedule, sides, trial
from harness.comparing import question, values
from harness.comparing.compare import compare, match
from harness.comparing.rows import Wish
from harness.comparing.samples import Runs
from harness.errors import Exit, NotComparable
from harness.records.ab import AbSide, AbState, AbTrial, SideKey
from harness.records.comparison import AaEntry, Comparison, GateOutcome, RunValues
from harness.records.run import Result

SIDES: tuple[SideKey, SideKey] = ("a", "b")
_LEAST_TIMEOUT_S = 600.0
BLOCK = "ABBA"


class Listener(Protocol):
    """What is told while it goes on."""

    def started(self, state: AbState) -> None: ...

    def setting_up(self, side: AbSide) -> None: ...

    def trial_ended(self, state: AbState, done: AbTrial) -> None: ...

    def looked(self, state: AbState, outcome: GateOutcome) -> None: ...


class Silent:
    """A listener that tells nobody."""

    def started(self, state: AbState) -> None: ...

    def setting_up(self, side: AbSide) -> None: ...

    def trial_ended(self, state: AbState, done: AbTrial) -> None: ...

    def looked(self, state: AbState, outcome: GateOutcome) -> None: ...


class Ab:
    """One comparison under way, stored in `folder` after every trial."""

    def __init__(
        self,
        state: AbState,
        folder: Path,
        *,
        listener: Listener | None = None,
        aa: Sequence[AaEntry] = (),
        reader: Callable[[Path], Result] = store.load,
    ) -> None:
        self.state, self.folder, self.reader = state, folder, reader
        self.rules = rules = planning.rules_of(state)
        self.listener: Listener = listener or Silent()
        level = schedule.level(state.alpha, state.looks)
        self.wish = Wish(
            rules=rules,
            setting="interleaved",
            aa=list(aa),
            alpha=level,
            correction=rules.correction,
            chosen=rules.gate,
        )
        self.read: dict[str, RunValues] = {}
        self.results: dict[str, Result] = {}  # the first of each side, for its outputs
        self.folders: dict[SideKey, Path | None] = {"a": None, "b": None}

    def save(self) -> None:
        """The state on disk, so that a killed comparison can go on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        store.write(msgspec.json.encode(self.state), self.folder / planning.STATE)

    @property
    def done(self) -> int:
        """Blocks that are complete."""
        return len(self.state.trials) // len(BLOCK)

    def conduct(self) -> GateOutcome:
        """Run until it is decided, no look is left or the budget is spent; what the gate says."""
        state = self.state
        del state.trials[self.done * len(BLOCK) :]  # drift within a block must stay even
        past = max((count for count in state.looks if count <= self.done), default=None)
        outcome = self.look(past) if past is not None else None
        with trial.interruptible(), ExitStack() as stack:
            self.listener.started(state)
            self.check_out(stack)
            self.save()
            while (
                (outcome is None or self.open(outcome))
                and (ahead := schedule.blocks_to_next(self.done, state.looks)) is not None
                and self.worth(ahead)
            ):
                outcome = self.stretch(ahead) or outcome
                if self.spent():
                    break
        outcome = outcome or too_short(state, self.done)
        state.exit = outcome.exit
        self.save()
        return outcome

    def open(self, outcome: GateOutcome) -> bool:
        """Whether more blocks may still decide it.

        Trials that were disturbed leave it open as long as neither side was it in every one. A case
        or a metric that the head lacks does not: no block brings it back.
        """
        if outcome.exit != Exit.INVALID or outcome.comparison is None:
            return outcome.exit == Exit.INCONCLUSIVE
        cases = [case for pair in outcome.comparison.pairs for case in pair.cases]
        disturbed = {case.label for case in cases if case.faults}
        if any(row.case not in disturbed for row in outcome.rows if row.state == "invalid"):
            return False
        groups = [group for key in SIDES for group in self.runs(key).groups()]
        return all(any(case.valid for _, case in group.members) for group in groups)

    def spent(self) -> bool:
        """Whether the time budget is over."""
        return self.state.budget_s is not None and self.state.spent_s >= self.state.budget_s

    def worth(self, ahead: int) -> bool:
        """Whether `ahead` more blocks, which end in a look, will fit into the budget.

        Before the first block nobody knows.
        """
        if self.state.budget_s is None or not self.done:
            return True
        each = self.state.spent_s / self.done
        return self.state.spent_s + ahead * each <= self.state.budget_s

    def stretch(self, blocks: int) -> GateOutcome | None:
        """These blocks and the look after them; None where the budget was over before it."""
        for number in range(blocks):
            self.block()
            if self.done == 1 and (wrong := self.different()) is not None:
                return wrong
            if self.spent() and number + 1 < blocks:
                return None
        return self.look(self.done)

    def block(self) -> None:
        """One block: each trial in turn, stored when it ends."""
        number = self.done
        for position, letter in enumerate(self.state.order[number]):
            self.run(number, position, "a" if letter == "A" else "b")

    def run(self, block: int, position: int, key: SideKey) -> None:
        """One trial. Raises ArmbenchError where its command fails."""
        state = self.state
        results = self.folder.absolute() / f"{block:03}-{position}-{key}"
        side: AbSide = getattr(state, key)
        words, variables = sides.command(side, results, self.folders[key])
        slowest = max((t.seconds for t in state.trials), default=None)
        limit = None if slowest is None else max(_LEAST_TIMEOUT_S, 10 * slowest)
        ran = trial.run(words, variables, results, timeout_s=limit, cwd=self.place(key))
        done = AbTrial(
            block=block,
            position=position,
            side=key,
            file=ran.file.relative_to(self.folder.absolute()).as_posix(),
            seconds=ran.seconds,
            exit=ran.exit,
        )
        state.trials.append(done)
        state.spent_s += ran.seconds
        self.save()
        self.listener.trial_ended(state, done)

    def place(self, key: SideKey) -> Path | None:
        """Where the command of a side runs: its checkout; a command line where it was given.

        None is the empty folder of its result: no package beside us may be imported in place of an
        environment's.
        """
        side: AbSide = getattr(self.state, key)
        return Path(self.state.cwd or ".") if side.kind == "command" else self.folders[key]

    def check_out(self, stack: ExitStack) -> None:
        """The folders of git references; each is in the state before it exists."""
        state = self.state
        repository = Path(state.repository or ".")
        for left in state.checkouts:
            sides.remove(repository, Path(left))
        state.checkouts = []
        for key in SIDES:
            side: AbSide = getattr(state, key)
            if side.commit is not None:
                folder = sides.new_checkout(side)
                state.checkouts.append(str(folder))
                self.save()
                stack.callback(sides.remove, repository, folder)
                sides.check_out(side, repository, folder)
                self.folders[key] = folder
                if state.setup:
                    self.listener.setting_up(side)
                    words, variables = sides.fill(side, state.setup, self.folder, folder)
                    trial.finish(words, variables, folder)

    def runs(self, key: SideKey, blocks: int | None = None) -> Runs:
        """What one side gave in the first `blocks`; in all that are complete without a number."""
        whole = self.state.trials[: (self.done if blocks is None else blocks) * len(BLOCK)]
        found = [self.values(each) for each in whole if each.side == key]
        side: AbSide = getattr(self.state, key)
        label = f"{side.name} ({side.text})"
        return Runs(label=label, runs=found, results=self.results)

    def values(self, done: AbTrial) -> RunValues:
        """The figures of one trial, read once."""
        if done.file not in self.read:
            result = self.reader(self.folder / done.file)
            run = values.of_result(result, done.file, only=self.rules.gate)
            run.block = done.block
            self.read[done.file] = run
            if done.block == 0:
                self.results[done.file] = result
        return self.read[done.file]

    def different(self) -> GateOutcome | None:
        """The refusal, where the sides turn out to ask different questions; else None."""
        try:
            match(self.runs("a"), self.runs("b"), self.wish)
        except NotComparable as error:
            return gate.refused(error.message, [])
        return None

    def look(self, blocks: int) -> GateOutcome:
        """The gate over the first `blocks` blocks, which is one of the planned numbers."""
        try:
            found = compare([self.runs(key, blocks) for key in SIDES], self.wish)
        except NotComparable as error:
            return gate.refused(error.message, [])
        outcome = gate.judge(found, self.rules)
        if blocks not in self.state.looked:
            self.state.looked.append(blocks)
            self.save()
        self.listener.looked(self.state, outcome)
        return outcome


def too_short(state: AbState, done: int) -> GateOutcome:
    """The outcome where the budget was over before the first look."""
    return GateOutcome(
        exit=Exit.INCONCLUSIVE,
        summary=f"inconclusive: the time budget of {state.budget_s or 0:.0f} s was over after "
        f"{done} blocks, before the first look at {state.looks[0]}",
        rows=[],
    )


def keep_aa(state: AbState, comparison: Comparison, runs: Runs, where: Path) -> int:
    """Add an A/A comparison to the history folder `where`; how many questions it told of.

    Nothing is kept where the sides were not the same.
    """
    if not sides.same(state.a, state.b):
        return 0
    keys = [question.key(group.case.question) for group in runs.groups()]
    if len(keys) != len(comparison.pairs[0].cases):
        return 0  # a question was not asked in every trial
    kept = 0
    for key, case in zip(keys, comparison.pairs[0].cases, strict=True):
        if case.faults:
            continue
        ratios = {
            row.metric: math.log(row.ratio.value)
            for row in case.metrics
            if row.ratio.value and row.ratio.scale == "ratio" and row.ratio.value > 0
        }
        entry = AaEntry(
            at=state.created,
            machine=runs.runs[0].machine,
            question=key,
            setting="interleaved",
            n=len(state.trials) // len(BLOCK),
            ratios=ratios,
        )
        history.add_aa(where, entry)
        kept += 1
    return kept
