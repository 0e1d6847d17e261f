"""`armbench report`: one HTML page that opens anywhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.cost import add_price, chosen_price
from harness.cli.output import results_folder, write_output
from harness.errors import ArmbenchError, Exit, NotComparable


def add(commands: Any) -> None:
    """Add the command."""
    report = commands.add_parser(
        "report",
        help="one self-contained HTML page of results",
        description="Verdict and cost first, then machines, tables, pictures, warnings and the raw "
        "records: one file that opens offline.",
    )
    report.add_argument("sources", nargs="*", default=["latest"], metavar="RESULT")
    report.add_argument("-o", "--output", default="report.html", metavar="FILE")
    add_price(report)
    report.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    report.set_defaults(handler=_report)


def _report(arguments: argparse.Namespace) -> Exit:
    from harness import binding, store, validity
    from harness.reports.html import page

    page.check_packages()
    output = Path(arguments.output)
    if output.is_dir() or not output.parent.is_dir():
        raise ArmbenchError(f"{output} cannot be written", hint="give a file in a folder there is")
    folder = results_folder(arguments)
    results = []
    for name in arguments.sources:
        path = store.find(name, folder)
        result = store.load(path)
        result.price, result.price_reason = chosen_price(arguments, result)
        binding.derive(result)
        results.append((path, result))
    text = page.render(results, _compared([path for path, _ in results]))
    write_output(text, arguments.output)
    print(f"report: {output} ({len(text.encode()) / 1e6:.2f} MB)", file=sys.stderr)
    broken = any(validity.invalid_cases(result) for _, result in results)
    return Exit.INVALID if broken else Exit.FINE


def _compared(paths: list[Path]) -> list[Any]:
    """The first result against each other one, or why they are not compared."""
    from harness import baseline
    from harness.comparing import compare, rules
    from harness.comparing.rows import Wish
    from harness.reports.comparison import comparison_sheets
    from harness.reports.sheet import Sheet

    if len(paths) < 2:
        return []
    chosen = rules.read(None)
    try:
        found = compare.compare([baseline.side(path) for path in paths], Wish(rules=chosen))
    except NotComparable as error:
        return [Sheet(title="not compared", columns=[], rows=[], notes=[error.message])]
    return comparison_sheets(found, only=chosen.gate)
