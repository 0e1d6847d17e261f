"""AIPerf's profile_export_aiperf.json (summaries) and profile_export.jsonl (requests), read.

Source: ai-dynamo/aiperf, docs/reference/json-export-schema.md (schema 1.5), the metric classes in
metrics/types and common/models/record_models.py at v0.1.1. `unit` says what a value is in.

By definition, not by name: `inter_token_latency` is (request latency − TTFT) ÷ (output tokens − 1)
of a request, our TPOT; `inter_chunk_latency` is our ICL; `time_to_first_token` and
`request_latency` count from the send. `credit_issued_ns` (newer files) is when the schedule or a
free slot let a request go: the due time. The summaries name the model and the load, so requests
alone need them beside, or --model.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.errors import ArmbenchError
from harness.interchange import streams
from harness.interchange.assemble import Row, Source, Told, blank_trial, model_named
from harness.interchange.foreign import Fields, ForeignFile, kept, number
from harness.interchange.streams import ZERO_NS, Budget
from harness.records.load import Arrivals, HttpSeen
from harness.records.run import LoadPoint, RequestRecord, Trial, Variant

TOOL = "aiperf"
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0}
_RATES = {
    "requests_per_s": "request_throughput",
    "output_tok_per_s": "output_token_throughput",
    "total_tok_per_s": "total_token_throughput",
}
_PROCESSES: dict[str, Literal["constant", "poisson", "gamma"]] = {
    "constant": "constant",
    "poisson": "poisson",
    "gamma": "gamma",
}
_LONGEST_NS = 10**16


def is_summary(value: Any) -> bool:
    """Whether a JSON object is profile_export_aiperf.json."""
    if not isinstance(value, dict):
        return False
    block = value.get("request_throughput", value.get("request_latency"))
    return isinstance(block, dict) and "unit" in block


def is_record(value: Any) -> bool:
    """Whether a JSON object is a line of profile_export.jsonl."""
    told = value.get("metadata") if isinstance(value, dict) else None
    return isinstance(told, dict) and "request_start_ns" in told and "metrics" in value


def read(files: Sequence[ForeignFile], form: str, told: Told) -> Source:
    """Every run: its requests with the summary that lies in the same folder, or either alone.

    Raises ArmbenchError, with the file, where one is not as AIPerf writes it.
    """
    summaries: dict[Path, list[Fields]] = {}
    requests: dict[Path, list[Any]] = {}
    for file in files:
        values = file.documents
        if is_record(values[0]):
            requests.setdefault(file.folder, []).extend(values)
        else:
            found = [Fields(v, file.name) for v in values]
            summaries.setdefault(file.folder, []).extend(found)
    rows: list[Row] = []
    versions: dict[str, None] = {}
    seeds: set[int | None] = set()
    budget = Budget()
    for folder in {**summaries, **requests}:
        own, lines = summaries.get(folder, []), requests.get(folder, [])
        if lines and len(own) > 1:
            raise ArmbenchError(
                f"{folder.name} has {len(own)} summaries beside one list of requests",
                hint="keep each run in a folder of its own, or give its summary alone",
            )
        for summary in own or [Fields({}, folder.name)]:
            versions |= dict.fromkeys(filter(None, [summary.text("aiperf_version")]))
            seeds.add(summary.inner("run_info").count("random_seed"))
            rows.append(_row(summary, lines, told, budget))
    version = ", ".join(versions) or None
    return Source(
        tool=TOOL,
        format=form,
        rows=rows,
        version=version,
        seed=seeds.pop() if len(seeds) == 1 else None,
        software={TOOL: version} if version else {},
    )


def _row(summary: Fields, lines: list[Any], told: Told, budget: Budget) -> Row:
    config = summary.get("input_config")
    names = _find(config, ("model_names", "models", "model"))
    name = names[0] if isinstance(names, list) and names else names
    if isinstance(name, dict):
        name = name.get("name")
    name = told.model or (name if isinstance(name, str) and name else None)
    if name is None:
        raise ArmbenchError(
            f"{summary.where} names no model",
            hint="give profile_export_aiperf.json of the same run too, or --model NAME",
        )
    trial = blank_trial()
    profiled = [_line(v, i, summary.where) for i, v in enumerate(lines)]
    load = _load(summary, config, profiled)
    if lines:
        _fill(trial, load, profiled, budget)
    else:
        trial.figures = _figures(summary, load)
    if not trial.figures and not any(r.error is None for r in trial.records):
        trial.state, trial.reason = "failed", "no request succeeded"
    trial.extra = kept(summary.raw)
    return Row(
        model=model_named(name, told),
        variant=Variant(
            engine=streams.ENDPOINT, dtype=None, threads=None, options={"client": TOOL}
        ),
        load=load,
        trial=trial,
        at=_time(summary, profiled),
    )


def _find(value: Any, keys: Iterable[str], depth: int = 0) -> Any:
    """The first value under one of `keys`, wherever a configuration has it; None without one."""
    if isinstance(value, dict) and depth < 8:
        for key in keys:
            if value.get(key) not in (None, [], ""):
                return value[key]
        inner = (_find(v, keys, depth + 1) for v in value.values())
        return next((v for v in inner if v is not None), None)
    if isinstance(value, list) and depth < 8:
        inner = (_find(v, keys, depth + 1) for v in value[:100])
        return next((v for v in inner if v is not None), None)
    return None


def _time(summary: Fields, profiled: list[Fields]) -> datetime.datetime | None:
    text = summary.text("start_time")
    if text is not None:
        try:
            return datetime.datetime.fromisoformat(text)
        except ValueError as error:
            raise summary.fault("start_time", text, "a date and time") from error
    starts = [r.inner("metadata").need_count("request_start_ns", 1 << 62) for r in profiled]
    return datetime.datetime.fromtimestamp(min(starts) / 1e9, datetime.UTC) if starts else None


def _load(summary: Fields, config: Any, lines: list[Fields]) -> LoadPoint:
    rate, concurrency = number(_find(config, ("request_rate",))), _find(config, ("concurrency",))
    mode = _find(config, ("request_rate_mode", "arrival_pattern"))
    arrivals = None
    if rate is not None and rate > 0:
        process = _PROCESSES.get(str(mode).lower(), "poisson")
        arrivals = Arrivals(process=process, rate=rate)
    count = number(concurrency)
    if arrivals is None and count is None:  # a schedule of its own, or not told
        arrivals = Arrivals(process="trace")
    done = [r.inner("metrics") for r in lines if r.raw.get("error") is None]
    into = [v for r in done if (v := _value(r, "input_sequence_length")) is not None]
    out = [v for r in done if (v := _value(r, "output_sequence_length")) is not None]
    if not lines:
        into = _average(summary, "input_sequence_length")
        out = _average(summary, "output_sequence_length")
    counted = [*_average(summary, "request_count"), *_average(summary, "error_request_count")]
    return streams.load_point(
        concurrency=int(count) if count is not None and 0 < count < 1 << 31 else None,
        arrivals=arrivals,
        requests=len(lines) or int(sum(counted)),
        input_tokens=into,
        output_tokens=out,
    )


def _average(summary: Fields, name: str) -> list[float]:
    value = Fields(summary.raw.get(name) or {}, f"{summary.where}: {name}").number("avg")
    return [] if value is None or value > 1e12 else [value]


def _value(metrics: Fields, name: str) -> float | None:
    """A plain value of one request."""
    value = metrics.inner(name).number("value")
    return None if value is None or value > 1e12 else value


def _seconds(metrics: Fields, name: str) -> list[float]:
    """Times of one request in seconds: one, or each of a list."""
    block = metrics.inner(name)
    value = block.get("value")
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    unit = _SECONDS.get(block.text("unit") or "")
    found = [number(v) for v in values]
    if unit is None or any(v is None or not 0 <= v * unit <= streams.LONGEST_S for v in found):
        raise ArmbenchError(f"{metrics.where} has a {name} that is no time")
    return [v * unit for v in found if v is not None]


def _line(value: Any, index: int, where: str) -> Fields:
    fields = Fields(value, f"{where} request {index + 1}")
    fields.inner("metadata").need_count("request_start_ns", 1 << 62)
    return fields


def _fill(trial: Trial, load: LoadPoint, lines: list[Fields], budget: Budget) -> None:
    """Every request as a record; those of the warm-up phase apart."""
    told = [r.inner("metadata") for r in lines]
    claimed = [_value(r.inner("metrics"), "output_sequence_length") or 0 for r in lines]
    if max(claimed) > streams.MAX_TOKENS:
        raise ArmbenchError(f"{lines[0].where} and others: a request of {max(claimed):g} tokens")
    budget.take(sum(claimed), lines[0].where)
    issued = [m.count("credit_issued_ns", 1 << 62) for m in told]
    starts = [m.need_count("request_start_ns", 1 << 62) for m in told]
    first = min([*starts, *(at for at in issued if at)])
    if max(starts) - first > _LONGEST_NS:
        raise ArmbenchError("AIPerf's requests were sent more than 100 days apart")
    for i, fields in enumerate(lines):
        sent = ZERO_NS + starts[i] - first
        due = issued[i]
        record = RequestRecord(
            id=i,
            slot=0,
            due_ns=sent if due is None else min(sent, ZERO_NS + due - first),
            sent_ns=sent,
            input_tokens=0,
            http=HttpSeen(),
        )
        _answer(record, fields)
        warm = told[i].text("benchmark_phase") == "warmup"
        (trial.warmup if warm else trial.records).append(record)
    ends = [t for r in trial.records for t in (r.sent_ns, *r.token_ns[-1:])]
    if ends:
        trial.window_ns = (min(r.sent_ns for r in trial.records), max(ends) + 1)
    _mark(trial)
    if load.kind == "open" and any(at is None for at in issued):
        streams.mark_sent_only(trial)


def _mark(trial: Trial) -> None:
    """Say what the records can't tell: tokens laid evenly, answers in one piece."""
    streams.mark_spread(trial, [r for r in trial.records if r.chunk_ns])
    if any(r.token_ns and r.http and not r.chunk_ns for r in trial.records):
        trial.unknown |= dict.fromkeys(streams.BETWEEN_TOKENS, streams.SPREAD)


