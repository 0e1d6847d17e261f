"""GuideLLM's report (benchmarks.json), read: one benchmark is one load point.

Source: vllm-project/guidellm, src/guidellm/benchmark/schemas and schemas/request_stats.py, at
v0.6.0 (report version 1) and v0.7.3 (version 2); v0.3.0 wrote flat requests. Timestamps are seconds
since the epoch, metrics in milliseconds but for `request_latency`.

By definition, not by name: `inter_token_latency_ms` of a request is our TPOT, but its distribution
counts a request once for each token; `time_per_output_token_ms` holds the first token from v0.4 on
and divides by all tokens; `request_latency` ends with the answer, not with its last token. So ours
are computed from each request's instants (first and last token), and the summaries are used only
where a file keeps no requests. Between first and last token a file has no instants.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from harness.errors import ArmbenchError
from harness.interchange import streams
from harness.interchange.assemble import Row, Source, Told, blank_trial, model_named
from harness.interchange.foreign import Fields, ForeignFile, kept
from harness.interchange.streams import ZERO_NS, Budget
from harness.records.load import Arrivals, HttpSeen
from harness.records.run import LoadPoint, RequestRecord, Trial, Variant

TOOL = "guidellm"
UNFINISHED = "not ended when the load stopped"
_STATES = ("successful", "errored", "incomplete")


def is_report(value: Any) -> bool:
    """Whether a JSON object is a GuideLLM report."""
    runs = value.get("benchmarks") if isinstance(value, dict) else None
    return (
        isinstance(runs, list)
        and bool(runs)
        and isinstance(runs[0], dict)
        and isinstance(runs[0].get("metrics"), dict)
        and "requests" in runs[0]
    )


def read(files: Sequence[ForeignFile], form: str, told: Told) -> Source:
    """Every benchmark of every report.

    Raises ArmbenchError, with file and benchmark, where one is not as GuideLLM writes it.
    """
    rows: list[Row] = []
    versions: dict[str, None] = {}
    seeds: set[int | None] = set()
    budget = Budget()
    for file in files:
        for report in file.documents:
            top = Fields(report, file.name)
            about, args = top.inner("metadata"), top.inner("args")
            versions |= dict.fromkeys(filter(None, [about.text("guidellm_version")]))
            seeds.add(args.count("random_seed"))
            for index, value in enumerate(top.items("benchmarks")):
                fields = Fields(value, f"{file.name} benchmark {index + 1}")
                rows.append(_row(fields, told, budget))
    version = ", ".join(versions) or None
    return Source(
        tool=TOOL,
        format=form,
        rows=rows,
        version=version,
        seed=seeds.pop() if len(seeds) == 1 else None,
        software={TOOL: version} if version else {},
        notes=["tokens between a request's first and last have no instants in GuideLLM's file"],
    )


def _row(fields: Fields, told: Told, budget: Budget) -> Row:
    config = fields.inner("config" if fields.raw.get("config") else "args")
    name = told.model or _model(fields, config)
    if name is None:
        raise ArmbenchError(f"{fields.where} names no model", hint="give its name with --model")
    trial = blank_trial()
    requests = list(_requests(fields.inner("requests")))
    if len(requests) == _made(fields, len(requests)):
        load = _load(config, fields, requests)
        budget.take(sum(r.output_tokens for r in requests), fields.where)
        if load.kind == "closed" and _strategy(config) == "throughput":
            # It aims every request at the benchmark's start; they were due as slots became free.
            requests = [r._replace(due=None) for r in requests]
        base = min((r.sent for r in requests), default=0.0)
        _fill(trial, load, requests, _Window.of(fields), base)
    else:
        load = _load(config, fields, [])
    figures = _figures(fields, load)
    trial.figures = {
        k: v for k, v in figures.items() if not trial.records or k.startswith("ttfot_")
    }
    if not any(r.state == "successful" for r in requests) and not figures:
        trial.state, trial.reason = "failed", "no request succeeded"
    trial.extra = kept({k: v for k, v in fields.raw.items() if k != "requests"})
    start = fields.number("start_time") or 0.0
    return Row(
        model=model_named(name, told),
        variant=Variant(
            engine=streams.ENDPOINT, dtype=None, threads=None, options={"client": TOOL}
        ),
        load=load,
        trial=trial,
        at=datetime.datetime.fromtimestamp(min(start, 4e9), datetime.UTC) if start > 0 else None,
    )


def _model(fields: Fields, config: Fields) -> str | None:
    return config.inner("backend").text("model") or fields.inner("worker").text("backend_model")


def _made(fields: Fields, known: int) -> int:
    """Requests that were made; a report may keep a sample of them or none."""
    states = fields.inner("scheduler_metrics") if "scheduler_metrics" in fields.raw else None
    made = (states or fields.inner("run_stats")).inner("requests_made")
    total = made.count("total")
    return known if total is None else total


class _Request(NamedTuple):
    """One request with its instants in seconds since the epoch; None where not told."""

    state: str
    due: float | None
    sent: float
    first: float | None
    last: float | None
    input_tokens: int
    output_tokens: int
    cached: int | None
    error: str | None


def _requests(lists: Fields) -> Iterator[_Request]:
    for state in _STATES:
        for index, value in enumerate(lists.items(state)):
            fields = Fields(value, f"{lists.where}: {state} {index + 1}")
            yield _request(fields, state)


def _request(fields: Fields, state: str) -> _Request:
    info = fields.inner("info")
    flat = "info" not in fields.raw  # v0.3
    times = fields if flat else info.inner("timings")
    scheduled = fields.inner("scheduler_info") if flat else times
    names = ("start_time", "first_token_time", "last_token_time")
    if not flat:
        names = ("request_start", "first_token_iteration", "last_token_iteration")
    sent, first, last = (times.number(n) for n in names)
    due = scheduled.number("targeted_start_time" if flat else "targeted_start", least=None)
    if sent is None:
        sent = times.number("resolve_start") or due or 0.0
    tokens = fields.count("output_tokens", streams.MAX_TOKENS)
    given = [t for t in (sent, first, last) if t is not None]
    if (
        max(given) - min(given) > streams.LONGEST_S
        or (first or sent) < sent
        or (last or sent) < sent
    ):
        raise ArmbenchError(f"{fields.where} has instants that can't be: {given}")
    return _Request(
        state=state,
        due=due if due and 0 <= sent - due <= streams.LONGEST_S else None,
        sent=sent,
        first=first,
        last=last if first is not None else None,
        input_tokens=fields.count("prompt_tokens", 1 << 31) or 0,
        output_tokens=tokens or 0,
        cached=fields.count("cached_tokens"),
        error=_error(fields, info, state),
    )


def _error(fields: Fields, info: Fields, state: str) -> str | None:
    if state == "successful":
        return None
    told = fields.text("error") or info.text("error")
    return (told or (UNFINISHED if state == "incomplete" else "failed"))[:300]


def _strategy(config: Fields) -> str:
    return config.inner("strategy").text("type_") or ""


def _load(config: Fields, fields: Fields, requests: list[_Request]) -> LoadPoint:
    strategy, kind = config.inner("strategy"), _strategy(config)
    rate = strategy.number("rate")
    concurrency = strategy.count("streams", 1 << 31) or strategy.count("max_concurrency", 1 << 31)
    arrivals = None
    if kind == "synchronous":
        concurrency = 1
    elif kind in ("constant", "poisson") and rate:
        arrivals = Arrivals(process=kind, rate=rate)  # type: ignore[arg-type]  # one of its words
    elif kind == "trace":
        scale = strategy.number("time_scale")
        arrivals = Arrivals(process="trace", time_scale=1.0 if scale is None else scale)
    elif kind not in ("concurrent", "throughput"):
        raise ArmbenchError(f"{fields.where} has an unknown strategy {kind!r:.40}")
    done = [r for r in requests if r.state == "successful"]
    totals = fields.inner("metrics")
    counts = totals.inner("request_totals")
    if not requests:
        into, out = (_mean(totals, f"{name}_token_count") for name in ("prompt", "output"))
    else:
        into, out = [r.input_tokens for r in done], [r.output_tokens for r in done]
    return streams.load_point(
        concurrency=concurrency,
        arrivals=arrivals,
        requests=len(requests) or counts.count("total", 1 << 31) or 0,
        input_tokens=into,
        output_tokens=out,
        everything_at_once=kind == "throughput" and concurrency is None,
    )


def _mean(totals: Fields, name: str) -> list[float]:
    value = totals.inner(name).inner("successful").number("mean")
    return [] if value is None else [value]


class _Window(NamedTuple):
    """What GuideLLM measured, without warm-up and cool-down; seconds since the epoch."""

    start: float
    end: float

    @classmethod
    def of(cls, fields: Fields) -> _Window | None:
        start, end = fields.number("start_time"), fields.number("end_time")
        known = start is not None and end is not None and 0 < end - start < streams.LONGEST_S
        return cls(start or 0.0, end or 0.0) if known else None


def _fill(
    trial: Trial,
    load: LoadPoint,
    requests: list[_Request],
    window: _Window | None,
    base: float,
) -> None:
    """Records of what was sent inside the window; the others count as warm-up."""
    first = min([base, *(r.due for r in requests if r.due is not None)])

    def ns(at: float) -> int:
        return ZERO_NS + round((at - first) * 1e9)

    for number, request in enumerate(sorted(requests, key=lambda r: r.sent)):
        record = RequestRecord(
            id=number,
            slot=0,
            due_ns=ns(request.sent if request.due is None else request.due),
            sent_ns=ns(request.sent),
            input_tokens=request.input_tokens,
            http=HttpSeen(usage_cached=request.cached, usage_input=request.input_tokens),
            error=request.error,
        )
        if request.error is not None:
            record.finish = "unfinished" if request.state == "incomplete" else "error"
        if request.first is not None and request.output_tokens:
            ends = [ns(request.first), ns(request.last or request.first)]
            record.token_ns = streams.token_instants(ends, request.output_tokens)
        elif record.error is None:
            record.error, record.finish = "no token has an instant", "error"
        inside = window is None or window.start <= request.sent <= window.end
        (trial.records if inside else trial.warmup).append(record)
    if window is not None and trial.records:
        trial.window_ns = (min(ns(window.start), trial.records[0].due_ns), ns(window.end) + 1)
    trial.unknown |= dict.fromkeys(streams.BETWEEN_TOKENS, streams.SPREAD)
    if load.kind == "open" and any(r.due is None for r in requests):
        streams.mark_sent_only(trial)


def _figures(fields: Fields, load: LoadPoint) -> dict[str, float]:
    """GuideLLM's summaries that mean what ours do."""
    totals = Fields(fields.raw.get("metrics"), f"{fields.where}: metrics")
    counts = totals.inner("request_totals")
    done = counts.count("successful")
    found: dict[str, float] = {}
    for ours, theirs, state in (
        ("requests_per_s", "requests_per_second", "successful"),
        ("output_tok_per_s", "output_tokens_per_second", "total"),
        ("input_tok_per_s", "prompt_tokens_per_second", "total"),
    ):
        rate = totals.inner(theirs).inner(state).number("mean", least=None)
        if rate is not None and rate > 0:
            found[ours] = rate
    total = counts.count("total")
    if done is not None and total:
        found["failed_share"] = 1 - done / total
    equal = totals.inner("output_token_count").inner("successful").number("std_dev") == 0
    families = {"ttft_from_send": "time_to_first_token_ms"}
    if equal:
        families["tpot"] = "inter_token_latency_ms"
    if load.kind == "closed":
        families |= {"ttft": "time_to_first_token_ms", "ttfot": "time_to_first_output_token_ms"}
    for ours, theirs in families.items():
        spread = totals.inner(theirs).inner("successful")
        marks = spread.inner("percentiles")
        values = {mark: marks.number(mark) for mark in ("p50", "p90", "p95", "p99", "p999")}
        samples = spread.count("count") or done or 0
        found |= streams.percentiles(ours, values, min(samples, done or samples), 1e-3)
    return found if done else {}
