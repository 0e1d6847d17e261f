"""Four verdicts: an interval beyond the noise margin, inside it, or neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.comparing.contrast import Contrast
from harness.records.comparison import Margin, Ratio, Verdict

Correction = Literal["holm", "benjamini-hochberg", "none"]
LEAST = 3  # values of each side below which there is no verdict: their spread is a guess
_RANK_ALPHA = 0.05


def adjust(ps: Sequence[float | None], correction: Correction) -> list[float | None]:
    """`ps` corrected for their number; those that are None stay None and count for nothing.

    Holm (1979) keeps the chance of any false one at alpha, whatever depends on what;
    Benjamini and Hochberg (1995) keep the expected share of false ones among those named.
    """
    known = [(i, p) for i, p in enumerate(ps) if p is not None]
    found: list[float | None] = list(ps)
    if correction == "none" or not known:
        return found
    if correction == "benjamini-hochberg":
        from scipy.stats import false_discovery_control

        raised = [float(p) for p in false_discovery_control([p for _, p in known])]
    else:
        raised = _holm([p for _, p in known])
    for (index, _), p in zip(known, raised, strict=True):
        found[index] = p
    return found


def _holm(ps: Sequence[float]) -> list[float]:
    order = sorted(range(len(ps)), key=ps.__getitem__)
    raised, most = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        most = max(most, min(1.0, (len(ps) - rank) * ps[index]))
        raised[index] = most
    return raised


def decide(
    found: Contrast | None,
    ratio: Ratio,
    margin: Margin,
    direction: Literal["higher", "lower", "none"],
    p: float | None,
    alpha: float = 0.05,
) -> tuple[Verdict | None, str]:
    """(verdict, why), with `p` the corrected p of a change beyond the margin.

    A change needs the interval beyond the margin, also after correction; the exact test on its
    side where so many repeats can reach 5 % at all; and the bootstrap interval where there is one.
    """
    if direction == "none":
        return None, "neither more nor less is better"
    if found is None or found.se is None or p is None:
        return "inconclusive", ratio.reason or "no spread is known"
    if _inside(found, ratio, margin, alpha) and _enough(found):
        return "unchanged", f"the interval lies within ±{_percent(margin, ratio)}"
    if doubt := _doubt(found, ratio, margin, p, alpha):
        return "inconclusive", doubt
    better = (found.effect > 0) == (direction == "higher")
    text = f"beyond ±{_percent(margin, ratio)}, p {p:.2g}"
    if ratio.rank_floor is not None and ratio.rank_floor > _RANK_ALPHA:
        text += "; too few repeats for a rank test"
    return ("improved" if better else "regressed"), text


def _enough(found: Contrast) -> bool:
    """Enough of each side; a single run only where its spread is taken from many others."""
    return min(found.n) >= LEAST or min(found.n) == 1


def _inside(found: Contrast, ratio: Ratio, margin: Margin, alpha: float) -> bool:
    if not found.within(margin.value, 1 - alpha):
        return False
    if ratio.bootstrap is None:
        return True
    low, high = ratio.bootstrap
    return 1 / (1 + margin.value) <= low and high <= 1 + margin.value


def _doubt(found: Contrast, ratio: Ratio, margin: Margin, p: float, alpha: float) -> str | None:
    """Why there is no change to be named; None where all agree that there is one."""
    over = f"±{_percent(margin, ratio)}"
    if not _enough(found):
        return f"{min(found.n)} repeats: a verdict needs at least {LEAST} a side"
    if p > alpha:
        alone = found.p_beyond(margin.value)
        if alone is None or alone > alpha:
            return f"the interval reaches over {over}"
        return f"beyond {over} by itself, not among so many metrics (p {p:.2g})"
    rank, floor = ratio.rank_p, ratio.rank_floor
    if rank is not None and floor is not None and floor <= _RANK_ALPHA < rank:
        return f"the interval is beyond {over}, but the exact test says p {rank:.2g}"
    if ratio.bootstrap is not None:
        low, high = ratio.bootstrap
        if low <= 1 + margin.value and high >= 1 / (1 + margin.value):
            return f"Student's interval is beyond {over}, the bootstrap's is not"
    return None


def _percent(margin: Margin, ratio: Ratio) -> str:
    return f"{margin.value:.2g}" if ratio.scale == "difference" else f"{100 * margin.value:.2g} %"
