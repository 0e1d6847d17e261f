"""What several commands share: where results lie, and how JSON and tables are printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Exit

if TYPE_CHECKING:
    from harness.records.machine import Machine
    from harness.records.run import Result
    from harness.runner import Listener, Run


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


def conduct(start: Callable[[Listener], Run], again: str, *, as_json: bool) -> Exit:
    """Conduct the run that `start` begins and print its tables.

    `again` begins what is said after Ctrl-C: how the run is finished.
    """
    from harness import runner, validity
    from harness.reports.progress import ProgressListener

    with ProgressListener() as listener:
        run = start(listener)
        try:
            result = runner.execute(run)
        except KeyboardInterrupt:
            listener.say(f"interrupted; finish it with: {again} --resume {run.path}")
            return Exit.INTERRUPTED
    print_result(result, as_json=as_json)
    print(f"result: {run.path}", file=sys.stderr)
    return Exit.INVALID if validity.invalid_cases(result) else Exit.FINE
