"""Results as `vllm bench serve` JSON: a document for each valid trial, one a line.

Several documents one after another are what --append-result writes. See `vllm` for what its fields
mean: TTFT and latency count from the send here, and our gaps between chunks (between tokens where
there are no chunks) are its ITL. A run lasts from its first request to its last token, so that
totals, rates and lists fit: tokens after our window, which the load drained, count here. A
percentile that too few requests can tell is left out.
"""

from __future__ import annotations

import datetime
import json
import statistics
from itertools import pairwise
from typing import Any

from harness import stats
from harness.interchange.export import Export
from harness.interchange.vllm import FAMILIES, LISTS, TOOL
from harness.load.slo import succeeded
from harness.metrics import Subject, served, valid_trials
from harness.records.load import Arrivals
from harness.records.run import Case, RequestRecord, Result, Trial
from harness.units import NS_PER_S

_MARKS = {"p50": "median", "p90": "p90", "p95": "p95", "p99": "p99", "p999": "p99.9"}


def write(result: Result) -> Export:
    """Every valid trial of `result`."""
    left_out = ["cost, ceilings, placement, conditions, warnings, invalid trials"]
    lines = []
    for case in result.plan.cases:
        for trial in valid_trials(result.trials, case):
            body = document(result, case, trial)
            left_out += _lacking(case, trial)
            if "duration" in body or "median_ttft_ms" in body:
                lines.append(json.dumps(body, ensure_ascii=False))
            else:
                left_out.append(
                    f"case {case.id}: neither requests nor the time they took are known"
                )
    return Export(
        text="".join(f"{line}\n" for line in lines), left_out=list(dict.fromkeys(left_out))
    )


def _lacking(case: Case, trial: Trial) -> list[str]:
    """What the document of a trial has not, though vLLM's may."""
    arrivals = _arrivals(case)
    found = []
    if arrivals is not None and arrivals.process == "trace":
        found.append(f"case {case.id}: its trace; when requests came is in start_times only")
    if not trial.records:
        found.append(f"case {case.id}: lists of requests, of which only summaries are known")
    return found


def document(result: Result, case: Case, trial: Trial) -> dict[str, Any]:
    """One run."""
    own = result.origin is not None and result.origin.tool == TOOL
    known = {k: v for k, v in trial.extra.items() if k not in LISTS} if own else {}
    body = _measured(case, trial, own) if trial.records else _told(trial)
    return {**_head(result, case, trial), **body, **known}


def _arrivals(case: Case) -> Arrivals | None:
    return case.load.serving.arrivals if case.load.serving else None


def _traffic(case: Case) -> dict[str, Any]:
    """When vLLM would send: its `inf` is everything at once, or gaps that are all the same."""
    arrivals = _arrivals(case)
    if arrivals is None or arrivals.process == "trace":
        return {"request_rate": "inf", "burstiness": 1.0}
    if arrivals.process == "ramp":
        return {
            "request_rate": "inf",
            "burstiness": arrivals.burstiness,
            "ramp_up_strategy": "linear",
            "ramp_up_start_rps": arrivals.rate,
            "ramp_up_end_rps": arrivals.rate_end,
        }
    even = arrivals.process == "constant"
    return {"request_rate": arrivals.rate, "burstiness": "inf" if even else arrivals.burstiness}


def _concurrency(case: Case, trial: Trial) -> int | None:
    """The most requests at once; None where all were sent when they were due."""
    if case.load.serving is not None:
        return case.load.serving.concurrency
    at_once = case.load.batch * case.variant.instances
    one_batch = case.load.kind == "offline" and len(trial.records) <= at_once
    return None if one_batch else at_once


def _head(result: Result, case: Case, trial: Trial) -> dict[str, Any]:
    at = datetime.datetime.fromisoformat(trial.started_at)
    backend = case.variant.options.get("client", case.variant.engine)
    return {
        "date": at.strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": backend,
        "backend": backend,
        "label": case.variant.label,
        "model_id": result.model.name,
        "tokenizer_id": result.model.name,
        "num_prompts": len(trial.records) or case.load.requests,
        **_traffic(case),
        "max_concurrency": _concurrency(case, trial),
    }


def _measured(case: Case, trial: Trial, own: bool) -> dict[str, Any]:
    """Lists and summaries from records; the window of a trial of vLLM's `own` is its duration."""
    subject = Subject(trial=trial, case=case)
    records = sorted(trial.records, key=_start_ns)
    done = [r for r in records if succeeded(r)]
    into, out = sum(r.input_tokens for r in done), sum(len(r.token_ns) for r in done)
    seconds = served.window_s(subject) if own else _lasted_s(records)
    ttfts = [(r.token_ns[0] - r.sent_ns) / 1e9 for r in done]
    latencies = [(r.token_ns[-1] - r.sent_ns) / 1e9 for r in done]
    tpots = [
        (late - first) / (len(r.token_ns) - 1)
        for r, late, first in zip(done, latencies, ttfts, strict=True)
        if len(r.token_ns) > 1
    ]
    found = {
        **_totals(seconds or 0.0, len(done), len(records) - len(done), into, out),
        "input_lens": [r.input_tokens for r in records],
        "output_lens": [len(r.token_ns) if succeeded(r) else 0 for r in records],
        "ttfts": [(_instants(r)[0] - r.sent_ns) / 1e9 if succeeded(r) else 0.0 for r in records],
        "itls": [_gaps(r) if succeeded(r) else [] for r in records],
        "start_times": [_start_ns(r) / 1e9 for r in records],
        "queue_times": [max(0, r.sent_ns - r.due_ns) / 1e9 for r in records],
        "errors": ["" if succeeded(r) else _error(r) for r in records],
        "max_concurrent_requests": served.concurrency_peak(subject),
    }
    pooled = [gap for r in done for gap in _gaps(r)]
    for name, values in (("ttft", ttfts), ("tpot", tpots), ("itl", pooled), ("e2el", latencies)):
        found |= _summary(name, values)
    return found


def _start_ns(record: RequestRecord) -> int:
    """When it was sent, or should have been where it never was."""
    return record.sent_ns or record.due_ns


def _lasted_s(records: list[RequestRecord]) -> float:
    """From the first request to the last token of all."""
    ends = [r.token_ns[-1] for r in records if r.token_ns]
    first = min(map(_start_ns, records))
    return (max(ends, default=first) - first) / NS_PER_S


def _error(record: RequestRecord) -> str:
    """Why it failed: vLLM knows success or an error, so a request that was cut off is one."""
    return record.error or (record.finish if record.token_ns else "no output")


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
