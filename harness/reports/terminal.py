"""Sheets on a terminal, or as plain aligned lines where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from harness.conversion import Conversion
from harness.records.run import Plan, Result
from harness.reports.serving import serving_sheets
from harness.reports.sheet import (
    MISSING,
    Column,
    Sheet,
    load_text,
    notes,
    run_sheet,
    tokens_text,
)
from harness.reports.tune import tune_sheets
from harness.units import format_bytes, format_cpu_list, format_duration

PLAIN_WIDTH = 200


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr; wide and plain where that is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(stderr=stderr, highlight=False)
    return Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH, no_color=True)


def table(sheet: Sheet, *, plain: bool) -> Table:
    """`sheet` as a rich table; texts from files are shown as they are, never as markup."""
    drawn = Table(
        title=Text(sheet.title),
        box=None if plain else box.SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    for column in sheet.columns:
        heading = f"{column.label}\n{column.unit}" if column.unit else column.label
        drawn.add_column(
            Text(heading), justify="right" if column.right else "left", overflow="fold"
        )
    for row in sheet.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def show_sheet(sheet: Sheet, out: Console) -> None:
    """Table, then its notes."""
    for part in _sheet_parts(sheet, plain=not out.is_terminal):
        out.print(part)


def _sheet_parts(sheet: Sheet, *, plain: bool) -> Iterator[RenderableType]:
    yield table(sheet, plain=plain)
    for note in sheet.notes:
        yield Text(note, style="dim")


def show_result(result: Result, out: Console) -> None:
    """The table of `result`, its notes, and what must be read with it."""
    for part in result_parts(result, plain=not out.is_terminal):
        out.print(part)


def result_parts(result: Result, *, plain: bool) -> Iterator[RenderableType]:
    """What `show_result` prints, part by part."""
    batched = any(case.load.serving is None for case in result.plan.cases)
    sheets = [*([run_sheet(result)] if batched else []), *serving_sheets(result)]
    for sheet in [*sheets, *tune_sheets(result)]:
        yield from _sheet_parts(sheet, plain=plain)
    for note in notes(result):
        yield Text(note, style="dim")
    for warning in result.warnings:
        yield Text(f"warning: {warning}", style="yellow")


def show_tune(result: Result, out: Console) -> None:
    """The answer of a search, and what must be read with it."""
    for sheet in tune_sheets(result):
        show_sheet(sheet, out)
    for warning in result.warnings:
        out.print(Text(f"warning: {warning}"), style="yellow")


def show_plan(plan: Plan, out: Console) -> None:
    """The plan in a few lines."""
    trials = len(plan.order)
    budget = "no limit" if plan.time_budget_s is None else format_duration(plan.time_budget_s)
    out.print(
        Text(
            f"plan {plan.name}: {plan.model}, {len(plan.cases)} cases × {plan.repeats} repeats = "
            f"{trials} trials, time budget {budget}"
        )
    )
    out.print(
        Text(
            f"engine threads on CPUs {format_cpu_list(plan.cpus) or MISSING}, driver on "
            f"{format_cpu_list(plan.driver_cpus)}"
        )
    )
    for note in plan.notes:
        out.print(Text(f"note: {note}"), style="yellow")


def show_dry_run(
    plan: Plan,
    seconds: float,
    memory: Mapping[int, int],
    conversions: Sequence[Conversion],
    out: Console,
) -> None:
    """Every case with its memory, the time and what conversions need; nothing was run."""
    show_plan(plan, out)
    columns = [
        Column(label="engine", right=False),
        Column(label="dtype", right=False),
        Column(label="threads"),
        Column(label="load", right=False),
        Column(label="tokens", unit="in+out"),
        Column(label="options", right=False),
        Column(label="memory"),
    ]
    rows = [
        [
            case.variant.engine,
            case.variant.dtype or MISSING,
            case.variant.shape or MISSING,
            load_text(case),
            tokens_text(case),
            ", ".join(f"{k}={v}" for k, v in case.variant.options.items()),
            format_bytes(memory[case.id]),
        ]
        for case in plan.cases
    ]
    about = f"about {format_duration(seconds)} for the trials, guessed from NumPy's speed here"
    notes = [f"{about}; set-up, conversion and checks come on top"]
    notes += [
        f"{c.label} converts the checkpoint once, unless it lies in the cache: up to "
        f"{format_bytes(c.disk_bytes)} of disk and {format_bytes(c.memory_bytes)} of memory"
        for c in conversions
    ]
    show_sheet(Sheet(title="would run", columns=columns, rows=rows, notes=notes), out)
