"""The answer that a search's probes and trials give: winner, rivals, front and sensitivity."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.records.run import Result, Trial
from harness.records.tune import Answer, Asked, Basis, Candidate, Standing, Step, Tune
from harness.tune.intervals import Noise, pooled, ratio
from harness.tune.knowing import known_of, tune_of, valid_of
from harness.tune.objective import Figures, expected, judge, measured
from harness.tune.search import (
    BARRED,
    PROBE_BIAS,
    PROBE_NOISE,
    TRIAL_NOISE,
    Known,
    Rules,
    leader,
    rivals,
)

# A knob's steps: the neighbours among the values that the space has for it.
_KNOBS: dict[str, Callable[[Candidate], Any]] = {
    "engine": lambda one: one.engine,
    "dtype": lambda one: one.dtype,
    "threads": lambda one: one.threads,
    "instances": lambda one: one.instances,
    "batch": lambda one: one.batch,
    "chunk": lambda one: one.chunk,
}
_ORDERED = ("threads", "instances", "batch", "chunk")


def draw(result: Result, rules: Rules) -> Answer:
    """The answer so far; without a winner where no trial can be believed."""
    tune = tune_of(result)
    known = known_of(result, [])
    standings = _standings(result, tune, known)
    running = {
        s.candidate
        for s in standings
        if s.basis == "trials" and s.kept is not False and known.out.get(s.candidate) not in BARRED
    }
    answer = Answer(winner=None, standings=standings, front=front(standings))
    seen = {c: one for c, one in known.by_trials().items() if c in running}
    if not seen:
        return answer
    answer.open = rivals(known, seen, rules.tie)
    first = leader(seen)
    answer.tied = [c for c, one in seen.items() if c != first and one.high >= seen[first].low]
    answer.winner = _of_equals(tune.asked, first, answer.tied, standings)
    if answer.winner != first:
        answer.tied = [c for c in [first, *answer.tied] if c != answer.winner]
    answer.unchecked = _unchecked(result, answer.winner)
    score = seen[answer.winner].value
    answer.unmeasured = [
        s.candidate
        for s in standings
        if s.basis == "probes" and s.score > score and known.out.get(s.candidate) == "disturbed"
    ]
    answer.standings = sorted(standings, key=lambda s: s.candidate != answer.winner)  # stable
    answer.steps = steps(tune, known, answer.winner)
    return answer


def _unchecked(result: Result, winner: int) -> str | None:
    """Why nobody knows whether the winner computes the model; None where it is known."""
    variant = next(case.variant for case in result.plan.cases if case.id == winner)
    if variant.engine == "fake":
        return None
    mine = (check for check in result.checks if check.variant == variant and check.ok is None)
    return next((check.reason or "nobody says why" for check in mine), None)


def _of_equals(asked: Asked, first: int, tied: Sequence[int], standings: Sequence[Standing]) -> int:
    """The winner among those that can't be told apart: for latency the sooner first token."""
    if asked.objective != "latency":
        return first
    ttft = {s.candidate: s.ttft_s for s in standings if s.basis == "trials" and s.ttft_s}
    return min([first, *tied], key=lambda c: ttft.get(c, float("inf")))


def _standings(result: Result, tune: Tune, known: Known) -> list[Standing]:
    """Everything that was measured or probed, trials before probes, the best first."""
    cases = {case.id: case for case in result.plan.cases}
    found = []
    # Those left out have figures too.
    by_trials, by_probes = known.by_trials(known.out), known.by_probes(known.out)
    for c, one in by_trials.items():
        mine = valid_of(result.trials, c)
        figures = mean([measured(t, cases[c]) for t in mine])
        found.append(_standing(c, "trials", one, figures, tune, mine))
    for c, one in by_probes.items():
        if c in by_trials:
            continue
        mine_probes = [p for p in tune.probes if p.candidate == c]
        shape = tune.candidates[c]
        figures = mean([expected(tune.asked, shape, p.prefill_s, p.step_s) for p in mine_probes])
        found.append(_standing(c, "probes", one, figures, tune, []))
    return sorted(found, key=lambda s: (s.basis == "probes", -s.score))


