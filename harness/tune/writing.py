"""The answer in the user's own terms: a plan file, and the command that serves the winner."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from harness import engines
from harness.records.tune import Asked, Candidate, Tune
from harness.tune.space import spec_table

_REPEATS = 5


def complete(tune: Tune) -> None:
    """Add plan and command to the answer, where there is a winner."""
    answer = tune.answer
    if answer is None or answer.winner is None:
        return
    one = tune.candidates[answer.winner]
    answer.plan = plan_text(tune.asked, one)
    answer.serve, answer.serve_reason = serve_command(tune.asked, one)


def plan_text(asked: Asked, one: Candidate) -> str:
    """A plan file that measures `one` at the asked lengths."""
    table = {**spec_table(asked, one), "name": "tuned", "repeats": _REPEATS}
    promise = f" under the SLO {asked.slo.name}" if asked.slo else ""
    head = f"# What `armbench tune` found best for {asked.objective}{promise}: {one.label}\n"
    return head + toml(table)


def toml(table: Mapping[str, Any]) -> str:
    """`table` as TOML: plain values and lists first, then its tables, two levels at most."""
    plain = [f"{key} = {_value(v)}" for key, v in table.items() if not isinstance(v, dict)]
    text = "\n".join(plain) + "\n"
    for key, inner in table.items():
        if isinstance(inner, dict):
            for name, values in inner.items():
                lines = [f"{k} = {_value(v)}" for k, v in values.items()]
                text += "\n".join([f"\n[{key}.{name}]", *lines]) + "\n"
    return text


def _value(value: Any) -> str:
    """A TOML value; strings, numbers and truths are written as JSON writes them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)


def serve_command(asked: Asked, one: Candidate) -> tuple[str | None, str | None]:
    """(command, None), or (None, why our server can't serve it)."""
    module = engines.module(one.engine)
    if not getattr(module, "serves", False):
        return None, f"our server does not drive engine {one.engine} yet"
    words: list[str] = ["armbench", "serve", "--model", asked.model, "--engine", one.engine]
    words += ["--dtype", one.dtype, "--threads", str(one.threads), "--slots", str(one.batch)]
    if one.instances > 1:
        words += ["--instances", str(one.instances)]
    if one.chunk is not None:
        words += ["--chunk", str(one.chunk)]
    if asked.placement != "compact":
        words += ["--placement", asked.placement]
    for key, value in sorted(one.options.items()):
        words += ["--option", f"{key}={_option(value)}"]
    return shlex.join(words), None


def _option(value: Any) -> str:
    return value if isinstance(value, str) else _value(value)
