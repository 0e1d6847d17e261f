"""The rows, in the order in which reports show them."""

from __future__ import annotations

from harness.metrics import batched, served
from harness.metrics.row import Metric, quantile_rows, row

_RISE = (
    "{} in due order makes ten blocks; medians of the last five: last ÷ first where each is above "
    "the one before, else 1"
)


def _client_row(name: str, label: str, formula: str) -> Metric:
    return row(
        f"client_{name}",
        label,
        "ratio",
        "none",
        formula,
        lambda s: served.client_figure(name, s.trial),
    )


_SERVED: tuple[Metric, ...] = (
    row(
        "intended_rate",
        "intended",
        "req/s",
        "none",
        "requests due inside the window ÷ window",
        served.intended_rate,
    ),
    row(
        "offered_rate",
        "offered",
        "req/s",
        "none",
        "requests sent inside the window ÷ window",
        served.offered_rate,
    ),
    row(
        "requests_per_s",
        "requests",
        "req/s",
        "higher",
        "requests that ended well inside the window ÷ window",
        served.requests_per_s,
        "vLLM",
    ),
    row(
        "input_tok_per_s",
        "input",
        "tok/s",
        "higher",
        "input tokens of requests whose first token came inside the window ÷ window",
        served.input_tok_per_s,
    ),
    row(
        "total_tok_per_s",
        "total",
        "tok/s",
        "higher",
        "input and output tokens of the window ÷ window",
        batched.total_rate,
        "vLLM",
    ),
    row(
        "slo_attainment",
        "attainment",
        "ratio",
        "higher",
        "requests that succeeded within every bound of the SLO ÷ all requests sent",
        served.attainment,
        "MLPerf, DistServe",
    ),
    row(
        "goodput_req_per_s",
        "goodput",
        "req/s",
        "higher",
        "requests that kept the SLO ÷ window",
        served.goodput,
        "DistServe",
    ),
    row(
        "failed_share",
        "failed",
        "ratio",
        "lower",
        "requests that failed, were cancelled or never ended ÷ all requests",
        served.failed_share,
    ),
    *quantile_rows(
        "ttfot", "TTFOT", "first token that is not reasoning − due time", served.ttfots, "AIPerf"
    ),
    *quantile_rows(
        "ntpot", "norm. TPOT", "latency ÷ output tokens, per request", served.ntpots, "vLLM paper"
    ),
    *quantile_rows(
        "icl", "ICL", "gaps between stream chunks as they arrived, pooled", served.icls, "AIPerf"
    ),
    *quantile_rows(
        "send_lag", "send lag", "sent − due time: the harness was late", served.send_lags, "wrk2"
    ),
    *quantile_rows(
        "queue", "queue", "slot − arrival, in our server", served.queue_times, "vLLM metrics"
    ),
    *quantile_rows(
        "server_prefill",
        "prefill time",
        "first token − slot, in our server",
        served.prefill_times,
        "vLLM metrics",
    ),
    *quantile_rows(
        "step", "step", "time of a step of our server that decoded", served.step_times, "armbench"
    ),
    row(
        "batch_mean",
        "batch",
        "",
        "none",
        "sequences decoded in one step of our server, mean over its decoding steps",
        served.mean_batch,
    ),
    row(
        "concurrency_peak",
        "peak conc.",
        "",
        "none",
        "most requests under way at once: sweep line over [sent, end)",
        served.concurrency_peak,
    ),
    row(
        "ttft_rise",
        "TTFT rise",
        "ratio",
        "none",
        _RISE.format("TTFT"),
        batched.ttft_rise,
    ),
    row(
        "tpot_rise",
        "TPOT rise",
        "ratio",
        "none",
        _RISE.format("TPOT"),
        batched.tpot_rise,
    ),
    row(
        "short_gap_share",
        "short gaps",
        "ratio",
        "none",
        "gaps between stream chunks below 0.1 ms ÷ all: chunks that came together",
        served.short_gap_share,
    ),
    row(
        "length_miss_share",
        "length missed",
        "ratio",
        "lower",
        "successes whose output has another length than asked ÷ successes",
        served.length_miss_share,
    ),
    row(
        "cached_share",
        "cached",
        "ratio",
        "none",
        "input tokens that the server says came from its prefix cache ÷ all",
        served.cached_share,
    ),
    _client_row("ceiling_share", "of ceiling", "token events ÷ what the client can take at most"),
    _client_row("cpu_share", "client CPU", "CPU time ÷ time, of the client's busiest process"),
    _client_row("merged_share", "merged", "token events read together with an earlier one ÷ all"),
)


