"""A search on the screen: live leaders on stderr, and the tables of its answer."""

from __future__ import annotations

from collections.abc import Sequence

from harness import prices
from harness.records.run import Result
from harness.records.tune import Answer, Left, Standing, Step, Tune
from harness.reports.sheet import MISSING, Column, Sheet, number
from harness.units import format_duration

_RUNNERS_UP = 8
_LISTED = 3  # candidates named for one reason
_ALIKE = ("slower", "bound", "budget")  # reasons that many candidates share
_OBJECTIVES = {
    "throughput": "output throughput",
    "latency": "time per output token",
    "cost": "cost per output token",
}


def tune_sheets(result: Result) -> list[Sheet]:
    """The answer's tables: the best, the front, what a step costs, what was left out."""
    tune = result.tune
    if tune is None or tune.answer is None:
        return []
    sheets = [best_sheet(result, tune, tune.answer)]
    if len(tune.answer.front) > 1:
        sheets.append(front_sheet(result, tune, tune.answer))
    if tune.answer.steps:
        sheets.append(steps_sheet(tune, tune.answer))
    if tune.left:
        sheets.append(left_sheet(tune))
    return sheets


def spread(one: Standing) -> str:
    """`60.1 (58.7–61.6)`: the score with its interval."""
    return f"{number(one.score)} ({number(one.low)}–{number(one.high)})"


def _cost(result: Result, one: Standing) -> str:
    if result.price is None or not one.output_tok_per_s:
        return MISSING
    cost = prices.cost_per_million(result.price, one.output_tok_per_s)
    return f"{number(cost)} {result.price.currency}"


def _milliseconds(value: float | None) -> str:
    return MISSING if value is None else number(1000 * value)


_COLUMNS = [
    Column(label="", right=False),
    Column(label="candidate", right=False),
    Column(label="score", unit="95 % interval", direction="higher", right=False),
    Column(label="output", unit="tok/s", direction="higher"),
    Column(label="TPOT", unit="ms", direction="lower"),
    Column(label="TTFT", unit="ms", direction="lower"),
    Column(label="output cost", unit="per M tokens", direction="lower"),
    Column(label="measured by", right=False),
]


def _row(result: Result, tune: Tune, one: Standing, mark: str) -> list[str]:
    kind = "trial" if one.basis == "trials" else "short probe"
    return [
        mark,
        tune.candidates[one.candidate].label,
        spread(one),
        number(one.output_tok_per_s),
        _milliseconds(one.tpot_s),
        _milliseconds(one.ttft_s),
        _cost(result, one),
        f"{one.n} {kind}{'s' if one.n > 1 else ''}",
    ]


def _mark(answer: Answer, one: Standing, gone: dict[int, str]) -> str:
    if one.candidate == answer.winner:
        return "best"
    if one.candidate in answer.tied:
        return "tied"
    return gone.get(one.candidate, "")


def best_sheet(result: Result, tune: Tune, answer: Answer) -> Sheet:
    """The winner and those behind it."""
    gone: dict[int, str] = {c: left.why for left in tune.left for c in left.candidates}
    shown = answer.standings[: 1 + max(_RUNNERS_UP, len(answer.tied))]
    return Sheet(
        title=f"tuned for {asked_text(tune)}",
        columns=_COLUMNS,
        rows=[_row(result, tune, one, _mark(answer, one, gone)) for one in shown],
        notes=verdict(tune, answer),
    )


def asked_text(tune: Tune) -> str:
    """What the search was asked, in a line."""
    asked = tune.asked
    promise = f" within the SLO {asked.slo.name}" if asked.slo else ""
    load = asked.load.replace("_", " ")
    lengths = f"pp{tune.lengths[0]}/tg{tune.lengths[1]}"
    return f"{_OBJECTIVES[asked.objective]}{promise}: {asked.model}, {load} {lengths}"


def verdict(tune: Tune, answer: Answer) -> list[str]:
    """The answer in sentences, the most important first."""
    notes = [headline(tune, answer)]
    if answer.tied:
        names = ", ".join(tune.candidates[c].label for c in answer.tied)
        notes.append(f"these trials can't tell it from {names}")
    if answer.open and tune.stopped is not None:
        names = ", ".join(tune.candidates[c].label for c in answer.open)
        advice = (
            "give it a larger budget" if "budget" in tune.stopped else "a quieter machine tells"
        )
        notes.append(f"not decided: {names} may be better by more than 2 %: {advice}")
    if answer.unmeasured:
        names = ", ".join(tune.candidates[c].label for c in answer.unmeasured)
        notes.append(
            f"not decided: {names} looked faster in short probes, but something else disturbed "
            "every trial: repeat it on a quiet machine"
        )
    judged = next((s.slo for s in answer.standings if s.candidate == answer.winner and s.slo), None)
    notes += [f"SLO, judged on the trials: {judged}"] if judged else []
    notes.append(_effort(tune))
    notes.append(
        "intervals: 95 %, of the geometric mean, the relative noise pooled over all candidates; a "
        "short probe's is wider by what probes are wrong by"
    )
    return notes


