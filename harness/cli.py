"""The `armbench` command: parse, call, exit. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import __version__
from harness.errors import EXIT_MEANINGS, ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.plan import Spec
    from harness.records.machine import Machine
    from harness.records.run import Result

_LIST_KEYS = ("engine", "dtype", "load")
_INTEGER_LIST_KEYS = ("threads", "batch", "input_tokens", "output_tokens")
_INTEGER_KEYS = ("requests", "repeats", "seed")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

# Keys of harness.plan.Spec; a test holds this table to that class, which is slow to import.
PLAN_FLAGS: dict[str, str] = {
    "name": "name of the plan, part of the result's path",
    "model": "checkpoint folder, hub id, or a built-in shape with synthetic weights",
    "engine": "engines, comma-separated",
    "dtype": "dtypes, comma-separated: float32, bfloat16",
    "threads": "compute threads, comma-separated (default: one per physical core of a NUMA node)",
    "load": "loads, comma-separated: single_stream, offline",
    "batch": "batch sizes of the offline load, comma-separated",
    "input_tokens": "input tokens per request, comma-separated",
    "output_tokens": "output tokens per request, comma-separated",
    "requests": "requests of each trial, one after the other",
    "repeats": "trials of each case, each in a fresh process",
    "seed": "seed of prompts and order",
    "placement": "where threads go: compact, spread, numa, CPUs such as 0-15,32-47, or a file",
    "exporter": "how the onnxruntime engine's graph is made: builder, optimum",
    "time_budget": "time for the trials, such as 5m; lengths are halved to fit it; none: no limit",
    "trial_timeout": "time after which an engine counts as hung, such as 10m",
    "instance": "the cloud instance this is, such as aws/c8g.4xlarge",
    "price": "what the whole instance costs, such as '0.638 USD/h'",
    "ceilings": "whether results are held against measured ceilings: true, false",
}


def _epilog() -> str:
    codes = "\n".join(f"  {code.value:>3}  {text}" for code, text in EXIT_MEANINGS.items())
    return f"exit codes:\n{codes}"


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a plan and print its table",
        description="Run a plan: PLAN is a TOML file or a shipped name (default: quick). Flags "
        "override its keys; lists on a flag make the Cartesian product.",
    )
    run.add_argument("plan", nargs="?", metavar="PLAN", help="plan file or shipped name")
    for key, text in PLAN_FLAGS.items():
        run.add_argument(f"--{key.replace('_', '-')}", dest=key, metavar="X", help=text)
    run.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="ENGINE.KEY=VALUE",
        help="an engine's option, such as onnxruntime.spinning=false; may be repeated",
    )
    run.add_argument("--resume", metavar="FILE", help="finish the interrupted run in FILE")
    run.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    _add_output(run)
    run.set_defaults(handler=_run)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_machine(commands: Any) -> None:
    machine = commands.add_parser("machine", help="what this machine is, and if it is fit")
    machine.add_argument("--json", action="store_true", help="print JSON")
    machine.add_argument(
        "--check", action="store_true", help="what would disturb a measurement, and what to do"
    )
    machine.add_argument("--root", metavar="DIR", help="read a captured tree instead")
    machine.add_argument("--imds", action="store_true", help="ask the cloud's metadata service")
    machine.add_argument("--instance", metavar="X", help="the cloud instance this is")
    machine.add_argument(
        "--plan", metavar="IxT", help="draw where I instances of T threads would go, such as 8x16"
    )
    machine.add_argument(
        "--placement", metavar="X", help="draw that " + PLAN_FLAGS["placement"].partition(": ")[2]
    )
    machine.set_defaults(handler=_machine)


def _add_ceilings(commands: Any) -> None:
    ceilings = commands.add_parser(
        "ceilings",
        help="what this machine can do at best, measured",
        description="Measure bandwidth and arithmetic by type and thread count with our own "
        "kernels. Stored under RESULTS/<machine>/ceilings; runs reuse it for a day.",
    )
    ceilings.add_argument(
        "--threads", metavar="N,N", help="thread counts such as 1,2,4,max (default: doubling)"
    )
    ceilings.add_argument("--placement", metavar="X", help=PLAN_FLAGS["placement"])
    ceilings.add_argument("--cpus", metavar="LIST", help="these CPUs, such as 0-15")
    ceilings.add_argument("--short", action="store_true", help="a few seconds, fewer kinds")
    _add_output(ceilings)
    ceilings.set_defaults(handler=_ceilings)


def _add_roofline(commands: Any) -> None:
    roofline = commands.add_parser("roofline", help="draw what bounds a result or a machine")
    roofline.add_argument(
        "result", nargs="?", default="latest", help="a result file, latest, or a file of ceilings"
    )
    roofline.add_argument("--output", metavar="FILE", help="a picture beside the text: .svg, .png")
    roofline.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    roofline.set_defaults(handler=_roofline)


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
    _add_run(commands)
    _add_machine(commands)
    _add_ceilings(commands)
    show = commands.add_parser("show", help="print the table of a result again")
    show.add_argument("result", nargs="?", default="latest", help="a result file, or latest")
    show.add_argument("--price", metavar="X", help="price the whole instance differently")
    show.add_argument("--instance", metavar="X", help="price as this cloud instance")
    _add_output(show)
    show.set_defaults(handler=_show)
    _add_roofline(commands)
    for name, text, handler in (
        ("engines", "which engines there are, and what they need", _engines),
        ("plans", "which plans are shipped", _plans),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(handler=handler)
    explain = commands.add_parser("explain", help="what a metric means")
    explain.add_argument("metric", nargs="?", help="its name; none lists them all")
    explain.set_defaults(handler=_explain)
    return top


def _print_json(value: object) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArmbenchError(
            f"--{key.replace('_', '-')} is {text!r}", hint="give a whole number"
        ) from None


def _truth(key: str, text: str) -> bool:
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
        elif key in _INTEGER_LIST_KEYS:
            found[key] = [_whole(key, part) for part in text.split(",") if part.strip()]
        elif key == "ceilings":
            found[key] = _truth(key, text)
        else:
            found[key] = _whole(key, text) if key in _INTEGER_KEYS else text
    return found


def _options(pairs: Sequence[str], base: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
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


def _results(arguments: argparse.Namespace) -> Path:
    from harness import places

    return Path(arguments.results) if arguments.results else places.results_dir()


def _detect(instance: str | None) -> Machine:
    from harness.machine.detect import detect

    return detect(instance=instance)


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
    spec.options = _options(arguments.option, spec.options)
    plan.check(spec)
    if arguments.dry_run:
        return _dry_run(spec, as_json=arguments.json)
    return _execute(arguments, spec)


def _execute(arguments: argparse.Namespace, spec: Spec | None) -> Exit:
    """A new run of `spec`, or without one the rest of the run to resume."""
    from harness import begin, runner, validity
    from harness.reports.progress import ProgressListener

    with ProgressListener() as listener:
        if spec is None:
            run = begin.resume_run(Path(arguments.resume), _detect(None), listener)
        else:
            run = begin.new_run(spec, _detect(spec.instance), _results(arguments), listener)
        try:
            result = runner.execute(run)
        except KeyboardInterrupt:
            listener.say(f"interrupted; finish it with: armbench run --resume {run.path}")
            return Exit.INTERRUPTED
    _print_result(result, as_json=arguments.json)
    print(f"result: {run.path}", file=sys.stderr)
    return Exit.INVALID if validity.invalid_cases(result) else Exit.FINE


def _dry_run(spec: Spec, *, as_json: bool) -> Exit:
    from harness import estimate, plan
    from harness.model import checkpoint
    from harness.reports.terminal import console, show_dry_run

    machine = _detect(spec.instance)
    _, d = checkpoint.peek(spec.model)
    resolved = plan.resolve(spec, machine, d)
    seconds = estimate.guess(resolved, d)
    memory = {case.id: plan.case_memory(case, d) for case in resolved.cases}
    if as_json:
        _print_json(
            {"plan": resolved, "estimated_seconds": seconds, "estimated_memory_bytes": memory}
        )
    else:
        show_dry_run(resolved, seconds, memory, console())
    return Exit.FINE


def _print_result(result: Result, *, as_json: bool) -> None:
    from harness.reports.terminal import console, show_result

    if as_json:
        _print_json(result)
    else:
        show_result(result, console())


def _show(arguments: argparse.Namespace) -> Exit:
    from harness import binding, prices, store, validity

    result = store.load(store.find(arguments.result, _results(arguments)))
    if arguments.price:
        result.price = prices.parse_price(arguments.price)
    elif arguments.instance:
        result.price = prices.instance_price(arguments.instance).price
    binding.derive(result)
    _print_result(result, as_json=arguments.json)
    return Exit.INVALID if validity.invalid_cases(result) else Exit.FINE


def _machine(arguments: argparse.Namespace) -> Exit:
    from harness.machine.detect import detect

    root = Path(arguments.root) if arguments.root else Path("/")
    machine = detect(root, instance=arguments.instance)
    if arguments.imds:
        from harness.machine.imds import complete

        complete(machine)
    if arguments.check:
        from harness.machine import check

        found = check.check(machine, root)
        if arguments.json:
            _print_json(found)
        else:
            from harness.reports.machine import findings_lines

            print("\n".join(findings_lines(found)))
        return check.exit_code(found)
    if arguments.plan is not None or arguments.placement is not None:
        return _draw(arguments, machine)
    if arguments.json:
        _print_json(machine)
    else:
        _print_card(machine, root)
    return Exit.FINE


def _draw(arguments: argparse.Namespace, machine: Machine) -> Exit:
    """The map of a placement; nothing is run."""
    from harness.machine.placement import default_instances, default_threads, place
    from harness.machine.wish import parse_shape, parse_wish

    wish = parse_wish(arguments.placement or "compact")
    if arguments.plan is None:
        instances, threads = default_instances(machine, wish), default_threads(machine, wish)
    else:
        instances, threads = parse_shape(arguments.plan)
    placement = place(machine, threads, wish, instances)
    if arguments.json:
        _print_json(placement)
        return Exit.FINE
    from harness.reports.placement import placement_lines, placement_text

    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(placement_text(machine, placement))
    else:
        print("\n".join(placement_lines(machine, placement)))
    return Exit.FINE


def _print_card(machine: Machine, root: Path) -> None:
    from harness.machine.conditions import read_conditions
    from harness.reports.machine import machine_card, machine_lines

    conditions = read_conditions(root)
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(machine_card(machine, conditions))
    else:
        print("\n".join(machine_lines(machine, conditions)))


def _ceilings(arguments: argparse.Namespace) -> Exit:
    import datetime

    from harness import store
    from harness.ceilings import survey
    from harness.ceilings.measuring import doubling
    from harness.machine.detect import machine_slug
    from harness.machine.placement import default_threads, place
    from harness.machine.wish import parse_wish
    from harness.reports.ceilings import show_survey
    from harness.reports.terminal import console

    if arguments.cpus and arguments.placement:
        raise ArmbenchError("--cpus and --placement name CPUs twice", hint="give one of them")
    machine = _detect(None)
    wish = parse_wish(arguments.cpus or arguments.placement or "compact")
    cpus = place(machine, default_threads(machine, wish), wish).cpus
    most = len(cpus)
    counts = survey.parse_counts(arguments.threads, most) if arguments.threads else doubling(most)
    now = datetime.datetime.now(datetime.UTC)
    path = store.new_path(_results(arguments), machine_slug(machine), store.CEILINGS, now)

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    found = survey.take(machine, cpus, counts, placement=wish.name, short=arguments.short, say=say)
    survey.save(found, path)
    if arguments.json:
        _print_json(found)
    else:
        show_survey(found, console())
    say(f"ceilings: {path}")
    return Exit.FINE


def _roofline(arguments: argparse.Namespace) -> Exit:
    from harness import binding, store
    from harness.ceilings import survey
    from harness.reports import roofline

    output = Path(arguments.output) if arguments.output else None
    if output is not None:
        roofline.check_output(output)
    path = store.find(arguments.result, _results(arguments))
    if survey.is_survey(path):
        drawn = roofline.of_survey(survey.load(path))
    else:
        result = store.load(path)
        binding.derive(result)
        drawn = roofline.of_result(result)
    print("\n".join(roofline.lines(drawn)))
    if output is not None:
        roofline.draw(drawn, output)
        print(f"picture: {output}", file=sys.stderr)
    return Exit.FINE


def _engines(arguments: argparse.Namespace) -> Exit:
    from harness import engines

    rows: list[dict[str, Any]] = [
        {
            "engine": name,
            "missing": engines.missing_packages(name),
            "dtypes": list(engines.module(name).DTYPES),
            "options": dict(engines.module(name).OPTIONS),
        }
        for name in engines.names()
    ]
    if arguments.json:
        _print_json(rows)
        return Exit.FINE
    for row in rows:
        missing = f"lacks {', '.join(row['missing'])}" if row["missing"] else "installed"
        print(f"{row['engine']:<14} {missing:<30} {', '.join(row['dtypes'])}")
        for key, value in row["options"].items():
            print(f"{'':<14} --option {row['engine']}.{key}={value!r}")
    return Exit.FINE


def _plans(arguments: argparse.Namespace) -> Exit:
    from harness import plan

    specs = [plan.read_spec(name) for name in plan.shipped()]
    if arguments.json:
        _print_json(specs)
        return Exit.FINE
    for spec in specs:
        print(f"{spec.name:<12} {spec.model}, {', '.join(spec.engine)}, {', '.join(spec.dtype)}")
    return Exit.FINE


def _explain(arguments: argparse.Namespace) -> Exit:
    from harness import metrics

    rows = [metrics.metric(arguments.metric)] if arguments.metric else list(metrics.METRICS)
    for row in rows:
        better = "" if row.direction == "none" else f", {row.direction} is better"
        print(f"{row.name} [{row.unit or 'count'}]{better}: {row.formula} (as {row.source})")
    return Exit.FINE


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
