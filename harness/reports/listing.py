"""The table of `armbench list`."""

from __future__ import annotations

from harness.interchange.listing import Listing, Row
from harness.reports.sheet import MISSING, Column, Sheet, number


def listing_sheet(found: Listing) -> Sheet:
    """A row for each result."""
    labels = ("file", "date", "machine", "plan", "model", "basis")
    columns = [Column(label=label, right=False) for label in labels]
    columns += [
        Column(label="cases", unit="valid/asked"),
        Column(label="best output", unit="tok/s"),
    ]
    notes = ["best output: the highest output rate of the valid cases"] if found.rows else []
    if len(found.rows) < found.found:
        notes.append(f"newest {len(found.rows)} of {found.found}: --limit shows more")
    if not found.rows:
        notes.append("no result")
    rows = [_row(row) for row in found.rows]
    return Sheet(title="results", columns=columns, rows=rows, notes=notes)


def _row(row: Row) -> list[str]:
    cases = f"{row.valid}/{row.cases}"
    return [
        row.file,
        row.created[:16].replace("T", " ") or MISSING,
        row.machine,
        row.plan,
        row.model,
        row.basis,
        cases if row.finished else f"unfinished {cases}",
        number(row.output),
    ]
