"""Commands that run nothing: show, plans, explain."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.output import add_output, print_json, print_result, results_folder
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.records.run import Result


def add(commands: Any) -> None:
    """Add the commands."""
    show = commands.add_parser("show", help="print the table of a result again")
    show.add_argument("result", nargs="?", default="latest", help="a result file, or latest")
    show.add_argument("--price", metavar="X", help="price the whole instance differently")
    show.add_argument("--instance", metavar="X", help="price as this cloud instance")
    show.add_argument("--watch", action="store_true", help="draw it anew until the run has ended")
    add_output(show)
    show.set_defaults(handler=_show)
    plans = commands.add_parser("plans", help="which plans are shipped")
    plans.add_argument("--json", action="store_true", help="print JSON")
    plans.set_defaults(handler=_plans)
    explain = commands.add_parser("explain", help="what a metric means")
    explain.add_argument("metric", nargs="?", help="its name; none lists them all")
    explain.set_defaults(handler=_explain)


def _show(arguments: argparse.Namespace) -> Exit:
    from harness import store, validity

    if arguments.watch:
        return _watch(arguments)
    result = _read(arguments, store.find(arguments.result, results_folder(arguments)))
    print_result(result, as_json=arguments.json)
    return Exit.INVALID if validity.invalid_cases(result) else Exit.FINE


def _read(arguments: argparse.Namespace, path: Path) -> Result:
    from harness import binding, prices, store

    result = store.load(path)
    if arguments.price:
        result.price = prices.parse_price(arguments.price)
    elif arguments.instance:
        result.price = prices.instance_price(arguments.instance).price
    binding.derive(result)
    return result


def _watch(arguments: argparse.Namespace) -> Exit:
    """Draw the result whenever its file changes; `latest` goes on to newer files."""
    from harness import store, validity
    from harness.reports.watch import screen, watch

    if arguments.json:
        raise ArmbenchError("--watch draws tables, --json prints once", hint="leave one out")
    folder = results_folder(arguments)
    with screen() as draw:
        result = watch(
            lambda: store.find(arguments.result, folder),
            lambda path: _read(arguments, path),
            draw,
        )
    return Exit.INVALID if result is None or validity.invalid_cases(result) else Exit.FINE


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

    rows = metrics.named(arguments.metric) if arguments.metric else list(metrics.METRICS)
    for row in rows:
        better = "" if row.direction == "none" else f", {row.direction} is better"
        needs = f"; needs {row.needs} values in one trial" if (row.needs or 0) > 1 else ""
        print(f"{row.name} [{row.unit or 'count'}]{better}: {row.formula} (as {row.source}){needs}")
    return Exit.FINE
