"""What a served trial tells, in SI units: the functions behind the rows of `metrics`.

Requests count that were due inside the window; tokens count where they came, also those of
requests that straddle an edge. Latencies are over successes, attainment over all that count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from harness.load.slo import attained
from harness.load.window import peak_concurrency
from harness.records.run import Case, RequestRecord, Trial
from harness.units import NS_PER_S

SHORT_GAP_NS = 100_000


def window_s(trial: Trial) -> float | None:
    """Length of the window; None where there is none."""
    if trial.window_ns is None or trial.window_ns[1] <= trial.window_ns[0]:
        return None
    return (trial.window_ns[1] - trial.window_ns[0]) / NS_PER_S


def is_served(trial: Trial) -> bool:
    """Whether its requests went over HTTP."""
    return any(r.http is not None for r in trial.records)


def succeeded(trial: Trial) -> list[RequestRecord]:
    """Requests that ended well; those that were cut off at the end of a trial did not."""
    return [r for r in trial.records if r.error is None and r.token_ns and r.finish != "cancelled"]


def _inside(trial: Trial, instants: Iterator[int]) -> int:
    assert trial.window_ns is not None
    start, end = trial.window_ns
    return sum(start <= instant < end for instant in instants)


def _rate(trial: Trial, instants: Iterator[int]) -> float | None:
    window = window_s(trial)
    return None if window is None or not is_served(trial) else _inside(trial, instants) / window


def intended_rate(trial: Trial) -> float | None:
    """Requests due inside the window ÷ window."""
    return _rate(trial, (r.due_ns for r in trial.records))


def offered_rate(trial: Trial) -> float | None:
    """Requests sent inside the window ÷ window; never sent ones have no instant of sending."""
    return _rate(trial, (r.sent_ns for r in trial.records if was_sent(r)))


def was_sent(record: RequestRecord) -> bool:
    """Whether it left the client: a request that was given up before has sent_ns 0."""
    return record.sent_ns > 0


def requests_per_s(trial: Trial) -> float | None:
    """Requests that ended well inside the window ÷ window."""
    everything = [*trial.warmup, *trial.records]
    ends = (r.token_ns[-1] for r in everything if r.error is None and r.token_ns and r.http)
    return _rate(trial, ends)


def input_tok_per_s(trial: Trial) -> float | None:
    """Input tokens of requests whose first token came inside the window ÷ window."""
    window = window_s(trial)
    if window is None or trial.window_ns is None or not is_served(trial):
        return None
    start, end = trial.window_ns
    found = (r for r in [*trial.warmup, *trial.records] if r.token_ns)
    return sum(r.input_tokens for r in found if start <= r.token_ns[0] < end) / window


def attainment(trial: Trial, case: Case) -> float | None:
    """Share of the requests that kept the SLO; None without one."""
    slo = case.load.serving.slo if case.load.serving else None
    if slo is None or not trial.records:
        return None
    return sum(attained(r, slo) for r in trial.records) / len(trial.records)


def goodput(trial: Trial, case: Case) -> float | None:
    """Requests that kept the SLO ÷ window."""
    share, window = attainment(trial, case), window_s(trial)
    return None if share is None or window is None else share * len(trial.records) / window


def failed_share(trial: Trial) -> float | None:
    """Requests that failed, were cancelled or never ended, of all."""
    if not is_served(trial):
        return None
    return sum(r.error is not None for r in trial.records) / len(trial.records)


def concurrency_peak(trial: Trial) -> float | None:
    """The most requests that were under way at once."""
    if not is_served(trial):
        return None
    return float(peak_concurrency([*trial.warmup, *trial.records]))


def ttfots(trial: Trial) -> list[float]:
    """First token that is not reasoning − due, seconds."""
    return [
        (r.http.chunk_ns[r.http.reasoning_chunks] - r.due_ns) / NS_PER_S
        for r in succeeded(trial)
        if r.http is not None and r.http.reasoning_chunks < len(r.http.chunk_ns)
    ]


def ntpots(trial: Trial) -> list[float]:
    """Latency ÷ output tokens, seconds."""
    return [(r.token_ns[-1] - r.due_ns) / NS_PER_S / len(r.token_ns) for r in succeeded(trial)]


def icls(trial: Trial) -> list[float]:
    """Gaps between the chunks of one stream, seconds, pooled."""
    chunks = (r.http.chunk_ns for r in succeeded(trial) if r.http is not None)
    return [(b - a) / NS_PER_S for one in chunks for a, b in pairwise(one)]


def send_lags(trial: Trial) -> list[float]:
    """Sent − due, seconds: how late the harness was."""
    return [(r.sent_ns - r.due_ns) / NS_PER_S for r in trial.records if r.http and was_sent(r)]


def short_gap_share(trial: Trial) -> float | None:
    """Share of the gaps between chunks below 0.1 ms: chunks that came together."""
    chunks = [r.http.chunk_ns for r in succeeded(trial) if r.http is not None]
    gaps = [b - a for one in chunks for a, b in pairwise(one)]
    return sum(gap < SHORT_GAP_NS for gap in gaps) / len(gaps) if gaps else None


def length_miss_share(trial: Trial) -> float | None:
    """Share of the successes whose output has another length than asked."""
    asked = [r for r in succeeded(trial) if r.asked_output is not None]
    return sum(len(r.token_ns) != r.asked_output for r in asked) / len(asked) if asked else None


def cached_share(trial: Trial) -> float | None:
    """Input tokens that the server took from its prefix cache, of all; None where it is silent."""
    known = [r for r in succeeded(trial) if r.http and r.http.usage_cached is not None]
    total = sum(r.input_tokens for r in known)
    return sum(r.http.usage_cached or 0 for r in known if r.http) / total if total else None


def queue_times(trial: Trial) -> list[float]:
    """Seconds from the arrival at our server to a slot."""
    return [
        (r.admitted_ns - r.queued_ns) / NS_PER_S
        for r in (trial.server.requests if trial.server else [])
        if r.admitted_ns is not None
    ]


def prefill_times(trial: Trial) -> list[float]:
    """Seconds from a slot of our server to the first token."""
    return [
        (r.first_ns - r.admitted_ns) / NS_PER_S
        for r in (trial.server.requests if trial.server else [])
        if r.admitted_ns is not None and r.first_ns is not None
    ]


def step_times(trial: Trial) -> list[float]:
    """Seconds of each step of our server that decoded."""
    steps = trial.server.steps if trial.server else None
    if steps is None:
        return []
    return [
        (end - start) / NS_PER_S
        for start, end, rows in zip(steps.start_ns, steps.end_ns, steps.decoding, strict=True)
        if rows
    ]


def mean_batch(trial: Trial) -> float | None:
    """Sequences decoded in a step of our server, over its decoding steps, each counted once."""
    steps = trial.server.steps if trial.server else None
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
