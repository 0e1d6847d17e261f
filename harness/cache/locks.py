"""Locks on cache entries (flock): one writer, or any number of users, across processes.

A lock ends with the process that holds it, however that ends; children do not inherit it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

FOLDER = "locks"
_used: dict[Path, IO[bytes]] = {}  # what this process uses, until it ends


def lock_file(path: Path) -> Path:
    """The lock of entry `path`, which is KIND/NAME below the cache's folder."""
    return path.parent.parent / FOLDER / path.parent.name / path.name


def _take(path: Path, operation: int) -> IO[bytes] | None:
    """The lock of `path`; None where `operation` does not wait and another process has it."""
    file = lock_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        opened = file.open("ab")
        try:
            fcntl.flock(opened, operation)
            if os.fstat(opened.fileno()).st_ino == file.stat().st_ino:
                return opened
        except BlockingIOError:
            opened.close()
            return None
        except FileNotFoundError:
            pass  # pruned after it was opened: take the one that comes after it
        opened.close()


@contextmanager
def writing(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """The sole right to write entry `path`; `on_wait` is called once where another has it."""
    if own := _used.pop(path, None):
        own.close()  # or this process would wait for itself
    opened = _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if opened is None:
        on_wait()
        opened = _take(path, fcntl.LOCK_EX)
    assert opened is not None
    with opened:
        yield


def use(path: Path) -> None:
    """Say that this process uses entry `path` from now until it ends, so that nobody prunes it.

    Waits where another process is writing it. Nothing happens in a cache that can't be written:
    nobody prunes it either.
    """
    try:
        if path not in _used and (opened := _take(path, fcntl.LOCK_SH)):
            _used[path] = opened
        os.utime(lock_file(path))
    except OSError:
        return


@atexit.register
def _let_go() -> None:
    """Close what `use` holds, before the interpreter finds it open and warns of each."""
    while _used:
        _used.popitem()[1].close()


def is_locked(path: Path) -> bool:
    """Whether a live process writes or uses entry `path`."""
    try:
        with lock_file(path).open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def removing(path: Path) -> Iterator[bool]:
    """Whether entry `path` may be removed in the block: nobody uses it, nor can begin to."""
    opened = None
    try:
        opened = _take(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield opened is not None
        if opened is not None and not path.exists():
            lock_file(path).unlink(missing_ok=True)
    finally:
        if opened is not None:
            opened.close()
