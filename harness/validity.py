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


def label(case: Case) -> str:
    """A short name of the case for people: `torch float32 2T offline x4`."""
    v, load = case.variant, case.load
    batch = f" x{load.batch}" if load.batch > 1 else ""
    return f"{v.engine} {v.dtype} {v.threads}T {load.kind}{batch}"


def _told(messages: Iterable[tuple[str, str]]) -> list[str]:
    """(kind, message) pairs with each kind told once: its first message, and how often."""
    kinds: dict[str, list[str]] = {}
    for kind, message in messages:
        kinds.setdefault(kind, []).append(message)
    return [m[0] if len(m) == 1 else f"{m[0]} ({len(m)} times)" for m in kinds.values()]


def _case_warnings(result: Result, case: Case) -> list[str]:
    trials = [t for t in result.trials if t.case == case.id]
    bad = [t for t in trials if t.invalid or t.state == "failed"]
    reasons: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    for trial in trials:
        kinds = {f.message: f.name for f in trial.findings}
        if trial.state == "failed":
            reasons.append((str(trial.reason), f"failed: {trial.reason}"))
        reasons += [(kinds.get(text, text), text) for text in trial.invalid]
        notes += [(f.name, f.message) for f in trial.findings if f.severity == "warning"]
        if trial.warmup_stable is False:
            notes.append(("warm-up", "warm-up did not become stable"))
    found = [f"{label(case)}: {text}" for text in _told(notes)]
    if bad:
        why = "; ".join(_told(reasons))
        text = f"{len(bad)} of {len(trials)} trials are left out of the figures: {why}"
        found.insert(0, f"{label(case)}: {text}")
    return found


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
    for case in result.plan.cases:
        found += _case_warnings(result, case)
    return found
