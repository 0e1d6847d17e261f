"""How many tokens each request has: how lengths are written, drawn, and said to people."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from harness.errors import ArmbenchError
from harness.records.load import Lengths

if TYPE_CHECKING:
    import numpy as np

_NUMBER = r"(\d{1,8}(?:\.\d{1,9})?)"
_PAIR = re.compile(rf"{_NUMBER}[,/]{_NUMBER}")
_RANGE = re.compile(r"(\d{1,8})-(\d{1,8})")
_HINT = (
    "write it like 64, uniform:32-128, normal:64/16 (mean, standard deviation), "
    "lognormal:64/0.5 (median, standard deviation of the logarithm), trace or prompts:FILE.jsonl"
)


def parse_lengths(text: str) -> Lengths:
    """The lengths that `text` describes, such as `64`, `uniform:32-128` or `lognormal:64/0.5`.

    Raises ArmbenchError where `text` describes none.
    """
    if re.fullmatch(r"\d{1,8}", text.strip()) and int(text) > 0:
        return Lengths(kind="fixed", mean=int(text))
    kind, _, rest = text.strip().partition(":")
    if kind == "uniform" and (match := _RANGE.fullmatch(rest)):
        low, high = int(match[1]), int(match[2])
        if 0 < low <= high:
            return Lengths(kind="uniform", mean=(low + high) / 2, low=low, high=high)
    if kind in ("normal", "lognormal") and (match := _PAIR.fullmatch(rest)):
        mean, sd = float(match[1]), float(match[2])
        if mean >= 1 and (kind == "normal" or sd <= 5):
            return Lengths(kind="normal" if kind == "normal" else "lognormal", mean=mean, sd=sd)
    if text.strip() == "trace":
        return Lengths(kind="trace")
    if kind == "prompts" and rest:
        return Lengths(kind="prompts", file=rest)
    raise ArmbenchError(f"{text!r} is not a length in tokens", hint=_HINT)


def format_lengths(lengths: Lengths) -> str:
    """`lengths` as `parse_lengths` reads them."""
    if lengths.kind == "fixed":
        return f"{lengths.mean:.0f}"
    if lengths.kind == "uniform":
        return f"uniform:{lengths.low}-{lengths.high}"
    if lengths.kind in ("normal", "lognormal"):
        return f"{lengths.kind}:{lengths.mean:.10g}/{lengths.sd:.10g}"
    return f"prompts:{lengths.file}" if lengths.kind == "prompts" else "trace"


def mean_tokens(lengths: Lengths) -> float | None:
    """The expected length before values are held within their bounds; None where a file says it."""
    if lengths.kind in ("trace", "prompts"):
        return None
    return lengths.mean * (math.exp(lengths.sd**2 / 2) if lengths.kind == "lognormal" else 1)


def draw(lengths: Lengths, count: int, rng: np.random.Generator) -> list[int]:
    """`count` lengths in tokens, whole, at least `low` (and 1) and at most `high`.

    Raises ArmbenchError for lengths that come from a file.
    """
    import numpy as np

    if lengths.kind == "fixed":
        return [max(1, round(lengths.mean))] * count
    if lengths.kind == "uniform":
        assert lengths.high is not None
        drawn: list[int] = rng.integers(lengths.low, lengths.high, count, endpoint=True).tolist()
        return drawn
    if lengths.kind == "normal":
        values = rng.normal(lengths.mean, lengths.sd, count)
    elif lengths.kind == "lognormal":
        values = rng.lognormal(math.log(lengths.mean), lengths.sd, count)
    else:
        raise ArmbenchError(f"lengths of {lengths.kind!r} come from a file, not from a draw")
    # Longer than any context: keeps the tail of a wide lognormal within whole numbers.
    high = 10_000_000 if lengths.high is None else lengths.high
    held: list[int] = np.clip(np.rint(values), max(1, lengths.low), high).astype(int).tolist()
    return held
