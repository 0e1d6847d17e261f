"""What should not be believed, and what a reader must know beside the numbers."""

from __future__ import annotations

from collections.abc import Iterable

from harness.metrics import valid_trials
from harness.records.run import Case, Result, Trial

# A produced length that differs from the asked one by more than this spoils the trial.
LENGTH_TOLERANCE = 0.01


def length_faults(trial: Trial, case: Case) -> list[str]:
    """Requests that produced another number of tokens than asked."""
    asked = case.load.output_tokens
    wrong = [r for r in trial.records if abs(len(r.token_ns) - asked) > LENGTH_TOLERANCE * asked]
    if not wrong:
        return []
    got = sorted({len(r.token_ns) for r in wrong})
    return [f"{len(wrong)} of {len(trial.records)} requests produced {got} tokens, not {asked}"]


def invalid_reasons(trial: Trial, case: Case) -> list[str]:
    """Why the figures of an ended trial should not be believed; empty is valid."""
    reasons = length_faults(trial, case)
    if trial.placement is None or not trial.placement.threads:
        reasons.append("no thread of the engine was seen: its placement is not proved")
    else:
        reasons += trial.placement.faults
    reasons += [f.message for f in trial.findings if f.severity == "invalid"]
    return reasons


def case_valid(result: Result, case: Case) -> bool:
    """Whether more than half of the case's repeats can be believed."""
    return 2 * len(valid_trials(result.trials, case)) > result.plan.repeats


def invalid_cases(result: Result) -> list[Case]:
    """Cases whose figures can't be believed."""
    return [case for case in result.plan.cases if not case_valid(result, case)]


def _label(case: Case) -> str:
    v, load = case.variant, case.load
    batch = f" x{load.batch}" if load.batch > 1 else ""
    return f"{v.engine} {v.dtype} {v.threads}T {load.kind}{batch}"


def label(case: Case) -> str:
    """A short name of the case for people: `torch float32 2T offline x4`."""
    return _label(case)


def _counted(messages: Iterable[str]) -> list[str]:
    counts: dict[str, int] = {}
    for message in messages:
        counts[message] = counts.get(message, 0) + 1
    return [m if n == 1 else f"{m} ({n} times)" for m, n in counts.items()]


def _trial_warnings(result: Result) -> list[str]:
    labels = {case.id: _label(case) for case in result.plan.cases}
    found: list[str] = []
    for trial in result.trials:
        name = labels.get(trial.case, "?")
        if trial.state == "failed":
            found.append(f"{name}: a trial failed: {trial.reason}")
        found += [f"{name}: a trial is not valid: {reason}" for reason in trial.invalid]
        found += [f"{name}: {f.message}" for f in trial.findings if f.severity == "warning"]
        if trial.warmup_stable is False:
            found.append(f"{name}: warm-up did not become stable")
    return _counted(found)


def warnings(result: Result) -> list[str]:
    """Everything a reader must know beside the table, most important first."""
    found: list[str] = []
    if not result.finished:
        missing = len(result.plan.order) - len(result.trials)
        found.append(f"the run is not finished: {missing} of {len(result.plan.order)} trials lack")
    if result.model.weights == "synthetic":
        found.append("synthetic weights: right for speed, meaningless for quality")
    if any(case.variant.engine == "fake" for case in result.plan.cases):
        found.append("the fake engine's figures are its options, not measurements")
    for check in result.checks:
        if check.ok is not True:
            name = f"{check.variant.engine} {check.variant.dtype}"
            what = "could not be checked" if check.ok is None else "does not compute the model"
            found.append(f"{name} {what}: {check.reason}")
    found += result.plan.notes
    return found + _trial_warnings(result)
