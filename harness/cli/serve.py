"""`armbench serve`: an OpenAI-compatible server in front of one of our engines."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from harness.cli.load_flags import flag, whole
from harness.cli.run import options_of
from harness.errors import Exit

# Keys of harness.serving.options.ServeOptions; a test holds this table to that class.
SERVE_FLAGS: dict[str, str] = {
    "model": "checkpoint folder, hub id, or a built-in shape with synthetic weights",
    "engine": "torch (default) or onnxruntime",
    "dtype": "float32 (default) or bfloat16",
    "threads": "compute threads (default: one per physical core of a NUMA node)",
    "instances": "engines on CPUs of their own, each with --threads, --slots and so on (default: "
    "1, or as many as --placement has); a request goes to the one with the least before it",
    "placement": "where threads go: compact, spread, numa, CPUs such as 0-15, or a file",
    "name": "what requests call the model (default: its own name)",
    "host": "address to listen on (default: 127.0.0.1); there is no authentication",
    "port": "port to listen on (default: 8000; 0 takes any that is free)",
    "slots": "sequences at once (default: 8)",
    "context": "tokens of one sequence, input and output (default: the model's, at most 4096)",
    "kv_tokens": "tokens that all sequences hold together (default: slots x context)",
    "chunk": "prompt tokens of one step at most (default: 128)",
    "max_waiting": "requests of one client that may wait; more get 429 (default: 256)",
    "drain_s": "seconds that running requests have on SIGTERM (default: 30)",
    "step_timeout_s": "seconds after which a step counts as hung (default: 300)",
}
_WHOLE = ("threads", "instances", "port", "slots", "context", "kv_tokens", "chunk", "max_waiting")
_SECONDS = ("drain_s", "step_timeout_s")


def add(commands: Any) -> None:
    """Add the command."""
    serve = commands.add_parser(
        "serve",
        help="serve a model as OpenAI's API does, with continuous batching",
        description="Serve completions, chat, models, health and Prometheus metrics in front of "
        "one pinned engine. Decoding is greedy. SIGTERM ends it after what runs.",
    )
    for key, text in SERVE_FLAGS.items():
        serve.add_argument(flag(key), dest=key, metavar="X", help=text)
    serve.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the engine, such as packed=false; may be repeated",
    )
    serve.add_argument("--json", action="store_true", help="say where it listens as JSON")
    serve.set_defaults(handler=_serve)


def _serve(arguments: argparse.Namespace) -> Exit:
    from harness.errors import ArmbenchError

    found: dict[str, Any] = {}
    for key in SERVE_FLAGS:
        text = getattr(arguments, key)
        if text is None:
            continue
        if key in _SECONDS:
            from harness.units import parse_duration

            found[key] = parse_duration(text)
        else:
            found[key] = whole(key, text) if key in _WHOLE else text
    if "model" not in found:
        raise ArmbenchError("no --model", hint="give a folder, or a shape such as qwen2.5-0.5b")
    engine = found.get("engine", "torch")
    pairs = [f"{engine}.{pair}" for pair in arguments.option]
    found["options"] = options_of(pairs, {}).get(engine, {})
    from harness.serving.options import Ready, ServeOptions
    from harness.serving.server import serve

    def announce(ready: Ready) -> None:
        if arguments.json:
            import msgspec

            sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        else:
            print(f"{ready.model} on {ready.engine} {ready.dtype}, CPUs {ready.cpus}: {ready.url}")
        sys.stdout.flush()

    return serve(ServeOptions(**found), announce, lambda text: print(text, file=sys.stderr))
