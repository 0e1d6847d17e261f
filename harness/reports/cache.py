"""What lies in the cache, as a sheet."""

from __future__ import annotations

from collections.abc import Sequence

from harness.cache import KINDS, Entry
from harness.reports.sheet import MISSING, Column, Sheet
from harness.units import format_bytes, format_duration

_DAY_S = 86400.0


def age_text(seconds: float) -> str:
    """`seconds` ago, in days where there are two or more."""
    if seconds < 0:  # the clock was set back
        return MISSING
    return f"{seconds / _DAY_S:.0f} d" if seconds >= 2 * _DAY_S else format_duration(seconds)


def state_text(entry: Entry) -> str:
    """What an entry is at this moment, where that matters to whoever wants it gone."""
    if entry.leftover:
        return f"left by process {entry.owner}, which is dead"
    if entry.owner is not None:
        return f"being written by process {entry.owner}"
    return "in use" if entry.busy else ""


def cache_sheet(entries: Sequence[Entry], folder: str, now: float) -> Sheet:
    """A row for each entry, sums by kind below."""
    columns = [
        Column(label="kind", right=False),
        Column(label="name", right=False),
        Column(label="size"),
        Column(label="age"),
        Column(label="last used"),
        Column(label="belongs to", right=False),
        Column(label="state", right=False),
    ]
    rows = [
        [
            e.kind,
            e.name,
            format_bytes(e.bytes),
            age_text(now - e.changed),
            age_text(now - e.used) if e.use_noted else MISSING,
            e.belongs or MISSING,
            state_text(e),
        ]
        for e in entries
    ]
    return Sheet(title=f"cache {folder}", columns=columns, rows=rows, notes=_sums(entries))


def _sums(entries: Sequence[Entry]) -> list[str]:
    notes = []
    for kind, meaning in KINDS.items():
        ours = [e.bytes for e in entries if e.kind == kind]
        if ours:
            notes.append(f"{kind}: {len(ours)} of {format_bytes(sum(ours))}, {meaning}")
    total = sum(e.bytes for e in entries)
    return [*notes, f"altogether {format_bytes(total)}; armbench cache prune makes room"]
