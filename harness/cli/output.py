"""What several commands share: where results lie, and how JSON and tables are printed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import ArmbenchError, Exit

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


def target(name: str) -> Path:
    """The path that a user names to write to, with links followed.

    A device or pipe stays as it is named, since /dev/stdout leads to what has no path.
    """
    path = Path(name)
    return path if _is_special(path) else path.resolve()


def write_output(text: str, name: str) -> None:
    """Write to the path that a user names: a regular file is replaced whole, another is written to.

    Raises ArmbenchError where it cannot be written.
    """
    from harness import store

    try:
        path = target(name)
        if _is_special(path):
            with path.open("wb") as file:
                file.write(text.encode())
        else:
            store.replace(text.encode(), path)
    except (OSError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ArmbenchError(f"{name} cannot be written: {why}") from error


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file()


def write_verdict(arguments: argparse.Namespace, outcome: GateOutcome, command: str) -> None:
    """The outcome into the files asked for, and as JSON or as its table."""
    from harness.reports import gate_files
    from harness.reports.comparison import gate_sheet
    from harness.reports.terminal import console, show_sheet

    if arguments.markdown:
        text = gate_files.gate_markdown(outcome, command)
        write_output(text, arguments.markdown)
    if arguments.junit:
        write_output(gate_files.junit(outcome, command), arguments.junit)
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
