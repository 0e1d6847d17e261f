"""Pictures of the page: Matplotlib figures as SVG text that takes the page's own colours.

Ink is drawn in one marked colour that becomes `currentColor`, and series in marked colours that
become CSS variables, so that the same picture fits a light and a dark page. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_INK = "#010203"
_SERIES = tuple(f"#0a0b{n:02x}" for n in range(8))
_HEAD = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_SIZE = re.compile(r'<svg ([^>]*?)\bheight="[^"]*"([^>]*?)\bwidth="[^"]*"', re.DOTALL)
_MOST_POINTS = 400

MARKERS = "os^Dv<>"  # not as many as colours: both come round, but not together


class Line(Struct, kw_only=True):
    """One series: points in order, joined unless `style` has no line."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    style: str = "-"
    steps: bool = False
    points: bool = True  # whether its points are marked; those of a bound were not measured


class Mark(Struct, kw_only=True):
    """A level or an instant to read the series by: a line across the plot with its name."""

    label: str
    at: float
    vertical: bool = False


class Plot(Struct, kw_only=True):
    """One picture: `about` says in words what it shows, for those who do not see it."""

    title: str
    about: str
    x: str
    y: str
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    bars: list[tuple[str, float, float | None, float | None]] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    ticks: list[float] | None = None


def thinned(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """At most some hundred of `values`, evenly taken, both ends kept: more is not seen."""
    count, last = min(len(values), _MOST_POINTS), len(values) - 1
    return [float(values[round(n * last / max(1, count - 1))]) for n in range(count)]


def svg(plot: Plot) -> str:
    """`plot` as an SVG element. Texts are escaped by Matplotlib's writer."""
    if plot.bars:
        return _drawn(plot, _bars, height=0.9 + 0.32 * (len(plot.bars) + len(plot.marks) / 2))
    return _drawn(plot, _lines)


def _drawn(plot: Plot, draw: Callable[[Axes, Plot], None], height: float = 3.6) -> str:
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = {
        "text.parse_math": False,  # a dollar sign of a file is a dollar sign
        "svg.fonttype": "none",
        "svg.hashsalt": plot.title,  # the same page from the same result
        "font.family": "sans-serif",
        "font.size": 9,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _INK
        ),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=_SERIES),
        "legend.frameon": False,
        "grid.color": _INK,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.subplots()
        draw(axes, plot)
        axes.set_xlabel(plot.x)
        axes.set_ylabel(plot.y)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _coloured(file.getvalue(), plot)


def _coloured(text: str, plot: Plot) -> str:
    """The SVG element alone, scaling with the page, in the page's colours."""
    import html

    text = _METADATA.sub("", _HEAD.sub("", text))
    text = _SIZE.sub(r"<svg \1\2", text, count=1)
    text = text.replace(_INK, "currentColor")
    for number, colour in enumerate(_SERIES):
        text = text.replace(colour, f"var(--s{number})")
    label = html.escape(f"{plot.title}. {plot.about}", quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _scale(axes: Axes, plot: Plot) -> None:
    """Logarithmic axes with plain numbers; Matplotlib's own are mathematics, left unparsed."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if plot.log_x if name == "x" else plot.log_y:
            axes.set(**{f"{name}scale": "log"})
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())


def _lines(axes: Axes, plot: Plot) -> None:
    for number, line in enumerate(plot.lines):
        marker = MARKERS[number % len(MARKERS)] if line.points and len(line.x) <= 40 else ""
        how = "steps-post" if line.steps else "default"
        (drawn,) = axes.plot(
            line.x, line.y, line.style, marker=marker, ms=4, label=line.label, drawstyle=how
        )
        if line.low is not None and line.high is not None:
            axes.vlines(line.x, line.low, line.high, color=drawn.get_color(), lw=1)
    for mark in plot.marks:
        draw = axes.axvline if mark.vertical else axes.axhline
        draw(mark.at, color=_INK, ls="--", lw=0.9)
        place = (mark.at, 0.98) if mark.vertical else (0.99, mark.at)
        frame = axes.get_xaxis_transform() if mark.vertical else axes.get_yaxis_transform()
        axes.text(
            *place,
            mark.label,
            transform=frame,
            fontsize=8,
            rotation=90 if mark.vertical else 0,
            ha="right",
            va="top" if mark.vertical else "bottom",
        )
    _scale(axes, plot)
    if plot.lines and not plot.log_y:
        axes.set_ylim(bottom=0)
    if plot.ticks is not None:
        axes.set_xticks(plot.ticks, [f"{tick:g}" for tick in plot.ticks])
        axes.minorticks_off()
    axes.grid(visible=True, alpha=0.15)
    if len(plot.lines) > 1:
        axes.legend(fontsize=8)


def _bars(axes: Axes, plot: Plot) -> None:
    names = [name for name, *_ in plot.bars]
    values = [value for _, value, *_ in plot.bars]
    axes.barh(range(len(names)), values, color=_SERIES[0], height=0.6)  # names may be the same
    axes.set_yticks(range(len(names)), names)
    for row, (_, _value, low, high) in enumerate(plot.bars):
        if low is not None and high is not None:
            axes.hlines(row, low, high, color=_INK, lw=1.5)
    axes.invert_yaxis()
    for number, mark in enumerate(plot.marks):
        axes.axvline(mark.at, color=_SERIES[1 + number % 7], ls="--", lw=1.2, label=mark.label)
    _scale(axes, plot)
    axes.grid(visible=True, axis="x", alpha=0.15)
    if plot.marks:
        axes.legend(
            fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.28 / max(1, len(names) / 4))
        )
