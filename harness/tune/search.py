"""What a search does next, from what it knows: no process, no clock, the same answer each time.

1. Short probes of every candidate, one process for those that differ in batch only. The space's
   families (engine and dtype) take turns, better ones more often; nothing is assumed of the way
   that speed follows threads, instances or batch.
2. A candidate goes when ceilings and footprint say that it can't reach the lower end of the best
   interval, or when its own interval ends below that. Where more are left than the budget can
   measure, they are probed again; then those that looked best go on.
3. Trials of the others in rounds, shuffled anew each time, each trial in fresh processes. After a
   round those go whose interval ends below the best one's. A disturbed trial does not count and is
   repeated, a few times at most.
4. It ends when no rival can be better than the leader by more than `tie`, or with the budget.

Since all that is known is stored, a search that was killed goes on where it was.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from harness.records.tune import Left, Why
from harness.tune.intervals import Interval, Noise, interval, pooled, ratio

# A probe stands for a whole trial up to this much, whatever it costs to make it: it is shorter, on
# a smaller context, and nothing watches what disturbs it.
PROBE_BIAS = 0.06
# Before there are repeats: between processes on a quiet machine times differ by 1 to 3 %, on a
# shared one by 5 to 10 %.
PROBE_NOISE = Noise(0.08, 4)
TRIAL_NOISE = Noise(0.05, 3)
# What excludes a candidate for what it is; the other reasons compare it with one that may be
# excluded later.
BARRED: tuple[Why, ...] = (
    *("missing", "option", "placement", "memory", "conversion", "quality", "slo", "failed"),
    "disturbed",
)
# A bound is a measured ceiling, which a kernel of somebody else's may pass by a few percent.
BOUND_SLACK = 1.05


class Rules(Struct, frozen=True, kw_only=True):
    """How the search spends what it has.

    Until `probe_share` of the budget is gone candidates get a first probe, until `screen_share`
    further ones; the trials to come may take `race_share` of what is left when they are chosen.
    """

    budget_s: float | None = None
    seed: int = 1
    exhaustive: bool = False
    repeats: int = 3  # of each candidate in an exhaustive search
    tie: float = 0.02
    probe_share: float = 0.45
    screen_share: float = 0.55
    race_share: float = 0.8
    probes_most: int = 3
    rounds_least: int = 3
    rounds_halved: int = 2
    rounds_most: int = 12
    spoilt_most: int = 5
    failed_most: int = 2


class Known(Struct, kw_only=True):
    """What is known of every candidate, by its index. Scores: more is better.

    `groups` are the candidates that one process can probe one after the other, in the order to
    probe them; `cost_s` is what a trial takes, where that is known.
    """

    names: list[str]
    families: list[str]
    groups: list[list[int]]
    limits: list[float | None]
    unit: str = "tok/s"
    probes: dict[int, list[float]] = field(default_factory=dict)
    trials: dict[int, list[float]] = field(default_factory=dict)
    spoilt: dict[int, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)  # how the SLO is not kept
    doubts: dict[int, str] = field(default_factory=dict)  # what spoilt or failed the last trial
    cost_s: dict[int, float] = field(default_factory=dict)
    out: dict[int, Why] = field(default_factory=dict)
    mark: int = 0  # so many were barred when it was last looked whom that brings back
    spent_s: float = 0.0

    @property
    def alive(self) -> list[int]:
        """Candidates that are still looked at."""
        return [c for c in range(len(self.names)) if c not in self.out]

    @property
    def barred(self) -> int:
        """How many are out for what they are."""
        return sum(why in BARRED for why in self.out.values())

    @property
    def raced(self) -> bool:
        """Whether trials have begun."""
        return bool(self.trials or self.spoilt or self.failed)

    def count(self, candidate: int) -> int:
        """Valid trials of one candidate."""
        return len(self.trials.get(candidate, []))

    def tries(self, candidate: int) -> int:
        """Trials of one candidate that do not count."""
        return self.spoilt.get(candidate, 0) + self.failed.get(candidate, 0)

    def by_probes(self, also: Iterable[int] = ()) -> dict[int, Interval]:
        """Intervals from probes, of those that are still looked at and of `also`."""
        noise = pooled(self.probes.values(), PROBE_NOISE)
        found = ((c, self.probes.get(c)) for c in sorted({*self.alive, *also}))
        return {c: interval(v, noise, bias=PROBE_BIAS) for c, v in found if v}

    def noise(self) -> Noise:
        """What the trials of all candidates show of their noise."""
        return pooled(self.trials.values(), TRIAL_NOISE)

    def by_trials(self, also: Iterable[int] = ()) -> dict[int, Interval]:
        """Intervals from valid trials, of those that are still looked at and of `also`."""
        noise = self.noise()
        found = ((c, self.trials.get(c)) for c in sorted({*self.alive, *also}))
        return {c: interval(v, noise) for c, v in found if v}


class ProbeMove(Struct, frozen=True):
    """Time these candidates shortly, in one process; `rung` counts the probes of each."""

    candidates: tuple[int, ...]
    rung: int


class TrialMove(Struct, frozen=True):
    """One trial of a candidate; `round` is the repeat it counts as if it is valid."""

    candidate: int
    round: int


class DropMove(Struct, frozen=True):
    """Look at these no longer."""

    left: tuple[Left, ...]


class ReviveMove(Struct, frozen=True):
    """Look at these again: what they were slower than is barred, or their limit is not trusted.

    `mark` is the new `Known.mark`.
    """

    candidates: tuple[int, ...]
    mark: int


class StopMove(Struct, frozen=True):
    """The search is over."""

    reason: str


Move = ProbeMove | TrialMove | DropMove | ReviveMove | StopMove


def next_move(known: Known, rules: Rules) -> Move:
    """The next step."""
    left = [*_broken(known), *_spoilt(known, rules)]
    if left:
        return DropMove(tuple(left))
    if rules.exhaustive:
        return _sweep(known, rules)
    if (back := _back(known, rules)) is not None:
        return back
    if left := _bounded(known):
        return DropMove(tuple(left))
    probing = not known.raced or any(c not in known.probes for c in known.alive)
    if probing and (move := _probing(known, rules)) is not None:
        return move
    return _race(known, rules)


# What is left out


def _left(candidates: Iterable[int], why: str, reason: str) -> Left:
    return Left(candidates=sorted(candidates), why=why, reason=reason)  # type: ignore[arg-type]


def _broken(known: Known) -> list[Left]:
    return [_left([c], "slo", known.broken[c]) for c in known.alive if c in known.broken]


def _spoilt(known: Known, rules: Rules) -> list[Left]:
    found = []
    for c in known.alive:
        doubt = known.doubts.get(c, "")
        if known.failed.get(c, 0) >= rules.failed_most:
            found.append(_left([c], "failed", f"failed {known.failed[c]} times: {doubt}"))
        elif known.spoilt.get(c, 0) > rules.spoilt_most + known.count(c):
            text = f"{known.spoilt[c]} of {known.spoilt[c] + known.count(c)} trials don't count"
            found.append(_left([c], "disturbed", f"{text}, the last because {doubt}"))
    return found


def _back(known: Known, rules: Rules) -> ReviveMove | None:
    """Who comes back: after somebody was barred, or out by a limit that is no longer trusted."""
    if known.barred > known.mark:
        return ReviveMove(tuple(_revived(known, rules)), known.barred)
    free = [c for c, why in known.out.items() if why == "bound" and known.limits[c] is None]
    return ReviveMove(tuple(free), known.mark) if free else None


def _revived(known: Known, rules: Rules) -> list[int]:
    """Those that were slower than somebody who is barred since, and may now be the best.

    Trials of one tell more than its probes: by them the best of those that are left may have beaten
    it as well. Of those that were measured as many as there is room for, the best first.
    """
    waiting = [c for c, why in known.out.items() if why not in BARRED]
    if not known.probes:
        return []
    seen, tried = known.by_probes(waiting), known.by_trials(waiting)
    beaten = {c for left in (_beaten(known, tried) if tried else []) for c in left.candidates}
    mine = known.by_probes()
    low = max((one.low for one in (mine or seen).values()), default=0.0)
    able = sorted((c for c in waiting if c in tried.keys() - beaten), key=lambda c: -tried[c].value)
    untried = [c for c in waiting if c in seen and c not in tried and seen[c].high >= low]
    able += sorted(untried, key=lambda c: -seen[c].value)
    room = _room(known, rules, [*known.alive, *able]) if known.raced else len(waiting)
    unknown = [
        c
        for c in waiting
        if c not in seen
        and known.out[c] == "bound"
        and (known.limits[c] or 0.0) * BOUND_SLACK >= low
    ]
    return sorted([*able[: max(0, room - len(known.alive))], *unknown])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _best(seen: Mapping[int, Interval]) -> int:
    """The candidate whose lower end is highest."""
    return max(seen, key=lambda c: (seen[c].low, -c))


def _bounded(known: Known) -> list[Left]:
    """Candidates that can't reach the lower end of the best interval, whatever they do."""
    seen = known.by_probes()
    if not seen:
        return []
    best = _best(seen)
    low, found = seen[best].low, []
    for c in known.alive:
        limit = known.limits[c]
        if c != best and limit is not None and limit * BOUND_SLACK < low:
            reason = (
                f"ceilings and footprint allow {_number(limit)} {known.unit} at most, "
                f"{known.names[best]} has at least {_number(low)}"
            )
            found.append(_left([c], "bound", reason))
    return found


