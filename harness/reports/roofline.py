"""The roofline: what the machine allows at each intensity, and where each load point lies."""

from __future__ import annotations

import math
from pathlib import Path

from msgspec import Struct, field

from harness import bounds
from harness.errors import ArmbenchError
from harness.records.ceilings import Ceilings, Survey
from harness.records.run import Case, Result
from harness.reports.ceilings import LABELS
from harness.reports.machine import title
from harness.reports.sheet import load_text, number

FORMATS = (".svg", ".png")
_WIDTH, _HEIGHT = 76, 20
_MARKS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Roof(Struct, kw_only=True):
    """Two rates on the CPUs of one thread count: reading, and arithmetic of one type."""

    label: str
    read_bytes_per_s: float
    ops_per_s: float

    @property
    def ridge(self) -> float:
        """The intensity from which on arithmetic is the bound."""
        return self.ops_per_s / self.read_bytes_per_s

    def at(self, intensity: float) -> float:
        return min(self.ops_per_s, intensity * self.read_bytes_per_s)


class Point(Struct, kw_only=True):
    """One phase of one load point."""

    label: str
    intensity: float
    ops_per_s: float


class Roofline(Struct, kw_only=True):
    """Roofs, and the load points under them."""

    title: str
    roofs: list[Roof] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


def of_survey(survey: Survey) -> Roofline:
    """The roofs of a survey's most threads; no points. Raises ArmbenchError where none is known."""
    last = survey.ceilings[-1] if survey.ceilings else None
    drawn = Roofline(title=f"roofline of {title(survey.machine)}, {survey.created[:10]}")
    if last is not None:
        drawn.roofs = [r for kind in ("f32", "bf16", "i8") if (r := _roof(last, kind))]
    if not drawn.roofs:
        why = next(iter(last.unknown.values()), "nothing was measured") if last else "it is empty"
        raise ArmbenchError(f"there is no ceiling to draw: {why}", hint="run `armbench ceilings`")
    return drawn


def _roof(ceilings: Ceilings, kind: str) -> Roof | None:
    read, ops = ceilings.read_bytes_per_s, ceilings.ops_per_s(kind)
    if read is None or ops is None:
        return None
    label = f"{LABELS[kind]} {ceilings.threads}T"
    return Roof(label=label, read_bytes_per_s=read, ops_per_s=ops)


def of_result(result: Result) -> Roofline:
    """Roofs and load points of a result whose summary is up to date.

    Raises ArmbenchError where the result has no ceilings.
    """
    name = f"{result.model.name}, plan {result.plan.name}, {title(result.machine)}"
    drawn = Roofline(title=f"roofline of {name}, {result.created[:10]}")
    roofs: dict[str, Roof] = {}
    for case in result.plan.cases:
        limits, stored = bounds.of_case(result, case), bounds.stored_of(result, case)
        if limits is None or stored is None:
            continue
        if limits.read_bytes_per_s is None or limits.ops_per_s is None:
            continue
        label = f"{LABELS.get(stored.compute, stored.compute)} {case.variant.shape}T"
        roofs[label] = Roof(
            label=label, read_bytes_per_s=limits.read_bytes_per_s, ops_per_s=limits.ops_per_s
        )
        drawn.points += _points(result, case, roofs[label])
    drawn.roofs = list(roofs.values())
    if not drawn.roofs:
        known = (why for c in result.ceilings for why in c.unknown.values())
        why = next(known, "the run took none (plan key ceilings, or the fake engine)")
        raise ArmbenchError(
            f"this result has no ceilings: {why}", hint="run the plan again with ceilings = true"
        )
    return drawn


def _points(result: Result, case: Case, roof: Roof) -> list[Point]:
    figures = result.summary.get(str(case.id), {})
    found = []
    name = f"{case.variant.label} {load_text(case)}"
    mfu, prefill = figures.get("mfu"), figures.get("prefill_arithmetic_intensity")
    if mfu and prefill:
        ops = mfu.value * roof.ops_per_s
        found.append(Point(label=f"{name} prefill", intensity=prefill.value, ops_per_s=ops))
    mbu, decode = figures.get("mbu"), figures.get("arithmetic_intensity")
    if mbu and decode:
        ops = mbu.value * roof.read_bytes_per_s * decode.value
        found.append(Point(label=f"{name} decode", intensity=decode.value, ops_per_s=ops))
    return found


