"""Shorter requests where the trials of a search would not fit into its budget."""

from __future__ import annotations

from harness.records.tune import Tune
from harness.tune.knowing import trial_s
from harness.tune.search import Known, Rules
from harness.units import format_duration

# So many of the best by their probes should have room for trials.
FINALISTS = 4
# Below, a prompt or an answer says little of a longer one.
_LEAST = (16, 16)


def race_s(tune: Tune, known: Known, rules: Rules) -> float:
    """Estimated seconds of the fewest trials that can decide, at the search's lengths."""
    seen = known.by_probes()
    best = sorted(seen, key=lambda c: -seen[c].value)[:FINALISTS]
    last = {p.candidate: p for p in tune.probes}
    one = sum(trial_s(tune.asked, tune.candidates[c], last[c], tune.lengths) for c in best)
    return rules.rounds_least * one


def fit(tune: Tune, known: Known, rules: Rules) -> str | None:
    """Halve both lengths until the finalists' trials fit; what was done, None for nothing.

    Both alike, so that prompts and answers keep their share of the time. Under an SLO the asked
    lengths stay: shorter requests would keep a promise that those asked for break.
    """
    if rules.budget_s is None or tune.asked.slo is not None:
        return None
    rest = rules.race_share * (rules.budget_s - tune.spent_s)
    while race_s(tune, known, rules) > rest:
        halves = (tune.lengths[0] // 2, tune.lengths[1] // 2)
        if halves[0] < _LEAST[0] or halves[1] < _LEAST[1]:
            break
        tune.lengths = halves
    if tune.lengths == tune.asked.lengths:
        return None
    asked, got = (f"pp{n[0]}/tg{n[1]}" for n in (tune.asked.lengths, tune.lengths))
    return (
        f"the trials' lengths were shortened from {asked} to {got} for the budget of "
        f"{format_duration(rules.budget_s)}"
    )
