"""What a served trial tells, in SI units: the functions behind the rows of `metrics`.

Requests count that were due inside the window, or those asked for where a closed loop ends by
count; rates count what came inside it, also of requests that straddle an edge. Latencies are over
successes, attainment over all that count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.load.slo import METRICS
from harness.metrics.requests import (
    UNKNOWN,
    Instants,
    Mask,
    Requests,
    Seconds,
    gaps_ns,
    inside,
    longest_gaps_ns,
    peak_concurrency,
    seconds,
)
from harness.metrics.row import Subject
from harness.records.load import Slo
from harness.records.run import Trial
from harness.units import NS_PER_S

_SHORT_GAP_NS = 100_000  # below this, tokens were read together: no server decodes so fast


def window_s(subject: Subject) -> float | None:
    """Length of the window; None where there is none."""
    window = subject.trial.window_ns
    if window is None or window[1] <= window[0]:
        return None
    return (window[1] - window[0]) / NS_PER_S


def _rate(subject: Subject, instants: Instants) -> float | None:
    window, span = window_s(subject), subject.trial.window_ns
    if window is None or span is None or not subject.served:
        return None
    return inside(instants, span) / window


def intended_rate(subject: Subject) -> float | None:
    """Requests due inside the window ÷ window."""
    parts = (subject.warmup, subject.records)
    return _rate(subject, np.concatenate([part.due_ns for part in parts]))


def offered_rate(subject: Subject) -> float | None:
    """Requests sent inside the window ÷ window; never sent ones have no instant of sending."""
    sent = np.concatenate([part.sent_ns for part in (subject.warmup, subject.records)])
    return _rate(subject, sent[sent > 0])


def requests_per_s(subject: Subject) -> float | None:
    """Requests that ended well inside the window ÷ window."""
    if not subject.served:
        return None
    ends = [
        part.last_ns[~part.failed & (part.tokens > 0) & part.over_http]
        for part in (subject.warmup, subject.records)
    ]
    return _rate(subject, np.concatenate(ends))


def input_tok_per_s(subject: Subject) -> float | None:
    """Input tokens of requests whose first token came inside the window ÷ window."""
    window, span = window_s(subject), subject.trial.window_ns
    if window is None or span is None or not subject.served:
        return None
    found = 0
    for part in (subject.warmup, subject.records):
        first = part.first_ns
        begun = (part.tokens > 0) & (first >= span[0]) & (first < span[1])
        found += int(part.column("input_tokens")[begun].sum())
    return found / window


def attainment(subject: Subject) -> float | None:
    """Share of the requests that kept the SLO; None without one."""
    serving, good = subject.case.load.serving, subject.good
    slo = serving.slo if serving else None
    if slo is None or not len(subject.records):
        return None
    ended = good.where(good.finished("length", "stop"))  # see `slo.succeeded`
    return int(np.count_nonzero(kept(ended, slo))) / len(subject.records)


def kept(ended: Requests, slo: Slo) -> Mask:
    """Whether each of these requests, which all succeeded, kept every bound: `slo.attained`."""
    good = np.ones(len(ended), dtype=bool)
    for bound in slo.bounds:
        good &= _bounded(ended, bound.metric) / bound.seconds <= 1
    return good


def _bounded(ended: Requests, metric: str) -> Seconds:
    """The value of each request that a bound is on, as `slo.METRICS` has it; 0 for none."""
    if metric == "ttft":
        return seconds(ended.first_ns, ended.due_ns)
    if metric == "latency":
        return seconds(ended.last_ns, ended.due_ns)
    if metric == "tpot":
        return seconds(ended.last_ns, ended.first_ns) / np.maximum(ended.tokens - 1, 1)
    if metric == "itl":
        return longest_gaps_ns(ended) / NS_PER_S
    of_request = METRICS[metric]
    return np.array([of_request(r) or 0.0 for r in ended.records])


def goodput(subject: Subject) -> float | None:
    """Requests that kept the SLO ÷ window."""
    share, window = subject.once(attainment), window_s(subject)
    return None if share is None or window is None else share * len(subject.records) / window


def failed_share(subject: Subject) -> float | None:
    """Requests that failed, were cancelled or never ended, of all."""
    if not subject.served:
        return None
    return int(np.count_nonzero(subject.records.failed)) / len(subject.records)


def concurrency_peak(subject: Subject) -> float | None:
    """The most requests that were under way at once."""
    if not subject.served:
        return None
    parts = (subject.warmup, subject.records)
    sent = np.concatenate([part.sent_ns for part in parts])
    return float(peak_concurrency(sent, np.concatenate([part.over_ns for part in parts])))


def ttfots(subject: Subject) -> Seconds:
    """First token that is not reasoning − due."""
    good = subject.good.where(subject.good.over_http)
    thoughts = good.column("thoughts")
    seen = thoughts < good.chunks
    first = (np.cumsum(good.chunks) - good.chunks + thoughts)[seen]
    return seconds(good.chunk_ns[first], good.due_ns[seen])


def ntpots(subject: Subject) -> Seconds:
    """Latency ÷ output tokens."""
    good = subject.good
    return seconds(good.last_ns, good.due_ns) / good.tokens


def _chunk_gaps_ns(subject: Subject) -> Instants:
    return gaps_ns(subject.good.chunk_ns, subject.good.chunks)


def icls(subject: Subject) -> Seconds:
    """Gaps between the chunks of one stream, pooled."""
    return subject.once(_chunk_gaps_ns) / NS_PER_S


def send_lags(subject: Subject) -> Seconds:
    """Sent − due: how late the harness was."""
    every = subject.records
    sent = every.over_http & (every.sent_ns > 0)
    return seconds(every.sent_ns, every.due_ns)[sent]


def short_gap_share(subject: Subject) -> float | None:
    """Share of the gaps between chunks below 0.1 ms: chunks that came together."""
    gaps = subject.once(_chunk_gaps_ns)
    return int(np.count_nonzero(gaps < _SHORT_GAP_NS)) / len(gaps) if len(gaps) else None


def length_miss_share(subject: Subject) -> float | None:
    """Share of the successes whose output has another length than asked."""
    asked, made = subject.good.column("asked_output"), subject.good.tokens
    known = asked != UNKNOWN
    return float(np.mean((asked != made)[known])) if known.any() else None


def cached_share(subject: Subject) -> float | None:
    """Input tokens that the server took from its prefix cache, of all; None where it is silent."""
    cached, taken = subject.good.column("cached"), subject.good.column("input_tokens")
    known = cached != UNKNOWN
    total = int(taken[known].sum())
    return int(cached[known].sum()) / total if total else None


def queue_times(subject: Subject) -> Seconds:
    """From the arrival at our server to a slot."""
    server = subject.trial.server
    waits = [
        r.admitted_ns - r.queued_ns
        for r in (server.requests if server else [])
        if r.admitted_ns is not None
    ]
    return np.array(waits, dtype=np.int64) / NS_PER_S


def prefill_times(subject: Subject) -> Seconds:
    """From a slot of our server to the first token."""
    server = subject.trial.server
    times = [
        r.first_ns - r.admitted_ns
        for r in (server.requests if server else [])
        if r.admitted_ns is not None and r.first_ns is not None
    ]
    return np.array(times, dtype=np.int64) / NS_PER_S


def step_times(subject: Subject) -> Seconds:
    """Each step of our server that decoded."""
    steps = subject.trial.server.steps if subject.trial.server else None
    if steps is None:
        return np.empty(0)
    decoded = np.array([rows > 0 for rows in steps.decoding], dtype=bool)
    start = np.array(steps.start_ns, dtype=np.int64)
    found: Seconds = seconds(np.array(steps.end_ns, dtype=np.int64), start)[decoded]
    return found


def mean_batch(subject: Subject) -> float | None:
    """Sequences decoded in a step of our server, over its decoding steps, each counted once."""
    steps = subject.trial.server.steps if subject.trial.server else None
    rows = [n for n in steps.decoding if n] if steps else []
    return mean(rows)


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    return sum(values) / len(values) if values else None


def client_figure(name: str, trial: Trial) -> float | None:
    """A figure of the client's own; None where it did not tell."""
    client = trial.client
    if client is None:
        return None
    if name == "ceiling_share":
        if not client.ceiling_events_per_s or not client.seconds:
            return None
        return client.events / client.seconds / client.ceiling_events_per_s
    value = getattr(client, name)
    return None if value is None else float(value)
