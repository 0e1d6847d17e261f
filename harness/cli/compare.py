"""`armbench compare`, `gate` and `power`: what differs, whether it passes, what would show."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.output import add_verdict, print_json, results_folder, write_output, write_verdict
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.comparing.rules import Rules
    from harness.comparing.samples import Runs
    from harness.records.comparison import AaEntry


def add(commands: Any) -> None:
    """Add the commands."""
    compare = commands.add_parser(
        "compare",
        help="results side by side, with verdicts",
        description="The first result against each other one: every gated metric with ratio, "
        "interval and verdict, rates for what each side took, each side against its own ceilings, "
        "equal outputs, and all that differs between the environments.",
    )
    compare.add_argument("sides", nargs="+", metavar="RESULT", help="result files or folders")
    compare.add_argument(
        "--metrics", metavar="M,M", help="metrics of the table, or all (default: the gated ones)"
    )
    compare.add_argument(
        "--only", metavar="M,M", help="metrics that still make sense where the question differs"
    )
    _shared(compare)
    compare.add_argument("--markdown", metavar="FILE", help="write it as Markdown too")
    compare.add_argument("--json", action="store_true", help="print JSON")
    compare.set_defaults(handler=_compare)
    gate = commands.add_parser("gate", help="pass or fail a result against a baseline")
    gate.add_argument("new", metavar="NEW", help="a result file or folder, or latest")
    gate.add_argument(
        "--baseline",
        required=True,
        metavar="OLD",
        help="a result, a folder of repeats, a label of `armbench history`, or a git branch",
    )
    gate.add_argument(
        "--allow",
        metavar="F,F",
        help="facts that may differ this once, such as conditions.governor",
    )
    _shared(gate)
    add_verdict(gate)
    gate.set_defaults(handler=_gate)
    power = commands.add_parser("power", help="repeats needed to show an effect")
    power.add_argument("result", help="a result file or folder, or latest")
    power.add_argument("--effect", default="3%", metavar="X", help="such as 3%% (default)")
    power.add_argument(
        "--setting",
        choices=("interleaved", "separate"),
        default="interleaved",
        help="sides in one job, as `armbench ab` has them (default), or in two",
    )
    _common(power)
    power.add_argument("--json", action="store_true", help="print JSON")
    power.set_defaults(handler=_power)


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vary", metavar="P,P", help="parts of the question that may differ")
    _common(parser)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where", metavar="P=V,P=V", help="only cases with these parts, such as engine=torch"
    )
    parser.add_argument("--rules", metavar="FILE", help="margins (default: configs/gate.toml)")
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")


def _rules(arguments: argparse.Namespace) -> Rules:
    from harness.comparing import rules

    return rules.read(Path(arguments.rules) if arguments.rules else None)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _where(arguments: argparse.Namespace) -> dict[str, str]:
    """The parts of --where. Raises ArmbenchError for one without a value."""
    found = {}
    for each in _names(arguments.where):
        part, equals, value = each.partition("=")
        if not (equals and part and value):
            raise ArmbenchError(f"--where {each!r}", hint="write it like engine=torch,threads=2")
        found[part.strip()] = value.strip()
    return found


def _known(
    sides: Sequence[Runs], results: Path, rules: Rules, *, judged: Sequence[Runs] = ()
) -> list[AaEntry]:
    """The A/A comparisons of the machine that all sides ran on; none where there are two.

    Those that runs give are older than the sides that are `judged`.
    """
    from harness import history

    machines = {run.machine for side in sides for run in side.runs}
    if len(machines) != 1:
        return []
    before = min((run.created for side in judged for run in side.runs), default=None)
    kept = history.History(history.folder(results, machines.pop()))
    return kept.aa(rules.gate, rules, before=before)


def _compare(arguments: argparse.Namespace) -> Exit:
    from harness import baseline, store
    from harness.comparing import compare
    from harness.comparing.rows import Wish
    from harness.metrics import metric
    from harness.reports import gate_files
    from harness.reports.comparison import comparison_sheets
    from harness.reports.reading import Reading
    from harness.reports.terminal import console, show_sheet

    if len(arguments.sides) < 2:
        raise ArmbenchError("one result to compare", hint="give two or more")
    rules, results, where = _rules(arguments), results_folder(arguments), _where(arguments)
    with Reading() as reader:
        sides = [
            baseline.side(store.find(name, results), where=where, reader=reader)
            for name in arguments.sides
        ]
    wish = Wish(
        rules=rules,
        vary=_names(arguments.vary),
        only=_names(arguments.only),
        aa=_known(sides, results, rules, judged=sides[1:]),
    )
    found = compare.compare(sides, wish)
    asked = _names(arguments.metrics)
    shown = () if asked == ("all",) else asked or wish.only or rules.gate
    for name in shown:
        metric(name)
    if arguments.markdown:
        text = gate_files.comparison_markdown(found, shown)
        write_output(text, arguments.markdown)
    if arguments.json:
        sys.stdout.write(gate_files.as_json(found))
        return Exit.FINE
    for sheet in comparison_sheets(found, only=shown):
        show_sheet(sheet, console())
    return Exit.FINE


def _gate(arguments: argparse.Namespace) -> Exit:
    from harness import baseline, gate, store
    from harness.reports.reading import Reading

    rules, results, where = _rules(arguments), results_folder(arguments), _where(arguments)
    with Reading() as reader:
        new = baseline.side(store.find(arguments.new, results), where=where, reader=reader)
        old = baseline.find(arguments.baseline, new, results, rules, where=where, reader=reader)
    outcome = gate.gate(
        new,
        old,
        rules,
        aa=_known([new, old], results, rules, judged=[new]),
        allow=_names(arguments.allow),
        vary=_names(arguments.vary),
    )
    write_verdict(arguments, outcome, "gate")
    return Exit(outcome.exit)


def _power(arguments: argparse.Namespace) -> Exit:
    from harness import baseline, store
    from harness.comparing import enough
    from harness.reports.power import power_sheet
    from harness.reports.reading import Reading
    from harness.reports.terminal import console, show_sheet

    text = arguments.effect
    try:
        effect = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        effect = 0.0
    if not 0 < effect < 1:
        raise ArmbenchError(f"--effect {text!r}", hint="write it like 3%")
    rules, results = _rules(arguments), results_folder(arguments)
    with Reading() as reader:
        path = store.find(arguments.result, results)
        side = baseline.side(path, where=_where(arguments), reader=reader)
    known = _known([side], results, rules)
    rows = enough.rows(side, rules, effect, setting=arguments.setting, aa=known)
    if arguments.json:
        print_json(rows)
    else:
        show_sheet(power_sheet(rows), console())
    return Exit.FINE
