"""The formats that results are written in."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import unknown_name
from harness.interchange import github_action, llama_write, long_table, markdown, timings
from harness.interchange import vllm_write as vllm
from harness.interchange.export import Export
from harness.records.run import Result

WRITABLE: dict[str, Callable[[Result], Export]] = {
    "vllm": vllm.write,
    "llama-bench-json": lambda result: llama_write.write(result, "json"),
    "llama-bench-jsonl": lambda result: llama_write.write(result, "jsonl"),
    "llama-bench-sql": lambda result: llama_write.write(result, "sql"),
    "pytest-benchmark": timings.pytest_benchmark,
    "google-benchmark": timings.google_benchmark,
    "github-action-smaller": lambda result: github_action.write(result, "smaller"),
    "github-action-bigger": lambda result: github_action.write(result, "bigger"),
    "csv": lambda result: long_table.as_csv([("", result)]),
    "markdown": markdown.write,
}


def write(result: Result, form: str) -> Export:
    """`result` in one of `WRITABLE`; Parquet, a table of many results, is `database.parquet`.

    Raises ArmbenchError for an unknown format.
    """
    if form not in WRITABLE:
        raise unknown_name("format", form, [*WRITABLE, "parquet"])
    return WRITABLE[form](result)
