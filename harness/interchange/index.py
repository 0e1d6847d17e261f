"""A folder of results as a DuckDB file in the user's cache, brought up to date file by file.

A result file counts as unchanged while its size and its time of change are. A new state is written
beside the old one and takes its place, so that readers always see a whole one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import harness
from harness import places, store
from harness.errors import ArmbenchError
from harness.interchange import long_table
from harness.interchange.long_table import COLUMNS, METRIC_COLUMNS, Head
from harness.records.run import SCHEMA

_BATCH = 20_000  # rows held in Python at once
_FILES = {"key": "INTEGER", "file": "VARCHAR", "changed": "BIGINT", "size": "BIGINT"} | {
    "fault": "VARCHAR"
}
_CASES = {"key": "INTEGER", **{column.name: column.type for column in COLUMNS}}
_FIGURES = {"key": "INTEGER", "case_id": "BIGINT", **METRIC_COLUMNS}
_TABLES = {"files": _FILES, "cases": _CASES, "figures": _FIGURES}
_VIEW = """
CREATE VIEW results AS
SELECT files.file, cases.* EXCLUDE (key), figures.* EXCLUDE (key, case_id)
FROM files JOIN cases USING (key) JOIN figures ON figures.key = cases.key
AND figures.case_id = cases.case_id
"""
# What reading may take: enough to sort and group the index of ten thousand results.
BOUNDS = {"memory_limit": "160MB", "threads": "2"}
_NUMBERS = {"DOUBLE": "float64"}


def duckdb() -> Any:
    """The package. Raises ArmbenchError, with what to install, where it is missing."""
    try:
        return importlib.import_module("duckdb")
    except ImportError as error:
        raise ArmbenchError(
            "SQL and Parquet need duckdb, which is not installed here",
            hint="pip install 'armbench[sql]'",
        ) from error


class State(NamedTuple):
    """When a file last changed, and how large it is."""

    changed: int
    size: int


def path_of(root: Path) -> Path:
    """Where the index of a results folder lies, by this version of both programs."""
    about = [str(root.resolve()), harness.__version__, duckdb().__version__, SCHEMA, _TABLES]
    key = hashlib.sha256(msgspec.json.encode(about)).hexdigest()[:20]
    return places.cache_dir() / "tables" / f"{key}.duckdb"


def refresh(root: Path) -> Path:
    """The index of `root`, brought up to date.

    Raises ArmbenchError where `root` is no folder or the cache can't be written.
    """
    if not root.is_dir():
        raise ArmbenchError(f"results folder {root} does not exist", hint="give --results DIR")
    path, present = path_of(root), states(root)
    known = _known(path)
    if known == present:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            if known is not None:
                shutil.copyfile(path, draft)
            _update(draft, root, known, present)
            draft.replace(path)
    except OSError as error:
        raise ArmbenchError(
            f"the index {path} cannot be written: {error.strerror}",
            hint="set ARMBENCH_CACHE to a folder that can",
        ) from error
    return path


def states(root: Path) -> dict[str, State]:
    """Every result file below `root` by its path from there."""
    found: dict[str, State] = {}
    for machine in _folders(root):
        for plan in _folders(Path(machine.path)):
            if plan.name == store.CEILINGS:
                continue
            for entry in _entries(Path(plan.path)):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    with contextlib.suppress(OSError):
                        told = entry.stat()
                        name = f"{machine.name}/{plan.name}/{entry.name}"
                        found[name] = State(told.st_mtime_ns, told.st_size)
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    return [e for e in _entries(folder) if e.is_dir() and not e.name.startswith(".")]


def faults(connection: Any) -> list[str]:
    """Which files of the folder are no results that can be read, and why."""
    query = "SELECT file || ': ' || fault FROM files WHERE fault IS NOT NULL ORDER BY file"
    return [fault for (fault,) in connection.execute(query).fetchall()]


def _known(path: Path) -> dict[str, State] | None:
    """What the index holds; None where there is none that can be read."""
    if not path.is_file():
        return None
    library = duckdb()
    try:
        with library.connect(str(path), read_only=True) as connection:
            rows = connection.execute("SELECT file, changed, size FROM files").fetchall()
    except library.Error:
        return None
    return {file: State(changed, size) for file, changed, size in rows}


def _update(
    path: Path, root: Path, known: dict[str, State] | None, present: dict[str, State]
) -> None:
    held = known or {}
    stale = [name for name, state in held.items() if present.get(name) != state]
    fresh = [name for name, state in present.items() if held.get(name) != state]
    with duckdb().connect(str(path)) as connection:
        if known is None:
            create(connection)
        if stale:
            connection.execute("CREATE TEMP TABLE stale AS SELECT unnest(?) AS file", [stale])
            keys = "(SELECT key FROM files JOIN stale USING (file))"
            for table in ("figures", "cases", "files"):
                connection.execute(f"DELETE FROM {table} WHERE key IN {keys}")  # noqa: S608
        last = connection.execute("SELECT coalesce(max(key), -1) FROM files").fetchall()[0][0]
        fill(connection, read(root, fresh), present, int(last) + 1)


def create(connection: Any) -> None:
    """Make the empty tables, and the view that joins them."""
    for name, columns in _TABLES.items():
        listed = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
        connection.execute(f"CREATE TABLE {name} ({listed})")
    connection.execute(_VIEW)


def read(root: Path, names: Iterable[str]) -> Iterator[tuple[str, Head | str]]:
    """The head of each file, or why it can't be read."""
    decoder = msgspec.json.Decoder(Head)
    for name in names:
        path = root / name
        try:
            one = decoder.decode(path.read_bytes())
            yield name, one if one.schema == SCHEMA else long_table.head(store.load(path))
        except ArmbenchError as error:
            yield name, error.message
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield name, str(error)


