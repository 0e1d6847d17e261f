"""Engines as sheets: all of them, or one with its options."""

from __future__ import annotations

from collections.abc import Sequence

from harness.abilities import EngineRow
from harness.reports.sheet import MISSING, Column, Sheet

_YES = {True: "yes", False: MISSING}


def engines_sheet(rows: Sequence[EngineRow]) -> Sheet:
    """A row for each engine, endpoint and server; below it what is missing and how it comes."""
    columns = [
        Column(label="engine", right=False),
        Column(label="kind", right=False),
        Column(label="installed", right=False),
        Column(label="dtypes", right=False),
        Column(label="serves", right=False),
        Column(label="weights shared", right=False),
        Column(label="on this machine", right=False),
    ]
    cells = [
        [
            row.engine,
            row.kind,
            _installed(row),
            " ".join(row.dtypes) or MISSING,
            _YES[row.serves],
            _YES[row.shares_weights],
            "; ".join(row.here) or MISSING,
        ]
        for row in rows
    ]
    notes = [note for row in rows if (note := lack(row))]
    notes.append("options of one: armbench engines NAME; weights shared: by its instances")
    return Sheet(title="engines", columns=columns, rows=cells, notes=notes)


def _installed(row: EngineRow) -> str:
    if row.missing:
        return "no"
    if row.installed is None:
        return "?"
    if row.kind == "server":
        return row.program or MISSING
    return ", ".join(f"{name} {version or '?'}" for name, version in row.versions.items()) or "yes"


def lack(row: EngineRow) -> str | None:
    """What `row` lacks and what brings it; None where nothing is missing."""
    if row.missing:
        return f"{row.engine} lacks {', '.join(row.missing)}: {row.install}"
    if row.conversion_missing:
        missing = ", ".join(row.conversion_missing)
        return f"{row.engine} cannot convert a checkpoint without {missing}: {row.install}"
    return None


def engine_sheet(row: EngineRow) -> Sheet:
    """The options of one engine with defaults and meanings; notes say what else it is."""
    columns = [
        Column(label="option", right=False),
        Column(label="default", right=False),
        Column(label="meaning", right=False),
    ]
    cells = [
        [f"{row.engine}.{key}", _toml(value), row.option_help.get(key, MISSING)]
        for key, value in row.options.items()
    ]
    notes = [f"dtypes: {', '.join(row.dtypes)}"] if row.dtypes else []
    notes += [f"{row.kind}, installed: {_installed(row)}", *row.here]
    if row.converts:
        notes.append("it converts the checkpoint once; see armbench cache list")
    if missing := lack(row):
        notes.append(missing)
    return Sheet(title=f"{row.engine}: {row.about}", columns=columns, rows=cells, notes=notes)


def _toml(value: object) -> str:
    """`value` as it is written after `--option NAME=`."""
    return str(value).lower() if isinstance(value, bool) else str(value)
