"""`armbench prices`: dated list prices; `prices check` and `prices add`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.cost import day
from harness.cli.output import print_json
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.records.money import InstancePrice


def add(commands: Any) -> None:
    """Add the command and its two parts."""
    prices = commands.add_parser(
        "prices",
        help="dated list prices of instances and hosted models",
        description="Without flags: every instance, its newest price in its provider's default "
        "region. Rows are in configs/prices/ and in the folder of ARMBENCH_PRICES.",
    )
    prices.add_argument("--instance", metavar="X", help="its history, such as aws/c8g.4xlarge")
    prices.add_argument("--model", metavar="X", help="a hosted model's, such as qwen-turbo")
    prices.add_argument("--provider", metavar="X", help="aws, azure, gcp, alibaba, …")
    prices.add_argument("--region", metavar="X", help="all prices of this region")
    prices.add_argument("--arch", choices=("aarch64", "x86_64"))
    prices.add_argument("--cpu", metavar="X", help="such as yitian710 or graviton4")
    prices.add_argument("--vcpus", type=int, metavar="N")
    prices.add_argument("--on", metavar="DATE", help="in force on this day (default: newest)")
    prices.add_argument("--currency", metavar="C", help="convert at dated rates, such as USD")
    prices.add_argument("--json", action="store_true", help="print JSON instead of tables")
    prices.set_defaults(handler=_list)
    parts = prices.add_subparsers(metavar="check | add")
    check = parts.add_parser("check", help="what is wrong in price files; exit 2 if anything")
    check.add_argument("folders", nargs="*", metavar="FOLDER")
    check.set_defaults(handler=_check)
    _add_add(parts)


def _add_add(parts: Any) -> None:
    more = parts.add_parser("add", help="add a dated row of an instance to your own prices")
    more.add_argument("name", metavar="PROVIDER/SKU", help="such as aws/c8g.4xlarge")
    more.add_argument("price", metavar="PRICE", help="such as '0.638 USD/h'")
    more.add_argument("--region", required=True)
    more.add_argument("--vcpus", type=int, required=True)
    more.add_argument("--memory", type=float, required=True, metavar="GIB")
    more.add_argument("--cpu", required=True, help="such as graviton4")
    more.add_argument("--arch", required=True, choices=("aarch64", "x86_64"))
    more.add_argument("--source", required=True, metavar="URL", help="where it is published")
    more.add_argument("--as-of", metavar="DATE", help="the day it was seen (default: today)")
    more.add_argument("--term", default="on-demand")
    more.add_argument("--into", metavar="FOLDER", help="default: the folder of ARMBENCH_PRICES")
    more.set_defaults(handler=_add)


def _list(arguments: argparse.Namespace) -> Exit:
    from harness import prices
    from harness.reports.prices import api_sheet, instance_sheet
    from harness.reports.terminal import console, show_sheet

    on = day(arguments.on)
    if arguments.model:
        rows = prices.api_prices(arguments.model, on)
        if arguments.currency:
            rows = [prices.convert(row, arguments.currency) for row in rows]
        series = rows[-1].series if rows else arguments.model
        changes = prices.price_changes(series, on)
        if arguments.json:
            print_json({"prices": rows, "changes": changes})
        else:
            show_sheet(api_sheet(arguments.model, rows, changes), console())
        return Exit.FINE
    found = _chosen(arguments)
    if arguments.currency:
        from msgspec.structs import replace

        found = [replace(row, price=prices.convert(row.price, arguments.currency)) for row in found]
    if arguments.json:
        print_json(found)
    else:
        show_sheet(instance_sheet(found, f"{len(found)} list prices"), console())
    return Exit.FINE


def _chosen(arguments: argparse.Namespace) -> list[InstancePrice]:
    """Rows that the flags leave, by processor, size and date."""
    from harness import prices

    on = day(arguments.on)
    if arguments.instance:
        own = prices.instance_price(arguments.instance)  # names the nearest where it is unknown
        rows = [r for r in prices.instances(own.provider) if r.sku == own.sku] or [own]
        rows = [r for r in rows if arguments.region in (None, r.region)]
    else:
        rows = prices.in_force_instances(arguments.provider, region=arguments.region, on=on)
    wanted = (("arch", arguments.arch), ("cpu", arguments.cpu), ("vcpus", arguments.vcpus))
    found = [r for r in rows if all(v is None or getattr(r, k) == v for k, v in wanted)]
    found = [r for r in found if on is None or r.price.as_of <= on]
    if not found:
        raise ArmbenchError("no price fits", hint="drop a flag; `armbench prices` lists them all")
    return sorted(
        found, key=lambda r: (r.cpu, r.name.partition(".")[0], r.vcpus or 0, r.price.as_of)
    )


def _check(arguments: argparse.Namespace) -> Exit:
    from harness import prices

    faults = prices.check(*(Path(folder) for folder in arguments.folders))
    for fault in faults:
        print(fault)
    if not faults:
        print("no fault")
    return Exit.USER if faults else Exit.FINE


def _add(arguments: argparse.Namespace) -> Exit:
    import os

    from harness.prices import adding, parse_price

    folder = arguments.into or os.environ.get("ARMBENCH_PRICES")
    if not folder:
        raise ArmbenchError(
            "no folder of your own prices", hint="set ARMBENCH_PRICES, or give --into FOLDER"
        )
    row = adding.Row(
        name=arguments.name,
        price=parse_price(arguments.price, today=day(arguments.as_of)),
        region=arguments.region,
        vcpus=arguments.vcpus,
        memory_gib=arguments.memory,
        cpu=arguments.cpu,
        arch=arguments.arch,
        source=arguments.source,
        term=arguments.term,
    )
    file = adding.add(row, Path(folder))
    print(f"added to {file}; it counts where ARMBENCH_PRICES is {folder}")
    return Exit.FINE
