"""`vllm bench serve` JSON, read: one document for each run, or several (--append-result).

Source: vLLM, vllm/benchmarks/serve.py, read at commit 009e6d4a. Times of requests are in seconds,
summaries in milliseconds. `ttfts` and `latencies` count from the send; `itls` are the gaps between
stream chunks, which is our ICL; `tpot` is (latency − TTFT) ÷ (output tokens − 1), ours too.
`queue_times` (newer files) are the wait for a slot under --max-concurrency before the send. Without
--save-detailed a file has summaries only.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from harness.errors import ArmbenchError
from harness.interchange import streams
from harness.interchange.assemble import Row, Source, Told, blank_trial, model_named
from harness.interchange.foreign import Fields, ForeignFile, number
from harness.interchange.streams import ZERO_NS, Budget
from harness.records.load import Arrivals, HttpSeen
from harness.records.run import LoadPoint, RequestRecord, Trial, Variant

TOOL = "vllm bench serve"
# What a run has of each request.
LISTS = (
    *("input_lens", "output_lens", "ttfts", "itls", "start_times", "queue_times", "latencies"),
    *("generated_texts", "errors"),
)
_SUMMARIES_ONLY = (
    "a run has lists of requests without the time each was sent: its summaries are taken instead"
)
_AT_ONCE = 0.1  # of a run: what a client needs at most to send all that is due at its start
# vLLM's summaries by our family of metrics; E2EL counts from the send, see `_figures`.
FAMILIES = {"ttft_from_send": "ttft", "tpot": "tpot", "icl": "itl"}
_MARKS = {"p50": ("median_{}_ms", "p50_{}_ms"), "p90": ("p90_{}_ms",), "p95": ("p95_{}_ms",)} | {
    "p99": ("p99_{}_ms",),
    "p999": ("p99.9_{}_ms",),
}


def is_run(value: Any) -> bool:
    """Whether a JSON object is a run of `vllm bench serve` (or of benchmark_serving.py before)."""
    return (
        isinstance(value, dict)
        and {"completed", "duration", "total_input_tokens"} <= set(value)
        and isinstance(value.get("request_throughput"), int | float)
    )


def read(files: Sequence[ForeignFile], form: str, told: Told) -> Source:
    """Every run of `files`.

    Raises ArmbenchError, with file and run, where one is not as vLLM writes it.
    """
    rows = []
    notes = ["the client was vLLM's: nothing is known of how busy it was"]
    budget = Budget()
    for file in files:
        for index, value in enumerate(file.documents):
            fields = Fields(value, f"{file.name} run {index + 1}")
            rows.append(_row(fields, told, budget))
            if fields.raw.get("ttfts") and not _detailed(fields) and len(notes) == 1:
                notes.append(_SUMMARIES_ONLY)
    return Source(tool=TOOL, format=form, rows=rows, notes=notes)


def _row(fields: Fields, told: Told, budget: Budget) -> Row:
    if fields.get("total_output_tokens") is None:
        raise ArmbenchError(f"{fields.where} generated nothing: a run of an embedding model")
    name = fields.text("model_id") or told.model
    if name is None:
        raise ArmbenchError(f"{fields.where} names no model", hint="give its name with --model")
    trial = blank_trial()
    completed = fields.need_count("completed")
    load = _load(fields, completed)
    if _detailed(fields):
        _records(fields, load, trial, budget)
    _figures(fields, load, trial, completed)
    if not completed:
        trial.state, trial.reason = "failed", "no request succeeded"
    at = _time(fields)
    options = {"client": fields.text("backend") or fields.text("endpoint_type")}
    for key in ("endpoint_type", *LISTS):  # the client again; what is in records, or in no record
        fields.get(key)
    trial.extra = fields.rest()
    return Row(
        model=model_named(name, told),
        variant=Variant(
            engine=streams.ENDPOINT,
            dtype=None,
            threads=None,
            options={k: v for k, v in options.items() if v},
        ),
        load=load,
        trial=trial,
        at=at,
    )


def _time(fields: Fields) -> datetime.datetime | None:
    """The client's local time without a zone, taken as UTC."""
    text = fields.text("date")
    if text is None:
        return None
    try:
        return datetime.datetime.strptime(text, "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
    except ValueError as error:
        raise fields.fault("date", text, "a time like 20260131-101500") from error


def _load(fields: Fields, completed: int) -> LoadPoint:
    """Open at a rate or as a trace, closed at a concurrency without one, else all at once."""
    arrivals = _arrivals(fields)
    concurrency = fields.count("max_concurrency", 1 << 31) or None
    if arrivals is None and concurrency is None and _arrived_over_time(fields):
        arrivals = Arrivals(process="trace")
    into = _numbers(fields, "input_lens") or _each(fields.need("total_input_tokens"), completed)
    out = _numbers(fields, "output_lens") or _each(fields.need("total_output_tokens"), completed)
    return streams.load_point(
        concurrency=concurrency,
        arrivals=arrivals,
        requests=fields.count("num_prompts", 1 << 31) or completed,
        input_tokens=into,
        output_tokens=[n for n in out if n] or out,
        everything_at_once=concurrency is None,
    )


def _arrived_over_time(fields: Fields) -> bool:
    """Whether requests came one after another though no rate is told: a timed trace."""
    if not _detailed(fields):
        return False
    came, queues = _numbers(fields, "start_times"), _numbers(fields, "queue_times")
    if len(queues) == len(came):
        came = [start - queued for start, queued in zip(came, queues, strict=True)]
    return max(came) - min(came) > _AT_ONCE * fields.need("duration")


def _arrivals(fields: Fields) -> Arrivals | None:
    """When requests were sent, where not all at once: a gamma process is constant at infinity."""
    rate, burstiness = fields.get("request_rate"), fields.get("burstiness")
    start, end = fields.number("ramp_up_start_rps"), fields.number("ramp_up_end_rps")
    if start is not None and end is not None:
        return Arrivals(process="ramp", rate=start, rate_end=end)
    if rate is None or str(rate).lower() in ("inf", "infinity"):
        return None
    found = number(rate)
    if found is None or found <= 0:
        raise fields.fault("request_rate", rate, "a rate or inf")
    if str(burstiness).lower() in ("inf", "infinity"):
        return Arrivals(process="constant", rate=found)
    shape = fields.number("burstiness")
    if shape in (None, 1.0):
        return Arrivals(process="poisson", rate=found)
    return Arrivals(process="gamma", rate=found, burstiness=shape or 1.0)


def _each(total: float, completed: int) -> list[float]:
    return [total / completed] if completed else []


def _numbers(fields: Fields, key: str, most: float = 1e12) -> list[float]:
    values = fields.items(key)
    found = [number(v) for v in values]
    if any(v is None or not 0 <= v <= most for v in found):
        raise fields.fault(key, values[:3], "numbers that are not negative")
    return [v for v in found if v is not None]


def _detailed(fields: Fields) -> bool:
    """Whether every request is there with its times (--save-detailed)."""
    return all(fields.raw.get(k) for k in ("ttfts", "itls", "output_lens", "start_times"))


def _records(fields: Fields, load: LoadPoint, trial: Trial, budget: Budget) -> None:
    """Every request as a record, and the window they were sent in."""
    starts, ttfts = _numbers(fields, "start_times"), _numbers(fields, "ttfts", streams.LONGEST_S)
    into, out = _numbers(fields, "input_lens"), _numbers(fields, "output_lens")
    queues, gaps, errors = (
        _numbers(fields, "queue_times", streams.LONGEST_S),
        fields.items("itls"),
        fields.items("errors"),
    )
    count = len(starts)
    if {len(ttfts), len(into), len(out), len(gaps)} != {count}:
        raise ArmbenchError(f"{fields.where} has lists of unequal lengths")
    if max(out) > streams.MAX_TOKENS:
        raise fields.fault("output_lens", max(out), f"up to {streams.MAX_TOKENS} tokens a request")
    budget.take(sum(out), fields.where)
    first = min(starts)
    if max(starts) - first > streams.LONGEST_S:
        raise ArmbenchError(f"{fields.where} has start_times more than 100 days apart")
    for i in range(count):
        sent = ZERO_NS + round((starts[i] - first) * 1e9)
        error = errors[i] if i < len(errors) else None
        record = RequestRecord(
            id=i,
            slot=0,
            due_ns=_due(load, sent, queues[i] if len(queues) == count else None),
            sent_ns=sent,
            input_tokens=int(into[i]),
            http=HttpSeen(),
        )
        if error or not out[i]:
            record.error, record.finish = str(error or "no output")[:300], "error"
        else:
            _answer(record, ttfts[i], gaps[i], int(out[i]), fields)
        trial.records.append(record)
    seconds = fields.need("duration")
    if seconds > streams.LONGEST_S:
        raise fields.fault("duration", seconds, f"up to {streams.LONGEST_S:g} s")
    last = max((r.token_ns[-1] for r in trial.records if r.token_ns), default=ZERO_NS)
    trial.window_ns = (ZERO_NS, max(ZERO_NS + round(seconds * 1e9), last + 1))
    streams.mark_spread(trial, trial.records)
    if load.kind == "open" and len(queues) != count:
        streams.mark_sent_only(trial)


def _due(load: LoadPoint, sent: int, queued: float | None) -> int:
    """In an open loop the arrival before the wait for a slot; in a closed one the slot itself.

    With everything at once, all was due when the first was sent.
    """
    if load.kind == "offline":
        return ZERO_NS
    return sent - round(queued * 1e9) if load.kind == "open" and queued else sent


def _answer(record: RequestRecord, ttft: float, gaps: Any, tokens: int, fields: Fields) -> None:
    if not isinstance(gaps, list):
        raise fields.fault("itls", gaps, "a list for each request")
    at = record.sent_ns + round(ttft * 1e9)
    chunks, total = [at], 0.0
    for gap in gaps:
        seconds = number(gap)
        if seconds is None or seconds < 0:
            raise fields.fault("itls", gap, "gaps in seconds")
        total += seconds
        if total > streams.LONGEST_S:
            raise fields.fault("itls", gap, f"gaps of {streams.LONGEST_S:g} s together at most")
        chunks.append(at + round(total * 1e9))
    record.token_ns = streams.token_instants(chunks, tokens)
    even = len(chunks) == tokens
    assert record.http is not None
    record.http.chunk_ns, record.http.usage_output = chunks, tokens
    record.http.tokens_by = "chunks" if even else "usage"
    record.http.chunk_tokens = [1] * tokens if even else []


def _figures(fields: Fields, load: LoadPoint, trial: Trial, completed: int) -> None:
    """The summaries of vLLM itself, where there are no records to compute ours from."""
    seconds, failed = fields.need("duration"), fields.count("failed")
    if failed is None:  # older files
        failed = max(0, load.requests - completed)
    into, out = fields.need("total_input_tokens"), fields.need("total_output_tokens")
    told: dict[str, float] = {}
    if seconds > 0:
        told = {
            "requests_per_s": completed / seconds,
            "output_tok_per_s": out / seconds,
            "input_tok_per_s": into / seconds,
            "total_tok_per_s": (into + out) / seconds,
            "window_s": seconds,
        }
    if completed + failed:
        told["failed_share"] = failed / (completed + failed)
    closed = {"ttft": "ttft", "latency": "e2el"} if load.kind == "closed" else {}
    for ours, theirs in (FAMILIES | closed).items():
        told |= streams.percentiles(ours, _summary(fields, theirs), completed, 1e-3)
    if not trial.records:
        trial.figures = told


def _summary(fields: Fields, name: str) -> dict[str, float | None]:
    """Percentiles of one family, in milliseconds."""
    found: dict[str, float | None] = {}
    for mark, keys in _MARKS.items():
        values = [fields.raw.get(k.format(name)) for k in keys]
        found[mark] = next((v for v in map(number, values) if v is not None), None)
    return found
