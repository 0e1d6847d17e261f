"""`armbench compare`, `gate` and `power`: what differs, whether it passes, what would show."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.output import results_folder
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.comparing.rules import Rules


def add(commands: Any) -> None:
    """Add the commands."""
    compare = commands.add_parser("compare", help="results side by side, with verdicts")
    compare.add_argument("sides", nargs="+", metavar="RESULT", help="result files or folders")
    compare.add_argument(
        "--only", metavar="M,M", help="metrics that still make sense where the question differs"
    )
    compare.add_argument("--vary", metavar="P,P", help="parts of the question that may differ")
    _shared(compare)
    compare.add_argument("--markdown", metavar="FILE", help="write it as Markdown too")
    compare.set_defaults(handler=_compare)
    gate = commands.add_parser("gate", help="pass or fail a result against a baseline")
    gate.add_argument("new", metavar="NEW", help="a result file or folder")
    gate.add_argument(
        "--baseline", required=True, metavar="OLD", help="a result, folder, label or git branch"
    )
    _shared(gate)
    gate.add_argument("--markdown", metavar="FILE", help="for a job summary or a comment")
    gate.add_argument("--junit", metavar="FILE", help="as JUnit XML")
    gate.set_defaults(handler=_gate)
    power = commands.add_parser("power", help="repeats needed to show an effect")
    power.add_argument("result", help="a result file or folder")
    power.add_argument("--effect", default="3%", metavar="X", help="such as 3%% (default)")
    _shared(power)
    power.set_defaults(handler=_power)


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules", metavar="FILE", help="margins (default: configs/gate.toml)")
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _rules(arguments: argparse.Namespace) -> Rules:
    from harness.comparing import rules

    return rules.read(Path(arguments.rules) if arguments.rules else None)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _compare(arguments: argparse.Namespace) -> Exit:
    from harness import baseline, store
    from harness.comparing import compare
    from harness.comparing.rows import Wish
    from harness.reports import gate_files
    from harness.reports.comparison import comparison_sheets
    from harness.reports.terminal import console, show_sheet

    if len(arguments.sides) < 2:
        raise ArmbenchError("one result to compare", hint="give two or more")
    rules = _rules(arguments)
    sides = [baseline.side(Path(name)) for name in arguments.sides]
    wish = Wish(rules=rules, vary=_names(arguments.vary), only=_names(arguments.only))
    found = compare.compare(sides, wish)
    if arguments.markdown:
        store.write(gate_files.comparison_markdown(found).encode(), Path(arguments.markdown))
    if arguments.json:
        sys.stdout.write(gate_files.as_json(found) + "\n")
        return Exit.FINE
    for sheet in comparison_sheets(found, only=wish.only or rules.gate):
        show_sheet(sheet, console())
    return Exit.FINE


def _gate(arguments: argparse.Namespace) -> Exit:
    from harness import baseline, gate, store
    from harness.reports import gate_files
    from harness.reports.comparison import gate_sheet
    from harness.reports.terminal import console, show_sheet

    rules = _rules(arguments)
    new = baseline.side(Path(arguments.new))
    old = baseline.find(arguments.baseline, new, results_folder(arguments), rules)
    outcome = gate.gate(new, old, rules)
    if arguments.markdown:
        store.write(gate_files.gate_markdown(outcome).encode(), Path(arguments.markdown))
    if arguments.junit:
        store.write(gate_files.junit(outcome).encode(), Path(arguments.junit))
    if arguments.json:
        sys.stdout.write(gate_files.as_json(outcome) + "\n")
    else:
        show_sheet(gate_sheet(outcome), console())
    return Exit(outcome.exit)


def _power(arguments: argparse.Namespace) -> Exit:
    from harness import baseline
    from harness.comparing import enough
    from harness.reports.power import power_sheet
    from harness.reports.terminal import console, show_sheet

    text = arguments.effect
    try:
        effect = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        effect = 0.0
    if not 0 < effect < 1:
        raise ArmbenchError(f"--effect {text!r}", hint="write it like 3%")
    rules = _rules(arguments)
    rows = enough.rows(baseline.side(Path(arguments.result)), rules, effect, setting="interleaved")
    if arguments.json:
        from harness.cli.output import print_json

        print_json(rows)
    else:
        show_sheet(power_sheet(rows), console())
    return Exit.FINE
