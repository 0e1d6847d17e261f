"""The outcome of a gate for other programs: Markdown for a job summary, JUnit XML, JSON.

Names in them come from files of strangers: in Markdown each stands in a code span, where neither
HTML nor links nor mentions are read; in XML everything is escaped, and characters that XML does not
know are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from xml.etree import ElementTree as ET

import msgspec

from harness.errors import EXIT_MEANINGS, Exit
from harness.records.comparison import Comparison, GateOutcome, GateRow
from harness.reports.comparison import comparison_sheets, gate_sheet
from harness.reports.sheet import Column, Sheet

_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_MARKS = {"invalid": "⛔", "regressed": "🔴", "inconclusive": "🟡", "improved": "🟢"}
_LONGEST = 30_000  # characters; GitHub takes 65,536 in a comment, which two of them share
_FOLD, _END = "<details>", "</details>"


def code(text: str) -> str:
    """`text` as a Markdown code span that fits into a table; empty for an empty text."""
    flat = _CONTROL.sub(" ", text).replace("`", "'").replace("|", "\\|").strip()
    return f"`{flat}`" if flat else ""


def table(sheet: Sheet) -> list[str]:
    """`sheet` as lines of a Markdown table."""
    heads = [_heading(column) for column in sheet.columns]
    rule = ["---:" if column.right else "---" for column in sheet.columns]
    lines = [_line(heads), _line(rule)]
    return lines + [_line([code(cell) for cell in row]) for row in sheet.rows]


def _heading(column: Column) -> str:
    """Of a price, the unit comes from a result as well."""
    return code(f"{column.label} ({column.unit})" if column.unit else column.label)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def gate_markdown(outcome: GateOutcome, command: str = "gate") -> str:
    """The summary, the verdict table, and folded away what it was compared with."""
    name = EXIT_MEANINGS[Exit(outcome.exit)]
    mark = "✅" if outcome.exit == Exit.FINE else "❌"
    lines = [f"### {mark} armbench {command}: {name}", "", code(outcome.summary), ""]
    if outcome.failing:
        lines += [f"Failing: {', '.join(code(text) for text in outcome.failing)}", ""]
    if outcome.rows:
        sheet = gate_sheet(outcome)
        for row in sheet.rows:
            row[0] = f"{_MARKS.get(row[0], '')} {row[0]}".strip()
        lines += [*table(sheet), "", *(f"- {code(note)}" for note in sheet.notes), ""]
    if outcome.comparison is not None:
        lines += _folded(outcome.comparison)
    return _cut(lines)


def _folded(comparison: Comparison) -> list[str]:
    lines = [f"{_FOLD}<summary>Sides, fair shares, outputs, environments</summary>", ""]
    for sheet in comparison_sheets(comparison)[1:]:
        lines += [f"**{code(sheet.title)}**", "", *table(sheet), ""]
        lines += [*(f"- {code(note)}" for note in sheet.notes), ""]
    return [*lines, _END, ""]


def comparison_markdown(comparison: Comparison, only: Collection[str] = ()) -> str:
    """Every table of a comparison; `only` as in `comparison_sheets`."""
    lines: list[str] = []
    for sheet in comparison_sheets(comparison, only):
        lines += [f"### {code(sheet.title)}", "", *table(sheet), ""]
        lines += [*(f"- {code(note)}" for note in sheet.notes), ""]
    return _cut(lines)


def _cut(lines: Sequence[str]) -> str:
    """Whole lines up to what a comment may hold; what is folded away ends with them."""
    tail = ["", "… cut here: see the JSON for the rest", ""]
    left = _LONGEST - len("\n".join([*tail, _END, ""]))
    kept: list[str] = []
    for line in lines:
        left -= len(line) + 1
        if left < 0:
            folded = any(x.startswith(_FOLD) for x in kept) and _END not in kept
            return "\n".join([*kept, *tail, *([_END, ""] if folded else [])])
        kept.append(line)
    return "\n".join(kept)


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def junit(outcome: GateOutcome, command: str = "gate") -> str:
    """One suite: regressed rows fail, invalid ones are errors, inconclusive ones are skipped.

    An outcome without rows (not comparable, too short) is one error, so that it never passes.
    """
    rows = outcome.rows or [
        GateRow(case=command, metric="all", state="invalid", text=outcome.summary)
    ]
    counts = {state: sum(row.state == state for row in rows) for state in _RESULTS}
    suite = ET.Element(
        "testsuite",
        name=f"armbench {command}",
        tests=str(len(rows)),
        failures=str(counts["regressed"]),
        errors=str(counts["invalid"]),
        skipped=str(counts["inconclusive"] + counts["skipped"]),
    )
    for row in rows:
        _testcase(suite, row)
    whole = ET.Element("testsuites")
    whole.append(suite)
    ET.indent(whole)
    body = ET.tostring(whole, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


_RESULTS = {
    "regressed": "failure",
    "invalid": "error",
    "inconclusive": "skipped",
    "skipped": "skipped",
}


def _testcase(suite: ET.Element, row: GateRow) -> None:
    case = ET.SubElement(suite, "testcase", classname=_clean(row.case), name=_clean(row.metric))
    text = _clean(f"{row.state}: {row.text}")
    if row.state in _RESULTS:
        ET.SubElement(case, _RESULTS[row.state], message=text, type=row.state)
    ET.SubElement(case, "system-out").text = text


def as_json(outcome: GateOutcome | Comparison) -> str:
    """All of it, indented."""
    return msgspec.json.format(msgspec.json.encode(outcome), indent=2).decode() + "\n"