def _standing(
    c: int, basis: Basis, one: Any, figures: Figures, tune: Tune, trials: Sequence[Trial]
) -> Standing:
    found = judge(tune.asked.slo, trials) if tune.asked.slo else None
    return Standing(
        candidate=c,
        basis=basis,
        score=one.value,
        low=one.low,
        high=one.high,
        n=one.n,
        output_tok_per_s=figures.output_tok_per_s,
        tpot_s=figures.tpot_s,
        ttft_s=figures.ttft_s,
        kept=found.kept if found else None,
        slo=found.text if found else None,
    )


def mean(figures: Sequence[Figures]) -> Figures:
    """Each figure's mean over those that tell it."""
    columns = ([v for v in column if v is not None] for column in zip(*figures, strict=True))
    return Figures(*(statistics.fmean(column) if column else None for column in columns))


def front(standings: Sequence[Standing]) -> list[int]:
    """Candidates that none beats in both throughput and time per output token.

    Only like is held against like: trials where there are any, else probes. The price is of the
    whole server, so that the cost of a token orders candidates as the throughput does.
    """
    tried = [s for s in standings if s.basis == "trials"] or list(standings)
    known = [s for s in tried if s.output_tok_per_s and s.tpot_s]
    return [
        s.candidate
        for s in sorted(known, key=lambda s: s.tpot_s or 0.0)
        if not any(_beats(other, s) for other in known)
    ]


def _beats(a: Standing, b: Standing) -> bool:
    more = (a.output_tok_per_s or 0.0) - (b.output_tok_per_s or 0.0)
    sooner = (b.tpot_s or 0.0) - (a.tpot_s or 0.0)
    return more >= 0 and sooner >= 0 and (more > 0 or sooner > 0)


def steps(tune: Tune, known: Known, winner: int) -> list[Step]:
    """What one step in each knob costs, from trials of both sides or else from probes of both."""
    here, found = tune.candidates[winner], []
    reasons = {c: left.reason for left in tune.left for c in left.candidates}
    for c, there in enumerate(tune.candidates):
        knob = _differs(here, there)
        if knob is None or (knob in _ORDERED and not _near(tune.candidates, knob, here, there)):
            continue
        step = Step(knob=knob, here=_value(knob, here), there=_value(knob, there), candidate=c)
        _compare(step, known, winner)
        if step.ratio is None:
            step.reason = reasons.get(c, "it was not measured")
        found.append(step)
    order = [*_KNOBS, ""]
    return sorted(found, key=lambda s: (order.index(s.knob if s.knob in _KNOBS else ""), s.knob))


def _differs(a: Candidate, b: Candidate) -> str | None:
    """The one knob in which two candidates differ; None for none or several."""
    knobs = [name for name, value in _KNOBS.items() if value(a) != value(b)]
    keys = {*a.options, *b.options}
    knobs += [k for k in sorted(keys) if a.options.get(k) != b.options.get(k)]
    return knobs[0] if len(knobs) == 1 else None


def _near(every: Sequence[Candidate], knob: str, a: Candidate, b: Candidate) -> bool:
    """Whether no value of the space lies between those of two candidates."""
    value = _KNOBS[knob]
    low, high = sorted((value(a), value(b)))
    between = (one for one in every if _differs(one, a) == knob or one == a)
    return not any(low < value(one) < high for one in between)


def _value(knob: str, one: Candidate) -> str:
    if knob in _KNOBS:
        return str(_KNOBS[knob](one))
    return str(one.options[knob]) if knob in one.options else "default"


def _compare(step: Step, known: Known, winner: int) -> None:
    kinds: list[tuple[Basis, Mapping[int, list[float]], Noise, float]] = [
        ("trials", known.trials, TRIAL_NOISE, 0.0),
        ("probes", known.probes, PROBE_NOISE, PROBE_BIAS),
    ]
    for basis, values, prior, bias in kinds:
        if step.candidate in values and winner in values:
            noise = pooled(values.values(), prior)
            gap = ratio(values[step.candidate], values[winner], noise, bias=bias)
            step.ratio, step.low, step.high, step.basis = gap.value, gap.low, gap.high, basis
            return