class _Rows(NamedTuple):
    """What one file adds to each table."""

    files: list[tuple[Any, ...]]
    cases: list[tuple[Any, ...]]
    figures: list[tuple[Any, ...]]


def fill(
    connection: Any,
    found: Iterable[tuple[str, Head | str]],
    present: dict[str, State],
    first: int = 0,
) -> None:
    """Add files with their heads, or the reasons why they have none."""
    waiting: list[_Rows] = []
    held = 0
    for key, (name, of) in enumerate(found, first):
        rows = _rows(key, name, present.get(name, State(0, 0)), of)
        waiting.append(rows)
        held += len(rows.figures)
        if held >= _BATCH:
            _append(connection, waiting)
            waiting, held = [], 0
    _append(connection, waiting)


def _rows(key: int, name: str, state: State, of: Head | str) -> _Rows:
    if isinstance(of, str):
        return _Rows([(key, name, state.changed, state.size, of)], [], [])
    cases, figures = [], []
    for case in of.plan.cases:
        cases.append((key, *(column.value(of, case) for column in COLUMNS)))
        figures += [(key, case.id, *row) for row in long_table.metric_rows(of, case)]
    return _Rows([(key, name, state.changed, state.size, None)], cases, figures)


def _append(connection: Any, waiting: list[_Rows]) -> None:
    """Insert the rows of several files; where that fails, it is the fault of one of them."""
    connection.begin()
    try:
        _insert(connection, waiting)
        connection.commit()
    except (duckdb().Error, UnicodeEncodeError) as error:
        connection.rollback()
        if len(waiting) > 1:
            for one in waiting:
                _append(connection, [one])
            return
        ((*told, _),) = waiting[0].files
        _insert(connection, [_Rows([(*told, str(error))], [], [])])


def _insert(connection: Any, waiting: list[_Rows]) -> None:
    """Insert by column, which DuckDB takes from NumPy many times as fast as by row."""
    import numpy as np

    for table, columns in _TABLES.items():
        rows = [row for one in waiting for row in getattr(one, table)]
        if not rows:
            continue
        arrays = {
            name: np.array(values, dtype=_NUMBERS.get(kind, object))
            for (name, kind), values in zip(columns.items(), zip(*rows, strict=True), strict=True)
        }
        connection.register("incoming", arrays)
        connection.execute(f"INSERT INTO {table} SELECT * FROM incoming")  # noqa: S608
        connection.unregister("incoming")
