"""The metric table: each metric is one row, and every report, comparison and gate walks it.

A metric is computed from stored instants and counts of one trial, in SI units; None means that this
trial cannot tell. `docs` sources: the definitions in README, section Words, which follow MLPerf
LoadGen (latency from the due time) and vLLM and MLPerf (TPOT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from msgspec import Struct

from harness import stats
from harness.errors import unknown_name
from harness.records.run import Case, Estimate, RequestRecord, Trial

Direction = Literal["higher", "lower", "none"]


class Metric(Struct, frozen=True, kw_only=True):
    """One row. `value` takes a trial and its case."""

    name: str
    label: str
    unit: str
    direction: Direction
    formula: str
    source: str
    value: Callable[[Trial, Case], float | None]


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


def _prefill_rate(trial: Trial, _: Case) -> float | None:
    tokens = seconds = 0.0
    for batch in _batches(trial):
        start = batch[0].started_ns
        if start is None:
            return None
        tokens += sum(r.input_tokens for r in batch)
        seconds += (max(r.token_ns[0] for r in batch) - start) / 1e9
    return tokens / seconds if seconds > 0 else None


def _decode_rate(trial: Trial, _: Case) -> float | None:
    tokens = seconds = 0.0
    for batch in _batches(trial):
        tokens += sum(len(r.token_ns) - 1 for r in batch)
        seconds += (max(r.token_ns[-1] for r in batch) - min(r.token_ns[0] for r in batch)) / 1e9
    return tokens / seconds if tokens and seconds > 0 else None


def _output_rate(trial: Trial, _: Case) -> float | None:
    window = _window_s(trial)
    if window is None or trial.window_ns is None:
        return None
    start, end = trial.window_ns
    produced = sum(start < t <= end for r in trial.records for t in r.token_ns)
    return produced / window


def _usage(field: str) -> Callable[[Trial, Case], float | None]:
    def value(trial: Trial, _: Case) -> float | None:
        return None if trial.usage is None else float(getattr(trial.usage, field))

    return value


def _cpu_s(trial: Trial, _: Case) -> float | None:
    return None if trial.usage is None else trial.usage.user_s + trial.usage.system_s


def _quantile(
    values: Callable[[Trial], Sequence[float]], q: float
) -> Callable[[Trial, Case], float | None]:
    return lambda trial, _: stats.percentile(values(trial), q)


def _row(
    name: str,
    label: str,
    unit: str,
    direction: Direction,
    formula: str,
    value: Callable[[Trial, Case], float | None],
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
        lambda trial, _: _window_s(trial),
    ),
    _row(
        "load_s",
        "load",
        "s",
        "lower",
        "time to load the engine, apart from the window",
        lambda trial, _: trial.load_s,
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


def summarise(trials: Iterable[Trial], case: Case) -> dict[str, Estimate]:
    """Every metric of `case` over its valid trials; metrics that no trial can tell are left out."""
    chosen = valid_trials(trials, case)
    summary: dict[str, Estimate] = {}
    for row in METRICS:
        values = [v for t in chosen if (v := row.value(t, case)) is not None]
        if (found := stats.estimate(values, row.unit)) is not None:
            summary[row.name] = found
    return summary
