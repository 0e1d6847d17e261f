"""`armbench cost` and `capacity`: money for a result's tokens, and machines for a rate."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.output import print_json, results_folder
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.records.money import Price
    from harness.records.run import Result


def add(commands: Any) -> None:
    """Add the commands."""
    cost = commands.add_parser(
        "cost",
        help="what a result's tokens cost, and against the hosted API",
        description="Cost per million input, output and total tokens at each load, at full, 50 % "
        "and 30 % use, and the break-even against hosted prices by date.",
    )
    cost.add_argument("result", nargs="?", default="latest", help="a result file, or latest")
    add_price(cost)
    cost.add_argument("--on", metavar="DATE", help="hosted prices as of this day (default: today)")
    _shared(cost)
    cost.set_defaults(handler=_cost)
    capacity = commands.add_parser(
        "capacity",
        help="how many instances a rate needs, cheapest first",
        description="Instances of each result's machine for a rate of requests, N+1, per month.",
    )
    capacity.add_argument("results_", nargs="+", metavar="RESULT", help="result files or folders")
    capacity.add_argument("--rate", type=float, required=True, metavar="R", help="requests/s")
    capacity.add_argument("--slo", metavar="X", help="a promise that was measured, such as server")
    capacity.add_argument("--tokens", metavar="IN+OUT", help="of a request, such as 512+128")
    capacity.add_argument("--headroom", default="30%", metavar="P", help="on top (default: 30%%)")
    capacity.add_argument("--spare", type=int, default=1, metavar="N", help="default: 1, N+1")
    capacity.add_argument("--currency", metavar="C", help="convert prices, such as USD")
    _shared(capacity)
    capacity.set_defaults(handler=_capacity)


def add_price(parser: argparse.ArgumentParser) -> None:
    """The flags that say what the whole instance costs."""
    parser.add_argument("--price", metavar="X", help="price the whole instance differently")
    parser.add_argument("--instance", metavar="X", help="price as this cloud instance")
    parser.add_argument("--region", metavar="X", help="its region")
    parser.add_argument(
        "--term", default="on-demand", help="on-demand, spot, reserved-1y, reserved-3y"
    )


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def day(text: str | None) -> datetime.date | None:
    """The date in `text`. Raises ArmbenchError where it is none."""
    try:
        return None if text is None else datetime.date.fromisoformat(text)
    except ValueError as error:
        raise ArmbenchError(f"--on {text!r}: {error}", hint="write it like 2024-05-21") from error


def chosen_price(arguments: argparse.Namespace, result: Result) -> tuple[Price | None, str | None]:
    """The price that flags, else the result, give the instance; or why there is none."""
    from msgspec.structs import replace

    from harness import prices
    from harness.records.money import Term

    terms: tuple[str, ...] = Term.__args__  # type: ignore[attr-defined]
    if arguments.term not in terms:
        raise ArmbenchError(f"--term {arguments.term!r}", hint=f"one of {', '.join(terms)}")
    chosen = arguments.region or arguments.term != "on-demand"
    if arguments.price:
        if chosen:
            raise ArmbenchError("--price with --region or --term", hint="give the one price itself")
        return prices.parse_price(arguments.price), None
    region, term, cloud = arguments.region, arguments.term, result.machine.cloud
    if arguments.instance:
        return prices.instance_price(arguments.instance, region=region, term=term).price, None
    if not chosen:
        return result.price, result.price_reason
    if cloud.instance is None or cloud.guess:
        why = f"it is a guess ({cloud.instance})" if cloud.instance else "none was detected"
        raise ArmbenchError(
            f"--region and --term choose a price of the result's cloud instance, but {why}",
            hint="name it with --instance",
        )
    return prices.cloud_price(replace(cloud, region=region or cloud.region), term=term), None


def _cost(arguments: argparse.Namespace) -> Exit:
    from harness import binding, store
    from harness.reports.cost import break_even_sheet, cost_sheet, priced_cases
    from harness.reports.terminal import console, show_sheet

    result = store.load(store.find(arguments.result, results_folder(arguments)))
    result.price, result.price_reason = chosen_price(arguments, result)
    binding.derive(result)
    if result.price is None:
        raise ArmbenchError(
            f"no price: {result.price_reason}", hint="give --instance or --price '0.64 USD/h'"
        )
    if not priced_cases(result):
        raise ArmbenchError("no valid case of this result tells its output rate", hint="see show")
    sheet, found = break_even_sheet(result, day(arguments.on))
    costs = cost_sheet(result)
    if arguments.json:
        print_json({"price": result.price, "cost": costs, "break_even": found})
        return Exit.FINE
    for one in [costs, *([sheet] if sheet else [])]:
        show_sheet(one, console())
    return Exit.FINE


def _share(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ArmbenchError(f"--headroom {text!r}", hint="write it like 30%") from None


def _tokens(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    into, plus, out = text.partition("+")
    if not (plus and into.isdecimal() and out.isdecimal() and int(into) and int(out)):
        raise ArmbenchError(f"--tokens {text!r}", hint="write input+output, such as 512+128")
    return int(into), int(out)


def _capacity(arguments: argparse.Namespace) -> Exit:
    from harness import fleet
    from harness.load.slo import parse_slo
    from harness.reports.cost import fleet_sheets
    from harness.reports.terminal import console, show_sheet

    slo = parse_slo(arguments.slo) if arguments.slo else None
    wish = fleet.Wish(
        rate=arguments.rate,
        slo=slo,
        tokens=_tokens(arguments.tokens),
        headroom=_share(arguments.headroom),
        spare=arguments.spare,
        currency=arguments.currency,
    )
    fleet.check(wish)
    found, left_out = fleet.fleets(_read(arguments.results_), wish)
    if not found:
        raise ArmbenchError("none of these results can say", hint="; ".join(left_out[:4]))
    if arguments.json:
        print_json({"fleets": found, "left_out": left_out})
        return Exit.FINE
    under = f" under {slo.name}" if slo else ""
    title = f"{wish.rate:g} requests/s{under}, {wish.headroom:.0%} headroom, {wish.spare} spare"
    for sheet in fleet_sheets(found, left_out, title):
        show_sheet(sheet, console())
    return Exit.FINE


def _read(names: list[str]) -> list[Result]:
    """The results that files and folders name, their figures derived anew."""
    from harness import binding, store
    from harness.comparing import samples

    found = []
    for name in names:
        path = Path(name)
        for file in samples.files(path) if path.is_dir() else [path]:
            result = store.load(file)
            binding.derive(result)
            found.append(result)
    return found
