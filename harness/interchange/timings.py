"""Results for tools that track durations: pytest-benchmark and Google Benchmark.

Both know one number, a time that is better when it is shorter. A metric in seconds is that time; a
rate becomes the time of one unit, 1 ÷ rate. Each is an entry of its own, its values the repeats.

Sources: pytest-benchmark 5.2.3, src/pytest_benchmark/stats.py and session.py; Google Benchmark,
src/json_reporter.cc and docs/user_guide.md at 267a1115 (json_schema_version 1).
"""

from __future__ import annotations

import bisect
import json
import statistics
from collections.abc import Iterator
from typing import Any

import harness
from harness.interchange.export import Export, Figure, case_names, figures
from harness.records.run import Result

_PER_SECOND = {"tok/s": "token", "req/s": "request"}
_LEFT_OUT = "metrics that are no time and no rate, cost, ceilings, placement, conditions, warnings"


def _durations(result: Result) -> Iterator[tuple[Figure, str, list[float]]]:
    """(metric, name of its entry, seconds in each repeat) of all that can be a time."""
    names = case_names(result)
    for figure in figures(result):
        row, name = figure.metric, names[figure.case.id]
        if row.direction == "none" or not figure.values:
            continue
        if row.unit == "s":
            yield figure, f"{name}[{row.name}]", figure.values
        elif row.unit in _PER_SECOND and min(figure.values) > 0:
            word = row.name.removesuffix("_tok_per_s").removesuffix("_per_s")
            entry = f"{name}[{word}_s_per_{_PER_SECOND[row.unit]}]"
            yield figure, entry, [1 / v for v in figure.values]


def pytest_benchmark(result: Result) -> Export:
    """What `pytest --benchmark-json` would write; `pytest-benchmark compare` reads it."""
    machine = result.machine
    entries = []
    for figure, name, values in _durations(result):
        variant = figure.case.variant
        entries.append(
            {
                "group": figure.metric.name,
                "name": name,
                "fullname": f"armbench::{name}",
                "params": None,
                "param": None,
                "extra_info": _told(result, figure),
                "options": {"threads": variant.threads, "dtype": variant.dtype},
                "stats": _statistics(values),
            }
        )
    document = {
        "machine_info": {
            "node": "",
            "processor": machine.cpu.product or "",
            "machine": machine.architecture or "",
            "system": machine.os or "",
            "release": machine.kernel or "",
            "cpu": {"brand_raw": machine.cpu.product, "count": machine.topology.cpus},
        },
        "commit_info": {"id": "", "time": None, "dirty": False, "project": "armbench"},
        "benchmarks": entries,
        "datetime": result.created,
        "version": "5.2.3",
    }
    return Export(
        text=json.dumps(document, indent=2, ensure_ascii=False) + "\n", left_out=[_LEFT_OUT]
    )


def _told(result: Result, figure: Figure) -> dict[str, Any]:
    row = figure.metric
    return {
        "metric": row.name,
        "unit": row.unit,
        "definition": row.formula,
        "value": figure.estimate.value,
        "low": figure.estimate.low,
        "high": figure.estimate.high,
        "tool": result.tool,
        "basis": result.basis,
    }


def _statistics(values: list[float]) -> dict[str, Any]:
    """pytest-benchmark's statistics of rounds; its quartiles follow Tukey's hinges."""
    ordered, n = sorted(values), len(values)
    mean = statistics.fmean(values)
    sd = statistics.stdev(values) if n > 1 else 0.0
    first, third = _quartiles(ordered)
    iqr = third - first
    low, high = first - 1.5 * iqr, third + 1.5 * iqr
    by_sd = sum(not mean - sd <= v <= mean + sd for v in values)
    by_iqr = sum(not low <= v <= high for v in values)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": sd,
        "rounds": n,
        "median": statistics.median(values),
        "iqr": iqr,
        "q1": first,
        "q3": third,
        "iqr_outliers": by_iqr,
        "stddev_outliers": by_sd,
        "outliers": f"{by_sd};{by_iqr}",
        "ld15iqr": ordered[bisect.bisect_left(ordered, low)],
        "hd15iqr": ordered[min(bisect.bisect_right(ordered, high), n - 1)],
        "ops": n / sum(values) if sum(values) else 0,
        "total": sum(values),
        "data": values,
        "iterations": 1,
    }


