"""SQL over a folder of results, and the long table of results as Parquet; both by DuckDB.

A query sees the table `results` and the three it is joined from. It can read no other file, load no
extension, change no setting and see no Python variable: DuckDB's own settings against untrusted SQL
(duckdb.org, Securing DuckDB), locked before it runs, on a file that is open for reading only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from harness.errors import ArmbenchError
from harness.interchange import index, long_table
from harness.records.run import Result

TABLE = "results"
SECONDS = 60.0
MAX_ROWS = 1_000_000
_LOCKED = {
    "access_mode": "read_only",
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "temp_directory": "",
    "lock_configuration": "true",
    **index.BOUNDS,
}


class Answer(Struct, kw_only=True):
    """What a query gave: names and SQL types of the columns, and the rows.

    `skipped` says which files of the folder are no results that can be read, and why.
    """

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]
    skipped: list[str]


def sql(query: str, root: Path, *, seconds: float = SECONDS) -> Answer:
    """What one SELECT says of the results below `root`: a row for each metric of each case.

    Raises ArmbenchError without duckdb, for anything but one statement that reads, for a fault in
    it, and where it takes longer than `seconds`, over 160 MB or gives over a million rows.
    """
    library = index.duckdb()
    connection = library.connect(str(index.refresh(root)), config=_LOCKED)
    timer = threading.Timer(seconds, connection.interrupt)
    try:
        faults = index.faults(connection)
        timer.start()
        return _asked(connection, query, faults)
    except library.InterruptException as error:
        raise ArmbenchError(f"the query took longer than {seconds:g} s and was stopped") from error
    except library.Error as error:
        raise ArmbenchError(
            f"the query failed: {str(error).strip()}",
            hint=f"columns of {TABLE}: {', '.join(long_table.NAMES)}",
        ) from error
    finally:
        timer.cancel()
        connection.close()


def _asked(connection: Any, query: str, skipped: list[str]) -> Answer:
    statements = connection.extract_statements(query)
    kinds = {str(s.type).rpartition(".")[2] for s in statements}
    if len(statements) != 1 or not kinds <= {"SELECT", "EXPLAIN"}:
        raise ArmbenchError(
            "give one statement that reads, such as SELECT",
            hint=f"the table is {TABLE}; DESCRIBE {TABLE} lists its columns",
        )
    cursor = connection.execute(statements[0])
    told = cursor.description or []
    rows = cursor.fetchmany(MAX_ROWS + 1)
    if len(rows) > MAX_ROWS:
        raise ArmbenchError(f"the query gave over {MAX_ROWS:,} rows", hint="add a LIMIT")
    return Answer(
        columns=[c[0] for c in told], types=[str(c[1]) for c in told], rows=rows, skipped=skipped
    )


def parquet(found: Iterable[tuple[str, Result]], path: Path) -> int:
    """Write the long table of results, each with its file's name, to `path`; how many rows it has.

    Raises ArmbenchError without duckdb, or where the file can't be written.
    """
    library = index.duckdb()
    with library.connect(":memory:") as connection:
        index.create(connection)
        index.fill(connection, ((name, long_table.head(r)) for name, r in found), {})
        for fault in index.faults(connection):
            raise ArmbenchError(f"no table can be made of {fault}")
        return _written(library, connection, path)


def parquet_of_folder(root: Path, path: Path) -> int:
    """Write the long table of every result below `root` to `path`; how many rows it has.

    Raises ArmbenchError without duckdb, or where the file can't be written.
    """
    library = index.duckdb()
    with library.connect(str(index.refresh(root)), read_only=True) as connection:
        return _written(library, connection, path)


def _written(library: Any, connection: Any, path: Path) -> int:
    try:
        connection.table(TABLE).write_parquet(str(path), compression="zstd")
        return int(connection.execute("SELECT count(*) FROM results").fetchall()[0][0])
    except library.Error as error:
        raise ArmbenchError(f"{path} cannot be written: {error}") from error
