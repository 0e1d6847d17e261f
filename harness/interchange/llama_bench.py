"""llama-bench's JSON, JSONL, SQL and CSV, read and written; see `llama_rows` for the columns.

Mapped by definition: `pp` is our prefill (tokens ÷ time), `tg` our decode. Both rates are all
tokens ÷ all time, as ours are, where llama-bench's `avg_ts` is the mean of the samples' rates. The
samples of a row come from one process: they are kept as such, and a row is one repeat.
"""

from __future__ import annotations

import datetime
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.errors import ArmbenchError
from harness.interchange import llama_rows
from harness.interchange.assemble import Row, Source, Told, blank_trial
from harness.interchange.foreign import Fields, ForeignFile, kept, number, table
from harness.records.run import LoadPoint, ModelIdentity, Trial, Variant

TOOL = "llama-bench"
ENGINE = "llama.cpp"
_MAX_SAMPLES = 100_000
NOTE = (
    "llama-bench repeats a test inside one process: its samples are no repeats, and one process "
    "has no interval; its tg is timed without a prefill"
)
_INSERT = re.compile(r"INSERT INTO (\w+) \(([^()]*)\) VALUES \('(.*)'\);", re.DOTALL)
_SQL_START = re.compile(
    rb"\s*(?:--[^\n]*\n\s*)*(CREATE TABLE|INSERT INTO)\b[^;]*\bllama_bench\b", re.I
)


def is_sql(data: bytes) -> bool:
    """Whether a file begins like llama-bench's SQL."""
    return _SQL_START.match(data[:65536]) is not None


def is_row(value: Any) -> bool:
    """Whether a JSON object is a row of llama-bench."""
    return isinstance(value, dict) and has_columns(value)


def has_columns(names: Iterable[str]) -> bool:
    """Whether `names` are the columns of llama-bench."""
    found = set(names)
    return {"n_prompt", "n_gen", "model_filename"} <= found and bool(
        found & {"avg_ns", "samples_ns"}
    )


def read(files: Sequence[ForeignFile], form: str, told: Told) -> Source:
    """Every row of `files`; the same test in two files is two repeats.

    Raises ArmbenchError, with file and row, where one is not as llama-bench writes it.
    """
    rows = [
        _row(Fields(raw, f"{file.name} row {index + 1}"), told)
        for file in files
        for index, raw in enumerate(_raw(file, form))
    ]
    return Source(tool=TOOL, format=form, rows=rows, notes=[NOTE])


def _raw(file: ForeignFile, form: str) -> Iterator[Any]:
    if form == "sql":
        yield from _inserted(file)
    elif form == "csv":
        yield from table(file)
    else:
        for value in file.documents:
            yield from value if isinstance(value, list) else [value]


def _inserted(file: ForeignFile) -> Iterator[dict[str, str]]:
    """The rows of INSERT statements; llama-bench puts every value in quotes and escapes none."""
    for number_, line in enumerate(re.split(r"(?<=;)\s*\n", file.text), 1):
        statement = line.strip()
        if not statement.startswith("INSERT"):
            continue
        match = _INSERT.fullmatch(statement)
        names = [n.strip(' \t\r\n"') for n in match[2].split(",")] if match else []
        values = match[3].split("', '") if match else []
        if match is None or match[1] != "llama_bench" or len(names) != len(values):
            raise ArmbenchError(
                f"{file.name} statement {number_} is no INSERT as llama-bench writes it"
            )
        yield {n: v.replace("''", "'") for n, v in zip(names, values, strict=True)}


def _version(fields: Fields) -> str | None:
    """`4753 (51f311e0)`; None where neither is told."""
    build, commit = fields.count("build_number"), fields.text("build_commit")
    if build is None:
        return commit
    return f"{build} ({commit})" if commit else str(build)


def _beside(fields: Fields) -> dict[str, object]:
    """What a row tells of the machine."""
    told = {k: fields.text(k) for k in ("cpu_info", "gpu_info")}
    return {k: v for k, v in told.items() if v and v != "CPU"}


