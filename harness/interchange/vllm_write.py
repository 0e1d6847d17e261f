"""Results as `vllm bench serve` JSON: a document for each valid trial, one a line.

Several documents one after another are what --append-result writes. See `vllm` for what its fields
mean: TTFT and latency count from the send here, and our gaps between chunks (between tokens where
there are no chunks) are its ITL. A percentile that too few requests can tell is left out.
"""

from __future__ import annotations

import datetime
import json
import statistics
from itertools import pairwise
from typing import Any

from harness import stats
from harness.interchange.export import Export
from harness.interchange.vllm import FAMILIES, TOOL
from harness.metrics import Subject, served, valid_trials
from harness.records.run import Case, RequestRecord, Result, Trial

_MARKS = {"p50": "median", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9"}
_DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "queue_times", "errors")


def write(result: Result) -> Export:
    """Every valid trial of `result`."""
    left_out = ["cost, ceilings, placement, conditions, warnings, invalid trials"]
    lines = []
    for case in result.plan.cases:
        for trial in valid_trials(result.trials, case):
            body = document(result, case, trial)
            if "duration" in body or "median_ttft_ms" in body:
                lines.append(json.dumps(body, ensure_ascii=False))
            else:
                left_out.append(
                    f"case {case.id}: neither requests nor the time they took are known"
                )
    return Export(
        text="".join(f"{line}\n" for line in lines), left_out=list(dict.fromkeys(left_out))
    )


def document(result: Result, case: Case, trial: Trial) -> dict[str, Any]:
    """One run."""
    known = dict(trial.extra) if result.origin and result.origin.tool == TOOL else {}
    body = _measured(case, trial) if trial.records else _told(trial)
    detailed = {k: v for k, v in body.items() if k not in known or k in _DETAILS}
    return {**_head(result, case, trial), **known, **detailed}


def _head(result: Result, case: Case, trial: Trial) -> dict[str, Any]:
    serving = case.load.serving
    arrivals = serving.arrivals if serving else None
    concurrency = serving.concurrency if serving else None
    if case.load.kind == "single_stream":
        concurrency = 1
    at = datetime.datetime.fromisoformat(trial.started_at)
    backend = case.variant.options.get("client", case.variant.engine)
    return {
        "date": at.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": backend,
        "backend": backend,
        "label": case.variant.label,
        "model_id": result.model.name,
        "tokenizer_id": result.model.name,
        "num_prompts": case.load.requests or len(trial.records),
        "request_rate": arrivals.rate if arrivals and arrivals.rate else "inf",
        "burstiness": arrivals.burstiness if arrivals else 1.0,
        "max_concurrency": concurrency,
    }


def _measured(case: Case, trial: Trial) -> dict[str, Any]:
    """Lists and summaries from records."""
    subject = Subject(trial=trial, case=case)
    done = subject.good.records
    records = sorted(trial.records, key=lambda r: r.sent_ns)
    into, out = sum(r.input_tokens for r in done), sum(len(r.token_ns) for r in done)
    seconds = served.window_s(subject) or 0.0
    ttfts = [(r.token_ns[0] - r.sent_ns) / 1e9 for r in done]
    latencies = [(r.token_ns[-1] - r.sent_ns) / 1e9 for r in done]
    tpots = [
        (late - first) / (len(r.token_ns) - 1)
        for r, late, first in zip(done, latencies, ttfts, strict=True)
        if len(r.token_ns) > 1
    ]
    found = {
        **_totals(seconds, len(done), len(records) - len(done), into, out),
        "input_lens": [r.input_tokens for r in records],
        "output_lens": [0 if r.error else len(r.token_ns) for r in records],
        "ttfts": [(_instants(r)[0] - r.sent_ns) / 1e9 if _good(r) else 0.0 for r in records],
        "itls": [_gaps(r) if _good(r) else [] for r in records],
        "start_times": [r.sent_ns / 1e9 for r in records],
        "queue_times": [max(0, r.sent_ns - r.due_ns) / 1e9 for r in records],
        "errors": [r.error or "" for r in records],
        "max_concurrent_requests": served.concurrency_peak(subject),
    }
    pooled = [gap for r in done for gap in _gaps(r)]
    for name, values in (("ttft", ttfts), ("tpot", tpots), ("itl", pooled), ("e2el", latencies)):
        found |= _summary(name, values)
    return found


def _good(record: RequestRecord) -> bool:
    return record.error is None and bool(record.token_ns)


def _instants(record: RequestRecord) -> list[int]:
    """The chunks as they came, or the tokens where they are not known."""
    return record.chunk_ns or record.token_ns


def _gaps(record: RequestRecord) -> list[float]:
    return [(b - a) / 1e9 for a, b in pairwise(_instants(record))]


def _totals(seconds: float, done: int, failed: int, into: float, out: float) -> dict[str, Any]:
    rate = 1 / seconds if seconds else 0.0
    return {
        "duration": seconds,
        "completed": done,
        "failed": failed,
        "total_input_tokens": round(into),
        "total_output_tokens": round(out),
        "request_throughput": done * rate,
        "request_goodput": None,
        "output_throughput": out * rate,
        "total_token_throughput": (into + out) * rate,
    }


def _summary(name: str, values: list[float]) -> dict[str, float]:
    """Mean, median, standard deviation and percentiles in milliseconds, as vLLM names them."""
    if not values:
        return {}
    found = {f"mean_{name}_ms": 1e3 * statistics.fmean(values)}
    found[f"std_{name}_ms"] = 1e3 * statistics.pstdev(values)
    for mark, q in (("p50", 0.5), ("p99", 0.99)):
        if (value := stats.percentile(values, q)) is not None:
            found[f"{_MARKS[mark]}_{name}_ms"] = 1e3 * value
    return found


def _told(trial: Trial) -> dict[str, Any]:
    """Summaries of a trial that has figures only."""
    figures = trial.figures
    seconds = figures.get("window_s")
    found: dict[str, Any] = {}
    if seconds:
        done = figures.get("requests_per_s", 0.0) * seconds
        share = figures.get("failed_share", 0.0)
        failed = round(done * share / (1 - share)) if share < 1 else 0
        into, out = (
            figures.get(name, 0.0) * seconds for name in ("input_tok_per_s", "output_tok_per_s")
        )
        found = _totals(seconds, round(done), failed, into, out)
    for ours, theirs in FAMILIES.items():
        for mark, word in _MARKS.items():
            if (value := figures.get(f"{ours}_{mark}_s")) is not None:
                found[f"{word}_{theirs}_ms"] = 1e3 * value
    return found
