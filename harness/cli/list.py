"""`armbench list`: the results there are, newest first."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness.cli.output import add_output, print_json, results_folder
from harness.errors import ArmbenchError, Exit


def add(commands: Any) -> None:
    """Add the command."""
    listed = commands.add_parser("list", help="the results there are, newest first")
    for name in ("machine", "plan", "model"):
        listed.add_argument(f"--{name}", metavar="X", help=f"only where the {name} contains X")
    listed.add_argument("--limit", type=int, default=50, metavar="N", help="default: 50")
    add_output(listed)
    listed.set_defaults(handler=_list)


def _list(arguments: argparse.Namespace) -> Exit:
    from harness.interchange import listing
    from harness.reports.listing import listing_sheet
    from harness.reports.terminal import console, show_sheet

    if arguments.limit < 1:
        raise ArmbenchError(f"--limit {arguments.limit}", hint="give 1 or more")
    wanted = {name: getattr(arguments, name) for name in ("machine", "plan", "model")}
    found = listing.results(
        results_folder(arguments),
        {name: text for name, text in wanted.items() if text},
        limit=arguments.limit,
    )
    for text in found.skipped:
        print(f"left out: {text}", file=sys.stderr)
    if arguments.json:
        print_json(found.rows)
    else:
        show_sheet(listing_sheet(found), console())
    return Exit.FINE
