"""What several commands share: where results lie, and how JSON and tables are printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Exit

if TYPE_CHECKING:
    from harness.records.comparison import GateOutcome
    from harness.records.machine import Machine
    from harness.records.run import Result
    from harness.runner import Listener, Run


def add_output(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that writes a result and prints it."""
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def add_verdict(parser: argparse.ArgumentParser) -> None:
    """The flags of a command that ends in a verdict."""
    parser.add_argument("--markdown", metavar="FILE", help="for a job summary or a comment")
    parser.add_argument("--junit", metavar="FILE", help="as JUnit XML")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def write_verdict(arguments: argparse.Namespace, outcome: GateOutcome, command: str) -> None:
    """The outcome into the files asked for, and as JSON or as its table."""
    from harness import store
    from harness.reports import gate_files
    from harness.reports.comparison import gate_sheet
    from harness.reports.terminal import console, show_sheet

    if arguments.markdown:
        text = gate_files.gate_markdown(outcome, command)
        store.write(text.encode(), Path(arguments.markdown))
    if arguments.junit:
        store.write(gate_files.junit(outcome, command).encode(), Path(arguments.junit))
    if arguments.json:
        sys.stdout.write(gate_files.as_json(outcome))
    elif not outcome.rows:
        print(outcome.summary)  # unbroken: it names what may be copied
    else:
        show_sheet(gate_sheet(outcome), console())


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