def _slower(known: Known, seen: Mapping[int, Interval], basis: str) -> list[Left]:
    """Candidates whose interval ends below the best one's lower end."""
    best = _best(seen)
    return [
        _left(
            [c],
            "slower",
            f"{_number(one.value)} {known.unit} by {one.n} {basis}{'s' if one.n > 1 else ''}, "
            f"{_number(one.high)} at most; {known.names[best]} has at least "
            f"{_number(seen[best].low)}",
        )
        for c, one in sorted(seen.items())
        if one.high < seen[best].low
    ]


# Probing


def _gone(known: Known, rules: Rules, share: float) -> bool:
    """Whether `share` of the budget is spent."""
    return rules.budget_s is not None and known.spent_s >= share * rules.budget_s


def _probing(known: Known, rules: Rules) -> Move | None:
    """The next probe, or who goes after them; None when the trials can begin."""
    alive = known.alive
    if not alive:
        return StopMove("no candidate is left")
    waiting = [g for g in known.groups if any(c in alive and c not in known.probes for c in g)]
    if waiting and not (known.by_probes() and _gone(known, rules, rules.probe_share)):
        group = _next_group(known, waiting)
        return ProbeMove(tuple(c for c in group if c in alive and c not in known.probes), 0)
    if waiting:
        rest = [c for g in waiting for c in g if c in alive and c not in known.probes]
        text = f"not tried: {rules.probe_share:.0%} of the budget was spent on other probes"
        return DropMove((_left(rest, "budget", text),))
    return _screen(known, rules, alive)