class _Frame:
    """Logarithmic axes that hold every roof and point."""

    def __init__(self, drawn: Roofline) -> None:
        xs = [p.intensity for p in drawn.points] + [r.ridge for r in drawn.roofs]
        self.left, self.right = min(xs) / 4, max(xs) * 4
        ys = [p.ops_per_s for p in drawn.points] + [r.ops_per_s for r in drawn.roofs]
        ys += [r.at(self.left) for r in drawn.roofs]
        self.low, self.high = min(ys) / 1.5, max(ys) * 1.5

    def column(self, x: float) -> int:
        share = math.log(x / self.left) / math.log(self.right / self.left)
        return min(_WIDTH - 1, max(0, round(share * (_WIDTH - 1))))

    def row(self, y: float) -> int:
        share = math.log(y / self.low) / math.log(self.high / self.low)
        return min(_HEIGHT - 1, max(0, round((1 - share) * (_HEIGHT - 1))))

    def intensity(self, column: int) -> float:
        return float(self.left * (self.right / self.left) ** (column / (_WIDTH - 1)))


def lines(drawn: Roofline) -> list[str]:
    """The roofline as text: roofs as lines, load points as letters, and what they mean."""
    frame = _Frame(drawn)
    grid = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    for roof in drawn.roofs:
        for column in range(_WIDTH):
            x = frame.intensity(column)
            grid[frame.row(roof.at(x))][column] = "/" if x < roof.ridge else "-"
    marks = []
    for number_of, point in enumerate(drawn.points):
        mark = _MARKS[number_of % len(_MARKS)]
        marks.append(mark)
        grid[frame.row(point.ops_per_s)][frame.column(point.intensity)] = mark
    text = [drawn.title, f"Gop/s, {number(frame.high / 1e9)} at the top"]
    text += ["|" + "".join(row).rstrip() for row in grid]
    text.append("+" + "-" * _WIDTH)
    ends = f"{number(frame.left)} op/byte", f"{number(frame.right)} op/byte"
    text.append(f" {ends[0]}{ends[1]:>{_WIDTH - len(ends[0])}}")
    for roof in drawn.roofs:
        text.append(
            f"{roof.label}: {number(roof.read_bytes_per_s / 1e9)} GB/s, "
            f"{number(roof.ops_per_s / 1e9)} Gop/s, ridge at {number(roof.ridge)} op/byte"
        )
    for mark, point in zip(marks, drawn.points, strict=True):
        text.append(
            f"{mark}: {point.label}: {number(point.ops_per_s / 1e9)} Gop/s at "
            f"{number(point.intensity)} op/byte"
        )
    return text


def check_output(path: Path) -> None:
    """Raise ArmbenchError where `path` is no SVG or PNG, or nothing can draw it."""
    if path.suffix.lower() not in FORMATS:
        raise ArmbenchError(
            f"--output {path} is neither SVG nor PNG", hint=f"name it {path.stem}.svg or .png"
        )
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise ArmbenchError(
            "a picture needs matplotlib, not installed here", hint="pip install 'armbench[plot]'"
        )


def draw(drawn: Roofline, path: Path) -> None:
    """Write the roofline to `path`, an SVG or PNG by its name.

    Raises ArmbenchError as `check_output` does, and where the file cannot be written.
    """
    check_output(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    frame = _Frame(drawn)
    for roof in drawn.roofs:
        xs = sorted([frame.left, roof.ridge, frame.right])
        axes.plot(xs, [roof.at(x) / 1e9 for x in xs], label=roof.label)
    for point in drawn.points:
        style = "o" if point.label.endswith("decode") else "s"
        axes.plot([point.intensity], [point.ops_per_s / 1e9], style, label=point.label)
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="Gop/s")
    axes.set_title(drawn.title, fontsize="medium")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise ArmbenchError(f"{path} cannot be written: {error.strerror}") from error
