"""What a machine can do at best, as sheets: by kind and threads, by cache, against documents."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from harness.errors import ArmbenchError
from harness.machine.catalogue import catalogue
from harness.records.ceilings import CacheCurve, Ceiling, Ceilings, Survey
from harness.records.machine import Machine
from harness.reports.machine import title
from harness.reports.sheet import MISSING, Column, Sheet, number
from harness.reports.terminal import show_sheet
from harness.units import format_bytes

LABELS = {
    "read": "read",
    "copy": "copy",
    "triad": "triad",
    "write": "write",
    "latency": "latency",
    "gemv_i4": "int4 product with weights",
    "f32": "float32",
    "bf16": "bfloat16",
    "i8": "int8",
}
# unit of a ceiling -> how it is shown: factor and unit
_SHOWN = {"bytes/s": (1e-9, "GB/s"), "ops/s": (1e-9, "Gop/s"), "s": (1e9, "ns")}
# our types -> the widths that cpus.toml documents for them; a core can do the largest of them
_WIDTHS = {
    "f32": ("fp32",),
    "bf16": ("bf16", "amx_bf16"),
    "i8": ("int8_dot", "int8_mmla", "amx_int8"),
}


_NOTE = (
    "each value is the best of its repeats, one pinned thread on each CPU; knee: the fewest "
    "threads that reach 95 % of the best; spread: (best − median) ÷ best"
)


def show_survey(survey: Survey, out: Console) -> None:
    """Rates, then the cache curve, then everything to be read with them."""
    show_sheet(rate_sheet(survey), out)
    if survey.curve is not None and survey.curve.points:
        out.print()
        show_sheet(cache_sheet(survey.curve), out)
    for text in survey_notes(survey):
        out.print(Text(text), style="yellow" if text.startswith("warning") else "dim")


def rate_sheet(survey: Survey) -> Sheet:
    """A row for each kind, a column for each thread count."""
    runs = survey.ceilings
    columns = [Column(label="ceiling", right=False), Column(label="unit", right=False)]
    columns += [Column(label=f"{run.threads}T", direction="higher") for run in runs]
    columns += [
        Column(label="knee", unit="threads"),
        Column(label="spread"),
        Column(label="op/cycle", unit="of a core"),
        Column(label="documented", unit="op/cycle"),
        Column(label="of peak"),
        Column(label="kernel", right=False),
    ]
    last = runs[-1]
    rows = [_row(survey, name, runs) for name in last.ceilings]
    form = "short form" if survey.short else "full form"
    return Sheet(
        title=f"ceilings of {title(survey.machine)}, CPUs {last.cpus}, {form}, "
        f"{survey.created[:16]} UTC",
        columns=columns,
        rows=rows,
        notes=[_NOTE],
    )


def _row(survey: Survey, name: str, runs: list[Ceilings]) -> list[str]:
    best = runs[-1].ceilings[name]
    factor, unit = _SHOWN.get(best.unit or "", (1.0, best.unit or MISSING))
    values = [_scaled(run.ceilings.get(name), factor) for run in runs]
    knee = next((s.knee for s in survey.scaling if s.name == name), None)
    return [
        LABELS.get(name, name),
        unit,
        *values,
        str(knee) if knee and len(runs) > 1 else MISSING,
        MISSING if best.spread is None else f"{best.spread:.1%}",
        _cycle(runs[-1], best, name),
        documented_text(survey.machine, name),
        _of_peak(survey.machine, best, name),
        best.kernel or MISSING,
    ]


def _scaled(ceiling: Ceiling | None, factor: float) -> str:
    value = ceiling.value if ceiling else None
    return number(None if value is None else value * factor)


def _cycle(run: Ceilings, best: Ceiling, name: str) -> str:
    return number(run.ops_per_cycle(name)) if best.unit == "ops/s" else MISSING


def documented(machine: Machine, name: str) -> tuple[int, str] | None:
    """Operations per core and cycle that documents give for a type, and their source."""
    if machine.cpu.id is None or name not in _WIDTHS:
        return None
    try:
        found = [catalogue().width(machine.cpu.id, kind) for kind in _WIDTHS[name]]
    except (ArmbenchError, KeyError):  # a survey of a machine that the list has no longer
        return None
    return max(filter(None, found), default=None)


def documented_text(machine: Machine, name: str) -> str:
    """`64 (unverified)`: the documented width, marked where nobody has checked it."""
    found = documented(machine, name)
    if found is None:
        return MISSING
    return f"{found[0]}{' (unverified)' if 'unverified' in found[1] else ''}"


def _of_peak(machine: Machine, best: Ceiling, name: str) -> str:
    peak = machine.memory.peak_bytes_per_s
    if name != "read" or best.value is None or not peak:
        return MISSING
    mark = " (unverified)" if "unverified" in (machine.memory.peak_source or "") else ""
    return f"{best.value / peak:.0%}{mark}"


def cache_sheet(curve: CacheCurve) -> Sheet:
    """Reading and latency by each thread's working set."""
    columns = [
        Column(label="working set", unit="of a thread"),
        Column(label="read", unit="GB/s", direction="higher"),
        Column(label="latency", unit="ns", direction="lower"),
        Column(label="", right=False),
    ]
    most = max((p.read_bytes_per_s or 0.0 for p in curve.points), default=0.0)
    rows = []
    for point in curve.points:
        rate = point.read_bytes_per_s
        rows.append(
            [
                format_bytes(point.bytes),
                number(None if rate is None else rate / 1e9),
                number(None if point.latency_s is None else point.latency_s * 1e9),
                "█" * round(40 * (rate or 0.0) / most) if most else "",
            ]
        )
    title_text = f"by working set, {curve.threads} thread(s) on CPUs {curve.cpus}"
    return Sheet(title=title_text, columns=columns, rows=rows)


def survey_notes(survey: Survey) -> list[str]:
    """Where documented figures are from, what is unknown and why, what disturbed."""
    machine, last = survey.machine, survey.ceilings[-1]
    notes = []
    memory = machine.memory
    if memory.peak_bytes_per_s:
        of_all = f"{last.threads} of its {machine.topology.cpus} CPUs were measured"
        notes.append(
            f"peak: {memory.peak_bytes_per_s / 1e9:.0f} GB/s, {memory.peak_source}; {of_all}"
        )
    else:
        why = machine.unknown.get("memory.peak_bytes_per_s", "nothing here tells it")
        notes.append(f"of peak: unknown, because {why}")
    found = {f[1] for name in _WIDTHS if (f := documented(machine, name))}
    notes += [f"documented op/cycle: {source}" for source in sorted(found)]
    if not found:
        notes.append("documented op/cycle: unknown, because configs/cpus.toml has no such row")
    if last.clock_hz:
        clocks = f"{min(last.clock_hz) / 1e9:.2f} to {max(last.clock_hz) / 1e9:.2f} GHz"
        notes.append(f"clock while measuring: {clocks}, by a chain of dependent additions")
    reasons: dict[str, list[str]] = {}
    for run in survey.ceilings:
        for name, reason in run.unknown.items():
            names = reasons.setdefault(reason, [])
            if LABELS.get(name, name) not in names:
                names.append(LABELS.get(name, name))
    if survey.curve is not None:
        for reason in survey.curve.unknown.values():
            reasons.setdefault(reason, []).append("the cache curve")
    notes += [f"{', '.join(names)}: unknown, because {why}" for why, names in reasons.items()]
    told = dict.fromkeys(f"{run.threads}T: {n}" for run in survey.ceilings for n in run.notes)
    return notes + [f"warning: {note}" for note in told]
