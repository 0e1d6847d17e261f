"""The noise margin: how far two measurements of the same thing lie apart on one machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.comparing.rules import Rules
from harness.records.comparison import AaEntry, Margin, Setting

LEAST_AA = 5  # A/A comparisons below which their spread says too little


def of_metric(
    metric: str,
    rules: Rules,
    setting: Setting,
    entries: Sequence[AaEntry] = (),
    question: str | None = None,
) -> Margin:
    """The margin of `metric` for sides measured as `setting` says, with where it comes from.

    `entries` are the A/A comparisons of this machine; those of the same `question` count where
    there are enough, else all of them.
    """
    rule = rules.rule(metric)
    if rule.absolute is not None:
        return Margin(value=rule.absolute, source="absolute, by the rules of the gate")
    noise = _noise(metric, rules, setting, entries, question)
    if rule.margin is not None and rule.margin > noise.value:
        return Margin(value=rule.margin, source="tolerance, by the rules of the gate")
    return noise


def _noise(
    metric: str, rules: Rules, setting: Setting, entries: Sequence[AaEntry], question: str | None
) -> Margin:
    here = [e for e in entries if e.setting == setting and metric in e.ratios]
    same = [e for e in here if e.question == question]
    chosen = same if len(same) >= LEAST_AA else here
    if len(chosen) < LEAST_AA:
        few = f"only {len(chosen)}" if chosen else "no"
        return Margin(
            value=rules.default(setting),
            source=f"default for {setting} runs: {few} A/A comparisons of this machine are known",
        )
    value = from_ratios([e.ratios[metric] for e in chosen])
    what = "of this question" if chosen is same else "of other questions"
    return Margin(
        value=max(rules.margin.least, value),
        source=f"{len(chosen)} {setting} A/A comparisons {what} on this machine",
        n=len(chosen),
    )


def from_ratios(logarithms: Sequence[float]) -> float:
    """The share that the next A/A comparison stays within with 95 % probability.

    The true ratio of an A/A comparison is 1, so its logarithms have the known mean 0, and
    t · root mean square, with as many degrees of freedom as there are values, bounds the next one.
    """
    from harness.stats import student_t

    spread = math.sqrt(sum(x * x for x in logarithms) / len(logarithms))
    return math.expm1(student_t(len(logarithms)) * spread)
