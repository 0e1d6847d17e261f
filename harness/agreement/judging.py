"""What agreement an engine must reach, from configs/quality.toml."""

from __future__ import annotations

import tomllib
from typing import Literal

from msgspec import Struct, convert

from harness import places
from harness.errors import ArmbenchError
from harness.records.run import Agreement

# A part of few positions scatters about the mean over all of them.
_PART_KL = 3.0
_FILE = "quality.toml"


class Bounds(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What must be reached; None is not asked for.

    `error` and `delta_max` are in standard deviations of the reference's logits, `int4_times` is
    how many times the error of plain rounding to 4 bits, `stretch` how far from 1.
    """

    error: float
    int4_times: float | None = None
    stretch: float | None = None
    kl_mean: float | None = None
    top1: float | None = None
    delta_max: float | None = None
    perplexity_ratio: float | None = None


class _Kind(Struct, forbid_unknown_fields=True, kw_only=True):
    dtypes: list[str]
    checkpoint: Bounds
    synthetic: Bounds


def kind(dtype: str, compute: str | None = None) -> str:
    """The table of configs/quality.toml that `dtype` is judged by.

    A float32 engine that multiplies in bfloat16 (`compute` of a `records.run.Stored` is bf16) is
    judged as bfloat16. Raises ArmbenchError for a dtype that no table names.
    """
    for name, table in _kinds().items():
        if dtype in table.dtypes:
            return "bfloat16" if name == "float32" and compute == "bf16" else name
    raise ArmbenchError(
        f"configs/{_FILE} has no bounds for dtype {dtype!r}",
        hint=f"add {dtype!r} to the dtypes of one of its tables",
    )


def bounds(
    dtype: str, weights: Literal["synthetic", "checkpoint"], compute: str | None = None
) -> Bounds:
    """The bounds of `dtype` on such weights. Raises ArmbenchError as `kind` does."""
    found = _kinds()[kind(dtype, compute)]
    return found.synthetic if weights == "synthetic" else found.checkpoint


def _kinds() -> dict[str, _Kind]:
    table = tomllib.loads((places.config_dir() / _FILE).read_text())
    return {name: convert(entry, _Kind) for name, entry in table.items()}


def shortfalls(found: Agreement, wanted: Bounds) -> list[str]:
    """Every bound that `found` misses, in plain words; empty is agreement."""
    missed = []
    if found.not_finite:
        missed.append(f"logits that are not finite at {found.not_finite} positions")
    if not found.positions:
        return missed or ["no position was compared"]
    missed += _top1(found, wanted) + _kl("mean KL", found.kl_mean, wanted.kl_mean)
    if found.error is not None and not found.error <= wanted.error:
        missed.append(_error("the logits' error is", found.error, wanted.error))
    missed += _rounding(found, wanted) + _stretch(found, wanted)
    return missed + _largest(found, wanted) + _perplexity(found, wanted) + _by_batch(found, wanted)


def _kl(what: str, found: float, most: float | None) -> list[str]:
    if most is None or found <= most:
        return []
    return [f"{what} {found:.2g} nats, at most {most:.2g} wanted"]


def _error(what: str, found: float, wanted: float) -> str:
    return f"{what} {found:.2g} standard deviations, at most {wanted:g} wanted"


def _top1(found: Agreement, wanted: Bounds) -> list[str]:
    if wanted.top1 is None or found.top1 >= wanted.top1:
        return []
    return [f"same next token at {found.top1:.1%} of positions, {wanted.top1:.1%} wanted"]


def _rounding(found: Agreement, wanted: Bounds) -> list[str]:
    plain, times = found.int4_error, wanted.int4_times
    if plain is None or times is None or found.error is None or found.error <= times * plain:
        return []
    told = f"{found.error / plain:.2g} times that of plain rounding to 4 bits"
    return [f"the logits' error is {told}, at most {times:g} times wanted"]


def _stretch(found: Agreement, wanted: Bounds) -> list[str]:
    if found.stretch is None or wanted.stretch is None:
        return []
    if abs(found.stretch - 1) <= wanted.stretch:
        return []
    told = f"{found.stretch:.3g} times as wide as the reference's"
    return [f"the logits are spread {told}, within {wanted.stretch:g} of 1 wanted"]


def _largest(found: Agreement, wanted: Bounds) -> list[str]:
    largest = found.delta_max / found.spread if found.spread else float("inf")
    if wanted.delta_max is None or largest <= wanted.delta_max:
        return []
    return [_error("the largest |Δlogit| is", largest, wanted.delta_max)]


def _perplexity(found: Agreement, wanted: Bounds) -> list[str]:
    ratio, most = found.perplexity_ratio, wanted.perplexity_ratio
    if ratio is None or most is None or ratio <= most:
        return []
    return [f"perplexity is {ratio:.3g} times the reference's, at most {most:g} times wanted"]


def _by_batch(found: Agreement, wanted: Bounds) -> list[str]:
    """A sequence passed alone takes other kernels than a batch: it must not be out by itself."""
    missed = []
    for part in found.parts:
        if part.batch > 1:
            continue
        most = None if wanted.kl_mean is None else _PART_KL * wanted.kl_mean
        missed += _kl(f"{part.name} alone: mean KL", part.kl_mean, most)
        if not part.error <= wanted.error:
            missed.append(_error(f"{part.name} alone: the error is", part.error, wanted.error))
    return missed
