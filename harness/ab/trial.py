"""One trial of one side: its command in a process group of its own, and the result it wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from msgspec import Struct

from harness import store
from harness.errors import ArmbenchError, Exit
from harness.parent import die_with_parent

_TAIL_BYTES = 4000
_GRACE_S = 5.0


class Ran(Struct, frozen=True):
    """A command that ended: its result file, how long it took, its exit code."""

    file: Path
    seconds: float
    exit: int


def run(
    words: Sequence[str],
    variables: dict[str, str],
    results: Path,
    *,
    timeout_s: float | None = None,
    cwd: Path | None = None,
) -> Ran:
    """Run a command that writes one result under `results`, in `cwd` or in that folder.

    An exit code of 6 (the run is not valid) counts as ended: the result says what is wrong. Raises
    ArmbenchError where the command can't start, fails, hangs, or writes no result.
    """
    results.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    code = finish(words, variables, cwd or results, timeout_s, fine=(Exit.FINE, Exit.INVALID))
    seconds = time.monotonic() - start
    file = newest(results)
    if file is None:
        raise ArmbenchError(
            f"{' '.join(words)[:200]} wrote no result below {results}",
            hint="let it write where {results} or ARMBENCH_RESULTS says",
        )
    return Ran(file, seconds, code)


def finish(
    words: Sequence[str],
    variables: dict[str, str],
    cwd: Path,
    timeout_s: float | None = None,
    *,
    fine: Collection[int] = (0,),
) -> int:
    """Run a command to its end in `cwd`; its exit code, one of `fine`.

    Raises ArmbenchError, with the last it said, where it ends otherwise, can't start, or hangs.
    """
    with _log() as log:
        code = _wait(words, variables, cwd, log, timeout_s)
        tail = _tail(log)
    if code not in fine:
        told = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise ArmbenchError(
            f"{' '.join(words)[:200]}: {told}: {tail[-800:] or 'it said nothing'}",
            hint="mend it, then --resume",
        )
    return code


@contextmanager
def _log() -> Iterator[int]:
    """A file for what the command says; a pipe that nobody reads would stop it."""
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def _wait(
    words: Sequence[str],
    variables: dict[str, str],
    cwd: Path,
    log: int,
    timeout_s: float | None,
) -> int:
    try:
        process = subprocess.Popen(
            list(words),
            cwd=cwd,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 (one thread runs here)
        )
    except OSError as error:
        raise ArmbenchError(f"{words[0]} can't be started: {error.strerror}") from error
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise ArmbenchError(
            f"{' '.join(words)[:200]} did not end within {timeout_s:.0f} s",
            hint="give it more time, or a smaller plan",
        ) from None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started, politely first.

    What it left running when it ended would disturb the next trial, of the other side maybe.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


def _tail(log: int) -> str:
    size = os.lseek(log, 0, os.SEEK_END)
    os.lseek(log, max(0, size - _TAIL_BYTES), os.SEEK_SET)
    return os.read(log, _TAIL_BYTES).decode(errors="replace").strip()


def newest(results: Path) -> Path | None:
    """The result file that was written last below `results`; None for none."""
    found = [
        p
        for p in results.rglob("*.json")
        if not p.name.startswith(".") and p.parent.name != store.CEILINGS
    ]
    return max(found, key=lambda p: p.stat().st_mtime_ns, default=None)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt, so that checkouts are removed when a job is cancelled.

    What follows the first signal is ignored: CI sends SIGINT and then SIGTERM, and a cleanup that
    is broken off leaves behind what it should take away.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
