"""Which results lie below a folder: a line for each, from the index or from the files' heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from msgspec import Struct

from harness.errors import ArmbenchError
from harness.interchange import index, long_table
from harness.interchange.long_table import Head
from harness.machine.detect import machine_slug

OUTPUT = "output_tok_per_s"
FILTERS = ("machine", "plan", "model")
# `contains` takes the text as it is, where LIKE would read % and _ in it.
_QUERY = f"""
WITH best AS (
    SELECT figures.key, max(figures.value) AS output
    FROM figures JOIN cases ON cases.key = figures.key AND cases.case_id = figures.case_id
    WHERE figures.metric = '{OUTPUT}' AND cases.valid GROUP BY figures.key
), told AS (
    SELECT key, any_value(created) AS created, any_value(machine) AS machine,
    any_value(plan) AS plan, any_value(model) AS model, any_value(basis) AS basis,
    any_value(finished) AS finished, count(*) FILTER (valid) AS valid, count(*) AS cases
    FROM cases GROUP BY key
)
SELECT file, created, machine, plan, model, basis, finished, valid, cases, output,
count(*) OVER () AS found
FROM files JOIN told USING (key) LEFT JOIN best USING (key)
WHERE {{where}} ORDER BY created DESC, file DESC LIMIT ?
"""  # noqa: S608


class Row(Struct, kw_only=True):
    """One result. `output` is the highest output rate of its valid cases, tok/s."""

    file: str
    created: str
    machine: str
    plan: str
    model: str
    basis: str
    finished: bool
    valid: int
    cases: int
    output: float | None


class Listing(Struct, kw_only=True):
    """Rows newest first, how many there are without a limit, and which files can't be read."""

    rows: list[Row]
    found: int
    skipped: list[str]


def results(root: Path, wanted: Mapping[str, str], *, limit: int) -> Listing:
    """The newest `limit` results below `root` whose `FILTERS` contain these texts.

    Raises ArmbenchError where `root` is no folder.
    """
    if not root.is_dir():
        raise ArmbenchError(f"results folder {root} does not exist", hint="give --results DIR")
    if find_spec("duckdb") is None:
        return _of_heads(root, wanted, limit)
    return _of_index(root, wanted, limit)


def _of_index(root: Path, wanted: Mapping[str, str], limit: int) -> Listing:
    where = [f"contains(lower({name}), lower(?))" for name in FILTERS if name in wanted]
    values = [wanted[name] for name in FILTERS if name in wanted]
    query = _QUERY.format(where=" AND ".join(where) or "true")
    path = index.refresh(root)
    with index.duckdb().connect(str(path), read_only=True, config=index.BOUNDS) as connection:
        told = connection.execute(query, [*values, limit]).fetchall()
        skipped = index.faults(connection)
    rows = [Row(**dict(zip(Row.__struct_fields__, row[:-1], strict=True))) for row in told]
    return Listing(rows=rows, found=told[0][-1] if told else 0, skipped=skipped)


def _of_heads(root: Path, wanted: Mapping[str, str], limit: int) -> Listing:
    """The same without duckdb: every file is read, but no trial of it is kept."""
    rows, skipped = [], []
    for name, head in index.read(root, sorted(index.states(root))):
        if isinstance(head, str):
            skipped.append(f"{name}: {head}")
        elif head.plan.cases:
            rows.append(_row(name, head))
    rows = [row for row in rows if _matches(row, wanted)]
    rows.sort(key=lambda row: (row.created, row.file), reverse=True)
    return Listing(rows=rows[:limit], found=len(rows), skipped=skipped)


def _row(name: str, head: Head) -> Row:
    valid = [case.id for case in head.plan.cases if long_table.valid(head, case)]
    return Row(
        file=name,
        created=head.created,
        machine=machine_slug(head.machine),
        plan=head.plan.name,
        model=head.model.name,
        basis=long_table.basis(head),
        finished=head.finished,
        valid=len(valid),
        cases=len(head.plan.cases),
        output=max(_outputs(head, valid), default=None),
    )


def _outputs(head: Head, cases: Iterable[int]) -> Iterator[float]:
    for case in cases:
        figure: Any = head.summary.get(str(case), {}).get(OUTPUT)
        if figure is not None:
            yield figure.value


def _matches(row: Row, wanted: Mapping[str, str]) -> bool:
    return all(text.lower() in getattr(row, name).lower() for name, text in wanted.items())
