"""`armbench ab`: two sides on this machine in one job, interleaved until it is decided."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.output import add_verdict, detect_machine, results_folder, write_verdict
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.records.ab import AbSide, AbState
    from harness.records.comparison import GateOutcome

DEFAULT_RUN = ("quick", "--load", "single_stream")
_NOT_WITH_RESUME = (
    *("base", "head", "aa", "command", "setup", "repository", "seed", "blocks", "rules", "run"),
)


def add(commands: Any) -> None:
    """Add the command."""
    ab = commands.add_parser(
        "ab",
        help="two commits, environments or commands on this machine, interleaved",
        description="Measure two sides in turn, in blocks ABBA or BAAB by chance, until a verdict "
        "is reached or the budget is spent. A side is a git reference (its checkout, run with the "
        "packages of this Python), a virtual environment, or a command that writes a result below "
        "{results} or $ARMBENCH_RESULTS; cmd:, venv: and git: say which where it is not plain.",
    )
    ab.add_argument("--base", metavar="SIDE", help="what it is held against")
    ab.add_argument("--head", metavar="SIDE", help="what is judged (default: this armbench)")
    ab.add_argument(
        "--aa",
        action="store_true",
        help="both sides are --base (default: this armbench): what differs is noise, and is kept "
        "for the noise margin of this machine",
    )
    ab.add_argument(
        "run",
        nargs="*",
        metavar="-- PLAN FLAGS",
        help="what `armbench run` measures in checkouts and environments "
        f"(default: {' '.join(DEFAULT_RUN)})",
    )
    ab.add_argument(
        "--command",
        metavar="CMD",
        help="what measures them instead; {python}, {dir} and {results} are filled in",
    )
    ab.add_argument("--setup", metavar="CMD", help="run once in each checkout, by sh, before that")
    ab.add_argument(
        "--repository", metavar="DIR", default=None, help="of git references (default: .)"
    )
    ab.add_argument("--budget", metavar="TIME", help="time for all trials, such as 20m")
    ab.add_argument("--blocks", metavar="LEAST-MOST", help="of four trials each (default: 4-20)")
    ab.add_argument("--seed", type=int, metavar="N", help="of the order (default: 1)")
    ab.add_argument("--rules", metavar="FILE", help="margins (default: configs/gate.toml)")
    ab.add_argument("--resume", metavar="FOLDER", help="go on with the comparison in FOLDER")
    ab.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    ab.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    add_verdict(ab)
    ab.set_defaults(handler=_ab)


def _ab(arguments: argparse.Namespace) -> Exit:
    from harness import history
    from harness.ab import planning
    from harness.machine.detect import machine_slug

    state = _resumed(arguments) if arguments.resume else _planned(arguments)
    if arguments.dry_run:
        return _dry_run(state, as_json=arguments.json)
    if arguments.resume:
        folder = Path(arguments.resume).absolute()
        where = folder.parents[1]
    else:
        machine = machine_slug(detect_machine(None))
        where = history.folder(results_folder(arguments), machine)
        folder = planning.new_folder(where, datetime.datetime.now(datetime.UTC))
    outcome = _conduct(state, folder, where)
    write_verdict(arguments, outcome, "ab")
    return Exit(outcome.exit)


def _resumed(arguments: argparse.Namespace) -> AbState:
    """The comparison in the folder of --resume, with a new budget where one is given."""
    from harness.ab import planning

    if any(getattr(arguments, name) not in (None, False, []) for name in _NOT_WITH_RESUME):
        raise ArmbenchError(
            "--resume goes on with what was begun; flags would make it another comparison",
            hint="give --resume FOLDER, and --budget where more time is allowed now",
        )
    state = planning.load(Path(arguments.resume))
    if arguments.budget:
        state.budget_s = _seconds(arguments.budget)
    return state


def _seconds(text: str) -> float:
    from harness.units import parse_duration

    return parse_duration(text)


def _planned(arguments: argparse.Namespace) -> AbState:
    from harness.ab import planning, schedule
    from harness.comparing import rules

    repository = Path(arguments.repository or ".")
    base, head = _sides(arguments, repository)
    if arguments.setup and "git" not in (base.kind, head.kind):
        raise ArmbenchError(
            "--setup runs in checkouts, and no side is a git reference",
            hint="set the environments up before",
        )
    least, most = _blocks(arguments.blocks) or (schedule.LEAST_BLOCKS, schedule.MOST_BLOCKS)
    return planning.plan(
        base,
        head,
        rules.read(Path(arguments.rules) if arguments.rules else None),
        seed=1 if arguments.seed is None else arguments.seed,
        least=least,
        most=most,
        budget_s=_seconds(arguments.budget) if arguments.budget else None,
        repository=repository,
        setup=["sh", "-c", arguments.setup] if arguments.setup else (),
    )


def _blocks(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    least, _, most = text.partition("-")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise ArmbenchError(f"--blocks {text!r}", hint="write it like 4-20") from None


def _sides(arguments: argparse.Namespace, repository: Path) -> tuple[AbSide, AbSide]:
    """The two sides. Raises ArmbenchError for flags that leave one open or that none uses."""
    from harness.ab import sides

    command = _words(arguments.command)
    if command and arguments.run:
        raise ArmbenchError(
            "--command and a plan are two ways to say what is measured", hint="give one of them"
        )
    run = arguments.run or DEFAULT_RUN

    def side(name: str, text: str | None) -> AbSide:
        if text is None:
            return sides.installed(name, command, run)
        return sides.parse(name, text, command, run, repository)

    if arguments.aa:
        if arguments.head is not None:
            raise ArmbenchError("--aa holds --base against itself", hint="leave --head out")
        both = side("base", arguments.base), side("head", arguments.base)
    elif arguments.base is None:
        raise ArmbenchError("no --base", hint="give a git reference, a venv or a command, or --aa")
    else:
        both = side("base", arguments.base), side("head", arguments.head)
    if (command or arguments.run) and all(one.kind == "command" for one in both):
        raise ArmbenchError(
            "both sides are commands: they say themselves what is measured",
            hint="leave --command and the plan out, or give a git reference or an environment",
        )
    return both


def _words(text: str | None) -> list[str]:
    try:
        return shlex.split(text or "")
    except ValueError as error:
        raise ArmbenchError(f"--command {text!r} can't be read: {error}") from error


def _dry_run(state: AbState, *, as_json: bool) -> Exit:
    from harness.ab import planning
    from harness.cli.output import print_json

    if as_json:
        print_json(state)
    else:
        print("\n".join(planning.describe(state)))
    return Exit.FINE


def _conduct(state: AbState, folder: Path, where: Path) -> GateOutcome:
    """Run it; an A/A comparison is added to the history in `where`."""
    from harness import history
    from harness.ab.conduct import Ab, keep_aa
    from harness.reports.ab import AbLines

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    known = history.History(where).made()
    comparing = Ab(state, folder, listener=AbLines(say), aa=known)
    say(f"comparison: {folder}")
    try:
        outcome = comparing.conduct()
    except BaseException:
        if state.trials:
            say(f"go on with: armbench ab --resume {folder}")
        raise
    if outcome.comparison is not None and not state.kept:
        state.kept = keep_aa(state, outcome.comparison, comparing.runs("a"), where)
        comparing.save()
        if state.kept:
            say(f"A/A comparisons kept for the noise margin: {state.kept} in {where}")
    return outcome
