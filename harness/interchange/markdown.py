"""The table of a result in GitHub's Markdown; what a file says is shown, never interpreted."""

from __future__ import annotations

import re

from harness.interchange.export import Export
from harness.records.run import Result
from harness.reports.sheet import Sheet, run_sheet

_SPECIAL = re.compile(r"([\\`*_\[\]|~])")
_LEADING = re.compile(r"^([#+>-]|\d+[.)])")


def write(result: Result) -> Export:
    """Title, where it comes from, table, notes and warnings."""
    name = f"{result.basis}, by {result.tool}"
    told = f" ({result.origin.source})" if result.origin and result.origin.source else ""
    text = as_markdown(run_sheet(result), [f"{name}{told}"], result.warnings)
    return Export(text=text, left_out=["all that `armbench show` does not print"])


def as_markdown(sheet: Sheet, above: list[str], warned: list[str]) -> str:
    """A sheet as a pipe table, the notes below as a list."""
    heads = [f"{c.label} {c.unit}".strip() for c in sheet.columns]
    rules = ["---:" if c.right else "---" for c in sheet.columns]
    lines = [f"### {escaped(sheet.title)}", ""]
    lines += [escaped(text) for text in above] + [""]
    lines += [_row([escaped(h) for h in heads]), _row(rules)]
    lines += [_row([escaped(cell) for cell in row]) for row in sheet.rows]
    notes = [f"- {escaped(note)}" for note in sheet.notes]
    notes += [f"- **warning:** {escaped(text)}" for text in warned]
    return "\n".join([*lines, "", *notes]) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """`text` so that neither Markdown nor HTML in it takes effect, on one line."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _LEADING.sub(r"\\\1", _SPECIAL.sub(r"\\\1", plain))
