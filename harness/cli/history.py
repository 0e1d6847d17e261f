"""`armbench history`: the runs of a machine over time, their steps, and labels for baselines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness.cli.output import detect_machine, print_json, results_folder
from harness.errors import ArmbenchError, Exit

_COMMIT = "of the code that was measured: neighbouring runs of one commit tell the noise margin"


def add(commands: Any) -> None:
    """Add the command."""
    top = commands.add_parser(
        "history",
        help="runs over time, with steps; labels for baselines",
        description="The runs of one machine over time: where a metric changed its level and "
        "stayed there. `history index` takes new results in, `history note REF` labels runs so "
        "that `armbench gate --baseline REF` finds them.",
    )
    _shared(top)
    top.add_argument("--metrics", metavar="M,M", help="default: the gated ones")
    top.add_argument("--plan", metavar="NAME", help="only runs of this plan")
    top.add_argument("--rules", metavar="FILE", help="margins (default: configs/gate.toml)")
    top.add_argument(
        "--check",
        action="store_true",
        help="exit 3 where the newest level of a metric is worse than the last improved one, or "
        "else the first",
    )
    top.set_defaults(handler=_list)
    parts = top.add_subparsers(metavar="")
    index = parts.add_parser("index", help="take in results that are not in the history yet")
    _shared(index)
    index.add_argument("--ref", metavar="REF", help="branch or label to note with those")
    index.add_argument("--commit", metavar="SHA", help=_COMMIT)
    index.set_defaults(handler=_index)
    note = parts.add_parser("note", help="label runs, as a baseline by name")
    note.add_argument("ref", metavar="REF", help="a branch, or any label")
    note.add_argument(
        "files", nargs="+", metavar="RESULT", help="results of this machine, folders, or latest"
    )
    _shared(note)
    note.add_argument("--commit", metavar="SHA", help=_COMMIT)
    note.set_defaults(handler=_note)


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument(
        "--machine", metavar="NAME", help="folder of the machine in it (default: this machine)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _machine(arguments: argparse.Namespace) -> str:
    """The folder's name of the machine. Raises ArmbenchError where it has no results."""
    from harness.machine.detect import machine_slug

    name: str = arguments.machine or machine_slug(detect_machine(None))
    root = results_folder(arguments)
    if not (root / name).is_dir():
        known = sorted(p.name for p in root.glob("*") if p.is_dir())
        raise ArmbenchError(
            f"there is no result of {name} in {root}",
            hint=f"known there: {', '.join(known)}; --machine" if known else "armbench run first",
        )
    return name


def _list(arguments: argparse.Namespace) -> Exit:
    from harness import history
    from harness.comparing import margin
    from harness.comparing import rules as all_rules
    from harness.records.comparison import Margin
    from harness.reports.history import history_sheet
    from harness.reports.reading import Reading
    from harness.reports.terminal import console, show_sheet

    rules = all_rules.read(Path(arguments.rules) if arguments.rules else None)
    root, machine = results_folder(arguments), _machine(arguments)
    with Reading() as reader:
        history.index(root, machine, reader=reader)
    kept = history.History(history.folder(root, machine))
    wanted = [m.strip() for m in (arguments.metrics or "").split(",") if m.strip()] or rules.gate
    entries = kept.aa(wanted, rules)

    def allowed(metric: str, key: str) -> Margin:
        return margin.of_metric(metric, rules, "separate", entries, key)

    every = kept.series(wanted, rules, allowed, plan=arguments.plan)
    if not every:
        raise ArmbenchError(
            f"no finished, valid run of {machine} tells {', '.join(wanted)}",
            hint="see `armbench show`, or name others with --metrics",
        )
    if arguments.json:
        print_json(every)
    else:
        show_sheet(history_sheet(every), console())
    regressed = any(one.newest == "regressed" for one in every)
    return Exit.REGRESSION if arguments.check and regressed else Exit.FINE


def _index(arguments: argparse.Namespace) -> Exit:
    from harness import history
    from harness.reports.reading import Reading

    machine = _machine(arguments)
    with Reading() as reader:
        added = history.index(
            results_folder(arguments),
            machine,
            ref=arguments.ref,
            commit=arguments.commit,
            reader=reader,
        )
    if arguments.json:
        print_json({"machine": machine, "added": added})
    else:
        print(f"{machine}: {added} run{'' if added == 1 else 's'} added")
    return Exit.FINE


def _note(arguments: argparse.Namespace) -> Exit:
    from harness import history, store
    from harness.comparing import samples
    from harness.reports.reading import Reading

    root, machine = results_folder(arguments), _machine(arguments)
    home, files = (root / machine).resolve(), []
    for name in arguments.files:
        for file in samples.files(store.find(name, root)):
            if not file.resolve().is_relative_to(home):
                raise ArmbenchError(
                    f"{file} is not in {root / machine}", hint="give --results and --machine"
                )
            files.append(file.resolve().relative_to(home).as_posix())
    with Reading() as reader:
        history.index(root, machine, reader=reader)
    history.note(history.folder(root, machine), arguments.ref, files, commit=arguments.commit)
    if arguments.json:
        print_json({"machine": machine, "ref": arguments.ref, "files": files})
    else:
        print(
            f"{machine}: {len(files)} run{'' if len(files) == 1 else 's'} noted as {arguments.ref}"
        )
    return Exit.FINE
