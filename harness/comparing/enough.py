"""What the repeats of a result can show, and how many a wished effect takes: `armbench power`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.comparing import contrast, margin, power, question, samples
from harness.comparing.rules import Rules
from harness.comparing.samples import Group, Runs
from harness.errors import ArmbenchError
from harness.records.comparison import AaEntry, Margin, PowerRow, Setting


def rows(
    side: Runs,
    rules: Rules,
    effect: float,
    *,
    setting: Setting = "interleaved",
    aa: Sequence[AaEntry] = (),
    metrics: Sequence[str] = (),
) -> list[PowerRow]:
    """One row for each case and metric (default: those of the gate that the case tells).

    `effect` is a share such as 0.03. Sides measured as `setting` says, with as many repeats each,
    are assumed to scatter as `side` does. Raises ArmbenchError for an effect that is not above 0.
    """
    if not 0 < effect < 10:
        raise ArmbenchError(
            f"an effect of {effect} can't be looked for", hint="give one such as 3%"
        )
    found = []
    for group in side.groups():
        key = question.key(group.case.question)
        for name in metrics or rules.gate:
            if rules.scale(name) == "ratio" and any(
                samples.typical(case, name) is not None for _, case in group.members
            ):
                allowed = margin.of_metric(name, rules, setting, aa, key)
                found.append(row(group, name, allowed, effect, rules))
    return found


def row(group: Group, name: str, allowed: Margin, effect: float, rules: Rules) -> PowerRow:
    """One metric of one case."""
    values = contrast.on_scale(samples.own_units(group, name), "ratio")
    found = PowerRow(
        case=group.case.label, metric=name, n=len(values or []), margin=allowed, effect=effect
    )
    if values is None or len(values) < 2:
        found.reason = "below two repeats there is no spread"
        return found
    sample = contrast.sample(values)
    assert sample.sd is not None
    n, least, wished = sample.n, math.log1p(allowed.value), math.log1p(effect)
    found.spread = sample.sd
    found.spread_low, found.spread_high = power.spread_bounds(sample.sd, n)
    se = sample.sd * math.sqrt(2 / n)
    found.detectable = math.expm1(
        min(50.0, power.detectable(least, se, 2 * n - 2, rules.alpha, rules.power))
    )
    if effect <= allowed.value:
        found.reason = (
            f"{effect:.3g} lies within the noise margin of {allowed.value:.3g}: no number of "
            "repeats shows it to be a change; A/A runs may narrow the margin"
        )
        return found
    upper = power.spread_upper(sample.sd, n)
    found.repeats, found.repeats_safe = (
        power.repeats_needed(wished, least, sd, alpha=rules.alpha, power=rules.power)
        for sd in (sample.sd, upper)
    )
    return found
