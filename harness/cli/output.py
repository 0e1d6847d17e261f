"""What several commands share: where results lie, and how JSON and tables are printed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.records.machine import Machine
    from harness.records.run import Result


def add_output(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that writes a result and prints it."""
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def print_json(value: object) -> None:
    """Indented JSON on standard output."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def results_folder(arguments: argparse.Namespace) -> Path:
    """The folder of results: as asked, or the usual one."""
    from harness import places

    return Path(arguments.results) if arguments.results else places.results_dir()


def detect_machine(instance: str | None) -> Machine:
    """This machine, as cloud `instance` where that is given."""
    from harness.machine.detect import detect

    return detect(instance=instance)


def print_result(result: Result, *, as_json: bool) -> None:
    """The result as JSON or as its table."""
    from harness.reports.terminal import console, show_result

    if as_json:
        print_json(result)
    else:
        show_result(result, console())