def _next_group(known: Known, waiting: Sequence[list[int]]) -> list[int]:
    """The group to probe: each family's first, then turns, more of them for a better family.

    A family that reached half of the best score gets a quarter of the turns that the best gets.
    """
    best: dict[str, float] = {}
    turns: dict[str, int] = {}
    for group in known.groups:
        scores = [s for c in group for s in known.probes.get(c, [])]
        family = known.families[group[0]]
        if scores:
            best[family] = max(best.get(family, 0.0), *scores)
            turns[family] = turns.get(family, 0) + 1
    top = max(best.values(), default=1.0)

    def rank(group: Sequence[int]) -> tuple[float, float]:
        family = known.families[group[0]]
        if family not in best:
            limits = [known.limits[c] for c in group]
            return 0.0, -max((math.inf if limit is None else limit) for limit in limits)
        return (turns[family] + 1) * (top / best[family]) ** 2, 0.0

    return min(waiting, key=rank)  # the first of equals


def _screen(known: Known, rules: Rules, alive: Sequence[int]) -> Move | None:
    """Who goes by probes alone, or whom to probe again; None when the trials can begin."""
    counts = [len(known.probes[c]) for c in alive]
    least, most = min(counts), max(counts)
    if least < most and not _gone(known, rules, rules.screen_share):
        return _again(known, rules, [c for c in alive if len(known.probes[c]) < most])
    seen = known.by_probes()
    if left := _slower(known, seen, "probe"):
        return DropMove(tuple(left))
    ordered = sorted(alive, key=lambda c: -seen[c].value)
    room = _room(known, rules, ordered)
    if len(alive) <= room:
        return None
    if most < rules.probes_most and not _gone(known, rules, rules.screen_share):
        return _again(known, rules, alive)
    rest = ordered[room:]
    text = f"the budget has room for trials of {room}; these looked slower in short probes"
    return DropMove((_left(rest, "budget", text),))


def _again(known: Known, rules: Rules, which: Sequence[int]) -> ProbeMove:
    """One more probe of a group that has some of `which`, in a shuffled order of groups."""
    rung = min(len(known.probes[c]) for c in which)
    groups = [g for g in known.groups if any(c in which for c in g)]
    random.Random(f"{rules.seed} probes {rung}").shuffle(groups)
    least = [[c for c in g if c in which and len(known.probes[c]) == rung] for g in groups]
    return ProbeMove(tuple(next(g for g in least if g)), rung)


