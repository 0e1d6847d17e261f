"""Results side by side: values as they are compared, ratios with intervals, and the words for them.

A ratio is new ÷ baseline. Margins and changes are shares: 0.03 is 3 %.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from harness.records.money import Price
from harness.records.run import Estimate

COMPARISON_SCHEMA = 1

Verdict = Literal["improved", "regressed", "unchanged", "inconclusive"]
Design = Literal["paired", "unpaired"]
Setting = Literal["interleaved", "separate"]  # both sides in one job, or each in its own
Scale = Literal["ratio", "difference"]


class CaseValues(Struct, kw_only=True):
    """One case of one run: what it asks, and each metric's value in every valid repeat.

    `question` names the parts that say what was asked. A column of `values` has one entry for each
    of `repeats`, None where that repeat cannot tell.
    """

    label: str
    question: dict[str, str]
    repeats: list[int] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)
    asked: int = 0  # repeats asked for
    valid: bool = True
    faults: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)  # environment of this case alone
    case: int = 0  # its id in the result


class RunValues(Struct, kw_only=True):
    """One result as it is compared: small enough that thousands can be read at once."""

    file: str
    created: str
    machine: str  # its slug
    plan: str
    cases: list[CaseValues]
    probes: int = 0  # rates that a capacity search tried, which are no cases here
    facts: dict[str, str] = field(default_factory=dict)  # everything that tells environments apart
    finished: bool = True
    tool: str = "armbench"
    ref: str | None = None  # branch or label of the code that was measured
    commit: str | None = None
    block: int | None = None  # of an interleaved comparison
    vcpus: int | None = None
    physical_cores: int | None = None
    cores_reason: str | None = None
    price: Price | None = None
    price_reason: str | None = None


class Margin(Struct, kw_only=True, frozen=True):
    """The noise margin: a change up to `value` (a share, or in units) counts as none."""

    value: float
    source: str
    n: int = 0  # A/A comparisons it rests on; 0 is the default of configs/gate.toml


class Ratio(Struct, kw_only=True):
    """New ÷ baseline (or new − baseline) with its interval; None with the reason.

    `rank_p` is of an exact test that assumes no distribution, `rank_floor` the least p which that
    many repeats can give. `bootstrap` is the BCa interval of the ratio of arithmetic means.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: tuple[int, int] = (0, 0)
    confidence: float = 0.95
    scale: Scale = "ratio"
    design: Design = "unpaired"
    method: str = ""
    rank_p: float | None = None
    rank_floor: float | None = None
    bootstrap: tuple[float, float] | None = None
    reason: str | None = None


class MetricRow(Struct, kw_only=True):
    """One metric of one case on both sides. `p` is of a change beyond the margin, corrected.

    `verdict` is None for a metric of which neither more nor less is better.
    """

    metric: str
    label: str
    unit: str
    direction: Literal["higher", "lower", "none"]
    a: Estimate | None
    b: Estimate | None
    ratio: Ratio
    verdict: Verdict | None
    reason: str
    margin: Margin | None = None
    p: float | None = None
    detectable: float | None = None  # the smallest true change that 80 % of such tries would show


class Share(Struct, kw_only=True):
    """A rate for each unit of what it took: per vCPU, per physical core, per price, per watt.

    The interval is the ratio's of the whole rate: amounts count as exact.
    """

    metric: str
    basis: str
    unit: str
    a: float | None
    b: float | None
    ratio: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class Outputs(Struct, kw_only=True):
    """Whether both sides gave the same tokens: whole outputs by their digests.

    `top1` and `kl` are each side's own agreement with transformers float32 (baseline, new);
    `delta_most` bounds the mean distance of their logits: the sum of both distances.
    """

    compared: int
    same: int
    low: float | None = None  # Wilson's 95 % bounds of the share
    high: float | None = None
    reason: str | None = None
    top1: tuple[float | None, float | None] = (None, None)
    kl: tuple[float | None, float | None] = (None, None)
    delta_most: float | None = None


class CaseRow(Struct, kw_only=True):
    """Two cases that ask the same; `varied` names the parts that may differ and do."""

    label: str
    varied: dict[str, tuple[str, str]]
    metrics: list[MetricRow]
    shares: list[Share] = field(default_factory=list)
    outputs: Outputs | None = None
    faults: list[str] = field(default_factory=list)  # why it can't be believed


class Difference(Struct, kw_only=True):
    """One thing that is not the same on both sides; None where that side does not tell it."""

    name: str
    kind: Literal["hardware", "software", "settings", "plan"]
    a: str | None
    b: str | None


class GeometricMean(Struct, kw_only=True):
    """Of the ratios of one metric over `n` cases: of the whole, or on the `basis` of a `Share`."""

    metric: str
    basis: str = "whole"
    n: int
    ratio: float
    low: float | None
    high: float | None


class SideInfo(Struct, kw_only=True):
    """One side for people: which files, where, when, and with which thread budget."""

    label: str
    files: list[str]
    machine: str
    tool: str
    created: str
    runs: int
    budget: str


class Pair(Struct, kw_only=True):
    """The baseline `a` and one other side."""

    a: SideInfo
    b: SideInfo
    setting: Setting
    cases: list[CaseRow]
    differences: list[Difference] = field(default_factory=list)
    geometric_means: list[GeometricMean] = field(default_factory=list)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Comparison(Struct, kw_only=True):
    """The first side against every other one."""

    schema: int
    armbench: str
    created: str
    alpha: float
    correction: str
    pairs: list[Pair]


class GateRow(Struct, kw_only=True):
    """One gated metric of one case, or what stopped the case from being gated."""

    case: str
    metric: str
    state: Literal["improved", "regressed", "unchanged", "inconclusive", "invalid", "skipped"]
    text: str
    row: MetricRow | None = None


class GateOutcome(Struct, kw_only=True):
    """What the gate says: an exit code, and each row that led to it."""

    exit: int
    summary: str
    rows: list[GateRow]
    comparison: Comparison | None = None  # None where the sides can't be compared
    failing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class PowerRow(Struct, kw_only=True):
    """What repeats like those of one case can show of one metric.

    `spread` is the standard deviation of the logarithms, about the coefficient of variation, with
    its 95 % bounds. `detectable` is the smallest true change shown with the wished power by two
    sides of `n` repeats, `repeats` how many of each side show `effect`; `repeats_safe` if the
    spread is as large as its upper 80 % bound. None with the reason.
    """

    case: str
    metric: str
    n: int
    margin: Margin
    spread: float | None = None
    spread_low: float | None = None
    spread_high: float | None = None
    detectable: float | None = None
    effect: float | None = None
    repeats: int | None = None
    repeats_safe: int | None = None
    reason: str | None = None


class AaEntry(Struct, kw_only=True):
    """One A/A comparison: the same on both sides. `ratios` are logarithms by metric."""

    at: str
    machine: str
    question: str  # key of what was asked
    setting: Setting
    n: int  # blocks, or runs of each side
    ratios: dict[str, float]


class Step(Struct, kw_only=True):
    """A level that changed between two runs of a history, and stayed changed.

    `index` is the first run of the new level. `before` and `after` are medians of the levels; a
    ratio to nothing is None, and so is the verdict on a metric that is not better either way.
    """

    index: int
    at: str
    before: float
    after: float
    ratio: float | None
    p: float
    verdict: Verdict | None
