"""The highest offered rate that keeps a promise: bracketing, then bisection, by Wilson bounds.

A rate holds where the lower bound of its attainment reaches the target, fails where the upper one
is below it, and is open otherwise. Requests that queue behind each other fail together, so that n
of them tell less than n independent ones: counts are divided by how clustered the worst requests
are (`clustering`) before the bounds are taken. An open rate gets more samples, up to a limit, and
then moves no bound.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from harness.load.slo import demands, margins, needed, wilson
from harness.records.load import Capacity, Probe, Slo
from harness.records.run import RequestRecord
from harness.units import NS_PER_S

Verdict = Literal["holds", "fails", "open"]
_MORE = 4  # an open rate gets up to this many times the samples of its first probe
_TENTH = 10
_MOST_PROBES = 40


class ProbeOutcome(Struct, frozen=True, kw_only=True):
    """What one probe saw: `margins` (see `slo.margins`) of each request that counts, as due."""

    case: int
    margins: list[tuple[float, ...]]
    stopped_early: str | None = None

    @classmethod
    def of(
        cls, records: Sequence[RequestRecord], slo: Slo, *, case: int, stopped_early: str | None
    ) -> ProbeOutcome:
        """The outcome that `records` show, in whatever order they come."""
        ordered = sorted(records, key=lambda record: record.due_ns)
        every = [margins(record, slo) for record in ordered]
        return cls(case=case, margins=every, stopped_early=stopped_early)


Prober = Callable[[float, int], ProbeOutcome]  # (rate, samples)


class Evidence(Struct, frozen=True, kw_only=True):
    """What the requests at one rate show: for each demand, so many of so many independent ones.

    `stopped` marks a rate that was given up early: it fails whatever its requests show so far.
    """

    kept: int
    sent: int
    told: tuple[tuple[float, float], ...]
    stopped: bool = False


def evidence(every: Sequence[tuple[float, ...]], slo: Slo, *, stopped: bool = False) -> Evidence:
    """The evidence of requests with margins `every`, in the order they were due."""
    told = []
    for demand in demands(slo):
        worst = [demand.worst(one) for one in every]
        factor = clustering(worst)
        told.append((sum(one <= 1 for one in worst) / factor, len(worst) / factor))
    kept = sum(max(one) <= 1 for one in every)
    return Evidence(kept=kept, sent=len(every), told=tuple(told), stopped=stopped)


def _holds(some: Sequence[Evidence], slo: Slo) -> bool:
    return not any(one.stopped for one in some) and all(
        wilson(*_summed(some, place))[0] >= demand.share
        for place, demand in enumerate(demands(slo))
    )


def _fails(some: Sequence[Evidence], slo: Slo) -> bool:
    return any(one.stopped for one in some) or any(
        wilson(*_summed(some, place))[1] < demand.share for place, demand in enumerate(demands(slo))
    )


def _summed(some: Sequence[Evidence], place: int) -> tuple[float, float]:
    return sum(e.told[place][0] for e in some), sum(e.told[place][1] for e in some)


def judge(found: Mapping[float, Evidence], slo: Slo) -> dict[float, Verdict]:
    """The verdict on each rate of `found`.

    More load makes no request faster, or bisection would not do either. So requests at higher
    rates count for a rate where they help to show that it holds, those at lower rates where they
    help to show that it fails. A rate that is shown both to hold and to fail is open.
    """
    rates = sorted(found)
    verdicts: dict[float, Verdict] = {}
    for place, rate in enumerate(rates):
        above = [found[r] for r in rates[place:]]
        below = [found[r] for r in reversed(rates[: place + 1])]
        holds = any(_holds(above[:n], slo) for n in range(1, len(above) + 1))
        fails = any(_fails(below[:n], slo) for n in range(1, len(below) + 1))
        verdicts[rate] = "open" if holds == fails else "holds" if holds else "fails"
    return verdicts


def contradiction(found: Mapping[float, Evidence], slo: Slo) -> str | None:
    """The rates that break the rule that more load is never better, by their own requests alone."""
    held = [rate for rate, one in found.items() if _holds([one], slo)]
    failed = [rate for rate, one in found.items() if _fails([one], slo)]
    if held and failed and max(held) > min(failed):
        return f"{max(held):g}/s held although {min(failed):g}/s failed: it is not monotonic"
    return None


def clustering(worst: Sequence[float]) -> float:
    """How many requests tell as much as one independent one; 1 at least.

    Variance over blocks of the count of the worst tenth of requests (or of all that failed, if
    more), over the variance it would have if they fell anywhere: the design effect of a cluster
    sample (Kish 1965). The tenth stands in for failures, which are too few to be counted by block.
    The larger of two block lengths counts, √n and n ÷ 10, since how long a busy period lasts is
    not known; a ratio within two standard errors of 1 is taken as 1.
    """
    n = len(worst)
    bad = max(sum(one > 1 for one in worst), n // _TENTH)
    if n < 5 * _TENTH or bad == n:
        return 1.0
    flags = [0] * n
    # Equal ones are picked here and there: the first of them would look like a cluster.
    order = sorted(range(n), key=lambda place: (-worst[place], place * 2654435761 % 2**32))
    for place in order[:bad]:
        flags[place] = 1
    return max(_inflation(flags, size) for size in (math.isqrt(n), n // _TENTH))


def _inflation(flags: Sequence[int], size: int) -> float:
    counts = [sum(flags[at : at + size]) for at in range(0, len(flags) - size + 1, size)]
    share = sum(flags) / len(flags)
    ratio = statistics.variance(counts) / (size * share * (1 - share))
    return ratio if ratio > 1 + 2 * math.sqrt(2 / (len(counts) - 1)) else 1.0


def bracket(verdicts: Mapping[float, Verdict]) -> tuple[float | None, float | None]:
    """(highest rate that holds below all that fail, lowest that fails)."""
    high = min((rate for rate, verdict in verdicts.items() if verdict == "fails"), default=None)
    held = (rate for rate, verdict in verdicts.items() if verdict == "holds")
    return max((rate for rate in held if high is None or rate < high), default=None), high


class Range(Struct, frozen=True, kw_only=True):
    """Where a search begins, how far it may go, and how near its bounds are to come."""

    start: float
    lowest: float
    highest: float
    resolution: float


def next_rate(verdicts: Mapping[float, Verdict], within: Range) -> float | None:
    """The next new rate to probe; None where there is none that would narrow the answer.

    Doubling or halving until one rate held and one failed, then the geometric middle of the gap
    above the held rate, or below the failed one: they differ where open rates lie between.
    """
    if not verdicts:
        return min(max(within.start, within.lowest), within.highest)
    low, high = bracket(verdicts)
    if high is None and (top := max(verdicts)) < within.highest:
        return _rounded(min(within.highest, 2 * top))
    if low is None and (bottom := min(verdicts)) > within.lowest:
        return _rounded(max(within.lowest, bottom / 2))
    if low is None or high is None:
        return None
    between = sorted(rate for rate in verdicts if low <= rate <= high)
    gaps = (between[:2], between[-2:])
    below, above = max(gaps, key=lambda gap: gap[1] / gap[0])
    if above / below <= 1 + within.resolution:
        return None
    return _rounded(math.sqrt(below * above))


def open_rate(
    verdicts: Mapping[float, Verdict], sent: Mapping[float, int], most: Callable[[float], int]
) -> float | None:
    """The open rate that more samples may decide: of those with fewest so far, the middle one."""
    low, high = bracket(verdicts)
    undecided = sorted(
        rate
        for rate, verdict in verdicts.items()
        if verdict == "open"
        and (low is None or rate > low)
        and (high is None or rate < high)
        and 0 < sent[rate] < most(rate)
    )
    rounds = [round(math.log2(most(rate) / sent[rate])) for rate in undecided]
    fewest = [r for r, n in zip(undecided, rounds, strict=True) if n == max(rounds)]
    return fewest[len(fewest) // 2] if fewest else None


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def samples_for(slo: Slo, rate: float, *, resolution: float) -> int:
    """Requests of a first probe at `rate`.

    Enough for the strictest percentile, and so many that a server which falls behind by
    `resolution` of the rate is late by the loosest bound on waiting before the probe ends.
    """
    most = max(demand.share for demand in demands(slo))
    waits = [b.seconds for b in slo.bounds if b.metric in ("ttft", "ttfot", "latency")]
    seconds = max(waits, default=0.0) * (1 + 1 / resolution)
    return max(needed(most), math.ceil(rate * seconds))


def search(
    probe: Prober,
    slo: Slo,
    *,
    start_rate: float,
    lowest: float,
    highest: float,
    resolution: float = 0.05,
    most_probes: int = _MOST_PROBES,
    samples: Callable[[float], int] | None = None,
    spent: Callable[[], bool] = lambda: False,
) -> Capacity:
    """The capacity that `probe` shows between rates `lowest` and `highest`.

    `probe(rate, samples)` offers so many requests at so many per second, other ones each time. The
    search ends where its bounds are within `resolution` of each other or no more samples are
    allowed, where `most_probes` are made, or `spent()`. `samples(rate)` replaces `samples_for`.
    """
    within = Range(start=start_rate, lowest=lowest, highest=highest, resolution=resolution)
    wanted = samples or (lambda rate: samples_for(slo, rate, resolution=resolution))
    seen: dict[float, list[tuple[float, ...]]] = {}
    found: dict[float, Evidence] = {}
    probes: list[Probe] = []
    rate = next_rate({}, within)
    while rate is not None and len(probes) < most_probes and not spent():
        every = seen.setdefault(rate, [])
        outcome = probe(rate, len(every) or wanted(rate))
        every += outcome.margins
        found[rate] = evidence(every, slo, stopped=outcome.stopped_early is not None)
        probes.append(_row(rate, outcome, found[rate]))
        verdicts = judge(found, slo)
        sent = {r: one.sent for r, one in found.items()}
        rate = open_rate(verdicts, sent, lambda r: _MORE * wanted(r)) or next_rate(verdicts, within)
    return _answer(slo, probes, found, rate, within)


def _row(rate: float, outcome: ProbeOutcome, told: Evidence) -> Probe:
    low, high = wilson(*told.told[0])
    return Probe(
        case=outcome.case,
        rate=rate,
        sent=told.sent,
        attained=told.kept,
        low=low,
        high=high,
        verdict="open",
        stopped_early=outcome.stopped_early,
    )


def _answer(
    slo: Slo,
    probes: list[Probe],
    found: Mapping[float, Evidence],
    unprobed: float | None,
    within: Range,
) -> Capacity:
    verdicts = judge(found, slo)
    for row in probes:
        row.verdict = verdicts[row.rate]
    low, high = bracket(verdicts)
    reasons = [odd] if (odd := contradiction(found, slo)) else []
    if low is None:
        reasons.append("no rate was shown to hold")
    if high is None:
        reasons.append("no rate was shown to fail")
    if unprobed is not None:
        reasons.append("the budget ended before the bounds were as near as asked")
    elif low is not None and high is not None and high / low > 1 + within.resolution:
        reasons.append("rates between the bounds stayed open: their samples were too few to tell")
    return Capacity(
        slo=slo, rate=low, low=low, high=high, probes=probes, reason="; ".join(reasons) or None
    )


def early_verdict(
    records: Sequence[RequestRecord], slo: Slo, *, planned: int, now_ns: int
) -> str | None:
    """Why a probe under way fails already, None where it may still hold.

    `records` are those due so far, unfinished ones with what came until `now_ns`. Either so many
    have broken a bound that the upper Wilson bound stays below the target even if all the rest of
    `planned` keep it; or the backlog of requests without a first token grows without end.
    """
    ordered = sorted(records, key=lambda record: record.due_ns)
    every = [_margins_so_far(record, slo, now_ns) for record in ordered]
    for demand in demands(slo):
        broken = min(planned, sum(demand.worst(one) > 1 for one in every))
        _, best = wilson(planned - broken, planned)
        if best < demand.share and _fails([evidence(every, slo)], slo):
            return (
                f"{broken} of {len(every)} requests broke the promise: {planned} can't make it up"
            )
    return "the backlog grows without end" if backlog_grows(records, now_ns) else None


def _margins_so_far(record: RequestRecord, slo: Slo, now_ns: int) -> tuple[float, ...]:
    """As `slo.margins`; of an unfinished request what it has for certain."""
    if record.finish != "unfinished" or record.error is not None:
        return margins(record, slo)
    waited = (now_ns - record.due_ns) / NS_PER_S
    gap = max((b - a for a, b in pairwise(record.token_ns)), default=0) / NS_PER_S
    certain = {
        "ttft": (record.token_ns[0] - record.due_ns) / NS_PER_S if record.token_ns else waited,
        "ttfot": 0.0 if record.token_ns else waited,
        "itl": gap,
        "latency": waited,
    }
    return tuple(certain.get(bound.metric, 0.0) / bound.seconds for bound in slo.bounds)


def backlog_grows(records: Sequence[RequestRecord], now_ns: int) -> bool:
    """Whether first tokens fall behind arrivals for good.

    In each of the last two quarters of the time so far, fewer requests got a first token than
    came due, by over twice the standard deviation of the difference of two Poisson counts; and
    ten had one in the second quarter already, so that a long pipeline is not still filling up.
    """
    if not records:
        return False
    start = min(record.due_ns for record in records)
    quarter = (now_ns - start) / 4
    if quarter <= 0:
        return False
    firsts = [r.token_ns[0] for r in records if r.token_ns]

    def in_quarter(instants: Sequence[int], which: int) -> int:
        begin = start + which * quarter
        return sum(begin <= at < begin + quarter for at in instants)

    if in_quarter(firsts, 1) < 10:
        return False
    dues = [r.due_ns for r in records if r.due_ns < now_ns]
    return all(
        due - first > 2 * math.sqrt(due + first)
        for due, first in ((in_quarter(dues, q), in_quarter(firsts, q)) for q in (2, 3))
    )
