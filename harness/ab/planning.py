"""What an interleaved comparison would do, and one that was begun."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness.ab import schedule, sides
from harness.comparing.rules import Rules
from harness.errors import ArmbenchError
from harness.records.ab import AB_SCHEMA, AbSide, AbState

STATE = "state.json"


def plan(
    base: AbSide,
    head: AbSide,
    rules: Rules,
    *,
    seed: int = 1,
    least: int = schedule.LEAST_BLOCKS,
    most: int = schedule.MOST_BLOCKS,
    budget_s: float | None = None,
    repository: Path | None = None,
    setup: Sequence[str] = (),
) -> AbState:
    """The comparison that would be made; nothing is run or written.

    Both sides the same, for the noise margin, get one look after the `least` blocks: one that ends
    when it looks quiet enough would tell of less noise than there is.
    """
    if sides.same(base, head):
        most = least
    planned = schedule.looks(least, most)
    return AbState(
        schema=AB_SCHEMA,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=seed,
        a=base,
        b=head,
        order=schedule.order(planned[-1], seed),
        looks=planned,
        alpha=rules.alpha,
        rules=msgspec.to_builtins(rules),
        budget_s=budget_s,
        repository=str(repository.absolute()) if repository else None,
        cwd=str(Path.cwd()),
        setup=list(setup),
    )


def new_folder(where: Path, now: datetime.datetime) -> Path:
    """Where a comparison that begins `now` is kept, in the history folder `where`; not made."""
    return where / "ab" / now.strftime("%Y%m%dT%H%M%SZ")


def describe(state: AbState) -> list[str]:
    """What would run, in plain lines."""
    share = schedule.level(state.alpha, state.looks)
    budget = "no time budget" if state.budget_s is None else f"at most {state.budget_s:.0f} s"
    lines = [f"{len(state.order)} blocks of 4 trials at most, {budget}, seed {state.seed}"]
    for letter, side in (("A", state.a), ("B", state.b)):
        at = f" at {side.commit[:12]}" if side.commit else ""
        lines.append(
            f"{letter} = {side.name} ({side.kind} {side.text}{at}): {' '.join(side.command)}"
        )
    if state.setup:
        lines.append(f"once in each checkout: {shlex.join(state.setup)}")
    if "git" in (state.a.kind, state.b.kind):
        lines.append(f"checkouts run with the packages of {sys.prefix}")
    lines.append(f"looks after {', '.join(map(str, state.looks))} blocks, each at {share:.2%}")
    lines.append(f"order: {' '.join(state.order)}")
    if sides.same(state.a, state.b):
        lines.append("both sides are the same: an A/A comparison, kept for the noise margin")
    return lines


def rules_of(state: AbState) -> Rules:
    """The rules that the comparison was begun with."""
    return msgspec.convert(state.rules, Rules)


def load(folder: Path) -> AbState:
    """The comparison in `folder`. Raises ArmbenchError for one that can't be read or is newer."""
    path = folder / STATE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=AbState)
        rules_of(state)
    except OSError as error:
        raise ArmbenchError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ArmbenchError(f"{path} is no interleaved comparison: {error}") from error
    if state.schema > AB_SCHEMA:
        raise ArmbenchError(f"{path} has schema {state.schema}, this armbench knows {AB_SCHEMA}")
    return state
