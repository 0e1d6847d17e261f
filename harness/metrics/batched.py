"""Values of a trial whose requests go through the engine batch by batch, and of any trial."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from harness.metrics import served
from harness.metrics.requests import Seconds, gaps_ns, inside, rise, seconds
from harness.metrics.row import Subject, Value
from harness.metrics.together import Pass, Together, together
from harness.records.run import RequestRecord
from harness.units import NS_PER_S


def ttfts(subject: Subject) -> Seconds:
    """First token − due, one for each request."""
    return seconds(subject.good.first_ns, subject.good.due_ns)


def ttfts_from_send(subject: Subject) -> Seconds:
    """First token − sent, one for each request."""
    return seconds(subject.good.first_ns, subject.good.sent_ns)


def latencies(subject: Subject) -> Seconds:
    """Last token − due, one for each request."""
    return seconds(subject.good.last_ns, subject.good.due_ns)


def tpots(subject: Subject) -> Seconds:
    """(last − first token) ÷ (tokens − 1); requests below two tokens have none."""
    good = subject.good
    several = good.tokens > 1
    return seconds(good.last_ns, good.first_ns)[several] / (good.tokens[several] - 1)


def ttft_rise(subject: Subject) -> float | None:
    """How far TTFT rose throughout the window: see `rise`."""
    if not subject.served:
        return None
    return rise(ttfts(subject)[np.argsort(subject.good.due_ns, kind="stable")])


def tpot_rise(subject: Subject) -> float | None:
    """How far TPOT rose throughout the window: see `rise`."""
    if not subject.served:
        return None
    due = subject.good.due_ns[subject.good.tokens > 1]
    return rise(tpots(subject)[np.argsort(due, kind="stable")])


def itls(subject: Subject) -> Seconds:
    """Gaps between neighbouring output tokens, pooled over requests."""
    return gaps_ns(subject.good.token_ns, subject.good.tokens) / NS_PER_S


def _batches(subject: Subject) -> Iterable[list[RequestRecord]]:
    """Records that went through the engine together; over HTTP that is not known.

    Those that were cut off count as far as they came.
    """
    if subject.served:
        return []
    groups: dict[tuple[int, int], list[RequestRecord]] = {}
    for record in subject.trial.records:
        if record.error is None and record.token_ns:
            start = record.started_ns or record.sent_ns
            groups.setdefault((record.instance, start), []).append(record)
    return groups.values()


def _prefills(subject: Subject) -> Together | None:
    """The prefills that count; None where it is not known when they began."""
    passes = []
    for batch in _batches(subject):
        start = batch[0].started_ns
        if start is None:
            return None
        passes.append(Pass(batch[0].instance, (start, max(r.token_ns[0] for r in batch)), batch))
    return together(passes, subject.case.variant.instances)


def _decodes(subject: Subject) -> Together | None:
    """The decodes that count."""
    passes = []
    for batch in _batches(subject):
        first, last = min(r.token_ns[0] for r in batch), max(r.token_ns[-1] for r in batch)
        longest = max(batch, key=lambda r: len(r.token_ns)).token_ns
        passes.append(Pass(batch[0].instance, (first, *longest[1:-1], last), batch))
    return together(passes, subject.case.variant.instances)


def prefill_rate(subject: Subject) -> float | None:
    """Input tokens of all batches ÷ the time of their prefills, tok/s."""
    done = subject.once(_prefills)
    if done is None or done.seconds <= 0:
        return None
    return sum(share * sum(r.input_tokens for r in p.batch) for p, share in done.shares) / (
        done.seconds
    )


def decode_rate(subject: Subject) -> float | None:
    """Output tokens after the first ÷ the time of the decodes, tok/s."""
    done = subject.once(_decodes)
    if done is None or done.seconds <= 0:
        return None
    tokens = sum(share * sum(len(r.token_ns) - 1 for r in p.batch) for p, share in done.shares)
    return tokens / done.seconds if tokens else None


def output_rate(subject: Subject) -> float | None:
    """Output tokens that came inside the window ÷ window, tok/s."""
    window, span = served.window_s(subject), subject.trial.window_ns
    if window is None or span is None:
        return None
    if subject.served:
        produced = sum(inside(r.token_ns, span) for r in (subject.warmup, subject.records))
    else:  # from the first request due to the last token, which counts
        produced = inside(subject.records.token_ns, (span[0] + 1, span[1] + 1))
    return produced / window


def total_rate(subject: Subject) -> float | None:
    """Input and output tokens of the window ÷ window, tok/s."""
    into, out = subject.once(served.input_tok_per_s), subject.once(output_rate)
    return None if into is None or out is None else into + out


class Phase(NamedTuple):
    """The work of one phase of a trial, all batches together, and the time it took."""

    tokens: float
    bytes: float
    ops: float
    seconds: float


def prefill_work(subject: Subject) -> Phase | None:
    """Weights read once for each batch, and forward operations; None without a footprint."""
    done = subject.once(_prefills)
    if subject.bounds is None or done is None:
        return None
    cost = subject.bounds.footprint
    tokens = read = ops = 0.0
    for one, share in done.shares:
        taken = sum(r.input_tokens for r in one.batch)
        tokens += share * taken
        read += share * cost.weight_bytes_per_step(taken)
        ops += share * sum(cost.shape.prefill_flops(r.input_tokens) for r in one.batch)
    return Phase(tokens, read, ops, done.seconds) if tokens and done.seconds > 0 else None


def decode_work(subject: Subject) -> Phase | None:
    """Weights and keys and values read by every step, at the mean context of the decode."""
    done = subject.once(_decodes)
    if subject.bounds is None or done is None:
        return None
    cost = subject.bounds.footprint
    tokens = read = ops = 0.0
    for one, share in done.shares:
        rows, steps = len(one.batch), share * (max(len(r.token_ns) for r in one.batch) - 1)
        context = sum(r.input_tokens + len(r.token_ns) / 2 for r in one.batch) / rows
        tokens += share * sum(len(r.token_ns) - 1 for r in one.batch)
        read += steps * cost.step_bytes(context, rows)
        ops += steps * cost.shape.decode_flops(context, batch=rows)
    return Phase(tokens, read, ops, done.seconds) if tokens and done.seconds > 0 else None


Work = Callable[[Subject], Phase | None]


def bound(work: Work, *, reading: bool) -> Value:
    """Tokens per second if the phase took no longer than its slower ceiling lets it.

    Unknown without the ceiling that usually decides: reading in decode, arithmetic in prefill.
    """

    def value(subject: Subject) -> float | None:
        done, limits = work(subject), subject.bounds
        if done is None or limits is None:
            return None
        if (limits.read_bytes_per_s if reading else limits.ops_per_s) is None:
            return None
        least = limits.least_s(done.bytes, done.ops)
        return done.tokens / least if least else None

    return value


def mbu(subject: Subject) -> float | None:
    """Bytes per second of the decode ÷ read ceiling."""
    done, limits = decode_work(subject), subject.bounds
    if done is None or limits is None or limits.read_bytes_per_s is None:
        return None
    return done.bytes / done.seconds / limits.read_bytes_per_s


def mfu(subject: Subject) -> float | None:
    """Operations per second of the prefill ÷ compute ceiling."""
    done, limits = prefill_work(subject), subject.bounds
    if done is None or limits is None or limits.ops_per_s is None:
        return None
    return done.ops / done.seconds / limits.ops_per_s


def intensity(work: Work) -> Value:
    """Operations per byte of a phase."""

    def value(subject: Subject) -> float | None:
        done = work(subject)
        return done.ops / done.bytes if done else None

    return value


def usage(field: str) -> Value:
    """A count of the engine processes together."""

    def value(subject: Subject) -> float | None:
        usage = subject.trial.usage
        return None if usage is None else float(getattr(usage, field))

    return value


def cpu_s(subject: Subject) -> float | None:
    """CPU seconds of the engine processes inside the window."""
    usage = subject.trial.usage
    return None if usage is None else usage.user_s + usage.system_s
