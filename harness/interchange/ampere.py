"""The CSV of Ampere's wrapper around llama.cpp's batched-bench, read.

Source: AmpereComputingAI/llama.cpp, benchmarks/utils/benchmark.py and benchmarks/example_results
at commit 343626cb. A file is of one model, which its name says: `MODEL.gguf@PP512@TG256….csv`. A
row is one run of `n_proc` processes of `n_threads` threads with `batch_size` sequences each.

By definition: `pp+tg_throughput_tps` divides all tokens of all processes by the time of the slowest
one, so the output's share of it is our output rate. `pp_` and `tg_throughput_tps` add the rates of
processes that need not have been in that phase at the same time: they are our prefill and decode
for one process, and are marked for several. `tg_avg_latency_sec` is the time of one token in older
files, of all tokens where `tg_avg_per_token_latency_sec` stands beside it; both are means.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

from harness.errors import ArmbenchError
from harness.interchange.assemble import Row, Source, Told, blank_trial, model_named
from harness.interchange.foreign import Fields, ForeignFile, table
from harness.records.machine import Finding
from harness.records.run import LoadPoint, Trial, Variant

TOOL = "Ampere llama.cpp benchmark"
ENGINE = "llama.cpp"
_COLUMNS = {"n_proc", "n_threads", "batch_size", "prompt_size", "output_tokens"} | {
    "pp_throughput_tps",
    "tg_throughput_tps",
}
_QUANT = re.compile(r"(?i)[-.]((?:I?Q\d\w*)|BF16|F16|F32)$")
_FLAGS = re.compile(r"@(fa|ctx)([A-Za-z0-9]+)")


def is_row(names: Sequence[str]) -> bool:
    """Whether these are the columns of such a file."""
    return set(names) >= _COLUMNS


def read(files: Sequence[ForeignFile], form: str, told: Told) -> Source:
    """Every row of `files`.

    Raises ArmbenchError, with file and line, where one is not as the wrapper writes it.
    """
    rows = []
    for file in files:
        name, dtype, options = _named(file.name)
        for number, raw in enumerate(table(file), 2):
            fields = Fields(raw, f"{file.name} line {number}")
            rows.append(_row(fields, name, dtype, options, told))
    return Source(tool=TOOL, format=form, rows=rows)


def _named(name: str) -> tuple[str, str | None, dict[str, Any]]:
    """(model, its quantisation, flags) as the file's name says."""
    stem = name.removesuffix(".csv").partition("@")[0].removesuffix(".gguf")
    match = _QUANT.search(stem)
    plain = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    dtype = plain.get(match[1].lower(), match[1].lower()) if match else None
    return stem or "model", dtype, dict(_FLAGS.findall(name))


def _row(fields: Fields, name: str, dtype: str | None, options: dict[str, Any], told: Told) -> Row:
    processes, threads, batch = (
        fields.need_count(key, 1 << 20) for key in ("n_proc", "n_threads", "batch_size")
    )
    into, out = (fields.need_count(key, 1 << 31) for key in ("prompt_size", "output_tokens"))
    if not (processes and threads and batch and into + out):
        raise ArmbenchError(f"{fields.where} has a count of 0")
    trial = _trial(fields, processes, into, out)
    start = fields.number("start")
    fields.get("concurrency"), fields.get("finish")  # batch × processes; the end, with loading
    trial.extra = {k: v for k, v in fields.rest().items() if v != ""}
    at = datetime.datetime.fromtimestamp(min(start, 4e9), datetime.UTC) if start else None
    return Row(
        model=model_named(name, told),
        variant=Variant(
            engine=ENGINE,
            dtype=dtype,
            threads=processes * threads,
            options={"processes": processes, **options},
        ),
        load=LoadPoint(
            kind="offline",
            batch=batch * processes,
            input_tokens=into,
            output_tokens=out,
            requests=batch * processes,
        ),
        trial=trial,
        at=at,
    )


def _trial(fields: Fields, processes: int, into: int, out: int) -> Trial:
    trial = blank_trial()
    prefill, decode = fields.need("pp_throughput_tps"), fields.need("tg_throughput_tps")
    trial.figures = {"prefill_tok_per_s": prefill, "decode_tok_per_s": decode}
    total = fields.number("pp+tg_throughput_tps")
    if total is not None:
        trial.figures |= {
            "total_tok_per_s": total,
            "input_tok_per_s": total * into / (into + out),
            "output_tok_per_s": total * out / (into + out),
        }
    if processes > 1:
        trial.findings.append(
            Finding(
                name="rates added",
                severity="warning",
                message=f"prefill and decode add the rates of {processes} processes, which need "
                "not have been in that phase at the same time; output does not",
            )
        )
    return trial