def _quartiles(ordered: list[float]) -> tuple[float, float]:
    """First and third: medians of the halves where n is even, else weighted neighbours."""
    n = len(ordered)
    if n == 1:
        return ordered[0], ordered[0]
    if n % 2 == 0:
        return statistics.median(ordered[: n // 2]), statistics.median(ordered[n // 2 :])
    k = n // 4
    if n % 4 == 1:
        return (
            0.25 * ordered[k - 1] + 0.75 * ordered[k],
            0.75 * ordered[3 * k] + 0.25 * ordered[3 * k + 1],
        )
    return (
        0.75 * ordered[k] + 0.25 * ordered[k + 1],
        0.25 * ordered[3 * k + 1] + 0.75 * ordered[3 * k + 2],
    )


def google_benchmark(result: Result) -> Export:
    """What a Google Benchmark binary would write with --benchmark_out_format=json."""
    entries: list[dict[str, Any]] = []
    for index, (figure, name, values) in enumerate(_durations(result)):
        head = {
            "family_index": index,
            "per_family_instance_index": 0,
            "run_name": name,
            "repetitions": len(values),
            "threads": figure.case.variant.threads or 1,
        }
        rate = figure.metric.unit != "s"
        for repetition, value in enumerate(values):
            entries.append(
                {
                    "name": name,
                    **head,
                    "run_type": "iteration",
                    "repetition_index": repetition,
                    "iterations": 1,
                    **_times(value),
                    **({"items_per_second": 1 / value} if rate else {}),
                }
            )
        entries += _aggregates(name, head, values)
    context = {
        "date": result.created,
        "host_name": "",
        "executable": f"armbench {harness.__version__}",
        "num_cpus": result.machine.topology.cpus,
        "mhz_per_cpu": round(_mhz(result)),
        "caches": [
            {
                "type": cache.type.capitalize(),
                "level": cache.level,
                "size": cache.size_bytes or 0,
                "num_sharing": cache.shared_by,
            }
            for cache in result.machine.caches
        ],
        "load_avg": [],
        "library_build_type": "release",
        "json_schema_version": 1,
        "tool": result.tool,
        "basis": result.basis,
    }
    document = {"context": context, "benchmarks": entries}
    left_out = [_LEFT_OUT, "CPU time: cpu_time repeats the wall time"]
    return Export(text=json.dumps(document, indent=2, ensure_ascii=False) + "\n", left_out=left_out)


def _mhz(result: Result) -> float:
    return max((c.max_mhz or 0.0 for c in result.machine.cpu.clusters), default=0.0)


def _times(seconds: float) -> dict[str, Any]:
    ns = seconds * 1e9
    return {"real_time": ns, "cpu_time": ns, "time_unit": "ns"}


def _aggregates(name: str, head: dict[str, Any], values: list[float]) -> Iterator[dict[str, Any]]:
    """The four that Google Benchmark prints over repetitions."""
    if len(values) < 2:
        return
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    for word, value, unit in (
        ("mean", mean, "time"),
        ("median", statistics.median(values), "time"),
        ("stddev", sd, "time"),
        ("cv", sd / mean if mean else 0.0, "percentage"),
    ):
        times = _times(value)
        if unit == "percentage":
            times = {"real_time": value, "cpu_time": value, "time_unit": "ns"}
        yield {
            "name": f"{name}_{word}",
            **head,
            "run_type": "aggregate",
            "aggregate_name": word,
            "aggregate_unit": unit,
            "iterations": len(values),
            **times,
        }
