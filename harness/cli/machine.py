"""`armbench machine`: what this machine is, if it is fit, where threads would go."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.output import print_json
from harness.cli.run import PLAN_FLAGS
from harness.errors import Exit

if TYPE_CHECKING:
    from harness.records.machine import Machine


def add(commands: Any) -> None:
    """Add the command."""
    machine = commands.add_parser("machine", help="what this machine is, and if it is fit")
    machine.add_argument("--json", action="store_true", help="print JSON")
    machine.add_argument(
        "--check", action="store_true", help="what would disturb a measurement, and what to do"
    )
    machine.add_argument("--root", metavar="DIR", help="read a captured tree instead")
    machine.add_argument("--imds", action="store_true", help="ask the cloud's metadata service")
    machine.add_argument("--instance", metavar="X", help="the cloud instance this is")
    machine.add_argument(
        "--plan", metavar="IxT", help="draw where I instances of T threads would go, such as 8x16"
    )
    machine.add_argument(
        "--placement", metavar="X", help="draw that " + PLAN_FLAGS["placement"].partition(": ")[2]
    )
    machine.set_defaults(handler=_machine)


def _machine(arguments: argparse.Namespace) -> Exit:
    from harness.machine.detect import detect

    root = Path(arguments.root) if arguments.root else Path("/")
    machine = detect(root, instance=arguments.instance)
    if arguments.imds:
        from harness.machine.imds import complete

        complete(machine)
    if arguments.check:
        from harness.machine import check

        found = check.check(machine, root)
        if arguments.json:
            print_json(found)
        else:
            from harness.reports.machine import findings_lines

            print("\n".join(findings_lines(found)))
        return check.exit_code(found)
    if arguments.plan is not None or arguments.placement is not None:
        return _draw(arguments, machine)
    if arguments.json:
        print_json(machine)
    else:
        _print_card(machine, root)
    return Exit.FINE


def _draw(arguments: argparse.Namespace, machine: Machine) -> Exit:
    """The map of a placement; nothing is run."""
    from harness.machine.placement import default_instances, default_threads, place
    from harness.machine.wish import parse_shape, parse_wish

    wish = parse_wish(arguments.placement or "compact")
    if arguments.plan is None:
        instances = default_instances(machine, wish)
        threads = default_threads(machine, wish, instances)
    else:
        instances, threads = parse_shape(arguments.plan)
    placement = place(machine, threads, wish, instances)
    if arguments.json:
        print_json(placement)
        return Exit.FINE
    from harness.reports.placement import placement_lines, placement_text

    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(placement_text(machine, placement))
    else:
        print("\n".join(placement_lines(machine, placement)))
    return Exit.FINE


def _print_card(machine: Machine, root: Path) -> None:
    from harness.machine.conditions import read_conditions
    from harness.reports.machine import machine_card, machine_lines

    conditions = read_conditions(root)
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(machine_card(machine, conditions))
    else:
        print("\n".join(machine_lines(machine, conditions)))