def headline(tune: Tune, answer: Answer) -> str:
    """The winner in one sentence."""
    if answer.winner is None:
        return "nothing valid was measured: there is no winner"
    best = answer.standings[0]
    unit = "tok/s of one sequence" if tune.asked.objective == "latency" else "output tok/s"
    times = f"{best.n} trial{'s' if best.n > 1 else ''}"
    doubt = f"; not checked for quality: {answer.unchecked}" if answer.unchecked else ""
    return f"{tune.candidates[answer.winner].label}: {spread(best)} {unit} by {times}{doubt}"


def _effort(tune: Tune) -> str:
    probed = len({p.candidate for p in tune.probes})
    budget = tune.asked.budget_s
    of = f" of {format_duration(budget)}" if budget is not None else ""
    return (
        f"{len(tune.candidates)} candidates, {probed} probed; {format_duration(tune.spent_s)}{of} "
        f"spent, after {format_duration(tune.setup_s)} for conversions, quality checks and "
        f"ceilings; ended: {tune.stopped or 'not yet'}"
    )


def front_sheet(result: Result, tune: Tune, answer: Answer) -> Sheet:
    """Those that none beats in both latency and throughput."""
    by_id = {s.candidate: s for s in answer.standings}
    gone: dict[int, str] = {c: left.why for left in tune.left for c in left.candidates}
    return Sheet(
        title="Pareto front: time per output token against throughput and cost",
        columns=_COLUMNS,
        rows=[_row(result, tune, by_id[c], _mark(answer, by_id[c], gone)) for c in answer.front],
    )


def steps_sheet(tune: Tune, answer: Answer) -> Sheet:
    """What one step in each knob away from the winner does."""
    return Sheet(
        title="one step away from the best, the rest alike",
        columns=[
            Column(label="knob", right=False),
            Column(label="step", right=False),
            Column(label="score", unit="of the best's", right=False),
            Column(label="measured by", right=False),
        ],
        rows=[
            [s.knob, f"{s.here} → {s.there}", _ratio(s), s.basis or s.reason or MISSING]
            for s in answer.steps
        ],
    )


def _ratio(step: Step) -> str:
    if step.ratio is None or step.low is None or step.high is None:
        return MISSING
    return f"{step.ratio:.0%} ({step.low:.0%}–{step.high:.0%})"


def left_sheet(tune: Tune) -> Sheet:
    """What was left out, and why."""
    rows = [[left.why, _some(tune, left.candidates), left.reason] for left in _gathered(tune)]
    return Sheet(
        title="left out",
        columns=[
            Column(label="why", right=False),
            Column(label="candidates", right=False),
            Column(label="reason", right=False),
        ],
        rows=rows,
    )


def _gathered(tune: Tune) -> list[Left]:
    """What was left out, those that were only slower together, with the reason of the nearest."""
    many: dict[str, list[Left]] = {}
    rest = []
    for left in tune.left:
        if left.why in _ALIKE:
            kind = left.reason if left.why == "budget" else left.why
            many.setdefault(kind, []).append(left)
        else:
            rest.append(left)
    scores = {s.candidate: s.score for s in tune.answer.standings} if tune.answer else {}
    for every in many.values():
        nearest = max(every, key=lambda one: max(scores.get(c, 0.0) for c in one.candidates))
        candidates = [c for left in every for c in left.candidates]
        more = "" if len(candidates) == 1 else "the nearest, "
        names = "" if not more else f"{_some(tune, nearest.candidates)}: "
        rest.append(
            Left(
                candidates=candidates,
                why=every[0].why,
                reason=f"{more}{names}{nearest.reason}"
                if every[0].why != "budget"
                else nearest.reason,
            )
        )
    return rest


def _some(tune: Tune, which: Sequence[int]) -> str:
    """`torch int8 2T ×4` or, of many: `torch int8: 12 of 24`."""
    if len(which) <= _LISTED:
        return ", ".join(tune.candidates[c].label for c in which)
    families = dict.fromkeys(tune.candidates[c].family for c in which)
    parts = []
    for family in families:
        mine = sum(tune.candidates[c].family == family for c in which)
        every = sum(one.family == family for one in tune.candidates)
        parts.append(f"{family}: all {mine}" if mine == every else f"{family}: {mine} of {every}")
    return "; ".join(parts)


def left_line(tune: Tune, which: Sequence[int], why: str, reason: str) -> str:
    """One line of the log."""
    return f"left out ({why}): {_some(tune, which)}: {reason}"
