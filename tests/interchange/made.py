"""Results and foreign files as the tools write them, made of plain numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness import binding
from harness.records.load import Arrivals, HttpSeen, ServingLoad
from harness.records.run import (
    SCHEMA,
    Case,
    LoadPoint,
    ModelIdentity,
    Plan,
    RequestRecord,
    Result,
    Trial,
    Variant,
)
from tests.test_plan import server

MS = 1_000_000
S = 1_000_000_000


def model() -> ModelIdentity:
    return ModelIdentity(
        name="Qwen/Qwen2.5-0.5B",
        weights="checkpoint",
        family="qwen2",
        parameters=494_032_768,
        config_sha256="c" * 64,
        files={"model.safetensors": "f" * 64},
    )


def result(cases: list[Case], trials: list[Trial], repeats: int) -> Result:
    """A finished result with its summary."""
    found = Result(
        schema=SCHEMA,
        armbench="0.1.0",
        created="2026-11-20T10:00:00+00:00",
        plan=Plan(
            name="p",
            model="Qwen/Qwen2.5-0.5B",
            cases=cases,
            repeats=repeats,
            seed=1,
            cpus=[0, 1],
            driver_cpus=[2],
            time_budget_s=None,
            trial_timeout_s=None,
            order=[(t.case, t.repeat) for t in trials],
        ),
        model=model(),
        machine=server(4),
        software={},
        finished=True,
        trials=trials,
    )
    binding.derive(found)
    return found


def batched(repeats: int = 3, output: int = 5) -> Result:
    """Single-stream trials: 100 ms of prefill of 100 tokens, then a token every 10 to 12 ms."""
    load = LoadPoint(
        kind="single_stream", batch=1, input_tokens=100, output_tokens=output, requests=2
    )
    variant = Variant(engine="torch", dtype="float32", threads=2, options={})
    trials = []
    for repeat in range(repeats):
        records = []
        for n in range(2):
            start = S + n * S
            step = (10 + repeat) * MS
            tokens = [start + 100 * MS + i * step for i in range(output)]
            records.append(
                RequestRecord(
                    id=n,
                    slot=0,
                    due_ns=start,
                    sent_ns=start,
                    started_ns=start,
                    input_tokens=100,
                    token_ns=tokens,
                )
            )
        trials.append(_trial(repeat, records))
    return result([Case(id=0, variant=variant, load=load)], trials, repeats)


def served(requests: int = 40, rate: float | None = 10.0) -> Result:
    """Requests over HTTP: sent 2 ms late, first token after 50 ms, four chunks 20 ms apart."""
    arrivals = Arrivals(process="poisson", rate=rate) if rate else None
    serving = ServingLoad(concurrency=None if rate else 8, arrivals=arrivals)
    load = LoadPoint(
        kind="open" if rate else "closed",
        batch=1,
        input_tokens=64,
        output_tokens=4,
        requests=requests,
        serving=serving,
    )
    variant = Variant(engine="openai", dtype=None, threads=None)
    records = []
    for n in range(requests):
        due = S + n * 100 * MS
        chunks = [due + 52 * MS + i * 20 * MS for i in range(4)]
        records.append(
            RequestRecord(
                id=n,
                slot=0,
                due_ns=due,
                sent_ns=due + 2 * MS,
                input_tokens=64,
                token_ns=chunks,
                http=HttpSeen(status=200, chunk_ns=chunks, chunk_tokens=[1] * 4, tokens_by="ids"),
            )
        )
    records[3].error, records[3].finish, records[3].token_ns = "503", "error", []
    return result([Case(id=0, variant=variant, load=load)], [_trial(0, records)], 1)


def _trial(repeat: int, records: list[RequestRecord]) -> Trial:
    ends = [t for r in records for t in r.token_ns]
    return Trial(
        case=0,
        repeat=repeat,
        order=repeat,
        started_at="2026-11-20T10:00:00+00:00",
        state="ok",
        records=records,
        window_ns=(records[0].due_ns, max(ends) + 1),
    )


def llama_row(**changes: Any) -> dict[str, Any]:
    """A row of llama-bench: 512 tokens of prompt in 100, 110, 120 ms."""
    row = {
        "build_commit": "abc1234",
        "build_number": 6000,
        "cpu_info": "Neoverse-V2",
        "gpu_info": "",
        "backends": "CPU",
        "model_filename": "/home/someone/models/qwen2.5-0.5b-q4_0.gguf",
        "model_type": "qwen2 1B Q4_0",
        "model_size": 352_969_408,
        "model_n_params": 494_032_768,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_threads": 16,
        "cpu_mask": "0x0",
        "cpu_strict": False,
        "poll": 50,
        "type_k": "f16",
        "type_v": "f16",
        "n_gpu_layers": 0,
        "split_mode": "layer",
        "main_gpu": 0,
        "no_kv_offload": False,
        "flash_attn": 1,
        "tensor_split": "0.00",
        "use_mmap": True,
        "embeddings": False,
        "n_prompt": 512,
        "n_gen": 0,
        "n_depth": 0,
        "test_time": "2026-10-01T08:00:00Z",
        "samples_ns": [100_000_000, 110_000_000, 120_000_000],
    }
    row |= changes
    tokens = row["n_prompt"] + row["n_gen"]
    rates = [tokens * 1e9 / ns for ns in row["samples_ns"]]
    mean = sum(row["samples_ns"]) / len(rates)
    told = {"avg_ns": int(mean), "stddev_ns": 10_000_000, "avg_ts": sum(rates) / len(rates)}
    return row | told | {"stddev_ts": 426.5, "samples_ts": rates}


def vllm_run(requests: int = 60, detailed: bool = True, **changes: Any) -> dict[str, Any]:
    """A run of `vllm bench serve`: TTFT 50 ms, gaps of 10 and 30 ms, three tokens each."""
    run: dict[str, Any] = {
        "date": "20261001-080000",
        "endpoint_type": "openai",
        "backend": "openai",
        "label": None,
        "model_id": "Qwen/Qwen2.5-0.5B-Instruct",
        "tokenizer_id": "Qwen/Qwen2.5-0.5B-Instruct",
        "num_prompts": requests,
        "request_rate": 10.0,
        "burstiness": 1.0,
        "max_concurrency": None,
        "duration": requests * 0.1,
        "completed": requests,
        "failed": 0,
        "total_input_tokens": requests * 100,
        "total_output_tokens": requests * 3,
        "request_throughput": 10.0,
        "request_goodput": None,
        "output_throughput": 30.0,
        "total_token_throughput": 1030.0,
        "mean_ttft_ms": 50.0,
        "median_ttft_ms": 50.0,
        "std_ttft_ms": 0.0,
        "p99_ttft_ms": 50.0,
        "mean_tpot_ms": 20.0,
        "median_tpot_ms": 20.0,
        "p99_tpot_ms": 20.0,
        "median_itl_ms": 20.0,
        "p99_itl_ms": 30.0,
        "median_e2el_ms": 90.0,
        "spec_decode_acceptance_rate": 61.5,
    }
    if detailed:
        run |= {
            "input_lens": [100] * requests,
            "output_lens": [3] * requests,
            "ttfts": [0.05] * requests,
            "itls": [[0.01, 0.03]] * requests,
            "start_times": [5000.0 + 0.1 * n for n in range(requests)],
            "queue_times": [0.0] * requests,
            "latencies": [0.09] * requests,
            "generated_texts": ["secret words"] * requests,
            "errors": [""] * requests,
        }
    return run | changes


def guidellm_request(n: int, *, due: float | None = 0.0, **changes: Any) -> dict[str, Any]:
    """A successful request of GuideLLM 0.6: first token after 200 ms, last after 500 ms."""
    sent = 1_790_000_000.0 + n * 0.5
    timings = {
        "targeted_start": None if due is None else sent - due,
        "request_start": sent,
        "first_token_iteration": sent + 0.2,
        "last_token_iteration": sent + 0.5,
        "token_iterations": 4,
        "request_end": sent + 0.51,
        "resolve_end": sent + 0.52,
    }
    return {
        "type_": "generative_request_stats",
        "request_id": str(n),
        "request_args": '{"headers": {"Authorization": "Bearer sk-abcdefghijkl"}}',
        "info": {"status": "completed", "timings": timings, "error": None},
        "input_metrics": {"text_tokens": 256},
        "output_metrics": {"text_tokens": 4},
        "prompt_tokens": 256,
        "output_tokens": 4,
        **changes,
    }


def _spread(value: float, count: int) -> dict[str, Any]:
    marks = ("p001", "p01", "p05", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p999")
    return {
        "mean": value,
        "median": value,
        "std_dev": 0.0,
        "min": value,
        "max": value,
        "count": count,
        "percentiles": dict.fromkeys(marks, value),
    }


def guidellm_report(requests: int = 30, keep: int | None = None, **changes: Any) -> dict[str, Any]:
    """A report of one benchmark at a constant rate of 2/s; `keep` requests are in it."""
    rows = [guidellm_request(n, due=0.1) for n in range(requests)]
    start = 1_790_000_000.0
    made = {"successful": requests, "errored": 0, "incomplete": 0, "total": requests}
    benchmark = {
        "type_": "generative_benchmark",
        "config": {
            "strategy": {"type_": "constant", "rate": 2.0, "max_concurrency": 64},
            "backend": {"target": "http://10.0.0.7:8000", "model": "Qwen/Qwen2.5-0.5B-Instruct"},
        },
        "scheduler_metrics": {"requests_made": made, "queued_time_avg": 0.001},
        "metrics": {
            "request_totals": made,
            "requests_per_second": {"successful": _spread(2.0, requests)},
            "output_tokens_per_second": {"total": _spread(8.0, requests)},
            "prompt_tokens_per_second": {"total": _spread(512.0, requests)},
            "output_token_count": {"successful": _spread(4.0, requests)},
            "prompt_token_count": {"successful": _spread(256.0, requests)},
            "time_to_first_token_ms": {"successful": _spread(200.0, requests)},
            "inter_token_latency_ms": {"successful": _spread(100.0, requests)},
            "time_per_output_token_ms": {"successful": _spread(125.0, requests)},
        },
        "requests": {"successful": rows[:keep], "errored": [], "incomplete": []},
        "start_time": start,
        "end_time": start + requests * 0.5 + 1,
        "duration": requests * 0.5 + 1,
        **changes,
    }
    return {
        "metadata": {"version": 1, "guidellm_version": "0.6.0", "platform": "Linux-6.8-aarch64"},
        "args": {"random_seed": 42},
        "benchmarks": [benchmark],
    }


def aiperf_summary(**changes: Any) -> dict[str, Any]:
    """AIPerf's summary of 60 requests at concurrency 4."""
    return {
        "schema_version": "1.3",
        "aiperf_version": "0.5.0",
        "start_time": "2026-10-01T08:00:00+00:00",
        "input_config": {
            "endpoint": {
                "model_names": ["Qwen/Qwen3-0.6B"],
                "url": "http://10.0.0.7:8000",
                "api_key": "sk-not-to-be-stored",
                "streaming": True,
            },
            "loadgen": {"concurrency": 4, "request_count": 60},
            "cli_command": "aiperf profile --api-key sk-not-to-be-stored",
        },
        "run_info": {"random_seed": 7},
        "request_count": {"unit": "requests", "avg": 60.0},
        "error_request_count": {"unit": "requests", "avg": 0.0},
        "request_throughput": {"unit": "requests/sec", "avg": 5.0},
        "output_token_throughput": {"unit": "tokens/sec", "avg": 45.0},
        "time_to_first_token": {"unit": "ms", "avg": 40.0, "p50": 40.0, "p95": 60.0, "p99": 70.0},
        "inter_token_latency": {"unit": "ms", "avg": 5.0, "p50": 5.0, "p95": 6.0, "p99": 7.0},
        "request_latency": {"unit": "ms", "avg": 80.0, "p50": 80.0, "p95": 90.0},
        "input_sequence_length": {"unit": "tokens", "avg": 550.0},
        "output_sequence_length": {"unit": "tokens", "avg": 9.0},
        **changes,
    }


