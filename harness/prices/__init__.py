"""Prices as dated rows: instances, hosted models, exchange rates, and what a million tokens cost.

The rows are TOML files in `configs/prices/`; the files of the folder named by `ARMBENCH_PRICES` are
read in addition, checked first, and win where both have a row of the same date. Nothing is fetched
and nothing is guessed: what no row says is an error, or None with a reason.
"""

from harness.prices.currency import convert, exchange_rate
from harness.prices.files import check
from harness.prices.given import caveats, cost_per_million, parse_price
from harness.prices.hosted import api_prices, nearest_hosted, price_changes
from harness.prices.instances import (
    cloud_price,
    in_force_instances,
    instance_price,
    instances,
    providers,
)

__all__ = [
    "api_prices",
    "caveats",
    "check",
    "cloud_price",
    "convert",
    "cost_per_million",
    "exchange_rate",
    "in_force_instances",
    "instance_price",
    "instances",
    "nearest_hosted",
    "parse_price",
    "price_changes",
    "providers",
]
