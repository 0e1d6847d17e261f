"""Which tool wrote a file, by its content, and the results in it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from harness import store
from harness.errors import ArmbenchError, unknown_name
from harness.interchange import aiperf, ampere, beside, foreign, guidellm, llama_bench, vllm
from harness.interchange.assemble import Source, Told, results
from harness.interchange.foreign import ForeignFile
from harness.machine.detect import machine_slug
from harness.records.run import Result

_Reader = Callable[[Sequence[ForeignFile], str, Told], Source]


class _Format(NamedTuple):
    """A format that is read: what it is, and its reader with the word it takes for it."""

    what: str
    read: _Reader
    word: str


READABLE: dict[str, _Format] = {
    "vllm": _Format("vllm bench serve --save-result", vllm.read, "json"),
    "llama-bench-json": _Format("llama-bench -o json", llama_bench.read, "json"),
    "llama-bench-jsonl": _Format("llama-bench -o jsonl", llama_bench.read, "jsonl"),
    "llama-bench-sql": _Format("llama-bench -o sql", llama_bench.read, "sql"),
    "llama-bench-csv": _Format("llama-bench -o csv", llama_bench.read, "csv"),
    "guidellm": _Format("GuideLLM's benchmarks.json", guidellm.read, "json"),
    "aiperf": _Format("AIPerf's profile_export_aiperf.json and .jsonl", aiperf.read, "json"),
    "ampere": _Format("CSV of Ampere's llama.cpp benchmark", ampere.read, "csv"),
}
_WRITE_ONLY = {
    "pytest-benchmark": {"machine_info", "commit_info", "benchmarks"},
    "Google Benchmark": {"context", "benchmarks"},
}


def read(
    paths: Sequence[Path],
    *,
    beside_paths: Sequence[Path] = (),
    form: str | None = None,
    told: Told | None = None,
) -> list[Result]:
    """The results in files of one tool: one for each model, repeats where a test is there twice.

    `beside_paths` tell of the machine they were measured on, `told` is what the user says; `form`
    is one of `READABLE`, else the content tells it. Raises ArmbenchError for a file that can't be
    read, is of no known format, or is not of the same one as the others.
    """
    if not paths:
        raise ArmbenchError("no file to import", hint=f"formats: {', '.join(READABLE)}")
    if form is not None and form not in READABLE:
        raise unknown_name("format", form, READABLE)
    files = [foreign.read(path) for path in paths]
    groups: dict[str, list[ForeignFile]] = {}
    for file in files:
        groups.setdefault(form or recognise(file), []).append(file)
    tools = {READABLE[name].read for name in groups}
    if len(tools) > 1:
        raise ArmbenchError(
            f"the files are of different tools: {', '.join(sorted(groups))}",
            hint="import those of one tool at a time",
        )
    known = beside.read([foreign.read(path) for path in beside_paths])
    told = told or Told()
    if known.instance and not told.instance:
        told = msgspec.structs.replace(told, instance=known.instance)
    source = _joined(groups, told)
    source.extra |= known.extra
    return results(source, files, known.machine, told)


def _joined(groups: dict[str, list[ForeignFile]], told: Told) -> Source:
    """What the files of one tool say, whichever of its formats they are in."""
    sources = [
        READABLE[name].read(files, READABLE[name].word, told) for name, files in groups.items()
    ]
    first = sources[0]
    first.format = ", ".join(groups)
    for other in sources[1:]:
        first.rows += other.rows
        first.software |= other.software
        first.notes += [note for note in other.notes if note not in first.notes]
        first.extra |= other.extra
    return first


def recognise(file: ForeignFile) -> str:
    """The name in `READABLE` of the format that the content of `file` has.

    Raises ArmbenchError where it is none of them.
    """
    if llama_bench.is_sql(file.data):
        return "llama-bench-sql"
    if file.data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"{", b"["):
        return _table(file)
    values = file.documents
    value = values[0]
    if isinstance(value, list):
        if value and llama_bench.is_row(value[0]):
            return "llama-bench-json"
        raise _unknown(file)
    for name, fits in (
        ("llama-bench-jsonl", llama_bench.is_row),
        ("vllm", vllm.is_run),
        ("guidellm", guidellm.is_report),
        ("aiperf", aiperf.is_record),
        ("aiperf", aiperf.is_summary),
    ):
        if fits(value):
            return name
    if {"schema", "armbench", "plan"} <= set(value):
        raise ArmbenchError(
            f"{file.name} is a result of armbench already", hint="show or compare it as it is"
        )
    for tool, keys in _WRITE_ONLY.items():
        if keys <= set(value):
            raise ArmbenchError(f"{file.name} is of {tool}, which is written but not read here")
    raise _unknown(file)


def _table(file: ForeignFile) -> str:
    names = file.text.partition("\n")[0].strip().replace('"', "").split(",")
    if llama_bench.has_columns(names):
        return "llama-bench-csv"
    if ampere.is_row(names):
        return "ampere"
    raise _unknown(file)


def _unknown(file: ForeignFile) -> ArmbenchError:
    known = "; ".join(f"{name} ({form.what})" for name, form in READABLE.items())
    return ArmbenchError(f"{file.name} is of no format that is read here", hint=f"known: {known}")


def save(found: Sequence[Result], root: Path) -> list[Path]:
    """Write results below `root` as runs are; the same files imported again replace their result.

    Each of `found` has a file of its own. Raises ArmbenchError where one can't be written.
    """
    paths: list[Path] = []
    for result in found:
        when = datetime.datetime.fromisoformat(result.created)
        path = store.new_path(root, machine_slug(result.machine), result.plan.name, when)
        stem = when.strftime("%Y%m%dT%H%M%SZ")
        for other in sorted(path.parent.glob(f"{stem}*.json")):
            if other not in paths and _same_origin(other, result):
                path = other
                break
        store.save(result, path)
        paths.append(path)
    return paths


def _same_origin(path: Path, result: Result) -> bool:
    try:
        known = store.load(path)
    except ArmbenchError:
        return False
    return known.origin is not None and _identity(known) == _identity(result)


def _identity(result: Result) -> tuple[object, ...]:
    """What tells a result apart from the others of an import, and from other imports."""
    origin, beside = result.origin, result.extra
    files, version = (origin.files, origin.version) if origin else (None, None)
    return files, version, result.model, beside.get("cpu_info"), beside.get("gpu_info")