def aiperf_record(n: int, issued: bool = True, **changes: Any) -> dict[str, Any]:
    """A request of AIPerf: sent 3 ms after its credit, TTFT 40 ms, eight gaps of 5 ms."""
    start = 1_790_000_000 * S + n * 200 * MS
    told: dict[str, Any] = {
        "session_num": n,
        "request_start_ns": start,
        "request_end_ns": start + 80 * MS,
        "benchmark_phase": "profiling",
        "worker_id": "worker_1",
    }
    if issued:
        told["credit_issued_ns"] = start - 3 * MS
    return {
        "metadata": told,
        "metrics": {
            "input_sequence_length": {"value": 550, "unit": "tokens"},
            "time_to_first_token": {"value": 40.0, "unit": "ms"},
            "request_latency": {"value": 80.0, "unit": "ms"},
            "output_sequence_length": {"value": 9, "unit": "tokens"},
            "inter_chunk_latency": {"value": [5.0] * 8, "unit": "ms"},
            "inter_token_latency": {"value": 5.0, "unit": "ms"},
        },
        "error": None,
        **changes,
    }


AMPERE_NAME = "Qwen2.5-7B-Instruct-Q8R16.gguf@PP512@TG256@faTrue@ctx65536.csv"
AMPERE = (
    "n_proc,n_threads,batch_size,prompt_size,output_tokens,pp_throughput_tps,pp_avg_latency_sec,"
    "tg_throughput_tps,tg_avg_latency_sec,pp+tg_throughput_tps,concurrency,start,finish\n"
    "1,80,4,512,256,400.000,5.120,40.000,0.100,100.000,4,1790000000.0,1790000040.0\n"
    "8,10,1,512,256,640.000,6.400,160.000,0.050,300.000,8,1790000050.0,1790000075.0\n"
)


def lines(values: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def put(folder: Path, name: str, value: Any) -> Path:
    """A file with `value` as JSON, or as it is where it is text."""
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path
