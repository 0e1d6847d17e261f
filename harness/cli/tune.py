"""`armbench tune`: the fastest way to serve a model here that is still right, and what it costs."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.load_flags import flag, whole
from harness.cli.output import (
    add_output,
    detect_machine,
    print_json,
    results_folder,
    write_output,
)
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.records.run import Result
    from harness.records.tune import Asked
    from harness.tune.begin import Money
    from harness.tune.conduct import Tuning
    from harness.tune.space import Wanted

_OBJECTIVES = ("throughput", "latency", "cost")
_LOADS = ("single_stream", "offline", "closed")
_KNOBS = {
    "engine": "engines to try, comma-separated (default: all but fake and transformers)",
    "dtype": "dtypes to try, comma-separated (default: all that the engines have)",
    "threads": "threads of an instance, comma-separated (default: powers of two, the cores of a "
    "cache, of a memory node, and all)",
    "instances": "processes side by side, comma-separated (default: one, one per memory node, and "
    "as many as there are cores for)",
    "batch": "sequences at once of each instance, comma-separated (default: 1,4,16; 64 too from "
    "16 cores on)",
    "chunk": "prompt tokens of one server step, comma-separated, for --load closed (default: 128)",
}
_WHOLE_KNOBS = ("threads", "instances", "batch", "chunk")
_NOT_WITH_RESUME = (
    *("model", "objective", "slo", "budget", "workload", "load", *_KNOBS, "option", "tunable"),
    *("placement", "requests", "seed", "instance", "price", "exhaustive", "repeats", "dry_run"),
)
_WORKLOAD = re.compile(r"(?:pp)?(\d{1,7})\s*[,/]\s*(?:tg)?(\d{1,7})")


def add(commands: Any) -> None:
    """Add the command."""
    tune = commands.add_parser(
        "tune",
        help="find the best engine, dtype, threads, instances and batch for a model here",
        description="Search for the best point under an objective: short probes of every "
        "candidate, then trials in fresh processes of those that may be the best, until they are "
        "told apart or the budget is spent. Outside the quality bounds nothing wins.",
    )
    tune.add_argument("--model", help="folder, hub id, or a built-in shape (synthetic weights)")
    tune.add_argument("--objective", metavar="X", help=f"{', '.join(_OBJECTIVES)} (throughput)")
    tune.add_argument("--slo", metavar="X", help="promise to keep: server, tpot:p99<=100ms, ...")
    tune.add_argument("--budget", metavar="T", help="time to measure (20m); none: no limit")
    tune.add_argument("--workload", metavar="PP,TG", help="input and output tokens (512,128)")
    tune.add_argument("--load", metavar="X", help="single_stream, offline (default), closed")
    for key, text in _KNOBS.items():
        tune.add_argument(flag(key), dest=key, metavar="X", help=text)
    tune.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="ENGINE.KEY=VALUE",
        help="an engine's option, fixed; may be repeated",
    )
    tune.add_argument("--tunable", metavar="X", help="false: leave engines' options as they are")
    tune.add_argument("--placement", metavar="X", help="as for run (default: compact)")
    tune.add_argument("--requests", metavar="N", help="requests, or batches, of each trial")
    tune.add_argument("--seed", metavar="N", help="seed of prompts and order (1)")
    tune.add_argument("--instance", metavar="X", help="the cloud instance this is")
    tune.add_argument("--price", metavar="X", help="what it costs, such as '0.638 USD/h'")
    tune.add_argument(
        "--exhaustive", action="store_true", help="measure every candidate: to check the search"
    )
    tune.add_argument("--repeats", metavar="N", help="of each candidate with --exhaustive (3)")
    tune.add_argument("--resume", metavar="FILE", help="go on with the search in FILE")
    tune.add_argument("--dry-run", action="store_true", help="print the space, and stop")
    tune.add_argument("--write-plan", metavar="PATH", help="write the winner's plan there")
    add_output(tune)
    tune.set_defaults(handler=_tune)


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _chosen(name: str, text: str, known: tuple[str, ...]) -> Any:
    from harness.errors import unknown_name

    if text not in known:
        raise unknown_name(name, text, known)
    return text


def _lengths(text: str) -> tuple[int, int]:
    match = _WORKLOAD.fullmatch(text.strip())
    if match is None or min(int(match[1]), int(match[2])) < 1:
        raise ArmbenchError(f"--workload is {text!r}", hint="write it like 512,128")
    return int(match[1]), int(match[2])


def _number(arguments: argparse.Namespace, key: str, default: int) -> int:
    text = getattr(arguments, key)
    value = default if text is None else whole(key, text)
    if not 1 <= value <= 10_000_000:
        raise ArmbenchError(f"{flag(key)} is {value}", hint="give a positive whole number")
    return value


def _asked(arguments: argparse.Namespace) -> Asked:
    from harness.load.slo import parse_slo
    from harness.records.tune import Asked
    from harness.tune.space import default_load
    from harness.units import parse_duration

    if arguments.model is None:
        raise ArmbenchError("no --model", hint="give a folder, or a shape such as qwen2.5-0.5b")
    objective = _chosen("objective", arguments.objective or "throughput", _OBJECTIVES)
    slo = parse_slo(arguments.slo) if arguments.slo else None
    load = arguments.load or default_load(objective, slo=slo is not None)
    budget = arguments.budget or ("none" if arguments.exhaustive else "20m")
    return Asked(
        model=arguments.model,
        objective=objective,
        load=_chosen("load", load, _LOADS),
        lengths=_lengths(arguments.workload or "512,128"),
        seed=_number(arguments, "seed", 1),
        placement=arguments.placement or "compact",
        budget_s=None if budget == "none" else parse_duration(budget),
        slo=slo,
        requests=_number(arguments, "requests", 1) if arguments.requests else None,
        exhaustive=arguments.exhaustive,
        repeats=_number(arguments, "repeats", 3),
    )


def _wanted(arguments: argparse.Namespace) -> Wanted:
    from harness.cli.run import options_of, truth
    from harness.tune.space import Wanted

    knobs: dict[str, Any] = {
        key: [whole(key, part) for part in _list(getattr(arguments, key))]
        if key in _WHOLE_KNOBS
        else _list(getattr(arguments, key))
        for key in _KNOBS
    }
    return Wanted(
        **knobs,
        options=options_of(arguments.option, {}),
        tunable=truth("tunable", arguments.tunable or "true"),
    )


def _money(arguments: argparse.Namespace) -> Money:
    from harness.tune.begin import Money

    return Money(price=arguments.price, instance=arguments.instance)


def _tune(arguments: argparse.Namespace) -> Exit:
    if arguments.resume and any(
        getattr(arguments, name) not in (None, False, []) for name in _NOT_WITH_RESUME
    ):
        raise ArmbenchError(
            "--resume goes on with the search of its file; flags would make it another one",
            hint="give --resume FILE alone, or with --write-plan",
        )
    return _dry_run(arguments) if arguments.dry_run else _execute(arguments)


def _begin(arguments: argparse.Namespace, listener: Any) -> Tuning:
    from harness.tune import begin

    if arguments.resume:
        return begin.resume_tuning(Path(arguments.resume), detect_machine(None), listener)
    return begin.new_tuning(
        _asked(arguments),
        _wanted(arguments),
        detect_machine(arguments.instance),
        results_folder(arguments),
        listener,
        _money(arguments),
    )


def _execute(arguments: argparse.Namespace) -> Exit:
    from harness.reports.tune_live import TuneListener

    interrupted = False
    with TuneListener() as listener:
        tuning = _begin(arguments, listener)
        try:
            tuning.execute()
        except KeyboardInterrupt:
            interrupted = True
            tuning.save()
    result, path = tuning.result, tuning.run.path
    plan = _write_plan(arguments, result, path)
    _print(result, plan, as_json=arguments.json)
    print(f"result: {path}", file=sys.stderr)
    if interrupted:
        print(f"interrupted; go on with: armbench tune --resume {path}", file=sys.stderr)
        return Exit.INTERRUPTED
    return _exit(result)


def _exit(result: Result) -> Exit:
    """Fine with a winner, tied or not.

    Inconclusive where one trial is all there is of it, where what looked faster was always
    disturbed, or where there was no reference to hold it against.
    """
    answer = result.tune.answer if result.tune else None
    if answer is None or answer.winner is None:
        return Exit.INVALID
    doubtful = answer.unmeasured or answer.unchecked or answer.standings[0].n < 2
    return Exit.INCONCLUSIVE if doubtful else Exit.FINE


def _write_plan(arguments: argparse.Namespace, result: Result, path: Path) -> Path | None:
    """The winner's plan: where it was asked for, else beside the result; None without a winner."""
    answer = result.tune.answer if result.tune else None
    if answer is None or answer.plan is None:
        return None
    target = Path(arguments.write_plan) if arguments.write_plan else path.with_suffix(".toml")
    write_output(answer.plan, str(target))
    return target


def _print(result: Result, plan: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    from harness.reports.terminal import console, show_tune

    show_tune(result, console())
    answer = result.tune.answer if result.tune else None
    if plan is not None and answer is not None:
        print(f"measure it again: armbench run {plan}")
        print(f"serve it: {answer.serve or answer.serve_reason}")


def _dry_run(arguments: argparse.Namespace) -> Exit:
    from harness.model import checkpoint
    from harness.reports.terminal import console, show_sheet
    from harness.reports.tune_dry import dry_sheets
    from harness.tune import begin, forecast

    asked, wanted = _asked(arguments), _wanted(arguments)
    machine = detect_machine(arguments.instance)
    found = begin.survey(asked, wanted, machine)
    _, d = checkpoint.peek(asked.model)
    seen = forecast.forecast(asked, found, machine, d)
    if arguments.json:
        print_json(
            {"asked": asked, "candidates": found.candidates, "left": found.left, "forecast": seen}
        )
        return Exit.FINE
    for sheet in dry_sheets(asked, found, seen):
        show_sheet(sheet, console())
    return Exit.FINE
