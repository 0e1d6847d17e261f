"""One row for each metric of two groups that ask the same, and the verdicts over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct, field

from harness import metrics, stats
from harness.comparing import margin, power, question, ratio, samples, verdict
from harness.comparing.contrast import Contrast
from harness.comparing.rules import Rules
from harness.comparing.samples import Group
from harness.comparing.verdict import Correction
from harness.metrics import Metric
from harness.records.comparison import AaEntry, MetricRow, Setting


class Wish(Struct, kw_only=True):
    """How sides are compared.

    `vary` names parts of the question that may differ. `only` names metrics that still make sense
    where the question differs: with it every part may differ. `chosen` names the metrics of which
    alone there are rows, without letting the question differ. `setting` is found out where it is
    None: cases of one run are interleaved, and so are blocks. `alpha` is that of the rules where it
    is None. A gate corrects for the number of its metrics; a table that is read does not.
    """

    rules: Rules
    vary: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    chosen: list[str] = field(default_factory=list)
    setting: Setting | None = None
    aa: list[AaEntry] = field(default_factory=list)
    correction: Correction = "none"
    alpha: float | None = None

    @property
    def level(self) -> float:
        return self.rules.alpha if self.alpha is None else self.alpha

    def metrics(self) -> list[Metric]:
        """The rows that are compared."""
        names = self.only or self.chosen
        return [metrics.metric(name) for name in names] if names else list(metrics.METRICS)


class Worked(Struct, kw_only=True):
    """A row on its way: the contrast is kept until all p values are known."""

    row: MetricRow
    contrast: Contrast | None


def rows_of(a: Group, b: Group, wish: Wish, setting: Setting) -> list[Worked]:
    """Every metric that one side can tell, its verdict still open."""
    found = (_row(a, b, metric, wish, setting) for metric in wish.metrics())
    return [worked for worked in found if worked.row.a is not None or worked.row.b is not None]


def _row(a: Group, b: Group, metric: Metric, wish: Wish, setting: Setting) -> Worked:
    scale = wish.rules.scale(metric.name)
    left, right, paired = samples.units(a, b, metric.name, scale)
    found = ratio.contrast_of(left, right, paired=paired, scale=scale)
    allowed = margin.of_metric(
        metric.name, wish.rules, setting, wish.aa, question.key(a.case.question)
    )
    row = MetricRow(
        metric=metric.name,
        label=metric.label,
        unit=metric.unit,
        direction=wish.rules.direction(metric.name),
        a=stats.estimate(left.values, metric.unit),
        b=stats.estimate(right.values, metric.unit),
        ratio=ratio.ratio(
            left,
            right,
            paired=paired,
            scale=scale,
            confidence=1 - wish.level,
            resample=metric.name in wish.rules.gate,
        ),
        verdict=None,
        reason="",
        margin=allowed,
    )
    if found is not None:
        row.p = found.p_beyond(allowed.value)
        row.detectable = _detectable(found, allowed.value, wish)
    return Worked(row=row, contrast=found)


def _detectable(found: Contrast, allowed: float, wish: Wish) -> float | None:
    """The smallest true change that 80 % of such comparisons would show, as the margin is given."""
    if found.se is None or found.df is None:
        return None
    least = power.detectable(
        found.threshold(allowed), found.se, found.df, wish.level, wish.rules.power
    )
    return math.expm1(least) if found.scale == "ratio" else least


def decide(worked: Sequence[Worked], wish: Wish) -> None:
    """Verdicts, with p values corrected for all rows that can have one."""
    judged = [w for w in worked if w.row.direction != "none"]
    ps = verdict.adjust([w.row.p for w in judged], wish.correction)
    for one, p in zip(judged, ps, strict=True):
        one.row.p = p
    for one in worked:
        row = one.row
        assert row.margin is not None
        row.verdict, row.reason = verdict.decide(
            one.contrast, row.ratio, row.margin, row.direction, row.p, wish.level
        )
