"""`armbench run`: a plan, its flags, its table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import load_flags
from harness.cli.load_flags import LOAD_FLAGS, flag, whole
from harness.cli.output import add_output, conduct, detect_machine, print_json, results_folder
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.plan import Spec
    from harness.runner import Listener, Run

_LIST_KEYS = ("engine", "dtype", "load")
_INTEGER_LIST_KEYS = ("threads", "instances", "batch")
_INTEGER_KEYS = ("repeats", "seed", "slots", "chunk")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

# Keys of harness.plan.Spec; a test holds this table to that class, which is slow to import.
PLAN_FLAGS: dict[str, str] = {
    "name": "name of the plan, part of the result's path",
    "model": "checkpoint folder, hub id, or a built-in shape with synthetic weights",
    "engine": "engines, comma-separated",
    "dtype": "dtypes, comma-separated: float32, bfloat16",
    "threads": "compute threads, comma-separated (default: one per physical core of a NUMA node)",
    "instances": "engine processes that run at once on CPUs of their own, comma-separated "
    "(default: 1, or as many as --placement has); each has --threads",
    "load": "loads, comma-separated: single_stream, offline, and over HTTP closed, open",
    "batch": "batch sizes of the offline load, comma-separated",
    **LOAD_FLAGS,
    "slots": "sequences that our server runs at once on each instance (default: the highest "
    "concurrency, or 8)",
    "chunk": "prompt tokens of one server step at most",
    "server": "load a server of somebody else's by its recipe, such as llama-server",
    "binary": "the program of --server, where it is not on PATH",
    "repeats": "trials of each case, each in a fresh process",
    "seed": "seed of prompts and order",
    "placement": "where threads go: compact, spread, numa, CPUs such as 0-15,32-47, or a file",
    "exporter": "how the onnxruntime engine's graph is made: builder, optimum",
    "time_budget": "time for the trials, such as 5m; lengths are halved to fit it; none: no limit",
    "trial_timeout": "time after which an engine counts as hung, such as 10m",
    "instance": "the cloud instance this is, such as aws/c8g.4xlarge",
    "price": "what the whole instance costs, such as '0.638 USD/h'",
    "ceilings": "whether results are held against measured ceilings: true, false",
    "unchecked": "whether engines count whose quality could not be checked: true, false",
}


def add(commands: Any) -> None:
    """Add the command."""
    run = commands.add_parser(
        "run",
        help="run a plan and print its table",
        description="Run a plan: PLAN is a TOML file or a shipped name (default: quick). Flags "
        "override its keys; lists on a flag make the Cartesian product.",
    )
    run.add_argument("plan", nargs="?", metavar="PLAN", help="plan file or shipped name")
    for key, text in PLAN_FLAGS.items():
        run.add_argument(flag(key), dest=key, metavar="X", help=text)
    run.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="ENGINE.KEY=VALUE",
        help="an engine's option, such as onnxruntime.spinning=false; may be repeated",
    )
    run.add_argument("--resume", metavar="FILE", help="finish the interrupted run in FILE")
    run.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    add_output(run)
    run.set_defaults(handler=_run)


def truth(key: str, text: str) -> bool:
    """True or false. Raises ArmbenchError for anything else."""
    if text.lower() not in _BOOLEANS:
        raise ArmbenchError(f"--{key} is {text!r}", hint="give true or false")
    return _BOOLEANS[text.lower()]


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The plan keys that flags set."""
    found: dict[str, Any] = {}
    for key in PLAN_FLAGS:
        text = getattr(arguments, key)
        if text is None:
            continue
        if key in _LIST_KEYS:
            found[key] = [part.strip() for part in text.split(",") if part.strip()]
        elif key in LOAD_FLAGS:
            found[key] = load_flags.parse(key, text)
        elif key in _INTEGER_LIST_KEYS:
            found[key] = [whole(key, part) for part in text.split(",") if part.strip()]
        elif key in ("ceilings", "unchecked"):
            found[key] = truth(key, text)
        else:
            found[key] = whole(key, text) if key in _INTEGER_KEYS else text
    return found


def options_of(pairs: Sequence[str], base: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Engine options from `ENGINE.KEY=VALUE` texts on top of `base`; values are TOML or text."""
    import tomllib

    options = {engine: dict(values) for engine, values in base.items()}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        engine, dot, key = name.partition(".")
        if not (equals and dot):
            raise ArmbenchError(f"--option {pair!r}", hint="write it ENGINE.KEY=VALUE")
        try:
            value = tomllib.loads(f"x = {text}")["x"]
        except tomllib.TOMLDecodeError:
            value = text
        options.setdefault(engine, {})[key] = value
    return options


def _run(arguments: argparse.Namespace) -> Exit:
    from harness import plan

    overrides = _overrides(arguments)
    if arguments.resume:
        if overrides or arguments.plan or arguments.option or arguments.dry_run:
            raise ArmbenchError(
                "--resume takes the plan of its file; flags would make it another run",
                hint="give --resume FILE alone",
            )
        return _execute(arguments, None)
    spec = plan.read_spec(arguments.plan or "quick", overrides)
    spec.options = options_of(arguments.option, spec.options)
    plan.check(spec)
    if spec.server is not None:
        from harness.cli import load
        from harness.managed_run import endpoint_spec_of

        asked = endpoint_spec_of(spec)
        if arguments.dry_run:
            return load.dry_run(asked, as_json=arguments.json)
        return load.execute(arguments, asked)
    if arguments.dry_run:
        return _dry_run(spec, as_json=arguments.json)
    return _execute(arguments, spec)


def _execute(arguments: argparse.Namespace, spec: Spec | None) -> Exit:
    """A new run of `spec`, or without one the rest of the run to resume."""
    from harness import begin

    def start(listener: Listener) -> Run:
        if spec is None:
            return begin.resume_run(Path(arguments.resume), detect_machine(None), listener)
        machine = detect_machine(spec.instance)
        return begin.new_run(spec, machine, results_folder(arguments), listener)

    return conduct(start, "armbench run", as_json=arguments.json)


def _dry_run(spec: Spec, *, as_json: bool) -> Exit:
    from harness import conversion, estimate, plan
    from harness.model import checkpoint
    from harness.reports.terminal import console, show_dry_run

    machine = detect_machine(spec.instance)
    _, d = checkpoint.peek(spec.model)
    resolved = plan.resolve(spec, machine, d)
    seconds = estimate.guess(resolved, d)
    memory = {case.id: plan.case_memory(case, d) for case in resolved.cases}
    conversions = conversion.planned([case.variant for case in resolved.cases], d)
    if as_json:
        print_json(
            {
                "plan": resolved,
                "estimated_seconds": seconds,
                "estimated_memory_bytes": memory,
                "conversions": conversions,
            }
        )
    else:
        show_dry_run(resolved, seconds, memory, conversions, console())
    return Exit.FINE
