"""Results as rows of llama-bench: JSON, JSONL and SQL. See `llama_bench` for the mapping.

A case of ours becomes a `pp` row (its prefill) and a `tg` row (its decode: output tokens − 1 steps
on a context of the input tokens); its repeats become the samples. A case that llama-bench measured
is written as it was read.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from typing import Any

from harness.interchange import llama_rows
from harness.interchange.export import Export, Figure, figures
from harness.interchange.llama_bench import TOOL, metrics_of
from harness.records.run import Case, Result, Trial

TABLE = "llama_bench"
_OF_MODEL = ("model_type", "model_size")
_VERSION = re.compile(r"(\d{1,18})(?: \(([^()]+)\))?")
_PREFILL, _DECODE = "prefill_tok_per_s", "decode_tok_per_s"


def write(result: Result, form: str) -> Export:
    """The rows of `result` as `json`, `jsonl` or `sql`."""
    left_out: list[str] = []
    rows = list(_rows(result, left_out))
    texts = {"json": _json, "jsonl": _jsonl, "sql": _sql}
    return Export(text=texts[form](rows), left_out=list(dict.fromkeys(left_out)))


def _rows(result: Result, left_out: list[str]) -> Iterator[dict[str, Any]]:
    if result.origin is not None and result.origin.tool == TOOL:
        cases = {case.id: case for case in result.plan.cases}
        for trial in result.trials:
            yield _as_read(result, cases[trial.case], trial)
        return
    left_out.append("latencies: llama-bench has throughput only")
    left_out.append("cost, ceilings, placement, conditions, warnings")
    found: dict[tuple[int, str], Figure] = {
        (f.case.id, f.metric.name): f
        for f in figures(result)
        if f.metric.name in (_PREFILL, _DECODE)
    }
    for case in result.plan.cases:
        if case.load.batch != 1 or case.load.kind != "single_stream":
            left_out.append(f"case {case.id} ({case.load.kind}): llama-bench runs one sequence")
            continue
        if case.variant.instances > 1:
            left_out.append(f"case {case.id} ({case.variant.label}): llama-bench is one process")
            continue
        load = case.load
        for name, prompt, output in (
            (_PREFILL, load.input_tokens, 0),
            (_DECODE, 0, load.output_tokens - 1),
        ):
            figure = found.get((case.id, name))
            if figure is not None and prompt + output:
                depth = load.input_tokens if output else 0
                ns = [round((prompt + output) / v * 1e9) for v in figure.values]
                yield _row(result, case, prompt, output, {"n_depth": depth}, ns)


def _as_read(result: Result, case: Case, trial: Trial) -> dict[str, Any]:
    """The row that a trial was read from."""
    load, options = case.load, case.variant.options
    names = metrics_of(load.input_tokens, load.output_tokens, int(options.get("n_depth") or 0))
    name, tokens = next(iter(names.items()))
    ns = [round(tokens / v * 1e9) for v in trial.samples.get(name, [])]
    row = _row(result, case, load.input_tokens, load.output_tokens, dict(options), ns)
    told: dict[str, Any] = {k: trial.extra[k] for k in _OF_MODEL if k in trial.extra}
    if not ns:
        told |= {k: v for k, v in trial.extra.items() if k in row or k in llama_rows.COLUMNS}
    row |= {k: int(v) if k in llama_rows.INTEGERS else v for k, v in told.items()}
    return row | {"test_time": trial.started_at.replace("+00:00", "Z")}


def _row(
    result: Result, case: Case, prompt: int, output: int, options: dict[str, Any], ns: list[int]
) -> dict[str, Any]:
    """Every column that is known, in llama-bench's order, then those it no longer has."""
    cpu = result.machine.cpu
    version = result.origin.version if result.origin else None
    build = _VERSION.fullmatch(version or "")
    known: dict[str, Any] = {
        "build_commit": (build and build[2]) or version or f"armbench {result.armbench}",
        "build_number": int(build[1]) if build else None,
        "cpu_info": result.extra.get("cpu_info") or cpu.model_name or cpu.product or "CPU",
        "gpu_info": result.extra.get("gpu_info", ""),
        "backends": case.variant.engine,
        "model_filename": result.model.name,
        "model_type": " ".join(filter(None, (result.model.family, case.variant.dtype))),
        "model_n_params": result.model.parameters,
        "n_threads": case.variant.threads,
        "n_prompt": prompt,
        "n_gen": output,
        "n_depth": 0,
        "test_time": result.created.replace("+00:00", "Z"),
        **{k: v for k, v in options.items() if v is not None and llama_rows.NAME.fullmatch(k)},
        **_statistics(prompt + output, ns),
    }
    ordered = {c: known[c] for c in llama_rows.COLUMNS if known.get(c) is not None}
    return ordered | {k: v for k, v in known.items() if k not in ordered and v is not None}


def _statistics(tokens: int, ns: list[int]) -> dict[str, Any]:
    """llama-bench's figures of its samples: means, and standard deviations of a sample."""
    if not ns:
        return {}
    rates = [tokens * 1e9 / n for n in ns]
    return {
        "avg_ns": int(statistics.fmean(ns)),
        "stddev_ns": int(statistics.stdev(ns)) if len(ns) > 1 else 0,
        "avg_ts": statistics.fmean(rates),
        "stddev_ts": statistics.stdev(rates) if len(ns) > 1 else 0.0,
        "samples_ns": ns,
        "samples_ts": rates,
    }


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def _jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _sql(rows: list[dict[str, Any]]) -> str:
    """CREATE TABLE and one INSERT a row; SQLite and DuckDB read it.

    Names that are not llama-bench's own may be words of SQL, so they are quoted.
    """
    names = [n for n in llama_rows.COLUMNS if any(n in row for row in rows)]
    names += sorted({n for row in rows for n in row} - {*names, "samples_ns", "samples_ts"})
    called = [name if name in llama_rows.COLUMNS else f'"{name}"' for name in names]
    kinds = [f"  {call} {_sql_type(name)}" for call, name in zip(called, names, strict=True)]
    lines = [f"CREATE TABLE IF NOT EXISTS {TABLE} (\n" + ",\n".join(kinds) + "\n);\n\n"]
    for row in rows:
        values = ", ".join(f"'{_sql_text(row.get(name, ''))}'" for name in names)
        into = f"INSERT INTO {TABLE} ({', '.join(called)})"
        lines.append(f"{into} VALUES ({values});\n")
    return "".join(lines)


def _sql_type(name: str) -> str:
    if name in llama_rows.REALS:
        return "REAL"
    return "INTEGER" if name in llama_rows.INTEGERS | llama_rows.BOOLEANS else "TEXT"


def _sql_text(value: Any) -> str:
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return text.replace("'", "''")