def _room(known: Known, rules: Rules, ordered: Sequence[int]) -> int:
    """How many of `ordered` the rest of the budget can measure; two at least."""
    if rules.budget_s is None:
        return len(ordered)
    rest = rules.race_share * (rules.budget_s - known.spent_s)
    usual = max(known.cost_s.values(), default=0.0)
    for number, c in enumerate(ordered):
        rest -= rules.rounds_least * known.cost_s.get(c, usual)
        if rest < 0:
            return max(2, number)
    return len(ordered)


# Trials


def _due(known: Known, rules: Rules, alive: Sequence[int]) -> TrialMove:
    """The next trial: one of those with the fewest, in the shuffled order of that round."""
    least = min(known.count(c) for c in alive)
    order = list(range(len(known.names)))
    random.Random(f"{rules.seed} round {least}").shuffle(order)
    due = [c for c in alive if known.count(c) == least]
    # A disturbed one waits for the others of its round: the disturbance may be over by then.
    return TrialMove(min(due, key=lambda c: (known.tries(c), order.index(c))), least)


def _too_long(known: Known, rules: Rules, move: TrialMove) -> bool:
    """Whether the budget has no room for one more trial; the first one is made all the same."""
    if rules.budget_s is None or not known.raced:
        return False
    return known.spent_s + known.cost_s.get(move.candidate, 0.0) > rules.budget_s


def _race(known: Known, rules: Rules) -> Move:
    alive = known.alive
    if not alive:
        return StopMove("no candidate is left")
    counts = {known.count(c) for c in alive}
    if len(counts) == 1 and (rounds := counts.pop()) > 0:
        seen = known.by_trials()
        if left := _beaten(known, seen):
            return DropMove(tuple(left))
        if left := _halved(known, rules, seen, rounds):
            return DropMove(tuple(left))
        if rounds >= rules.rounds_least and not rivals(known, seen, rules.tie):
            return StopMove("decided")
        if rounds >= rules.rounds_most:
            return StopMove(f"{rounds} trials of each, the most it makes, do not tell more")
    move = _due(known, rules, alive)
    return StopMove("the budget is spent") if _too_long(known, rules, move) else move


def _beaten(known: Known, seen: Mapping[int, Interval]) -> list[Left]:
    """Candidates whose ratio to the leader is below one with its whole interval."""
    first, noise = leader(seen), known.noise()
    base, found = known.trials[first], []
    for c in (c for c in sorted(seen) if c != first):
        gap = ratio(known.trials[c], base, noise)
        if gap.high < 1:
            reason = (
                f"{_number(seen[c].value)} {known.unit} by {seen[c].n} trials, "
                f"{_number(100 * gap.low)} to {_number(100 * gap.high)} % of "
                f"{known.names[first]}'s"
            )
            found.append(_left([c], "slower", reason))
    return found


def _halved(known: Known, rules: Rules, seen: Mapping[int, Interval], rounds: int) -> list[Left]:
    """The slower half, where the budget cannot double the trials of all; two stay at least."""
    if rules.budget_s is None or rounds < rules.rounds_halved or len(seen) < 3:
        return []
    rest = rules.budget_s - known.spent_s
    if rounds * sum(known.cost_s.get(c, 0.0) for c in seen) <= rest:
        return []
    ordered = sorted(seen, key=lambda c: -seen[c].value)
    slower = ordered[max(2, -(-len(ordered) // 2)) :]
    text = f"slower by {rounds} trials each; the rest of the budget goes to the fastest"
    return [_left(slower, "budget", text)]


def leader(seen: Mapping[int, Interval]) -> int:
    """The best of those with as many measurements as any, or one fewer: a round may be unfinished.

    What came back and has fewer still waits until it has caught up.
    """
    most = max(one.n for one in seen.values())
    return max((c for c in seen if seen[c].n >= most - 1), key=lambda c: (seen[c].value, -c))


def rivals(known: Known, seen: Mapping[int, Interval], tie: float) -> list[int]:
    """Those of `seen` whose trials allow that they are better than the leader by more than `tie`.

    Both sides are uncertain: the interval is that of their ratio.
    """
    first, noise = leader(seen), known.noise()
    base = known.trials[first]
    return [c for c in seen if c != first and ratio(known.trials[c], base, noise).high > 1 + tie]


def _sweep(known: Known, rules: Rules) -> Move:
    """Every candidate `repeats` times."""
    alive = known.alive
    if not alive:
        return StopMove("no candidate is left")
    move = _due(known, rules, alive)
    if move.round >= rules.repeats:
        return StopMove(f"every candidate was measured {rules.repeats} times")
    return StopMove("the budget is spent") if _too_long(known, rules, move) else move
