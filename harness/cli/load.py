"""`armbench load`: offer load to an endpoint, and find the most that keeps a promise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli import load_flags
from harness.cli.load_flags import LOAD_FLAGS, flag
from harness.cli.output import add_output, conduct, detect_machine, print_json, results_folder
from harness.errors import ArmbenchError, Exit

if TYPE_CHECKING:
    from harness.endpoint_spec import EndpointSpec
    from harness.runner import Listener, Run

# Keys of harness.endpoint_run.EndpointSpec beside those of a load; texts are for --help.
TARGET_FLAGS: dict[str, str] = {
    "target": "base URL of the server, such as http://127.0.0.1:8000",
    "endpoint": "completions, chat or responses (default: completions)",
    "model": "the model's name there (default: the first that it serves)",
    "prompts": "how prompts are sent: ids, text, or auto (default): ids where they are taken",
    "body": "JSON members added to each request, such as '{\"cache_prompt\": false}'",
    "key_variable": "environment variable with the bearer key (default: OPENAI_API_KEY)",
    "ca_file": "certificates to check the server's against",
    "proxy": "HTTP proxy; those of the environment are ignored",
    "timeout": "time after which one request is given up (default: 10m)",
    "drain": "how long running requests may end after the window (default: 60s)",
    "senders": "client processes (default: one for each client CPU that is needed)",
    "client_cpus": "CPUs of the client, such as 0-1",
    "client_host": "say that this client runs on another machine than the server: its name",
    "metrics": "path of the server's Prometheus metrics (default: /metrics where it has them)",
    "repeats": "trials of each load (default: 1)",
    "until": "more trials until a metric's interval is narrow, such as tpot_p50_s=3%%",
    "budget": "time for the search of the capacity (default: 30m)",
    "seed": "seed of arrivals, lengths and prompts",
    "schedule": "replay a schedule written by --save-schedule",
    "name": "name of the result's plan",
    "server": "start this server by its recipe in configs/servers, such as llama-server",
    "binary": "the program of --server, where it is not on PATH",
    "threads": "compute threads of --server (default: one per physical core of a NUMA node)",
    "placement": "where its threads go: compact, spread, numa, CPUs such as 0-15, or a file",
    "slots": "requests that --server works on at once (default: the highest concurrency, or 8)",
    "context": "tokens of one request of --server, input and output (default: 4096)",
    "instance": "the cloud instance that serves, such as aws/c8g.4xlarge",
    "price": "what that whole instance costs, such as '0.638 USD/h'",
}
_WHOLE = ("senders", "repeats", "seed", "threads", "slots", "context")


def add(commands: Any) -> None:
    """Add the command."""
    load = commands.add_parser(
        "load",
        help="offer load to an OpenAI-compatible server",
        description="Offer load to any OpenAI-compatible server and measure it at the socket. "
        "With --slo and no rate, search the highest rate that keeps the promise.",
    )
    for key, text in {**TARGET_FLAGS, **LOAD_FLAGS}.items():
        load.add_argument(flag(key), dest=key, metavar="X", help=text)
    load.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="header of each request; results keep the name alone; may be repeated",
    )
    load.add_argument("--insecure", action="store_true", help="do not check certificates")
    load.add_argument(
        "--no-ignore-eos", action="store_true", help="let the model end its answers itself"
    )
    load.add_argument("--save-schedule", metavar="FILE", help="write the schedule as JSON lines")
    load.add_argument(
        "--self-check", action="store_true", help="measure the client's own ceiling, and stop"
    )
    load.add_argument("--dry-run", action="store_true", help="print the schedules, and stop")
    load.add_argument("--resume", metavar="FILE", help="finish the interrupted run in FILE")
    add_output(load)
    load.set_defaults(handler=_load)


def _spec(arguments: argparse.Namespace) -> EndpointSpec:
    from harness import endpoint_spec

    found: dict[str, Any] = {}
    for key in (*TARGET_FLAGS, *LOAD_FLAGS):
        text = getattr(arguments, key)
        if text is None:
            continue
        if key in LOAD_FLAGS:
            found[key] = load_flags.parse(key, text)
        else:
            found[key] = load_flags.whole(key, text) if key in _WHOLE else text
    if found.get("arrivals") == "closed":
        del found["arrivals"]
        found["load"] = "closed"
    return endpoint_spec.make_spec(
        found,
        headers=dict(map(_header, arguments.header)),
        verify=not arguments.insecure,
        ignore_eos=not arguments.no_ignore_eos,
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or "\n" in text or "\r" in text:
        raise ArmbenchError("--header is not a header", hint="write it 'NAME: VALUE'")
    return name.strip(), value.strip()


def _load(arguments: argparse.Namespace) -> Exit:
    from harness import endpoint_spec

    spec = _spec(arguments)
    if arguments.self_check:
        return _self_check(spec, as_json=arguments.json)
    if arguments.save_schedule:
        endpoint_spec.save_schedule(spec, Path(arguments.save_schedule))
        print(f"schedule: {arguments.save_schedule}", file=sys.stderr)
    if arguments.dry_run:
        return dry_run(spec, as_json=arguments.json)
    return execute(arguments, spec)


def _self_check(spec: EndpointSpec, *, as_json: bool) -> Exit:
    from harness import endpoint_run

    found = endpoint_run.self_check(spec, lambda text: print(text, file=sys.stderr))
    if as_json:
        print_json(found)
    else:
        from harness.reports.load import show_self_check
        from harness.reports.terminal import console

        show_self_check(found, console())
    return Exit.FINE


def dry_run(spec: EndpointSpec, *, as_json: bool) -> Exit:
    """Print the schedules; nothing is sent."""
    from harness import endpoint_spec

    schedules = endpoint_spec.schedules(spec)
    if as_json:
        print_json(schedules)
    else:
        from harness.reports.load import show_schedules
        from harness.reports.terminal import console

        show_schedules(schedules, console())
    return Exit.FINE


def execute(arguments: argparse.Namespace, spec: EndpointSpec) -> Exit:
    """Run what `spec` asks, and print its tables."""
    from harness import endpoint_run, managed_run

    def start(listener: Listener) -> Run:
        machine = detect_machine(spec.instance if spec.client_host is None else None)
        if arguments.resume:
            resume = managed_run.resume_managed if spec.server else endpoint_run.resume_run
            return resume(spec, Path(arguments.resume), machine, listener)
        begin = managed_run.begin_managed if spec.server else endpoint_run.begin_run
        return begin(spec, machine, results_folder(arguments), listener)

    return conduct(start, "the same flags and", as_json=arguments.json)