def _answer(record: RequestRecord, fields: Fields) -> None:
    metrics, error = fields.inner("metrics"), fields.get("error")
    record.input_tokens = int(_value(metrics, "input_sequence_length") or 0)
    tokens = int(_value(metrics, "output_sequence_length") or 0)
    ttft, latency = _seconds(metrics, "time_to_first_token"), _seconds(metrics, "request_latency")
    if error is not None or not tokens or not latency:
        message = error.get("message") or error.get("type") if isinstance(error, dict) else error
        record.error, record.finish = str(message or "no output")[:300], "error"
        return
    gaps = _seconds(metrics, "inter_chunk_latency")
    if sum(gaps) > streams.LONGEST_S:
        raise ArmbenchError(f"{fields.where} took {sum(gaps):g} s between its chunks")
    last = record.sent_ns + round(latency[0] * 1e9)
    first = min(last, record.sent_ns + round(ttft[0] * 1e9)) if ttft else last
    assert record.http is not None
    record.http.usage_output = tokens
    chunks = [first]
    for gap in gaps:
        chunks.append(chunks[-1] + round(gap * 1e9))
    if gaps or not ttft:
        record.http.chunk_ns, record.http.tokens_by = chunks, "usage"
    else:
        chunks = [first, last]
    record.token_ns = streams.token_instants(chunks, tokens)


def _figures(summary: Fields, load: LoadPoint) -> dict[str, float]:
    """AIPerf's summaries that mean what ours do."""
    done = int(sum(_average(summary, "request_count")))
    failed = int(sum(_average(summary, "error_request_count")))
    found: dict[str, float] = {}
    for ours, theirs in _RATES.items():
        for value in _average(summary, theirs):
            found[ours] = value
    if done + failed:
        found["failed_share"] = failed / (done + failed)
    families = {
        "ttft_from_send": "time_to_first_token",
        "tpot": "inter_token_latency",
        "icl": "inter_chunk_latency",
    }
    if load.kind == "closed":
        families |= {"ttft": "time_to_first_token", "latency": "request_latency"}
    for ours, theirs in families.items():
        block = Fields(summary.raw.get(theirs) or {}, f"{summary.where}: {theirs}")
        unit = _SECONDS.get(block.text("unit") or "")
        if unit is None and block.raw:
            raise ArmbenchError(f"{block.where} has no unit of time")
        values = {mark: block.number(mark) for mark in ("p50", "p90", "p95", "p99")}
        found |= streams.percentiles(ours, values, done, unit or 1.0)
    return found if done else {}
