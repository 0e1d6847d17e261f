"""The metric table: each metric is one row, and every report, comparison and gate walks it.

A metric is computed from stored instants and counts of one trial, in SI units, some from the
ceilings beside them; None means that this trial cannot tell. Sources: the definitions in README,
section Words, which follow MLPerf LoadGen (latency from the due time), vLLM and MLPerf (TPOT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from harness import bounds, stats
from harness.bounds import Bounds
from harness.errors import unknown_name
from harness.records.run import Case, Estimate, RequestRecord, Result, Trial

Direction = Literal["higher", "lower", "none"]


class Subject(Struct, frozen=True, kw_only=True):
    """What a metric is computed from: a trial, its case, and what bounds it where that is known."""

    trial: Trial
    case: Case
    bounds: Bounds | None = None


Value = Callable[[Subject], float | None]


class Metric(Struct, frozen=True, kw_only=True):
    """One row."""

    name: str
    label: str
    unit: str
    direction: Direction
    formula: str
    source: str
    value: Value


def _ok(trial: Trial) -> list[RequestRecord]:
    return [r for r in trial.records if r.error is None and r.token_ns]


def _window_s(trial: Trial) -> float | None:
    if trial.window_ns is None or trial.window_ns[1] <= trial.window_ns[0]:
        return None
    return (trial.window_ns[1] - trial.window_ns[0]) / 1e9


def ttfts(trial: Trial) -> list[float]:
    """First token − due, seconds, one for each request."""
    return [(r.token_ns[0] - r.due_ns) / 1e9 for r in _ok(trial)]


def ttfts_from_send(trial: Trial) -> list[float]:
    """First token − sent, seconds, one for each request."""
    return [(r.token_ns[0] - r.sent_ns) / 1e9 for r in _ok(trial)]


def latencies(trial: Trial) -> list[float]:
    """Last token − due, seconds, one for each request."""
    return [(r.token_ns[-1] - r.due_ns) / 1e9 for r in _ok(trial)]


def tpots(trial: Trial) -> list[float]:
    """(last − first token) ÷ (tokens − 1), seconds; requests below two tokens have none."""
    return [
        (r.token_ns[-1] - r.token_ns[0]) / 1e9 / (len(r.token_ns) - 1)
        for r in _ok(trial)
        if len(r.token_ns) > 1
    ]


def itls(trial: Trial) -> list[float]:
    """Gaps between neighbouring output tokens, seconds, pooled over requests."""
    return [
        (b - a) / 1e9 for r in _ok(trial) for a, b in zip(r.token_ns, r.token_ns[1:], strict=False)
    ]


def _batches(trial: Trial) -> Iterable[list[RequestRecord]]:
    """Records that went through the engine together."""
    groups: dict[int, list[RequestRecord]] = {}
    for record in _ok(trial):
        groups.setdefault(record.started_ns or record.sent_ns, []).append(record)
    return groups.values()


def _prefill_rate(subject: Subject) -> float | None:
    tokens = seconds = 0.0
    for batch in _batches(subject.trial):
        start = batch[0].started_ns
        if start is None:
            return None
        tokens += sum(r.input_tokens for r in batch)
        seconds += (max(r.token_ns[0] for r in batch) - start) / 1e9
    return tokens / seconds if seconds > 0 else None


def _decode_rate(subject: Subject) -> float | None:
    tokens = seconds = 0.0
    for batch in _batches(subject.trial):
        tokens += sum(len(r.token_ns) - 1 for r in batch)
        seconds += (max(r.token_ns[-1] for r in batch) - min(r.token_ns[0] for r in batch)) / 1e9
    return tokens / seconds if tokens and seconds > 0 else None


def _output_rate(subject: Subject) -> float | None:
    trial = subject.trial
    window = _window_s(trial)
    if window is None or trial.window_ns is None:
        return None
    start, end = trial.window_ns
    produced = sum(start < t <= end for r in trial.records for t in r.token_ns)
    return produced / window


class Phase(NamedTuple):
    """The work of one phase of a trial, all batches together, and the time it took."""

    tokens: int
    bytes: float
    ops: float
    seconds: float


def prefill_work(subject: Subject) -> Phase | None:
    """Weights read once for each batch, and forward operations; None without a footprint."""
    if subject.bounds is None:
        return None
    cost = subject.bounds.footprint
    tokens, read, ops, seconds = 0, 0.0, 0.0, 0.0
    for batch in _batches(subject.trial):
        start = batch[0].started_ns
        if start is None:
            return None
        taken = sum(r.input_tokens for r in batch)
        tokens += taken
        read += cost.weight_bytes_per_step(taken)
        ops += sum(cost.shape.prefill_flops(r.input_tokens) for r in batch)
        seconds += (max(r.token_ns[0] for r in batch) - start) / 1e9
    return Phase(tokens, read, ops, seconds) if tokens and seconds > 0 else None


def decode_work(subject: Subject) -> Phase | None:
    """Weights and keys and values read by every step, at the mean context of the decode."""
    if subject.bounds is None:
        return None
    cost = subject.bounds.footprint
    tokens, read, ops, seconds = 0, 0.0, 0.0, 0.0
    for batch in _batches(subject.trial):
        rows, steps = len(batch), max(len(r.token_ns) for r in batch) - 1
        context = sum(r.input_tokens + len(r.token_ns) / 2 for r in batch) / rows
        tokens += sum(len(r.token_ns) - 1 for r in batch)
        read += steps * cost.step_bytes(context, rows)
        ops += steps * cost.shape.decode_flops(context, batch=rows)
        seconds += (max(r.token_ns[-1] for r in batch) - min(r.token_ns[0] for r in batch)) / 1e9
    return Phase(tokens, read, ops, seconds) if tokens and seconds > 0 else None


Work = Callable[[Subject], Phase | None]


def _bound(work: Work, *, reading: bool) -> Value:
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


def _mbu(subject: Subject) -> float | None:
    done, limits = decode_work(subject), subject.bounds
    if done is None or limits is None or limits.read_bytes_per_s is None:
        return None
    return done.bytes / done.seconds / limits.read_bytes_per_s


def _mfu(subject: Subject) -> float | None:
    done, limits = prefill_work(subject), subject.bounds
    if done is None or limits is None or limits.ops_per_s is None:
        return None
    return done.ops / done.seconds / limits.ops_per_s


def _intensity(work: Work) -> Value:
    def value(subject: Subject) -> float | None:
        done = work(subject)
        return done.ops / done.bytes if done else None

    return value


def _usage(field: str) -> Value:
    def value(subject: Subject) -> float | None:
        usage = subject.trial.usage
        return None if usage is None else float(getattr(usage, field))

    return value


def _cpu_s(subject: Subject) -> float | None:
    usage = subject.trial.usage
    return None if usage is None else usage.user_s + usage.system_s


def _quantile(values: Callable[[Trial], Sequence[float]], q: float) -> Value:
    return lambda subject: stats.percentile(values(subject.trial), q)


def _row(
    name: str,
    label: str,
    unit: str,
    direction: Direction,
    formula: str,
    value: Value,
    source: str = "armbench",
) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit=unit,
        direction=direction,
        formula=formula,
        source=source,
        value=value,
    )


def _quantile_rows(
    name: str,
    label: str,
    formula: str,
    values: Callable[[Trial], Sequence[float]],
    source: str,
) -> list[Metric]:
    marks = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    return [
        _row(f"{name}_{p}_s", f"{label} {p}", "s", "lower", formula, _quantile(values, q), source)
        for p, q in marks.items()
    ]


METRICS: tuple[Metric, ...] = (
    _row(
        "prefill_tok_per_s",
        "prefill",
        "tok/s",
        "higher",
        "input tokens of the batch ÷ (first token − start of prefill)",
        _prefill_rate,
        "llama-bench pp",
    ),
    *_quantile_rows("ttft", "TTFT", "first token − due time", ttfts, "MLPerf LoadGen, wrk2"),
    *_quantile_rows(
        "ttft_from_send", "TTFT from send", "first token − sent", ttfts_from_send, "vLLM, AIPerf"
    ),
    *_quantile_rows(
        "tpot", "TPOT", "(last − first token) ÷ (output tokens − 1), per request", tpots, "MLPerf"
    ),
    *_quantile_rows("itl", "ITL", "gaps between neighbouring output tokens, pooled", itls, "vLLM"),
    *_quantile_rows("latency", "latency", "last token − due time", latencies, "MLPerf LoadGen"),
    _row(
        "decode_tok_per_s",
        "decode",
        "tok/s",
        "higher",
        "(output tokens − 1 each) of the batch ÷ (last − first token)",
        _decode_rate,
        "llama-bench tg",
    ),
    _row(
        "decode_bound_tok_per_s",
        "decode bound",
        "tok/s",
        "none",
        "sequences ÷ the least time of one decode step: bytes of weights and KV cache at the mean "
        "context ÷ read ceiling, or FLOPs ÷ compute ceiling where that is longer",
        _bound(decode_work, reading=True),
        "roofline",
    ),
    _row(
        "mbu",
        "MBU",
        "ratio",
        "higher",
        "bytes of weights and KV cache read by the decode ÷ its time ÷ read ceiling",
        _mbu,
        "Databricks, nanochat",
    ),
    _row(
        "prefill_bound_tok_per_s",
        "prefill bound",
        "tok/s",
        "none",
        "input tokens ÷ the least time of a prefill: FLOPs ÷ compute ceiling of the type it "
        "multiplies in, or weight bytes ÷ read ceiling where that is longer",
        _bound(prefill_work, reading=False),
        "roofline",
    ),
    _row(
        "mfu",
        "MFU",
        "ratio",
        "higher",
        "forward FLOPs of the prefill ÷ its time ÷ compute ceiling of the type it multiplies in",
        _mfu,
        "PaLM, nanochat",
    ),
    _row(
        "arithmetic_intensity",
        "intensity",
        "FLOP/B",
        "none",
        "FLOPs ÷ bytes of weights and KV cache read, of the decode",
        _intensity(decode_work),
        "roofline",
    ),
    _row(
        "prefill_arithmetic_intensity",
        "prefill intensity",
        "FLOP/B",
        "none",
        "FLOPs of the prefill ÷ bytes of weights, read once for each batch",
        _intensity(prefill_work),
        "roofline",
    ),
    _row(
        "output_tok_per_s",
        "output",
        "tok/s",
        "higher",
        "output tokens produced inside the window ÷ window; prefill is inside the window",
        _output_rate,
        "MLPerf Offline",
    ),
    _row(
        "window_s",
        "window",
        "s",
        "none",
        "last token − first due time",
        lambda subject: _window_s(subject.trial),
    ),
    _row(
        "load_s",
        "load",
        "s",
        "lower",
        "time to load the engine, apart from the window",
        lambda subject: subject.trial.load_s,
    ),
    _row("cpu_s", "CPU time", "s", "lower", "user + system time inside the window", _cpu_s),
    _row(
        "peak_rss_bytes",
        "peak RSS",
        "B",
        "lower",
        "largest resident set of the engine process (getrusage)",
        _usage("peak_rss_bytes"),
    ),
    _row(
        "major_faults",
        "major faults",
        "",
        "lower",
        "page faults that read from disk inside the window (getrusage)",
        _usage("major_faults"),
    ),
    _row(
        "minor_faults",
        "minor faults",
        "",
        "lower",
        "page faults without a read inside the window (getrusage)",
        _usage("minor_faults"),
    ),
    _row(
        "involuntary_switches",
        "involuntary switches",
        "",
        "lower",
        "times another task took the CPU inside the window (getrusage)",
        _usage("involuntary_switches"),
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def metric(name: str) -> Metric:
    """The row called `name`. Raises ArmbenchError for one that does not exist."""
    if name not in BY_NAME:
        raise unknown_name("metric", name, BY_NAME)
    return BY_NAME[name]


def valid_trials(trials: Iterable[Trial], case: Case) -> list[Trial]:
    """Trials of `case` that ended and are to be believed."""
    return [t for t in trials if t.case == case.id and t.state == "ok" and not t.invalid]


def summarise(
    trials: Iterable[Trial], case: Case, limits: Bounds | None = None
) -> dict[str, Estimate]:
    """Every metric of `case` over its valid trials; metrics that no trial can tell are left out."""
    chosen = [Subject(trial=t, case=case, bounds=limits) for t in valid_trials(trials, case)]
    summary: dict[str, Estimate] = {}
    for row in METRICS:
        values = [v for subject in chosen if (v := row.value(subject)) is not None]
        if (found := stats.estimate(values, row.unit)) is not None:
            summary[row.name] = found
    return summary


def summaries(result: Result) -> dict[str, dict[str, Estimate]]:
    """Every metric of every case, by case id."""
    return {
        str(case.id): summarise(result.trials, case, bounds.of_case(result, case))
        for case in result.plan.cases
    }
