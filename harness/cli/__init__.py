"""The `armbench` command: parse, call, exit. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from harness import __version__
from harness.cli import (
    ab,
    cache,
    ceilings,
    compare,
    cost,
    engines,
    exchange,
    history,
    load,
    machine,
    prices,
    report,
    run,
    serve,
    show,
    tune,
)
from harness.cli import (
    list as listing,
)
from harness.errors import EXIT_MEANINGS, ArmbenchError, Exit

_COMMANDS = (
    *(run, tune, load, serve, machine, ceilings, engines, show, listing),
    *(compare, ab, history, report, cost, prices, exchange, cache),
)


def _epilog() -> str:
    codes = "\n".join(f"  {code.value:>3}  {text}" for code, text in EXIT_MEANINGS.items())
    return f"exit codes:\n{codes}"


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="armbench",
        description="Benchmark serving Qwen models on this server: what it is, what it can do, "
        "what a million tokens cost.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"armbench {__version__}")
    commands = top.add_subparsers(metavar="COMMAND")
    for part in _COMMANDS:
        part.add(commands)
    return top


def _report(error: ArmbenchError) -> Exit:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return error.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    parsed = parser().parse_args(arguments)
    handler: Callable[[argparse.Namespace], Exit] | None = getattr(parsed, "handler", None)
    if handler is None:
        parser().print_help()
        return Exit.USER
    try:
        return int(handler(parsed))
    except ArmbenchError as error:
        return _report(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left: nothing more can be said
        return Exit.FINE
