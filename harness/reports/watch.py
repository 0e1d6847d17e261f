"""The table of a run that goes on: drawn again whenever its file changes, until the run has ended.

A result file is whole at every instant, so that reading it never disturbs the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from harness.errors import ArmbenchError
from harness.records.run import Result
from harness.reports import terminal

PAUSE_S = 0.5
Draw = Callable[[Path, Result], None]


def watch(
    find: Callable[[], Path],
    read: Callable[[Path], Result],
    draw: Draw,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Result | None:
    """The result as it was last drawn: finished, or when Ctrl-C came; None where none was drawn.

    `find` is asked again each time, so that it may go on to a newer file. Raises ArmbenchError
    where there is no result, or it can't be read when it is first looked at.
    """
    result, seen = None, None
    try:
        while result is None or not result.finished:
            path = find()
            state = _state(path)
            if state != seen or result is None:
                result, seen = _latest(read, path, result), state
                draw(path, result)
                continue
            sleep(PAUSE_S)
    except KeyboardInterrupt:
        pass  # the user has seen enough: the last table stays
    return result


def _state(path: Path) -> tuple[str, int, int] | None:
    """What shows that a file was replaced; None where it is gone."""
    try:
        told = path.stat()
    except OSError:
        return None
    return str(path), told.st_mtime_ns, told.st_ino


def _latest(read: Callable[[Path], Result], path: Path, before: Result | None) -> Result:
    try:
        return read(path)
    except ArmbenchError:
        if before is None:
            raise
        return before  # moved or removed under our eyes: what was drawn stays


@contextmanager
def screen() -> Iterator[Draw]:
    """How results are drawn: in place on a terminal, else one table after the other."""
    out = terminal.console()
    if not out.is_terminal:
        yield lambda path, result: out.print(_drawn(path, result))
        return
    with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
        yield lambda path, result: live.update(_drawn(path, result), refresh=True)


def _drawn(path: Path, result: Result) -> RenderableType:
    out = terminal.console()
    parts = list(terminal.result_parts(result, plain=not out.is_terminal))
    done, asked = len(result.trials), len(result.plan.order)
    state = "finished" if result.finished else f"{done} of {asked} trials, Ctrl-C ends the watch"
    return Group(*parts, Text(f"{path}: {state}"))
