"""Commands that run nothing: show, plans, explain."""

from __future__ import annotations

import argparse
from typing import Any

from harness.cli.output import add_output, print_json, print_result, results_folder
from harness.errors import Exit


def add(commands: Any) -> None:
    """Add the commands."""
    show = commands.add_parser("show", help="print the table of a result again")
    show.add_argument("result", nargs="?", default="latest", help="a result file, or latest")
    show.add_argument("--price", metavar="X", help="price the whole instance differently")
    show.add_argument("--instance", metavar="X", help="price as this cloud instance")
    add_output(show)
    show.set_defaults(handler=_show)
    plans = commands.add_parser("plans", help="which plans are shipped")
    plans.add_argument("--json", action="store_true", help="print JSON")
    plans.set_defaults(handler=_plans)
    explain = commands.add_parser("explain", help="what a metric means")
    explain.add_argument("metric", nargs="?", help="its name; none lists them all")
    explain.set_defaults(handler=_explain)


def _show(arguments: argparse.Namespace) -> Exit:
    from harness import binding, prices, store, validity

    result = store.load(store.find(arguments.result, results_folder(arguments)))
    if arguments.price:
        result.price = prices.parse_price(arguments.price)
    elif arguments.instance:
        result.price = prices.instance_price(arguments.instance).price
    binding.derive(result)
    print_result(result, as_json=arguments.json)
    return Exit.INVALID if validity.invalid_cases(result) else Exit.FINE


def _plans(arguments: argparse.Namespace) -> Exit:
    from harness import plan

    specs = [plan.read_spec(name) for name in plan.shipped()]
    if arguments.json:
        print_json(specs)
        return Exit.FINE
    for spec in specs:
        print(f"{spec.name:<12} {spec.model}, {', '.join(spec.engine)}, {', '.join(spec.dtype)}")
    return Exit.FINE


def _explain(arguments: argparse.Namespace) -> Exit:
    from harness import metrics

    rows = [metrics.metric(arguments.metric)] if arguments.metric else list(metrics.METRICS)
    for row in rows:
        better = "" if row.direction == "none" else f", {row.direction} is better"
        print(f"{row.name} [{row.unit or 'count'}]{better}: {row.formula} (as {row.source})")
    return Exit.FINE
