"""The noise margin: how far two measurements of the same thing lie apart on one machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

from harness.comparing.rules import Rules
from harness.records.comparison import AaEntry, Margin, Setting

_POINTS = 400  # of a sum in place of an integral
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
    bound = from_runs if setting == "separate" else from_ratios
    value = bound([e.ratios[metric] for e in chosen])
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


def from_runs(logarithms: Sequence[float]) -> float:
    """The same of pairs of separate runs, by the median of their absolute logarithms.

    Between such runs something may have changed that no fact tells. One pair astride of such a
    step would carry the root mean square; the median it moves by one place. Over normal noise the
    next comparison stays within the bound with 95 % probability as well, which of five pairs is a
    sixth wider.
    """
    ordered = sorted(map(abs, logarithms))
    return math.expm1(_factor(len(ordered)) * ordered[len(ordered) // 2])


@lru_cache
def _factor(n: int) -> float:
    """How many medians of `n` absolute normal values the next one stays within, at 95 %.

    The median is value number r = n // 2 + 1 by size, so that its quantile is Beta(r, n - r + 1):
    the probability is averaged over that distribution, and the factor found by halving.
    """
    normal, r = NormalDist(), n // 2 + 1
    at = [(i + 0.5) / _POINTS for i in range(_POINTS)]
    density = [math.exp((r - 1) * math.log(u) + (n - r) * math.log1p(-u)) for u in at]
    medians = [normal.inv_cdf((1 + u) / 2) for u in at]
    low, high = 1.0, 1000.0
    while high - low > 1e-6 * low:
        middle = (low + high) / 2
        inside = [
            d * (2 * normal.cdf(middle * m) - 1) for d, m in zip(density, medians, strict=True)
        ]
        low, high = (middle, high) if sum(inside) < 0.95 * sum(density) else (low, middle)
    return high
