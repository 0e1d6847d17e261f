"""How two rows of logits differ, position by position, and what that sums up to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.records.run import Agreement, AgreementPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Logits = NDArray[np.floating]

_Z95 = 1.96
_MOST_NATS = 700.0  # of which the exponential is still a number


class Position(NamedTuple):
    """One predicted token: `theirs` is the reference's row of logits, `ours` the engine's.

    `kl` is KL(theirs ‖ ours) in nats, `nats` the negative log probability of the text's token by
    the engine and by the reference, `error` the variance of Δlogit over that of the reference's
    logits (a constant added to all of them changes no probability and does not count), `stretch`
    the engine's standard deviation over the reference's, `delta` the mean and the largest |Δlogit|,
    `spread` the reference's variance.
    """

    same: bool
    kl: float
    nats: float
    reference_nats: float
    error: float
    stretch: float
    delta_mean: float
    delta_max: float
    spread: float


def position(ours: Logits, theirs: Logits, token: int) -> Position | None:
    """The figures of one position; None where the engine's logits are not all finite."""
    if not np.isfinite(ours).all():
        return None
    x, y = ours.astype(np.float64), theirs.astype(np.float64)
    delta = x - y
    weights = np.exp(y - y.max())
    ours_all, theirs_all = _log_sum_exp(x), float(y.max() + np.log(weights.sum()))
    distances, spread = np.abs(delta), float(y.var())
    return Position(
        same=bool(x.argmax() == y.argmax()),
        # Not by a dot product, which would start the threads of NumPy's own BLAS.
        kl=ours_all - theirs_all - float((weights * delta).sum() / weights.sum()),
        nats=ours_all - float(x[token]),
        reference_nats=theirs_all - float(y[token]),
        error=float(delta.var()) / spread if spread else math.inf,
        stretch=math.sqrt(float(x.var()) / spread) if spread else math.inf,
        delta_mean=float(distances.mean()),
        delta_max=float(distances.max()),
        spread=spread,
    )


def _log_sum_exp(x: NDArray[np.float64]) -> float:
    return float(x.max() + np.log(np.exp(x - x.max()).sum()))


class Tally:
    """Collects positions by the name of their sequence and the batch they were in."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[Position]] = {}
        self._not_finite = 0

    def add(self, name: str, batch: int, found: Position | None) -> None:
        if found is None:
            self._not_finite += 1
        else:
            self._found.setdefault((name, batch), []).append(found)

    def agreement(
        self,
        reference: str,
        meaningless: str | None,
        seconds: float,
        int4_error: float | None = None,
    ) -> Agreement:
        """Everything collected, in all and by sequence. Without any position all means are 0."""
        found = [p for part in self._found.values() for p in part]
        ratio, low, high = _ratio(found)
        known = found and meaningless is None
        return Agreement(
            reference=reference,
            positions=len(found),
            top1=_mean([p.same for p in found]),
            kl_mean=_mean([p.kl for p in found]),
            kl_max=max((p.kl for p in found), default=0.0),
            delta_mean=_mean([p.delta_mean for p in found]),
            delta_max=max((p.delta_max for p in found), default=0.0),
            spread=math.sqrt(_mean([p.spread for p in found])),
            error=math.sqrt(_mean([p.error for p in found])),
            int4_error=int4_error,
            stretch=_mean([p.stretch for p in found]),
            perplexity=_exp(_mean([p.nats for p in found])) if known else None,
            reference_perplexity=_exp(_mean([p.reference_nats for p in found])) if known else None,
            perplexity_ratio=ratio if known else None,
            perplexity_ratio_low=low if known else None,
            perplexity_ratio_high=high if known else None,
            perplexity_reason=meaningless,
            parts=[_part(*key, part, meaningless) for key, part in self._found.items()],
            not_finite=self._not_finite,
            seconds=seconds,
        )


def _part(name: str, batch: int, found: list[Position], meaningless: str | None) -> AgreementPart:
    part = AgreementPart(
        name=name,
        batch=batch,
        positions=len(found),
        top1=_mean([p.same for p in found]),
        kl_mean=_mean([p.kl for p in found]),
        error=math.sqrt(_mean([p.error for p in found])),
    )
    if meaningless is None:
        part.perplexity = _exp(_mean([p.nats for p in found]))
        part.reference_perplexity = _exp(_mean([p.reference_nats for p in found]))
    return part


def _ratio(found: list[Position]) -> tuple[float | None, float | None, float | None]:
    """Engine's perplexity over the reference's, and its 95 % interval.

    From the paired differences at each position, taken as independent, which neighbours in a text
    are not quite: the interval is rather too narrow.
    """
    if not found:
        return None, None, None
    differences = [p.nats - p.reference_nats for p in found]
    mean = _mean(differences)
    if len(found) < 2:
        return _exp(mean), None, None
    variance = sum((d - mean) ** 2 for d in differences) / (len(found) - 1)
    half = _Z95 * math.sqrt(variance / len(found))
    return _exp(mean), _exp(mean - half), _exp(mean + half)


def _mean(values: list[float] | list[bool]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _exp(nats: float) -> float:
    return math.exp(min(nats, _MOST_NATS))
