"""Money per million tokens: whole-instance price over measured throughput."""

from __future__ import annotations

from harness import prices
from harness.records.load import Capacity
from harness.records.money import Price
from harness.records.run import Estimate, Result


def cost(price: Price, rate: Estimate) -> Estimate:
    """Cost of a million tokens at `rate` (tokens per second), the interval carried over.

    Price per second ÷ tokens per second × 10⁶; a lower bound of the rate that is not positive
    leaves the upper bound of the cost unknown.
    """
    high = prices.cost_per_million(price, rate.low) if rate.low and rate.low > 0 else None
    low = prices.cost_per_million(price, rate.high) if rate.high else None
    return Estimate(
        value=prices.cost_per_million(price, rate.value),
        low=low if high is not None else None,
        high=high,
        n=rate.n,
        unit=f"{price.currency}/M tokens",
        method="price per second ÷ tokens per second × 10⁶, whole instance, at this load",
    )


def output_cost(result: Result, case_id: int) -> Estimate | None:
    """Cost of a million output tokens at one load, their input included; None without a price."""
    rate = result.summary.get(str(case_id), {}).get("output_tok_per_s")
    return cost(result.price, rate) if result.price and rate and rate.value > 0 else None


def capacity_cost(result: Result, found: Capacity) -> Estimate | None:
    """Cost of a million output tokens at the highest rate that held the SLO.

    The interval is that of the output rate over the repeats of that probe, where it had several.
    """
    held = [p for p in found.probes if p.verdict == "holds" and p.rate == found.rate]
    return output_cost(result, held[-1].case) if held else None


def case_costs(result: Result, case_id: int) -> tuple[Estimate | None, Estimate | None]:
    """(input, output) cost per million tokens of one case; None without price or figures.

    Input tokens at the prefill rate; output tokens at the output rate, whose window holds the
    prefill too: the two are alternatives, not parts of a sum.
    """
    figures = result.summary.get(str(case_id), {})
    if result.price is None:
        return None, None
    found = [figures.get(name) for name in ("prefill_tok_per_s", "output_tok_per_s")]
    first, second = (
        cost(result.price, rate) if rate and rate.value > 0 else None for rate in found
    )
    return first, second
