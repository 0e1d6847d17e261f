"""`armbench ceilings` and `armbench roofline`: what bounds a machine, and what bounds a result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.output import add_output, detect_machine, print_json, results_folder
from harness.cli.run import PLAN_FLAGS
from harness.errors import ArmbenchError, Exit


def add(commands: Any) -> None:
    """Add both commands."""
    _add_ceilings(commands)
    _add_roofline(commands)


def _add_ceilings(commands: Any) -> None:
    ceilings = commands.add_parser(
        "ceilings",
        help="what this machine can do at best, measured",
        description="Measure bandwidth and arithmetic by type and thread count with our own "
        "kernels. Stored under RESULTS/<machine>/ceilings; runs reuse it for a day.",
    )
    ceilings.add_argument(
        "--threads", metavar="N,N", help="thread counts such as 1,2,4,max (default: doubling)"
    )
    ceilings.add_argument("--placement", metavar="X", help=PLAN_FLAGS["placement"])
    ceilings.add_argument("--cpus", metavar="LIST", help="these CPUs, such as 0-15")
    ceilings.add_argument("--short", action="store_true", help="a few seconds, fewer kinds")
    add_output(ceilings)
    ceilings.set_defaults(handler=_ceilings)


def _add_roofline(commands: Any) -> None:
    roofline = commands.add_parser("roofline", help="draw what bounds a result or a machine")
    roofline.add_argument(
        "result", nargs="?", default="latest", help="a result file, latest, or a file of ceilings"
    )
    roofline.add_argument("--output", metavar="FILE", help="a picture beside the text: .svg, .png")
    roofline.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    roofline.set_defaults(handler=_roofline)


def _ceilings(arguments: argparse.Namespace) -> Exit:
    import datetime

    from harness import store
    from harness.ceilings import survey
    from harness.ceilings.measuring import doubling
    from harness.machine.detect import machine_slug
    from harness.machine.placement import default_threads, place
    from harness.machine.wish import parse_wish
    from harness.reports.ceilings import show_survey
    from harness.reports.terminal import console

    if arguments.cpus and arguments.placement:
        raise ArmbenchError("--cpus and --placement name CPUs twice", hint="give one of them")
    machine = detect_machine(None)
    wish = parse_wish(arguments.cpus or arguments.placement or "compact")
    cpus = place(machine, default_threads(machine, wish), wish).cpus
    most = len(cpus)
    counts = survey.parse_counts(arguments.threads, most) if arguments.threads else doubling(most)
    now = datetime.datetime.now(datetime.UTC)
    path = store.new_path(results_folder(arguments), machine_slug(machine), store.CEILINGS, now)

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    found = survey.take(machine, cpus, counts, placement=wish.name, short=arguments.short, say=say)
    survey.save(found, path)
    if arguments.json:
        print_json(found)
    else:
        show_survey(found, console())
    say(f"ceilings: {path}")
    return Exit.FINE


def _roofline(arguments: argparse.Namespace) -> Exit:
    from harness import binding, store
    from harness.ceilings import survey
    from harness.reports import roofline

    output = Path(arguments.output) if arguments.output else None
    if output is not None:
        roofline.check_output(output)
    path = store.find(arguments.result, results_folder(arguments))
    if survey.is_survey(path):
        drawn = roofline.of_survey(survey.load(path))
    else:
        result = store.load(path)
        binding.derive(result)
        drawn = roofline.of_result(result)
    print("\n".join(roofline.lines(drawn)))
    if output is not None:
        roofline.draw(drawn, output)
        print(f"picture: {output}", file=sys.stderr)
    return Exit.FINE
