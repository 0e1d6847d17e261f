"""What `armbench load` shows before it offers anything: schedules, and the client's ceiling."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from harness.endpoint_spec import Scheduled
from harness.load.selfcheck import ClientCeiling
from harness.load.summary import Spread
from harness.records.run import Case, Variant
from harness.reports.sheet import MISSING, Column, Sheet, load_text, number
from harness.reports.terminal import show_sheet
from harness.units import format_duration

_COLUMNS = [
    Column(label="load", right=False),
    Column(label="requests"),
    Column(label="lasts"),
    Column(label="rate", unit="req/s"),
    Column(label="gap CV"),
    Column(label="dispersion"),
    Column(label="input", unit="mean (p99)"),
    Column(label="output", unit="mean (p99)"),
    Column(label="SHA-256", right=False),
]


def _spread(spread: Spread | None) -> str:
    return MISSING if spread is None else f"{number(spread.mean)} ({spread.p99})"


def show_schedules(schedules: list[Scheduled], out: Console) -> None:
    """One row for each schedule, and the first requests of the first."""
    rows = []
    for one in schedules:
        seen = one.schedule
        case = Case(id=0, variant=Variant(engine="openai", dtype=None, threads=None), load=one.load)
        lasts = seen.duration_s
        serving = one.load.serving
        if lasts is None and serving is not None:
            lasts = serving.duration_s
        rows.append(
            [
                load_text(case),
                str(seen.requests) if one.load.requests or seen.rate else MISSING,
                MISSING if lasts is None else format_duration(lasts),
                number(seen.rate),
                number(seen.gap_cv),
                number(seen.dispersion),
                _spread(seen.input),
                _spread(seen.output),
                seen.sha256[:12],
            ]
        )
    notes = ["nothing was sent; dispersion is that of counts, 1 in a Poisson process"]
    show_sheet(Sheet(title="would be offered", columns=_COLUMNS, rows=rows, notes=notes), out)
    for planned in schedules[0].schedule.first if schedules else []:
        due = "when a slot is free" if planned.due_ns is None else f"{planned.due_ns / 1e9:.6f} s"
        out.print(
            Text(
                f"  request {planned.id}: due {due}, input {planned.input_tokens}, output "
                f"{planned.output_tokens}, seed {planned.seed}"
            )
        )


def show_self_check(found: ClientCeiling, out: Console) -> None:
    """The client's own ceiling in a line, and what stopped it."""
    out.print(Text(f"one client process takes {found.events_per_s:.0f} token events/s here"))
    out.print(Text(found.reason), style="dim")
