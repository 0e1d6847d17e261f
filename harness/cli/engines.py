"""`armbench engines`: which engines there are, what they can do here, and what they need."""

from __future__ import annotations

import argparse
from typing import Any

from harness.cli.output import detect_machine, print_json
from harness.errors import Exit


def add(commands: Any) -> None:
    """Add the command."""
    engines = commands.add_parser("engines", help="which engines there are, and what they need")
    engines.add_argument("name", nargs="?", help="one of them, with its options")
    engines.add_argument("--json", action="store_true", help="print JSON")
    engines.set_defaults(handler=_engines)


def _engines(arguments: argparse.Namespace) -> Exit:
    from harness import abilities

    found = abilities.here(detect_machine(None))
    name = arguments.name
    rows = [abilities.row(name, found)] if name else abilities.rows(found)
    if arguments.json:
        print_json(rows)
        return Exit.FINE
    from harness.reports.engines import engine_sheet, engines_sheet
    from harness.reports.terminal import console, show_sheet

    show_sheet(engine_sheet(rows[0]) if name else engines_sheet(rows), console())
    return Exit.FINE