METRICS: tuple[Metric, ...] = (
    row(
        "prefill_tok_per_s",
        "prefill",
        "tok/s",
        "higher",
        "input tokens of the batch ÷ (first token − start of prefill); several instances: those of "
        "all ÷ the time in which all of them prefill, a prefill by the share of its time inside",
        batched.prefill_rate,
        "llama-bench pp",
    ),
    *quantile_rows("ttft", "TTFT", "first token − due time", batched.ttfts, "MLPerf LoadGen, wrk2"),
    *quantile_rows(
        "ttft_from_send",
        "TTFT from send",
        "first token − sent",
        batched.ttfts_from_send,
        "vLLM, AIPerf",
    ),
    *quantile_rows(
        "tpot",
        "TPOT",
        "(last − first token) ÷ (output tokens − 1), per request",
        batched.tpots,
        "MLPerf",
    ),
    *quantile_rows(
        "itl", "ITL", "gaps between neighbouring output tokens, pooled", batched.itls, "vLLM"
    ),
    *quantile_rows(
        "latency", "latency", "last token − due time", batched.latencies, "MLPerf LoadGen"
    ),
    row(
        "decode_tok_per_s",
        "decode",
        "tok/s",
        "higher",
        "(output tokens − 1 each) of the batch ÷ (last − first token); several instances: those of "
        "all ÷ the time in which all of them decode, a step by the share of its time inside",
        batched.decode_rate,
        "llama-bench tg",
    ),
    row(
        "decode_bound_tok_per_s",
        "decode bound",
        "tok/s",
        "none",
        "sequences ÷ the least time of one decode step: bytes of weights and KV cache at the mean "
        "context ÷ read ceiling, or FLOPs ÷ compute ceiling where that is longer",
        batched.bound(batched.decode_work, reading=True),
        "roofline",
    ),
    row(
        "mbu",
        "MBU",
        "ratio",
        "higher",
        "bytes of weights and KV cache read by the decode ÷ its time ÷ read ceiling",
        batched.mbu,
        "Databricks, nanochat",
    ),
    row(
        "prefill_bound_tok_per_s",
        "prefill bound",
        "tok/s",
        "none",
        "input tokens ÷ the least time of a prefill: FLOPs ÷ compute ceiling of the type it "
        "multiplies in, or weight bytes ÷ read ceiling where that is longer",
        batched.bound(batched.prefill_work, reading=False),
        "roofline",
    ),
    row(
        "mfu",
        "MFU",
        "ratio",
        "higher",
        "forward FLOPs of the prefill ÷ its time ÷ compute ceiling of the type it multiplies in",
        batched.mfu,
        "PaLM, nanochat",
    ),
    row(
        "arithmetic_intensity",
        "intensity",
        "FLOP/B",
        "none",
        "FLOPs ÷ bytes of weights and KV cache read, of the decode",
        batched.intensity(batched.decode_work),
        "roofline",
    ),
    row(
        "prefill_arithmetic_intensity",
        "prefill intensity",
        "FLOP/B",
        "none",
        "FLOPs of the prefill ÷ bytes of weights, read once for each batch",
        batched.intensity(batched.prefill_work),
        "roofline",
    ),
    row(
        "output_tok_per_s",
        "output",
        "tok/s",
        "higher",
        "output tokens produced inside the window ÷ window; prefill is inside the window; several "
        "instances: those of all, in the window in which all of them work",
        batched.output_rate,
        "MLPerf Offline",
    ),
    row(
        "window_s",
        "window",
        "s",
        "none",
        "last token − first due time; several instances: first end of one − last start of one",
        served.window_s,
    ),
    *_SERVED,
    row(
        "load_s",
        "load",
        "s",
        "lower",
        "time to load the engine, apart from the window; several instances: of the slowest",
        lambda subject: subject.trial.load_s,
    ),
    row("cpu_s", "CPU time", "s", "lower", "user + system time inside the window", batched.cpu_s),
    row(
        "peak_rss_bytes",
        "peak RSS",
        "B",
        "lower",
        "largest resident set of the engine process (getrusage); several instances: the sum, in "
        "which pages that they share count for each",
        batched.usage("peak_rss_bytes"),
    ),
    row(
        "major_faults",
        "major faults",
        "",
        "lower",
        "page faults that read from disk inside the window (getrusage)",
        batched.usage("major_faults"),
    ),
    row(
        "minor_faults",
        "minor faults",
        "",
        "lower",
        "page faults without a read inside the window (getrusage)",
        batched.usage("minor_faults"),
    ),
    row(
        "involuntary_switches",
        "involuntary switches",
        "",
        "lower",
        "times another task took the CPU inside the window (getrusage)",
        batched.usage("involuntary_switches"),
    ),
)
