"""`armbench import`, `export` and `sql`: results of other tools in, ours out, and queries."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.output import print_json, results_folder, target, write_output
from harness.errors import ArmbenchError, Exit


def add(commands: Any) -> None:
    """Add the commands."""
    take = commands.add_parser("import", help="read results of other tools")
    take.add_argument("files", nargs="+", metavar="FILE", help="llama-bench, vLLM, GuideLLM, …")
    take.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="FILE",
        help="what tells the machine: lscpu -J, a DMI dump, armbench machine --json; repeatable",
    )
    take.add_argument("--format", metavar="X", help="the tool, where the file does not show it")
    for name, text in (
        ("instance", "the cloud instance it ran on, such as aws/c8g.4xlarge"),
        ("price", "what that instance costs, such as '0.638 USD/h'"),
        ("model", "the model's name, where the file has none"),
        ("engine", "the engine, likewise"),
        ("dtype", "the dtype, likewise"),
        ("threads", "compute threads, likewise"),
        ("published", "where the figures were published: a URL"),
    ):
        take.add_argument(f"--{name}", metavar="X", help=text)
    _folder(take)
    take.set_defaults(handler=_import)
    give = commands.add_parser("export", help="write a result as another tool does")
    give.add_argument(
        "result", help="a result file, or latest; for Parquet also a folder, all of it"
    )
    give.add_argument("--format", required=True, metavar="X", help="vllm, csv, markdown, …")
    give.add_argument("-o", "--output", metavar="FILE", help="where to (default: standard output)")
    _folder(give)
    give.set_defaults(handler=_export)
    sql = commands.add_parser("sql", help="query all results: armbench sql 'SELECT …'")
    sql.add_argument("query", help="SQL of DuckDB over the table `results`")
    _folder(sql)
    sql.set_defaults(handler=_sql)


def _folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", metavar="DIR", help="results folder (default: results)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _import(arguments: argparse.Namespace) -> Exit:
    from harness import interchange
    from harness.cli.load_flags import whole

    told = interchange.Told(
        instance=arguments.instance,
        price=arguments.price,
        model=arguments.model,
        engine=arguments.engine,
        dtype=arguments.dtype,
        threads=None if arguments.threads is None else whole("threads", arguments.threads),
        published=arguments.published,
    )
    results = interchange.read(
        [Path(name) for name in arguments.files],
        beside_paths=[Path(name) for name in arguments.beside],
        form=arguments.format,
        told=told,
    )
    paths = interchange.save(results, results_folder(arguments))
    if arguments.json:
        print_json([str(path) for path in paths])
    else:
        for path in paths:
            print(path)
    return Exit.FINE


def _export(arguments: argparse.Namespace) -> Exit:
    from harness import binding, interchange, store
    from harness.interchange import database

    path = store.find(arguments.result, results_folder(arguments))
    if arguments.format == "parquet" and not arguments.output:
        raise ArmbenchError("Parquet goes to a file", hint="give -o FILE.parquet")
    if path.is_dir():
        if arguments.format != "parquet":
            raise ArmbenchError(f"{path} is a folder", hint="--format parquet takes all of it")
        rows = database.parquet_of_folder(path, target(arguments.output))
        print(f"{arguments.output}: {rows} rows", file=sys.stderr)
        return Exit.FINE
    result = store.load(path)
    binding.derive(result)
    if arguments.format == "parquet":
        rows = database.parquet([(path.name, result)], target(arguments.output))
        print(f"{arguments.output}: {rows} rows", file=sys.stderr)
        return Exit.FINE
    made = interchange.write(result, arguments.format)
    if arguments.output:
        write_output(made.text, arguments.output)
    else:
        sys.stdout.write(made.text)
    for text in made.left_out:
        print(f"left out: {text}", file=sys.stderr)
    return Exit.FINE


def _sql(arguments: argparse.Namespace) -> Exit:
    from harness.interchange import database

    answer = database.sql(arguments.query, results_folder(arguments))
    for text in answer.skipped:
        print(f"left out: {text}", file=sys.stderr)
    if arguments.json:
        names = _told_apart(answer.columns)
        print_json([dict(zip(names, row, strict=True)) for row in answer.rows])
        return Exit.FINE
    from harness.reports.sheet import MISSING, Column, Sheet
    from harness.reports.terminal import console, show_sheet

    rows = [[MISSING if cell is None else str(cell) for cell in row] for row in answer.rows]
    columns = [Column(label=name, right=False) for name in answer.columns]
    show_sheet(Sheet(title="", columns=columns, rows=rows), console())
    return Exit.FINE


def _told_apart(columns: list[str]) -> list[str]:
    """The names of `columns`, numbered where a query gives one twice: JSON has each only once."""
    names: list[str] = []
    for column in columns:
        name, number = column, 1
        while name in names or (number > 1 and name in columns):
            number += 1
            name = f"{column}_{number}"
        names.append(name)
    return names
