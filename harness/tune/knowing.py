"""From a result that holds a search to what its next step is decided by."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from harness import fit
from harness.fit import Speed
from harness.records.load import Slo
from harness.records.run import Case, Result, Trial
from harness.records.tune import Asked, Candidate, Probe, Tune
from harness.tune.objective import expected, judge, measured, requests_of, ruled_out, score, unit
from harness.tune.search import Known

# Trials of one candidate from which on the SLO can rule it out.
_JUDGED_FROM = 2


def tune_of(result: Result) -> Tune:
    """The search in `result`, which must hold one."""
    assert result.tune is not None
    return result.tune


def known_of(result: Result, groups: list[list[int]]) -> Known:
    """All that the search of `result` knows."""
    tune = tune_of(result)
    known = Known(
        names=[one.label for one in tune.candidates],
        families=[one.family for one in tune.candidates],
        groups=groups,
        limits=tune.limits or [None] * len(tune.candidates),
        unit=unit(tune.asked.objective),
        out={c: left.why for left in tune.left for c in left.candidates},
        mark=tune.mark,
        spent_s=tune.spent_s,
    )
    for probe in tune.probes:
        _add_probe(known, tune, probe)
    _rule_out(known, tune)
    cases = {case.id: case for case in result.plan.cases}
    for trial in result.trials:
        _add_trial(known, tune.asked, trial, cases[trial.case])
    if tune.asked.slo is not None:
        _judge(known, tune.asked.slo, result.trials)
    return known


def _add_probe(known: Known, tune: Tune, probe: Probe) -> None:
    one, asked = tune.candidates[probe.candidate], tune.asked
    figures = expected(asked, one, probe.prefill_s, probe.step_s)
    value = score(asked.objective, figures)
    if value is not None:
        known.probes.setdefault(probe.candidate, []).append(value)
    known.cost_s[probe.candidate] = trial_s(asked, one, probe, tune.lengths)


def _rule_out(known: Known, tune: Tune) -> None:
    """Those that can't keep the SLO by the mean of their probes: nothing watches a single one."""
    for candidate in {probe.candidate for probe in tune.probes}:
        mine = [probe for probe in tune.probes if probe.candidate == candidate]
        prefill_s, step_s = (fmean(p.prefill_s for p in mine), fmean(p.step_s for p in mine))
        figures = expected(tune.asked, tune.candidates[candidate], prefill_s, step_s)
        if (broken := ruled_out(tune.asked, figures)) is not None:
            known.broken[candidate] = broken


def trial_s(asked: Asked, one: Candidate, probe: Probe, lengths: tuple[int, int]) -> float:
    """Estimated seconds of one trial of `one` at these lengths."""
    prefill_s = probe.prefill_s * lengths[0] / asked.lengths[0]
    speed = Speed(load_s=probe.load_s, prefill_s=prefill_s, step_s=probe.step_s)
    rounds = requests_of(asked, one)
    if asked.load == "closed":
        rounds = -(-rounds // (one.batch * one.instances))
    return fit.batch_seconds(speed, lengths[1], rounds)


def _add_trial(known: Known, asked: Asked, trial: Trial, case: Case) -> None:
    if trial.state == "failed":
        known.failed[case.id] = known.failed.get(case.id, 0) + 1
        known.doubts[case.id] = trial.reason or "it failed"
    elif trial.invalid:
        known.spoilt[case.id] = known.spoilt.get(case.id, 0) + 1
        known.doubts[case.id] = "; ".join(trial.invalid)
    elif (value := score(asked.objective, measured(trial, case))) is not None:
        known.trials.setdefault(case.id, []).append(value)
    else:
        known.failed[case.id] = known.failed.get(case.id, 0) + 1
        known.doubts[case.id] = "its records tell no score"


def valid_of(trials: Iterable[Trial], candidate: int) -> list[Trial]:
    """Trials of one candidate that ended and are to be believed."""
    return [t for t in trials if t.case == candidate and t.state == "ok" and not t.invalid]


def _judge(known: Known, slo: Slo, trials: list[Trial]) -> None:
    for candidate in known.trials:
        mine = valid_of(trials, candidate)
        found = judge(slo, mine)
        if found is not None and not found.kept and len(mine) >= _JUDGED_FROM:
            known.broken[candidate] = f"the SLO is not kept: {found.text}"
