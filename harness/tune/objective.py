"""What a candidate is worth: its figures by trials or by a probe, its score, and the SLO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness import stats
from harness.load.slo import METRICS, succeeded
from harness.metrics import Subject, metric
from harness.records.load import Slo
from harness.records.run import Case, RequestRecord, Trial
from harness.records.tune import Asked, Candidate, Objective
from harness.units import format_duration

_SERVED_LEAST = 16  # requests of a closed loop's trial
_SERVED_TURNS = 4  # of each slot
# What a probe lets expect of a latency may be wrong by this much before the SLO rules it out; in a
# closed loop prompts and decode steps mix, which a probe does not see.
_SLACK = {"single_stream": 1.25, "offline": 1.25, "closed": 1.6}


class Figures(NamedTuple):
    """Output tok/s of all sequences, time per output token and to the first one."""

    output_tok_per_s: float | None
    tpot_s: float | None
    ttft_s: float | None


class Judged(NamedTuple):
    """Whether the SLO is kept, and what of it could be judged, in plain words."""

    kept: bool
    text: str


def unit(objective: Objective) -> str:
    """The unit of a score."""
    return "tok/s per sequence" if objective == "latency" else "tok/s"


def score(objective: Objective, figures: Figures) -> float | None:
    """More is better: throughput, or one over the time per output token.

    The price is of the whole server, so that the cost of a token is the price over the throughput:
    the cheapest is the fastest.
    """
    if objective == "latency":
        return 1 / figures.tpot_s if figures.tpot_s else None
    return figures.output_tok_per_s or None


def expected(asked: Asked, candidate: Candidate, prefill_s: float, step_s: float) -> Figures:
    """What a probe lets expect at the asked lengths: one prefill of the batch, then its steps.

    In a closed loop each slot's prompt is passed while the others wait or decode, which comes to
    the same tokens in the same time; only their order differs. A single output token has no TPOT.
    """
    steps = asked.lengths[1] - 1
    total = prefill_s + steps * step_s
    rate = candidate.instances * candidate.batch * asked.lengths[1] / total if total else None
    own = prefill_s / candidate.batch if asked.load == "closed" else prefill_s
    if steps == 0:
        return Figures(rate, None, own)
    apart = (total - own) / steps if asked.load == "closed" else step_s
    return Figures(rate, apart or None, own)


def requests_of(asked: Asked, one: Candidate) -> int:
    """Requests of a trial, batches of them where they are batched: as asked, or one batch.

    A closed loop gives each slot some turns.
    """
    if asked.requests is not None:
        return asked.requests
    if asked.load != "closed":
        return 1
    return max(_SERVED_LEAST, _SERVED_TURNS * one.batch * one.instances)


def measured(trial: Trial, case: Case) -> Figures:
    """The figures of one trial."""
    subject = Subject(trial=trial, case=case)
    names = ("output_tok_per_s", "tpot_p50_s", "ttft_p50_s")
    return Figures(*(metric(name).value(subject) for name in names))


def ruled_out(asked: Asked, figures: Figures) -> str | None:
    """How a probe shows that the SLO can't be kept; None where it may be."""
    values = {"tpot": figures.tpot_s, "ttft": figures.ttft_s}
    for bound in asked.slo.bounds if asked.slo else ():
        value = values.get(bound.metric)
        if value is not None and value > _SLACK[asked.load] * bound.seconds:
            return (
                f"a probe lets expect a {bound.metric.upper()} of {format_duration(value)}, "
                f"at most {format_duration(bound.seconds)} wanted"
            )
    return None


def judge(slo: Slo, trials: Sequence[Trial]) -> Judged | None:
    """Whether all requests of `trials` together keep `slo`; None without a request.

    Each bound is judged at its percentile, or at the highest one below it that so many requests can
    tell (see `stats.NEEDED`). Failed requests are the slowest there are.
    """
    every = [record for trial in trials for record in trial.records]
    # What kept an instance busy until the others had done their share was cut off by us.
    records = [r for r in every if r.finish != "cancelled" or r.http is not None]
    if not records:
        return None
    kept, parts = True, []
    for bound in slo.bounds:
        share = max(
            q
            for q, n in stats.NEEDED.items()
            if q == 0.5 or (q <= bound.share and len(records) >= n)
        )
        value = _percentile([_value(bound.metric, r) for r in records], share)
        holds = value <= bound.seconds
        kept &= holds
        told = format_duration(value) if math.isfinite(value) else "never"
        text = f"{bound.metric.upper()} p{share * 100:g} {told} {'≤' if holds else '>'} "
        parts.append(text + format_duration(bound.seconds) + _asked_share(bound.share, share))
    return Judged(kept, f"{', '.join(parts)}, of {len(records)} requests")


def _asked_share(asked: float, judged: float) -> str:
    return "" if asked == judged else f" (p{asked * 100:g} asked)"


def _value(name: str, record: RequestRecord) -> float:
    if not succeeded(record):
        return math.inf
    return METRICS[name](record) or 0.0


def _percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of `values` does not exceed: infinities stay themselves."""
    return sorted(values)[math.ceil(share * len(values) - 1e-9) - 1]