def _row(fields: Fields, told: Told) -> Row:
    prompt, output = fields.need_count("n_prompt", 1 << 31), fields.need_count("n_gen", 1 << 31)
    if prompt + output == 0:
        raise ArmbenchError(f"{fields.where} measured no token")
    model_type = fields.text("model_type") or ""
    settings = _settings(fields.raw)
    options = {
        name: llama_rows.typed(name, value)
        for name, value in settings.items()
        if llama_rows.NAME.fullmatch(name) and not isinstance(value, list | dict)
    }
    depth = fields.count("n_depth", 1 << 31) or 0
    trial = _trial(fields, prompt, output, depth)
    trial.extra |= {name: value for name, value in settings.items() if name not in options}
    if not depth:
        options.pop("n_depth", None)
    version = _version(fields)
    return Row(
        model=_model(fields, model_type, told),
        variant=Variant(
            engine=ENGINE,
            dtype=llama_rows.dtype_of(model_type),
            threads=fields.count("n_threads", 1 << 20) or None,
            options=options,
        ),
        load=LoadPoint(
            kind="single_stream",
            batch=1,
            input_tokens=prompt,
            output_tokens=output,
            requests=1,  # repeated, as the samples say where a format has them
        ),
        trial=trial,
        at=_time(fields),
        version=version,
        software={ENGINE: version} if version else {},
        extra=_beside(fields),
    )


def _settings(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a row has beside `TAKEN`, fit to be stored; no column of llama-bench is a secret."""
    own = {name: kept(raw[name]) for name in llama_rows.COLUMNS if name in raw}
    return {k: v for k, v in (kept(raw) | own).items() if k not in llama_rows.TAKEN}


def _model(fields: Fields, model_type: str, told: Told) -> ModelIdentity:
    path = fields.text("model_filename") or model_type or "model"
    name = re.split(r"[/\\]", path)[-1].removesuffix(".gguf")
    return ModelIdentity(
        name=told.model or name or "model",
        weights=None,
        family=llama_rows.family_of(model_type),
        parameters=fields.count("model_n_params") or None,
        config_sha256=None,
        files={},
    )


def _time(fields: Fields) -> datetime.datetime | None:
    text = fields.text("test_time")
    try:
        return datetime.datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise fields.fault("test_time", text, "a date and time") from error


def _samples(fields: Fields) -> list[float]:
    """Seconds of each repetition; none where the format has only their mean (CSV, SQL)."""
    values = fields.items("samples_ns")
    found = [number(v) for v in values]
    if len(values) > _MAX_SAMPLES or not all(v is not None and v > 0 for v in found):
        raise fields.fault("samples_ns", values[:3], "positive times")
    return [v / 1e9 for v in found if v is not None]


def _trial(fields: Fields, prompt: int, output: int, depth: int) -> Trial:
    """The test as figures: what it timed, divided by definition."""
    seconds = _samples(fields)
    mean = statistics.fmean(seconds) if seconds else fields.need("avg_ns") / 1e9
    if mean <= 0:
        raise ArmbenchError(f"{fields.where} took no time")
    names = metrics_of(prompt, output, depth)
    trial = blank_trial()
    trial.figures = {name: tokens / mean for name, tokens in names.items()}
    trial.samples = {name: [n / s for s in seconds] for name, n in names.items() if seconds}
    if prompt and output and seconds:
        trial.figures["latency_p50_s"] = statistics.median(seconds)
    told = {k: fields.number(k) for k in ("avg_ns", "stddev_ns", "avg_ts", "stddev_ts")}
    size = {"model_type": fields.text("model_type"), "model_size": fields.count("model_size")}
    trial.extra = {k: v for k, v in {**told, **size}.items() if v is not None}
    return trial


def metrics_of(prompt: int, output: int, depth: int) -> dict[str, int]:
    """Which of our rates a test is, with the tokens that are divided by its time.

    An output rate has its prefill inside the window, so `tg` is one only from an empty context.
    """
    if prompt and output:
        return {
            "output_tok_per_s": output,
            "input_tok_per_s": prompt,
            "total_tok_per_s": prompt + output,
        }
    if prompt:
        return {"prefill_tok_per_s": prompt}
    return {"decode_tok_per_s": output} | ({} if depth else {"output_tok_per_s": output})
