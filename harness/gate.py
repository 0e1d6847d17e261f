"""Whether a new result may pass: gated metrics against a baseline, and the exit code."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from harness.comparing import environment, samples
from harness.comparing.compare import compare
from harness.comparing.rows import Wish
from harness.comparing.rules import Rules
from harness.comparing.samples import Runs
from harness.errors import Exit, NotComparable
from harness.records.comparison import (
    AaEntry,
    CaseRow,
    Comparison,
    Difference,
    GateOutcome,
    GateRow,
    MetricRow,
    Pair,
)

# What a state leads to, worst first: figures that should not be believed must not be read as a
# regression either, and a regression is one whatever else stays open.
_EXITS = (
    ("invalid", Exit.INVALID),
    ("regressed", Exit.REGRESSION),
    ("inconclusive", Exit.INCONCLUSIVE),
)


def gate(
    new: Runs,
    baseline: Runs,
    rules: Rules,
    *,
    aa: Sequence[AaEntry] = (),
    allow: Collection[str] = (),
    vary: tuple[str, ...] = (),
) -> GateOutcome:
    """`new` against `baseline` on the metrics of `rules.gate`; never raises NotComparable.

    `allow` names facts of `rules.must_match` that may differ this once. The outcome's exit is 0,
    or 3 regression, 4 inconclusive, 5 not comparable, 6 not valid, in the order 6, 5, 3, 4.
    """
    if broken := unusable(new):
        return _outcome([_whole(new.label, text) for text in broken], None)
    if apart := _mismatches(baseline, new, rules, allow):
        return refused("; ".join(_told(d) for d in apart), [d.name for d in apart])
    wish = Wish(rules=rules, vary=vary, aa=list(aa), correction=rules.correction, chosen=rules.gate)
    try:
        found = compare([baseline, new], wish)
    except NotComparable as error:
        return refused(error.message, [])
    return judge(found, rules)


def unusable(side: Runs) -> list[str]:
    """Why nothing of `side` may pass; empty where it may, or can't be compared at all."""
    if not any(run.cases for run in side.runs):
        return [] if any(run.probes for run in side.runs) else ["it has no case"]
    found = [f"{run.file} is not finished" for run in side.runs if not run.finished]
    cases = [case for run in side.runs for case in run.cases]
    if not any(case.repeats for case in cases):
        why = dict.fromkeys(fault for case in cases for fault in case.faults)
        found.append("it has no valid trial" + (f": {'; '.join(why)}" if why else ""))
    return found


def _mismatches(a: Runs, b: Runs, rules: Rules, allow: Collection[str]) -> list[Difference]:
    """Facts that both sides know, must share and do not."""
    facts = [samples.joined(run.facts for run in side.runs) for side in (a, b)]
    return [
        d
        for d in environment.differences(*facts)
        if d.name in rules.must_match and d.name not in allow and d.a and d.b
    ]


def _told(difference: Difference) -> str:
    return f"{difference.name} {difference.a} against {difference.b}"


def refused(text: str, names: Sequence[str]) -> GateOutcome:
    """The outcome for sides that can't be compared."""
    allowed = f"; --allow {','.join(names)} lets it differ" if names else ""
    return GateOutcome(
        exit=Exit.NOT_COMPARABLE,
        summary=f"not comparable: {text}{allowed}",
        rows=[],
        failing=list(names),
    )


def judge(comparison: Comparison, rules: Rules) -> GateOutcome:
    """The gate over a comparison that was made: each gated metric of each case of the baseline."""
    rows: list[GateRow] = []
    for pair in comparison.pairs:
        rows += _missing(pair)
        for case in pair.cases:
            rows += _case_rows(case, rules)
    if not rows or all(row.state == "skipped" for row in rows):
        rows.append(_whole("all cases", "no gated metric is told by both sides"))
    outcome = _outcome(rows, comparison)
    seen = {row.metric for pair in comparison.pairs for case in pair.cases for row in case.metrics}
    if seen and (unseen := [name for name in rules.gate if name not in seen]):
        outcome.notes.append(f"gated, but told by neither side: {', '.join(unseen)}")
    return outcome


def _missing(pair: Pair) -> list[GateRow]:
    """Cases that the baseline has and the new side lacks: what is not measured can't pass."""
    return [_whole(label, "the baseline has it, the new side does not") for label in pair.only_a]


def _whole(case: str, text: str) -> GateRow:
    return GateRow(case=case, metric="all", state="invalid", text=text)


def _case_rows(case: CaseRow, rules: Rules) -> list[GateRow]:
    if case.faults:
        return [_whole(case.label, "; ".join(case.faults))]
    by_name = {row.metric: row for row in case.metrics}
    return [_metric_row(case.label, by_name[name]) for name in rules.gate if name in by_name]


def _metric_row(case: str, row: MetricRow) -> GateRow:
    name = row.metric
    if row.a is None:
        return GateRow(case=case, metric=name, state="skipped", text="not told by the baseline")
    if row.b is None:
        text = "the baseline tells it, the new side does not"
        return GateRow(case=case, metric=name, state="invalid", text=text, row=row)
    if row.verdict is None:
        return GateRow(case=case, metric=name, state="skipped", text=row.reason, row=row)
    return GateRow(case=case, metric=name, state=row.verdict, text=row.reason, row=row)


def _outcome(rows: list[GateRow], comparison: Comparison | None) -> GateOutcome:
    states = {row.state for row in rows}
    code = next((code for state, code in _EXITS if state in states), Exit.FINE)
    failing = [f"{r.case}: {r.metric}" for r in rows if r.state in ("invalid", "regressed")]
    return GateOutcome(
        exit=code,
        summary=_summary(rows, code),
        rows=rows,
        comparison=comparison,
        failing=failing,
        notes=[note for pair in comparison.pairs for note in pair.notes] if comparison else [],
    )


def _summary(rows: Sequence[GateRow], code: Exit) -> str:
    """`regression: 1 of 8 gated metrics regressed, 2 inconclusive, 5 unchanged`."""
    word = {
        Exit.FINE: "passed",
        Exit.INVALID: "not valid",
        Exit.REGRESSION: "regression",
        Exit.INCONCLUSIVE: "inconclusive: more repeats needed",
    }[code]
    counted = [r for r in rows if r.state != "skipped"]
    states = ("invalid", "regressed", "inconclusive", "improved", "unchanged")
    counts = [(state, sum(r.state == state for r in counted)) for state in states]
    told = ", ".join(f"{count} {state}" for state, count in counts if count)
    return f"{word}: of {len(counted)} gated metrics {told}"
